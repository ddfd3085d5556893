"""Invoices at the payee: what they carry, how they change, what is refused."""

import dataclasses
import secrets

import pytest

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.core.errors import LocalProtocolError, Money, RemoteProtocolError
from infern.core.fiber import rpc
from infern.core.fiber.errors import (
    InvoiceAlreadyExists,
    InvoiceNotFound,
    InvoiceStateConflict,
)
from infern.core.fiber.invoice import HashAlgorithm, decode_invoice, payee_of
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash, Preimage
from infern.core.units import Network

pytestmark = pytest.mark.timeout(120)


async def test_an_invoice_carries_what_was_asked_for(fiber_trio) -> None:
    record, preimage = await fiber_trio.invoice(
        1_234, description="f402:1:äöü", expiry_s=600, final_expiry_delta_ms=12_600_000
    )
    invoice = record.invoice
    assert record.status is None
    assert invoice.network is fiber_trio.network
    assert (invoice.amount, invoice.description, invoice.expiry_s) == (1_234, "f402:1:äöü", 600)
    assert invoice.final_expiry_delta_ms == 12_600_000
    assert invoice.hash_algorithm is HashAlgorithm.SHA256
    assert invoice.hash_algorithm.digest(preimage) == invoice.payment_hash
    assert invoice.payee_pubkey == fiber_trio.key("payee")


async def test_the_text_says_what_the_node_says_and_the_payee_signed_it(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(description="signed")
    verifier = CoincurveVerifier()
    decoded = decode_invoice(record.invoice_text, verifier)
    assert decoded == record.invoice
    assert payee_of(decoded, verifier) == fiber_trio.key("payee")
    parsed = await fiber_trio.payer.call(rpc.ParseInvoice(invoice_text=record.invoice_text))
    assert parsed == decoded


async def test_defaults(fiber_trio) -> None:
    call = rpc.NewInvoice(amount=1, network=fiber_trio.network)
    first, second = [(await fiber_trio.payee.call(call)).invoice for _ in "ab"]
    assert first.payment_hash != second.payment_hash
    assert (first.description, first.expiry_s) == (None, None)
    assert first.hash_algorithm is HashAlgorithm.CKB_HASH
    assert first.final_expiry_delta_ms == 9_600_000


async def test_a_preimage_hashes_by_ckb_hash_unless_told_otherwise(fiber_trio) -> None:
    preimage = Preimage(secrets.token_bytes(32))
    call = rpc.NewInvoice(amount=1, network=fiber_trio.network, preimage=preimage)
    record = await fiber_trio.payee.call(call)
    assert record.invoice.payment_hash == HashAlgorithm.CKB_HASH.digest(preimage)


@pytest.mark.parametrize("hold", [False, True], ids=["ordinary", "hold"])
async def test_a_hash_is_used_once(fiber_trio, refused, hold: bool) -> None:
    make = fiber_trio.hold_invoice if hold else fiber_trio.invoice
    record, preimage = await make(5)
    again = rpc.NewInvoice(
        amount=6, network=fiber_trio.network, hash_algorithm=HashAlgorithm.SHA256,
        preimage=None if hold else preimage,
        payment_hash=record.invoice.payment_hash if hold else None,
    )  # fmt: skip
    error = await refused(fiber_trio.payee.call(again), InvoiceAlreadyExists)
    assert error.money is Money.UNMOVED
    kept = await fiber_trio.payee.call(rpc.GetInvoice(payment_hash=record.invoice.payment_hash))
    assert kept == dataclasses.replace(record, status=InvoiceStatus.OPEN)


async def test_the_currency_must_be_the_chain_s(fiber_trio, refused) -> None:
    for network in set(Network) - {fiber_trio.network}:
        call = rpc.NewInvoice(amount=1, network=network)
        error = await refused(fiber_trio.payee.call(call), LocalProtocolError)
        assert f"Currency must be {fiber_trio.network.currency}" in error.message


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"final_expiry_delta": hex(9_599_999)}, "greater than or equal to 9600000"),
        ({"final_expiry_delta": hex(1_209_600_001)}, "less than or equal to 1209600000"),
        ({"description": "x" * 640}, "Description with length of 640 is too long"),
        (
            {"payment_hash": "0x" + "11" * 32, "payment_preimage": "0x" + "22" * 32},
            "Both payment_hash and payment_preimage are set",
        ),
    ],
    ids=["short_delta", "long_delta", "long_description", "hash_and_preimage"],
)
async def test_what_the_node_refuses(fiber_trio, refused, more: dict, text: str) -> None:
    members = {"amount": "0x1", "currency": fiber_trio.network.currency} | more
    error = await refused(
        fiber_trio.raw(fiber_trio.payee, "new_invoice", members), LocalProtocolError
    )
    assert text in error.message


async def test_the_longest_description(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(description="é" * 319 + "x")
    assert record.invoice.description == "é" * 319 + "x"


async def test_several_parts_only_where_the_node_has_the_feature(fiber_trio, refused) -> None:
    call = rpc.NewInvoice(amount=1, network=fiber_trio.network, allow_mpp=True)
    if any(name.startswith("BASIC_MPP") for name in fiber_trio.infos["payee"].features):
        assert any("MPP" in name for name in (await fiber_trio.payee.call(call)).invoice.features)
        return
    error = await refused(fiber_trio.payee.call(call), LocalProtocolError)
    assert "does not support MPP" in error.message


@pytest.mark.parametrize(
    "text", ["", "fibd1qqqq", "fibd1", "lnbc1qqqq", "hello", "fibx1" + "q" * 200]
)
async def test_a_text_that_is_no_invoice(fiber_trio, refused, text: str) -> None:
    error = await refused(
        fiber_trio.payee.call(rpc.ParseInvoice(invoice_text=text)), RemoteProtocolError
    )
    assert error.code == "invalid_invoice"


async def test_a_changed_text_is_no_invoice(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice()
    text = record.invoice_text
    changed = text[:-1] + ("q" if text[-1] != "q" else "p")
    await refused(
        fiber_trio.payee.call(rpc.ParseInvoice(invoice_text=changed)), RemoteProtocolError
    )


async def test_an_open_invoice_can_be_cancelled_once(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice()
    call = rpc.CancelInvoice(payment_hash=record.invoice.payment_hash)
    assert (await fiber_trio.payee.call(call)).status is InvoiceStatus.CANCELLED
    error = await refused(fiber_trio.payee.call(call), InvoiceStateConflict)
    assert error.invoice_status is InvoiceStatus.CANCELLED
    assert error.money is Money.UNMOVED


async def test_an_invoice_expires(fiber_trio, refused) -> None:
    record, preimage = await fiber_trio.hold_invoice(expiry_s=1)
    payment_hash = record.invoice.payment_hash
    await fiber_trio.pass_time_ms(1_100)
    await fiber_trio.until_invoice(record, InvoiceStatus.EXPIRED)
    settle = rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage)
    error = await refused(fiber_trio.payee.call(settle), InvoiceStateConflict)
    assert error.invoice_status is InvoiceStatus.EXPIRED


async def test_settling_needs_the_right_preimage_at_the_right_time(fiber_trio, refused) -> None:
    record, preimage = await fiber_trio.hold_invoice()
    payment_hash = record.invoice.payment_hash

    async def settle(key: Preimage):
        return await fiber_trio.payee.call(
            rpc.SettleInvoice(payment_hash=payment_hash, preimage=key)
        )

    wrong = await refused(settle(Preimage(bytes(32))), LocalProtocolError)
    assert wrong.code == "invalid_preimage"
    early = await refused(settle(preimage), InvoiceStateConflict)
    assert early.invoice_status is InvoiceStatus.OPEN
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
    late = await refused(settle(preimage), InvoiceStateConflict)
    assert late.invoice_status is InvoiceStatus.CANCELLED


async def test_invoices_nobody_has(fiber_trio, refused) -> None:
    payment_hash = PaymentHash(secrets.token_bytes(32))
    for call in (
        rpc.GetInvoice(payment_hash=payment_hash),
        rpc.CancelInvoice(payment_hash=payment_hash),
        rpc.SettleInvoice(payment_hash=payment_hash, preimage=Preimage(bytes(32))),
    ):
        await refused(fiber_trio.payee.call(call), InvoiceNotFound)
