"""What `ports.Ledger` promises of money on its way out, for any engine."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import (
    InsufficientBalance,
    InvariantViolation,
    LedgerError,
    Money,
    ProtocolError,
)
from infern.core.ids import PayoutId, TabId
from infern.core.ledger.books import totals
from infern.core.ledger.payout import PayoutEvent, PayoutPurpose, PayoutState
from infern.core.ledger.records import DUST
from infern.core.units import CKB, Asset
from infern.testing import ledger_rows as rows

E, S = PayoutEvent, PayoutState
USD = Asset(b"\xab" * 32)
FUNDS = 10_000
OUT = 1_000
RESERVED = OUT + 10


async def asked(desk: Any, key: Any, **more: Any) -> Any:
    """A withdrawal, reserved."""
    return await desk.ledger.add_payout(rows.a_withdrawal(desk.name(), key, OUT, **more))


async def moved(desk: Any, payout: Any, *events: PayoutEvent, **more: Any) -> Any:
    for event in events:
        named = more if event in (E.SUCCEED, E.FAIL) else {}
        payout = await desk.ledger.move_payout(payout.payout_id, event, now_ms=30, **named)
    return payout


async def refused(asking: Any) -> Any:
    with pytest.raises((LedgerError, ProtocolError)) as caught:
        await asking
    return caught.value


@pytest.mark.parametrize("by_invoice", [True, False])
async def test_what_goes_out_was_reserved_and_what_routing_left_returns(
    desk: Any, by_invoice: bool
) -> None:
    key = await desk.key(FUNDS)
    payout = await asked(desk, key, by_invoice=by_invoice)
    assert await desk.ledger.open_payouts(limit=10) == [payout]
    assert await desk.ledger.payout(key.tab_id, payout.request_key) == payout
    assert await desk.ledger.payout(key.tab_id, bytes(32)) is None
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.held, tab.balance) == (RESERVED, FUNDS - RESERVED)
    sending = await moved(desk, payout, E.SEND)
    assert (sending.state, sending.sent_ms, sending.ended_ms) == (S.SENDING, 30, None)
    settled = await moved(desk, payout, E.SUCCEED, fee=3)
    assert (settled.state, settled.fee, settled.ended_ms) == (S.SETTLED, 3, 30)
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.held, tab.refunded, tab.balance) == (0, OUT + 3, FUNDS - OUT - 3)
    sums = totals(await desk.ledger.books())[CKB]
    assert (sums.sent, sums.owed) == (OUT + 3, 0)
    assert await desk.ledger.open_payouts(limit=10) == []
    assert await desk.ledger.payouts(key.tab_id, limit=10) == [settled]


@pytest.mark.parametrize("events", [(E.FAIL,), (E.SEND, E.FAIL)])
async def test_what_did_not_go_out_is_balance_again(desk: Any, events: Any) -> None:
    key = await desk.key(FUNDS)
    payout = await asked(desk, key)
    ended = await moved(desk, payout, *events, failure="no_route")
    assert (ended.state, ended.failure, ended.fee) == (S.RETURNED, "no_route", 0)
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.held, tab.refunded, tab.balance) == (0, 0, FUNDS)
    # A new wish takes it out after all.
    await moved(desk, await asked(desk, key), E.SEND, E.SUCCEED)
    assert await desk.balance(key) == FUNDS - OUT


@pytest.mark.parametrize("state", list(PayoutState))
async def test_every_edge_is_booked_or_refused_whole(desk: Any, state: PayoutState) -> None:
    ways = {S.OWED: (), S.SENDING: (E.SEND,), S.SETTLED: (E.SEND, E.SUCCEED), S.RETURNED: (E.FAIL,)}
    allowed = {(S.OWED, E.SEND), (S.OWED, E.FAIL), (S.SENDING, E.SUCCEED), (S.SENDING, E.FAIL)}
    for event in PayoutEvent:
        payout = await asked(desk, await desk.key(FUNDS))
        if ways[state]:
            payout = await moved(desk, payout, *ways[state])
        before = await desk.ledger.books()
        if (state, event) in allowed:
            await moved(desk, payout, event)
        else:
            assert (await refused(moved(desk, payout, event))).code == "ledger_conflict"
            assert await desk.ledger.books() == before


async def test_a_payout_that_is_not_there_moves_nowhere(desk: Any) -> None:
    never = rows.a_withdrawal("never", await desk.key(), 1)
    assert (await refused(moved(desk, never, E.SEND))).code == "ledger_conflict"
    await desk.ledger.note_payment(never.payout_id, rows.payment_hash("x"))


async def test_asking_again_is_the_same_payout_in_every_state(desk: Any) -> None:
    key = await desk.key(FUNDS)
    payout = await asked(desk, key, by_invoice=False)
    again = replace(payout, payout_id=PayoutId("other"), created_ms=99, fee_cap=11)
    assert await desk.ledger.add_payout(again) == payout
    for event in (E.SEND, E.SUCCEED):
        known = await moved(desk, payout, event)
        assert await desk.ledger.add_payout(again) == known
    await desk.ledger.note_payment(payout.payout_id, rows.payment_hash("late"))
    assert (await desk.ledger.add_payout(again)).payment_hash == rows.payment_hash("late")
    assert await desk.balance(key) == FUNDS - OUT
    for change in (
        {"amount": OUT + 1},
        {"target": b"\x03" * 33},
        {"target": None, "invoice": "fibd1"},
        {"purpose": PayoutPurpose.REMAINDER},
        {"asset": USD},
    ):
        error = await refused(desk.ledger.add_payout(replace(again, **change)))
        assert (error.code, error.money) == ("idempotency_conflict", Money.UNMOVED)


async def test_two_keys_may_use_the_same_id(desk: Any) -> None:
    first, second = await desk.key(FUNDS), await desk.key(FUNDS)
    payout = await asked(desk, first)
    other = rows.a_withdrawal(desk.name(), second, OUT)
    await desk.ledger.add_payout(replace(other, request_key=payout.request_key))
    assert len(await desk.ledger.open_payouts(limit=10)) == 2


async def test_one_withdrawal_of_a_key_at_a_time(desk: Any) -> None:
    key, other = await desk.key(FUNDS), await desk.key(FUNDS)
    first = await asked(desk, key)
    error = await refused(asked(desk, key))
    assert (error.code, error.money) == ("request_in_progress", Money.UNMOVED)
    await asked(desk, other)
    await moved(desk, first, E.SEND)
    assert (await refused(asked(desk, key))).code == "request_in_progress"
    await moved(desk, first, E.SUCCEED)
    await asked(desk, key)


async def test_one_invoice_is_paid_by_one_payout(desk: Any) -> None:
    key, other = await desk.key(FUNDS), await desk.key(FUNDS)
    payout = await asked(desk, key)
    copy = rows.a_withdrawal(desk.name(), other, OUT)
    copy = replace(copy, invoice=payout.invoice, payment_hash=payout.payment_hash)
    for events in ((), (E.FAIL,)):
        if events:
            await moved(desk, payout, *events)
        error = await refused(desk.ledger.add_payout(copy))
        assert (error.code, error.money) == ("idempotency_conflict", Money.UNMOVED)
    assert await desk.balance(other) == FUNDS


async def test_nothing_is_reserved_beyond_the_balance(desk: Any) -> None:
    key = await desk.key(RESERVED - 1)
    with pytest.raises(InsufficientBalance) as caught:
        await asked(desk, key)
    assert caught.value.details["required"] == str(RESERVED)
    assert "take out less" in caught.value.message
    await desk.held(key, RESERVED - 1)
    with pytest.raises(InsufficientBalance):
        await desk.ledger.add_payout(rows.a_withdrawal(desk.name(), key, 1))


async def test_a_payout_needs_a_tab_of_its_asset(desk: Any) -> None:
    key = await desk.key(FUNDS)
    for wrong in ({"asset": USD}, {"tab_id": TabId("none")}):
        payout = replace(rows.a_withdrawal(desk.name(), key, OUT), **wrong)
        assert (await refused(desk.ledger.add_payout(payout))).code == "ledger_conflict"
    assert await desk.balance(key) == FUNDS


async def test_what_is_locked_is_not_sent(desk: Any) -> None:
    paid = await desk.offered(FUNDS)
    await desk.captured(await desk.claimed(paid), 30)
    (tab,) = (await desk.ledger.books()).tabs
    key = await desk.key()
    payout = replace(rows.a_withdrawal(desk.name(), key, OUT), tab_id=tab.tab_id)
    assert (await refused(desk.ledger.add_payout(payout))).code == "ledger_conflict"


async def test_the_hash_of_a_keysend_is_noted_once_and_never_changed(desk: Any) -> None:
    key = await desk.key(FUNDS)
    payout = await asked(desk, key, by_invoice=False)
    await moved(desk, payout, E.SEND)
    first, second = rows.payment_hash("first"), rows.payment_hash("second")
    for noted in (first, second):
        await desk.ledger.note_payment(payout.payout_id, noted)
    (known,) = await desk.ledger.open_payouts(limit=10)
    assert known.payment_hash == first
    with pytest.raises(InvariantViolation):
        await moved(desk, payout, E.SUCCEED, payment_hash=second)
    assert (await desk.ledger.open_payouts(limit=10)) == [known]
    ended = await moved(desk, payout, E.SUCCEED, payment_hash=first)
    assert ended.payment_hash == first


async def test_the_payment_of_one_keysend_is_not_anothers(desk: Any) -> None:
    keys = [await desk.key(FUNDS) for _ in range(2)]
    payouts = [await asked(desk, key, by_invoice=False) for key in keys]
    for payout in payouts:
        await moved(desk, payout, E.SEND)
    hash_ = rows.payment_hash("one")
    await desk.ledger.note_payment(payouts[0].payout_id, hash_)
    for asking in (
        desk.ledger.note_payment(payouts[1].payout_id, hash_),
        moved(desk, payouts[1], E.SUCCEED, payment_hash=hash_),
    ):
        assert (await refused(asking)).code == "ledger_conflict"
    assert await desk.balance(keys[1]) == FUNDS - RESERVED


async def test_payouts_are_listed_newest_first_and_by_purpose(desk: Any) -> None:
    key = await desk.key(FUNDS)
    made = []
    for created_ms in (7, 5, 6):
        payout = await asked(desk, key, created_ms=created_ms)
        made.append(await moved(desk, payout, E.SEND, E.SUCCEED))
    newest = [made[0], made[2], made[1]]
    assert await desk.ledger.payouts(key.tab_id, limit=10) == newest
    assert await desk.ledger.payouts(key.tab_id, limit=2) == newest[:2]
    for purpose, expected in ((PayoutPurpose.WITHDRAW, newest), (PayoutPurpose.REMAINDER, [])):
        assert await desk.ledger.payouts(key.tab_id, purpose=purpose, limit=10) == expected
    keys = [await desk.key(FUNDS) for _ in range(3)]
    late, early, middle = [
        await asked(desk, key, created_ms=at) for key, at in zip(keys, (9, 3, 6), strict=True)
    ]
    assert await desk.ledger.open_payouts(limit=10) == [early, middle, late]
    assert await desk.ledger.open_payouts(limit=1, skip=1) == [middle]


async def test_a_remainder_is_sent_back_with_its_fee_cap(desk: Any) -> None:
    paid = desk.payment(50_000)
    captured = await desk.captured(await desk.claimed(paid), 20_000, sent_back=True)
    (payout,) = await desk.ledger.open_payouts(limit=10)
    assert captured.stored.remainder_to == payout.payout_id
    assert (payout.purpose, payout.target) == (PayoutPurpose.REMAINDER, rows.NODE)
    assert 30_000 - 5 <= payout.reserved <= 30_000
    assert captured.payer.held == payout.reserved


async def test_a_remainder_that_came_back_is_redeemed_after_the_first_redeem(desk: Any) -> None:
    key, other = await desk.key(), await desk.key()
    paid = desk.payment(50_000)
    await desk.captured(await desk.claimed(paid), 20_000, sent_back=True)
    (payout,) = await desk.ledger.open_payouts(limit=10)
    crumbs = 30_000 - payout.reserved
    assert await desk.ledger.redeem(paid, key, now_ms=9) == crumbs
    await moved(desk, payout, E.SEND)
    assert await desk.ledger.redeem(paid, key, now_ms=9) == crumbs
    await moved(desk, payout, E.FAIL)
    assert await desk.ledger.redeem(paid, key, now_ms=9) == 30_000
    assert await desk.ledger.redeem(paid, other, now_ms=9) == 0
    assert (await desk.balance(key), await desk.balance(other)) == (30_000, 0)


async def test_what_routing_left_of_a_remainder_is_redeemed(desk: Any) -> None:
    key = await desk.key()
    paid = desk.payment(50_000)
    await desk.captured(await desk.claimed(paid), 20_000, sent_back=True)
    (payout,) = await desk.ledger.open_payouts(limit=10)
    await moved(desk, payout, E.SEND, E.SUCCEED, fee=1)
    left = 30_000 - payout.amount - 1
    assert await desk.ledger.redeem(paid, key, now_ms=9) == left


@pytest.mark.parametrize("left", [DUST - 1, 0])
async def test_dust_is_not_sent(desk: Any, left: int) -> None:
    paid = desk.payment(50_000)
    hold = await desk.claimed(paid)
    captured = await desk.captured(hold, 50_000 - left, sent_back=True)
    assert captured.stored.remainder_to == ""
    assert await desk.ledger.open_payouts(limit=10) == []


async def test_a_key_goes_before_sending_back(desk: Any) -> None:
    key = await desk.key()
    paid = desk.payment(50_000)
    captured = await desk.captured(
        await desk.claimed(paid), 20_000, remainder_to=key, sent_back=True
    )
    assert captured.stored.remainder_to == key.key_id
    assert await desk.ledger.open_payouts(limit=10) == []


async def test_a_restart_forgets_no_payout_and_sends_none(desk: Any) -> None:
    keys = [await desk.key(FUNDS) for _ in range(2)]
    owed = await asked(desk, keys[0])
    sending = await moved(desk, await asked(desk, keys[1]), E.SEND)
    desk.reopen()
    assert await desk.ledger.recover(now_ms=40) == 0
    found = await desk.ledger.open_payouts(limit=10)
    assert sorted(p.payout_id for p in found) == sorted([owed.payout_id, sending.payout_id])
    assert {p.state for p in found} == {S.OWED, S.SENDING}


async def test_holds_and_withdrawals_at_once_never_share_a_unit(desk: Any) -> None:
    """Abuse 26: a key that is emptied while it is used."""
    key = await desk.key(5 * RESERVED)
    others = [await desk.key(FUNDS) for _ in range(3)]
    found = await asyncio.gather(
        *(desk.held(key, RESERVED) for _ in range(20)),
        *(asked(desk, key) for _ in range(20)),
        *(asked(desk, other) for other in others),
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in found[:40]) == 5
    assert all(not isinstance(outcome, BaseException) for outcome in found[40:])
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.held, tab.balance) == (5 * RESERVED, 0)


async def test_copies_of_one_wish_at_once_are_one_payout(desk: Any) -> None:
    key = await desk.key(FUNDS)
    wish = rows.a_withdrawal("wish", key, OUT)
    copies = [replace(wish, payout_id=PayoutId(f"p{n}")) for n in range(20)]
    found = await asyncio.gather(*(desk.ledger.add_payout(copy) for copy in copies))
    assert {payout.payout_id for payout in found} == {found[0].payout_id}
    assert (await desk.ledger.tab(key.tab_id)).held == RESERVED
