"""The pay-once machine over nodes: one payment however often it is asked for."""

import asyncio
import dataclasses

import anyio.to_thread
import pytest

from infern.adapters.fiber_rpc_sync import FiberRpcSyncClient
from infern.core.errors import (
    Money,
    NoRoute,
    PaymentFailed,
    PaymentOutcomeUnknown,
    TransportError,
)
from infern.core.fiber import rpc
from infern.core.fiber.pay_drivers import pay, pay_sync
from infern.core.fiber.types import InvoiceStatus, PaymentStatus

pytestmark = pytest.mark.timeout(120)

AMOUNT, FEE = 1_000_000, 1_000


@pytest.mark.parametrize("lookup_first", [True, False])
async def test_paying_twice_pays_once(fiber_trio, lookup_first: bool) -> None:
    before = await fiber_trio.idle_channels()
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment = fiber_trio.payment(record, lookup_first=lookup_first)
    first = await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    second = await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    assert first.status is second.status is PaymentStatus.SUCCESS
    assert first == second
    after = await fiber_trio.idle_channels()
    assert before["payer"].local_balance - after["payer"].local_balance == AMOUNT + FEE


async def test_paying_at_the_same_time_pays_once(fiber_trio) -> None:
    before = await fiber_trio.idle_channels()
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment = fiber_trio.payment(record)
    records = await asyncio.gather(
        *(pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms) for _ in range(5))
    )
    assert {record.status for record in records} == {PaymentStatus.SUCCESS}
    after = await fiber_trio.idle_channels()
    assert before["payer"].local_balance - after["payer"].local_balance == AMOUNT + FEE


async def test_the_sync_client_pays_by_the_same_rules(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment = fiber_trio.payment(record)
    with FiberRpcSyncClient(fiber_trio.urls["payer"]) as node:
        for _ in range(2):
            paid = await anyio.to_thread.run_sync(
                lambda: pay_sync(node, payment, now_ms=fiber_trio.now_ms)
            )
            assert paid.status is PaymentStatus.SUCCESS


async def test_a_hold_that_is_not_settled_in_time_may_still_succeed(fiber_trio) -> None:
    record, preimage = await fiber_trio.hold_invoice(AMOUNT)
    payment_hash = record.invoice.payment_hash
    payment = fiber_trio.payment(record, timeout_ms=300)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    assert caught.value.money is Money.UNKNOWN
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    again = dataclasses.replace(payment, timeout_ms=60_000)
    paid = await pay(fiber_trio.payer, again, now_ms=fiber_trio.now_ms)
    assert paid.status is PaymentStatus.SUCCESS


async def test_a_hold_that_is_cancelled_leaves_the_money(fiber_trio) -> None:
    record, _ = await fiber_trio.hold_invoice(AMOUNT)
    paying = asyncio.create_task(
        pay(fiber_trio.payer, fiber_trio.payment(record), now_ms=fiber_trio.now_ms)
    )
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=record.invoice.payment_hash))
    with pytest.raises(PaymentFailed) as caught:
        await paying
    assert caught.value.money is Money.UNMOVED


async def test_an_earlier_failure_does_not_stand_in_the_way(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment = fiber_trio.payment(record, max_fee_amount=FEE - 1)
    with pytest.raises(NoRoute) as caught:
        await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    assert caught.value.money is Money.UNMOVED
    enough = dataclasses.replace(payment, max_fee_amount=FEE)
    paid = await pay(fiber_trio.payer, enough, now_ms=fiber_trio.now_ms)
    assert paid.fee == FEE


@pytest.mark.parametrize("amount", [1, 7, 150])
async def test_tiny_payments_have_room_for_their_fee(fiber_trio, amount: int) -> None:
    record, _ = await fiber_trio.invoice(amount)
    payment = fiber_trio.payment(record, max_fee_amount=1)
    assert (await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)).fee == 1


async def test_a_payer_that_dies_in_between_pays_once(fiber_trio) -> None:
    world = fiber_trio.embedded()
    before = await fiber_trio.idle_channels()
    record, preimage = await fiber_trio.hold_invoice(AMOUNT)
    payment = fiber_trio.payment(record)
    paying = asyncio.create_task(pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms))
    await fiber_trio.until_invoice(record, InvoiceStatus.RECEIVED)
    world.network.faults.restart(world.consumer, downtime_ms=400)
    settle = rpc.SettleInvoice(payment_hash=record.invoice.payment_hash, preimage=preimage)
    await fiber_trio.payee.call(settle)
    assert (await paying).status is PaymentStatus.SUCCESS
    after = await fiber_trio.idle_channels()
    assert before["payer"].local_balance - after["payer"].local_balance == AMOUNT + FEE


async def test_a_payer_that_is_away_has_sent_nothing(fiber_trio, wait_until) -> None:
    world = fiber_trio.embedded()
    record, _ = await fiber_trio.invoice(AMOUNT)
    world.network.stop_node(world.consumer)

    async def refused() -> bool:
        try:
            await fiber_trio.payer.call(rpc.GetNodeInfo())
        except TransportError:
            return True
        return False

    await wait_until(refused, bool)
    payment = fiber_trio.payment(record, lookup_first=False)
    with pytest.raises(TransportError) as caught:
        await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    assert caught.value.money is Money.UNMOVED
    world.network.start_node(world.consumer)
    await wait_until(refused, lambda away: not away)
    paid = await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    assert paid.status is PaymentStatus.SUCCESS


async def test_a_payment_stuck_on_its_way_is_unknown_and_never_repeated(fiber_trio) -> None:
    world = fiber_trio.embedded()
    before = await fiber_trio.idle_channels()
    world.network.faults.set_stuck(world.hub)
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment = fiber_trio.payment(record, timeout_ms=300)
    for _ in range(3):
        with pytest.raises(PaymentOutcomeUnknown):
            await pay(fiber_trio.payer, payment, now_ms=fiber_trio.now_ms)
    world.network.faults.clear_stuck(world.hub)
    patient = dataclasses.replace(payment, timeout_ms=60_000)
    paid = await pay(fiber_trio.payer, patient, now_ms=fiber_trio.now_ms)
    assert paid.status is PaymentStatus.SUCCESS
    after = await fiber_trio.idle_channels()
    assert before["payer"].local_balance - after["payer"].local_balance == AMOUNT + FEE
