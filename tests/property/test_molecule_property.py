"""Molecule codecs under random values, random bytes and mutated bytes."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from infern.core.ckb.molecule import (
    BYTE,
    HASH32,
    UINT32,
    UINT64,
    UINT128,
    Array,
    Bytes,
    DynVec,
    FixVec,
    Option,
    Struct,
    Table,
    TaggedUnion,
)
from infern.core.errors import Money, RemoteProtocolError


@dataclass(frozen=True)
class Number:
    value: int


@dataclass(frozen=True)
class Blob:
    value: bytes


BLOB = Bytes("Blob", max_bytes=40)
ITEM = (
    TaggedUnion.of("Item")
    .item(0, Number, UINT64.mapped(Number, lambda number: number.value))
    .item(3, Blob, BLOB.mapped(Blob, lambda blob: blob.value))
)
EVERYTHING = (
    Table.of("Everything")
    .field(BYTE)
    .field(UINT128)
    .field(BLOB)
    .field(Struct.of("Point").field(HASH32).field(UINT32))
    .field(Array("Pair", UINT32, 2))
    .field(FixVec("Numbers", UINT64, max_items=5))
    .field(DynVec("Items", ITEM, max_items=5))
    .field(Option("MaybeBlob", BLOB))
)


def uint(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


BLOBS = st.binary(max_size=40)
VALUES = st.tuples(
    uint(8),
    uint(128),
    BLOBS,
    st.tuples(st.binary(min_size=32, max_size=32), uint(32)),
    st.tuples(uint(32), uint(32)),
    st.lists(uint(64), max_size=5).map(tuple),
    st.lists(uint(64).map(Number) | BLOBS.map(Blob), max_size=5).map(tuple),
    st.none() | BLOBS,
)


def check_read(data: bytes) -> None:
    """Whatever is accepted is canonical; whatever is not is refused in one way."""
    refusal = value = None
    try:
        value = EVERYTHING.unpack(data)
    except RemoteProtocolError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code == "invalid_molecule"
        assert refusal.money is Money.UNMOVED
    else:
        assert value is not None
        assert EVERYTHING.pack(value) == data


@given(VALUES)
@settings(deadline=None)
def test_values_survive(value: tuple[object, ...]) -> None:
    assert EVERYTHING.unpack(EVERYTHING.pack(value)) == value


@given(VALUES, st.data())
@settings(deadline=None, max_examples=300)
def test_mutated_bytes_are_canonical_or_refused(
    value: tuple[object, ...], data: st.DataObject
) -> None:
    packed = bytearray(EVERYTHING.pack(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(packed) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert"])):
            case "flip":
                packed[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                packed[at] = data.draw(st.sampled_from([0, 1, 4, 127, 255]))
            case "cut":
                del packed[at : at + data.draw(st.integers(0, 5))]
            case _:
                packed[at:at] = data.draw(st.binary(min_size=1, max_size=5))
        packed = packed or bytearray(1)
    check_read(bytes(packed))


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_are_canonical_or_refused(data: bytes) -> None:
    check_read(data)
    check_read(len(data).to_bytes(4, "little") + data[4:])
