"""Every abuse case has a test that is named after its number."""

import ast
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

Table = list[list[str]]

DOCUMENT = Path(__file__).parents[2] / "docs/abuse-cases.md"
ROW = re.compile(r"^\| (\d+) \|", re.MULTILINE)
CASES = [int(number) for number in ROW.findall(DOCUMENT.read_text("utf-8"))]
NOT_BUILT = {36: "a router", 40: "the free tier"}
NAME = re.compile(r"test_abuse_(\d\d)_[a-z]")


@pytest.fixture(scope="module")
def named(root: Path) -> dict[int, list[str]]:
    """Tests by the number of their case."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                match = NAME.match(node.name)
                if match is not None:
                    found[int(match[1])].append(f"{path.relative_to(root)}::{node.name}")
    return found


def test_the_document_lists_the_cases(
    document: Callable[[str], str], table: Callable[[str, str], Table]
) -> None:
    rows = table(document("docs/abuse-cases.md"), "# | somebody | outcome")
    assert [number for number, _, _ in rows] == [str(at + 1) for at in range(len(CASES))]
    assert len(CASES) >= 42
    said = {int(number) for number, _, outcome in rows if "which is not built" in outcome}
    assert said == set(NOT_BUILT)


def test_no_test_has_the_number_of_another_thing(named: dict[int, list[str]]) -> None:
    assert set(named) <= set(CASES) - set(NOT_BUILT)


@pytest.mark.parametrize("number", [n for n in CASES if n not in NOT_BUILT])
def test_each_case_has_a_test(named: dict[int, list[str]], number: int) -> None:
    assert named[number], f"no test_abuse_{number:02}_… for case {number}"
