"""Scripts: hash, molecule and JSON."""

import pytest

from infern.core.ckb.script import (
    MAX_SCRIPT_ARGS_BYTES,
    SECP256K1_LOCK_CODE_HASH,
    HashType,
    Script,
)
from infern.core.errors import JsonValue, RemoteProtocolError

# The lock of the first account of CKB's published dev chain, with the hash its spec names.
DEV_LOCK = Script(
    code_hash=SECP256K1_LOCK_CODE_HASH,
    hash_type=HashType.TYPE,
    args=bytes.fromhex("c8328aabcd9b9e8e64fbc566c4385c3bdeb219d7"),
)
DEV_LOCK_HASH = "32e555f3ff8e135cece1351a6a2971518392c1e30375c1e006ad0ce8eac07947"

# default_funding_lock_script of a real fnn 0.8.0 node.
NODE_LOCK_JSON: dict[str, JsonValue] = {
    "code_hash": "0x9bd7e06f3ecf4be0f2fcd2188b23f1b9fcc88e5d4b65a8637b17723bbda3cce8",
    "hash_type": "type",
    "args": "0xfce45f9b5bf08a788efed4c9ad31479d166fbf61",
}


def test_hash_is_the_one_of_the_published_dev_chain() -> None:
    assert DEV_LOCK.hash().hex() == DEV_LOCK_HASH


def test_packs_to_the_molecule_of_the_invoice_vectors() -> None:
    empty = Script(code_hash=bytes(32), hash_type=HashType.DATA, args=b"")
    assert empty.pack().hex() == "35000000100000003000000031000000" + "00" * 37
    assert Script.unpack(empty.pack()) == empty


def test_reads_and_writes_what_a_node_answers() -> None:
    script = Script.from_json(NODE_LOCK_JSON)
    assert script.code_hash == SECP256K1_LOCK_CODE_HASH
    assert script.hash_type is HashType.TYPE
    assert script.to_json() == NODE_LOCK_JSON
    assert Script.from_json({**NODE_LOCK_JSON, "unheard_of": 1}) == script


@pytest.mark.parametrize(
    ("kind", "byte", "name"),
    [
        (HashType.DATA, 0, "data"),
        (HashType.TYPE, 1, "type"),
        (HashType.DATA1, 2, "data1"),
        (HashType.DATA2, 4, "data2"),
    ],
)
def test_hash_types(kind: HashType, byte: int, name: str) -> None:
    script = Script(code_hash=bytes(32), hash_type=kind, args=b"\1")
    packed = script.pack()
    assert packed[48] == byte
    assert Script.unpack(packed) == script
    assert script.to_json()["hash_type"] == name
    assert Script.from_json(script.to_json()) == script


@pytest.mark.parametrize("byte", [3, 5, 255])
def test_refuses_unknown_hash_types(byte: int) -> None:
    packed = bytearray(DEV_LOCK.pack())
    packed[48] = byte
    with pytest.raises(RemoteProtocolError, match=f"no hash type {byte}") as caught:
        Script.unpack(bytes(packed))
    assert caught.value.code == "invalid_molecule"


@pytest.mark.parametrize(
    "change",
    [
        {"code_hash": None},
        {"code_hash": "0x9b"},
        {"code_hash": 7},
        {"hash_type": "data3"},
        {"hash_type": None},
        {"hash_type": ["type"]},
        {"args": None},
        {"args": "fce4"},
        {"args": "0xfce"},
        {"args": "0xFC"},
        {"args": "0xzz"},
        {"args": "0x" + "00" * (MAX_SCRIPT_ARGS_BYTES + 1)},
    ],
)
def test_refuses_broken_json(change: dict[str, JsonValue]) -> None:
    with pytest.raises(RemoteProtocolError):
        Script.from_json({**NODE_LOCK_JSON, **change})


@pytest.mark.parametrize("value", [None, "type", [], 3])
def test_refuses_json_that_is_no_object(value: JsonValue) -> None:
    with pytest.raises(RemoteProtocolError, match="object"):
        Script.from_json(value)


def test_refuses_impossible_scripts() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Script(code_hash=bytes(31), hash_type=HashType.TYPE, args=b"")
    with pytest.raises(ValueError, match="at most"):
        Script(code_hash=bytes(32), hash_type=HashType.TYPE, args=bytes(MAX_SCRIPT_ARGS_BYTES + 1))
