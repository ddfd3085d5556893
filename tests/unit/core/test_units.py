"""Amounts, assets, networks, rounding and what people type."""

import json
from pathlib import Path

import pytest

from infern.core.errors import RemoteProtocolError
from infern.core.units import (
    CKB,
    MAX_AMOUNT,
    Asset,
    Network,
    checked_amount,
    div_ceil,
    div_floor,
    format_amount,
    parse_amount,
    parse_ckb,
)

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/f402.json").read_text())
UDT = Asset(bytes([0xAB]) * 32)


def by_name(case: dict[str, object]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", VECTORS["amount"], ids=by_name)
def test_amount_vectors(case: dict[str, str]) -> None:
    if case["valid"]:
        assert str(parse_amount(case["text"])) == case["text"]
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            parse_amount(case["text"])
        assert caught.value.code == "invalid_request"


def test_amount_limit_is_inclusive() -> None:
    assert parse_amount("100", limit=100) == 100
    with pytest.raises(RemoteProtocolError):
        parse_amount("101", limit=100)


def test_refusal_of_an_amount_shows_little_of_it() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_amount("x" * 10_000)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("case", VECTORS["asset"], ids=by_name)
def test_asset_vectors(case: dict[str, str]) -> None:
    if case["valid"]:
        asset = Asset.parse(case["text"])
        assert str(asset) == case["text"]
        assert asset.id32.hex() == case["id32"]
        assert asset.is_ckb == (case["text"] == "ckb")
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            Asset.parse(case["text"])
        assert caught.value.code == "asset_mismatch"


@pytest.mark.parametrize("type_hash", [b"", b"\x01" * 31, b"\x01" * 33, bytes(32)])
def test_no_asset_has_a_short_hash_or_reads_as_ckb(type_hash: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes, not all zero"):
        Asset(type_hash)


def test_assets_compare_by_value() -> None:
    assert Asset(None) == CKB
    assert len({CKB, Asset(None), UDT, Asset(bytes([0xAB]) * 32)}) == 2


@pytest.mark.parametrize(
    ("network", "fiber_id", "currency"),
    [
        (Network.MAINNET, "fiber:mainnet", "Fibb"),
        (Network.TESTNET, "fiber:testnet", "Fibt"),
        (Network.DEV, "fiber:dev", "Fibd"),
    ],
)
def test_network_names(network: Network, fiber_id: str, currency: str) -> None:
    assert (network.fiber_id, network.currency) == (fiber_id, currency)
    assert Network.from_fiber_id(fiber_id) is network


@pytest.mark.parametrize("text", ["", "testnet", "fiber:", "fiber:Testnet", "eip155:8453"])
def test_other_networks_are_not_supported(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Network.from_fiber_id(text)
    assert caught.value.code == "unsupported_network"


@pytest.mark.parametrize("value", [0, 1, MAX_AMOUNT])
def test_checked_amount_returns_amounts(value: int) -> None:
    assert checked_amount(value) == value


@pytest.mark.parametrize("value", [-1, MAX_AMOUNT + 1, True, False, 1.0, "1", None])
def test_checked_amount_refuses_everything_else(value: object) -> None:
    with pytest.raises(ValueError, match="an amount"):
        checked_amount(value)  # type: ignore[arg-type]  # the test passes wrong types on purpose


@pytest.mark.parametrize(
    ("numerator", "floor", "ceil"), [(0, 0, 0), (1, 0, 1), (9, 0, 1), (10, 1, 1), (11, 1, 2)]
)
def test_named_rounding(numerator: int, floor: int, ceil: int) -> None:
    assert (div_floor(numerator, 10), div_ceil(numerator, 10)) == (floor, ceil)


def test_rounding_is_exact_beyond_doubles() -> None:
    assert div_ceil(2**128, 3) == 2**128 // 3 + 1
    assert div_floor(2**128, 3) == 2**128 // 3


@pytest.mark.parametrize(
    ("text", "shannon"),
    [
        ("0", 0),
        ("12.5", 1_250_000_000),
        ("12.5 CKB", 1_250_000_000),
        ("  12.50\tckb ", 1_250_000_000),
        ("0.00000001", 1),
        ("0.000000010000", 1),
        ("1250 shannon", 1250),
        ("1250.0 shannons", 1250),
        ("007 CKB", 700_000_000),
        ("12345678901234567890.12345678", 1234567890123456789012345678),
    ],
)
def test_parse_ckb(text: str, shannon: int) -> None:
    assert parse_ckb(text) == shannon


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not an amount"),
        ("1 2 CKB", "is not an amount"),
        ("1 EUR", "is not a unit"),
        ("-1", "is not a number"),
        ("+1", "is not a number"),
        ("1e5", "is not a number"),
        ("1_000", "is not a number"),
        ("1,5", "is not a number"),
        (".5", "is not a number"),
        ("5.", "is not a number"),
        ("1.2.3", "is not a number"),
        ("nan", "is not a number"),
        ("Infinity", "is not a number"),
        ("\u0661", "is not a number"),
        ("1" * 40, "is not a number"),
        ("0.000000001", "smallest unit"),
        ("1.5 shannon", "smallest unit"),
        # A decimal context of 28 digits once rounded this to exactly 1 CKB.
        ("1.000000000000000000000000000001", "smallest unit"),
        (str(2**128), "lies between"),
    ],
)
def test_parse_ckb_refuses_what_may_be_a_slip(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_ckb(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 CKB"),
        (1, "0.00000001 CKB"),
        (184_320, "0.0018432 CKB"),
        (100_000_000, "1 CKB"),
        (-150_000_000, "-1.5 CKB"),
        (2**128 - 1, "3402823669209384634633746074317.68211455 CKB"),
    ],
)
def test_format_amount_is_exact(amount: int, text: str) -> None:
    assert format_amount(amount) == text


def test_format_amount_of_a_udt_claims_no_decimals() -> None:
    assert format_amount(5, UDT) == f"5 base units of udt:0x{'ab' * 32}"
