"""The request digest: what a quote, an invoice and a receipt are bound to.

Computed over the raw body bytes, never over re-serialised JSON, so that no two parsers can
disagree about which request was paid for. The origin is left out because a router and a provider
have different ones; the token binds the seller instead.
"""

import hashlib
from typing import Final

from infern.core.ids import RequestDigest
from infern.core.wire.jcs import canonicalize

DOMAIN: Final = "f402:http:1"
DESCRIPTION_PREFIX: Final = "f402:1:"
TOPUP_PREFIX: Final = "f402:1:topup:"


def request_digest(method: str, target: str, body: bytes) -> RequestDigest:
    """Digest of one HTTP request.

    Args:
        method: Upper case, e.g. `POST`.
        target: Origin form with query, exactly as on the request line.
        body: The content bytes as they were sent.

    Returns:
        32 bytes: SHA-256 of the JCS object of body hash, domain, method and target.
    """
    binding = canonicalize(
        {
            "body": hashlib.sha256(body).hexdigest(),
            "domain": DOMAIN,
            "method": method,
            "target": target,
        }
    )
    return RequestDigest(hashlib.sha256(binding).digest())


def invoice_description(digest: RequestDigest) -> str:
    """What the payee's node signs: it priced exactly this request."""
    return DESCRIPTION_PREFIX + digest.hex()


def topup_description(key_id: str) -> str:
    """What the payee's node signs for a top-up of a prepaid key."""
    return TOPUP_PREFIX + key_id
