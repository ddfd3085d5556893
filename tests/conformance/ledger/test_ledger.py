"""What `ports.Ledger` promises of keys, holds, payments and receipts, for any engine.

After each test the file is opened again and the books must balance.
"""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import anyio
import pytest

from infern.core.errors import (
    InsufficientBalance,
    InvariantViolation,
    LedgerError,
    ProtocolError,
    QuotaExceeded,
)
from infern.core.f402.receipt import Receipt
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.books import totals
from infern.core.ledger.hold import HoldState
from infern.core.ledger.records import RemainderPlan, TopupState
from infern.core.units import CKB, MAX_LEDGER_AMOUNT, Asset
from infern.testing import ledger_rows as rows

USD = Asset(b"\xab" * 32)


async def test_a_key_is_found_by_its_digest_with_an_empty_tab(desk: Any) -> None:
    key = await desk.key()
    assert await desk.ledger.find_key(key.key_digest) == key
    assert await desk.ledger.find_key(bytes(32)) is None
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.deposited, tab.balance, tab.asset) == (0, 0, CKB)
    with pytest.raises(LedgerError) as caught:
        await desk.ledger.tab(TabId("none"))
    assert caught.value.code == "ledger_conflict"


async def test_a_key_is_made_once(desk: Any) -> None:
    key = await desk.key()
    with pytest.raises(LedgerError) as caught:
        await desk.ledger.create_key(key)
    assert caught.value.code == "ledger_conflict"
    other = replace(key, key_digest=rows.named("key", "other"), tab_id=TabId("tab_other"))
    with pytest.raises(LedgerError):
        await desk.ledger.create_key(other)
    with pytest.raises(LedgerError):
        await desk.ledger.tab(TabId("tab_other"))


async def test_a_topup_is_credited_once_however_often_it_is_seen(desk: Any) -> None:
    key = await desk.key()
    topup = await desk.topup(key, 50)
    assert await desk.ledger.topup(topup.payment_hash) == topup
    assert await desk.ledger.open_topups(limit=10) == [topup]
    for _ in range(3):
        await desk.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
    await desk.ledger.end_topup(topup.payment_hash, TopupState.EXPIRED, now_ms=7)
    assert (await desk.ledger.topup(topup.payment_hash)).state is TopupState.PAID
    assert await desk.balance(key) == 50
    assert await desk.ledger.open_topups(limit=10) == []


async def test_a_topup_that_expired_is_still_credited_when_its_payment_was_late(desk: Any) -> None:
    key = await desk.key()
    topup = await desk.topup(key, 50)
    await desk.ledger.end_topup(topup.payment_hash, TopupState.EXPIRED, now_ms=6)
    assert await desk.ledger.open_topups(limit=10) == []
    assert await desk.balance(key) == 0
    await desk.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=7)
    assert await desk.balance(key) == 50


async def test_what_is_no_topup_is_left_alone(desk: Any) -> None:
    key = await desk.key()
    topup = await desk.topup(key, 50)
    await desk.ledger.end_topup(PaymentHash(bytes(32)), TopupState.PAID, now_ms=6)
    await desk.ledger.end_topup(topup.payment_hash, TopupState.OPEN, now_ms=6)
    assert await desk.ledger.topup(PaymentHash(bytes(32))) is None
    assert (await desk.ledger.topup(topup.payment_hash)).state is TopupState.OPEN


async def test_open_topups_are_limited_per_key_and_listed_oldest_first(desk: Any) -> None:
    key, other = await desk.key(), await desk.key()
    late = await desk.topup(key, 1, created_ms=9)
    early = await desk.topup(other, 1, created_ms=3)
    with pytest.raises(QuotaExceeded):
        await desk.ledger.add_topup(replace(late, payment_hash=b"\x01" * 32), open_limit=1)
    assert await desk.ledger.open_topups(limit=10) == [early, late]
    assert await desk.ledger.open_topups(limit=1) == [early]
    await desk.ledger.end_topup(late.payment_hash, TopupState.EXPIRED, now_ms=6)
    await desk.ledger.add_topup(replace(late, payment_hash=b"\x01" * 32), open_limit=1)


async def test_a_topup_needs_a_tab_and_a_new_payment_hash(desk: Any) -> None:
    key = await desk.key()
    topup = await desk.topup(key, 1)
    for wrong in (topup, replace(topup, payment_hash=b"\x01" * 32, tab_id=TabId("none"))):
        with pytest.raises(LedgerError) as caught:
            await desk.ledger.add_topup(wrong, open_limit=10)
        assert caught.value.code == "ledger_conflict"


async def test_a_tab_that_would_overflow_refuses_the_credit_and_keeps_it_open(desk: Any) -> None:
    key = await desk.key(MAX_LEDGER_AMOUNT)
    topup = await desk.topup(key, 1)
    with pytest.raises(LedgerError) as caught:
        await desk.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
    assert caught.value.code == "ledger_conflict"
    assert (await desk.ledger.topup(topup.payment_hash)).state is TopupState.OPEN
    assert await desk.balance(key) == MAX_LEDGER_AMOUNT


async def test_unfunded_keys_are_forgotten_and_no_others(desk: Any) -> None:
    old = await desk.key(created_ms=1)
    young = await desk.key(created_ms=9)
    funded = await desk.key(5, created_ms=1)
    waiting = await desk.key(created_ms=1)
    await desk.topup(waiting, 5)
    expired = await desk.key(created_ms=1)
    gone = await desk.topup(expired, 5)
    await desk.ledger.end_topup(gone.payment_hash, TopupState.EXPIRED, now_ms=6)
    spent = await desk.key(5, created_ms=1)
    await desk.captured(await desk.held(spent, 5), 5)
    assert await desk.ledger.delete_empty_keys(created_before_ms=5, limit=1) == 1
    assert await desk.ledger.delete_empty_keys(created_before_ms=5, limit=10) == 1
    assert await desk.ledger.delete_empty_keys(created_before_ms=5, limit=10) == 0
    for key, kept in (
        (old, False), (young, True), (funded, True), (waiting, True), (expired, False),
        (spent, True),
    ):  # fmt: skip
        assert (await desk.ledger.find_key(key.key_digest) is not None) == kept


async def test_a_hold_reserves_and_its_end_is_final(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 60)
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.held, tab.balance) == (60, 40)
    assert (await desk.ledger.books()).holds[0].state is HoldState.OPEN
    with pytest.raises(InsufficientBalance) as caught:
        await desk.held(key, 41)
    assert caught.value.details == {"balance": "40", "held": "60", "required": "41"}
    captured = await desk.captured(hold, 25)
    assert (captured.stored.charged, captured.stored.remainder) == (25, 35)
    assert captured.payer.balance == 75
    for charged in (25, 0):
        with pytest.raises(LedgerError) as conflict:
            await desk.captured(hold, charged)
        assert conflict.value.code == "ledger_conflict"
    await desk.ledger.release(hold.hold_id, now_ms=9)
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.held, tab.spent, tab.balance) == (0, 25, 75)


async def test_a_released_hold_cannot_be_charged(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 60)
    for _ in range(3):
        await desk.ledger.release(hold.hold_id, now_ms=9)
    await desk.ledger.release(HoldId("never was"), now_ms=9)
    with pytest.raises(LedgerError) as conflict:
        await desk.captured(hold, 1)
    assert conflict.value.code == "ledger_conflict"
    with pytest.raises(LedgerError):
        await desk.captured(desk.a_hold(key, 1), 1)
    assert await desk.balance(key) == 100


async def test_a_hold_needs_a_tab_and_a_new_name(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 10)
    with pytest.raises(LedgerError):
        await desk.ledger.hold(hold)
    with pytest.raises(LedgerError):
        await desk.ledger.hold(replace(hold, hold_id=HoldId("h"), tab_id=TabId("none")))
    assert (await desk.ledger.tab(key.tab_id)).held == 10


async def test_a_charge_above_the_hold_is_a_bug_and_books_nothing(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 10)
    with pytest.raises((InvariantViolation, ValueError)):
        await desk.captured(hold, 11)
    assert (await desk.ledger.tab(key.tab_id)).held == 10
    await desk.captured(hold, 10)


async def test_receipts_form_one_chain_per_tab(desk: Any) -> None:
    key, other = await desk.key(100), await desk.key(100)
    previous = bytes(32)
    stored = []
    for number in range(3):
        captured = await desk.captured(await desk.held(key, 10), 10 - number)
        await desk.captured(await desk.held(other, 1), 1)
        placed = Receipt.unpack(captured.stored.packed)
        assert (placed.session, placed.seq) == (key.session, number)
        assert placed.prev_digest == previous
        previous = placed.digest
        stored.append(captured.stored)
    assert await desk.ledger.receipts(key.tab_id, after=None, limit=10) == stored
    first = stored[0].request_id
    assert await desk.ledger.receipts(key.tab_id, after=first, limit=1) == stored[1:2]
    assert await desk.ledger.receipt(first) == stored[0]
    assert await desk.ledger.receipt(RequestId("req_none")) is None
    assert await desk.ledger.receipt_of_payment(PaymentHash(bytes(32))) is None


async def test_one_request_id_has_one_receipt(desk: Any) -> None:
    key = await desk.key(100)
    holds = [await desk.held(key, 10), await desk.held(key, 10)]
    name = RequestId("req_same")
    await desk.ledger.capture(
        holds[0].hold_id, rows.a_receipt(5), request_id=name, remainder=RemainderPlan()
    )
    with pytest.raises(LedgerError):
        await desk.ledger.capture(
            holds[1].hold_id, rows.a_receipt(5), request_id=name, remainder=RemainderPlan()
        )
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.spent, tab.held) == (5, 10)


async def test_a_proof_is_taken_once_and_answered_once(desk: Any) -> None:
    paid = desk.payment(100)
    hold = await desk.claimed(paid)
    with pytest.raises(ProtocolError) as busy:
        await desk.claimed(paid)
    assert busy.value.code == "request_in_progress"
    captured = await desk.captured(hold, 30)
    assert captured.stored.remainder == 70
    assert captured.stored.remainder_to == ""
    assert await desk.ledger.receipt_of_payment(paid.payment_hash) == captured.stored
    with pytest.raises(ProtocolError) as done:
        await desk.claimed(paid)
    assert done.value.code == "already_delivered"
    assert totals(await desk.ledger.books())[CKB].received == 100


async def test_a_proof_whose_run_failed_runs_again_on_the_same_deposit(desk: Any) -> None:
    paid = desk.payment(100)
    for _ in range(4):
        hold = await desk.claimed(paid)
        await desk.ledger.release(hold.hold_id, now_ms=9)
    await desk.captured(await desk.claimed(paid), 100)
    assert totals(await desk.ledger.books())[CKB].received == 100


async def test_a_hold_for_a_proof_is_cut_to_what_it_paid(desk: Any) -> None:
    paid = desk.payment(100)
    hold = replace(desk.a_hold(None, 500), payment_hash=paid.payment_hash)
    await desk.ledger.claim(paid, hold)
    (kept,) = (await desk.ledger.books()).holds
    assert kept.amount == 100
    await desk.captured(hold, 100)


async def test_the_remainder_goes_to_a_key(desk: Any) -> None:
    key = await desk.key(7)
    paid = desk.payment(100)
    captured = await desk.captured(await desk.claimed(paid), 30, remainder_to=key)
    assert captured.stored.remainder_to == key.key_id
    assert captured.payer.tab_id == key.tab_id
    assert captured.payer.balance == await desk.balance(key) == 77
    assert await desk.ledger.redeem(paid, key, now_ms=9) == 70
    assert await desk.balance(key) == 77


async def test_without_a_remainder_the_key_is_still_the_payer_shown(desk: Any) -> None:
    key = await desk.key(7)
    captured = await desk.captured(await desk.claimed(desk.payment(100)), 100, remainder_to=key)
    assert (captured.payer.tab_id, captured.payer.balance) == (key.tab_id, 7)
    assert captured.stored.remainder_to == ""


@pytest.mark.parametrize("why", ["forgotten", "another asset"])
async def test_a_key_that_cannot_take_the_remainder_does_not_spoil_the_charge(
    desk: Any, why: str
) -> None:
    key = await desk.key(asset=USD if why == "another asset" else CKB)
    paid = desk.payment(100)
    hold = await desk.claimed(paid)
    if why == "forgotten":
        assert await desk.ledger.delete_empty_keys(created_before_ms=100, limit=10) == 1
    captured = await desk.captured(hold, 30, remainder_to=key)
    assert (captured.stored.charged, captured.stored.remainder_to) == (30, "")
    other = await desk.key()
    assert await desk.ledger.redeem(paid, other, now_ms=9) == 70


async def test_redeeming_moves_once_whatever_is_left(desk: Any) -> None:
    key, other = await desk.key(), await desk.key()
    unused, failed, answered = (desk.payment(100) for _ in range(3))
    await desk.ledger.release((await desk.claimed(failed)).hold_id, now_ms=8)
    await desk.captured(await desk.claimed(answered), 30)
    for paid, left in ((unused, 100), (failed, 100), (answered, 70)):
        for _ in range(3):
            assert await desk.ledger.redeem(paid, key, now_ms=9) == left
        assert await desk.ledger.redeem(paid, other, now_ms=9) == 0
        with pytest.raises(ProtocolError) as caught:
            await desk.claimed(paid)
        assert caught.value.code == "already_delivered"
    assert await desk.balance(key) == 270
    running = desk.payment(100)
    hold = await desk.claimed(running)
    with pytest.raises(ProtocolError) as busy:
        await desk.ledger.redeem(running, key, now_ms=9)
    assert busy.value.code == "request_in_progress"
    await desk.ledger.release(hold.hold_id, now_ms=9)


@pytest.mark.parametrize("why", ["forgotten", "another asset"])
async def test_redeeming_to_a_key_that_cannot_take_it_consumes_nothing(desk: Any, why: str) -> None:
    key = await desk.key(asset=USD if why == "another asset" else CKB)
    if why == "forgotten":
        await desk.ledger.delete_empty_keys(created_before_ms=100, limit=10)
    paid = desk.payment(100)
    with pytest.raises(LedgerError) as caught:
        await desk.ledger.redeem(paid, key, now_ms=9)
    assert caught.value.code == "ledger_conflict"
    assert totals(await desk.ledger.books()).get(CKB) is None or (
        totals(await desk.ledger.books())[CKB].received == 0
    )
    await desk.captured(await desk.claimed(paid), 100)


async def test_assets_are_counted_apart(desk: Any) -> None:
    await desk.key(10)
    await desk.captured(await desk.claimed(desk.payment(100, asset=USD)), 40)
    sums = totals(await desk.ledger.books())
    assert (sums[CKB].received, sums[USD].received, sums[USD].spent) == (10, 100, 40)


async def test_a_restart_releases_what_was_held_and_forgets_nothing(desk: Any) -> None:
    key = await desk.key(100)
    paid, done = desk.payment(50), desk.payment(50)
    await desk.captured(await desk.held(key, 10), 10)
    await desk.captured(await desk.claimed(done), 20)
    await desk.held(key, 30)
    await desk.claimed(paid)
    topup = await desk.topup(key, 5)
    desk.reopen()
    assert len((await desk.ledger.books()).holds) == 2
    assert await desk.ledger.recover(now_ms=20) == 2
    assert await desk.ledger.recover(now_ms=20) == 0
    assert await desk.balance(key) == 90
    assert await desk.ledger.open_topups(limit=10) == [topup]
    with pytest.raises(ProtocolError):
        await desk.claimed(done)
    await desk.captured(await desk.claimed(paid), 50)


async def test_sixty_four_tasks_at_once_are_booked_one_after_another(desk: Any) -> None:
    key = await desk.key(64 * 20 * 3)
    outcomes: list[int] = []

    async def spend() -> None:
        for _ in range(10):
            hold = await desk.held(key, 5)
            await desk.captured(hold, 3)
            released = await desk.held(key, 5)
            await desk.ledger.release(released.hold_id, now_ms=9)
            outcomes.append(3)

    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(spend)
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.spent, tab.held) == (sum(outcomes), 0) == (64 * 10 * 3, 0)
    stored = await desk.ledger.receipts(key.tab_id, after=None, limit=1_000)
    placed = [Receipt.unpack(receipt.packed) for receipt in stored]
    assert [receipt.seq for receipt in placed] == list(range(640))
    assert all(b.prev_digest == a.digest for a, b in itertools.pairwise(placed))


async def test_a_balance_for_ten_is_held_ten_times_by_a_hundred_at_once(desk: Any) -> None:
    key = await desk.key(109)
    found = await asyncio.gather(*(desk.held(key, 10) for _ in range(100)), return_exceptions=True)
    good = [hold for hold in found if not isinstance(hold, BaseException)]
    assert len(good) == 10
    assert sum(isinstance(error, InsufficientBalance) for error in found) == 90


async def test_copies_of_one_proof_at_once_are_taken_once(desk: Any) -> None:
    paid = desk.payment(10)
    key = await desk.key()
    found = await asyncio.gather(
        *(desk.claimed(paid) for _ in range(30)),
        *(desk.ledger.redeem(paid, key, now_ms=9) for _ in range(30)),
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in found[:30]) == 1
    assert all(isinstance(outcome, ProtocolError) for outcome in found[30:])
    assert await desk.balance(key) == 0


async def test_a_refusal_takes_nothing_else_of_its_batch_with_it(desk: Any) -> None:
    key = await desk.key(1_000)
    found = await asyncio.gather(
        *(desk.held(key, 10 if number % 2 else 5_000) for number in range(40)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, InsufficientBalance) for outcome in found] == [True, False] * 20
    assert (await desk.ledger.tab(key.tab_id)).held == 200


async def test_a_booking_whose_caller_left_is_still_made(desk: Any) -> None:
    key = await desk.key(100)
    tasks = [asyncio.create_task(desk.held(key, 10)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await desk.ledger.tab(key.tab_id)).held == 50
    assert await desk.ledger.recover(now_ms=9) == 5


async def test_a_closed_ledger_refuses_and_can_be_closed_again(desk: Any) -> None:
    key = await desk.key(5)
    desk.ledger.close()
    desk.ledger.close()
    for asking in (desk.balance(key), desk.ledger.books(), desk.ledger.totals()):
        with pytest.raises(LedgerError) as caught:
            await asking
        assert caught.value.code == "ledger_unavailable"


async def test_sums_are_made_beyond_what_one_amount_can_be(desk: Any) -> None:
    keys = [await desk.key(MAX_LEDGER_AMOUNT) for _ in range(3)]
    await desk.captured(await desk.held(keys[0], MAX_LEDGER_AMOUNT), MAX_LEDGER_AMOUNT)
    books = await desk.ledger.books()
    assert await desk.ledger.totals() == totals(books)
    assert totals(books)[CKB].received == 3 * MAX_LEDGER_AMOUNT
    assert totals(books)[CKB].balance == 2 * MAX_LEDGER_AMOUNT


async def test_a_key_without_room_leaves_the_remainder_with_the_payment(desk: Any) -> None:
    full = await desk.key(MAX_LEDGER_AMOUNT - 5)
    paid = desk.payment(100)
    captured = await desk.captured(await desk.claimed(paid), 94, remainder_to=full)
    assert (captured.stored.remainder, captured.stored.remainder_to) == (6, "")
    with pytest.raises(LedgerError) as caught:
        await desk.ledger.redeem(paid, full, now_ms=9)
    assert caught.value.code == "ledger_conflict"
    assert await desk.ledger.redeem(paid, await desk.key(), now_ms=9) == 6


async def test_an_unclaimed_payment_is_booked_once_and_stays_good(desk: Any) -> None:
    key = await desk.key()
    proved, redeemed = desk.payment(100), desk.payment(100)
    for paid in (proved, redeemed):
        assert await desk.ledger.credit_unclaimed(paid, now_ms=8) is True
        assert await desk.ledger.credit_unclaimed(paid, now_ms=9) is False
    assert totals(await desk.ledger.books())[CKB].liability == 200
    hold = await desk.claimed(proved)
    assert await desk.ledger.credit_unclaimed(proved, now_ms=9) is False
    await desk.captured(hold, 40)
    assert await desk.ledger.redeem(redeemed, key, now_ms=9) == 100
    assert await desk.ledger.credit_unclaimed(redeemed, now_ms=9) is False
    with pytest.raises(ProtocolError) as caught:
        await desk.claimed(redeemed)
    assert caught.value.code == "already_delivered"
    assert totals(await desk.ledger.books())[CKB].received == 200


async def test_a_topups_payment_is_no_unclaimed_one(desk: Any) -> None:
    key = await desk.key()
    topup = await desk.topup(key, 50)
    await desk.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
    with pytest.raises(LedgerError) as caught:
        await desk.ledger.credit_unclaimed(
            replace(desk.payment(50), payment_hash=topup.payment_hash), now_ms=9
        )
    assert caught.value.code == "ledger_conflict"


async def test_one_payment_is_one_deposit_whatever_it_is_presented_for(desk: Any) -> None:
    """A top-up's payment pays no request as well, and a request's no top-up."""
    key = await desk.key()
    topup = await desk.topup(key, 50)
    await desk.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=6)
    again = replace(desk.payment(50), payment_hash=topup.payment_hash)
    for booking in (desk.claimed(again), desk.ledger.redeem(again, key, now_ms=9)):
        with pytest.raises(LedgerError) as caught:
            await booking
        assert caught.value.code == "ledger_conflict"
    paid = desk.payment(50)
    await desk.captured(await desk.claimed(paid), 50)
    late = replace(topup, payment_hash=paid.payment_hash)
    await desk.ledger.add_topup(late, open_limit=100)
    with pytest.raises(LedgerError):
        await desk.ledger.end_topup(late.payment_hash, TopupState.PAID, now_ms=6)
    assert await desk.balance(key) == 50
    assert totals(await desk.ledger.books())[CKB].received == 100
