"""What `ports.Ledger` promises of leases and of needs that have a name, for any engine."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import LedgerError, Money, ProtocolError
from infern.core.ids import HoldId, RequestDigest
from infern.core.ledger.lock import LockState

NEED = b"\x01" * 32
OTHER_NEED = b"\x02" * 32


async def test_a_hold_keeps_its_owner_and_its_lease(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 10, owner="seller_7", lease_until_ms=50)
    desk.reopen()
    (kept,) = (await desk.ledger.books()).holds
    assert (kept.owner, kept.lease_until_ms) == ("seller_7", 50)
    assert kept == hold


async def test_holds_expire_after_their_lease_oldest_first(desk: Any) -> None:
    key = await desk.key(100)
    late, early = [await desk.held(key, 10, lease_until_ms=at) for at in (60, 50)]
    ended = await desk.held(key, 10, lease_until_ms=40)
    await desk.captured(ended, 10)
    for now_ms, expected in ((50, []), (51, [early]), (61, [early, late])):
        assert await desk.ledger.expired_holds(now_ms=now_ms, limit=10) == expected
    assert await desk.ledger.expired_holds(now_ms=61, limit=1) == [early]


async def test_renewing_keeps_open_holds_and_touches_no_others(desk: Any) -> None:
    key = await desk.key(100)
    held = [await desk.held(key, 10, lease_until_ms=50) for _ in range(4)]
    await desk.captured(held[2], 10)
    await desk.ledger.release(held[3].hold_id, now_ms=9)
    named = [hold.hold_id for hold in held[1:]]
    await desk.ledger.renew([*named, HoldId("never was")], lease_until_ms=90)
    await desk.ledger.renew([], lease_until_ms=99)
    assert await desk.ledger.expired_holds(now_ms=90, limit=10) == [held[0]]
    assert await desk.ledger.expired_holds(now_ms=91, limit=10) == [
        held[0],
        replace(held[1], lease_until_ms=90),
    ]


async def test_only_what_has_expired_is_released(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 10, lease_until_ms=50)
    assert await desk.ledger.release_expired(hold.hold_id, now_ms=50) is False
    await desk.ledger.renew([hold.hold_id], lease_until_ms=60)
    assert await desk.ledger.release_expired(hold.hold_id, now_ms=60) is False
    assert (await desk.ledger.tab(key.tab_id)).held == 10
    assert await desk.ledger.release_expired(hold.hold_id, now_ms=61) is True
    assert await desk.ledger.release_expired(hold.hold_id, now_ms=62) is False
    assert await desk.ledger.release_expired(HoldId("never was"), now_ms=62) is False
    assert await desk.balance(key) == 100


async def test_a_charge_after_a_sweep_charges_nothing(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 10, lease_until_ms=50)
    assert await desk.ledger.release_expired(hold.hold_id, now_ms=51)
    with pytest.raises(LedgerError) as caught:
        await desk.captured(hold, 10)
    assert caught.value.code == "ledger_conflict"
    tab = await desk.ledger.tab(key.tab_id)
    assert (tab.spent, tab.balance) == (0, 100)
    assert await desk.ledger.receipts(key.tab_id, after=None, limit=10) == []


async def test_a_charge_and_a_sweep_at_once_have_one_winner(desk: Any) -> None:
    key = await desk.key(1_000)
    for _ in range(10):
        hold = await desk.held(key, 10, lease_until_ms=50)
        charged, swept = await asyncio.gather(
            desk.captured(hold, 10),
            desk.ledger.release_expired(hold.hold_id, now_ms=51),
            return_exceptions=True,
        )
        assert isinstance(charged, LedgerError) == (swept is True)


async def test_a_swept_proof_may_run_again_and_a_swept_lock_goes_back(desk: Any) -> None:
    paid, lock = desk.payment(100), await desk.offered(100)
    for payment in (paid, lock):
        hold = await desk.claimed(payment)
        assert await desk.ledger.release_expired(hold.hold_id, now_ms=10_000)
    await desk.captured(await desk.claimed(paid), 100)
    assert (await desk.ledger.lock(lock.payment_hash)).state is LockState.CANCELLING


async def refused(asking: Any) -> Any:
    with pytest.raises(ProtocolError) as caught:
        await asking
    return caught.value


async def test_a_need_with_a_name_is_held_for_once(desk: Any) -> None:
    key = await desk.key(100)
    hold = await desk.held(key, 10, attempt=NEED)
    error = await refused(desk.held(key, 10, attempt=NEED))
    assert error.code == "request_in_progress"
    assert await desk.ledger.receipt_of_attempt(key.tab_id, NEED) is None
    captured = await desk.captured(hold, 4)
    error = await refused(desk.held(key, 10, attempt=NEED))
    assert (error.code, error.money) == ("already_delivered", Money.MOVED)
    assert await desk.ledger.receipt_of_attempt(key.tab_id, NEED) == captured.stored
    assert await desk.ledger.receipt_of_attempt(key.tab_id, OTHER_NEED) is None
    desk.reopen()
    assert (await refused(desk.held(key, 10, attempt=NEED))).code == "already_delivered"
    assert await desk.balance(key) == 96


async def test_a_need_whose_run_failed_may_be_served_again(desk: Any) -> None:
    key = await desk.key(100)
    for _ in range(3):
        hold = await desk.held(key, 10, attempt=NEED)
        await desk.ledger.release(hold.hold_id, now_ms=9)
    await desk.held(key, 10, attempt=NEED)
    await desk.ledger.recover(now_ms=9)
    await desk.captured(await desk.held(key, 10, attempt=NEED), 10)


async def test_a_name_belongs_to_one_key_and_one_request(desk: Any) -> None:
    key, other = await desk.key(100), await desk.key(100)
    digest = RequestDigest(b"\x09" * 32)
    hold = await desk.held(key, 10, attempt=NEED)
    error = await refused(desk.held(key, 10, attempt=NEED, digest=digest))
    assert (error.code, error.money) == ("idempotency_conflict", Money.UNMOVED)
    await desk.captured(hold, 10)
    error = await refused(desk.held(key, 10, attempt=NEED, digest=digest))
    assert error.code == "idempotency_conflict"
    await desk.held(other, 10, attempt=NEED, digest=digest)
    await desk.held(key, 10, attempt=OTHER_NEED)
    # Without a name every request is a need of its own.
    for _ in range(2):
        await desk.held(key, 10)


async def test_copies_of_one_need_at_once_are_held_once(desk: Any) -> None:
    key = await desk.key(1_000)
    found = await asyncio.gather(
        *(desk.held(key, 10, attempt=NEED) for _ in range(30)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in found) == 1
    assert (await desk.ledger.tab(key.tab_id)).held == 10
