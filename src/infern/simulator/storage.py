"""Disks: what outlives a process. The ledger's and the journal's real code runs on them.

A seller's disk is an open SQLite database in memory. A crash at an await never leaves a transaction
half done on it, because a batch is committed between two awaits; what was queued is lost with the
process, and what was committed is there although nobody heard of it.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.sqlite_ledger.engine import Batches, Command, Outcome, prepare
from infern.adapters.sqlite_ledger.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION
from infern.client.journal import Attempt, AttemptKind, Spent, StoredKey
from infern.core.errors import LedgerError
from infern.core.ids import PaymentHash, RequestDigest
from infern.simulator.process import Process

T = TypeVar("T")
COMMIT_US: Final = 2_000
OUTAGES_US: Final = (0, 300_000, 3_000_000, 15_000_000)
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
        prepare(disk.connection, SCHEMA, SCHEMA_VERSION, MIGRATIONS)
        self._process = process
        self._batches = Batches(disk.connection)
        self._queue: list[tuple[Command[Any], asyncio.Future[Any]]] = []
        self._dice = process.world.dice(f"ledger {process.name}")
        self._away_until_us = 0

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
        if self._is_away():
            world.note(self._process.name, "ledger.away", f"{len(queue)} commands")
            outcomes: list[Outcome] = [(None, LedgerError(AWAY)) for _ in queue]
        else:
            outcomes = self._batches.commit([command for command, _ in queue])
            world.note(self._process.name, "ledger.commit", f"{len(queue)} commands")
        answered_us = self._dice.randrange(COMMIT_US)
        for (_, future), outcome in zip(queue, outcomes, strict=True):
            self._process.later(answered_us, partial(_tell, future, outcome))

    def _is_away(self) -> bool:
        """An outage lasts a while, as that of a full disk does, or hits one batch."""
        now_us = self._process.world.now_us
        if now_us < self._away_until_us:
            return True
        if self._dice.random() < self._process.world.weather.ledger_away:
            self._away_until_us = now_us + self._dice.choice(OUTAGES_US)
            return True
        return False

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


Need = tuple[RequestDigest, str, AttemptKind]


class Custody:
    """Who uses which row of one journal, kept apart from the journal to hold it to its rules.

    One payment per need: a payment at stake that nobody uses is taken up before there is another.
    Requests that run at the same time are different needs, so what was in use when a request
    looked is another's, even if that one gives up later.
    """

    def __init__(self) -> None:
        self._owners: dict[bytes, Process] = {}
        self._left_us: dict[bytes, int] = {}
        self._looked_us: dict[tuple[Process, Need], int] = {}

    def take(self, payment_hash: bytes, process: Process) -> None:
        """A live exchange of this process uses the row."""
        self._owners[payment_hash] = process

    def leave(self, payment_hash: bytes, now_us: int) -> None:
        """Nobody does any more."""
        if self._owners.pop(payment_hash, None) is not None:
            self._left_us[payment_hash] = now_us

    def free_since_us(self, payment_hash: bytes) -> int | None:
        """Since when nobody uses a row; None while somebody does."""
        owner = self._owners.get(payment_hash)
        if owner is None:
            return self._left_us.get(payment_hash, 0)
        return None if owner.alive else owner.died_us

    def looked(self, process: Process, need: Need) -> None:
        """A process looked for a payment at stake for a need."""
        self._looked_us[process, need] = process.world.now_us

    def last_look_us(self, process: Process, need: Need) -> int | None:
        """When it last did; None if it never did."""
        return self._looked_us.get((process, need))


class VirtualJournal:
    """A process's `Journal`: the real one, whose calls a crash may come before or after.

    Args:
        process: Whose it is.
        directory: Shared by all processes of a consumer.
        custody: Likewise; holds every look and every intent to the rule of one payment per need.
    """

    def __init__(self, process: Process, directory: Path, custody: Custody) -> None:
        self._process = process
        self._journal = SqliteJournal(directory, synchronous="OFF")
        self._custody = custody
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
        need = (digest, origin, kind)

        def adopt() -> Attempt | None:
            found = self._journal.adopt(origin=origin, digest=digest, kind=kind, now_ms=now_ms)
            if found is None:
                self._complain_of(self._free_rows(need, now_ms), "passed over")
            self._custody.looked(self._process, need)
            return self._note_taken(found)

        return self._act(adopt)

    def adopt_payment(self, payment_hash: PaymentHash) -> Attempt | None:
        """As the journal's."""
        return self._act(lambda: self._note_taken(self._journal.adopt_payment(payment_hash)))

    def _note_taken(self, attempt: Attempt | None) -> Attempt | None:
        if attempt is not None:
            self._custody.take(attempt.payment_hash, self._process)
            self._process.world.note(self._process.name, "journal.adopt", attempt.state.value)
        return attempt

    def _free_rows(self, need: Need, now_ms: int) -> dict[bytes, int]:
        """Payments at stake for a need that nobody uses, with the time since when."""
        free = {}
        for row in self._journal.attempts(limit=1_000, at_stake=True):
            since_us = self._custody.free_since_us(row.payment_hash)
            is_wanted = (row.digest, row.origin, row.kind) == need
            if is_wanted and since_us is not None and row.redeem_until_s > now_ms // 1_000:
                free[bytes(row.payment_hash)] = since_us
        return free

    def _complain_of(self, rows: Iterable[bytes], what: str) -> None:
        process = self._process
        for payment_hash in rows:
            name = payment_hash.hex()[:16]
            process.world.fail(f"{process.name}: payment {name} is at stake and was {what}")

    def intend(self, attempt: Attempt, admit: Callable[[Spent], None]) -> None:
        """As the journal's; refuses nothing more, but the oracle hears of a second payment."""
        process, need = self._process, (attempt.digest, attempt.origin, attempt.kind)

        def intend() -> None:
            free = self._free_rows(need, attempt.created_ms)
            self._journal.intend(attempt, admit)
            self._custody.take(attempt.payment_hash, process)
            looked_us = self._custody.last_look_us(process, need)
            if looked_us is None:
                process.world.fail(f"{process.name} pays without a look into its journal")
                return
            rivals = [known for known, since_us in free.items() if since_us < looked_us]
            self._complain_of(rivals, "paid again")

        self._act(intend)
        process.world.note(
            process.name, f"journal.intend.{attempt.kind.value}", str(attempt.amount)
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
        self._custody.leave(payment_hash, self._process.world.now_us)

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
