"""secp256k1 by `coincurve` (bindings of libsecp256k1) behind the core's protocols.

Source: BIP-340's predecessor rules as libsecp256k1 applies them (low s); RFC 6979 nonces.
"""

import coincurve

from infern.core.ids import Pubkey

_GROUP_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class CoincurveVerifier:
    """`SignatureVerifier` by libsecp256k1. Stateless; safe to share between threads."""

    def recover(self, digest: bytes, signature: bytes) -> Pubkey | None:
        """Recover the signer of a 65-byte recoverable signature; None when it is invalid."""
        if len(digest) != 32 or len(signature) != 65 or signature[64] > 3:
            return None
        try:
            key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
        except Exception:  # noqa: BLE001 - coincurve raises the bare class for a bad signature
            return None
        return Pubkey(key.format(compressed=True))

    def verify(self, pubkey: Pubkey, digest: bytes, signature: bytes) -> bool:
        """Check a 64-byte signature; high s and malformed keys or signatures are False."""
        if len(digest) != 32 or len(signature) != 64 or len(pubkey) != 33:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if not (0 < r < _GROUP_ORDER and 0 < s <= _GROUP_ORDER // 2):
            return False
        try:
            key = coincurve.PublicKey(pubkey)
        except ValueError:
            return False
        return key.verify(_der(r, s), digest, hasher=None)


class CoincurveSigner:
    """`Signer` over one 32-byte secret. The secret never appears in `repr`."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError("a secp256k1 secret has 32 bytes")
        self._key = coincurve.PrivateKey(secret)
        self._pubkey = Pubkey(self._key.public_key.format(compressed=True))

    def __repr__(self) -> str:
        return f"CoincurveSigner(pubkey={self._pubkey.hex()})"

    @property
    def pubkey(self) -> Pubkey:
        """33 bytes, compressed."""
        return self._pubkey

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 64 bytes, low s, deterministic (RFC 6979)."""
        return self.sign_recoverable(digest)[:64]

    def sign_recoverable(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 65 bytes with the recovery id last."""
        if len(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        return self._key.sign_recoverable(digest, hasher=None)


def _der(r: int, s: int) -> bytes:
    parts = b""
    for number in (r, s):
        raw = number.to_bytes(32, "big").lstrip(b"\0")
        raw = b"\0" + raw if raw[0] & 0x80 else raw
        parts += b"\x02" + bytes([len(raw)]) + raw
    return b"\x30" + bytes([len(parts)]) + parts
