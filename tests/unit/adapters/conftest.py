"""Ledger engines for the suite; each entry of `ENGINES` opens one over a directory."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.f402.receipt import Finish, Receipt, SellerIdentity
from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.books import totals, violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import (
    Captured,
    KeyRecord,
    PaidRequest,
    RemainderPlan,
    Topup,
    TopupState,
)
from infern.core.units import CKB, Asset

ENGINES: dict[str, Callable[[Path], Any]] = {
    "sqlite": lambda directory: SqliteLedger(directory / "ledger.sqlite3"),
}
IDENTITY = SellerIdentity(
    genesis_hash=b"\x01" * 32,
    provider=b"\x02" * 32,
    listing=b"\x03" * 32,
    listing_data_hash=b"\x04" * 32,
    model_id=b"\x05" * 32,
)


def receipt(charged: int, *, root: bytes = b"\x06" * 32) -> Receipt:
    """A receipt before the ledger places it."""
    return Receipt(
        seller=IDENTITY,
        client_key_hash=bytes(20),
        session=bytes(16),
        seq=0,
        prev_digest=bytes(32),
        payment_ref=bytes(32),
        req_hash=bytes(32),
        resp_root=root,
        prompt_tokens=1,
        completion_tokens=1,
        asset=bytes(32),
        charged=charged,
        finish=Finish.STOP,
        started_ms=10,
        finished_ms=20,
    )


@dataclass(slots=True)
class Desk:
    """A ledger and short ways to use it; `opened` are all that were ever opened."""

    directory: Path
    engine: str
    ledger: Any
    opened: list[Any]

    def reopen(self) -> None:
        """As a new process does, after the old one ended in good order."""
        self.ledger.close()
        self.ledger = ENGINES[self.engine](self.directory)
        self.opened.append(self.ledger)

    async def key(self, balance: int = 0, *, asset: Asset = CKB, created_ms: int = 5) -> KeyRecord:
        record = KeyRecord(
            key_digest=secrets.token_bytes(32),
            key_id="key_" + secrets.token_hex(8),
            tab_id=TabId("tab_" + secrets.token_hex(8)),
            session=secrets.token_bytes(16),
            asset=asset,
            created_ms=created_ms,
        )
        await self.ledger.create_key(record)
        if balance:
            topup = await self.topup(record, balance)
            await self.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
        return record

    async def topup(self, key: KeyRecord, amount: int, *, created_ms: int = 5) -> Topup:
        topup = Topup(
            payment_hash=PaymentHash(secrets.token_bytes(32)),
            tab_id=key.tab_id,
            key_id=key.key_id,
            amount=amount,
            invoice="fibd1",
            expires_ms=1_000,
            created_ms=created_ms,
        )
        await self.ledger.add_topup(topup, open_limit=100)
        return topup

    def a_hold(self, key: KeyRecord | None, amount: int) -> Hold:
        return Hold(
            hold_id=HoldId("hold_" + secrets.token_hex(8)),
            tab_id=key.tab_id if key else TabId(""),
            amount=amount,
            digest=RequestDigest(bytes(32)),
            opened_ms=7,
        )

    async def held(self, key: KeyRecord, amount: int) -> Hold:
        hold = self.a_hold(key, amount)
        await self.ledger.hold(hold)
        return hold

    def payment(self, amount: int, *, asset: Asset = CKB) -> PaidRequest:
        return PaidRequest(
            payment_hash=PaymentHash(secrets.token_bytes(32)),
            amount=amount,
            asset=asset,
            digest=RequestDigest(bytes(32)),
            tab_id=TabId("tab_" + secrets.token_hex(8)),
            session=secrets.token_bytes(16),
        )

    async def claimed(self, paid: PaidRequest) -> Hold:
        hold = replace(self.a_hold(None, paid.amount), payment_hash=paid.payment_hash)
        # Every try names the tab anew, as the seller does; the first name stays.
        again = replace(paid, tab_id=TabId("tab_" + secrets.token_hex(8)))
        await self.ledger.claim(again, hold)
        return hold

    async def captured(
        self, hold: Hold, charged: int, *, remainder_to: KeyRecord | None = None
    ) -> Captured:
        captured: Captured = await self.ledger.capture(
            hold.hold_id,
            receipt(charged),
            request_id=RequestId("req_" + secrets.token_hex(8)),
            remainder=RemainderPlan(key=remainder_to),
        )
        return captured

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
    for opened in made.opened:
        opened.close()
    assert violations(books) == []
    assert sums == totals(books)


@pytest.fixture
def make_receipt() -> Callable[..., Receipt]:
    return receipt


@pytest.fixture
def open_sqlite(tmp_path: Path) -> Iterator[Callable[..., SqliteLedger]]:
    opened: list[SqliteLedger] = []

    def open_it(name: str = "ledger.sqlite3") -> SqliteLedger:
        opened.append(SqliteLedger(tmp_path / name))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()
