import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"node_modules", "build", "dist"}
# A fence may stand inside a list item; its indentation is the same at both ends.
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(
    r"`((?:src|tests|docs|vectors|models|examples|changelog\.d)/[^`\s]*?)(?:::\w+)?`"
)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
PLACEHOLDERS = re.compile(r"[*<{]|NNNN|ISSUE")


def _documents() -> list[Path]:
    found = []
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if not any(part in SKIPPED or part.startswith(".") for part in parts):
            found.append(path)
    return found


DOCUMENTS = _documents()
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def _anchors(text: str) -> set[str]:
    """Anchors as code hosts make them of headings."""
    anchors = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        anchors.add(words.replace(" ", "-"))
    return anchors


def _links(text: str) -> list[str]:
    return LINK.findall(CODE.sub("", FENCE.sub("", text)))


def _leads_somewhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if not target.exists() or ROOT not in [target, *target.parents]:
        return False
    return not anchor or anchor in _anchors(target.read_text("utf-8"))


@each_document
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    links = [link for link in _links(path.read_text("utf-8")) if not re.match(r"[a-z]+:", link)]
    assert [link for link in links if not _leads_somewhere(path, link)] == []


@each_document
def test_every_file_named_in_the_text_is_there(path: Path) -> None:
    text = FENCE.sub("", path.read_text("utf-8"))
    names = [name for name in NAMED_FILE.findall(text) if not PLACEHOLDERS.search(name)]
    assert [name for name in names if not (ROOT / name).exists()] == []


@each_document
def test_every_json_example_is_json(path: Path) -> None:
    for indent, language, content in FENCE.findall(path.read_text("utf-8")):
        if language == "json":
            json.loads(re.sub(rf"^{indent}", "", content, flags=re.MULTILINE))


@each_document
def test_no_document_has_an_unclosed_fence(path: Path) -> None:
    assert "```" not in FENCE.sub("", path.read_text("utf-8"))


def test_the_readme_sets_up_with_exactly_two_commands() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", readme)) == {"demo", "test"}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


def test_contributing_names_every_make_target_and_no_other() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    documented = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`make ([a-z][a-z-]*)`", contributing))
    assert named == documented | {"help"}


def test_architecture_lists_every_decision_record() -> None:
    records = {path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    for index in ("ARCHITECTURE.md", "docs/adr/README.md"):
        text = (ROOT / index).read_text("utf-8")
        assert set(re.findall(r"\d{4}-[a-z0-9-]+\.md", text)) >= records


def test_the_glossary_has_no_word_twice() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    words = re.findall(r"^- \*\*(.+?)\*\*:", glossary, re.MULTILINE)
    assert len(words) > 50
    assert sorted(words) == sorted(set(words))


def test_the_page_on_the_embedded_network_names_modules_that_are_there() -> None:
    text = (ROOT / "docs" / "internals" / "embedded-fiber.md").read_text("utf-8")
    modules = set(re.findall(r"`([a-z_]+\.py)`", text))
    package = ROOT / "src" / "infern" / "devnet" / "fiber"
    assert modules
    assert sorted(m for m in modules if not (package / m).exists()) == []
