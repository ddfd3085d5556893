"""Base64url without padding, where every value has exactly one text.

Source: RFC 4648 section 5, without `=`; stray bits in the last character are refused.
"""

import base64
import re

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


def encode(raw: bytes) -> str:
    """Write bytes as base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Read base64url without padding.

    Raises:
        ValueError: Another alphabet, padding, an impossible length or stray bits. Says nothing
            about money; the caller knows what was being read.
    """
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("it is not base64url without padding")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(raw) != text:
        raise ValueError("its base64url has stray bits")
    return raw
