"""Receipts: layout, the one text of each, signatures; the Merkle root of an answer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.errors import RemoteProtocolError
from infern.core.f402.receipt import (
    BODY_BYTES,
    RECEIPT_CHARS,
    Finish,
    Receipt,
    ResponseRoot,
    SellerIdentity,
    SignedReceipt,
    parse_receipt,
    response_root,
    sign_receipt,
)
from infern.core.ids import Pubkey

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())
AGENT = CoincurveSigner(bytes(31) + b"\x02")
SELLER = ("genesis_hash", "provider", "listing", "listing_data_hash", "model_id")
NUMBERS = ("seq", "prompt_tokens", "completion_tokens", "charged", "started_ms", "finished_ms")


def receipt_of(fields: dict[str, str]) -> Receipt:
    raw = {
        name: bytes.fromhex(value)
        for name, value in fields.items()
        if name not in {*NUMBERS, "finish"}
    }
    seller = SellerIdentity(**{name: raw.pop(name) for name in SELLER})
    numbers = {name: int(fields[name]) for name in NUMBERS}
    return Receipt(seller=seller, **raw, **numbers, finish=Finish(int(fields["finish"])))


FIRST = receipt_of(VECTORS["receipt"][0]["fields"])


@pytest.mark.parametrize("case", VECTORS["receipt"], ids=lambda case: case["name"])
def test_receipt_vectors(case: dict[str, dict[str, str]]) -> None:
    receipt = receipt_of(case["fields"])
    assert receipt.pack().hex() == case["packed"]
    assert len(receipt.pack()) == BODY_BYTES
    assert receipt.digest.hex() == case["digest"]
    assert Receipt.unpack(receipt.pack()) == receipt
    signed = sign_receipt(receipt, AGENT)
    assert AGENT.pubkey.hex() == case["agent"]
    assert signed.signature.hex() == case["signature"]
    assert signed.to_text() == case["text"]
    assert parse_receipt(signed.to_text()) == signed
    assert signed.is_signed_by(AGENT.pubkey, CoincurveVerifier())


@pytest.mark.parametrize("case", VECTORS["receipt_refused"], ids=lambda case: case["name"])
def test_refused_receipt_vectors(case: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_receipt(case["text"])
    assert caught.value.code == "invalid_request"


def test_a_session_is_a_chain() -> None:
    first, second = VECTORS["receipt"][:2]
    assert second["fields"]["prev_digest"] == first["digest"]
    placed = FIRST.placed(session=b"\xd1" * 16, seq=7, prev_digest=FIRST.digest)
    assert placed == replace(FIRST, session=b"\xd1" * 16, seq=7, prev_digest=FIRST.digest)


@pytest.mark.parametrize(
    "change",
    [
        {"client_key_hash": bytes(19)},
        {"client_key_hash": bytes(21), "session": bytes(15)},
        {"prev_digest": bytes(31), "payment_ref": bytes(33)},
        {"req_hash": b""},
        {"resp_root": bytes(64)},
        {"asset": bytes(20)},
    ],
)
def test_each_field_has_its_own_length(change: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"has \d+ bytes"):
        replace(FIRST, **change)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("seq", 32),
        ("prompt_tokens", 64),
        ("completion_tokens", 64),
        ("charged", 128),
        ("started_ms", 64),
        ("finished_ms", 64),
    ],
)
def test_numbers_fit_their_fields(name: str, bits: int) -> None:
    assert Receipt.unpack(replace(FIRST, **{name: 2**bits - 1}).pack())
    for value in (-1, 2**bits, True):
        with pytest.raises(ValueError, match="an amount"):
            replace(FIRST, **{name: value})


@pytest.mark.parametrize("raw", [b"", FIRST.pack()[:-1], FIRST.pack() + b"\0", bytes(BODY_BYTES)])
def test_other_bytes_are_no_receipt(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not an INFERN/R1 receipt"):
        Receipt.unpack(raw)


@pytest.mark.parametrize("name", SELLER)
@pytest.mark.parametrize("value", [b"", bytes(32), b"\x01" * 31, b"\x01" * 33])
def test_identities_are_32_bytes_and_never_zero(name: str, value: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes, not all zero"):
        replace(FIRST.seller, **{name: value})


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(65)])
def test_a_signature_has_64_bytes(signature: bytes) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        SignedReceipt(receipt=FIRST, signature=signature)


def test_a_signature_is_for_one_receipt_and_one_agent() -> None:
    signed = sign_receipt(FIRST, AGENT)
    verifier = CoincurveVerifier()
    other = CoincurveSigner(bytes(31) + b"\x03").pubkey
    assert not signed.is_signed_by(other, verifier)
    assert not signed.is_signed_by(Pubkey(b"\x02" + bytes(32)), verifier)
    assert not replace(signed, receipt=replace(FIRST, charged=1)).is_signed_by(
        AGENT.pubkey, verifier
    )


def test_text_fits_its_stated_length() -> None:
    text = sign_receipt(FIRST, AGENT).to_text()
    assert len(text) == RECEIPT_CHARS
    assert text.isascii()


def test_json_view_names_every_field_and_keeps_amounts_exact() -> None:
    widest = replace(FIRST, charged=2**128 - 1, finish=Finish.CLIENT_LEFT)
    view = widest.to_json()
    assert view["charged"] == str(2**128 - 1)
    assert view["finish"] == "client_left"
    assert view["provider"] == "0x" + "a2" * 32
    names = {*SELLER, *Receipt.__dataclass_fields__} - {"seller"}
    assert set(view) == names | {"version"}


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", Finish.STOP),
        ("length", Finish.LENGTH),
        ("tool_calls", Finish.TOOL_CALLS),
        ("function_call", Finish.TOOL_CALLS),
        ("content_filter", Finish.CONTENT_FILTER),
        ("STOP", Finish.OTHER),
        ("", Finish.OTHER),
        (None, Finish.OTHER),
    ],
)
def test_finish_reasons(reason: str | None, finish: Finish) -> None:
    assert Finish.from_reason(reason) is finish


def test_finish_numbers_are_frozen() -> None:
    assert {f.name: f.value for f in Finish} == {
        "STOP": 0,
        "LENGTH": 1,
        "TOOL_CALLS": 2,
        "CONTENT_FILTER": 3,
        "CLIENT_LEFT": 4,
        "INTERRUPTED": 5,
        "OTHER": 255,
    }


@pytest.mark.parametrize("case", VECTORS["response_root"], ids=lambda case: case["name"])
def test_response_root_vectors(case: dict[str, str]) -> None:
    data = bytes(i % 251 for i in range(int(case["length"])))
    assert response_root([data]).hex() == case["root"]
    assert response_root(data[at : at + 7] for at in range(0, len(data), 7)).hex() == case["root"]


def test_root_may_be_asked_while_bytes_still_come() -> None:
    data, tree = bytes(range(200)), ResponseRoot()
    for at in range(200):
        assert tree.root() == response_root([data[:at]])
        tree.update(data[at : at + 1])
    assert tree.root() == response_root([data])


def test_memory_is_one_hash_per_level() -> None:
    tree = ResponseRoot()
    for _ in range(1024):
        tree.update(bytes(64))
    assert len(tree._levels) == 11
    assert not tree._tail
