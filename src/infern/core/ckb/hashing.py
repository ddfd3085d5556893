"""CKB's hash: blake2b with 32 bytes of output and CKB's personalization.

Source: nervosnetwork/rfcs 0022, "Hash Function".
"""

import hashlib
from typing import Final

CKB_HASH_BYTES: Final = 32
CKB_HASH_PERSONALIZATION: Final = b"ckb-default-hash"


def ckb_hash(data: bytes) -> bytes:
    """Hash bytes; returns 32 bytes."""
    return hashlib.blake2b(
        data, digest_size=CKB_HASH_BYTES, person=CKB_HASH_PERSONALIZATION
    ).digest()


class CkbPrefix:
    """`ckb_hash` of many messages that begin alike, at half the cost of each alone."""

    __slots__ = ("_state",)

    def __init__(self, prefix: bytes) -> None:
        self._state = hashlib.blake2b(
            prefix, digest_size=CKB_HASH_BYTES, person=CKB_HASH_PERSONALIZATION
        )

    def hash(self, rest: bytes) -> bytes:
        """The hash of prefix and rest, 32 bytes."""
        state = self._state.copy()
        state.update(rest)
        return state.digest()


class CkbHasher:
    """`ckb_hash` of a message that arrives in pieces."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=CKB_HASH_BYTES, person=CKB_HASH_PERSONALIZATION)

    def update(self, data: bytes) -> None:
        """Append bytes to the message."""
        self._state.update(data)

    def digest(self) -> bytes:
        """The hash of everything appended so far, 32 bytes; more may follow."""
        return self._state.digest()
