"""fnn's numbers and byte strings: `0x` and minimal lowercase hex, both ways, strictly.

fnn refuses decimal numbers, uppercase and redundant zeros, and never writes them; so do we. A
lenient reader would accept an amount that another implementation reads differently.

Source: `U32Hex`, `U64Hex`, `U128Hex`, `SliceHex` of fiber-json-types 0.9.1.
"""

import re
from typing import Final

from infern.core.errors import RemoteProtocolError

U32_BITS: Final = 32
U64_BITS: Final = 64
U128_BITS: Final = 128

_MINIMAL = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]*)")
_BYTES = re.compile(r"0x(?:[0-9a-f]{2})*")


def write_uint(value: int, bits: int) -> str:
    """Write an unsigned integer, e.g. `0x3e8`; zero is `0x0`.

    Raises:
        ValueError: Not an integer, negative or wider than `bits`.
    """
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise ValueError(f"a u{bits} is an integer from 0 to 2^{bits}-1")
    return hex(value)


def read_uint(text: str, bits: int, what: str) -> int:
    """Read an unsigned integer written by fnn.

    Raises:
        RemoteProtocolError: Not minimal lowercase hex with `0x`, or wider than `bits`.
    """
    if len(text) > 2 + bits // 4 or not _MINIMAL.fullmatch(text):
        raise RemoteProtocolError(f"{what} is not a minimal u{bits} hex string: {text[:40]!r}")
    return int(text, 16)


def write_bytes(value: bytes) -> str:
    """Write a byte string; the empty one is `0x`."""
    return "0x" + value.hex()


def read_bytes(text: str, what: str) -> bytes:
    """Read a byte string of any length.

    Raises:
        RemoteProtocolError: Not `0x` and whole bytes of lowercase hex.
    """
    if not _BYTES.fullmatch(text):
        raise RemoteProtocolError(f"{what} is not 0x and whole bytes of lowercase hex")
    return bytes.fromhex(text[2:])
