"""Many writers at once, and another program that holds the ledger's file meanwhile.

No time is measured: the other program lets go when it is told to, and it is told once the ledger's
writer has met it.
"""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.adapters.sqlite_ledger import engine as engine_module
from infern.core.errors import ConfigError, LedgerError
from infern.core.ledger.books import violations
from infern.core.ledger.records import KeyRecord, RemainderPlan, TopupState
from infern.testing import ledger_rows as rows

WRITERS = 64
ROUNDS = 4
EACH = 5
PATIENCE_S = 60
HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
for line in sys.stdin:
    database.execute("BEGIN IMMEDIATE" if line == "hold\\n" else "ROLLBACK")
    print("done", flush=True)
"""


@dataclass
class Holder:
    """Another process with the same file."""

    process: "subprocess.Popen[str]"

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    SqliteLedger(path).close()
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield Holder(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


class Met(logging.Handler):
    """Hears that the writer found the file held."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "another program holds" in record.getMessage():
            self.event.set()

    def wait(self) -> None:
        assert self.event.wait(PATIENCE_S)
        self.event.clear()


@pytest.fixture
def met() -> Iterator[Met]:
    handler, log = Met(), logging.getLogger(engine_module.__name__)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer notices at once that the file is held, and waits as long as the test does."""
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(engine_module, "BUSY_TRIES", 100 * PATIENCE_S)


async def funded(ledger: SqliteLedger, name: str) -> KeyRecord:
    key = rows.a_key(name)
    await ledger.create_key(key)
    topup = rows.a_topup(name, key, 1_000)
    await ledger.add_topup(topup, open_limit=1)
    await ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=1)
    return key


async def spend(ledger: SqliteLedger, key: KeyRecord, name: str) -> None:
    for number in range(EACH):
        hold = rows.a_hold(f"{name}_{number}", 10, key=key)
        await ledger.hold(hold)
        await ledger.capture(
            hold.hold_id,
            rows.a_receipt(3),
            request_id=rows.request_id(hold.hold_id),
            remainder=RemainderPlan(),
        )


async def test_64_writers_never_hear_that_the_file_is_locked(
    path: Path, holder: Holder, met: Met, soon: None
) -> None:
    ledger = SqliteLedger(path)
    keys = [await funded(ledger, str(number)) for number in range(4)]
    problems: list[BaseException] = []

    def in_a_thread(name: str, key: KeyRecord) -> None:
        try:
            asyncio.run(spend(ledger, key, name))
        except BaseException as problem:  # noqa: BLE001 - told by the test's own thread
            problems.append(problem)

    threads: list[threading.Thread] = []
    tasks: list[asyncio.Task[None]] = []
    for at in range(ROUNDS):
        # Whoever begins now meets the file held, and those of earlier rounds are still at work.
        met.event.clear()
        await asyncio.to_thread(holder.tell, "hold")
        for number in range(WRITERS // ROUNDS // 2):
            name = f"{at}_{number}"
            key = keys[number % len(keys)]
            threads.append(threading.Thread(target=in_a_thread, args=(f"thread_{name}", key)))
            threads[-1].start()
            tasks.append(asyncio.create_task(spend(ledger, key, f"task_{name}")))
        await asyncio.to_thread(met.wait)
        holder.tell("let go")
        await ledger.tab(keys[0].tab_id)  # the writer has the file again
    await asyncio.gather(*tasks)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert problems == []
    books = await ledger.books()
    ledger.close()
    assert violations(books) == []
    assert sum(tab.spent for tab in books.tabs) == WRITERS * EACH * 3
    assert books.holds == ()


async def test_a_ledger_opens_when_the_other_program_lets_go(
    path: Path, holder: Holder, met: Met, soon: None
) -> None:
    holder.tell("hold")
    opening = asyncio.create_task(asyncio.to_thread(SqliteLedger, path))
    await asyncio.to_thread(met.wait)
    assert not opening.done()
    holder.tell("let go")
    async with await opening as ledger:
        assert (await ledger.books()).tabs == ()


async def test_books_are_read_while_the_file_is_held(path: Path, holder: Holder) -> None:
    async with SqliteLedger(path) as ledger:
        key = await funded(ledger, "k")
        holder.tell("hold")
        assert [tab.tab_id for tab in (await ledger.books()).tabs] == [key.tab_id]
        holder.tell("let go")


async def test_a_file_held_for_ever_is_refused_in_words_and_nothing_is_booked(
    path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_S", 0.001)
    ledger = SqliteLedger(path)
    key = await funded(ledger, "k")
    holder.tell("hold")
    with pytest.raises(LedgerError) as caught:
        await ledger.hold(rows.a_hold("h", 10, key=key))
    assert caught.value.code == "ledger_unavailable"
    assert "another program holds its file" in caught.value.message
    holder.tell("let go")
    assert (await ledger.tab(key.tab_id)).held == 0
    await spend(ledger, key, "later")
    ledger.close()
    holder.tell("hold")
    with pytest.raises(ConfigError, match="another program holds its file"):
        SqliteLedger(path)
    holder.tell("let go")
    SqliteLedger(path).close()


async def test_another_failure_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    class Broken:
        in_transaction = False

        def execute(self, sql: str) -> Any:
            nonlocal tried
            tried += 1
            raise sqlite3.OperationalError("disk I/O error")

    batches = engine_module.Batches(Broken())  # type: ignore[arg-type]  # stands in for SQLite
    ((_, problem),) = batches.commit([lambda _: None])
    assert isinstance(problem, LedgerError)
    assert "disk I/O error" in problem.message
    assert tried == 1
