import json
import re
from collections.abc import Callable
from pathlib import Path

from infern.core.wire.dialects import DIALECTS, QUESTIONS, DialectName
from infern.core.wire.rewrite import EarlyUsage
from infern.provider.look import LOOK_TIMEOUT_S

VECTORS = Path(__file__).parents[2] / "vectors" / "dialects"
NAMED = re.compile(rf"`((?:{'|'.join(DialectName)}): [^`]+)`")
PAGE = "docs/internals/model-servers.md"


def test_every_fixture_named_on_the_page_is_there(document: Callable[[str], str]) -> None:
    known = {
        f"{path.stem}: {answer['name']}"
        for path in VECTORS.glob("*.json")
        for answer in json.loads(path.read_text("utf-8"))["answers"]
    }
    # A name may be broken over two lines.
    named = set(NAMED.findall(document(PAGE).replace("\n", " ")))
    assert len(named) > 60
    assert sorted(named - known) == []


def test_the_questions_are_those_that_are_asked(document: Callable[[str], str]) -> None:
    asked = re.findall(r"^\| `(/[^`]+)` \|", document(PAGE), re.MULTILINE)
    assert asked == list(QUESTIONS)
    assert (len(QUESTIONS), LOOK_TIMEOUT_S) == (6, 3)


def test_the_table_of_the_quickstart_is_what_dialects_are(document: Callable[[str], str]) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$",
        document("docs/quickstart/provider.md"),
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(DialectName)
    for name, limit, leaver, too_long in rows:
        dialect = DIALECTS[DialectName(name)]
        assert tuple(re.findall(r"`(\w+)`", limit)) == dialect.token_limit.value
        assert ("as counted" in leaver) == (dialect.early_usage is not EarlyUsage.NONE)
        assert ("the agent refuses" in too_long) == dialect.cuts_prompts
    counts_one = {name for name, dialect in DIALECTS.items() if dialect.counts_one}
    assert counts_one == {DialectName.LLAMA_CPP, DialectName.OLLAMA, DialectName.LM_STUDIO}
