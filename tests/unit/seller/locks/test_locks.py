"""A held payment is settled or given back, whatever the node and the ledger do meanwhile."""

import hashlib
from collections import deque
from typing import Any

import pytest

from infern.core.errors import PaymentError, ProtocolError
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import HoldId
from infern.core.ledger.lock import LockState
from infern.seller.locks import HOPELESS_MS, MISSING_MS, RETELL_MS, TLC_GONE_MS, UNMADE_MS
from infern.testing.offers import TERMS
from infern.testing.scripted_payee import Fault

AMOUNT = TERMS.ceiling
CHARGED = 1_000


async def test_what_was_delivered_is_settled_and_only_then_is_the_preimage_told(desk: Any) -> None:
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
    desk: Any,
) -> None:
    payment_hash = await desk.cancelling()
    assert await desk.until_done(payment_hash) is LockState.CANCELLED
    assert desk.payee.tlcs == {}
    assert desk.payee.statuses[payment_hash] is InvoiceStatus.CANCELLED
    assert "settle_invoice" not in desk.payee.calls
    sums = await desk.sums()
    assert (sums.received, sums.returned, sums.spent, sums.balance) == (AMOUNT, AMOUNT, 0, 0)


async def test_a_charge_nobody_had_the_answer_of_is_undone(desk: Any) -> None:
    payment_hash = await desk.charged()
    await desk.keeper.give_back(payment_hash, HoldId("hold_of_somebody_else"))
    assert await desk.state(payment_hash) is LockState.CHARGED
    await desk.keeper.give_back(payment_hash, desk.hold_id(payment_hash))
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
    desk: Any, begin: str, end: LockState, method: str, faults: list[Fault]
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
    desk: Any, begin: str, end: LockState, methods: Any
) -> None:
    payment_hash = await getattr(desk, begin)()
    desk.failing.update(lock=2, move_lock=2)
    assert await desk.until_done(payment_hash) is end


@pytest.mark.parametrize(("begin", "end", "methods"), [SETTLE, CANCEL, EXPIRE])
async def test_a_node_that_is_away_is_waited_for_and_a_restart_goes_on(
    desk: Any, begin: str, end: LockState, methods: Any, caplog: pytest.LogCaptureFixture
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
    desk: Any, status: InvoiceStatus, caplog: pytest.LogCaptureFixture
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


async def test_a_tlc_that_went_back_behind_our_back_is_noticed_but_not_in_haste(desk: Any) -> None:
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


async def test_a_tlc_that_is_there_is_waited_for_and_the_preimage_told_again(desk: Any) -> None:
    payment_hash = await desk.settling()
    desk.payee.settling_looks = 10**6
    for _ in range(200):
        assert not await desk.keeper.look(payment_hash)
        desk.clock.ms += 1_000
    told = desk.payee.calls.count("settle_invoice")
    assert 200_000 // RETELL_MS - 2 <= told <= 200_000 // RETELL_MS + 1
    desk.payee._settling[payment_hash] = 0
    assert await desk.until_done(payment_hash) is LockState.SETTLED


async def test_a_payment_settled_by_hand_is_money_that_can_be_redeemed(desk: Any) -> None:
    payment_hash = await desk.cancelling()
    desk.payee.drop(payment_hash)
    desk.payee.set_status(payment_hash, InvoiceStatus.PAID)
    assert await desk.until_done(payment_hash) is LockState.SETTLED
    key = await desk.key()
    moved = await desk.real.redeem(desk.paid(payment_hash), key, now_ms=desk.clock.ms)
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
    desk: Any, begin: str, patience_ms: int, end: LockState
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


async def test_a_node_that_comes_back_with_the_invoice_ends_it_as_usual(desk: Any) -> None:
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
    desk: Any, begin: str, end: LockState
) -> None:
    payment_hash = await getattr(desk, begin)()
    desk.payee.settling_looks = 10**6
    desk.payee.faults["cancel_invoice"] = deque([Fault.NOT_DONE] * 3)
    desk.clock.ms += HOPELESS_MS - 1_000
    assert not await desk.keeper.look(payment_hash)
    desk.clock.ms += 1_001
    assert await desk.until_done(payment_hash) is end


async def test_a_lock_that_can_never_be_settled_is_at_least_given_back(desk: Any) -> None:
    payment_hash = await desk.settling()
    desk.restart(preimage_key=b"\x0d" * 32)
    assert await desk.until_done(payment_hash) is LockState.LOST
    assert desk.payee.tlcs == {}
    assert "settle_invoice" not in desk.payee.calls


async def test_an_open_lock_cannot_be_redeemed(desk: Any) -> None:
    key = await desk.key()
    settled = await desk.settling()
    for payment_hash in (await desk.offered(), await desk.held(), settled):
        with pytest.raises(ProtocolError) as caught:
            await desk.real.redeem(desk.paid(payment_hash), key, now_ms=desk.clock.ms)
        assert caught.value.code == "request_in_progress"
    await desk.until_done(settled)
    assert await desk.real.redeem(desk.paid(settled), key, now_ms=1) == AMOUNT - CHARGED
    await desk.real.recover(now_ms=desk.clock.ms)
