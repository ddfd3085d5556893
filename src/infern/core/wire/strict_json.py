"""JSON as hostile strangers send it: read strictly, bounded before it is parsed, written compactly.

Two parsers that disagree about one body are how a request is priced as one thing and served as
another. So everything parsers are known to disagree about is refused here (duplicate members,
NaN, lone surrogates, numbers out of range), and whatever is sent on is written again from what
was read.
"""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Final, NoReturn

from infern.core.errors import JsonValue, RemoteProtocolError

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
"""A JSON value off the wire. Unlike `JsonValue` it has floats, which a temperature is."""
JsonObject = dict[str, Json]

MAX_DEPTH: Final = 64
MAX_CONTAINERS: Final = 65_536
"""Arrays and objects in one document; each costs up to 30 times its two bytes in memory."""
MAX_STRINGS: Final = 262_144
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1
"""Integers beyond a 64-bit word are read differently by different model servers."""
MAX_NUMBER_CHARS: Final = 64

_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def loads_object(
    body: bytes,
    *,
    max_depth: int = MAX_DEPTH,
    max_containers: int = MAX_CONTAINERS,
    max_strings: int = MAX_STRINGS,
) -> JsonObject:
    r"""Read one JSON object.

    Args:
        body: The whole document, UTF-8. Its length is the caller's to limit.
        max_depth: Arrays and objects that may stand inside one another; the outermost is 1.
        max_containers: Arrays and objects in all, once there are more than `max_depth`.
        max_strings: Strings in all, member names included.

    Raises:
        RemoteProtocolError: `invalid_request`, money unmoved, for anything that is not one strict
            JSON object: bad UTF-8 or syntax, duplicate members at any level, NaN or Infinity
            (also by overflow, `1e999`), integers outside -2^63..2^64-1, an unpaired surrogate
            escape, too deep, too many values. Nothing else is ever raised.
    """
    _check_shape(body, max_depth, max_containers, max_strings)
    try:
        text = body.decode("utf-8")
        value: Json = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"the JSON is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RemoteProtocolError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:  # max_depth above what the interpreter's stack still has room for
        raise RemoteProtocolError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise RemoteProtocolError("the JSON must be one object")
    if b"\\ud" in body or b"\\uD" in body:
        try:
            _ENCODER.encode(value).encode("utf-8")
        except UnicodeEncodeError:
            raise RemoteProtocolError("the JSON escapes half of a surrogate pair") from None
    return value


def dumps(value: Json | JsonValue | Mapping[str, Json] | Mapping[str, JsonValue]) -> bytes:
    """Write a value as compact UTF-8 JSON; members keep their order.

    The order is kept because templates print tool schemas in the order of the request. For a form
    that does not depend on order use `infern.core.wire.jcs`.

    Raises:
        ValueError: NaN, Infinity or a lone surrogate; `loads_object` never returns these.
    """
    return _ENCODER.encode(value).encode("utf-8")


def _check_shape(body: bytes, max_depth: int, max_containers: int, max_strings: int) -> None:
    r"""Refuse documents that would exhaust the parser's stack or our memory, before parsing.

    Works on bytes at C speed. It drops `\\` and `\"`, after which every quote opens or closes a
    string, then everything inside strings, and adds up what is left of brackets. For text that is
    not JSON the result can be wrong only behind the first error, where no parser ever looks.
    """
    opened = body.count(b"[") + body.count(b"{")
    if opened <= max_depth and body.count(b'"') <= max_strings:
        return
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
    if bare.count(b'"') > 2 * max_strings:
        raise RemoteProtocolError(f"the JSON has more than {max_strings} strings")
    steps = b"".join(bare.split(b'"')[::2]).translate(_STEPS)
    if steps.count(b"\x01") > max_containers:
        raise RemoteProtocolError(f"the JSON has more than {max_containers} arrays and objects")
    if max(accumulate(memoryview(steps).cast("b")), default=0) > max_depth:
        raise RemoteProtocolError(f"the JSON is nested deeper than {max_depth}")


def _object(pairs: list[tuple[str, Json]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise RemoteProtocolError(f"the JSON names {_shown(name)} twice in one object")
    return members


def _integer(text: str) -> int:
    if len(text) > 20:
        raise RemoteProtocolError("the JSON has an integer outside 64 bits")
    value = int(text)
    if not MIN_INT <= value <= MAX_INT:
        raise RemoteProtocolError("the JSON has an integer outside 64 bits")
    return value


def _real(text: str) -> float:
    if len(text) > MAX_NUMBER_CHARS:
        raise RemoteProtocolError(f"the JSON has a number of more than {MAX_NUMBER_CHARS} digits")
    value = float(text)
    if value in (_INFINITY, -_INFINITY):
        raise RemoteProtocolError("the JSON has a number outside the range of a double")
    return value


def _constant(text: str) -> NoReturn:
    raise RemoteProtocolError(f"the JSON has {text}, which is not JSON")


def _shown(name: str) -> str:
    """A member name fit for an error message, whatever it holds."""
    return ascii(name[:64])


_INFINITY: Final = float("inf")
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
)
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
