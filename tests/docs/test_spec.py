import ast
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path

import pytest

from infern.core.errors import CODES
from infern.core.f402 import client, server
from infern.core.f402.receipt import BODY_BYTES, MAGIC, Finish, Receipt, SellerIdentity
from infern.core.ledger import lock, payout
from infern.seller.config import SellerLimits
from infern.seller.hold_offers import Reason
from infern.testing.ledger_rows import a_receipt

Table = list[list[str]]
Section = Callable[[str, str], str]
FindTable = Callable[[str, str], Table]

RECEIPT = a_receipt(charged=0)


@pytest.fixture(scope="module")
def spec(document: Callable[[str], str]) -> str:
    return document("docs/f402-spec.md")


def test_the_error_table_is_the_codes(spec: str, section: Section, table: FindTable) -> None:
    rows = table(section(spec, "Errors"), "code | status | retry | money | meaning")
    expected = [
        [code, str(c.status), c.retry.value, c.money.value, c.meaning] for code, c in CODES.items()
    ]
    assert sorted(rows) == sorted(expected)


def test_codes_said_to_be_reserved_are_raised_by_nothing(
    spec: str, section: Section, root: Path
) -> None:
    text = section(spec, "Errors")
    reserved = text[text.index("Reserved") :].split("`")[1::2]
    assert reserved
    sources = "".join(
        path.read_text("utf-8")
        for path in (root / "src").rglob("*.py")
        if path.name != "errors.py" or path.parent.name != "core"
    )
    assert [code for code in reserved if f'"{code}"' in sources] == []


def _rows(transitions: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> Table:
    rows = []
    for state, edges in transitions.items():
        rows += [[state.value, event.value, target.value] for event, target in edges.items()]
        if not edges:
            rows.append([state.value, "", "final"])
    return rows


@pytest.mark.parametrize(
    ("heading", "transitions"),
    [
        ("The paying side", client.TRANSITIONS),
        ("Single use", server.TRANSITIONS),
        ("Hold mode", lock.TRANSITIONS),
        ("Payouts", payout.TRANSITIONS),
    ],
)
def test_the_state_tables_are_the_code(
    spec: str,
    section: Section,
    table: FindTable,
    heading: str,
    transitions: Mapping[StrEnum, Mapping[StrEnum, StrEnum]],
) -> None:
    rows = table(section(spec, heading), "state | event | next state")
    assert sorted(rows) == sorted(_rows(transitions))


def test_the_reasons_not_to_hold_are_the_code(
    spec: str, section: Section, table: FindTable
) -> None:
    rows = table(section(spec, "Hold mode"), "reason | the seller")
    assert sorted(name for name, _ in rows) == sorted(reason.value for reason in Reason)


def _with_all_bits_set(field: str, length: int) -> Receipt:
    """The receipt with every bit of one field set."""
    if field in {f.name for f in fields(SellerIdentity)}:
        filled = b"\xfe" * length
        return replace(RECEIPT, seller=replace(RECEIPT.seller, **{field: filled}))
    old = getattr(RECEIPT, field)
    if isinstance(old, bytes):
        return replace(RECEIPT, **{field: b"\xff" * length})  # type: ignore[arg-type]  # by name
    value = Finish.OTHER if field == "finish" else 256**length - 1
    return replace(RECEIPT, **{field: value})  # type: ignore[arg-type]  # by name


def test_the_receipt_table_is_the_struct(spec: str, section: Section, table: FindTable) -> None:
    rows = table(section(spec, "Receipts"), "field | offset | bytes | meaning")
    base = RECEIPT.pack()
    end = 0
    for field, offset_text, length_text, _ in rows:
        offset, length = int(offset_text), int(length_text)
        assert offset == end
        end = offset + length
        if field == "magic":
            assert base[offset:end] == MAGIC
            continue
        changed = _with_all_bits_set(field, length).pack()
        differing = [at for at in range(BODY_BYTES) if changed[at] != base[at]]
        assert differing == list(range(offset, end)), field
    assert end == BODY_BYTES


def test_the_finish_values_are_the_code(spec: str, section: Section) -> None:
    text = section(spec, "Receipts")
    line = text[text.index("- `finish`: ") :].split("\n- ")[0].removeprefix("- `finish`: ")
    listed = [entry.strip(" .\n").split(maxsplit=1) for entry in line.split(",")]
    assert [[number, " ".join(words.split())] for number, words in listed] == [
        [str(finish.value), finish.name.lower().replace("_", " ")] for finish in Finish
    ]


def test_the_limits_table_is_the_defaults(spec: str, section: Section, table: FindTable) -> None:
    rows = table(section(spec, "Limits"), "limit | default | meaning")
    defaults = SellerLimits()
    listed = {name: int(value) for name, value, _ in rows}
    assert listed == {f.name: getattr(defaults, f.name) for f in fields(SellerLimits)}


def _defined(path: Path) -> set[str]:
    """Names of the tests of a file: functions, and classes made or assigned."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.startswith(("test", "Test"))}


def test_each_guarantee_names_tests_that_are_there(
    spec: str, section: Section, table: FindTable, root: Path
) -> None:
    rows = table(section(spec, "Guarantees"), "guarantee | shown by")
    assert len({guarantee for guarantee, _ in rows}) == len(rows)
    for guarantee, shown_by in rows:
        named = [name.strip("` ").split("::") for name in shown_by.split(", ")]
        assert named, guarantee
        for path, test in named:
            assert test in _defined(root / path), f"{guarantee}: {path}::{test}"


def _check_names(source: str) -> list[str]:
    """Names of the checks in `core/f402/checks.py`, in the order they stand."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        arguments: list[ast.expr] = []
        if isinstance(node, ast.Tuple) and len(node.elts) == 3:
            arguments = node.elts if isinstance(node.elts[1], ast.Lambda) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            arguments = node.args if node.func.id == "_refuse" else []
        if arguments and isinstance(arguments[0], ast.Constant):
            found.append((node.lineno, str(arguments[0].value)))
    return [name for _, name in sorted(found)]


def test_the_checks_before_paying_are_the_code(
    spec: str, section: Section, table: FindTable, root: Path
) -> None:
    rows = table(section(spec, "Checks before paying"), "# | check | holds when")
    source = (root / "src" / "infern" / "core" / "f402" / "checks.py").read_text("utf-8")
    assert [number for number, _, _ in rows] == [str(n) for n in range(1, len(rows) + 1)]
    assert [name for _, name, _ in rows] == _check_names(source)
