"""Ledger engines for the suite; each entry of `ENGINES` opens one over a directory."""

import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger, schema
from infern.adapters.sqlite_ledger.engine import Batches, Command, prepare
from infern.core.errors import LedgerError
from infern.core.ids import TabId
from infern.core.ledger.books import totals, violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import Lock, LockEvent
from infern.core.ledger.records import (
    Captured,
    KeyRecord,
    PaidRequest,
    RemainderPlan,
    Topup,
    TopupState,
)
from infern.core.units import CKB, Asset
from infern.testing import ledger_rows as rows

T = TypeVar("T")


class Inline:
    """An engine without a thread: each command is booked before `run` gives control away."""

    def __init__(self, path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        prepare(connection, schema.SCHEMA, schema.SCHEMA_VERSION, schema.MIGRATIONS)
        self._batches = Batches(connection)
        self._is_closed = False

    async def run(self, command: Command[T]) -> T:
        if self._is_closed:
            raise LedgerError("the ledger is closed")
        ((result, problem),) = self._batches.commit([command])
        if problem is not None:
            raise problem
        booked: T = result
        return booked

    async def read(self, query: Command[T]) -> T:
        return await self.run(query)

    def close(self) -> None:
        self._is_closed = True
        self._batches.connection.close()


ENGINES: dict[str, Callable[[Path], Any]] = {
    "threaded": lambda directory: SqliteLedger(directory / "ledger.sqlite3"),
    "inline": lambda directory: SqliteLedger(Inline(directory / "ledger.sqlite3")),
}


@dataclass(slots=True)
class Desk:
    """A ledger and short ways to use it; `opened` are all that were ever opened."""

    directory: Path
    engine: str
    ledger: Any
    opened: list[Any]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def name(self) -> str:
        return str(next(self.numbers))

    def reopen(self) -> None:
        """As a new process does, after the old one ended in good order."""
        self.ledger.close()
        self.ledger = ENGINES[self.engine](self.directory)
        self.opened.append(self.ledger)

    async def key(self, balance: int = 0, *, asset: Asset = CKB, created_ms: int = 5) -> KeyRecord:
        record = rows.a_key(self.name(), asset=asset, created_ms=created_ms)
        await self.ledger.create_key(record)
        if balance:
            topup = await self.topup(record, balance)
            await self.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
        return record

    async def topup(self, key: KeyRecord, amount: int, *, created_ms: int = 5) -> Topup:
        topup = rows.a_topup(self.name(), key, amount, created_ms=created_ms)
        await self.ledger.add_topup(topup, open_limit=100)
        return topup

    def a_hold(self, key: KeyRecord | None, amount: int) -> Hold:
        return rows.a_hold(self.name(), amount, key=key)

    async def held(self, key: KeyRecord, amount: int, **more: Any) -> Hold:
        hold = replace(self.a_hold(key, amount), **more)
        await self.ledger.hold(hold)
        return hold

    def payment(self, amount: int, *, asset: Asset = CKB) -> PaidRequest:
        return rows.a_payment(self.name(), amount, asset=asset)

    async def offered(self, amount: int, *, asset: Asset = CKB) -> PaidRequest:
        """A payment in hold mode whose invoice is out."""
        paid = rows.a_payment(self.name(), amount, asset=asset, is_lock=True)
        await self.ledger.offer_lock(rows.a_lock(paid), open_limit=100)
        return paid

    async def claimed(self, paid: PaidRequest) -> Hold:
        hold = rows.a_hold(self.name(), paid.amount, paid=paid)
        # Every try names the tab anew, as the seller does; the first name stays.
        await self.ledger.claim(replace(paid, tab_id=TabId(f"tab_{self.name()}")), hold)
        return hold

    async def captured(
        self,
        hold: Hold,
        charged: int,
        *,
        remainder_to: KeyRecord | None = None,
        sent_back: bool = False,
    ) -> Captured:
        name = self.name()
        plan = rows.refund(name) if sent_back else RemainderPlan()
        captured: Captured = await self.ledger.capture(
            hold.hold_id,
            rows.a_receipt(charged),
            request_id=rows.request_id(name),
            remainder=replace(plan, key=remainder_to),
        )
        return captured

    async def move(self, paid: PaidRequest, *events: LockEvent) -> Lock:
        """A lock after these events."""
        for event in events:
            lock: Lock = await self.ledger.move_lock(paid.payment_hash, event, now_ms=30)
        return lock

    async def balance(self, key: KeyRecord) -> int:
        balance: int = (await self.ledger.tab(key.tab_id)).balance
        return balance


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=list(ENGINES))
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    ledger = ENGINES[request.param](tmp_path)
    made = Desk(directory=tmp_path, engine=request.param, ledger=ledger, opened=[ledger])
    yield made
    made.reopen()
    books, sums = await made.ledger.books(), await made.ledger.totals()
    assert sums == totals(books)
    for opened in made.opened:
        opened.close()
    assert violations(books) == []
