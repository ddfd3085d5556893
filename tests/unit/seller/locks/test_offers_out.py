"""Offers in hold mode that are out: claimed in time, given back, or over with their invoice."""

from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import PaymentError
from infern.core.fiber.types import InvoiceStatus
from infern.core.ledger.lock import LockState
from infern.seller.locks import ALARM_MS, EXPIRY_GRACE_MS, OFFER_ASK_MS, SWEEP_MS

CLAIM_MS = 30_000


async def sweep_for(desk: Any, duration_ms: int) -> None:
    for _ in range(duration_ms // SWEEP_MS):
        desk.clock.ms += SWEEP_MS
        await desk.keeper.sweep()


async def test_a_payment_nobody_claims_is_given_back_after_its_time(desk: Any) -> None:
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


async def test_a_payment_that_is_claimed_in_time_is_left_alone(desk: Any) -> None:
    payment_hash = await desk.locked()
    await sweep_for(desk, CLAIM_MS - 2 * SWEEP_MS)
    await desk.claim(payment_hash)
    await sweep_for(desk, 10 * CLAIM_MS)
    assert await desk.state(payment_hash) is LockState.HELD
    await desk.real.release(desk.hold_id(payment_hash), now_ms=desk.clock.ms)
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_an_offer_nobody_pays_ends_with_its_invoice(desk: Any) -> None:
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


async def test_a_node_whose_clock_is_behind_does_not_keep_an_offer_open(desk: Any) -> None:
    payment_hash = await desk.offered()
    desk.payee.invoices[payment_hash] = replace(
        desk.payee.invoices[payment_hash], timestamp_ms=desk.clock.ms + 10 * EXPIRY_GRACE_MS
    )
    await sweep_for(desk, 120_000 + EXPIRY_GRACE_MS)
    assert await desk.state(payment_hash) is LockState.OFFERED
    await sweep_for(desk, 2 * OFFER_ASK_MS)
    assert await desk.state(payment_hash) is LockState.CANCELLING
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_an_offer_cancelled_by_hand_is_over(desk: Any) -> None:
    payment_hash = await desk.offered()
    desk.payee.set_status(payment_hash, InvoiceStatus.CANCELLED)
    await desk.keeper.sweep()
    assert await desk.state(payment_hash) is LockState.CANCELLED
    assert desk.keeper.unclaimed_of("192.0.2.1") == 0


async def test_an_arrival_seen_before_a_restart_gets_its_whole_time_again(desk: Any) -> None:
    payment_hash = await desk.locked()
    await sweep_for(desk, CLAIM_MS - SWEEP_MS)
    desk.restart()
    await sweep_for(desk, CLAIM_MS)
    assert await desk.state(payment_hash) is LockState.OFFERED
    await sweep_for(desk, 2 * SWEEP_MS)
    assert await desk.state(payment_hash) is LockState.CANCELLING
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_a_node_that_is_away_is_asked_once_a_sweep_however_many_offers_are_out(
    desk: Any,
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


async def test_an_address_has_its_offers_back_when_they_are_claimed_or_over(desk: Any) -> None:
    claimed, gone, other = [await desk.locked() for _ in range(3)]
    assert desk.keeper.unclaimed_of("192.0.2.1") == 3
    assert desk.keeper.unclaimed_of("192.0.2.2") == 0
    await desk.claim(claimed)
    assert desk.keeper.unclaimed_of("192.0.2.1") == 2
    await sweep_for(desk, CLAIM_MS + SWEEP_MS)
    assert desk.keeper.unclaimed_of("192.0.2.1") == 0
    await desk.real.release(desk.hold_id(claimed), now_ms=desk.clock.ms)
    for payment_hash in (claimed, gone, other):
        assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_abuse_34_a_lock_that_stays_open_for_long_is_said_once(
    desk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    payment_hash = await desk.held()
    await desk.keeper.sweep()
    desk.clock.ms += ALARM_MS
    for _ in range(3):
        await desk.keeper.sweep()
    alarms = [r for r in caplog.records if payment_hash.hex() in r.getMessage()]
    assert [r.levelname for r in alarms] == ["ERROR"]
    await desk.real.release(desk.hold_id(payment_hash), now_ms=desk.clock.ms)
    assert await desk.until_done(payment_hash) is LockState.CANCELLED


async def test_a_payment_that_lay_about_while_the_seller_was_away_buys_nothing(desk: Any) -> None:
    """Its TLC may have run out at the node meanwhile, which says `Received` all the same."""
    late, in_time = await desk.locked(), await desk.locked()
    lock = await desk.real.lock(in_time)
    desk.clock.ms = lock.claim_until_ms
    await desk.claim(in_time)
    desk.clock.ms += 1
    with pytest.raises(PaymentError, match="given back"):
        await desk.claim(late)
    desk.restart()
    await desk.keeper.sweep()
    assert await desk.state(late) is LockState.CANCELLING
    assert await desk.until_done(late) is LockState.CANCELLED
    await desk.real.release(desk.hold_id(in_time), now_ms=desk.clock.ms)
    assert await desk.until_done(in_time) is LockState.CANCELLED
