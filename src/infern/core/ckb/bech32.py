"""bech32 and bech32m texts without bech32's own length limit; the caller sets one.

CKB addresses and Fiber invoices both use it. A text is a human-readable part, the separator `1`
and characters of five bits each, the last six of them a checksum. Either all letters are lower
case or all are upper case.

The wording of `Bech32Error` is that of the Rust crate fnn uses: fnn repeats it to its callers,
who can act on nothing but the text.

Source: BIP-173, BIP-350; messages of the `bech32` 0.9.1 crate.
"""

import base64
from dataclasses import dataclass
from enum import Enum
from typing import Final

_CHARSET: Final = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_RFC4648: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE32_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"
_FIVE_BITS: Final = bytes(range(32))
_NOT_A_VALUE: Final = 0xFF
_CHECKSUM_CHARS: Final = 6
_MAX_HRP_BYTES: Final = 83
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class Variant(Enum):
    """Which checksum a text carries; the value is the constant it is mixed with."""

    BECH32 = 1
    BECH32M = 0x2BC830A3


class Bech32Error(ValueError):
    """A text that is not bech32; `str()` says why in fnn's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bech32Text:
    """A decoded text.

    Args:
        hrp: The human-readable part in lower case.
        values: Five-bit values, one a byte, without the checksum.
        variant: The checksum found.
    """

    hrp: str
    values: bytes
    variant: Variant


def _decoding_table() -> bytes:
    table = bytearray([_NOT_A_VALUE] * 256)
    for value, char in enumerate(_CHARSET):
        table[char] = table[ord(chr(char).upper())] = value
    return bytes(table)


def _feedback_table() -> tuple[int, ...]:
    table = []
    for top in range(32):
        feedback = 0
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                feedback ^= generator
        table.append(feedback)
    return tuple(table)


_VALUES: Final = _decoding_table()
_FEEDBACK: Final = _feedback_table()
_TO_CHARSET: Final = bytes.maketrans(_FIVE_BITS, _CHARSET)
_TO_DIGITS: Final = bytes.maketrans(_FIVE_BITS, _BASE32_DIGITS)
_FROM_RFC4648: Final = bytes.maketrans(_RFC4648, _FIVE_BITS)


def decode(text: str, *, max_chars: int) -> Bech32Text:
    """Read a text of either variant.

    Args:
        text: Anything; only its length is looked at when it is over `max_chars`.
        max_chars: The longest text accepted.

    Raises:
        Bech32Error: The text is too long or not bech32.
    """
    if len(text) > max_chars:
        raise Bech32Error(f"invalid length, a text has at most {max_chars} characters")
    at = text.rfind("1")
    hrp = text[:at].lower()
    # The usual case costs no look at single characters; `_fault` finds out what was wrong.
    if at < 1 or at > _MAX_HRP_BYTES or not text.isascii():
        raise Bech32Error(_fault(text))
    values = text[at + 1 :].encode("ascii").translate(_VALUES)
    one_case = text == text.lower() or text == text.upper()
    if _NOT_A_VALUE in values or not one_case or not hrp.isprintable() or " " in hrp:
        raise Bech32Error(_fault(text))
    if len(values) < _CHECKSUM_CHARS:
        raise Bech32Error("invalid length")
    remainder = _polymod(_expand(hrp) + values)
    for variant in Variant:
        if remainder == variant.value:
            return Bech32Text(hrp=hrp, values=values[:-_CHECKSUM_CHARS], variant=variant)
    raise Bech32Error("invalid checksum")


def encode(hrp: str, values: bytes, variant: Variant) -> str:
    """Write a text in lower case.

    Args:
        hrp: 1 to 83 printable ASCII characters without upper case letters.
        values: Five-bit values, one a byte.
        variant: The checksum to write.

    Raises:
        ValueError: The human-readable part or a value is out of range.
    """
    proper = hrp.isascii() and hrp.isprintable() and " " not in hrp and hrp == hrp.lower()
    if not 1 <= len(hrp) <= _MAX_HRP_BYTES or not proper:
        raise ValueError("a human-readable part is 1 to 83 printable lower case characters")
    if values and max(values) > 31:
        raise ValueError("bech32 values have five bits")
    remainder = _polymod(_expand(hrp) + values + bytes(_CHECKSUM_CHARS)) ^ variant.value
    checksum = bytes(remainder >> shift & 31 for shift in range(25, -1, -5))
    return f"{hrp}1{(values + checksum).translate(_TO_CHARSET).decode('ascii')}"


def values_from_bytes(data: bytes) -> bytes:
    """Regroup bytes into five-bit values, the last one padded with zero bits."""
    return base64.b32encode(data).rstrip(b"=").translate(_FROM_RFC4648)


def bytes_from_values(values: bytes) -> bytes:
    """Regroup five-bit values into bytes.

    Raises:
        Bech32Error: Bits are left over that are no padding: five or more, or not all zero.
    """
    if not values:
        return b""
    bits = 5 * len(values)
    padding = bits % 8
    number = int(values.translate(_TO_DIGITS), 32)
    if padding >= 5 or number & ((1 << padding) - 1):
        raise Bech32Error("invalid padding")
    return (number >> padding).to_bytes(bits // 8, "big")


def _expand(hrp: str) -> bytes:
    raw = hrp.encode("ascii")
    return bytes([*(char >> 5 for char in raw), 0, *(char & 31 for char in raw)])


def _polymod(values: bytes) -> int:
    feedback = _FEEDBACK
    remainder = 1
    for value in values:
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value ^ feedback[remainder >> 25]
    return remainder


def _fault(text: str) -> str:
    """What the first thing wrong with a text is, in the order the Rust crate looks at it."""
    at = text.rfind("1")
    if at < 0:
        return 'missing human-readable separator, "1"'
    raw = text[:at].encode("utf-8", "surrogatepass")
    if not 1 <= len(raw) <= _MAX_HRP_BYTES:
        return "invalid length"
    lower = upper = False
    for byte in raw:
        if not 33 <= byte <= 126:
            return _bad_char(chr(byte))
        lower |= 97 <= byte <= 122
        upper |= 65 <= byte <= 90
        if lower and upper:
            return "mixed-case strings not allowed"
    for char in text[at + 1 :]:
        if not char.isascii():
            return _bad_char(char)
        lower |= char.islower()
        upper |= char.isupper()
        if lower and upper:
            return "mixed-case strings not allowed"
        if _VALUES[ord(char)] == _NOT_A_VALUE:
            return _bad_char(char)
    return "invalid checksum"


def _bad_char(char: str) -> str:
    # A lone surrogate or a control character must not travel on in our own messages.
    shown = char if char.isprintable() else ascii(char)[1:-1]
    return f"invalid character (code={shown})"
