"""What only the SQLite engine can do wrong: files, locks, commits, its queue and its thread."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger, schema
from infern.adapters.sqlite_ledger import engine as engine_module
from infern.adapters.sqlite_ledger.engine import WriterEngine
from infern.core.errors import ConfigError, LedgerError, QuotaExceeded

SCHEMA = "CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, y INTEGER CHECK (y >= 0)) STRICT"


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    made = WriterEngine(tmp_path / "t.sqlite3", SCHEMA, 1, {})
    yield made
    made.close()


class BrokenConnection:
    """A connection that fails where a test says; everything else is the real one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.broken: dict[str, int] = {}

    def execute(self, sql: str, *args: Any) -> Any:
        word = sql.split(maxsplit=1)[0]
        if self.broken.get(word, 0) > 0:
            self.broken[word] -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def insert(x: int, y: int = 0) -> Any:
    return lambda db: db.execute("INSERT INTO t VALUES (?,?)", (x, y))


def count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM t").fetchone()[0])


def test_the_file_is_the_owners_alone(open_sqlite: Any, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_sqlite()
    finally:
        os.umask(before)
    for name in ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_it_is_durable_at_every_commit(open_sqlite: Any) -> None:
    ledger = open_sqlite()
    connection = ledger._engine.batches.connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_second_owner_is_refused_here_and_in_another_process(
    open_sqlite: Any, tmp_path: Path
) -> None:
    ledger = open_sqlite()
    with pytest.raises(ConfigError, match="another process"):
        SqliteLedger(tmp_path / "ledger.sqlite3")
    program = (
        "import sys; from pathlib import Path\n"
        "from infern.adapters.sqlite_ledger import SqliteLedger\n"
        "from infern.core.errors import ConfigError\n"
        "try: SqliteLedger(Path(sys.argv[1])).close()\n"
        "except ConfigError: sys.exit(7)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "ledger.sqlite3")]
    assert subprocess.run(command, check=False).returncode == 7
    ledger.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_a_newer_ledger_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    database.execute("CREATE TABLE tabs_of_the_future (x)")
    database.commit()
    database.close()
    before = path.read_bytes()
    for _ in range(2):  # the refusal lets go of its lock
        with pytest.raises(ConfigError, match="newer"):
            SqliteLedger(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteLedger(path)
    assert path.read_bytes().startswith(b"this is not")
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteLedger(tmp_path / "absent" / "ledger.sqlite3")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteLedger(tmp_path / "folder")


async def test_the_ledger_closes_with_its_block(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "ledger.sqlite3") as ledger:
        assert (await ledger.books()).tabs == ()
    with pytest.raises(LedgerError):
        await ledger.books()


async def test_a_command_that_fails_is_undone_alone(engine: Any) -> None:
    def half(db: sqlite3.Connection) -> None:
        insert(100)(db)
        raise QuotaExceeded("no")

    def bug(db: sqlite3.Connection) -> None:
        insert(101)(db)
        raise KeyError("bug")

    gate = threading.Event()
    blocker = engine.submit(lambda _: gate.wait(10))
    good = [engine.submit(insert(n)) for n in range(5)]
    refused, broken = engine.submit(half), engine.submit(bug)
    twice, negative = engine.submit(insert(0)), engine.submit(insert(50, -1))
    last = engine.submit(insert(6))
    gate.set()
    for future in (blocker, *good, last):
        future.result(10)
    for future, kind in ((refused, QuotaExceeded), (broken, KeyError)):
        assert isinstance(future.exception(10), kind)
    for future in (twice, negative):
        error = future.exception(10)
        assert isinstance(error, LedgerError)
        assert error.code == "ledger_conflict"
    assert await engine.run(count) == 6


@pytest.mark.parametrize("word", ["BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"])
async def test_when_the_disk_fails_nobody_hears_of_success_and_nothing_is_booked(
    engine: Any, word: str
) -> None:
    await engine.run(insert(1))
    broken = engine.batches.connection = BrokenConnection(engine.batches.connection)
    gate = threading.Event()
    engine.submit(lambda _: gate.wait(10))
    futures = [engine.submit(insert(n)) for n in range(2, 6)]
    broken.broken[word] = 2
    gate.set()
    errors = [future.exception(10) for future in futures]
    assert all(isinstance(error, LedgerError) for error in errors)
    assert {error.code for error in errors} == {"ledger_unavailable"}
    broken.broken.clear()
    assert await engine.run(count) == 1
    await engine.run(insert(2))


async def test_a_disk_that_fails_within_a_command_refuses_it(engine: Any) -> None:
    broken = engine.batches.connection = BrokenConnection(engine.batches.connection)
    broken.broken["INSERT"] = 1
    with pytest.raises(LedgerError) as caught:
        await engine.run(insert(1))
    assert caught.value.code == "ledger_unavailable"
    await engine.run(insert(1))


async def test_a_rollback_that_fails_stops_all_bookings_until_it_works(engine: Any) -> None:
    """Whatever happens the thread lives: a caller that waits for ever holds money for ever."""
    broken = engine.batches.connection = BrokenConnection(engine.batches.connection)
    broken.broken.update(COMMIT=1, ROLLBACK=2)
    for _ in range(2):
        with pytest.raises(LedgerError):
            await engine.run(insert(1))
    with pytest.raises(LedgerError):
        await engine.run(insert(1))
    await engine.run(insert(1))
    assert await engine.run(count) == 1


async def test_a_cancelled_command_of_a_failed_batch_does_not_end_the_thread(engine: Any) -> None:
    broken = engine.batches.connection = BrokenConnection(engine.batches.connection)
    gate = threading.Event()
    engine.submit(lambda _: gate.wait(10))
    cancelled, other = engine.submit(insert(1)), engine.submit(insert(2))
    assert cancelled.cancel()
    broken.broken["BEGIN"] = 1
    gate.set()
    with pytest.raises(LedgerError):
        other.result(10)
    assert await engine.run(count) == 0


async def test_a_full_queue_refuses_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_QUEUE", 3)
    engine = WriterEngine(tmp_path / "t.sqlite3", SCHEMA, 1, {})
    gate, started = threading.Event(), threading.Event()

    def block(_: sqlite3.Connection) -> None:
        started.set()
        gate.wait(10)

    engine.submit(block)
    assert started.wait(10)
    futures = [engine.submit(insert(n)) for n in range(3)]
    with pytest.raises(LedgerError) as caught:
        await engine.run(insert(9))
    assert caught.value.code == "ledger_unavailable"
    assert caught.value.retry_after_s == 1
    gate.set()
    for future in futures:
        future.result(10)
    assert await engine.run(count) == 3
    engine.close()


async def test_a_batch_is_bounded(engine: Any) -> None:
    sizes: list[int] = []
    commit = engine._commit
    engine._commit = lambda batch: (sizes.append(len(batch)), commit(batch))
    gate = threading.Event()
    engine.submit(lambda _: gate.wait(10))
    futures = [engine.submit(insert(n)) for n in range(600)]
    gate.set()
    for future in futures:
        future.result(10)
    assert max(sizes) == engine_module.MAX_BATCH
    assert len(sizes) <= 5


async def test_closing_finishes_what_is_queued(engine: Any, tmp_path: Path) -> None:
    gate = threading.Event()
    engine.submit(lambda _: gate.wait(10))
    futures = [engine.submit(insert(n)) for n in range(50)]
    threading.Timer(0.01, gate.set).start()
    await asyncio.get_running_loop().run_in_executor(None, engine.close)
    assert all(future.done() and future.exception() is None for future in futures)
    with contextlib.closing(sqlite3.connect(tmp_path / "t.sqlite3")) as database:
        assert count(database) == 50


def test_threads_that_submit_while_it_closes_are_answered(tmp_path: Path) -> None:
    """Nobody may be queued behind the end, where no answer ever comes."""
    engine = WriterEngine(tmp_path / "t.sqlite3", SCHEMA, 1, {})
    booked, refused = [], []
    start = threading.Barrier(9)

    def work(first: int) -> None:
        start.wait()
        for n in range(first, first + 100):
            try:
                engine.submit(insert(n)).result(10)
            except LedgerError:
                refused.append(n)
            else:
                booked.append(n)

    threads = [threading.Thread(target=work, args=(1_000 * at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    engine.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(booked) + len(refused) == 800
    database = sqlite3.connect(tmp_path / "t.sqlite3")
    found = {row[0] for row in database.execute("SELECT x FROM t")}
    database.close()
    assert found == set(booked)
