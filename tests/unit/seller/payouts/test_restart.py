"""A payout whose process died in between: the node is asked, and nothing is sent twice."""

from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import TransportError
from infern.core.fiber.types import PaymentStatus
from infern.core.ledger.payout import PayoutEvent, PayoutState
from infern.seller import sending
from infern.seller.payouts import Pace
from infern.testing.scripted_node import Send

OWED, SENDING = PayoutState.OWED, PayoutState.SENDING
SETTLED, RETURNED = PayoutState.SETTLED, PayoutState.RETURNED
MINUTE_MS = 60_000


async def _begun(world: Any, payout: Any) -> None:
    """The books say `SENDING`, and the process died before it told the node."""
    await world.ledger.move_payout(payout.payout_id, PayoutEvent.SEND, now_ms=world.clock.now_ms())


async def _sent_and_died(world: Any, payout: Any, how: Send) -> None:
    """The node heard of it, and the process died before it knew that."""
    world.node.plan.append(how)
    await world.sweep()
    await world.restart()
    assert await world.state(payout) is SENDING


async def test_what_was_owed_is_sent_by_the_next_process(world: Any) -> None:
    payouts = [await world.withdraw(), await world.withdraw(by_invoice=True)]
    await world.restart()
    await world.sweep()
    assert [await world.state(payout) for payout in payouts] == [SETTLED, SETTLED]


@pytest.mark.parametrize("end", [PaymentStatus.SUCCESS, PaymentStatus.FAILED])
async def test_a_noted_keysend_is_asked_about(world: Any, end: PaymentStatus) -> None:
    payout = await world.withdraw()
    await _sent_and_died(world, payout, Send.STUCK)
    world.node.settle((await world.now(payout)).payment_hash, end)
    await world.sweep()
    assert await world.state(payout) is (SETTLED if end is PaymentStatus.SUCCESS else RETURNED)
    assert (len(world.node.sends), world.node.calls.count("list_payments")) == (1, 0)


@pytest.mark.parametrize(
    ("how", "state"), [(Send.UNHEARD, SETTLED), (Send.ODD, SENDING), (Send.ODD_FAIL, RETURNED)]
)
async def test_a_keysend_nobody_noted_is_found_by_its_name(
    world: Any, how: Send, state: PayoutState
) -> None:
    payout = await world.withdraw()
    await _sent_and_died(world, payout, how)
    await world.sweep_for(2 * MINUTE_MS)
    ended = await world.now(payout)
    assert ended.state is state
    assert ended.payment_hash in world.node.payments
    assert len(world.node.sends) == 1


async def test_a_keysend_that_left_no_trace_returns_after_many_searches(world: Any) -> None:
    payout = await world.withdraw()
    await _begun(world, payout)
    await world.restart()
    pace = Pace()
    await world.sweep_for((pace.searches - 2) * pace.search_ms)
    assert await world.state(payout) is SENDING
    await world.sweep_for(2 * pace.search_ms)
    ended = await world.now(payout)
    assert (ended.state, ended.failure) == (RETURNED, "fiber_unavailable")
    assert world.node.sends == []


async def test_searches_of_a_node_that_is_away_do_not_count(world: Any) -> None:
    payout = await world.withdraw()
    await _begun(world, payout)
    await world.restart()
    await world.sweep_for(5 * MINUTE_MS)
    world.node.is_down = True
    await world.sweep_for(60 * MINUTE_MS)
    world.node.is_down = False
    await world.sweep_for(4 * MINUTE_MS)
    assert await world.state(payout) is SENDING
    await world.sweep_for(4 * MINUTE_MS)
    assert await world.state(payout) is RETURNED


async def test_a_search_that_breaks_off_does_not_count(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAGE", 2)
    for _ in range(5):
        world.has(world.invoice()[1], PaymentStatus.SUCCESS)
    payout = await world.withdraw()
    await _begun(world, payout)
    await world.restart()
    world.node.faults["list_payments"] = deque([None, TransportError("broke")] * 30)
    await world.sweep_for(25 * MINUTE_MS)
    assert await world.state(payout) is SENDING


async def test_a_search_reads_page_after_page(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAGE", 2)
    for _ in range(30):
        world.has(world.invoice()[1], PaymentStatus.SUCCESS)
    payouts = [await world.withdraw() for _ in range(6)]
    world.node.plan.extend([Send.UNHEARD] * 6)
    await world.sweep_for(2 * MINUTE_MS)
    assert [await world.state(payout) for payout in payouts] == [SETTLED] * 6
    assert len(world.node.sends) == 6


async def test_a_node_with_too_many_payments_cannot_say_that_one_is_missing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAGE", 1)
    monkeypatch.setattr(sending, "MAX_PAGES", 3)
    for _ in range(5):
        world.has(world.invoice()[1], PaymentStatus.SUCCESS)
    payout = await world.withdraw()
    await _begun(world, payout)
    await world.restart()
    await world.sweep_for(30 * MINUTE_MS, step_ms=10_000)
    assert await world.state(payout) is SENDING


async def test_a_lost_keysend_is_searched_for_before_it_is_looked_at_again(world: Any) -> None:
    """Also when it shows up late: a node that was stopped for minutes goes on where it was."""
    world.node.plan.append(Send.LOST)
    payout = await world.withdraw()
    await world.sweep_for(5 * MINUTE_MS)
    assert await world.state(payout) is SENDING
    (call,) = world.node.sends
    late = world.invoice()[1]
    world.has(late, PaymentStatus.SUCCESS)
    record = world.node.payments[late]
    world.node.payments[late] = replace(record, custom_records=call.custom_records, fee=2)
    await world.sweep_for(2 * MINUTE_MS)
    ended = await world.now(payout)
    assert (ended.state, ended.payment_hash, ended.fee) == (SETTLED, late, 2)


async def test_an_invoice_the_node_never_heard_of_is_sent(world: Any) -> None:
    payout = await world.withdraw(by_invoice=True)
    await _begun(world, payout)
    await world.restart()
    await world.sweep()
    assert await world.state(payout) is SETTLED
    assert len(world.node.sends) == 1


@pytest.mark.parametrize(
    ("how", "state"),
    [(Send.SUCCEED, SETTLED), (Send.FAIL, RETURNED), (Send.STUCK, SENDING)],
)
async def test_an_invoice_the_node_has_is_not_sent_again(
    world: Any, how: Send, state: PayoutState
) -> None:
    payout = await world.withdraw(by_invoice=True)
    await _begun(world, payout)
    world.has(
        payout.payment_hash,
        {SETTLED: PaymentStatus.SUCCESS, RETURNED: PaymentStatus.FAILED}.get(
            state, PaymentStatus.INFLIGHT
        ),
    )
    await world.restart()
    await world.sweep()
    assert await world.state(payout) is state
    assert world.node.sends == []


async def test_an_expired_invoice_the_node_never_heard_of_returns_in_the_end(world: Any) -> None:
    text, payment_hash = world.invoice(expiry_s=600)
    payout = await world.withdraw(by_invoice=True, invoice=text, payment_hash=payment_hash)
    await _begun(world, payout)
    await world.restart()
    world.pass_ms(601_000)
    await world.sweep_for(9 * MINUTE_MS)
    assert await world.state(payout) is SENDING
    await world.sweep_for(3 * MINUTE_MS)
    ended = await world.now(payout)
    assert (ended.state, ended.failure) == (RETURNED, "payment_failed")
    assert world.node.sends == []


@pytest.mark.parametrize("by_invoice", [False, True])
async def test_a_node_that_forgot_a_payment_decides_nothing(
    world: Any, caplog: pytest.LogCaptureFixture, *, by_invoice: bool
) -> None:
    """Its store was lost, or it is another node: it cannot say that nothing was sent."""
    world.node.plan.append(Send.STUCK)
    payout = await world.withdraw(by_invoice=by_invoice)
    await world.sweep_for(MINUTE_MS)
    world.node.payments.clear()
    await world.sweep_for(90 * MINUTE_MS, step_ms=30_000)
    assert await world.state(payout) is SENDING
    assert (await world.tab(payout)).held == payout.reserved
    assert len(world.node.sends) == 1
    assert caplog.text.count("does not know payout") == 2
