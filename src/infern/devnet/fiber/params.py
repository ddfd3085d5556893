"""Parameter objects of fnn's JSON-RPC: as strict as its deserialiser, with its complaints.

Fields are declared in fnn's order, because 0.8.0 echoes the whole object back in errors with every
absent optional member as null. Unknown members are ignored, null is the same as absent.

Complaints end in `at line 1 column N` like serde_json's; the column is that of the compact text.

Source: fiber-json-types 0.8.0 `serde_utils.rs` (texts), serde_json (places).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from infern.core.ckb.script import Script
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.invoice import HashAlgorithm
from infern.devnet.fiber.errors import RpcError, invalid_params
from infern.devnet.fiber.session import HopHint, RouterHop

T = TypeVar("T")

_HEX_DIGITS: Final = re.compile(r"[0-9a-fA-F]*")


class Complaint(ValueError):
    """Why a value does not deserialise; the place is added by the caller."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a JSON value is read and how the value is echoed."""

    read: Callable[[JsonValue], object]
    echo: Callable[[object], JsonValue]


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a parameter object."""

    name: str
    kind: Kind
    required: bool = False
    default: object = None


class Params:
    """A read parameter object."""

    def __init__(self, fields: tuple[Field, ...], values: Mapping[str, object]) -> None:
        self._fields = fields
        self._values = values

    def need(self, name: str, kind: type[T]) -> T:
        """A member that cannot be absent."""
        value = self._values[name]
        assert isinstance(value, kind), name
        return value

    def maybe(self, name: str, kind: type[T]) -> T | None:
        """A member that may be absent."""
        value = self._values[name]
        assert value is None or isinstance(value, kind), name
        return value

    def flag(self, name: str) -> bool:
        """An optional boolean; absent is false."""
        return self._values[name] is True

    def echo(self) -> dict[str, JsonValue]:
        """The object as 0.8.0 repeats it in `data`."""
        result: dict[str, JsonValue] = {}
        for field in self._fields:
            value = self._values[field.name]
            result[field.name] = None if value is None else field.kind.echo(value)
        return result


def read_params(fields: tuple[Field, ...], given: JsonValue) -> Params:
    """Read the `params` of a request: an array whose first item is the object.

    Raises:
        RpcError: -32602 with the complaint in `data`.
    """
    return Params(fields, _read_object(fields, _first(given)))


def _first(given: JsonValue) -> dict[str, JsonValue]:
    if isinstance(given, dict):
        given = [given["params"]] if "params" in given else [{}]
    if not isinstance(given, list) or not given:
        raise invalid_params("No more params")
    item = given[0]
    if not isinstance(item, dict):
        column = len(_compact(item))
        raise _misplaced(f"invalid type: {unexpected(item)}, expected a map", column)
    return item


def _read_object(fields: tuple[Field, ...], item: dict[str, JsonValue]) -> dict[str, object]:
    known = {field.name: field for field in fields}
    values: dict[str, object] = {field.name: field.default for field in fields}
    seen = set()
    for position, (name, raw) in enumerate(item.items()):
        field = known.get(name)
        if field is None:
            continue
        seen.add(name)
        if raw is None and not field.required:
            values[name] = None
            continue
        try:
            values[name] = field.kind.read(raw)
        except Complaint as complaint:
            head = dict(list(item.items())[: position + 1])
            raise _misplaced(str(complaint), len(_compact(head)) - 1) from None
    for field in fields:
        if field.required and field.name not in seen:
            raise _misplaced(f"missing field `{field.name}`", len(_compact(item)))
    return values


def _misplaced(text: str, column: int) -> RpcError:
    return invalid_params(f"{text} at line 1 column {column}")


def _compact(value: JsonValue) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def unexpected(value: object) -> str:
    """How serde names a JSON value it did not expect."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{'true' if value else 'false'}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f'string "{value}"'
    return "sequence" if isinstance(value, list) else "map"


def _text(value: JsonValue, wanted: str = "a string") -> str:
    if not isinstance(value, str):
        raise Complaint(f"invalid type: {unexpected(value)}, expected {wanted}")
    return value


def _uint(bits: int) -> Kind:
    def read(value: JsonValue) -> int:
        text = _text(value)
        if len(text) < 3 or not text.startswith("0x"):
            raise Complaint(f"uint hex string does not start with 0x: {text}")
        if len(text) > 3 and text[2] == "0":
            raise Complaint(f"uint hex string starts with redundant leading zeros: {text}")
        if not _HEX_DIGITS.fullmatch(text[2:]):
            kind = "ParseIntError { kind: InvalidDigit }"
            raise Complaint(f"failed to parse uint hex {text}: {kind}")
        number = int(text, 0)
        if number >= 1 << bits:
            kind = "ParseIntError { kind: PosOverflow }"
            raise Complaint(f"failed to parse uint hex {text}: {kind}")
        return number

    return Kind(read, lambda value: hex(_as(value, int)))


def _hex_bytes(value: JsonValue) -> bytes:
    text = _text(value)
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    if len(digits) % 2:
        raise Complaint(f"failed to decode hex string {text}: OddLength")
    for index, char in enumerate(digits):
        if char not in "0123456789abcdefABCDEF":
            problem = f"InvalidHexCharacter {{ c: {char!r}, index: {index} }}"
            raise Complaint(f"failed to decode hex string {text}: {problem}")
    return bytes.fromhex(digits)


def _fixed(length: int, *, prefix: str) -> Kind:
    def read(value: JsonValue) -> bytes:
        raw = _hex_bytes(value)
        if len(raw) != length:
            raise Complaint(f"failed to convert vector into type: {list(raw)}")
        return raw

    return Kind(read, lambda value: prefix + _as(value, bytes).hex())


def _read_outpoint(value: JsonValue) -> bytes:
    raw = _hex_bytes(value)
    if len(raw) != 36:
        raise Complaint(f"OutPoint: total size doesn't match, expect 36, actual {len(raw)}")
    return raw


def _read_json_bytes(value: JsonValue) -> bytes:
    text = _text(value, "a 0x-prefixed hex string")
    if not text.startswith("0x"):
        raise Complaint(f'invalid value: string "{text}", expected a 0x-prefixed hex string')
    if len(text) % 2 or not _HEX_DIGITS.fullmatch(text[2:]):
        raise Complaint(f'invalid value: string "{text}", expected a valid hex string')
    return bytes.fromhex(text[2:])


def _read_bool(value: JsonValue) -> bool:
    if not isinstance(value, bool):
        raise Complaint(f"invalid type: {unexpected(value)}, expected a boolean")
    return value


def _read_script(value: JsonValue) -> Script:
    if not isinstance(value, dict):
        raise Complaint(f"invalid type: {unexpected(value)}, expected struct Script")
    for name in ("code_hash", "hash_type", "args"):
        if name not in value:
            raise Complaint(f"missing field `{name}`")
    try:
        return Script.from_json(value)
    except (RemoteProtocolError, ValueError) as error:
        raise Complaint(str(error)) from None


def _variant(names: tuple[str, ...]) -> Kind:
    quoted = [f"`{name}`" for name in names]
    wanted = " or ".join(quoted) if len(names) == 2 else "one of " + ", ".join(quoted)

    def read(value: JsonValue) -> str:
        if not isinstance(value, str):
            raise Complaint(f"invalid type: {unexpected(value)}, expected string or map")
        if value not in names:
            raise Complaint(f"unknown variant `{value}`, expected {wanted}")
        return value

    return Kind(read, lambda value: _as(value, str))


def _read_algorithm(value: JsonValue) -> HashAlgorithm:
    name = _variant(tuple(algorithm.rpc_name for algorithm in HashAlgorithm)).read(value)
    return next(algorithm for algorithm in HashAlgorithm if algorithm.rpc_name == name)


def _list_of(kind: Kind) -> Kind:
    def read(value: JsonValue) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise Complaint(f"invalid type: {unexpected(value)}, expected a sequence")
        return tuple(kind.read(item) for item in value)

    return Kind(read, lambda value: [kind.echo(item) for item in _as(value, tuple)])


def _struct(fields: tuple[Field, ...], make: Callable[[Params], object]) -> Kind:
    """A nested object; `make` turns it into a value that keeps its `Params` as `.echo_of`."""

    def read(value: JsonValue) -> object:
        if not isinstance(value, dict):
            raise Complaint(f"invalid type: {unexpected(value)}, expected a map")
        try:
            params = Params(fields, _read_object(fields, value))
        except RpcError as error:
            raise Complaint(str(error.data).rsplit(" at line ", 1)[0]) from None
        return _Struct(make(params), params)

    return Kind(read, lambda value: dict(_as(value, _Struct).params.echo()))


@dataclass(frozen=True, slots=True)
class _Struct:
    value: object
    params: Params


def unwrap(items: tuple[object, ...] | None, kind: type[T]) -> tuple[T, ...]:
    """The values of a list of nested objects."""
    found = tuple(item.value for item in items or () if isinstance(item, _Struct))
    assert all(isinstance(value, kind) for value in found)
    return tuple(value for value in found if isinstance(value, kind))


def _read_records(value: JsonValue) -> dict[int, bytes]:
    if not isinstance(value, dict):
        raise Complaint(f"invalid type: {unexpected(value)}, expected a map")
    return {_as(U32.read(key), int): _hex_bytes(item) for key, item in value.items()}


def _echo_records(value: object) -> JsonValue:
    records = _as(value, dict)
    return {hex(key): "0x" + item.hex() for key, item in records.items()}


def _as(value: object, kind: type[T]) -> T:
    assert isinstance(value, kind)
    return value


U32: Final = _uint(32)
U64: Final = _uint(64)
U128: Final = _uint(128)
HASH256: Final = _fixed(32, prefix="0x")
PUBKEY: Final = _fixed(33, prefix="")
OUTPOINT: Final = Kind(_read_outpoint, lambda value: "0x" + _as(value, bytes).hex())
JSON_BYTES: Final = Kind(_read_json_bytes, lambda value: "0x" + _as(value, bytes).hex())
BOOL: Final = Kind(_read_bool, lambda value: _as(value, bool))
STRING: Final = Kind(_text, lambda value: _as(value, str))
SCRIPT: Final = Kind(_read_script, lambda value: _as(value, Script).to_json())
CURRENCY: Final = _variant(("Fibb", "Fibt", "Fibd"))
PAYMENT_STATUS: Final = _variant(("Created", "Inflight", "Success", "Failed"))
ADDR_TYPE: Final = _variant(("tcp", "ws", "wss"))
ALGORITHM: Final = Kind(_read_algorithm, lambda value: _as(value, HashAlgorithm).rpc_name)
RECORDS: Final = Kind(_read_records, _echo_records)
PUBKEYS: Final = _list_of(PUBKEY)
HOP_HINTS: Final = _list_of(
    _struct(
        (
            Field("pubkey", PUBKEY, required=True),
            Field("channel_outpoint", OUTPOINT, required=True),
            Field("fee_rate", U64, required=True),
            Field("tlc_expiry_delta", U64, required=True),
        ),
        lambda params: HopHint(
            pubkey=params.need("pubkey", bytes),
            channel_outpoint=params.need("channel_outpoint", bytes),
            fee_ppm=params.need("fee_rate", int),
            tlc_expiry_delta_ms=params.need("tlc_expiry_delta", int),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class HopRequire:
    """One named hop of `build_router`."""

    pubkey: bytes
    channel_outpoint: bytes | None


HOPS_INFO: Final = _list_of(
    _struct(
        (Field("pubkey", PUBKEY, required=True), Field("channel_outpoint", OUTPOINT)),
        lambda params: HopRequire(
            params.need("pubkey", bytes), params.maybe("channel_outpoint", bytes)
        ),
    )
)
ROUTER: Final = _list_of(
    _struct(
        (
            Field("target", PUBKEY, required=True),
            Field("channel_outpoint", OUTPOINT, required=True),
            Field("amount_received", U128, required=True),
            Field("incoming_tlc_expiry", U64, required=True),
        ),
        lambda params: RouterHop(
            target=params.need("target", bytes),
            channel_outpoint=params.need("channel_outpoint", bytes),
            amount_received=params.need("amount_received", int),
            incoming_tlc_expiry=params.need("incoming_tlc_expiry", int),
        ),
    )
)
