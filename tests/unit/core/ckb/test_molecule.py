"""Molecule codecs: canonical forms and refusals."""

from dataclasses import dataclass
from typing import TypeVar

import pytest

from infern.core.ckb.molecule import (
    BYTE,
    HASH32,
    UINT32,
    UINT64,
    UINT128,
    Array,
    ByteArray,
    Bytes,
    Codec,
    DynVec,
    FixVec,
    Option,
    Struct,
    Table,
    TaggedUnion,
    Uint,
)
from infern.core.errors import Money, RemoteProtocolError

BYTES = Bytes("Bytes", max_bytes=64)
BYTES_VEC = DynVec("BytesVec", BYTES, max_items=8)
UINT32_VEC = FixVec("Uint32Vec", UINT32, max_items=4)
# The table of RFC 8's examples.
MIXED = (
    Table.of("MixedType")
    .field(BYTES)
    .field(BYTE)
    .field(UINT32)
    .field(ByteArray("Byte3", 3))
    .field(BYTES)
)


RFC_BYTES_VEC = (
    "34000000 18000000 1e000000 22000000 28000000 2d000000 "
    "020000001234 00000000 020000000567 0100000089 03000000abcdef"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Cat:
    name: bytes


@dataclass(frozen=True)
class Dog:
    age: int


PET = (
    TaggedUnion.of("Pet")
    .item(0, Cat, BYTES.mapped(Cat, lambda cat: cat.name))
    .item(7, Dog, UINT32.mapped(Dog, lambda dog: dog.age))
)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def refusal(codec: Codec[T], data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.unpack(data)
    assert caught.value.code == "invalid_molecule"
    assert caught.value.money is Money.UNMOVED
    return caught.value.message


CASES = [
    (BYTE, 0xAB, "ab"),
    (UINT32, 0x01020304, "04030201"),
    (UINT64, 2**64 - 1, "ff" * 8),
    (UINT128, 2**128 - 2, "fe" + "ff" * 15),
    (HASH32, bytes(range(32)), bytes(range(32)).hex()),
    (Array("Pair", UINT32, 2), (1, 2), "0100000002000000"),
    (BYTES, b"", "00000000"),
    (BYTES, h("1234567890"), "050000001234567890"),
    (UINT32_VEC, (), "00000000"),
    (UINT32_VEC, (0x123,), "0100000023010000"),
    (BYTES_VEC, (), "04000000"),
    (BYTES_VEC, (h("1234"),), "0e00000008000000020000001234"),
    (
        BYTES_VEC,
        (h("1234"), b"", h("0567"), h("89"), h("abcdef")),
        RFC_BYTES_VEC,
    ),
    (Struct.of("S").field(BYTE).field(UINT32), (0xAB, 0x123), "ab23010000"),
    (Table.of("Empty"), (), "04000000"),
    (
        MIXED,
        (b"", 0xAB, 0x123, h("456789"), h("abcdef")),
        "2b000000180000001c0000001d000000210000002400000000000000ab2301000045678903000000abcdef",
    ),
    (Option("O", UINT32), None, ""),
    (Option("O", UINT32), 5, "05000000"),
    (Option("O", BYTES), b"", "00000000"),
    (PET, Cat(b"x"), "000000000100000078"),
    (PET, Dog(3), "0700000003000000"),
]


@pytest.mark.parametrize(("codec", "value", "encoded"), CASES)
def test_writes_and_reads_the_canonical_form(
    codec: Codec[object], value: object, encoded: str
) -> None:
    assert codec.pack(value).hex() == encoded.replace(" ", "")
    assert codec.unpack(h(encoded)) == value


@pytest.mark.parametrize(("codec", "value", "encoded"), CASES)
def test_refuses_a_byte_more_and_a_byte_less(
    codec: Codec[object], value: object, encoded: str
) -> None:
    data = h(encoded)
    if not (isinstance(codec, Option) and not data):
        refusal(codec, data + b"\0")
    if len(data) > 1:
        refusal(codec, data[:-1])


@pytest.mark.parametrize(
    ("codec", "encoded", "problem"),
    [
        (UINT32, "000000", "Uint32 has 4 bytes, not 3"),
        (BYTES, "0000", "needs 4 bytes for its count"),
        (BYTES, "41000000" + "00" * 65, "has at most 64 items, not 65"),
        (BYTES, "ffffffff", "has at most 64 items"),
        (UINT32_VEC, "05000000" + "00" * 20, "has at most 4 items, not 5"),
        (UINT32_VEC, "0100000000", "which is not the size of 1 items"),
        (BYTES_VEC, "", "needs 4 bytes for its size"),
        (BYTES_VEC, "05000000", "claims 5 bytes and has 4"),
        (BYTES_VEC, "0500000000", "a first offset that fits no header"),
        (BYTES_VEC, "0800000004000000", "a first offset that fits no header"),
        (BYTES_VEC, "0800000000000000", "a first offset that fits no header"),
        (BYTES_VEC, "0c0000000900000000000000", "a first offset that fits no header"),
        (BYTES_VEC, "080000000c000000", "a first offset that fits no header"),
        (BYTES_VEC, "1400000010000000100000001000000000000000", "needs 4 bytes for its count"),
        (BYTES_VEC, "140000000c0000000b0000000000000000000000", "offsets out of order"),
        (BYTES_VEC, "140000000c000000ffffff7f0000000000000000", "offsets out of order"),
        (BYTES_VEC, "28000000" + "28000000" * 9, "has at most 8 items, not 9"),
        (PET, "000000", "needs 4 bytes for its id"),
        (PET, "0100000003000000", "has no item 1"),
        (PET, "0700000003", "Uint32 has 4 bytes, not 1"),
        (MIXED, "04000000", "has 5 fields, not 0"),
    ],
)
def test_refuses_what_is_not_canonical(codec: Codec[object], encoded: str, problem: str) -> None:
    assert problem in refusal(codec, h(encoded))


def test_a_table_has_exactly_its_fields_unless_compatible() -> None:
    later = Table.of("T").field(UINT32).field(BYTES).pack((7, b"new"))
    now = Table.of("T").field(UINT32).pack((7,))
    strict = Table.of("T").field(UINT32)
    lenient = Table.of("T", compatible=True).field(UINT32)
    assert strict.unpack(now) == lenient.unpack(now) == (7,)
    assert "has 1 fields, not 2" in refusal(strict, later)
    assert lenient.unpack(later) == (7,)
    two_fields = Table.of("T", compatible=True).field(UINT32).field(BYTES)
    assert "has 2 fields, not 1" in refusal(two_fields, now)


def test_mapped_refusals_carry_the_code_given() -> None:
    def even(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number

    plain = BYTE.mapped(even, lambda n: n)
    assert plain.unpack(b"\2") == 2
    assert refusal(plain, b"\1") == "odd"
    with pytest.raises(RemoteProtocolError) as caught:
        BYTE.mapped(even, lambda n: n, code="invalid_invoice").unpack(b"\1")
    assert caught.value.code == "invalid_invoice"


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (BYTE, 256),
        (BYTE, -1),
        (BYTE, True),
        (Uint("u", 2), 65536),
        (HASH32, bytes(31)),
        (BYTES, bytes(65)),
        (UINT32_VEC, (0,) * 5),
        (BYTES_VEC, (b"",) * 9),
        (Array("Pair", UINT32, 2), (1,)),
        (Struct.of("S").field(BYTE), (1, 2)),
        (MIXED, (b"",)),
        (PET, "neither cat nor dog"),
    ],
)
def test_our_own_values_must_fit(codec: Codec[object], value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        codec.pack(value)


def test_types_that_molecule_does_not_have_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="FixVec"):
        DynVec("V", UINT32, max_items=1)
    with pytest.raises(ValueError, match="fixed size"):
        FixVec("V", BYTES, max_items=1)
    with pytest.raises(ValueError, match="fixed size"):
        Struct.of("S").field(BYTES)
    with pytest.raises(ValueError, match="empty item"):
        Option("O", Struct.of("S"))
    with pytest.raises(ValueError, match="already"):
        PET.item(0, str, BYTES.mapped(lambda raw: raw.decode(), lambda text: text.encode()))
    with pytest.raises(ValueError, match="already"):
        PET.item(1, Dog, UINT32.mapped(Dog, lambda dog: dog.age))
