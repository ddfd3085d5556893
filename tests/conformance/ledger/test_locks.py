"""What `ports.Ledger` promises of payments in hold mode, for any engine."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import (
    InvariantViolation,
    LedgerError,
    Money,
    PaymentError,
    ProtocolError,
    QuotaExceeded,
)
from infern.core.f402.receipt import Receipt
from infern.core.ids import PaymentHash
from infern.core.ledger.books import totals, violations
from infern.core.ledger.hold import HoldState
from infern.core.ledger.lock import LockEvent, LockState
from infern.core.ledger.records import DUST, TopupState
from infern.core.units import CKB, MAX_LEDGER_AMOUNT, Asset
from infern.testing import ledger_rows as rows

E, S = LockEvent, LockState
USD = Asset(b"\xab" * 32)
AMOUNT = 100
LARGE = 50_000


async def state_of(desk: Any, paid: Any) -> LockState:
    lock = await desk.ledger.lock(paid.payment_hash)
    state: LockState = lock.state
    return state


async def refused(asking: Any) -> Any:
    """The error with which something was refused."""
    with pytest.raises((LedgerError, PaymentError, ProtocolError)) as caught:
        await asking
    return caught.value


async def in_state(desk: Any, state: LockState, amount: int = AMOUNT, **plan: Any) -> Any:
    """A payment whose lock is in a state; 30 are charged where something is."""
    paid = await desk.offered(amount)
    if state is S.OFFERED:
        return paid
    hold = await desk.claimed(paid)
    if state is S.HELD:
        return paid
    await desk.captured(hold, 30, **plan)
    ways: dict[LockState, tuple[LockEvent, ...]] = {
        S.CHARGED: (),
        S.SETTLING: (E.DELIVER,),
        S.SETTLED: (E.DELIVER, E.PAID),
        S.LOST: (E.DELIVER, E.GONE),
        S.CANCELLING: (E.ABANDON,),
        S.CANCELLED: (E.ABANDON, E.GONE),
    }
    if ways[state]:
        await desk.move(paid, *ways[state])
    return paid


async def test_a_lock_is_recorded_before_anybody_can_pay_it(desk: Any) -> None:
    paid = await desk.offered(AMOUNT)
    assert await desk.ledger.lock(paid.payment_hash) == rows.a_lock(paid)
    assert await desk.ledger.open_locks(limit=10) == [rows.a_lock(paid)]
    assert await desk.ledger.lock(PaymentHash(bytes(32))) is None
    assert totals(await desk.ledger.books()).get(CKB) is None
    error = await refused(desk.ledger.offer_lock(rows.a_lock(paid), open_limit=100))
    assert error.code == "ledger_conflict"


async def test_open_locks_are_limited_and_ended_ones_are_not_counted(desk: Any) -> None:
    first, second = await desk.offered(1), await desk.offered(1)
    third = rows.a_payment("third", 1, is_lock=True)
    with pytest.raises(QuotaExceeded) as caught:
        await desk.ledger.offer_lock(rows.a_lock(third), open_limit=2)
    assert (caught.value.code, caught.value.money) == ("hold_unavailable", Money.UNMOVED)
    # A lock that is on its way back still takes the payer's node's room.
    await desk.move(first, E.EXPIRE)
    with pytest.raises(QuotaExceeded):
        await desk.ledger.offer_lock(rows.a_lock(third), open_limit=2)
    await desk.move(first, E.GONE)
    await desk.ledger.offer_lock(rows.a_lock(third, offered_ms=1), open_limit=2)
    found = await desk.ledger.open_locks(limit=10)
    assert [lock.payment_hash for lock in found] == [third.payment_hash, second.payment_hash]
    assert await desk.ledger.open_locks(limit=1, skip=1) == found[1:]


async def test_delivered_it_is_money_and_the_charge_stands(desk: Any) -> None:
    paid = await desk.offered(AMOUNT)
    hold = await desk.claimed(paid)
    assert await state_of(desk, paid) is S.HELD
    sums = totals(await desk.ledger.books())[CKB]
    assert (sums.received, sums.held, sums.locked, sums.liability) == (100, 100, 100, 0)
    captured = await desk.captured(hold, 30)
    assert (captured.stored.charged, captured.stored.remainder) == (30, 70)
    assert captured.stored.remainder_to == ""
    assert await state_of(desk, paid) is S.CHARGED
    assert (await desk.move(paid, E.DELIVER)).ended_ms is None
    assert totals(await desk.ledger.books())[CKB].liability == 0
    settled = await desk.move(paid, E.PAID)
    assert (settled.state, settled.ended_ms) == (S.SETTLED, 30)
    sums = totals(await desk.ledger.books())[CKB]
    assert (sums.spent, sums.locked, sums.liability, sums.returned) == (30, 0, 70, 0)
    assert await desk.ledger.open_locks(limit=10) == []
    assert await desk.ledger.receipt_of_payment(paid.payment_hash) == captured.stored


@pytest.mark.parametrize("how", ["failed", "abandoned", "lost"])
async def test_given_back_nothing_is_charged_and_nothing_is_left(desk: Any, how: str) -> None:
    paid = await desk.offered(AMOUNT)
    hold = await desk.claimed(paid)
    if how == "failed":
        await desk.ledger.release(hold.hold_id, now_ms=9)
        assert await state_of(desk, paid) is S.CANCELLING
        assert (await desk.move(paid, E.GONE)).state is S.CANCELLED
    else:
        captured = await desk.captured(hold, 30)
        event, end = (E.ABANDON, S.CANCELLED) if how == "abandoned" else (E.DELIVER, S.LOST)
        await desk.move(paid, event)
        assert totals(await desk.ledger.books())[CKB].spent == 30
        assert (await desk.move(paid, E.GONE)).state is end
        # The receipt is a fact; its charge does not count any more.
        assert Receipt.unpack(captured.stored.packed).charged == 30
        assert await desk.ledger.receipt_of_payment(paid.payment_hash) == captured.stored
    sums = totals(await desk.ledger.books())[CKB]
    assert (sums.received, sums.returned, sums.spent, sums.captured) == (100, 100, 0, 0)
    assert (sums.balance, sums.held, sums.locked) == (0, 0, 0)


async def test_a_restart_gives_back_what_was_not_delivered_for_certain(desk: Any) -> None:
    paid = {state: await in_state(desk, state) for state in LockState}
    desk.reopen()
    assert await desk.ledger.recover(now_ms=40) == 1
    assert await desk.ledger.recover(now_ms=40) == 0
    after = {state: await state_of(desk, payment) for state, payment in paid.items()}
    assert after == {
        **{state: state for state in LockState},
        S.HELD: S.CANCELLING,
        S.CHARGED: S.CANCELLING,
    }
    await desk.move(paid[S.HELD], E.GONE)
    await desk.move(paid[S.CHARGED], E.GONE)
    assert totals(await desk.ledger.books())[CKB].spent == 3 * 30  # settling, settled, cancelling


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (S.HELD, "request_in_progress"),
        (S.CHARGED, "already_delivered"),
        (S.SETTLING, "already_delivered"),
        (S.SETTLED, "already_delivered"),
        (S.CANCELLING, "payment_not_received"),
        (S.CANCELLED, "payment_not_received"),
        (S.LOST, "payment_not_received"),
    ],
)
async def test_a_proof_is_taken_once_and_never_of_what_goes_back(
    desk: Any, state: LockState, code: str
) -> None:
    paid = await in_state(desk, state)
    before = await desk.ledger.books()
    error = await refused(desk.claimed(paid))
    assert error.code == code
    if code == "payment_not_received":
        assert error.money is Money.UNMOVED
    assert await desk.ledger.books() == before


@pytest.mark.parametrize("how", ["released", "expired"])
async def test_a_failed_or_expired_run_is_not_run_again(desk: Any, how: str) -> None:
    paid = await desk.offered(AMOUNT)
    if how == "released":
        await desk.ledger.release((await desk.claimed(paid)).hold_id, now_ms=9)
    else:
        await desk.move(paid, E.EXPIRE)
    error = await refused(desk.claimed(paid))
    assert (error.code, error.money) == ("payment_not_received", Money.UNMOVED)
    assert (await desk.ledger.books()).holds == ()


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (S.OFFERED, "request_in_progress"),
        (S.HELD, "request_in_progress"),
        (S.CHARGED, "request_in_progress"),
        (S.SETTLING, "request_in_progress"),
        (S.CANCELLING, "payment_not_received"),
        (S.CANCELLED, "payment_not_received"),
        (S.LOST, "payment_not_received"),
    ],
)
async def test_nothing_is_redeemed_or_counted_that_is_no_money(
    desk: Any, state: LockState, code: str
) -> None:
    key = await desk.key()
    paid = await in_state(desk, state)
    before = await desk.ledger.books()
    for asking in (
        desk.ledger.redeem(paid, key, now_ms=9),
        desk.ledger.credit_unclaimed(paid, now_ms=9),
    ):
        assert (await refused(asking)).code == code
    assert await desk.ledger.books() == before


async def test_a_settled_remainder_without_a_plan_is_redeemed(desk: Any) -> None:
    key = await desk.key()
    paid = await in_state(desk, S.SETTLED)
    assert await desk.ledger.credit_unclaimed(paid, now_ms=9) is False
    for _ in range(3):
        assert await desk.ledger.redeem(paid, key, now_ms=9) == 70
    assert await desk.balance(key) == 70


async def test_the_remainder_goes_to_the_key_when_it_is_money_and_not_before(desk: Any) -> None:
    key = await desk.key(7)
    paid = await desk.offered(AMOUNT)
    captured = await desk.captured(await desk.claimed(paid), 30, remainder_to=key)
    assert (captured.payer.tab_id, captured.payer.balance) == (key.tab_id, 7)
    assert captured.stored.remainder_to == ""
    await desk.move(paid, E.DELIVER)
    assert await desk.balance(key) == 7
    await desk.move(paid, E.PAID)
    assert await desk.balance(key) == 77
    assert await desk.ledger.redeem(paid, key, now_ms=9) == 70
    assert await desk.balance(key) == 77


async def test_the_remainder_is_sent_back_when_it_is_money_and_not_before(desk: Any) -> None:
    paid = await in_state(desk, S.SETTLING, LARGE, sent_back=True)
    assert await desk.ledger.open_payouts(limit=10) == []
    await desk.move(paid, E.PAID)
    (payout,) = await desk.ledger.open_payouts(limit=10)
    assert payout.target == rows.NODE
    assert payout.request_key == paid.payment_hash
    rest = LARGE - 30
    assert rest - 5 <= payout.reserved <= rest
    assert totals(await desk.ledger.books())[CKB].owed == payout.reserved


async def test_dust_is_not_sent_back_but_can_be_redeemed(desk: Any) -> None:
    key = await desk.key()
    paid = await in_state(desk, S.SETTLED, DUST + 29, sent_back=True)
    assert await desk.ledger.open_payouts(limit=10) == []
    assert await desk.ledger.redeem(paid, key, now_ms=9) == DUST - 1
    another = await in_state(desk, S.SETTLED, DUST + 30, sent_back=True)
    assert len(await desk.ledger.open_payouts(limit=10)) == 1
    assert await desk.ledger.redeem(another, key, now_ms=9) < DUST


async def test_a_key_goes_before_sending_back(desk: Any) -> None:
    key = await desk.key()
    await in_state(desk, S.SETTLED, LARGE, remainder_to=key, sent_back=True)
    assert await desk.balance(key) == LARGE - 30
    assert await desk.ledger.open_payouts(limit=10) == []


@pytest.mark.parametrize("why", ["forgotten", "another asset"])
async def test_a_key_that_cannot_take_it_at_the_charge_is_no_plan(desk: Any, why: str) -> None:
    key = await desk.key(asset=USD if why == "another asset" else CKB)
    paid = await desk.offered(LARGE)
    hold = await desk.claimed(paid)
    if why == "forgotten":
        assert await desk.ledger.delete_empty_keys(created_before_ms=100, limit=10) == 1
    await desk.captured(hold, 30, remainder_to=key, sent_back=True)
    await desk.move(paid, E.DELIVER, E.PAID)
    assert len(await desk.ledger.open_payouts(limit=10)) == 1


async def test_a_key_that_waits_for_a_lock_is_not_forgotten(desk: Any) -> None:
    key = await desk.key()
    paid = await in_state(desk, S.SETTLING, remainder_to=key)
    assert await desk.ledger.delete_empty_keys(created_before_ms=100, limit=10) == 0
    await desk.move(paid, E.GONE)
    assert await desk.ledger.delete_empty_keys(created_before_ms=100, limit=10) == 1
    assert (await desk.ledger.lock(paid.payment_hash)).remainder_tab is None


async def test_a_key_filled_up_meanwhile_leaves_the_remainder_with_the_payment(desk: Any) -> None:
    key = await desk.key()
    paid = await in_state(desk, S.SETTLING, remainder_to=key)
    topup = await desk.topup(key, MAX_LEDGER_AMOUNT)
    await desk.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
    assert (await desk.move(paid, E.PAID)).state is S.SETTLED
    assert await desk.balance(key) == MAX_LEDGER_AMOUNT
    assert await desk.ledger.redeem(paid, await desk.key(), now_ms=9) == 70


async def test_what_the_node_settled_although_it_was_to_go_back_is_credit(desk: Any) -> None:
    """A ledger from a backup may be behind its node."""
    key = await desk.key()
    failed, unclaimed = await desk.offered(AMOUNT), await desk.offered(AMOUNT)
    await desk.ledger.release((await desk.claimed(failed)).hold_id, now_ms=9)
    await desk.move(failed, E.PAID)
    await desk.move(unclaimed, E.EXPIRE, E.PAID)
    charged = await in_state(desk, S.CANCELLING)
    await desk.move(charged, E.PAID)
    for paid in (failed, unclaimed, charged):
        error = await refused(desk.claimed(paid))
        assert (error.code, error.money) == ("already_delivered", Money.MOVED)
    assert await desk.ledger.credit_unclaimed(unclaimed, now_ms=9) is True
    assert totals(await desk.ledger.books())[CKB].liability == 270
    for paid, left in ((failed, 100), (unclaimed, 100), (charged, 70)):
        assert await desk.ledger.redeem(paid, key, now_ms=9) == left


@pytest.mark.parametrize("state", list(LockState))
async def test_every_edge_is_booked_or_refused_whole(desk: Any, state: LockState) -> None:
    allowed = {
        (S.OFFERED, E.EXPIRE), (S.OFFERED, E.GONE),
        (S.CHARGED, E.DELIVER), (S.CHARGED, E.ABANDON),
        (S.SETTLING, E.PAID), (S.SETTLING, E.GONE),
        (S.CANCELLING, E.PAID), (S.CANCELLING, E.GONE),
    }  # fmt: skip
    for event in LockEvent:
        paid = await in_state(desk, state)
        before = await desk.ledger.books()
        if (state, event) in allowed:
            await desk.move(paid, event)
        elif event in (E.CLAIM, E.CAPTURE, E.RELEASE):
            # These come with a hold, or the money would not follow.
            with pytest.raises(InvariantViolation):
                await desk.move(paid, event)
            assert await desk.ledger.books() == before
        else:
            assert (await refused(desk.move(paid, event))).code == "ledger_conflict"
            assert await desk.ledger.books() == before
        assert violations(await desk.ledger.books()) == []


async def test_a_lock_that_is_not_there_moves_nowhere(desk: Any) -> None:
    error = await refused(desk.move(rows.a_payment("never", 1, is_lock=True), E.GONE))
    assert error.code == "ledger_conflict"


async def test_a_token_cannot_change_the_mode_of_its_payment(desk: Any) -> None:
    key = await desk.key()
    lock, upfront = await desk.offered(AMOUNT), desk.payment(AMOUNT)
    for lie in (replace(lock, is_lock=False), replace(upfront, is_lock=True)):
        for asking in (
            desk.claimed(lie),
            desk.ledger.redeem(lie, key, now_ms=9),
            desk.ledger.credit_unclaimed(lie, now_ms=9),
        ):
            assert (await refused(asking)).code == "ledger_conflict"
    assert totals(await desk.ledger.books())[CKB].received == 0


@pytest.mark.parametrize("change", ["amount", "asset", "digest"])
async def test_a_token_that_says_other_things_than_its_lock_is_a_bug(
    desk: Any, change: str
) -> None:
    paid = await desk.offered(AMOUNT)
    other = {"amount": AMOUNT + 1, "asset": USD, "digest": b"\x01" * 32}[change]
    with pytest.raises(InvariantViolation):
        await desk.claimed(replace(paid, **{change: other}))
    assert await state_of(desk, paid) is S.OFFERED
    assert (await desk.ledger.books()).tabs == ()


async def test_copies_of_one_proof_and_its_expiry_at_once_have_one_winner(desk: Any) -> None:
    for _ in range(10):
        paid = await desk.offered(AMOUNT)
        found = await asyncio.gather(
            *(desk.claimed(paid) for _ in range(5)),
            desk.move(paid, E.EXPIRE),
            *(desk.claimed(paid) for _ in range(5)),
            return_exceptions=True,
        )
        assert sum(not isinstance(outcome, BaseException) for outcome in found) == 1
        assert await state_of(desk, paid) in (S.HELD, S.CANCELLING)


async def test_the_hold_of_a_lock_says_what_became_of_it(desk: Any) -> None:
    """Seen through the books: a hold is open exactly while its lock is held."""
    for state in LockState:
        await in_state(desk, state)
    books = await desk.ledger.books()
    held = {lock.hold_id for lock in books.locks if lock.state is S.HELD}
    assert {hold.hold_id for hold in books.holds if hold.state is HoldState.OPEN} == held
