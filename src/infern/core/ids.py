"""Identifiers with their byte shapes, so that a hash is never mistaken for a preimage.

All of them are plain `bytes` or `str` at run time (`NewType`): cheap to make and to store.
The functions below are the only doors from untrusted text.
"""

import re
from typing import Final, NewType

from infern.core.errors import RemoteProtocolError

PaymentHash = NewType("PaymentHash", bytes)
"""32 bytes; identity of a payment on Fiber and of a paid request in F402."""
Preimage = NewType("Preimage", bytes)
"""32 bytes; revealing it settles the payment whose hash it is."""
Pubkey = NewType("Pubkey", bytes)
"""33 bytes, compressed secp256k1 point: a Fiber node or an agent key."""
RequestDigest = NewType("RequestDigest", bytes)
"""32 bytes; what a quote, an invoice and a receipt are bound to."""
RequestId = NewType("RequestId", str)
"""`req_` and 26 base32 characters; names one attempt in logs, headers and receipts."""
TabId = NewType("TabId", str)
"""Primary key of a tab in the ledger."""
HoldId = NewType("HoldId", str)
"""Primary key of a hold in the ledger."""
PayoutId = NewType("PayoutId", str)
"""Primary key of a payout in the ledger."""

_HEX = re.compile(r"[0-9a-f]*")
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)


def parse_hex(text: str, length_bytes: int, what: str) -> bytes:
    """Read exactly `length_bytes` of lowercase hex, with or without `0x`.

    Raises:
        RemoteProtocolError: Wrong length, uppercase or not hex (`invalid_request`).
    """
    digits = text.removeprefix("0x")
    if len(digits) != 2 * length_bytes or not _HEX.fullmatch(digits):
        raise RemoteProtocolError(f"{what} must be {length_bytes} bytes of lowercase hex")
    return bytes.fromhex(digits)


def parse_payment_hash(text: str) -> PaymentHash:
    """Read a 32-byte payment hash from hex."""
    return PaymentHash(parse_hex(text, 32, "a payment hash"))


def parse_preimage(text: str) -> Preimage:
    """Read a 32-byte preimage from hex."""
    return Preimage(parse_hex(text, 32, "a preimage"))


def parse_pubkey(text: str) -> Pubkey:
    """Read a 33-byte compressed public key from hex; only its prefix byte is checked here."""
    raw = parse_hex(text, 33, "a public key")
    if raw[0] not in (2, 3):
        raise RemoteProtocolError("a compressed public key begins with 02 or 03")
    return Pubkey(raw)


def parse_request_digest(text: str) -> RequestDigest:
    """Read a 32-byte request digest from hex."""
    return RequestDigest(parse_hex(text, 32, "a request digest"))


def base32_id(prefix: str, entropy: bytes) -> str:
    """Make a readable identifier from 16 random bytes: prefix and 26 Crockford characters."""
    if len(entropy) != 16:
        raise ValueError("an identifier takes 16 bytes of entropy")
    number = int.from_bytes(entropy, "big")
    return prefix + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
