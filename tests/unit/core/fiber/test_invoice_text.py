"""Invoices as text: limits, cases, signatures and who may sign."""

from dataclasses import replace

import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.errors import InfernError, LocalProtocolError, Money, RemoteProtocolError
from infern.core.fiber.invoice import (
    MAX_INVOICE_CHARS,
    Description,
    FallbackAddress,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    decode_invoice,
    decode_signed_invoice,
    encode_invoice,
    invoice_digest,
    payee_of,
    sign_invoice,
)
from infern.core.ids import PaymentHash
from infern.core.units import Network

VERIFIER = CoincurveVerifier()
NODE = CoincurveSigner(b"\x11" * 32)
OTHER = CoincurveSigner(b"\x22" * 32)
HASH = PaymentHash(b"\x5a" * 32)
GROUP_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

BARE = Invoice(
    network=Network.TESTNET,
    amount=184320,
    timestamp_ms=1_700_000_000_000,
    payment_hash=HASH,
    attributes=(
        Description(text="f402:1:" + "ab" * 32),
        PaymentHashAlgorithm(algorithm=HashAlgorithm.SHA256),
    ),
)
DECLARING = replace(BARE, attributes=(*BARE.attributes, PayeePubkey(pubkey=NODE.pubkey)))


def refusal(text: str) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_invoice(text, VERIFIER)
    assert caught.value.code == "invalid_invoice"
    assert caught.value.money is Money.UNMOVED
    return caught.value.message


def with_signature(invoice: Invoice, signature: bytes) -> str:
    return encode_invoice(replace(invoice, signature=signature))


def test_the_readable_part_is_currency_and_amount() -> None:
    assert encode_invoice(BARE).startswith("fibt1843201")
    assert encode_invoice(replace(BARE, amount=None, network=Network.DEV)).startswith("fibd1")
    assert encode_invoice(replace(BARE, amount=0, network=Network.MAINNET)).startswith("fibb01")


def test_unsigned_invoices_decode_and_name_nobody() -> None:
    for invoice in (BARE, DECLARING):
        text = encode_invoice(invoice)
        assert decode_invoice(text, VERIFIER) == invoice
        assert payee_of(invoice, VERIFIER) is None
        with pytest.raises(RemoteProtocolError, match="Invoice is not signed") as caught:
            decode_signed_invoice(text, VERIFIER)
        assert caught.value.code == "invalid_invoice"


@pytest.mark.parametrize("invoice", [BARE, DECLARING])
def test_signing_adds_the_signature_and_nothing_else(invoice: Invoice) -> None:
    signed = sign_invoice(invoice, NODE)
    assert replace(signed, signature=None) == invoice
    assert signed.signature == NODE.sign_recoverable(invoice_digest(invoice))
    assert decode_signed_invoice(encode_invoice(signed), VERIFIER) == (signed, NODE.pubkey)
    assert payee_of(signed, VERIFIER) == NODE.pubkey


def test_without_a_declared_payee_the_signature_defines_it() -> None:
    signed = sign_invoice(BARE, OTHER)
    assert payee_of(decode_invoice(encode_invoice(signed), VERIFIER), VERIFIER) == OTHER.pubkey


def test_nobody_signs_for_another_declared_payee() -> None:
    with pytest.raises(LocalProtocolError, match="Invalid signature") as caught:
        sign_invoice(DECLARING, OTHER)
    assert caught.value.code == "invalid_invoice"
    forged = OTHER.sign_recoverable(invoice_digest(DECLARING))
    assert refusal(with_signature(DECLARING, forged)) == "Invalid signature"
    with pytest.raises(RemoteProtocolError, match="Invalid signature"):
        payee_of(replace(DECLARING, signature=forged), VERIFIER)


@pytest.mark.parametrize("invoice", [BARE, DECLARING])
def test_a_second_signature_for_the_same_key_is_refused(invoice: Invoice) -> None:
    signature = NODE.sign_recoverable(invoice_digest(invoice))
    s = int.from_bytes(signature[32:64], "big")
    mirrored = (GROUP_ORDER - s).to_bytes(32, "big")
    high = signature[:32] + mirrored + bytes([signature[64] ^ 1])
    assert VERIFIER.recover(invoice_digest(invoice), high) == NODE.pubkey
    assert refusal(with_signature(invoice, high)) == "Invalid signature"


def test_the_signature_covers_everything_said() -> None:
    signed = sign_invoice(DECLARING, NODE)
    changed = [
        replace(signed, amount=184321),
        replace(signed, amount=None),
        replace(signed, network=Network.DEV),
        replace(signed, timestamp_ms=signed.timestamp_ms + 1),
        replace(signed, payment_hash=PaymentHash(bytes(32))),
        replace(signed, attributes=signed.attributes[1:]),
        replace(
            signed, attributes=(signed.attributes[1], signed.attributes[0], *signed.attributes[2:])
        ),
    ]
    for invoice in changed:
        assert refusal(encode_invoice(invoice)) == "Invalid signature"


def test_upper_case_is_the_same_invoice_and_mixed_case_is_none() -> None:
    text = encode_invoice(sign_invoice(BARE, NODE))
    assert decode_invoice(text.upper(), VERIFIER) == decode_invoice(text, VERIFIER)
    assert refusal(text[:-1] + text[-1].upper() + "Q") == (
        "Bech32 error: mixed-case strings not allowed"
    )


@pytest.mark.parametrize(
    "text",
    ["", "1", "fibd", "\0", "fibd1\ud800\udfff", "🦀" * 50, "fibd1" + "q" * 4000, "1" * 4096],
)
def test_any_text_is_refused_politely(text: str) -> None:
    message = refusal(text)
    assert message.startswith("Bech32 error: ")
    message.encode("utf-8")


def test_long_texts_are_refused_unread() -> None:
    assert f"longer than {MAX_INVOICE_CHARS}" in refusal("q" * (MAX_INVOICE_CHARS + 1))
    assert f"longer than {MAX_INVOICE_CHARS}" in refusal("\ud800" * 1_000_000)


def test_what_would_be_too_long_to_read_is_not_written() -> None:
    filler = bytes(range(33, 127)).decode() * 24
    fits = replace(BARE, attributes=(FallbackAddress(text=filler[:2200]),))
    text = encode_invoice(fits)
    assert len(text) <= MAX_INVOICE_CHARS
    assert decode_invoice(text, VERIFIER) == fits
    with pytest.raises(LocalProtocolError, match="longer") as caught:
        encode_invoice(replace(BARE, attributes=(FallbackAddress(text=filler * 2),)))
    assert caught.value.code == "invalid_invoice"


def test_every_code_is_invalid_invoice_for_cut_texts() -> None:
    text = encode_invoice(sign_invoice(DECLARING, NODE))
    for end in range(len(text)):
        with pytest.raises(InfernError) as caught:
            decode_invoice(text[:end], VERIFIER)
        assert caught.value.code == "invalid_invoice"


def test_an_unsigned_invoice_that_says_nothing_is_not_written() -> None:
    empty = replace(BARE, attributes=(), payment_hash=PaymentHash(bytes(32)))
    with pytest.raises(LocalProtocolError, match="Too short data part") as caught:
        encode_invoice(empty)
    assert caught.value.code == "invalid_invoice"
    signed = sign_invoice(empty, NODE)
    assert decode_invoice(encode_invoice(signed), VERIFIER) == signed
