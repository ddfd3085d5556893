"""The payout desk against a scripted node: every way a payment can go, and where the money is."""

import logging
from collections import deque
from dataclasses import replace
from typing import Any

import anyio
import pytest

from infern.core.errors import LedgerError, LocalProtocolError, NoRoute
from infern.core.fiber.channel_types import ChannelStateName, TlcDirection, TlcStage
from infern.core.fiber.errors import FiberNodeError, FiberUnauthorized
from infern.core.fiber.keysend import NAME_RECORD
from infern.core.fiber.types import PaymentStatus
from infern.core.ledger.payout import PayoutState
from infern.seller.payouts import Pace
from infern.testing.scripted_node import Send

OWED, SENDING = PayoutState.OWED, PayoutState.SENDING
SETTLED, RETURNED = PayoutState.SETTLED, PayoutState.RETURNED
HOUR_MS = 3_600_000


async def test_a_withdrawal_is_sent_once_and_pays_the_fee_it_took(world: Any) -> None:
    payout = await world.withdraw()
    await world.sweep()
    ended = await world.now(payout)
    assert (ended.state, ended.fee, ended.failure) == (SETTLED, 1, "")
    assert ended.payment_hash in world.node.payments
    tab = await world.tab(payout)
    assert (tab.refunded, tab.held) == (world.amount + 1, 0)
    (call,) = world.node.sends
    assert (call.target, call.amount, call.max_fee_amount) == (world.payer, world.amount, world.cap)
    assert call.custom_records == {NAME_RECORD: payout.payout_id.encode()}
    await world.sweep()
    assert len(world.node.sends) == 1


async def test_an_invoice_is_paid_once(world: Any) -> None:
    payout = await world.withdraw(by_invoice=True)
    await world.sweep()
    ended = await world.now(payout)
    assert (ended.state, ended.fee) == (SETTLED, 1)
    assert world.node.paid == [payout.payment_hash]
    (call,) = world.node.sends
    assert (call.invoice, call.max_fee_amount) == (payout.invoice, world.cap)


async def test_a_remainder_goes_back_and_what_routing_left_can_be_redeemed(world: Any) -> None:
    payout = await world.remainder()
    await world.sweep()
    assert await world.state(payout) is SETTLED
    tab = await world.tab(payout)
    assert tab.refunded == payout.amount + 1
    assert tab.balance == payout.fee_cap - 1


@pytest.mark.parametrize(
    ("how", "state", "failure"),
    [
        (Send.SUCCEED, SETTLED, ""),
        (Send.FAIL, RETURNED, "payment_failed"),
        (Send.NO_ROUTE, RETURNED, "no_route"),
        (Send.REFUSED, RETURNED, "payment_failed"),
        (Send.UNSENT, SETTLED, ""),
        (Send.LOST, RETURNED, "fiber_unavailable"),
        (Send.UNHEARD, SETTLED, ""),
        (Send.ODD_FAIL, RETURNED, "payment_failed"),
    ],
)
async def test_however_a_keysend_goes_it_ends_and_pays_once(
    world: Any, how: Send, state: PayoutState, failure: str
) -> None:
    world.node.plan.append(how)
    payout = await world.withdraw()
    await world.sweep_for(12 * 60_000, step_ms=30_000)
    ended = await world.now(payout)
    assert (ended.state, ended.failure) == (state, failure)
    assert len(world.node.paid) == (state is SETTLED)
    tab = await world.tab(payout)
    assert tab.held == 0
    assert tab.refunded == ((world.amount + ended.fee) if state is SETTLED else 0)


@pytest.mark.parametrize(
    ("how", "state", "failure"),
    [
        (Send.SUCCEED, SETTLED, ""),
        (Send.FAIL, RETURNED, "payment_failed"),
        (Send.NO_ROUTE, RETURNED, "no_route"),
        (Send.REFUSED, RETURNED, "payment_failed"),
        (Send.UNSENT, SETTLED, ""),
        # Fiber keys a payment of an invoice by its hash: what left no trace is sent again.
        (Send.LOST, SETTLED, ""),
        (Send.UNHEARD, SETTLED, ""),
        (Send.ODD_FAIL, RETURNED, "payment_failed"),
    ],
)
async def test_however_an_invoice_goes_it_ends_and_pays_once(
    world: Any, how: Send, state: PayoutState, failure: str
) -> None:
    world.node.plan.append(how)
    payout = await world.withdraw(by_invoice=True)
    await world.sweep_for(5 * 60_000, step_ms=30_000)
    ended = await world.now(payout)
    assert (ended.state, ended.failure) == (state, failure)
    assert world.node.paid == ([payout.payment_hash] if state is SETTLED else [])


@pytest.mark.parametrize("by_invoice", [False, True])
@pytest.mark.parametrize("how", [Send.STUCK, Send.ODD])
@pytest.mark.parametrize("end", [PaymentStatus.SUCCESS, PaymentStatus.FAILED])
async def test_a_payment_that_is_stuck_for_hours_stays_held_until_it_ends(
    world: Any, caplog: pytest.LogCaptureFixture, *, by_invoice: bool, how: Send, end: PaymentStatus
) -> None:
    world.node.plan.append(how)
    payout = await world.withdraw(by_invoice=by_invoice)
    await world.sweep_for(3 * HOUR_MS, step_ms=60_000)
    assert await world.state(payout) is SENDING
    tab = await world.tab(payout)
    assert (tab.held, tab.refunded) == (payout.reserved, 0)
    alarms = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(alarms) == 2, "once an hour"
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, end)
    await world.sweep_for(120_000)
    ended = await world.now(payout)
    assert ended.state is (SETTLED if end is PaymentStatus.SUCCESS else RETURNED)
    assert ended.payment_hash == payment_hash
    assert len(world.node.sends) == 1


async def test_nothing_is_sent_while_the_node_is_away(world: Any) -> None:
    world.node.is_down = True
    keysend, invoice = await world.withdraw(), await world.withdraw(by_invoice=True)
    await world.sweep_for(5 * 60_000, step_ms=30_000)
    assert [await world.state(payout) for payout in (keysend, invoice)] == [OWED, OWED]
    world.node.is_down = False
    await world.sweep_for(120_000)
    assert [await world.state(payout) for payout in (keysend, invoice)] == [SETTLED, SETTLED]
    assert len(world.node.sends) == 2


async def test_what_cannot_be_sent_for_ten_minutes_returns(world: Any) -> None:
    world.node.is_down = True
    keysend, invoice = await world.withdraw(), await world.withdraw(by_invoice=True)
    await world.sweep_for(12 * 60_000, step_ms=30_000)
    for payout in (keysend, invoice):
        ended = await world.now(payout)
        assert (ended.state, ended.failure) == (RETURNED, "fiber_unavailable")
        assert (await world.tab(payout)).held == 0
    assert world.node.sends == []


async def test_without_a_route_a_withdrawal_returns_before_anything_is_sent(world: Any) -> None:
    world.node.routes.append(NoRoute("no path found"))
    payout = await world.withdraw()
    await world.sweep()
    ended = await world.now(payout)
    assert (ended.state, ended.failure, ended.sent_ms) == (RETURNED, "no_route", None)
    assert (world.node.sends, world.node.payments) == ([], {})


async def test_a_route_for_a_remainder_is_looked_for_some_times(world: Any) -> None:
    """The payer's payment may still be settling when its remainder begins its way back."""
    pace = Pace()
    world.node.routes.extend([NoRoute("no path found")] * (pace.route_tries - 1))
    first = await world.remainder()
    await world.sweep_for(sum(pace.later_ms[: pace.route_tries]) + 5_000)
    assert await world.state(first) is SETTLED
    world.node.routes.extend([NoRoute("no path found")] * 100)
    second = await world.remainder()
    await world.sweep_for(10 * 60_000, step_ms=10_000)
    ended = await world.now(second)
    assert (ended.state, ended.failure) == (RETURNED, "no_route")
    assert len(world.node.routes) == 100 - pace.route_tries
    tab = await world.tab(second)
    assert (tab.held, tab.balance) == (0, second.reserved)


async def test_a_node_that_may_not_send_returns_everything_at_once(world: Any) -> None:
    world.node.routes.extend([FiberUnauthorized("the Fiber node refuses send_payment")] * 2)
    for payout in (await world.withdraw(), await world.withdraw(by_invoice=True)):
        await world.sweep()
        ended = await world.now(payout)
        assert (ended.state, ended.failure) == (RETURNED, "fiber_unavailable")
    assert world.node.sends == []


async def test_an_odd_error_of_a_rehearsal_is_no_verdict(world: Any) -> None:
    world.node.routes.append(FiberNodeError("odd"))
    payout = await world.withdraw()
    await world.sweep()
    assert await world.state(payout) is OWED
    await world.sweep_for(5_000)
    assert await world.state(payout) is SETTLED


@pytest.mark.parametrize("status", [PaymentStatus.SUCCESS, PaymentStatus.INFLIGHT])
async def test_a_payment_of_somebody_else_is_no_payout(world: Any, status: PaymentStatus) -> None:
    """The operator paid this invoice by hand, or an older ledger did: this tab paid nothing."""
    payout = await world.withdraw(by_invoice=True)
    world.has(payout.payment_hash, status)
    await world.sweep()
    ended = await world.now(payout)
    assert (ended.state, ended.failure) == (RETURNED, "payment_failed")
    assert world.node.sends == []


async def test_an_old_failure_of_the_invoice_is_history(world: Any) -> None:
    payout = await world.withdraw(by_invoice=True)
    world.has(payout.payment_hash, PaymentStatus.FAILED)
    await world.sweep()
    assert await world.state(payout) is SETTLED


@pytest.mark.parametrize("by_invoice", [False, True])
async def test_a_failure_does_not_count_while_its_money_is_still_out(
    world: Any, pending: Any, *, by_invoice: bool
) -> None:
    """A payee that keeps a part of a payment whose other part failed could take it later."""
    world.node.plan.append(Send.STUCK)
    payout = await world.withdraw(by_invoice=by_invoice)
    await world.sweep()
    (payment_hash,) = world.node.payments
    world.node.channels = (pending(payment_hash),)
    world.node.settle(payment_hash, PaymentStatus.FAILED)
    await world.sweep_for(HOUR_MS, step_ms=60_000)
    assert await world.state(payout) is SENDING
    world.node.faults["list_channels"] = deque([LocalProtocolError("no")])
    world.node.channels = ()
    await world.sweep_for(60_000)
    await world.sweep_for(60_000)
    assert await world.state(payout) is RETURNED


@pytest.mark.parametrize(
    "channel",
    [
        {"direction": TlcDirection.INBOUND},
        {"stage": TlcStage.REMOVE_ACK_CONFIRMED},
        {"state": ChannelStateName.CLOSED},
    ],
)
async def test_a_tlc_that_cannot_be_taken_any_more_keeps_nothing_held(
    world: Any, pending: Any, channel: dict[str, Any]
) -> None:
    world.node.plan.append(Send.FAIL)
    payout = await world.withdraw(by_invoice=True)
    world.node.channels = (pending(payout.payment_hash, **channel),)
    await world.sweep()
    assert await world.state(payout) is RETURNED


async def test_a_tlc_on_its_way_through_the_chain_counts(world: Any, pending: Any) -> None:
    world.node.plan.append(Send.FAIL)
    payout = await world.withdraw(by_invoice=True)
    flags = frozenset({"UNCOOPERATIVE_LOCAL", "WAITING_ONCHAIN_SETTLEMENT"})
    closed = pending(payout.payment_hash, state=ChannelStateName.CLOSED, flags=flags)
    world.node.channels = (closed,)
    await world.sweep_for(HOUR_MS, step_ms=60_000)
    assert await world.state(payout) is SENDING


async def test_a_fee_over_its_cap_is_not_the_payer_s(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.node.fee = world.cap + 5
    payout = await world.withdraw()
    await world.sweep()
    assert (await world.now(payout)).fee == world.cap
    assert "over its cap" in caplog.text


async def test_so_many_are_on_their_way_to_one_node(make_world: Any) -> None:
    world = await make_world(pace=replace(Pace(), per_payee=2))
    world.node.plan.extend([Send.STUCK] * 3)
    slow = [await world.withdraw() for _ in range(4)]
    other = await world.withdraw(target=world.other)
    await world.sweep()
    assert [await world.state(payout) for payout in slow] == [SENDING, SENDING, OWED, OWED]
    assert await world.state(other) is SENDING
    for payment_hash in list(world.node.payments):
        world.node.settle(payment_hash, PaymentStatus.SUCCESS)
    await world.sweep_for(120_000)
    assert [await world.state(payout) for payout in (*slow, other)] == [SETTLED] * 5


async def test_so_many_are_on_their_way_in_all(make_world: Any) -> None:
    world = await make_world(in_flight=3)
    world.node.plan.extend([Send.STUCK] * 3)
    targets = (world.payer, world.other) * 3
    payouts = [await world.withdraw(target=target) for target in targets]
    await world.sweep()
    states = [await world.state(payout) for payout in payouts]
    assert sorted(states) == [OWED] * 3 + [SENDING] * 3
    await world.sweep_for(11 * 60_000, step_ms=60_000)
    ended = [await world.now(payout) for payout in payouts]
    assert sorted(payout.state for payout in ended) == [RETURNED] * 3 + [SENDING] * 3
    assert {p.failure for p in ended if p.state is RETURNED} == {"overloaded"}


async def test_two_that_begin_together_do_not_both_take_the_last_place(make_world: Any) -> None:
    world = await make_world(in_flight=1)
    world.node.plan.append(Send.STUCK)
    for _ in range(5):
        await world.withdraw()
    await world.sweep()
    assert len(world.node.sends) == 1


async def test_those_that_go_past_a_stuck_one(make_world: Any) -> None:
    world = await make_world(pace=replace(Pace(), attended=1))
    world.node.plan.append(Send.STUCK)
    stuck = await world.withdraw()
    later = [await world.withdraw() for _ in range(3)]
    await world.sweep_for(60_000)
    assert await world.state(stuck) is SENDING
    assert [await world.state(payout) for payout in later] == [SETTLED] * 3


class Flaky:
    """A ledger whose named methods fail as planned, call after call; None lets one work."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.failures: dict[str, list[Exception | None]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **more: Any) -> Any:
            left = self.failures.get(name)
            failure = left.pop(0) if left else None
            if failure is not None:
                raise failure
            return await method(*args, **more)

        return call


@pytest.fixture
async def flaky(make_world: Any) -> tuple[Any, Flaky]:
    made: list[Flaky] = []

    def wrap(ledger: Any) -> Flaky:
        made.append(Flaky(ledger))
        return made[-1]

    world = await make_world(wrap=wrap)
    return world, made[-1]


def _away(count: int) -> list[Exception | None]:
    return [LedgerError("away") for _ in range(count)]


async def test_what_cannot_be_booked_as_begun_is_not_sent(flaky: tuple[Any, Flaky]) -> None:
    world, ledger = flaky
    payout = await world.withdraw()
    ledger.failures["move_payout"] = _away(1)
    await world.sweep()
    assert (await world.state(payout), world.node.sends) == (OWED, [])
    await world.sweep_for(5_000)
    assert await world.state(payout) is SETTLED


async def test_a_hash_that_is_not_noted_is_known_all_the_same(flaky: tuple[Any, Flaky]) -> None:
    world, ledger = flaky
    world.node.plan.append(Send.STUCK)
    payout = await world.withdraw()
    ledger.failures["note_payment"] = _away(1)
    await world.sweep()
    assert (await world.now(payout)).payment_hash is None
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.SUCCESS)
    await world.sweep_for(60_000)
    ended = await world.now(payout)
    assert (ended.state, ended.payment_hash) == (SETTLED, payment_hash)
    assert "list_payments" not in world.node.calls


@pytest.mark.parametrize(("how", "state"), [(Send.SUCCEED, SETTLED), (Send.FAIL, RETURNED)])
async def test_an_end_that_is_not_booked_is_booked_later(
    flaky: tuple[Any, Flaky], how: Send, state: PayoutState
) -> None:
    world, ledger = flaky
    world.node.plan.append(how)
    payout = await world.withdraw()
    ledger.failures["move_payout"] = [None, *_away(2)]
    await world.sweep()
    assert await world.state(payout) is SENDING
    await world.sweep_for(60_000)
    assert await world.state(payout) is state
    assert len(world.node.sends) == 1


async def test_one_that_cannot_be_attended_to_keeps_no_other_waiting(
    flaky: tuple[Any, Flaky], caplog: pytest.LogCaptureFixture
) -> None:
    world, ledger = flaky
    first, second = await world.withdraw(), await world.withdraw()
    ledger.failures["move_payout"] = [RuntimeError("a bug")]
    await world.sweep()
    assert sorted([await world.state(first), await world.state(second)]) == [OWED, SETTLED]
    assert "cannot be attended to" in caplog.text
    await world.sweep_for(60_000)
    assert [await world.state(first), await world.state(second)] == [SETTLED, SETTLED]


async def test_a_clock_that_was_set_back_delays_nothing_for_long(world: Any) -> None:
    world.node.is_down = True
    payout = await world.withdraw()
    await world.sweep_for(60_000)
    world.clock.ms -= 24 * HOUR_MS
    world.node.is_down = False
    await world.sweep()
    assert await world.state(payout) is SETTLED


async def test_the_desk_runs_by_itself_and_tells_who_watches(world: Any) -> None:
    payout = await world.withdraw()
    async with anyio.create_task_group() as group:
        with world.desk.watching(payout.payout_id) as ended, anyio.fail_after(10):
            group.start_soon(world.desk.run)
            await ended.wait()
        assert await world.state(payout) is SETTLED
        later = await world.withdraw()
        with world.desk.watching(later.payout_id) as ended, anyio.fail_after(10):
            world.desk.wake()
            await ended.wait()
        group.cancel_scope.cancel()
    assert await world.state(later) is SETTLED


async def test_a_ledger_that_is_away_does_not_end_the_desk(flaky: tuple[Any, Flaky]) -> None:
    world, ledger = flaky
    payout = await world.withdraw()
    ledger.failures["open_payouts"] = _away(3)
    async with anyio.create_task_group() as group:
        with world.desk.watching(payout.payout_id) as ended, anyio.fail_after(10):
            group.start_soon(world.desk.run)
            await ended.wait()
        group.cancel_scope.cancel()
