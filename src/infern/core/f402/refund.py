"""Where what a paid request did not cost is sent, and who may say so.

Whoever passes a proof on could add an address of their own to it. So an address counts when it was
in the first request, which the token then carries, or when it comes with the preimage, which the
payer learned by paying. The token's wins.
"""

from collections.abc import Mapping
from typing import Final

from infern.core.errors import RemoteProtocolError
from infern.core.f402.challenge import Challenge
from infern.core.f402.credential import Proof
from infern.core.ids import Pubkey, parse_pubkey

REFUND_HEADER: Final = "F402-Refund-To"


def refund_asked(headers: Mapping[str, str], *, own: Pubkey) -> Pubkey | None:
    """The Fiber node that an unpaid request names for its remainder; None when it names none.

    Args:
        headers: By lower-case name.
        own: The seller's node, which cannot send to itself.

    Raises:
        RemoteProtocolError: No public key, or the seller's own (`invalid_request`, unmoved).
    """
    text = headers.get(REFUND_HEADER.lower())
    if text is None:
        return None
    node = parse_pubkey(text)
    if node == own:
        raise RemoteProtocolError(f"{REFUND_HEADER} names the seller's own node; name yours")
    return node


def refund_of(challenge: Challenge, proof: Proof, *, own: Pubkey) -> Pubkey | None:
    """Where the remainder of a paid request is sent back to; None to keep it for redeeming."""
    late = proof.refund_to if proof.preimage is not None else None
    node = challenge.refund_to or late
    return None if node == own else node
