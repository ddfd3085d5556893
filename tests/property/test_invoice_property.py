"""Invoices under random values and hostile texts, at every layer of the text."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.ckb import bech32
from infern.core.ckb.script import HashType, Script
from infern.core.errors import InfernError, LocalProtocolError, Money
from infern.core.fiber.arithmetic_coder import CodedDataError, compress, decompress
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    FallbackAddress,
    Features,
    FinalExpiryDelta,
    FinalTlcTimeout,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    PaymentSecret,
    UdtScript,
    decode_invoice,
    encode_invoice,
    invoice_from_json,
    invoice_to_json,
    payee_of,
    sign_invoice,
)
from infern.core.ids import PaymentHash
from infern.core.units import Network

VERIFIER = CoincurveVerifier()
NODE = CoincurveSigner(b"\x11" * 32)
LIMIT = 16 * 1024
VECTORS = Path(__file__).parents[2] / "vectors"
TEXTS = [
    case["text"] for case in json.loads((VECTORS / "fiber_invoices.json").read_text())["invoices"]
]

U64 = st.integers(0, 2**64 - 1)
U128 = st.integers(0, 2**128 - 1)
HASHES = st.binary(min_size=32, max_size=32)
SCRIPTS = st.builds(
    Script,
    code_hash=HASHES,
    hash_type=st.sampled_from(HashType),
    args=st.binary(max_size=64),
)
UTF8 = st.text(st.characters(codec="utf-8"), max_size=200)
ATTRIBUTES: list[st.SearchStrategy[Any]] = [
    st.builds(ExpiryTime, expiry_s=U64),
    st.builds(Description, text=UTF8.filter(lambda text: len(text.encode()) <= 639)),
    st.builds(FinalTlcTimeout, timeout_ms=U64),
    st.builds(FinalExpiryDelta, delta_ms=U64),
    st.builds(FallbackAddress, text=UTF8),
    st.builds(Features, bits=st.binary(max_size=4)),
    st.builds(UdtScript, script=SCRIPTS),
    st.just(PayeePubkey(pubkey=NODE.pubkey)),
    st.builds(PaymentHashAlgorithm, algorithm=st.sampled_from(HashAlgorithm)),
    st.builds(PaymentSecret, secret=HASHES),
]


@st.composite
def invoices(draw: st.DrawFn) -> Invoice:
    kinds = draw(st.lists(st.sampled_from(range(len(ATTRIBUTES))), unique=True))
    return Invoice(
        network=draw(st.sampled_from(Network)),
        amount=draw(st.none() | U128),
        timestamp_ms=draw(U128),
        payment_hash=PaymentHash(draw(HASHES)),
        attributes=tuple(draw(ATTRIBUTES[kind]) for kind in kinds),
    )


def check_decode(text: str) -> None:
    """A text is either the one text of its invoice or refused in one way."""
    refusal = invoice = None
    try:
        invoice = decode_invoice(text, VERIFIER)
    except InfernError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code == "invalid_invoice"
        assert refusal.money is Money.UNMOVED
        refusal.message.encode("utf-8")
    else:
        assert invoice is not None
        assert encode_invoice(invoice) == text.lower()


@given(invoices())
def test_invoices_survive(invoice: Invoice) -> None:
    signed = sign_invoice(invoice, NODE)
    for value in (invoice, signed):
        try:
            text = encode_invoice(value)
        except LocalProtocolError:
            # Too short to be read, which no signed invoice is.
            assert value is invoice
            continue
        assert decode_invoice(text, VERIFIER) == value
        assert decode_invoice(text.upper(), VERIFIER) == value
    assert payee_of(signed, VERIFIER) == NODE.pubkey


@given(invoices())
def test_the_json_view_survives_but_for_unnamed_feature_bits(invoice: Invoice) -> None:
    signed = sign_invoice(invoice, NODE)
    view = invoice_to_json(signed)
    json.dumps(view).encode()
    read = invoice_from_json(view)
    named = tuple(
        Features.of(name for name in a.names() if name != "Unknown Feature")
        if isinstance(a, Features)
        else a
        for a in signed.attributes
    )
    assert read == replace(signed, attributes=named)


@given(st.text() | st.text(alphabet="fibdt1qpzry9x8ꬠ \n\ud800", max_size=300))
@example("fibd1" + "q" * 110)
def test_any_text(text: str) -> None:
    check_decode(text)


@given(st.sampled_from(TEXTS), st.data())
def test_texts_with_changed_characters(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters())
    check_decode(text[:at] + char + text[at + data.draw(st.integers(0, 2)) :])


@given(st.sampled_from(TEXTS), st.data())
@settings(max_examples=300)
def test_changed_values_with_a_good_checksum(text: str, data: st.DataObject) -> None:
    opened = bech32.decode(text, max_chars=10_000)
    values = bytearray(opened.values)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(values) - 1))
        values[at] ^= data.draw(st.integers(1, 31))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 104]))
    hrp = data.draw(st.sampled_from([opened.hrp] * 3 + ["fibd", "fibt00", "fibb1" + "0" * 39]))
    check_decode(bech32.encode(hrp, bytes(values[: len(values) - cut]), bech32.Variant.BECH32M))


@given(st.sampled_from(TEXTS), st.data())
@settings(max_examples=300)
def test_changed_payloads_with_a_good_signature(text: str, data: st.DataObject) -> None:
    opened = bech32.decode(text, max_chars=10_000)
    marker, values = opened.values[:1], opened.values[1:]
    coded = bech32.bytes_from_values(values[:-104] if marker == b"\1" else values)
    payload = bytearray(decompress(coded, max_bytes=LIMIT))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert"])):
            case "flip":
                payload[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                payload[at] = data.draw(st.sampled_from([0, 1, 10, 128, 255]))
            case "cut":
                del payload[at]
            case _:
                payload.insert(at, data.draw(st.integers(0, 255)))
    coded = compress(bytes(payload))
    padding = b"\0" if len(coded) % 5 else b""
    digest = hashlib.sha256(opened.hrp.encode() + coded + padding).digest()
    sealed = marker + bech32.values_from_bytes(coded)
    if marker == b"\1":
        sealed += bech32.values_from_bytes(NODE.sign_recoverable(digest))
    check_decode(bech32.encode(opened.hrp, sealed, bech32.Variant.BECH32M))


SKEWED = st.lists(st.sampled_from([0, 0, 0, 1, 32, 255]), max_size=600).map(bytes)


@given(st.binary(max_size=600) | SKEWED)
def test_coded_data_survives(data: bytes) -> None:
    assert decompress(compress(data), max_bytes=LIMIT) == data


@given(st.binary(max_size=60), st.data())
@settings(max_examples=300)
def test_coded_data_has_one_form(seed: bytes, data: st.DataObject) -> None:
    coded = bytearray(data.draw(st.sampled_from([seed, compress(seed)])))
    if coded and data.draw(st.booleans()):
        coded[data.draw(st.integers(0, len(coded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    coded += data.draw(st.sampled_from([b"", b"", b"\0", bytes(7), b"\x80"]))
    try:
        decoded = decompress(bytes(coded), max_bytes=LIMIT)
    except CodedDataError:
        return
    assert compress(decoded) == coded
