"""A held payment is settled or given back, whatever the node and the ledger do meanwhile."""

import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import LedgerError, PaymentError, ProtocolError
from infern.core.f402.challenge import Mode
from infern.core.f402.receipt import Finish, Receipt, SellerIdentity
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.books import totals, violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import Lock, LockEvent, LockState
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan
from infern.core.units import CKB
from infern.seller.hold_offers import HoldOffers
from infern.seller.locks import (
    ALARM_MS,
    EXPIRY_GRACE_MS,
    HOPELESS_MS,
    MISSING_MS,
    OFFER_ASK_MS,
    RETELL_MS,
    SWEEP_MS,
    TLC_GONE_MS,
    UNMADE_MS,
    WAIT_MS,
    LockKeeper,
)
from infern.seller.minting import Minter
from infern.testing.offers import DIGEST, TERMS
from infern.testing.scripted_payee import Fault

AMOUNT = TERMS.ceiling
CHARGED = 1_000
CLAIM_MS = 30_000
IDENTITY = SellerIdentity(
    genesis_hash=b"\x01" * 32,
    provider=b"\x02" * 32,
    listing=b"\x03" * 32,
    listing_data_hash=b"\x04" * 32,
    model_id=b"\x05" * 32,
)


class Desk:
    """A ledger, a node and a keeper over both; nobody moves but by the test's hand."""

    def __init__(self, ledger: Any, payee: Any, clock: Any, config: Any, entropy: Any) -> None:
        self.real, self.payee, self.clock, self.config = ledger, payee, clock, config
        self.minter = Minter(config, fiber=payee, clock=clock, entropy=entropy)
        self.failing: Counter[str] = Counter()
        self.count = 0
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
        )
        self.offers = HoldOffers(
            self.config,
            minter=self.minter,
            locks=self.keeper,
            ledger=self,  # type: ignore[arg-type] # passes on what it lacks
            fiber=self.payee,
            clock=self.clock,
        )

    async def offered(self, address: str = "192.0.2.1") -> PaymentHash:
        """An offer that is out."""
        self.count += 1
        challenge = self.minter.draft(
            listing=_listing(), terms=TERMS, digest=DIGEST, mode=Mode.HOLD
        )
        self.drafted = challenge
        made = await self.offers.offer(
            listing=_listing(), terms=TERMS, digest=DIGEST, target="/", address=address
        )
        self.challenges = {**getattr(self, "challenges", {})}
        self.challenges[made.challenge.payment_hash] = made.challenge
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
            hold_id=_hold_id(payment_hash),
            tab_id=TabId(""),
            amount=AMOUNT,
            digest=DIGEST,
            payment_hash=payment_hash,
            opened_ms=now_ms,
        )
        await self.real.claim(_paid(payment_hash), hold)
        self.keeper.claimed(payment_hash)

    async def charged(self) -> PaymentHash:
        payment_hash = await self.held()
        now_ms = self.clock.now_ms()
        receipt = Receipt(
            seller=IDENTITY,
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
            _hold_id(payment_hash),
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
        await self.real.release(_hold_id(payment_hash), now_ms=self.clock.now_ms())
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

    async def until_done(self, payment_hash: PaymentHash, *, looks: int = 6) -> LockState:
        """Look as the keeper's task does, a few times; time stands still."""
        for _ in range(looks):
            if await self.keeper.look(payment_hash):
                return await self.state(payment_hash)
        raise AssertionError(f"still {await self.state(payment_hash)} after {looks} looks")

    async def sums(self) -> Any:
        return totals(await self.real.books())[CKB]


def _listing() -> Any:
    from infern.core.wire.bounds import ModelLimits
    from infern.core.wire.endpoints import Endpoint
    from infern.seller.backend import Listing

    return Listing(
        model="m",
        price=TERMS.price,
        limits=ModelLimits(context_tokens=100, max_completion_tokens=50),
        identity=IDENTITY,
        endpoints=frozenset(Endpoint),
        created_s=1,
    )


def _hold_id(payment_hash: PaymentHash) -> HoldId:
    return HoldId("hold_" + payment_hash.hex()[:26])


def _paid(payment_hash: PaymentHash) -> PaidRequest:
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
async def desk(
    tmp_path: Path, make_config: Any, payee: Any, clock: Any, entropy: Any
) -> AsyncIterator[Desk]:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    made = Desk(ledger, payee, clock, make_config(locks_per_address=1_000), entropy)
    yield made
    books = await ledger.books()
    ledger.close()
    assert violations(books) == []
    assert books.holds == ()


async def test_what_was_delivered_is_settled_and_only_then_is_the_preimage_told(desk: Desk) -> None:
    payment_hash = await desk.charged()
    assert await desk.keeper.look(payment_hash)
    assert "settle_invoice" not in desk.payee.calls
    assert payment_hash not in desk.payee.preimages
    await desk.keeper.deliver(payment_hash)
    assert await desk.until_done(payment_hash) is LockState.SETTLED
    assert hashlib.sha256(desk.payee.preimages[payment_hash]).digest() == payment_hash
    assert desk.payee.calls.count("settle_invoice") == 1
    sums = await desk.sums()
    assert (sums.received, sums.spent, sums.balance) == (AMOUNT, CHARGED, AMOUNT - CHARGED)
    assert desk.keeper.counts == {LockState.SETTLED: 1}


async def test_what_was_not_delivered_goes_back_and_the_node_never_learns_the_preimage(
    desk: Desk,
) -> None:
    payment_hash = await desk.cancelling()
    assert await desk.until_done(payment_hash) is LockState.CANCELLED
    assert desk.payee.tlcs == {}
    assert desk.payee.statuses[payment_hash] is InvoiceStatus.CANCELLED
    assert "settle_invoice" not in desk.payee.calls
    sums = await desk.sums()
    assert (sums.received, sums.returned, sums.spent, sums.balance) == (AMOUNT, AMOUNT, 0, 0)


async def test_a_charge_nobody_had_the_answer_of_is_undone(desk: Desk) -> None:
    payment_hash = await desk.charged()
    await desk.keeper.give_back(payment_hash, HoldId("hold_of_somebody_else"))
    assert await desk.state(payment_hash) is LockState.CHARGED
    await desk.keeper.give_back(payment_hash, _hold_id(payment_hash))
    assert await desk.until_done(payment_hash) is LockState.CANCELLED
    assert (await desk.sums()).spent == 0


SETTLE = ("settling", LockState.SETTLED, ("get_invoice", "settle_invoice"))
CANCEL = ("cancelling", LockState.CANCELLED, ("get_invoice", "cancel_invoice"))
EXPIRE = ("expired", LockState.CANCELLED, ("get_invoice", "cancel_invoice"))
LOST_CALLS = [
    pytest.param(
        begin, end, method, faults, id=f"{begin} {method} {'+'.join(f.name for f in faults)}"
    )
    for begin, end, methods in (SETTLE, CANCEL, EXPIRE)
    for method in methods
    for faults in ([Fault.NOT_DONE], [Fault.UNHEARD], [Fault.UNHEARD, Fault.NOT_DONE])
]


@pytest.mark.parametrize(("begin", "end", "method", "faults"), LOST_CALLS)
async def test_a_call_that_was_lost_on_its_way_or_back_changes_nothing(
    desk: Desk, begin: str, end: LockState, method: str, faults: list[Fault]
) -> None:
    payment_hash = await getattr(desk, begin)()
    desk.payee.faults[method] = deque(faults)
    assert await desk.until_done(payment_hash) is end
    paid = end is LockState.SETTLED
    assert (payment_hash in desk.payee.preimages) is paid
    assert desk.payee.statuses[payment_hash] is (
        InvoiceStatus.PAID if paid else InvoiceStatus.CANCELLED
    )


@pytest.mark.parametrize(("begin", "end", "methods"), [SETTLE, CANCEL, EXPIRE])
async def test_a_ledger_that_is_away_for_a_moment_changes_nothing(
    desk: Desk, begin: str, end: LockState, methods: Any
) -> None:
    payment_hash = await getattr(desk, begin)()
    desk.failing.update(lock=2, move_lock=2)
    assert await desk.until_done(payment_hash) is end


@pytest.mark.parametrize(("begin", "end", "methods"), [SETTLE, CANCEL, EXPIRE])
async def test_a_node_that_is_away_is_waited_for_and_a_restart_goes_on(
    desk: Desk, begin: str, end: LockState, methods: Any, caplog: pytest.LogCaptureFixture
) -> None:
    payment_hash = await getattr(desk, begin)()
    before = await desk.state(payment_hash)
    desk.payee.is_down = True
    for _ in range(20):
        assert not await desk.keeper.look(payment_hash)
        desk.clock.ms += 60_000
    assert await desk.state(payment_hash) is before
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    desk.payee.is_down = False
    desk.restart()
    assert await desk.until_done(payment_hash) is end


@pytest.mark.parametrize("status", [InvoiceStatus.CANCELLED, InvoiceStatus.EXPIRED])
async def test_a_payment_that_is_gone_at_settling_is_the_sellers_loss(
    desk: Desk, status: InvoiceStatus, caplog: pytest.LogCaptureFixture
) -> None:
    payment_hash = await desk.settling()
    desk.payee.drop(payment_hash)
    desk.payee.set_status(payment_hash, status)
    assert await desk.until_done(payment_hash) is LockState.LOST
    sums = await desk.sums()
    assert (sums.spent, sums.balance, sums.returned) == (0, 0, AMOUNT)
    assert any(record.levelname == "ERROR" for record in caplog.records)
    with pytest.raises(PaymentError, match="given back"):
        await desk.claim(payment_hash)


async def test_a_tlc_that_went_back_behind_our_back_is_noticed_but_not_in_haste(desk: Desk) -> None:
    payment_hash = await desk.settling()
    desk.payee.drop(payment_hash)
    assert not await desk.keeper.look(payment_hash)
    started_ms = desk.clock.ms
    while not await desk.keeper.look(payment_hash):
        assert desk.clock.ms < started_ms + 10 * TLC_GONE_MS
        desk.clock.ms += 1_000
    waited_ms = desk.clock.ms - started_ms
    assert TLC_GONE_MS <= waited_ms <= TLC_GONE_MS + 3 * RETELL_MS
    assert await desk.state(payment_hash) is LockState.LOST


async def test_a_tlc_that_is_there_is_waited_for_and_the_preimage_told_again(desk: Desk) -> None:
    payment_hash = await desk.settling()
    desk.payee.settling_looks = 10**6
    for _ in range(200):
        assert not await desk.keeper.look(payment_hash)
        desk.clock.ms += 1_000
    told = desk.payee.calls.count("settle_invoice")
    assert 200_000 // RETELL_MS - 2 <= told <= 200_000 // RETELL_MS + 1
    desk.payee._settling[payment_hash] = 0
    assert await desk.until_done(payment_hash) is LockState.SETTLED


async def test_a_payment_settled_by_hand_is_money_that_can_be_redeemed(desk: Desk) -> None:
    payment_hash = await desk.cancelling()
    desk.payee.drop(payment_hash)
    desk.payee.set_status(payment_hash, InvoiceStatus.PAID)
    assert await desk.until_done(payment_hash) is LockState.SETTLED
    key = KeyRecord(
        key_digest=bytes(32), key_id="key_1", tab_id=TabId("tab_key"), session=bytes(16),
        asset=CKB, created_ms=desk.clock.ms,
    )  # fmt: skip
    await desk.real.create_key(key)
    moved = await desk.real.redeem(_paid(payment_hash), key, now_ms=desk.clock.ms)
    assert moved == AMOUNT


@pytest.mark.parametrize(
    ("begin", "patience_ms", "end"),
    [
        ("settling", MISSING_MS, LockState.LOST),
        ("cancelling", MISSING_MS, LockState.CANCELLED),
        ("expired", 121_000 + UNMADE_MS, LockState.CANCELLED),
    ],
)
async def test_an_invoice_the_node_forgot_is_given_up_late(
    desk: Desk, begin: str, patience_ms: int, end: LockState
) -> None:
    """The operator may have started another node by mistake, and start the right one again."""
    payment_hash = await getattr(desk, begin)()
    before = await desk.state(payment_hash)
    desk.payee.forget(payment_hash)
    desk.clock.ms += patience_ms - 1_000
    for _ in range(3):
        assert not await desk.keeper.look(payment_hash)
    assert await desk.state(payment_hash) is before
    desk.clock.ms += 2_001
    assert await desk.until_done(payment_hash) is end


async def test_a_node_that_comes_back_with_the_invoice_ends_it_as_usual(desk: Desk) -> None:
    payment_hash = await desk.settling()
    invoice, tlc = desk.payee.invoices[payment_hash], desk.payee.tlcs[payment_hash]
    desk.payee.forget(payment_hash)
    assert not await desk.keeper.look(payment_hash)
    desk.payee.invoices[payment_hash], desk.payee.tlcs[payment_hash] = invoice, tlc
    assert await desk.until_done(payment_hash) is LockState.SETTLED


@pytest.mark.parametrize(
    ("begin", "end"), [("settling", LockState.LOST), ("cancelling", LockState.CANCELLED)]
)
async def test_after_the_longest_time_fiber_locks_anything_a_lock_is_over(
    desk: Desk, begin: str, end: LockState
) -> None:
    payment_hash = await getattr(desk, begin)()
    desk.payee.settling_looks = 10**6
    desk.payee.faults["cancel_invoice"] = deque([Fault.NOT_DONE] * 3)
    desk.clock.ms += HOPELESS_MS - 1_000
    assert not await desk.keeper.look(payment_hash)
    desk.clock.ms += 1_001
    assert await desk.until_done(payment_hash) is end


async def test_a_lock_that_can_never_be_settled_is_at_least_given_back(desk: Desk) -> None:
    payment_hash = await desk.settling()
    desk.restart(preimage_key=b"\x0d" * 32)
    assert await desk.until_done(payment_hash) is LockState.LOST
    assert desk.payee.tlcs == {}
    assert "settle_invoice" not in desk.payee.calls


# Offers that are out.


async def sweep_for(desk: Desk, duration_ms: int) -> None:
    for _ in range(duration_ms // SWEEP_MS):
        desk.clock.ms += SWEEP_MS
        await desk.keeper.sweep()


async def test_a_payment_nobody_claims_is_given_back_after_its_time(desk: Desk) -> None:
    payment_hash = await desk.locked()
    await desk.keeper.sweep()
    await sweep_for(desk, CLAIM_MS - SWEEP_MS)
    assert await desk.state(payment_hash) is LockState.OFFERED
    await sweep_for(desk, SWEEP_MS)
    assert await desk.state(payment_hash) is LockState.CANCELLING
    with pytest.raises(PaymentError, match="given back"):
        await desk.claim(payment_hash)
    assert await desk.until_done(payment_hash) is LockState.CANCELLED
    assert desk.payee.tlcs == {}


async def test_a_payment_that_is_claimed_in_time_is_left_alone(desk: Desk) -> None:
    payment_hash = await desk.locked()
    await sweep_for(desk, CLAIM_MS - 2 * SWEEP_MS)
    await desk.claim(payment_hash)
    await sweep_for(desk, 10 * CLAIM_MS)
    assert await desk.state(payment_hash) is LockState.HELD
    await desk.real.release(_hold_id(payment_hash), now_ms=desk.clock.ms)
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_an_offer_nobody_pays_ends_with_its_invoice(desk: Desk) -> None:
    payment_hash = await desk.offered()
    await sweep_for(desk, 115_000)
    assert await desk.state(payment_hash) is LockState.OFFERED
    asked = desk.payee.calls.count("get_invoice")
    assert asked <= 115_000 // OFFER_ASK_MS + 1
    await sweep_for(desk, 2 * OFFER_ASK_MS)
    assert await desk.state(payment_hash) is LockState.CANCELLING
    assert await desk.until_done(payment_hash) is LockState.CANCELLED
    # Cancelled at the node too: a clock that is set back there cannot revive it.
    assert desk.payee.statuses[payment_hash] is InvoiceStatus.CANCELLED


async def test_a_node_whose_clock_is_behind_does_not_keep_an_offer_open(desk: Desk) -> None:
    payment_hash = await desk.offered()
    desk.payee.invoices[payment_hash] = replace(
        desk.payee.invoices[payment_hash], timestamp_ms=desk.clock.ms + 10 * EXPIRY_GRACE_MS
    )
    await sweep_for(desk, 120_000 + EXPIRY_GRACE_MS)
    assert await desk.state(payment_hash) is LockState.OFFERED
    await sweep_for(desk, 2 * OFFER_ASK_MS)
    assert await desk.state(payment_hash) is LockState.CANCELLING
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_an_offer_cancelled_by_hand_is_over(desk: Desk) -> None:
    payment_hash = await desk.offered()
    desk.payee.set_status(payment_hash, InvoiceStatus.CANCELLED)
    await desk.keeper.sweep()
    assert await desk.state(payment_hash) is LockState.CANCELLED
    assert desk.keeper.unclaimed_of("192.0.2.1") == 0


async def test_an_arrival_seen_before_a_restart_gets_its_whole_time_again(desk: Desk) -> None:
    payment_hash = await desk.locked()
    await sweep_for(desk, CLAIM_MS - SWEEP_MS)
    desk.restart()
    await sweep_for(desk, CLAIM_MS)
    assert await desk.state(payment_hash) is LockState.OFFERED
    await sweep_for(desk, 2 * SWEEP_MS)
    assert await desk.state(payment_hash) is LockState.CANCELLING
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_a_node_that_is_away_is_asked_once_a_sweep_however_many_offers_are_out(
    desk: Desk,
) -> None:
    hashes = [await desk.offered(f"192.0.2.{n}") for n in range(5)]
    desk.payee.is_down = True
    desk.payee.calls.clear()
    await desk.keeper.sweep()
    assert desk.payee.calls == ["get_invoice"]
    desk.payee.is_down = False
    await sweep_for(desk, 140_000)
    for payment_hash in hashes:
        assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_an_address_has_its_offers_back_when_they_are_claimed_or_over(desk: Desk) -> None:
    claimed, gone, other = [await desk.locked() for _ in range(3)]
    assert desk.keeper.unclaimed_of("192.0.2.1") == 3
    assert desk.keeper.unclaimed_of("192.0.2.2") == 0
    await desk.claim(claimed)
    assert desk.keeper.unclaimed_of("192.0.2.1") == 2
    await sweep_for(desk, CLAIM_MS + SWEEP_MS)
    assert desk.keeper.unclaimed_of("192.0.2.1") == 0
    await desk.real.release(_hold_id(claimed), now_ms=desk.clock.ms)
    for payment_hash in (claimed, gone, other):
        assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_a_lock_that_stays_open_for_long_is_said_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    payment_hash = await desk.held()
    await desk.keeper.sweep()
    desk.clock.ms += ALARM_MS
    for _ in range(3):
        await desk.keeper.sweep()
    alarms = [r for r in caplog.records if payment_hash.hex() in r.getMessage()]
    assert [r.levelname for r in alarms] == ["ERROR"]
    await desk.real.release(_hold_id(payment_hash), now_ms=desk.clock.ms)
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_an_open_lock_cannot_be_redeemed(desk: Desk) -> None:
    key = KeyRecord(
        key_digest=bytes(32), key_id="key_1", tab_id=TabId("tab_key"), session=bytes(16),
        asset=CKB, created_ms=desk.clock.ms,
    )  # fmt: skip
    await desk.real.create_key(key)
    settled = await desk.settling()
    for payment_hash in (await desk.offered(), await desk.held(), settled):
        with pytest.raises(ProtocolError) as caught:
            await desk.real.redeem(_paid(payment_hash), key, now_ms=desk.clock.ms)
        assert caught.value.code == "request_in_progress"
    await desk.until_done(settled)
    assert await desk.real.redeem(_paid(settled), key, now_ms=1) == AMOUNT - CHARGED
    await desk.real.recover(now_ms=desk.clock.ms)


# The task.


class Running:
    """The keeper's task, in time that moves when the test says."""

    def __init__(self, desk: Desk, group: Any) -> None:
        self.desk, self.group = desk, group

    async def move(self, duration_ms: int) -> None:
        await self.desk.clock.move(duration_ms)


@pytest.fixture
async def running(
    tmp_path: Path, make_config: Any, payee: Any, clock: Any, entropy: Any, make_stepped_clock: Any
) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    stepped = payee.clock = make_stepped_clock(clock.now_ms(), ledger)
    desk = Desk(ledger, payee, stepped, make_config(locks_per_address=1_000), entropy)
    yield desk  # type: ignore[misc] # a desk
    books = await ledger.books()
    ledger.close()
    assert violations(books) == []
    assert books.holds == ()


async def test_the_task_settles_at_once_what_it_is_woken_for(running: Desk) -> None:
    desk = running
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.settle()
        payment_hash = await desk.charged()
        await desk.keeper.deliver(payment_hash)
        await desk.clock.move(WAIT_MS[0] + WAIT_MS[1])
        assert await desk.state(payment_hash) is LockState.SETTLED
        group.cancel_scope.cancel()


async def test_the_task_finds_by_itself_what_a_dead_process_left(running: Desk) -> None:
    desk = running
    wanted = {
        await desk.settling(): LockState.SETTLED,
        await desk.cancelling(): LockState.CANCELLED,
        await desk.expired(): LockState.CANCELLED,
        await desk.held(): LockState.CANCELLED,
        await desk.charged(): LockState.CANCELLED,
    }
    await desk.real.recover(now_ms=desk.clock.now_ms())
    desk.restart()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.move(1_000)
        for payment_hash, state in wanted.items():
            assert await desk.state(payment_hash) is state
        group.cancel_scope.cancel()


async def test_the_task_outlives_a_ledger_that_is_away_and_one_broken_lock(running: Desk) -> None:
    desk = running
    broken, good = await desk.settling(), await desk.settling()
    status = desk.keeper._status

    async def fragile(payment_hash: PaymentHash) -> Any:
        if payment_hash == broken and desk.clock.now_ms() < mended_ms:
            raise ValueError("a bug (scripted)")
        return await status(payment_hash)

    mended_ms = desk.clock.now_ms() + 5_000
    desk.keeper._status = fragile  # type: ignore[method-assign] # broken on purpose
    desk.failing["open_locks"] = 2
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.move(4_000)
        assert await desk.state(good) is LockState.SETTLED
        assert await desk.state(broken) is LockState.SETTLING
        await desk.clock.move(30_000)
        assert await desk.state(broken) is LockState.SETTLED
        group.cancel_scope.cancel()


async def test_a_seller_that_stops_gives_back_what_nobody_claimed_and_settles_the_rest(
    running: Desk,
) -> None:
    desk = running
    paid, unpaid = await desk.locked(), await desk.offered()
    delivered = await desk.settling()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.settle()
        drained = anyio.Event()

        async def drain() -> None:
            await desk.keeper.drain()
            drained.set()

        group.start_soon(drain)
        await desk.clock.move(1_000)
        assert drained.is_set()
        group.cancel_scope.cancel()
    assert await desk.state(paid) is LockState.CANCELLED
    assert await desk.state(unpaid) is LockState.CANCELLED
    assert await desk.state(delivered) is LockState.SETTLED
    assert desk.payee.tlcs == {}
