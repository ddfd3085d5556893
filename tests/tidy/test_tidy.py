"""Style as tests: what reviewers would otherwise say again and again.

Each rule is a function from the repository's files to findings. What is excused stands in
`EXCUSED`, one list for all rules; an excuse that is not needed any more fails, so the list can
only shrink.
"""

import ast
import io
import json
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from infern.core.errors import CODES

REPOSITORY = Path(__file__).parents[2]
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 500
MAX_TEXT_BYTES = 4 * 1024 * 1024

OLDER = "written before the rule"
EXCUSED: dict[tuple[str, str], str] = {
    ("one_word_for_each_thing", "tests/integration/client/test_infern_client.py:job"): OLDER,
    ("one_word_for_each_thing", "tests/integration/client/test_infern_client.py:jobs"): OLDER,
    ("stated_suppressions", "tests/integration/client/conftest.py"): OLDER,
    ("stated_suppressions", "tests/unit/core/fiber/test_rpc_numbers.py"): OLDER,
    ("stated_suppressions", "tests/unit/core/fiber/test_rpc_replay.py"): OLDER,
    ("stated_suppressions", "tests/unit/core/fiber/test_rpc_types.py"): OLDER,
}
"""(rule, place) and why. Only ever remove from here."""

VAGUE_MODULES = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})
FOREIGN_WORDS = {
    "buyer": "consumer",
    "customer": "consumer",
    "gateway": "router",
    "merchant": "seller",
    "vendor": "provider",
    "job": "request",
    "htlc": "tlc",
    "msat": "shannon",
    "satoshi": "shannon",
}
"""One word for each thing, as in the glossary. `host` is left to network addresses."""
MONEY_MODULES = (
    "src/infern/core/f402/",
    "src/infern/core/ledger/",
    "src/infern/core/market/",
    "src/infern/core/units.py",
)
# With a letter in brackets or escaped, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X])\b")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:wor[k]|roo[t]|hom[e]/\w+)(?![\w-])")
REGISTRY = re.compile(
    r"pyp[i]\.org|pythonhoste[d]\.org|registry\.(?:npmj[s]\.org|yarnpk[g]\.com)"
    r"|(?:static|index)\.crate[s]\.io|(?:proxy|sum)\.golan[g]\.org"
)
SUPPRESSION = re.compile(
    r"#\s*(?P<what>(ruff:\s*)?noqa|type:\s*ignore|pragma:\s*no cover|fmt:\s*(?:off|skip))"
    r"(?P<codes>:\s*[A-Z]+[0-9]+(\s*,\s*[A-Z]+[0-9]+)*|\[[a-z, -]+\])?(?P<rest>.*)"
)
ERROR_ROW = re.compile(
    r"^\| `(?P<code>[a-z_]+)` \| (?P<status>[0-9]{3}) "
    r"\| `(?:never|same_credential|new_challenge)` \|",
    re.MULTILINE,
)
TASK = re.compile(r"(.*\.)?ensure_future|create_task|(asyncio|.*loop|.*loop\(\))\.create_task")


@dataclass(frozen=True)
class Finding:
    """A place where a rule is broken; `where` is a path, with a name when the rule has one."""

    where: str
    message: str


Rule = Callable[[dict[str, str]], Iterator[Finding]]


@cache
def repository() -> dict[str, str]:
    """Every text file that is tracked or could be, by its path."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        timeout=60,
    )
    if listed.returncode:
        pytest.fail(f"git does not list the repository's files: {listed.stderr.decode()}")
    files = {}
    for name in sorted(listed.stdout.decode().split("\0")):
        path = REPOSITORY / name
        if name and path.is_file() and path.stat().st_size <= MAX_TEXT_BYTES:
            try:
                files[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return files


def python(files: dict[str, str]) -> Iterator[tuple[str, ast.Module]]:
    """The Python sources, parsed."""
    for name, text in files.items():
        if name.endswith(".py"):
            yield name, _parse(text)


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def short_functions(files: dict[str, str]) -> Iterator[Finding]:
    """A function has at most 70 lines: it fits on a screen and does one thing."""
    for name, tree in python(files):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield Finding(f"{name}:{node.name}", f"{lines} lines")


def short_modules(files: dict[str, str]) -> Iterator[Finding]:
    """A module has at most 500 lines."""
    for name, text in files.items():
        if name.endswith(".py") and (lines := text.count("\n")) > MAX_MODULE_LINES:
            yield Finding(name, f"{lines} lines")


def docstrings(files: dict[str, str]) -> Iterator[Finding]:
    """What others import says what it is for."""
    for name, tree in python(files):
        if name.startswith("src/infern/"):
            if not ast.get_docstring(tree) and not name.endswith("/py.typed"):
                yield Finding(name, "the module has no docstring")
            yield from _undocumented(name, tree)


def _undocumented(name: str, parent: ast.Module | ast.ClassDef) -> Iterator[Finding]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_") or _is_overload(node):
                continue
            if not ast.get_docstring(node):
                yield Finding(f"{name}:{node.name}", "no docstring")
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(name, node)


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    return bool(marks & {"overload", "setter", "override"})


def module_names(files: dict[str, str]) -> Iterator[Finding]:
    """A module's name says what is in it."""
    for name in files:
        parts = Path(name).with_suffix("").parts
        if name.endswith(".py") and (vague := VAGUE_MODULES & set(parts)):
            yield Finding(name, f"{min(vague)} names nothing")


def one_word_for_each_thing(files: dict[str, str]) -> Iterator[Finding]:
    """Names we give keep to the glossary; wire names live in strings."""
    for name, tree in python(files):
        for identifier in sorted(_identifiers(tree) | {Path(name).stem}):
            for word in _words(identifier):
                better = FOREIGN_WORDS.get(word) or FOREIGN_WORDS.get(word.removesuffix("s"))
                if better:
                    yield Finding(f"{name}:{identifier}", f"say {better}, not {word}")


def _identifiers(tree: ast.Module) -> set[str]:
    """Names that this module makes, as opposed to those it uses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            found.add(node.asname)
    return found


def _words(identifier: str) -> list[str]:
    # HTTP calls two statuses so; they are no router of ours.
    ours = re.sub(r"(?i)bad_?gateway|gateway_?timeout", "", identifier)
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", ours)
    return [part.lower() for part in parts]


def integer_money(files: dict[str, str]) -> Iterator[Finding]:
    """Near money there is no float: no literal, no conversion, no true division."""
    for name, tree in python(files):
        if not name.startswith(MONEY_MODULES):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
                yield Finding(name, f"line {node.lineno}: {node.value} is a float")
            elif isinstance(node, ast.Name) and node.id in {"float", "Decimal"}:
                yield Finding(name, f"line {node.lineno}: {node.id}")
            elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
                yield Finding(name, f"line {node.lineno}: / makes a float; name the rounding")


def structured_tasks(files: dict[str, str]) -> Iterator[Finding]:
    """A task has somebody who keeps it, waits for it and hears of its failure."""
    for name, tree in python(files):
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) or (
                isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_"
            ):
                call = node.value
                if isinstance(call, ast.Call) and TASK.fullmatch(ast.unparse(call.func)):
                    yield Finding(name, f"line {node.lineno}: starts a task nobody owns")


def no_print(files: dict[str, str]) -> Iterator[Finding]:
    """Only the command line writes to standard output."""
    for name, tree in python(files):
        if name.startswith("src/infern/") and not name.startswith("src/infern/cli/"):
            for call, called in _calls(tree):
                if called == "print" and isinstance(call.func, ast.Name):
                    yield Finding(name, f"line {call.lineno}: print")


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node, node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node, node.func.attr


def no_machine(files: dict[str, str]) -> Iterator[Finding]:
    """A file names no path of the machine it was written on and no registry's address."""
    for name, text in files.items():
        yield from _occurrences(name, text, MACHINE_PATH)
        yield from _occurrences(name, text, REGISTRY)


def finished(files: dict[str, str]) -> Iterator[Finding]:
    """Work that is left to do is an issue, not a comment."""
    for name, text in files.items():
        yield from _occurrences(name, text, UNFINISHED)


def _occurrences(name: str, text: str, pattern: re.Pattern[str]) -> Iterator[Finding]:
    for found in pattern.finditer(text):
        yield Finding(name, f"line {text.count(chr(10), 0, found.start()) + 1}: {found[0]}")


def stated_suppressions(files: dict[str, str]) -> Iterator[Finding]:
    """Whoever silences a tool says which rule and why, there or on the line above."""
    for name, text in files.items():
        if not name.endswith(".py"):
            continue
        lines = text.splitlines()
        for number, comment in _comments(text):
            found = SUPPRESSION.search(comment)
            if found is None or found["what"].startswith("fmt"):
                continue
            if found["codes"] is None and "no cover" not in found["what"]:
                yield Finding(name, f"line {number}: {found['what']} without a code")
            above = lines[number - 2].strip() if number > 1 else ""
            said = re.search(r"\w{2}", found["rest"]) or (
                above.startswith("#") and not SUPPRESSION.search(above)
            )
            if not said:
                yield Finding(name, f"line {number}: {found['what']} without a reason")


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def locks(files: dict[str, str]) -> Iterator[Finding]:
    """A lock pins by hash and does not say where to download from."""
    for name, text in files.items():
        if name.startswith("requirements/") and name.endswith(".lock"):
            yield from _requirements_lock(name, text)
        elif name.endswith("package-lock.json"):
            yield from _npm_lock(name, text)


def _requirements_lock(name: str, text: str) -> Iterator[Finding]:
    if "://" in text:
        yield Finding(name, "has an address")
    for block in re.split(r"\n(?=\S)", text):
        pinned = re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", block)
        if pinned and "--hash=sha256:" not in block:
            yield Finding(name, f"{pinned[0]} has no hash")
        if not pinned and block.strip() and not block.startswith("#"):
            yield Finding(name, f"not a pinned requirement: {block.splitlines()[0]}")


def _npm_lock(name: str, text: str) -> Iterator[Finding]:
    for package, entry in json.loads(text)["packages"].items():
        if "://" in entry.get("resolved", ""):
            yield Finding(name, f"{package} has an address")
        if package and not entry.get("link") and "integrity" not in entry:
            yield Finding(name, f"{package} has no hash")


def documented_errors(files: dict[str, str]) -> Iterator[Finding]:
    """Every error code is in the specification with its status, and no other is."""
    text = files.get("docs/f402-spec.md")
    if text is None:
        yield Finding("docs/f402-spec.md", "the specification is not there")
        return
    rows = {row["code"]: int(row["status"]) for row in ERROR_ROW.finditer(text)}
    if not rows:
        yield Finding("docs/f402-spec.md", "no table with rows like: | `code` | 402 | `never` |")
    for code, spec in CODES.items():
        if rows.get(code, spec.status) != spec.status:
            yield Finding("docs/f402-spec.md", f"{code} is {spec.status}, not {rows[code]}")
    for code in sorted(CODES.keys() ^ rows.keys()):
        yield Finding("docs/f402-spec.md", f"{code} is only in {'CODES' * (code in CODES) or 'it'}")


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        short_functions,
        short_modules,
        docstrings,
        module_names,
        one_word_for_each_thing,
        integer_money,
        structured_tasks,
        no_print,
        no_machine,
        finished,
        stated_suppressions,
        locks,
        documented_errors,
    )
}


@cache
def findings(rule: str) -> tuple[Finding, ...]:
    return tuple(RULES[rule](repository()))


@pytest.mark.parametrize("rule", RULES)
def test_repository_keeps_the_rule(rule: str) -> None:
    found = [f for f in findings(rule) if (rule, f.where) not in EXCUSED]
    assert not found, "\n" + "\n".join(f"{f.where}: {f.message}" for f in found)


def test_excuses_are_needed_and_say_why() -> None:
    needed = {(rule, finding.where) for rule in RULES for finding in findings(rule)}
    stale = sorted(EXCUSED.keys() - needed)
    assert not stale, "remove these from EXCUSED: they are not needed any more"
    assert all(EXCUSED.values())


LONG = "def f():\n" + "    x = 1\n" * 70
SPEC = "".join(f"| `{code}` | {c.status} | `{c.retry}` | x |\n" for code, c in CODES.items())
LOCK = "requirements/dev.lock"
NPM = '{"packages": {"": {}, "node_modules/a": %s}}'
CASES: list[tuple[str, str, str, int]] = [
    ("short_functions", "a.py", LONG, 1),
    ("short_functions", "a.py", LONG.replace("    x = 1\n", "", 1), 0),
    ("short_functions", "a.py", f"class A:\n    async {LONG.replace('    x', '        x')}", 1),
    ("short_modules", "a.py", "x = 1\n" * 501, 1),
    ("short_modules", "a.py", "x = 1\n" * 500, 0),
    ("short_modules", "a.md", "x\n" * 501, 0),
    ("docstrings", "src/infern/a.py", "x = 1\n", 1),
    ("docstrings", "src/infern/a.py", '"""A."""\ndef f(): ...\nclass A:\n    def g(self): ...', 3),
    ("docstrings", "src/infern/a.py", '"""A."""\ndef _f(): ...\n@overload\ndef g(): ...', 0),
    ("docstrings", "tests/a.py", "def f(): ...", 0),
    ("module_names", "src/infern/utils.py", "", 1),
    ("module_names", "src/infern/common/a.py", "", 1),
    ("module_names", "src/infern/utilisation.py", "", 0),
    ("one_word_for_each_thing", "a.py", "def pay(buyer_id): job = 1", 2),
    ("one_word_for_each_thing", "a.py", "class HTLCState: pass\nself.openJobs = 1", 2),
    ("one_word_for_each_thing", "a.py", "x = a.job\nhost = 'htlc'\njobless = 1", 0),
    ("one_word_for_each_thing", "gateway.py", "", 1),
    ("one_word_for_each_thing", "a.py", "def is_bad_gateway(): ...", 0),
    ("integer_money", "src/infern/core/units.py", "x = 1.5\ny = float(x)\nz = x / y\nz /= 2", 4),
    ("integer_money", "src/infern/core/ledger/a.py", "x = 1e6", 1),
    ("integer_money", "src/infern/core/f402/a.py", "x = 3 // 2\ny = '1.5'", 0),
    ("integer_money", "src/infern/seller/a.py", "x = 1.5", 0),
    ("structured_tasks", "a.py", "asyncio.create_task(f())\nloop.ensure_future(f())", 2),
    ("structured_tasks", "a.py", "_ = create_task(f())\nget_running_loop().create_task(f())", 2),
    ("structured_tasks", "a.py", "t = asyncio.create_task(f())\ngroup.create_task(f())", 0),
    ("no_print", "src/infern/seller/a.py", "print(1)", 1),
    ("no_print", "src/infern/cli/a.py", "print(1)", 0),
    ("no_print", "src/infern/seller/a.py", "document.print(1)", 0),
    ("no_machine", "a.md", "see \x2fwork/main\nor \x2fhome/me/x\nor (\x2froot)", 3),
    ("no_machine", "a.md", "GET /works, /v1/work, ~/work, /homepage, a/home/b", 0),
    ("no_machine", "a.lock", "https://files.pythonhosted\x2eorg/x", 1),
    ("finished", "a.md", "\x54ODO: more\n\x46IXME\n# \x58XX", 3),
    ("finished", "a.md", "todo lists, XXXL", 0),
    ("stated_suppressions", "a.py", "x = 1  # noqa\n", 2),
    ("stated_suppressions", "a.py", "x = 1  # noqa: S101\n", 1),
    ("stated_suppressions", "a.py", "x = 1  # noqa: S101, E501 - said\n", 0),
    ("stated_suppressions", "a.py", "# Because.\nx = 1  # type: ignore[arg-type]\n", 0),
    ("stated_suppressions", "a.py", "x = 1  # type: ignore\n", 2),
    ("stated_suppressions", "a.py", "y = 1\nx = 1  # pragma: no cover\n", 1),
    ("stated_suppressions", "a.py", "x = '# noqa'  # an ordinary comment\n", 0),
    ("locks", LOCK, "a==1 \\\n    --hash=sha256:00\nb[c]==2 \\\n    --hash=sha256:00\n", 0),
    ("locks", LOCK, "a==1\n", 1),
    ("locks", LOCK, "a @ https://x/y\n", 2),
    ("locks", "x/package-lock.json", NPM % '{"integrity": "sha512-x"}', 0),
    ("locks", "x/package-lock.json", NPM % '{"resolved": "https://x/a.tgz"}', 2),
    ("documented_errors", "docs/f402-spec.md", SPEC, 0),
    ("documented_errors", "README.md", "", 1),
    ("documented_errors", "docs/f402-spec.md", "nothing", 1 + len(CODES)),
    ("documented_errors", "docs/f402-spec.md", SPEC.replace("| 425 |", "| 402 |"), 1),
    ("documented_errors", "docs/f402-spec.md", SPEC + "| `made_up` | 400 | `never` |\n", 1),
]


@pytest.mark.parametrize(("rule", "name", "text", "count"), CASES)
def test_rules_find_what_they_are_for(rule: str, name: str, text: str, count: int) -> None:
    assert len(list(RULES[rule]({name: text}))) == count


def test_every_rule_has_a_case_that_breaks_it() -> None:
    assert {rule for rule, _, _, count in CASES if count} == RULES.keys()
