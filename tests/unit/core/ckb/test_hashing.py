"""CKB hashes."""

import hashlib

import pytest

from infern.core.ckb.hashing import CkbHasher, ckb_hash

PREIMAGE = bytes(range(32))


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "44f4c69744d5f8c55d642062949dcae49bc4e7ef43d388c5a12f42b5633d163e"),
        (PREIMAGE, "5ef21c916586ed3112468f107756797ecb56c72fc72d4da33d0f876d6a178cf9"),
    ],
)
def test_known_digests(data: bytes, digest: str) -> None:
    assert ckb_hash(data).hex() == digest


def test_personalization_sets_it_apart_from_plain_blake2b() -> None:
    assert ckb_hash(PREIMAGE) != hashlib.blake2b(PREIMAGE, digest_size=32).digest()


def test_pieces_hash_like_the_whole() -> None:
    hasher = CkbHasher()
    assert hasher.digest() == ckb_hash(b"")
    for piece in (b"", b"infern", bytes(1000)):
        hasher.update(piece)
    assert hasher.digest() == ckb_hash(b"infern" + bytes(1000))
    hasher.update(b"more")
    assert hasher.digest() == ckb_hash(b"infern" + bytes(1000) + b"more")
