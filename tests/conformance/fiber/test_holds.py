"""Hold invoices: money locked, taken, given back."""

import pytest

from infern.core.errors import Money, NoRoute, Retry
from infern.core.fiber import rpc
from infern.core.fiber.errors import InvoiceStateConflict, PaymentAlreadyExists, payment_failure
from infern.core.fiber.types import (
    InvoiceStatus,
    PaymentStatus,
    TlcDirection,
    TlcStage,
)

pytestmark = pytest.mark.timeout(120)

AMOUNT, FEE = 1_000_000_000, 1_000_000


async def test_a_hold_locks_the_money_along_the_way(fiber_trio, wait_until) -> None:
    before = await fiber_trio.idle_channels()
    record, _ = await fiber_trio.held(AMOUNT)
    payment_hash = record.invoice.payment_hash
    rows = await wait_until(
        fiber_trio.channels,
        lambda rows: all(
            tlc.stage is TlcStage.COMMITTED for row in rows.values() for tlc in row.pending_tlcs
        ),
    )
    for name, row in rows.items():
        assert row.local_balance == before[name].local_balance
        assert row.remote_balance == before[name].remote_balance
        (tlc,) = row.pending_tlcs
        assert tlc.payment_hash == payment_hash
        outbound = name in {"payer", "hub_out"}
        amount = AMOUNT + (FEE if name in {"payer", "hub_in"} else 0)
        assert tlc.direction is (TlcDirection.OUTBOUND if outbound else TlcDirection.INBOUND)
        assert tlc.amount == amount
        assert row.offered_tlc_balance == (amount if outbound else 0)
        assert row.received_tlc_balance == (0 if outbound else amount)
        assert row.spendable == row.local_balance - (amount if outbound else 0)
    incoming, outgoing = rows["hub_in"], rows["hub_out"]
    assert outgoing.pending_tlcs[0].forwarding_channel_id == incoming.channel_id
    assert incoming.pending_tlcs[0].forwarding_channel_id == outgoing.channel_id
    assert rows["payer"].pending_tlcs[0].expiry_ms > rows["payee"].pending_tlcs[0].expiry_ms
    assert (await fiber_trio.payer.call(rpc.GetPayment(payment_hash=payment_hash))).status is (
        PaymentStatus.INFLIGHT
    )
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
    await fiber_trio.idle_channels()


async def test_settling_takes_the_money(fiber_trio) -> None:
    before = await fiber_trio.idle_channels()
    record, preimage = await fiber_trio.held(AMOUNT)
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    paid = await fiber_trio.until_payment(payment_hash)
    assert paid.fee == FEE
    assert paid.preimage == (preimage if fiber_trio.reveals_preimage else None)
    after = await fiber_trio.idle_channels()
    moved = {name: after[name].local_balance - before[name].local_balance for name in after}
    assert moved == {
        "payer": -AMOUNT - FEE,
        "hub_in": AMOUNT + FEE,
        "hub_out": -AMOUNT,
        "payee": AMOUNT,
    }


async def test_just_after_settling_the_invoice_is_not_paid_yet(fiber_trio) -> None:
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    found = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=payment_hash))
    assert found.status in {InvoiceStatus.RECEIVED, InvoiceStatus.PAID}
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)


async def test_cancelling_gives_the_money_back(fiber_trio, refused) -> None:
    before = await fiber_trio.idle_channels()
    record, preimage = await fiber_trio.held(AMOUNT)
    payment_hash = record.invoice.payment_hash
    cancel = rpc.CancelInvoice(payment_hash=payment_hash)
    assert (await fiber_trio.payee.call(cancel)).status is InvoiceStatus.CANCELLED
    failed = await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
    assert "InvoiceCancelled" in (failed.failed_error or "")
    error = payment_failure(failed)
    assert (error.money, error.retry) == (Money.UNMOVED, Retry.NEW_CHALLENGE)
    after = await fiber_trio.idle_channels()
    for name, row in after.items():
        assert row.local_balance == before[name].local_balance
        assert (row.offered_tlc_balance, row.received_tlc_balance) == (0, 0)
    settle = rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage)
    late = await refused(fiber_trio.payee.call(settle), InvoiceStateConflict)
    assert late.invoice_status is InvoiceStatus.CANCELLED


async def test_a_hold_outlives_the_expiry_of_its_invoice(fiber_trio) -> None:
    record, preimage = await fiber_trio.hold_invoice(expiry_s=3)
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    await fiber_trio.pass_time_ms(4_000)
    found = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=payment_hash))
    assert found.status is InvoiceStatus.RECEIVED
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    await fiber_trio.until_payment(payment_hash)


async def test_a_second_settling_is_harmless(fiber_trio) -> None:
    before = await fiber_trio.idle_channels()
    record, preimage = await fiber_trio.held(AMOUNT)
    settle = rpc.SettleInvoice(payment_hash=record.invoice.payment_hash, preimage=preimage)
    told = [await _status_after(fiber_trio, settle) for _ in range(3)]
    assert set(told) <= {None, InvoiceStatus.PAID}
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    after = await fiber_trio.idle_channels()
    assert after["payee"].local_balance - before["payee"].local_balance == AMOUNT


async def test_an_expired_hold_invoice_can_still_be_cancelled(fiber_trio, wait_until) -> None:
    """So that no clock that is set back can revive it; or the node says that it is over."""
    record, _ = await fiber_trio.hold_invoice(expiry_s=1)
    await fiber_trio.pass_time_ms(2_100)
    await fiber_trio.until_invoice(record, InvoiceStatus.EXPIRED)
    cancel = rpc.CancelInvoice(payment_hash=record.invoice.payment_hash)
    told = await _status_after(fiber_trio, cancel)
    assert told in {None, InvoiceStatus.EXPIRED, InvoiceStatus.CANCELLED}
    found = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=record.invoice.payment_hash))
    assert found.status in {InvoiceStatus.EXPIRED, InvoiceStatus.CANCELLED}


async def _status_after(fiber_trio, call):
    """None when the payee's node did as it was told, otherwise the status it refused with."""
    try:
        await fiber_trio.payee.call(call)
    except InvoiceStateConflict as conflict:
        return conflict.invoice_status
    return None


async def test_a_hold_that_was_not_to_be_split_is_paid_as_any(fiber_trio) -> None:
    record, preimage = await fiber_trio.hold_invoice(allow_mpp=False)
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_payment(payment_hash)


async def test_a_settled_tlc_is_listed_until_the_invoice_is_paid(fiber_trio) -> None:
    """An invoice that stays `Received` without a TLC in any channel is a payment that is gone."""
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    listing = rpc.ListChannels(include_closed=True)
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    without_tlc = 0
    while True:
        channels = await fiber_trio.payee.call(listing)
        found = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=payment_hash))
        if found.status is InvoiceStatus.PAID:
            break
        pending = [tlc.payment_hash for row in channels for tlc in row.pending_tlcs]
        without_tlc += payment_hash not in pending
    assert without_tlc <= 1
    await fiber_trio.until_payment(payment_hash)


async def test_a_held_payment_cannot_be_sent_again(fiber_trio, refused) -> None:
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    call = rpc.SendPayment(invoice=record.invoice_text)
    error = await refused(fiber_trio.payer.call(call), PaymentAlreadyExists)
    assert error.payment_status is PaymentStatus.INFLIGHT
    assert error.money is Money.UNKNOWN
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_payment(payment_hash)


async def test_a_held_invoice_takes_no_second_payer(fiber_trio) -> None:
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    await fiber_trio.hub.call(rpc.SendPayment(invoice=record.invoice_text))
    failed = await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED, node=fiber_trio.hub)
    assert failed.failed_error is not None
    found = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=payment_hash))
    assert found.status is InvoiceStatus.RECEIVED
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_payment(payment_hash)


async def test_a_cancelled_hold_may_be_sent_again_and_fails_again(fiber_trio) -> None:
    record, _ = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
    first = await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
    await fiber_trio.idle_channels()
    again = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    assert again.status in {PaymentStatus.CREATED, PaymentStatus.INFLIGHT}
    assert again.created_at_ms >= first.created_at_ms
    failed = await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
    assert "InvoiceCancelled" in (failed.failed_error or "")


async def test_several_holds_are_independent(fiber_trio) -> None:
    before = await fiber_trio.idle_channels()
    holds = [await fiber_trio.held(1_000) for _ in range(4)]
    rows = await fiber_trio.channels()
    assert rows["payee"].received_tlc_balance == 4_000
    for at, (record, preimage) in enumerate(holds):
        payment_hash = record.invoice.payment_hash
        if at % 2:
            await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
            await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
        else:
            settle = rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage)
            await fiber_trio.payee.call(settle)
            await fiber_trio.until_payment(payment_hash)
    after = await fiber_trio.idle_channels()
    assert after["payee"].local_balance - before["payee"].local_balance == 2_000


@pytest.mark.parametrize("victim", ["consumer", "hub", "provider"])
async def test_a_hold_survives_the_restart_of_any_node(fiber_trio, wait_until, victim: str) -> None:
    world = fiber_trio.embedded()
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    node = world.network.nodes[victim]
    world.network.stop_node(node)
    await wait_until(_now(lambda: node.online), lambda online: not online)
    world.network.start_node(node)
    await wait_until(_now(lambda: node.online), lambda online: online)
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_payment(payment_hash)


def _now(look):
    async def ask():
        return look()

    return ask


async def test_a_limit_of_the_route_does_not_bound_the_lock(fiber_trio, refused) -> None:
    """A hold may lock money for up to 14 days whatever the payer asks: only amounts protect."""
    fourteen_days_ms = 14 * 86_400_000
    record, _ = await fiber_trio.hold_invoice()
    call = rpc.SendPayment(invoice=record.invoice_text, tlc_expiry_limit_ms=30_000_000)
    await fiber_trio.payer.call(call)
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    (tlc,) = (await fiber_trio.channels())["payer"].pending_tlcs
    assert tlc.expiry_ms <= record.invoice.timestamp_ms + fourteen_days_ms + 60_000
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=record.invoice.payment_hash))
    await fiber_trio.until_payment(record.invoice.payment_hash, PaymentStatus.FAILED)
    other, _ = await fiber_trio.hold_invoice()
    short = rpc.SendPayment(invoice=other.invoice_text, tlc_expiry_limit_ms=13_000_000)
    error = await refused(fiber_trio.payer.call(short), NoRoute)
    assert error.money is Money.UNMOVED
