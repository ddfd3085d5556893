import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Table = list[list[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def document() -> Callable[[str], str]:
    return lambda path: (ROOT / path).read_text("utf-8")


@pytest.fixture(scope="session")
def section() -> Callable[[str, str], str]:
    """The text under one second-level heading of a document."""

    def find(text: str, heading: str) -> str:
        parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]

    return find


@pytest.fixture(scope="session")
def table() -> Callable[[str, str], Table]:
    """The rows of the table whose head begins with these words; backticks are taken off."""

    def find(text: str, head: str) -> Table:
        lines = text[text.index(f"| {head} |") :].splitlines()[2:]
        rows = []
        for line in lines:
            if not line.startswith("|"):
                break
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([cell.strip().strip("`") for cell in cells])
        return rows

    return find
