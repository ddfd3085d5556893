"""CKB scripts: which code guards a cell, with which arguments.

Source: nervosnetwork/rfcs 0019 (data structures), 0022 (script hash), 0032 (`data1`), 0049
(`data2`); JSON as CKB's RPC writes it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.ckb.hashing import CKB_HASH_BYTES, ckb_hash
from infern.core.ckb.molecule import BYTE, HASH32, Bytes, Codec, Table
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.ids import parse_hex

MAX_SCRIPT_ARGS_BYTES: Final = 600_000
"""No script is larger: a CKB block has at most 597,000 bytes."""

SECP256K1_LOCK_CODE_HASH: Final = bytes.fromhex(
    "9bd7e06f3ecf4be0f2fcd2188b23f1b9fcc88e5d4b65a8637b17723bbda3cce8"
)
"""Type hash of the default lock, one secp256k1 key; the same on every chain."""
MULTISIG_LOCK_CODE_HASH: Final = bytes.fromhex(
    "5c5069eb0857efc65e1bca0c07df34c31663b3622fd3876c876320fc9634e2a8"
)
"""Type hash of the default multisignature lock; the same on every chain."""


class HashType(Enum):
    """How `code_hash` finds the code; the value is its molecule byte."""

    DATA = 0
    """By the hash of the code cell's data, run by version 0 of the VM."""
    TYPE = 1
    """By the hash of the code cell's type script, run by the newest VM."""
    DATA1 = 2
    """As `DATA`, run by version 1 of the VM."""
    DATA2 = 4
    """As `DATA`, run by version 2 of the VM."""

    @property
    def json_name(self) -> str:
        """CKB's RPC name: `data`, `type`, `data1`, `data2`."""
        return self.name.lower()


_BY_JSON_NAME: Final = {kind.json_name: kind for kind in HashType}


def _read_hash_type(value: int) -> HashType:
    try:
        return HashType(value)
    except ValueError:
        raise ValueError(f"a script has no hash type {value}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A lock or type script.

    Args:
        code_hash: 32 bytes.
        hash_type: How `code_hash` is meant.
        args: What the code is given; up to 600,000 bytes.
    """

    code_hash: bytes
    hash_type: HashType
    args: bytes

    def __post_init__(self) -> None:
        """Refuse a code hash that is not 32 bytes and oversized arguments."""
        if len(self.code_hash) != CKB_HASH_BYTES:
            raise ValueError("a script's code hash has 32 bytes")
        if len(self.args) > MAX_SCRIPT_ARGS_BYTES:
            raise ValueError(f"a script's args have at most {MAX_SCRIPT_ARGS_BYTES} bytes")

    def pack(self) -> bytes:
        """The molecule table."""
        return SCRIPT.pack(self)

    @classmethod
    def unpack(cls, data: bytes) -> "Script":
        """Read the molecule table.

        Raises:
            RemoteProtocolError: Not a script (`invalid_molecule`, money unmoved).
        """
        return SCRIPT.unpack(data)

    def hash(self) -> bytes:
        """32 bytes that identify the script on chain; for a UDT's type script, the asset."""
        return ckb_hash(self.pack())

    def to_json(self) -> dict[str, JsonValue]:
        """CKB's RPC form."""
        return {
            "code_hash": f"0x{self.code_hash.hex()}",
            "hash_type": self.hash_type.json_name,
            "args": f"0x{self.args.hex()}",
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> "Script":
        """Read CKB's RPC form; further members are ignored.

        Raises:
            RemoteProtocolError: A member is missing or wrong (`invalid_request`, money unmoved).
        """
        if not isinstance(value, dict):
            raise RemoteProtocolError("a script must be an object")
        code_hash, args = value.get("code_hash"), value.get("args")
        hash_type = value.get("hash_type")
        kind = _BY_JSON_NAME.get(hash_type) if isinstance(hash_type, str) else None
        if kind is None:
            names = ", ".join(_BY_JSON_NAME)
            raise RemoteProtocolError(f"a script's hash_type is one of {names}")
        if not isinstance(code_hash, str) or not isinstance(args, str):
            raise RemoteProtocolError("a script's code_hash and args must be hex strings")
        if not args.startswith("0x") or len(args) > 2 + 2 * MAX_SCRIPT_ARGS_BYTES:
            raise RemoteProtocolError(
                f"a script's args are 0x and at most {MAX_SCRIPT_ARGS_BYTES} bytes of hex"
            )
        return cls(
            code_hash=parse_hex(code_hash, CKB_HASH_BYTES, "a script's code_hash"),
            hash_type=kind,
            args=parse_hex(args, len(args) // 2 - 1, "a script's args"),
        )


SCRIPT: Final[Codec[Script]] = (
    Table.of("Script")
    .field(HASH32)
    .field(BYTE.mapped(_read_hash_type, lambda kind: kind.value))
    .field(Bytes("args", max_bytes=MAX_SCRIPT_ARGS_BYTES))
    .mapped(
        lambda row: Script(code_hash=row[0], hash_type=row[1], args=row[2]),
        lambda script: (script.code_hash, script.hash_type, script.args),
    )
)
