"""RFC 8785, the JSON Canonicalization Scheme, without floats.

Digests and tokens are made over these bytes, so that everyone who holds the same value computes
the same digest in any language. Floats are refused: their canonical form is the one hard part of
the RFC, and nothing that is signed here needs one (amounts are decimal strings).

Source: RFC 8785 sections 3.2.2 (literals and strings) and 3.2.3 (order of members).
"""

from json.encoder import encode_basestring
from typing import Final

from infern.core.errors import JsonValue, LocalProtocolError

MAX_SAFE_INT: Final = 2**53 - 1
"""The widest integer every JSON implementation reads exactly (RFC 7493)."""
MAX_DEPTH: Final = 64


def canonicalize(value: JsonValue) -> bytes:
    """Write a value in its one canonical form, UTF-8.

    Raises:
        LocalProtocolError: `invalid_request`, money unmoved: a float, an integer beyond 2^53-1, a
            lone surrogate, a member name that is not text, more than 64 levels.
    """
    parts: list[str] = []
    _write(value, parts, MAX_DEPTH)
    try:
        return "".join(parts).encode("utf-8")
    except UnicodeEncodeError:
        raise LocalProtocolError("canonical JSON cannot hold half of a surrogate pair") from None


def _write(value: JsonValue, parts: list[str], levels_left: int) -> None:
    if isinstance(value, str):
        parts.append(encode_basestring(value))
    elif value is None:
        parts.append("null")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, int):
        if not -MAX_SAFE_INT <= value <= MAX_SAFE_INT:
            raise LocalProtocolError("canonical JSON holds integers up to 2^53-1; use a string")
        parts.append(str(int(value)))
    elif isinstance(value, list | dict):
        if levels_left == 0:
            raise LocalProtocolError(f"canonical JSON is limited to {MAX_DEPTH} levels")
        if isinstance(value, list):
            _write_list(value, parts, levels_left - 1)
        else:
            _write_members(value, parts, levels_left - 1)
    else:
        raise LocalProtocolError(f"canonical JSON has no {type(value).__name__} here")


def _write_list(items: list[JsonValue], parts: list[str], levels_left: int) -> None:
    separator = "["
    for item in items:
        parts.append(separator)
        _write(item, parts, levels_left)
        separator = ","
    parts.append("[]" if not items else "]")


def _write_members(members: dict[str, JsonValue], parts: list[str], levels_left: int) -> None:
    separator = "{"
    for name in sorted(members, key=_utf16):
        parts.append(separator)
        parts.append(encode_basestring(name))
        parts.append(":")
        _write(members[name], parts, levels_left)
        separator = ","
    parts.append("{}" if not members else "}")


def _utf16(name: str) -> bytes:
    """Big-endian UTF-16: comparing these bytes compares code units, as ECMAScript sorts."""
    if not isinstance(name, str):
        raise LocalProtocolError("canonical JSON names members by text")
    return name.encode("utf-16-be", "surrogatepass")
