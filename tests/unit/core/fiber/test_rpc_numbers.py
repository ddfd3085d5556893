"""Numbers, byte strings and members on fnn's wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infern.core.errors import RemoteProtocolError
from infern.core.fiber.fields import Fields
from infern.core.fiber.hexnum import read_bytes, read_uint, write_bytes, write_uint


@given(st.sampled_from([32, 64, 128]), st.data())
def test_numbers_survive_a_round_trip_and_are_minimal(bits: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, 2**bits - 1))
    text = write_uint(value, bits)
    assert text == f"0x{value:x}"
    assert read_uint(text, bits, "a number") == value


@pytest.mark.parametrize(
    "text",
    ["", "0x", "0", "1000", "0x00", "0x01", "0X1", "0xA", "0x1g", " 0x1", "0x1\n", "-0x1", "0x-1",
     "0x1_0", "0x\uff11", "0x10000000000000000", "0x" + "f" * 5000],
)  # fmt: skip
def test_other_ways_to_write_a_u64_are_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="a number"):
        read_uint(text, 64, "a number")


@pytest.mark.parametrize("value", [-1, 2**64, True, 1.0, "1", None])
def test_values_that_are_no_u64_are_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="u64"):
        write_uint(value, 64)  # type: ignore[arg-type]


@given(st.binary(max_size=64))
def test_byte_strings_survive_a_round_trip(value: bytes) -> None:
    assert read_bytes(write_bytes(value), "bytes") == value


@pytest.mark.parametrize("text", ["", "00", "0x0", "0xAB", "0x0g", "0x 0", "0x00\n"])
def test_other_byte_strings_are_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_bytes(text, "bytes")


HASH = "0x" + "11" * 32


@pytest.mark.parametrize(
    ("members", "read"),
    [
        ({}, lambda f: f.text("x")),
        ({"x": None}, lambda f: f.text("x")),
        ({"x": 1}, lambda f: f.text("x")),
        ({"x": 1}, lambda f: f.opt_text("x")),
        ({"x": "true"}, lambda f: f.flag("x")),
        ({"x": None}, lambda f: f.flag("x")),
        ({"x": 1}, lambda f: f.flag("x", absent=False)),
        ({"x": {}}, lambda f: f.items("x")),
        ({"x": ["a", 1]}, lambda f: f.texts("x")),
        ({"x": 5}, lambda f: f.u64("x")),
        ({"x": True}, lambda f: f.u64("x")),
        ({"x": "0x1" + "0" * 8}, lambda f: f.u32("x")),
        ({"x": "0x1" + "0" * 32}, lambda f: f.opt_u128("x")),
        ({"x": "0x11"}, lambda f: f.hash32("x")),
        ({"x": "0x" + "04" + "11" * 32}, lambda f: f.pubkey("x")),
        ({"x": "0x" + "11" * 35}, lambda f: f.outpoint("x")),
        ({"x": "not a script"}, lambda f: f.opt_script("x")),
    ],
)
def test_a_member_of_another_type_is_refused(members, read) -> None:
    with pytest.raises(RemoteProtocolError):
        read(Fields(members, "a thing"))


def test_absent_and_null_are_the_same_for_optional_members() -> None:
    for members in ({}, {"x": None}):
        fields = Fields(members, "a thing")
        assert fields.opt_text("x") is None
        assert fields.opt_u64("x") is None
        assert fields.opt_u128("x") is None
        assert fields.opt_hash32("x") is None
        assert fields.opt_preimage("x") is None
        assert fields.opt_outpoint("x") is None
        assert fields.opt_script("x") is None
        assert fields.flag("x", absent=True) is True


def test_the_message_names_the_member_and_its_object() -> None:
    with pytest.raises(RemoteProtocolError, match="fee of a payment must be a string"):
        Fields({"fee": 1}, "a payment").u128("fee")


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_only_an_object_has_members(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a thing must be an object"):
        Fields(value, "a thing")  # type: ignore[arg-type]
