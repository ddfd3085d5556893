"""Writing fnn's parameter arrays: one object, members that are None left out.

For fnn an absent member and a null one are the same.
"""

from collections.abc import Mapping

from infern.core.ckb.out_point import OutPoint
from infern.core.ckb.script import Script
from infern.core.errors import JsonValue
from infern.core.fiber.hexnum import U64_BITS, U128_BITS, write_bytes, write_uint


def one_object(members: Mapping[str, JsonValue]) -> list[JsonValue]:
    """The positional array that holds one object without its None members."""
    return [{name: value for name, value in members.items() if value is not None}]


def u64(value: int | None) -> str | None:
    """Write an optional u64."""
    return None if value is None else write_uint(value, U64_BITS)


def u128(value: int | None) -> str | None:
    """Write an optional u128."""
    return None if value is None else write_uint(value, U128_BITS)


def bytes32(value: bytes | None) -> str | None:
    """Write an optional 32-byte hash."""
    return None if value is None else write_bytes(value)


def key(value: bytes | None) -> str | None:
    """Write an optional public key; fnn's have no `0x`."""
    return None if value is None else value.hex()


def outpoint(value: OutPoint) -> str:
    """Write an out point in fnn's form: 36 bytes of molecule as hex."""
    return write_bytes(value.pack())


def script(value: Script | None) -> JsonValue:
    """Write an optional script in CKB's JSON form."""
    return None if value is None else value.to_json()


def true_only(*, value: bool) -> bool | None:
    """Write a flag whose default is false: present only when it is true."""
    return True if value else None


def require_uint(value: int | None, bits: int, what: str) -> None:
    """Check an optional integer parameter when a call is made.

    Raises:
        ValueError: Not an unsigned integer of `bits` bits.
    """
    if value is None:
        return
    try:
        write_uint(value, bits)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def require_length(value: bytes | None, length: int, what: str) -> None:
    """Check an optional byte-string parameter when a call is made.

    Raises:
        ValueError: Another length.
    """
    if value is not None and len(value) != length:
        raise ValueError(f"{what} has {length} bytes")
