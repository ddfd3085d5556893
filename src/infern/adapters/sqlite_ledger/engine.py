"""One writer thread over one SQLite file, committing many commands at once.

A command is a function of the connection. Each runs inside its own savepoint, so that one that
fails takes nothing else with it; the whole batch is then committed with one fsync and only then
do callers hear of success. Nobody else may write: the file is locked for the process.

Source: SQLite documentation on WAL and `synchronous=FULL` (durable across power loss).
"""

import asyncio
import contextlib
import fcntl
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, Final, Protocol, TypeVar

from infern.core.errors import ConfigError, InfernError, LedgerError

T = TypeVar("T")
Command = Callable[[sqlite3.Connection], T]
Outcome = tuple[Any, BaseException | None]
"""What a command returned, or why it did nothing."""
Answer = Callable[[Any, BaseException | None], None]
"""Takes a command's outcome, in the writer's thread, once it is durable or refused."""

MAX_QUEUE: Final = 10_000
"""Commands waiting at once; above it callers are refused, nothing is booked."""
MAX_BATCH: Final = 256
"""Commands per commit."""
BUSY_TIMEOUT_S: Final = 5
BUSY_TRIES: Final = 6
"""Another program may hold the file for a moment: a backup, or somebody who looks into it. So often
it is waited for before a batch is refused."""
_log = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs the ledger's commands, each a transaction of its own."""

    async def run(self, command: Command[T]) -> T:
        """Run a command and wait until it is durable; as `WriterEngine.run`."""
        ...

    async def read(self, query: Command[T]) -> T:
        """Run a query over everything committed; as `WriterEngine.read`.

        An engine without threads may run it as a command.
        """
        ...

    def close(self) -> None:
        """Finish what is queued, then close. Idempotent."""
        ...


class Batches:
    """Runs batches of commands: each batch is one commit, each command one savepoint in it.

    Args:
        connection: In autocommit mode; nobody else writes through it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def commit(self, commands: Sequence[Command[Any]]) -> list[Outcome]:
        """Run and commit a batch; the outcomes in order. A batch that fails did nothing."""
        outcomes: list[Outcome] = []
        try:
            patiently(lambda: self.connection.execute("BEGIN IMMEDIATE"))
            for command in commands:
                outcomes.append(self._one(command))
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            _log.exception("the ledger could not commit")
            self._rollback()
            failure = LedgerError(f"the ledger could not commit: {_why(error)}")
            return [(None, failure) for _ in commands]
        return outcomes

    def _one(self, command: Command[Any]) -> Outcome:
        self.connection.execute("SAVEPOINT command")
        try:
            result = command(self.connection)
        except InfernError as refusal:
            self._undo()
            return None, refusal
        except sqlite3.IntegrityError as contradiction:
            self._undo()
            return None, LedgerError(f"refused: {contradiction}", code="ledger_conflict")
        except sqlite3.Error as error:
            # A full disk may have ended the whole transaction; then undoing fails and so does
            # the batch, of which nothing was booked.
            self._undo()
            return None, LedgerError(f"the ledger could not book this: {error}")
        except Exception as bug:  # noqa: BLE001 - a broken command must not end the writer
            self._undo()
            return None, bug
        self.connection.execute("RELEASE command")
        return result, None

    def _undo(self) -> None:
        self.connection.execute("ROLLBACK TO command")
        self.connection.execute("RELEASE command")

    def _rollback(self) -> None:
        # A disk that fails here too leaves the transaction open: every later batch is then refused
        # until a rollback works. The thread must outlive it, or callers would wait for ever.
        with contextlib.suppress(sqlite3.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


def patiently(begin: Callable[[], object]) -> None:
    """Begin what needs the file to itself; wait for another program that holds it.

    Raises:
        sqlite3.Error: It failed otherwise, or the file was held for too long.
    """
    for tried in range(1, BUSY_TRIES):
        try:
            begin()
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            if tried == 1:
                _log.warning("another program holds the ledger's file; waiting for it")
        else:
            return
    begin()


def _is_busy(error: Exception) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF == sqlite3.SQLITE_BUSY  # the other bits say how


def _why(error: Exception) -> str:
    return "another program holds its file" if _is_busy(error) else str(error)


class WriterEngine:
    """Runs commands one after another in a thread of its own; see the module's first lines.

    Args:
        path: The database file; its parent exists.
        schema: SQL that makes the tables when they are absent.
        version: Version of the schema.
        migrations: By version, SQL that prepares an older file for `schema`.

    Raises:
        ConfigError: Another process has the ledger open, the file is not usable, or a newer
            version made it; it is left as it was.
    """

    def __init__(
        self, path: Path, schema: str, version: int, migrations: Mapping[int, str]
    ) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"
        self._lock_file = _lock(path)
        try:
            self.batches = Batches(_open(path, schema, version, migrations))
        except BaseException as error:
            self._lock_file.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise ConfigError(
                    f"the ledger {path.name} cannot be opened: {_why(error)}"
                ) from error
            raise
        # Between the look at `_closed` and the put nobody may close, or a command would be
        # queued behind the end and its caller would wait for ever.
        self._submitting = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Command[Any], Answer] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="infern-ledger", daemon=True)
        self._thread.start()

    async def run(self, command: Command[T]) -> T:
        """Run a command and wait until it is durable.

        Cancelling the wait does not stop the command.

        Raises:
            LedgerError: `ledger_unavailable`; the command had no effect.
            InfernError: Whatever the command itself refused with; it had no effect.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        # Not a future of the writer's that is wrapped and shielded: that made five objects and two
        # hops of each command, a third of what a booking cost.
        self._put(
            command,
            lambda result, problem: _tell(loop, answered, (result, problem)),
        )
        result, problem = await answered
        if problem is not None:
            raise problem
        booked: T = result
        return booked

    async def read(self, query: Command[T]) -> T:
        """Run a query over a snapshot of everything committed; it keeps no command waiting.

        For queries over the whole ledger, which would stop the writer for as long as they take.

        Raises:
            LedgerError: `ledger_unavailable`.
        """
        if self._closed:
            raise LedgerError("the ledger is closed")
        return await asyncio.to_thread(self._snapshot, query)

    def _snapshot(self, query: Command[T]) -> T:
        try:
            with contextlib.closing(
                sqlite3.connect(self._uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
            ) as connection:
                connection.execute("BEGIN")
                return query(connection)
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger could not be read: {error}") from error

    def submit(self, command: Command[T]) -> "Future[T]":
        """Queue a command from any thread. Cancelling the future does not stop the command."""
        future: Future[T] = Future()

        def answer(result: Any, problem: BaseException | None) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)

        self._put(command, answer)
        return future

    def _put(self, command: Command[Any], answer: Answer) -> None:
        with self._submitting:
            if self._closed:
                raise LedgerError("the ledger is closed")
            if self._queue.qsize() >= MAX_QUEUE:
                raise LedgerError("the ledger is overloaded; try again", retry_after_s=1)
            self._queue.put((command, answer))

    def close(self) -> None:
        """Finish what is queued, then close. Idempotent."""
        with self._submitting:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()
        self.batches.connection.close()
        self._lock_file.close()

    def _run(self) -> None:
        open_for_business = True
        while open_for_business:
            batch = [self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            live = [entry for entry in batch if entry is not None]
            open_for_business = len(live) == len(batch)
            if live:
                self._commit(live)

    def _commit(self, batch: list[tuple[Command[Any], Answer]]) -> None:
        outcomes = self.batches.commit([command for command, _ in batch])
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            answer(*outcome)


def _tell(
    loop: asyncio.AbstractEventLoop,
    answered: "asyncio.Future[Outcome]",
    outcome: Outcome,
) -> None:
    """Answer a caller in its own loop, if both are still there."""

    def settle() -> None:
        if not answered.done():
            answered.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # its loop has ended
        loop.call_soon_threadsafe(settle)


def _lock(path: Path) -> IO[bytes]:
    try:
        handle = path.with_suffix(path.suffix + ".lock").open("ab")
    except OSError as error:
        raise ConfigError(f"the ledger {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise ConfigError(
            f"another process has the ledger {path.name} open; one seller owns one ledger"
        ) from None
    return handle


def _open(
    path: Path, schema: str, version: int, migrations: Mapping[int, str]
) -> sqlite3.Connection:
    path.touch(mode=0o600, exist_ok=True)
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
    )
    try:
        prepare(connection, schema, version, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(
    connection: sqlite3.Connection, schema: str, version: int, migrations: Mapping[int, str]
) -> None:
    """Make a new database's tables, turn an older one into ours, or check that it is ours.

    Raises:
        ConfigError: A newer version made it; it is left as it was.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if (
        not found
        and connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'holds'").fetchone()
    ):
        # Version 1 named itself only after its tables were there; it died in between.
        found = 1
    if found > version:
        raise ConfigError(
            f"the ledger has schema {found}, made by a newer Infern; this one knows {version}. "
            "Update Infern."
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    steps = [migrations[step] for step in range(found, version) if found]
    # One transaction, so that a process that dies here leaves the older file or the newer one.
    script = [*steps, schema, f"PRAGMA user_version = {version}"]
    text = ";\n".join(["BEGIN IMMEDIATE", *script, "COMMIT"])
    patiently(lambda: connection.executescript(text))
