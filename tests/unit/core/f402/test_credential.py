"""Headers that pay: vectors, precedence, keys."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import InfernError, Money, RemoteProtocolError
from infern.core.f402.credential import (
    MAX_PROOF_CHARS,
    Credential,
    check_echo,
    key_digest,
    make_key,
    parse_credential,
    proof_header,
)
from infern.core.f402.offer import decode_header_json, encode_header_json
from infern.core.ids import Preimage
from infern.testing.offers import honest_offer

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())
NODE = CoincurveSigner(bytes(31) + b"\x01")


@pytest.mark.parametrize("case", VECTORS["proof"], ids=lambda case: case["name"])
def test_proof_vectors(case: dict[str, str]) -> None:
    headers = {"payment-signature": case["header"]}
    if "code" in case:
        with pytest.raises(RemoteProtocolError) as caught:
            parse_credential(headers)
        assert (caught.value.code, caught.value.money) == (case["code"], Money.UNMOVED)
        return
    proof = parse_credential(headers).proof
    assert proof is not None
    assert proof.token == case["token"]
    assert (proof.preimage and proof.preimage.hex()) == case["preimage"]
    assert (proof.refund_to and proof.refund_to.hex()) == case["refund_to"]
    assert proof.echoed["amount"] == "184320"


@pytest.mark.parametrize("case", VECTORS["credential"], ids=lambda case: case["name"])
def test_credential_vectors(case: dict[str, dict[str, str]]) -> None:
    expected = case["result"]
    if "code" in expected:
        with pytest.raises(InfernError) as caught:
            parse_credential(case["headers"])
        assert (caught.value.code, caught.value.money) == (expected["code"], Money.UNMOVED)
        return
    credential = parse_credential(case["headers"])
    assert (credential.proof is not None) == expected["proof"]
    assert credential.key == expected["key"]
    assert credential.is_anonymous == (not expected["proof"] and expected["key"] is None)


def test_header_limit_counts_characters_before_decoding() -> None:
    with pytest.raises(RemoteProtocolError, match="over 16384 characters"):
        parse_credential({"payment-signature": "A" * (MAX_PROOF_CHARS + 4)})
    # At the limit it is read, and is then no JSON.
    with pytest.raises(RemoteProtocolError, match="not base64 of a JSON object"):
        parse_credential({"payment-signature": "A" * MAX_PROOF_CHARS})


@pytest.mark.parametrize("preimage", [None, Preimage(bytes(range(32)))])
def test_what_a_client_writes_a_seller_reads(preimage: Preimage | None) -> None:
    offer = honest_offer(NODE)
    header = proof_header(offer, preimage=preimage)
    assert len(header) < MAX_PROOF_CHARS
    proof = parse_credential({"payment-signature": header}).proof
    assert proof is not None
    assert (proof.token, proof.preimage, proof.refund_to) == (offer.token, preimage, None)
    check_echo(proof, offer.challenge)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("network", "unsupported_network"),
        ("amount", "amount_mismatch"),
        ("asset", "asset_mismatch"),
        ("payTo", "pay_to_mismatch"),
    ],
)
def test_each_echo_must_be_the_token_s(name: str, code: str) -> None:
    offer = honest_offer(NODE)
    proof = parse_credential({"payment-signature": proof_header(offer, preimage=None)}).proof
    assert proof is not None
    lying = replace(proof, echoed={**proof.echoed, name: proof.echoed[name] + " "})
    with pytest.raises(RemoteProtocolError) as caught:
        check_echo(lying, offer.challenge)
    assert caught.value.code == code


def test_secrets_stay_out_of_repr() -> None:
    key = make_key(bytes(range(32)))
    header = proof_header(honest_offer(NODE), preimage=Preimage(b"\x77" * 32))
    shown = repr(parse_credential({"payment-signature": header, "authorization": f"Bearer {key}"}))
    assert key not in shown
    assert "77" * 4 not in shown
    assert "w" * 8 not in shown
    assert "f1.k1" not in shown


@pytest.mark.parametrize("case", VECTORS["names"], ids=lambda case: case["name"])
def test_key_vectors(case: dict[str, str]) -> None:
    key = make_key(bytes.fromhex(case["entropy"]))
    assert key == case["key"]
    assert key_digest(key).hex() == case["key_digest"]
    assert parse_credential({"authorization": f"Bearer {key}"}) == Credential(key=key)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_take_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        make_key(bytes(length))


def test_header_json_round_trip() -> None:
    value = {"a": "\u00e9", "n": 1}
    text = encode_header_json(value)
    assert base64.b64decode(text) == '{"a":"é","n":1}'.encode()
    assert decode_header_json(text, limit_chars=100, code="malformed_proof") == value
