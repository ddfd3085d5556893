"""Out points: bytes and JSON."""

import pytest

from infern.core.ckb.out_point import OUT_POINT_BYTES, OutPoint
from infern.core.errors import JsonValue, RemoteProtocolError

# channel_outpoint of a real fnn 0.8.0 node.
HEX = "f0dc0356c49d5fb155bd83ec1ff6fe36a07cff5c0fb8bba9dec50e904c4ebc5200000000"
JSON: dict[str, JsonValue] = {"tx_hash": "0x" + HEX[:64], "index": "0x0"}


def test_reads_and_writes_36_bytes() -> None:
    out_point = OutPoint.unpack(bytes.fromhex(HEX))
    assert out_point == OutPoint(tx_hash=bytes.fromhex(HEX[:64]), index=0)
    assert out_point.pack().hex() == HEX
    assert OutPoint(tx_hash=bytes(32), index=0x01020304).pack()[32:].hex() == "04030201"


@pytest.mark.parametrize("size", [0, OUT_POINT_BYTES - 1, OUT_POINT_BYTES + 1])
def test_refuses_other_sizes(size: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        OutPoint.unpack(bytes(size))
    assert caught.value.code == "invalid_molecule"


def test_reads_and_writes_json() -> None:
    out_point = OutPoint.unpack(bytes.fromhex(HEX))
    assert out_point.to_json() == JSON
    assert OutPoint.from_json({**JSON, "more": None}) == out_point
    last = OutPoint(tx_hash=bytes(32), index=2**32 - 1)
    assert OutPoint.from_json(last.to_json()) == last


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"tx_hash": JSON["tx_hash"]},
        {"index": "0x0"},
        {**JSON, "tx_hash": "0x00"},
        {**JSON, "index": 0},
        {**JSON, "index": "0"},
        {**JSON, "index": "0x00"},
        {**JSON, "index": "0x"},
        {**JSON, "index": "0xA"},
        {**JSON, "index": "0x100000000"},
        {**JSON, "index": "0x1\n"},
    ],
)
def test_refuses_broken_json(value: JsonValue) -> None:
    with pytest.raises(RemoteProtocolError):
        OutPoint.from_json(value)


def test_refuses_impossible_out_points() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        OutPoint(tx_hash=bytes(33), index=0)
    for index in (-1, 2**32, True):
        with pytest.raises(ValueError, match="32-bit"):
            OutPoint(tx_hash=bytes(32), index=index)
