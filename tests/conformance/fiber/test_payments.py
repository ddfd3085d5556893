"""Payments: fees, statuses, duplicates, refusals, keysend."""

import dataclasses
import secrets

import pytest

from infern.core.errors import (
    InfernError,
    LocalProtocolError,
    Money,
    NoRoute,
    PaymentFailed,
    Retry,
)
from infern.core.fiber import rpc
from infern.core.fiber.errors import (
    InvoiceStateConflict,
    PaymentAlreadyExists,
    PaymentNotFound,
    payment_failure,
)
from infern.core.fiber.types import InvoiceStatus, PaymentStatus
from infern.core.ids import PaymentHash, Preimage, Pubkey

pytestmark = pytest.mark.timeout(120)

AMOUNT = 1_000_000
FEE = 1_000
"""One forwarder at 1000 ppm."""


async def test_a_payment_moves_the_amount_and_the_fee(fiber_trio) -> None:
    before = await fiber_trio.idle_channels()
    record, _ = await fiber_trio.invoice(AMOUNT)
    sent = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    assert sent.payment_hash == record.invoice.payment_hash
    assert sent.fee == FEE
    paid = await fiber_trio.until_payment(sent.payment_hash)
    assert (paid.fee, paid.failed_error) == (FEE, None)
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    after = await fiber_trio.idle_channels()
    moved = {name: after[name].local_balance - before[name].local_balance for name in after}
    assert moved == {
        "payer": -AMOUNT - FEE,
        "hub_in": AMOUNT + FEE,
        "hub_out": -AMOUNT,
        "payee": AMOUNT,
    }
    for name in after:
        whole = after[name].local_balance + after[name].remote_balance
        assert whole == before[name].local_balance + before[name].remote_balance


async def test_a_direct_neighbour_is_paid_without_fee(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT, node=fiber_trio.hub)
    sent = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    assert sent.fee == 0
    assert (await fiber_trio.until_payment(sent.payment_hash)).fee == 0


async def test_the_status_goes_one_way(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment_hash = record.invoice.payment_hash
    sent = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    order = [PaymentStatus.CREATED, PaymentStatus.INFLIGHT, PaymentStatus.SUCCESS]
    invoice_order = [InvoiceStatus.OPEN, InvoiceStatus.RECEIVED, InvoiceStatus.PAID]
    seen, invoice_seen = [sent.status], [InvoiceStatus.OPEN]
    while seen[-1] is not PaymentStatus.SUCCESS or invoice_seen[-1] is not InvoiceStatus.PAID:
        call = rpc.GetPayment(payment_hash=payment_hash)
        seen.append((await fiber_trio.payer.call(call)).status)
        found = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=payment_hash))
        invoice_seen.append(found.status)
    assert seen == sorted(seen, key=order.index)
    assert invoice_seen == sorted(invoice_seen, key=invoice_order.index)


async def test_the_preimage_is_shown_to_the_payer_from_0_9_on(fiber_trio) -> None:
    record, preimage = await fiber_trio.invoice(AMOUNT)
    sent = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    assert sent.preimage is None
    paid = await fiber_trio.until_payment(sent.payment_hash)
    assert paid.preimage == (preimage if fiber_trio.reveals_preimage else None)


@pytest.mark.parametrize("amount", [1, 100, 200, 1_000])
async def test_tiny_amounts_cost_one_unit_of_fee(fiber_trio, amount: int) -> None:
    record, _ = await fiber_trio.invoice(amount)
    sent = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    assert sent.fee == 1
    await fiber_trio.until_payment(sent.payment_hash)


async def test_a_dry_run_tells_the_fee_and_leaves_nothing(fiber_trio, refused) -> None:
    before = await fiber_trio.idle_channels()
    for node, fee in ((fiber_trio.hub, 0), (fiber_trio.payee, FEE)):
        record, _ = await fiber_trio.invoice(AMOUNT, node=node)
        dry = rpc.SendPayment(invoice=record.invoice_text, dry_run=True)
        for _ in range(2):
            assert (await fiber_trio.payer.call(dry)).fee == fee
        unheard = rpc.GetPayment(payment_hash=record.invoice.payment_hash)
        await refused(fiber_trio.payer.call(unheard), PaymentNotFound)
        found = await node.call(rpc.GetInvoice(payment_hash=record.invoice.payment_hash))
        assert found.status is InvoiceStatus.OPEN
    after = await fiber_trio.channels()
    assert {n: c.local_balance for n, c in after.items()} == {
        n: c.local_balance for n, c in before.items()
    }


async def test_a_fee_cap_below_the_fee_finds_no_path_and_may_be_raised(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment_hash = record.invoice.payment_hash
    call = rpc.SendPayment(invoice=record.invoice_text, max_fee_amount=FEE - 1)
    error = await refused(fiber_trio.payer.call(call), NoRoute)
    assert error.money is Money.UNMOVED
    stored = await fiber_trio.payer.call(rpc.GetPayment(payment_hash=payment_hash))
    assert stored.status is PaymentStatus.FAILED
    assert isinstance(payment_failure(stored), NoRoute)
    again = await fiber_trio.payer.call(dataclasses.replace(call, max_fee_amount=FEE))
    assert again.fee == FEE
    await fiber_trio.until_payment(payment_hash)


async def test_the_fee_rate_caps_as_well(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    call = rpc.SendPayment(invoice=record.invoice_text, max_fee_rate_per_thousand=0)
    await refused(fiber_trio.payer.call(call), NoRoute)
    again = dataclasses.replace(call, max_fee_rate_per_thousand=1)
    await fiber_trio.payer.call(again)
    await fiber_trio.until_payment(record.invoice.payment_hash)


async def test_more_than_the_channel_has(fiber_trio, refused) -> None:
    row = (await fiber_trio.idle_channels())["payer"]
    record, _ = await fiber_trio.invoice(row.spendable + 1, node=fiber_trio.hub)
    call = rpc.SendPayment(invoice=record.invoice_text)
    error = await refused(fiber_trio.payer.call(call), NoRoute)
    assert error.details["reason"] == "insufficient_outbound_liquidity"
    assert error.details["max_outbound_liquidity"] == str(row.spendable)
    assert error.details["required"] == str(row.spendable + 1)


async def test_paying_the_same_invoice_again(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    call = rpc.SendPayment(invoice=record.invoice_text)
    await fiber_trio.payer.call(call)
    await fiber_trio.until_payment(record.invoice.payment_hash)
    before = await fiber_trio.idle_channels()
    error = await refused(fiber_trio.payer.call(call), PaymentAlreadyExists)
    assert error.payment_status is PaymentStatus.SUCCESS
    assert error.money is Money.MOVED
    assert await fiber_trio.idle_channels() == before


async def test_a_payment_nobody_made(fiber_trio, refused) -> None:
    call = rpc.GetPayment(payment_hash=PaymentHash(secrets.token_bytes(32)))
    error = await refused(fiber_trio.payer.call(call), PaymentNotFound)
    assert error.code == "not_found"


async def test_a_cancelled_invoice_is_refused_by_the_payee(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    failed = await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
    error = payment_failure(failed)
    assert "InvoiceCancelled" in (failed.failed_error or "")
    assert (error.money, error.retry) == (Money.UNMOVED, Retry.NEW_CHALLENGE)


async def test_an_expired_invoice_is_refused_by_the_payer_s_own_node(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT, expiry_s=1)
    await fiber_trio.pass_time_ms(1_500)
    call = rpc.SendPayment(invoice=record.invoice_text)
    error = await refused(fiber_trio.payer.call(call), PaymentFailed)
    assert (error.money, error.retry) == (Money.UNMOVED, Retry.NEW_CHALLENGE)


async def test_a_second_payer_is_refused(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    payment_hash = record.invoice.payment_hash
    call = rpc.SendPayment(invoice=record.invoice_text)
    await fiber_trio.payer.call(call)
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    await fiber_trio.idle_channels()
    await fiber_trio.hub.call(call)
    failed = await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED, node=fiber_trio.hub)
    assert "IncorrectOrUnknownPaymentDetails" in (failed.failed_error or "")
    paid = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=payment_hash))
    assert paid.status is InvoiceStatus.PAID


async def test_values_that_contradict_the_invoice(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    for more in ({"amount": AMOUNT + 1}, {"target": fiber_trio.key("hub")},
                 {"payment_hash": PaymentHash(bytes(32))}):  # fmt: skip
        call = rpc.SendPayment(invoice=record.invoice_text, **more)
        error = await refused(fiber_trio.payer.call(call), LocalProtocolError)
        assert "does not match the invoice" in error.message


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"amount": "0x1", "keysend": True}, "target_pubkey is missing"),
        ({"target_pubkey": "HUB", "keysend": True}, "amount is missing"),
        ({"target_pubkey": "HUB", "amount": "0x0", "keysend": True},
         "amount must be greater than 0"),
        ({"target_pubkey": "HUB", "amount": "0x1", "keysend": True,
          "payment_hash": "0x" + "11" * 32}, "keysend payment should not have payment_hash"),
        ({"target_pubkey": "HUB", "amount": "0x1", "keysend": True,
          "final_tlc_expiry_delta": "0x1"}, "invalid final_tlc_expiry_delta"),
    ],
    ids=["no_target", "no_amount", "zero", "keysend_with_hash", "short_delta"],
)  # fmt: skip
async def test_what_the_node_refuses(fiber_trio, refused, members: dict, text: str) -> None:
    hub = fiber_trio.key("hub").hex()
    sent = {k: hub if v == "HUB" else v for k, v in members.items()}
    error = await refused(
        fiber_trio.raw(fiber_trio.payer, "send_payment", sent), LocalProtocolError
    )
    assert text in error.message
    assert error.money is Money.UNMOVED


async def test_a_keysend_needs_no_invoice(fiber_trio) -> None:
    before = await fiber_trio.idle_channels()
    call = rpc.SendPayment(
        target=fiber_trio.key("payee"), amount=AMOUNT, keysend=True, max_fee_amount=FEE,
        max_fee_rate_per_thousand=1_000,
    )  # fmt: skip
    first, second = [await fiber_trio.payer.call(call) for _ in "ab"]
    assert first.payment_hash != second.payment_hash
    for sent in (first, second):
        await fiber_trio.until_payment(sent.payment_hash)
    after = await fiber_trio.idle_channels()
    assert after["payee"].local_balance - before["payee"].local_balance == 2 * AMOUNT


async def test_a_payee_gives_back_what_it_received(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    await fiber_trio.until_payment(record.invoice.payment_hash)
    before = await fiber_trio.idle_channels()
    back = await fiber_trio.payee.call(
        rpc.SendPayment(target=fiber_trio.key("payer"), amount=5_000, keysend=True)
    )
    assert back.fee == 5
    await fiber_trio.until_payment(back.payment_hash, node=fiber_trio.payee)
    after = await fiber_trio.idle_channels()
    assert after["payer"].local_balance - before["payer"].local_balance == 5_000


async def test_nobody_knows_the_way_to_a_stranger(fiber_trio, refused) -> None:
    stranger = Pubkey(bytes.fromhex("02" + "79be667ef9dcbbac55a06295ce870b07"
                                    "029bfcdb2dce28d959f2815b16f81798"))  # fmt: skip
    call = rpc.SendPayment(target=stranger, amount=AMOUNT, keysend=True)
    error = await refused(fiber_trio.payer.call(call), InfernError)
    assert error.money is Money.UNMOVED
    assert isinstance(error, NoRoute)


async def test_nobody_pays_himself_unasked(fiber_trio, refused) -> None:
    call = rpc.SendPayment(target=fiber_trio.key("payer"), amount=AMOUNT, keysend=True)
    await refused(fiber_trio.payer.call(call), LocalProtocolError)


async def test_a_payment_along_a_given_route(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    hops = tuple(rpc.HopRequirement(pubkey=fiber_trio.key(name)) for name in ("hub", "payee"))
    route = await fiber_trio.payer.call(rpc.BuildRouter(hops=hops, amount=AMOUNT))
    call = rpc.SendPaymentWithRouter(router=route, invoice=record.invoice_text)
    sent = await fiber_trio.payer.call(call)
    assert sent.payment_hash == record.invoice.payment_hash
    assert (await fiber_trio.until_payment(sent.payment_hash)).fee == FEE


async def test_payments_are_listed_by_hash(fiber_trio, wait_until) -> None:
    hashes = []
    for _ in range(3):
        record, _ = await fiber_trio.invoice(10)
        await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
        await fiber_trio.until_payment(record.invoice.payment_hash)
        hashes.append(record.invoice.payment_hash)
    listed, after = [], None
    for _ in range(100_000):
        page = await fiber_trio.payer.call(rpc.ListPayments(limit=2, after=after))
        assert len(page.payments) <= 2
        listed += [payment.payment_hash for payment in page.payments]
        after = page.last_cursor
        if not page.payments or after is None:
            break
    assert listed == sorted(listed)
    assert set(hashes) <= set(listed)
    assert len(set(listed)) == len(listed)
    if fiber_trio.world is not None:
        call = rpc.ListPayments(status=PaymentStatus.FAILED)
        assert (await fiber_trio.payer.call(call)).payments == ()


async def test_a_paid_invoice_can_be_neither_cancelled_nor_settled(fiber_trio, refused) -> None:
    record, preimage = await fiber_trio.invoice(AMOUNT)
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    for call in (
        rpc.CancelInvoice(payment_hash=payment_hash),
        rpc.SettleInvoice(payment_hash=payment_hash, preimage=Preimage(preimage)),
    ):
        error = await refused(fiber_trio.payee.call(call), InvoiceStateConflict)
        assert error.invoice_status is InvoiceStatus.PAID
        assert error.money is Money.MOVED
