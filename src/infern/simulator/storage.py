"""Disks: what outlives a process. The ledger's and the journal's real code runs on them.

A seller's disk is an open SQLite database in memory. A crash at an await never leaves a transaction
half done on it, because a batch is committed between two awaits; what was queued is lost with the
process, and what was committed is there although nobody heard of it.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.sqlite_ledger import rows
from infern.adapters.sqlite_ledger.engine import Batches, Command, Outcome, prepare
from infern.client.journal import Attempt, AttemptKind, Spent, StoredKey
from infern.core.errors import LedgerError
from infern.core.ids import PaymentHash, RequestDigest
from infern.simulator.process import Process

T = TypeVar("T")
COMMIT_US: Final = 2_000
AWAY: Final = "the ledger could not commit: disk I/O error (simulated)"


class SellerDisk:
    """The ledger file of one seller, through all its lives."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)


class VirtualEngine:
    """The ledger's writer without a thread: commands queue up and are committed in batches.

    Args:
        process: Whose ledger it is; its death drops what is queued.
        disk: Where it is kept.
    """

    def __init__(self, process: Process, disk: SellerDisk) -> None:
        prepare(disk.connection, rows.SCHEMA, rows.SCHEMA_VERSION)
        self._process = process
        self._batches = Batches(disk.connection)
        self._queue: list[tuple[Command[Any], asyncio.Future[Any]]] = []
        self._dice = process.world.dice(f"ledger {process.name}")

    async def run(self, command: Command[T]) -> T:
        """Run a command and wait until it is durable. Cancelling the wait does not stop it."""
        future: asyncio.Future[T] = self._process.future()
        if not self._queue:
            self._process.later(self._delay_us(), self._commit)
        self._queue.append((command, future))
        return await self._process.wait(future)

    async def read(self, query: Command[T]) -> T:
        """Run a query as a command; there are no threads to keep waiting."""
        return await self.run(query)

    def close(self) -> None:
        """Commit what is queued."""
        if self._queue:
            self._commit()

    def _commit(self) -> None:
        queue, self._queue = self._queue, []
        world = self._process.world
        if self._dice.random() < world.weather.ledger_away:
            world.note(self._process.name, "ledger.away", f"{len(queue)} commands")
            outcomes: list[Outcome] = [(None, LedgerError(AWAY)) for _ in queue]
        else:
            outcomes = self._batches.commit([command for command, _ in queue])
            world.note(self._process.name, "ledger.commit", f"{len(queue)} commands")
        answered_us = self._dice.randrange(COMMIT_US)
        for (_, future), outcome in zip(queue, outcomes, strict=True):
            self._process.later(answered_us, partial(_tell, future, outcome))

    def _delay_us(self) -> int:
        world = self._process.world
        if self._dice.random() < world.weather.ledger_slow:
            world.note(self._process.name, "ledger.slow")
            return self._dice.randrange(15_000_000)
        return self._dice.randrange(COMMIT_US)


def _tell(future: asyncio.Future[Any], outcome: Outcome) -> None:
    result, problem = outcome
    if future.done():
        return
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)


class OwnedRows:
    """Which rows of one journal are in use by a live exchange, kept apart from the journal."""

    def __init__(self) -> None:
        self.owners: dict[bytes, Process] = {}

    def take(self, payment_hash: bytes, process: Process) -> None:
        """A live exchange of this process uses the row."""
        self.owners[payment_hash] = process

    def leave(self, payment_hash: bytes) -> None:
        """Nobody does any more."""
        self.owners.pop(payment_hash, None)

    def is_used(self, payment_hash: bytes) -> bool:
        """True while a process that lives uses the row."""
        owner = self.owners.get(payment_hash)
        return owner is not None and owner.alive


class VirtualJournal:
    """A process's `Journal`: the real one, whose calls a crash may come before or after.

    Every intent is held against the rule of one payment per need: no row at stake for the same
    need may be free at that moment.

    Args:
        process: Whose it is.
        directory: Shared by all processes of a consumer.
        owned: Likewise.
    """

    def __init__(self, process: Process, directory: Path, owned: OwnedRows) -> None:
        self._process = process
        self._journal = SqliteJournal(directory)
        self._owned = owned
        self._dice = process.world.dice(f"journal {process.name}")
        process.at_death(self._journal.drop)

    def _act(self, effect: Callable[[], T]) -> T:
        """A call that writes; the disk may fail it."""
        world = self._process.world

        def maybe() -> T:
            if self._dice.random() < world.weather.journal_away:
                world.note(self._process.name, "journal.away")
                raise LedgerError("the payment journal does not answer (simulated)")
            return effect()

        return self._process.act(maybe)

    def adopt(
        self, *, origin: str, digest: RequestDigest, kind: AttemptKind, now_ms: int
    ) -> Attempt | None:
        """As the journal's."""
        return self._note_taken(
            self._act(
                lambda: self._journal.adopt(origin=origin, digest=digest, kind=kind, now_ms=now_ms)
            )
        )

    def adopt_payment(self, payment_hash: PaymentHash) -> Attempt | None:
        """As the journal's."""
        return self._note_taken(self._act(lambda: self._journal.adopt_payment(payment_hash)))

    def _note_taken(self, attempt: Attempt | None) -> Attempt | None:
        if attempt is not None:
            self._owned.take(attempt.payment_hash, self._process)
            self._process.world.note(self._process.name, "journal.adopt", attempt.state.value)
        return attempt

    def intend(self, attempt: Attempt, admit: Callable[[Spent], None]) -> None:
        """As the journal's; refuses nothing, but the oracle hears of a second payment."""

        def intend() -> None:
            rivals = [
                row
                for row in self._journal.attempts(limit=1_000, at_stake=True)
                if (row.digest, row.origin, row.kind)
                == (attempt.digest, attempt.origin, attempt.kind)
                and row.redeem_until_s > attempt.created_ms // 1_000
                and not self._owned.is_used(row.payment_hash)
            ]
            self._journal.intend(attempt, admit)
            self._owned.take(attempt.payment_hash, self._process)
            if rivals:
                self._process.world.fail(
                    f"{self._process.name} pays again for a need whose payment"
                    f" {rivals[0].payment_hash.hex()[:16]} is {rivals[0].state.value}"
                )

        self._act(intend)
        self._process.world.note(
            self._process.name, f"journal.intend.{attempt.kind.value}", str(attempt.amount)
        )

    def record(self, before: Attempt, after: Attempt) -> None:
        """As the journal's."""
        self._act(lambda: self._journal.record(before, after))
        self._process.world.note(self._process.name, f"journal.{after.state.value}")

    def locking(self, *, limit: int) -> list[Attempt]:
        """As the journal's."""
        return self._process.act(lambda: self._journal.locking(limit=limit))

    def conclude(self, before: Attempt, after: Attempt) -> bool:
        """As the journal's."""
        return self._act(lambda: self._journal.conclude(before, after))

    def release(self, payment_hash: PaymentHash) -> None:
        """As the journal's."""
        self._process.act(lambda: self._journal.release(payment_hash))
        self._owned.leave(payment_hash)

    def get(self, payment_hash: PaymentHash) -> Attempt | None:
        """As the journal's."""
        return self._process.act(lambda: self._journal.get(payment_hash))

    def attempts(self, *, limit: int, at_stake: bool = False) -> list[Attempt]:
        """As the journal's."""
        return self._process.act(lambda: self._journal.attempts(limit=limit, at_stake=at_stake))

    def spent(self, *, session: str, now_ms: int) -> Spent:
        """As the journal's."""
        return self._process.act(lambda: self._journal.spent(session=session, now_ms=now_ms))

    def save_key(self, key: StoredKey) -> None:
        """As the journal's."""
        self._act(lambda: self._journal.save_key(key))

    def keys(self, origin: str) -> list[StoredKey]:
        """As the journal's."""
        return self._process.act(lambda: self._journal.keys(origin))

    def close(self) -> None:
        """As the journal's."""
        self._process.act(self._journal.close)
