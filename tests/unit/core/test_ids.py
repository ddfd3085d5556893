"""Identifiers from hostile text."""

import json
from pathlib import Path

import pytest

from infern.core.errors import RemoteProtocolError
from infern.core.ids import (
    base32_id,
    parse_hex,
    parse_payment_hash,
    parse_preimage,
    parse_pubkey,
    parse_request_digest,
)

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/f402.json").read_text())


@pytest.mark.parametrize("parse", [parse_payment_hash, parse_preimage, parse_request_digest])
def test_32_bytes_with_or_without_prefix(parse: object) -> None:
    assert callable(parse)
    assert parse("ab" * 32) == parse("0x" + "ab" * 32) == b"\xab" * 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "ab" * 31,
        "ab" * 33,
        "ab" * 31 + "a",
        "AB" * 32,
        "0X" + "ab" * 32,
        "0x0x" + "ab" * 32,
        "0x0x" + "ab" * 31,
        "0x" + "ab" * 31,
        " " + "ab" * 32,
        "ab" * 32 + "\n",
        "ab" * 31 + "a\n",
        "g0" * 32,
        "\uff10" * 64,
        "\u0660" * 64,
        "a b " * 16,
    ],
)
def test_anything_else_is_not_32_bytes(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_payment_hash(text)
    assert caught.value.code == "invalid_request"
    assert str(caught.value) == "a payment hash must be 32 bytes of lowercase hex"


def test_no_bytes_at_all() -> None:
    assert parse_hex("0x", 0, "nothing") == b""


@pytest.mark.parametrize("first", ["02", "03"])
def test_compressed_public_keys(first: str) -> None:
    assert parse_pubkey(first + "cd" * 32) == bytes.fromhex(first + "cd" * 32)


@pytest.mark.parametrize("text", ["04" + "cd" * 32, "00" + "cd" * 32, "cd" * 32, "04" + "cd" * 64])
def test_other_public_keys_are_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_pubkey(text)


@pytest.mark.parametrize("case", VECTORS["names"], ids=lambda case: case["name"])
def test_identifier_vectors(case: dict[str, str]) -> None:
    assert base32_id("req_", bytes.fromhex(case["id_entropy"])) == case["id"]


@pytest.mark.parametrize("length", [0, 15, 17])
def test_identifiers_take_16_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        base32_id("req_", bytes(length))
