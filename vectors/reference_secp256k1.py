"""ECDSA over secp256k1 in plain Python, so that vectors are not made by the code they check.

Slow and not constant-time: for published test keys only, never for a real one.

Source: SEC 1 section 4.1 (ECDSA), SEC 2 section 2.4.1 (the curve), RFC 6979 section 3.2 (nonces).
"""

import hashlib
import hmac

FIELD = 2**256 - 2**32 - 977
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
GENERATOR = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
Point = tuple[int, int] | None
"""Affine coordinates; None is the point at infinity."""


def add(a: Point, b: Point) -> Point:
    """Add two points."""
    if a is None or b is None:
        return a if b is None else b
    (ax, ay), (bx, by) = a, b
    if ax == bx and (ay + by) % FIELD == 0:
        return None
    rise, run = (3 * ax * ax, 2 * ay) if a == b else (by - ay, bx - ax)
    slope = rise * pow(run, -1, FIELD)
    x = (slope * slope - ax - bx) % FIELD
    return x, (slope * (ax - x) - ay) % FIELD


def multiply(scalar: int, point: Point = GENERATOR) -> Point:
    """Add a point to itself `scalar` times."""
    result: Point = None
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def public_key(secret: bytes) -> bytes:
    """The compressed public key of a secret, 33 bytes."""
    point = multiply(int.from_bytes(secret, "big"))
    if point is None:
        raise ValueError("the secret is a multiple of the order")
    return bytes([2 + (point[1] & 1)]) + point[0].to_bytes(32, "big")


def sign(secret: bytes, digest: bytes) -> bytes:
    """Sign a digest; 65 bytes: r, low s, recovery id."""
    key, message = int.from_bytes(secret, "big"), int.from_bytes(digest, "big") % ORDER
    for nonce in _nonces(secret, message.to_bytes(32, "big")):
        point = multiply(nonce)
        if point is None:
            continue
        r = point[0] % ORDER
        s = pow(nonce, -1, ORDER) * (message + r * key) % ORDER
        if r == 0 or s == 0:
            continue
        recovery = (point[1] & 1) | (2 if point[0] >= ORDER else 0)
        if s > ORDER // 2:
            s, recovery = ORDER - s, recovery ^ 1
        return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([recovery])
    raise AssertionError("nonces never end")


def _nonces(secret: bytes, message: bytes):
    k, v = bytes(32), b"\x01" * 32
    for separator in (b"\x00", b"\x01"):
        k = hmac.digest(k, v + separator + secret + message, "sha256")
        v = hmac.digest(k, v, "sha256")
    while True:
        v = hmac.digest(k, v, "sha256")
        candidate = int.from_bytes(v, "big")
        if 0 < candidate < ORDER:
            yield candidate
        k = hmac.digest(k, v + b"\x00", "sha256")
        v = hmac.digest(k, v, "sha256")


class ReferenceSigner:
    """`infern.core.crypto.Signer` over a published test key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def pubkey(self) -> bytes:
        """33 bytes, compressed."""
        return public_key(self._secret)

    def sign(self, digest: bytes) -> bytes:
        """64 bytes, low s."""
        return sign(self._secret, digest)[:64]

    def sign_recoverable(self, digest: bytes) -> bytes:
        """65 bytes, recovery id last."""
        return sign(self._secret, digest)


def ckb_hash(data: bytes) -> bytes:
    """blake2b-256 with CKB's personalization."""
    return hashlib.blake2b(data, digest_size=32, person=b"ckb-default-hash").digest()
