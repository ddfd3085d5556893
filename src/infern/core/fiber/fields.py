"""Reading members of fnn's JSON objects, each with the type it must have.

Unknown members are ignored, so that newer nodes keep working. Absent and null are the same for
optional members, as they are for fnn. A required member that is absent or of another type is a
`RemoteProtocolError` that names it.
"""

from typing import Final

from infern.core.ckb.out_point import OutPoint
from infern.core.ckb.script import Script
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.hexnum import U32_BITS, U64_BITS, U128_BITS, read_bytes, read_uint
from infern.core.ids import (
    PaymentHash,
    Preimage,
    Pubkey,
    parse_hex,
    parse_payment_hash,
    parse_preimage,
    parse_pubkey,
)

_TYPE_NAMES: Final = {str: "a string", bool: "true or false", list: "an array", dict: "an object"}


class Fields:
    """One JSON object of an answer.

    Args:
        value: What stands where the object is expected.
        what: What the object is, for messages, e.g. `a channel`.

    Raises:
        RemoteProtocolError: `value` is not an object.
    """

    __slots__ = ("_members", "_what")

    def __init__(self, value: JsonValue, what: str) -> None:
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"{what} must be an object")
        self._members = value
        self._what = what

    def raw(self, name: str) -> JsonValue:
        """The member as it stands; None when absent."""
        return self._members.get(name)

    def names(self) -> list[str]:
        """All member names in the order of the wire."""
        return list(self._members)

    def _name(self, name: str) -> str:
        return f"{name} of {self._what}"

    def _wrong(self, name: str, kind: type) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self._name(name)} must be {_TYPE_NAMES[kind]}")

    def text(self, name: str) -> str:
        """A required string."""
        value = self.raw(name)
        if not isinstance(value, str):
            raise self._wrong(name, str)
        return value

    def opt_text(self, name: str) -> str | None:
        """An optional string."""
        return None if self.raw(name) is None else self.text(name)

    def flag(self, name: str, *, absent: bool | None = None) -> bool:
        """A boolean; `absent` is its value in versions that do not send it."""
        value = self.raw(name)
        if value is None and absent is not None:
            return absent
        if not isinstance(value, bool):
            raise self._wrong(name, bool)
        return value

    def items(self, name: str) -> list[JsonValue]:
        """A required array."""
        value = self.raw(name)
        if not isinstance(value, list):
            raise self._wrong(name, list)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A required array of strings."""
        texts = []
        for item in self.items(name):
            if not isinstance(item, str):
                raise RemoteProtocolError(f"{self._name(name)} must hold strings only")
            texts.append(item)
        return tuple(texts)

    def u32(self, name: str) -> int:
        """A required u32."""
        return read_uint(self.text(name), U32_BITS, self._name(name))

    def u64(self, name: str) -> int:
        """A required u64."""
        return read_uint(self.text(name), U64_BITS, self._name(name))

    def u128(self, name: str) -> int:
        """A required u128."""
        return read_uint(self.text(name), U128_BITS, self._name(name))

    def opt_u64(self, name: str) -> int | None:
        """An optional u64."""
        return None if self.raw(name) is None else self.u64(name)

    def opt_u128(self, name: str) -> int | None:
        """An optional u128."""
        return None if self.raw(name) is None else self.u128(name)

    def hash32(self, name: str) -> bytes:
        """A required 32-byte hash."""
        return parse_hex(self.text(name), 32, self._name(name))

    def opt_hash32(self, name: str) -> bytes | None:
        """An optional 32-byte hash."""
        return None if self.raw(name) is None else self.hash32(name)

    def payment_hash(self, name: str = "payment_hash") -> PaymentHash:
        """A required payment hash."""
        return parse_payment_hash(self.text(name))

    def opt_preimage(self, name: str = "payment_preimage") -> Preimage | None:
        """An optional preimage."""
        return None if self.raw(name) is None else parse_preimage(self.text(name))

    def pubkey(self, name: str = "pubkey") -> Pubkey:
        """A required compressed public key."""
        return parse_pubkey(self.text(name))

    def blob(self, name: str) -> bytes:
        """A required byte string of any length."""
        return read_bytes(self.text(name), self._name(name))

    def records(self, name: str) -> dict[int, bytes]:
        """Byte strings by number, e.g. `{"0x1": "0x0a"}`; none when the member is absent."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(name, dict)
        what = f"a record in {self._name(name)}"
        rows = Fields(value, what)
        return {read_uint(key, U32_BITS, what): rows.blob(key) for key in rows.names()}

    def outpoint(self, name: str) -> OutPoint:
        """A required out point in fnn's form: 36 bytes of molecule as hex."""
        return OutPoint.unpack(self.blob(name))

    def opt_outpoint(self, name: str) -> OutPoint | None:
        """An optional out point in fnn's form."""
        return None if self.raw(name) is None else self.outpoint(name)

    def script(self, name: str) -> Script:
        """A required script in CKB's JSON form."""
        return Script.from_json(self.raw(name))

    def opt_script(self, name: str) -> Script | None:
        """An optional script in CKB's JSON form."""
        return None if self.raw(name) is None else self.script(name)
