"""The name of a cell: the transaction that made it and which of its outputs it is.

Source: nervosnetwork/rfcs 0019, `OutPoint`.
"""

import re
from dataclasses import dataclass
from typing import Final

from infern.core.ckb.hashing import CKB_HASH_BYTES
from infern.core.ckb.molecule import HASH32, UINT32, Codec, Struct
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.ids import parse_hex

OUT_POINT_BYTES: Final = 36

_U32_HEX = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]{0,7})")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutPoint:
    """One output of one transaction.

    Args:
        tx_hash: 32 bytes.
        index: Position among the outputs, u32.
    """

    tx_hash: bytes
    index: int

    def __post_init__(self) -> None:
        """Refuse a hash that is not 32 bytes and an index that is no u32."""
        if len(self.tx_hash) != CKB_HASH_BYTES:
            raise ValueError("a transaction hash has 32 bytes")
        if isinstance(self.index, bool) or not 0 <= self.index < 1 << 32:
            raise ValueError("an output index is an unsigned 32-bit integer")

    def pack(self) -> bytes:
        """36 bytes: the hash, then the index little-endian."""
        return OUT_POINT.pack(self)

    @classmethod
    def unpack(cls, data: bytes) -> "OutPoint":
        """Read the 36 bytes.

        Raises:
            RemoteProtocolError: Another size (`invalid_molecule`, money unmoved).
        """
        return OUT_POINT.unpack(data)

    def to_json(self) -> dict[str, JsonValue]:
        """CKB's RPC form. fnn writes `0x` and the hex of `pack` instead."""
        return {"tx_hash": f"0x{self.tx_hash.hex()}", "index": hex(self.index)}

    @classmethod
    def from_json(cls, value: JsonValue) -> "OutPoint":
        """Read CKB's RPC form; further members are ignored.

        Raises:
            RemoteProtocolError: A member is missing or wrong (`invalid_request`, money unmoved).
        """
        if not isinstance(value, dict):
            raise RemoteProtocolError("an out point must be an object")
        tx_hash, index = value.get("tx_hash"), value.get("index")
        if not isinstance(tx_hash, str):
            raise RemoteProtocolError("an out point's tx_hash must be a hex string")
        if not isinstance(index, str) or not _U32_HEX.fullmatch(index):
            raise RemoteProtocolError("an out point's index must be a minimal u32 hex string")
        return cls(
            tx_hash=parse_hex(tx_hash, CKB_HASH_BYTES, "an out point's tx_hash"),
            index=int(index, 16),
        )


OUT_POINT: Final[Codec[OutPoint]] = (
    Struct.of("OutPoint")
    .field(HASH32)
    .field(UINT32)
    .mapped(
        lambda row: OutPoint(tx_hash=row[0], index=row[1]),
        lambda out_point: (out_point.tx_hash, out_point.index),
    )
)
