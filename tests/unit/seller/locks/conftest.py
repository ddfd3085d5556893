"""A ledger, a scripted node and a keeper of locks over both, and locks in any state."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import LedgerError
from infern.core.f402.receipt import Finish, Receipt, SellerIdentity
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.books import totals, violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import Lock, LockEvent, LockState
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan
from infern.core.units import CKB
from infern.core.wire.bounds import ModelLimits
from infern.core.wire.endpoints import Endpoint
from infern.seller.backend import Listing
from infern.seller.hold_offers import HoldOffers
from infern.seller.locks import LockKeeper
from infern.seller.minting import Minter
from infern.testing.offers import DIGEST, TERMS

AMOUNT = TERMS.ceiling
CHARGED = 1_000
CLAIM_MS = 30_000
LISTING = Listing(
    model="m",
    price=TERMS.price,
    limits=ModelLimits(context_tokens=100, max_completion_tokens=50),
    identity=SellerIdentity(
        genesis_hash=b"\x01" * 32,
        provider=b"\x02" * 32,
        listing=b"\x03" * 32,
        listing_data_hash=b"\x04" * 32,
        model_id=b"\x05" * 32,
    ),
    endpoints=frozenset(Endpoint),
    created_s=1,
)


class Desk:
    """A ledger, a node and a keeper over both; nobody moves but by the test's hand."""

    listing = LISTING

    def __init__(self, ledger: Any, payee: Any, clock: Any, config: Any, entropy: Any) -> None:
        self.real, self.payee, self.clock, self.config = ledger, payee, clock, config
        self.minter = Minter(config, fiber=payee, clock=clock, entropy=entropy)
        self.failing: Counter[str] = Counter()
        self.restart()

    def __getattr__(self, name: str) -> Any:
        """The ledger, failing where a test says."""
        method = getattr(self.real, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.failing[name] > 0:
                self.failing[name] -= 1
                raise LedgerError("away (scripted)")
            return await method(*args, **kwargs)

        return call

    def restart(self, preimage_key: bytes = b"\x0c" * 32) -> None:
        self.keeper = LockKeeper(
            ledger=self,  # type: ignore[arg-type] # passes on what it lacks
            fiber=self.payee,
            clock=self.clock,
            preimage_key=preimage_key,
            claim_ms=CLAIM_MS,
            on_payout=lambda: None,
        )
        self.offers = HoldOffers(
            self.config,
            minter=self.minter,
            locks=self.keeper,
            ledger=self,  # type: ignore[arg-type] # passes on what it lacks
            fiber=self.payee,
            clock=self.clock,
        )

    @staticmethod
    def hold_id(payment_hash: PaymentHash) -> HoldId:
        return hold_id_of(payment_hash)

    @staticmethod
    def paid(payment_hash: PaymentHash) -> PaidRequest:
        return paid_by(payment_hash)

    async def offered(self, address: str = "192.0.2.1") -> PaymentHash:
        """An offer that is out."""
        made = await self.offers.offer(
            listing=LISTING, terms=TERMS, digest=DIGEST, target="/", address=address
        )
        return made.challenge.payment_hash

    async def locked(self) -> PaymentHash:
        """An offer whose payment has arrived."""
        payment_hash = await self.offered()
        self.payee.lock(payment_hash)
        return payment_hash

    async def held(self) -> PaymentHash:
        """A lock whose request is being answered."""
        payment_hash = await self.locked()
        await self.claim(payment_hash)
        return payment_hash

    async def claim(self, payment_hash: PaymentHash) -> None:
        now_ms = self.clock.now_ms()
        hold = Hold(
            hold_id=hold_id_of(payment_hash),
            tab_id=TabId(""),
            amount=AMOUNT,
            digest=DIGEST,
            payment_hash=payment_hash,
            opened_ms=now_ms,
        )
        await self.real.claim(paid_by(payment_hash), hold)
        self.keeper.claimed(payment_hash)

    async def charged(self) -> PaymentHash:
        payment_hash = await self.held()
        now_ms = self.clock.now_ms()
        receipt = Receipt(
            seller=LISTING.identity,
            client_key_hash=bytes(20),
            session=bytes(16),
            seq=0,
            prev_digest=bytes(32),
            payment_ref=payment_hash,
            req_hash=DIGEST,
            resp_root=bytes(32),
            prompt_tokens=1,
            completion_tokens=1,
            asset=CKB.id32,
            charged=CHARGED,
            finish=Finish.STOP,
            started_ms=now_ms,
            finished_ms=now_ms,
        )
        await self.real.capture(
            hold_id_of(payment_hash),
            receipt,
            request_id=RequestId("req_" + payment_hash.hex()),
            remainder=RemainderPlan(),
        )
        return payment_hash

    async def settling(self) -> PaymentHash:
        """A lock whose answer was delivered."""
        payment_hash = await self.charged()
        await self.real.move_lock(payment_hash, LockEvent.DELIVER, now_ms=self.clock.now_ms())
        return payment_hash

    async def cancelling(self) -> PaymentHash:
        """A lock whose request failed."""
        payment_hash = await self.held()
        await self.real.release(hold_id_of(payment_hash), now_ms=self.clock.now_ms())
        return payment_hash

    async def expired(self) -> PaymentHash:
        """An offer that was taken back."""
        payment_hash = await self.offered()
        await self.real.move_lock(payment_hash, LockEvent.EXPIRE, now_ms=self.clock.now_ms())
        return payment_hash

    async def state(self, payment_hash: PaymentHash) -> LockState:
        found: Lock | None = await self.real.lock(payment_hash)
        assert found is not None
        return found.state

    async def until_done(self, payment_hash: PaymentHash, *, looks: int = 8) -> LockState:
        """Look as the keeper's task does, a few times; time stands still."""
        for _ in range(looks):
            if await self.keeper.look(payment_hash):
                return await self.state(payment_hash)
        raise AssertionError(f"still {await self.state(payment_hash)} after {looks} looks")

    async def key(self) -> KeyRecord:
        """A key without money."""
        key = KeyRecord(
            key_digest=bytes(32),
            key_id="key_1",
            tab_id=TabId("tab_key"),
            session=bytes(16),
            asset=CKB,
            created_ms=self.clock.now_ms(),
        )
        await self.real.create_key(key)
        return key

    async def sums(self) -> Any:
        return totals(await self.real.books())[CKB]


def hold_id_of(payment_hash: PaymentHash) -> HoldId:
    return HoldId("hold_" + payment_hash.hex()[:26])


def paid_by(payment_hash: PaymentHash) -> PaidRequest:
    return PaidRequest(
        payment_hash=payment_hash,
        amount=AMOUNT,
        asset=CKB,
        digest=DIGEST,
        tab_id=TabId("tab_" + payment_hash.hex()),
        session=payment_hash[:16],
        is_lock=True,
    )


@pytest.fixture
async def make_desk(
    tmp_path: Path, make_config: Any, payee: Any, entropy: Any
) -> AsyncIterator[Any]:
    """A desk with this clock and these limits; an address may have as many offers as it likes."""
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")

    def make(clock: Any, **config: Any) -> Desk:
        payee.clock = clock
        return Desk(
            ledger, payee, clock, make_config(**{"locks_per_address": 1_000} | config), entropy
        )

    make.ledger = ledger  # type: ignore[attr-defined] # for a clock that waits for it
    yield make
    books = await ledger.books()
    ledger.close()
    assert violations(books) == []
    assert books.holds == ()


@pytest.fixture
def desk(make_desk: Any, clock: Any) -> Desk:
    return make_desk(clock)


@pytest.fixture
def running(make_desk: Any, clock: Any, make_stepped_clock: Any) -> Desk:
    """A desk in time that moves when everybody waits, for the keeper's task."""
    return make_desk(make_stepped_clock(clock.now_ms(), make_desk.ledger))
