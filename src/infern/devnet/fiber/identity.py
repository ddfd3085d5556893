"""Deterministic secrets and names: everything random in the embedded network comes from its seed.

Source: multihash/peer id form of libp2p as tentacle prints it (base58 of `12 20 sha256`).
"""

import hashlib
from typing import Final

from infern.core.ckb.hashing import ckb_hash

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CHAIN_HASH: Final = ckb_hash(b"infern embedded fiber network genesis")
"""Stands where a real dev chain has its genesis hash."""


class SeededBytes:
    """A stream of bytes that depends on the seed and a label only."""

    def __init__(self, seed: bytes, label: str) -> None:
        self._key = hashlib.blake2b(seed, digest_size=32, person=b"infern-devnet").digest()
        self._label = label.encode()
        self._counter = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes, at most 64."""
        self._counter += 1
        data = self._label + self._counter.to_bytes(8, "big")
        return hashlib.blake2b(data, key=self._key, digest_size=64).digest()[:length]

    def below(self, limit: int) -> int:
        """An integer in 0..limit-1."""
        return int.from_bytes(self.take(16), "big") % limit


def base58(data: bytes) -> str:
    """Bitcoin's base58 without a checksum."""
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text


def peer_id(pubkey: bytes) -> str:
    """`Qm…` of a node. Synthetic: the right shape and stable, not tentacle's exact preimage."""
    return base58(b"\x12\x20" + hashlib.sha256(b"\x08\x02\x12\x21" + pubkey).digest())


def lock_args(pubkey: bytes) -> bytes:
    """Args of the secp256k1-blake160 lock of a key: 20 bytes."""
    return ckb_hash(pubkey)[:20]
