"""What the core needs of secp256k1, as protocols; `infern.adapters.secp256k1` implements them.

Digests are always 32 bytes and already hashed by the caller. Signatures are 64 bytes `r ‖ s`
with low s; recoverable ones carry one more byte, the recovery id 0..3, at the end.
"""

from typing import Protocol

from infern.core.ids import Pubkey


class SignatureVerifier(Protocol):
    """Public-key operations. Hostile input gives `None` or `False`, never an exception."""

    def recover(self, digest: bytes, signature: bytes) -> Pubkey | None:
        """Recover the signer of a 65-byte recoverable signature; None when it is invalid."""
        ...

    def verify(self, pubkey: Pubkey, digest: bytes, signature: bytes) -> bool:
        """Check a 64-byte signature; high s and malformed keys or signatures are False."""
        ...


class Signer(Protocol):
    """One private key, which never leaves the object."""

    @property
    def pubkey(self) -> Pubkey:
        """33 bytes, compressed."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 64 bytes, low s, deterministic (RFC 6979)."""
        ...

    def sign_recoverable(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 65 bytes with the recovery id last."""
        ...
