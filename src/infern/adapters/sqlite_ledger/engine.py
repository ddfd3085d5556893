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
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from infern.core.errors import ConfigError, InfernError, LedgerError

T = TypeVar("T")
Command = Callable[[sqlite3.Connection], T]

MAX_QUEUE: Final = 10_000
"""Commands waiting at once; above it callers are refused, nothing is booked."""
MAX_BATCH: Final = 256
"""Commands per commit."""
_log = logging.getLogger(__name__)


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
            self._connection = _open(path, schema, version, migrations)
        except BaseException as error:
            self._lock_file.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise ConfigError(f"the ledger {path.name} cannot be opened: {error}") from error
            raise
        # Between the look at `_closed` and the put nobody may close, or a command would be
        # queued behind the end and its caller would wait for ever.
        self._submitting = threading.Lock()
        self._queue: queue.Queue[tuple[Command[Any], Future[Any]] | None] = queue.Queue(MAX_QUEUE)
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
        # Without the shield a cancelled wait would cancel a command still in the queue.
        return await asyncio.shield(asyncio.wrap_future(self.submit(command)))

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
                sqlite3.connect(self._uri, uri=True, isolation_level=None, timeout=5)
            ) as connection:
                connection.execute("BEGIN")
                return query(connection)
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger could not be read: {error}") from error

    def submit(self, command: Command[T]) -> "Future[T]":
        """Queue a command from any thread."""
        future: Future[T] = Future()
        with self._submitting:
            if self._closed:
                raise LedgerError("the ledger is closed")
            try:
                self._queue.put_nowait((command, future))
            except queue.Full:
                raise LedgerError("the ledger is overloaded; try again", retry_after_s=1) from None
        return future

    def close(self) -> None:
        """Finish what is queued, then close. Idempotent."""
        with self._submitting:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()
        self._connection.close()
        self._lock_file.close()

    def _run(self) -> None:
        open_for_business = True
        while open_for_business:
            batch = [self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            jobs = [job for job in batch if job is not None]
            open_for_business = len(jobs) == len(batch)
            if jobs:
                self._commit(jobs)

    def _commit(self, jobs: list[tuple[Command[Any], Future[Any]]]) -> None:
        # From here on no caller can cancel, so that every future is still ours to answer.
        live = [job for job in jobs if job[1].set_running_or_notify_cancel()]
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for command, future in live:
                outcomes.append((future, *self._one(command)))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            _log.exception("the ledger could not commit")
            self._rollback()
            failure = LedgerError(f"the ledger could not commit: {error}")
            outcomes = [(future, None, failure) for _, future in live]
        for future, result, problem in outcomes:
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)

    def _one(self, command: Command[Any]) -> tuple[Any, BaseException | None]:
        self._connection.execute("SAVEPOINT command")
        try:
            result = command(self._connection)
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
        self._connection.execute("RELEASE command")
        return result, None

    def _undo(self) -> None:
        self._connection.execute("ROLLBACK TO command")
        self._connection.execute("RELEASE command")

    def _rollback(self) -> None:
        # A disk that fails here too leaves the transaction open: every later batch is then refused
        # until a rollback works. The thread must outlive it, or callers would wait for ever.
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


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
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        _prepare(connection, schema, version, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(
    connection: sqlite3.Connection, schema: str, version: int, migrations: Mapping[int, str]
) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
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
    connection.executescript(";\n".join(["BEGIN IMMEDIATE", *script, "COMMIT"]))
