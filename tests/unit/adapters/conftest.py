from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_sqlite(tmp_path: Path) -> Iterator[Callable[..., SqliteLedger]]:
    opened: list[SqliteLedger] = []

    def open_it(name: str = "ledger.sqlite3") -> SqliteLedger:
        opened.append(SqliteLedger(tmp_path / name))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()
