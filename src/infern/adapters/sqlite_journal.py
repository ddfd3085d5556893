"""The payment journal in SQLite: one file, several threads, several processes, kill -9 safe.

WAL with `synchronous=FULL`: a commit that returned is on disk. Writers take the file's lock at
`BEGIN IMMEDIATE` and wait for one another, so nobody sees "database is locked" within the busy
timeout. Whether the owner of a row still lives is asked of the kernel: each instance holds an
exclusive `flock` on a file of its own, which ends with the process however it ends.

Implements `infern.client.journal.Journal`.
"""
# ruff: noqa: S608 - statements are put together from constants of this module only

import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from infern.core.errors import ConfigError, LedgerError, LocalProtocolError
from infern.core.f402.attempt import (
    DAY_MS,
    FORGOTTEN_LOCK_MS,
    RETURNED,
    Attempt,
    AttemptKind,
    Spent,
    StoredKey,
)
from infern.core.f402.challenge import Mode
from infern.core.f402.client import (
    LOCKING,
    MONEY_AT_STAKE,
    TERMINAL,
    ClientEvent,
    ClientState,
    advance,
)
from infern.core.ids import PaymentHash, Preimage, Pubkey, RequestDigest
from infern.core.units import Asset

SCHEMA_VERSION: Final = 2
BUSY_TIMEOUT_MS: Final = 30_000
MAX_ROWS: Final = 1_000
MAX_KEYS: Final = 100
_SCHEMA: Final = """
CREATE TABLE attempts (
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    kind TEXT NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    origin TEXT NOT NULL,
    resource TEXT NOT NULL,
    pay_to BLOB NOT NULL,
    provider TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    fee_cap INTEGER NOT NULL CHECK (fee_cap >= 0),
    asset TEXT NOT NULL,
    token TEXT NOT NULL,
    invoice TEXT NOT NULL,
    redeem_until_s INTEGER NOT NULL,
    state TEXT NOT NULL,
    session TEXT NOT NULL,
    preimage BLOB,
    fee INTEGER,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    owner TEXT,
    mode TEXT NOT NULL DEFAULT 'upfront'
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_by_need ON attempts (digest, origin, state);
CREATE INDEX attempts_by_time ON attempts (created_ms);
CREATE INDEX attempts_by_session ON attempts (session);
CREATE INDEX attempts_open ON attempts (state) WHERE owner IS NOT NULL;
CREATE INDEX attempts_in_hold_mode ON attempts (state) WHERE mode = 'hold';
CREATE TABLE keys (
    key_id TEXT NOT NULL,
    origin TEXT NOT NULL,
    api_key TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (origin, key_id)
) STRICT, WITHOUT ROWID;
"""
_FROM_1: Final = """
ALTER TABLE attempts ADD COLUMN mode TEXT NOT NULL DEFAULT 'upfront';
CREATE INDEX attempts_in_hold_mode ON attempts (state) WHERE mode = 'hold'
"""
_COLUMNS: Final = (
    "payment_hash, kind, digest, origin, resource, pay_to, provider, amount, fee_cap, asset,"
    " token, invoice, redeem_until_s, state, session, preimage, fee, created_ms, updated_ms,"
    " mode"
)
_AT_STAKE: Final = ", ".join(f"'{state.value}'" for state in sorted(MONEY_AT_STAKE))
_LOCKING: Final = ", ".join(
    f"'{state.value}'" for state in sorted({ClientState.INTENDED, *LOCKING})
)
_UNHEARD_OF: Final = ", ".join(f"'{state.value}'" for state in sorted(LOCKING))
_BACK: Final = ", ".join(f"'{state.value}'" for state in sorted(RETURNED))
# The fee counts with its cap until it is known.
_SUM: Final = f"SELECT coalesce(sum(amount + coalesce(fee, fee_cap)), 0) FROM attempts WHERE state NOT IN ({_BACK})"  # noqa: E501 - one statement
_Row = tuple[
    bytes, str, bytes, str, str, bytes, str, int, int, str,
    str, str, int, str, str, bytes | None, int | None, int, int,
    str,
]  # fmt: skip


class SqliteJournal:
    """A `Journal` in one directory. Threads may share it; processes open their own.

    Args:
        directory: Where `journal.sqlite3` and the instances' lock files live; made when absent,
            readable by the user alone.
        synchronous: SQLite's setting. `FULL` survives a loss of power; `OFF` only a killed process,
            and is for who tests just that, many times.

    Raises:
        ConfigError: The directory or the file cannot be used, or is of a newer version.
    """

    def __init__(self, directory: Path, *, synchronous: Literal["FULL", "OFF"] = "FULL") -> None:
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._mine: set[bytes] = set()
        self._instance = secrets.token_hex(16)
        self._instances = directory / "instances"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
            self._instances.mkdir(exist_ok=True)
            self._lock_file = self._hold_instance_lock()
            with _only_one(self._instances / "opening"):
                self._db = self._open(directory / "journal.sqlite3")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the payment journal in {directory} cannot be used: {error}") from (
                error
            )

    def _hold_instance_lock(self) -> int:
        path = self._instances / f"{self._instance}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # The name is fresh, so nobody else can hold it.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle

    def _open(self, path: Path) -> sqlite3.Connection:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            _check_version(version, path)
            for statement in {0: _SCHEMA, 1: _FROM_1}.get(version, "").split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise LedgerError(f"the payment journal does not answer: {error}") from error
            try:
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise LedgerError(f"the payment journal cannot be written: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")

    def adopt(
        self, *, origin: str, digest: RequestDigest, kind: AttemptKind, now_ms: int
    ) -> Attempt | None:
        """Take over a payment at stake for this need that no live exchange is using."""
        with self._transaction() as db:
            self._give_up_dead_intents(db, now_ms)
            rows = db.execute(
                f"SELECT owner, {_COLUMNS} FROM attempts WHERE digest = ? AND origin = ?"
                f" AND kind = ? AND state IN ({_AT_STAKE}) AND (redeem_until_s > ?"
                f" OR mode = 'hold' AND state IN ({_UNHEARD_OF}))"
                " ORDER BY created_ms, payment_hash",
                (digest, origin, kind.value, now_ms // 1000),
            )
            for owner, *row in rows.fetchall():
                attempt = _attempt(tuple(row))
                if self._is_free(owner, attempt.payment_hash):
                    self._take(db, attempt.payment_hash)
                    return attempt
        return None

    def adopt_payment(self, payment_hash: PaymentHash) -> Attempt | None:
        """Take over one payment at stake by its hash; None when it is in use or not at stake."""
        with self._transaction() as db:
            row = db.execute(
                f"SELECT owner, {_COLUMNS} FROM attempts WHERE payment_hash = ?"
                f" AND state IN ({_AT_STAKE})",
                (payment_hash,),
            ).fetchone()
            if row is None or not self._is_free(row[0], payment_hash):
                return None
            self._take(db, payment_hash)
            return _attempt(row[1:])

    def _take(self, db: sqlite3.Connection, payment_hash: PaymentHash) -> None:
        db.execute(
            "UPDATE attempts SET owner = ? WHERE payment_hash = ?", (self._instance, payment_hash)
        )
        self._mine.add(payment_hash)

    def _is_free(self, owner: str | None, payment_hash: bytes) -> bool:
        if owner is None:
            return True
        if owner == self._instance:
            # Our own memory decides: a release that could not be written is a release.
            return payment_hash not in self._mine
        return self._is_dead(owner)

    def _is_dead(self, instance: str) -> bool:
        """True when no process holds the instance's lock any more; its file is then removed."""
        path = self._instances / f"{instance}.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(handle)

    def _give_up_dead_intents(self, db: sqlite3.Connection, now_ms: int) -> None:
        """Close rows that nobody goes on with between intending and paying: nothing was sent.

        Their process died, or their exchange ended when the journal could not be written.
        """
        refused = advance(ClientState.INTENDED, ClientEvent.OFFER_DECLINED)
        rows = db.execute(
            "SELECT payment_hash, owner FROM attempts WHERE state = ?",
            (ClientState.INTENDED.value,),
        ).fetchall()
        for payment_hash, owner in rows:
            if self._is_free(owner, payment_hash):
                db.execute(
                    "UPDATE attempts SET state = ?, owner = NULL, updated_ms = ?"
                    " WHERE payment_hash = ?",
                    (refused.value, now_ms, payment_hash),
                )

    def intend(self, attempt: Attempt, admit: Callable[[Spent], None]) -> None:
        """Write a new row in `INTENDED`, owned by the caller, if `admit` lets it pass."""
        if attempt.state is not ClientState.INTENDED:
            raise LocalProtocolError("a journal row begins as an intent")
        # One lock around both: to another thread a row that is not yet ours would look given up.
        with self._lock:
            with self._transaction() as db:
                self._give_up_dead_intents(db, attempt.created_ms)
                admit(self._sums(db, attempt.session, attempt.created_ms))
                self._insert(db, attempt)
            self._mine.add(attempt.payment_hash)

    def locking(self, *, limit: int) -> list[Attempt]:
        """Payments in hold mode that were neither taken nor given back, oldest first."""
        return self._read(
            f"SELECT {_COLUMNS} FROM attempts WHERE mode = 'hold' AND state IN ({_UNHEARD_OF})"
            " ORDER BY created_ms, payment_hash LIMIT ?",
            (min(limit, MAX_ROWS),),
        )

    def conclude(self, before: Attempt, after: Attempt) -> bool:
        """Replace a row that is still in `before.state` and that no live exchange is using."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT owner, state FROM attempts WHERE payment_hash = ?", (before.payment_hash,)
            ).fetchone()
            if (
                row is None
                or row[1] != before.state
                or not self._is_free(row[0], before.payment_hash)
            ):
                return False
            self._replace(db, before, after)
            return True

    def _insert(self, db: sqlite3.Connection, attempt: Attempt) -> None:
        marks = ", ".join("?" * 21)
        try:
            db.execute(
                f"INSERT INTO attempts ({_COLUMNS}, owner) VALUES ({marks})",
                (*_values(attempt), self._instance),
            )
        except sqlite3.IntegrityError as error:
            raise LocalProtocolError(
                "this payment hash is in the journal already; it is not paid again",
                code="offer_refused",
                details={"check": "payment hash is new"},
            ) from error

    def record(self, before: Attempt, after: Attempt) -> None:
        """Replace a row that is still in `before.state`."""
        with self._transaction() as db:
            changed = self._replace(db, before, after)
            if changed != 1:
                raise LocalProtocolError(
                    f"the journal row is not {before.state.value} any more; somebody else moved it"
                )
        if after.state in TERMINAL:
            self.release(after.payment_hash)

    def _replace(self, db: sqlite3.Connection, before: Attempt, after: Attempt) -> int:
        return db.execute(
            "UPDATE attempts SET state = ?, preimage = ?, fee = ?, updated_ms = ?"
            " WHERE payment_hash = ? AND state = ?",
            (
                after.state.value,
                after.preimage,
                after.fee,
                after.updated_ms,
                before.payment_hash,
                before.state.value,
            ),
        ).rowcount

    def release(self, payment_hash: PaymentHash) -> None:
        """Give a row up, so that a later exchange may take it over. Never raises.

        Within this instance memory decides, so a write that fails here costs other processes a
        wait until this one ends, and nothing else.
        """
        with self._lock:
            if payment_hash not in self._mine:
                return
            self._mine.discard(payment_hash)
            with suppress(sqlite3.Error):
                self._db.execute(
                    "UPDATE attempts SET owner = NULL WHERE payment_hash = ? AND owner = ?",
                    (payment_hash, self._instance),
                )

    def get(self, payment_hash: PaymentHash) -> Attempt | None:
        """One row."""
        rows = self._read(
            f"SELECT {_COLUMNS} FROM attempts WHERE payment_hash = ?", (payment_hash,)
        )
        return rows[0] if rows else None

    def attempts(self, *, limit: int, at_stake: bool = False) -> list[Attempt]:
        """The newest rows first; with `at_stake` only those whose money is."""
        where = f"WHERE state IN ({_AT_STAKE})" if at_stake else ""
        return self._read(
            f"SELECT {_COLUMNS} FROM attempts {where} ORDER BY created_ms DESC LIMIT ?",
            (min(limit, MAX_ROWS),),
        )

    def _read(self, query: str, values: tuple[object, ...]) -> list[Attempt]:
        with self._lock:
            try:
                return [_attempt(row) for row in self._db.execute(query, values).fetchall()]
            except sqlite3.Error as error:
                raise LedgerError(f"the payment journal cannot be read: {error}") from error

    def spent(self, *, session: str, now_ms: int) -> Spent:
        """The sums `admit` would see."""
        with self._transaction() as db:
            self._give_up_dead_intents(db, now_ms)
            return self._sums(db, session, now_ms)

    def _sums(self, db: sqlite3.Connection, session: str, now_ms: int) -> Spent:
        in_session = db.execute(f"{_SUM} AND session = ?", (session,)).fetchone()[0]
        in_day = db.execute(f"{_SUM} AND created_ms > ?", (now_ms - DAY_MS,)).fetchone()[0]
        locked, locks = db.execute(
            "SELECT coalesce(sum(amount + fee_cap), 0), count(*) FROM attempts"
            f" WHERE mode = 'hold' AND state IN ({_LOCKING}) AND created_ms > ?",
            (now_ms - FORGOTTEN_LOCK_MS,),
        ).fetchone()
        return Spent(session=in_session, day=in_day, locked=locked, locks=locks)

    def save_key(self, key: StoredKey) -> None:
        """Keep a prepaid key."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO keys (key_id, origin, api_key, created_ms)"
                " VALUES (?, ?, ?, ?)",
                (key.key_id, key.origin, key.api_key, key.created_ms),
            )

    def keys(self, origin: str) -> list[StoredKey]:
        """Prepaid keys of one seller, newest first, at most 100."""
        with self._lock:
            try:
                rows = self._db.execute(
                    "SELECT key_id, origin, api_key, created_ms FROM keys WHERE origin = ?"
                    " ORDER BY created_ms DESC, key_id LIMIT ?",
                    (origin, MAX_KEYS),
                ).fetchall()
            except sqlite3.Error as error:
                raise LedgerError(f"the payment journal cannot be read: {error}") from error
        return [
            StoredKey(key_id=key_id, origin=where, api_key=api_key, created_ms=created_ms)
            for key_id, where, api_key, created_ms in rows
        ]

    def close(self) -> None:
        """Let go of everything this instance still owns. Closing twice is harmless."""
        with self._lock:
            for payment_hash in list(self._mine):
                self.release(PaymentHash(payment_hash))
            if self._lock_file >= 0:
                (self._instances / f"{self._instance}.lock").unlink(missing_ok=True)
            self.drop()

    def drop(self) -> None:
        """Leave everything as a killed process does: the lock is gone, rows keep their owner."""
        with self._lock:
            self._mine.clear()
            self._db.close()
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Let one process at a time through: switching a new file to WAL knows no busy timeout."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check_version(version: int, path: Path) -> None:
    if not 0 <= version <= SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has version {version}; this Infern reads version {SCHEMA_VERSION} and older."
            " Upgrade Infern."
        )


def _values(attempt: Attempt) -> _Row:
    a = attempt
    return (
        a.payment_hash, a.kind.value, a.digest, a.origin, a.resource, a.pay_to, a.provider,
        a.amount, a.fee_cap, str(a.asset), a.token, a.invoice, a.redeem_until_s, a.state.value,
        a.session, a.preimage, a.fee, a.created_ms, a.updated_ms, a.mode.value,
    )  # fmt: skip


def _attempt(row: _Row) -> Attempt:
    preimage = row[15]
    return Attempt(
        payment_hash=PaymentHash(row[0]),
        kind=AttemptKind(row[1]),
        digest=RequestDigest(row[2]),
        origin=row[3],
        resource=row[4],
        pay_to=Pubkey(row[5]),
        provider=row[6],
        amount=row[7],
        fee_cap=row[8],
        asset=Asset.parse(row[9]),
        token=row[10],
        invoice=row[11],
        redeem_until_s=row[12],
        state=ClientState(row[13]),
        session=row[14],
        preimage=None if preimage is None else Preimage(preimage),
        fee=row[16],
        created_ms=row[17],
        updated_ms=row[18],
        mode=Mode(row[19]),
    )
