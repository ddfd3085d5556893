"""A seller's check of a proof, in the order that never burns an honest client's payment.

Everything here is stateless. Single use is not, and cannot be: the last step is one durable
insert in the ledger, made only after all of this has passed.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from infern.core.errors import RemoteProtocolError
from infern.core.f402.challenge import Challenge, Mode, key_of_token, open_token
from infern.core.f402.credential import Proof, check_echo
from infern.core.f402.mpp import check_identity
from infern.core.ids import RequestDigest
from infern.core.units import Network


class Evidence(Enum):
    """What shows that a challenge was paid."""

    PREIMAGE = "preimage"
    """The preimage hashes to the payment hash: paid, no question to the node needed."""
    ASK_NODE = "ask_node"
    """No preimage came: the payee's node must say `Paid`."""
    ASK_FOR_LOCK = "ask_for_lock"
    """Hold mode: the payee's node must say `Received`, or `Paid` once it was settled. The seller
    alone knows the preimage until it settles, so a preimage shows nothing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedProof:
    """A proof whose token is ours and for this very request."""

    challenge: Challenge
    evidence: Evidence


def open_proof(proof: Proof, keys: Mapping[str, bytes]) -> Challenge:
    """Check that a proof's challenge was made by this seller, and read its claims.

    Raises:
        RemoteProtocolError: `invalid_challenge`; nothing is consumed.
    """
    challenge = open_token(proof.token, keys)
    if proof.mpp is not None:
        check_identity(proof.mpp, key_of_token(proof.token, keys))
    return challenge


def verify_proof(
    proof: Proof,
    *,
    keys: Mapping[str, bytes],
    issuer: str,
    network: Network,
    digest: RequestDigest,
    now_s: int,
) -> VerifiedProof:
    """Check a proof up to the point where the node or the ledger must be asked.

    Args:
        proof: As parsed from the request.
        keys: Challenge keys by kid, old ones included until their tokens' redeem-until.
        issuer: This seller's realm.
        network: This seller's network.
        digest: Digest recomputed from this request's bytes.
        now_s: Unix seconds.

    Raises:
        RemoteProtocolError: In this order `invalid_challenge`, `wrong_realm`,
            `challenge_expired`, `request_mismatch`, an echo mismatch, `invalid_preimage`.
            Nothing is consumed by any of them; the payment stays redeemable.
    """
    challenge = open_proof(proof, keys)
    if challenge.issuer != issuer or challenge.network is not network:
        raise RemoteProtocolError(
            f"the challenge is of {challenge.issuer} on {challenge.network.fiber_id}",
            code="wrong_realm",
        )
    if now_s > challenge.redeem_until_s:
        raise RemoteProtocolError(
            "the time to redeem this payment has passed; ask the seller for its credit",
            code="challenge_expired",
        )
    if challenge.digest != digest:
        raise RemoteProtocolError(
            "the payment is for another request; it stays redeemable for that one, byte for byte",
            code="request_mismatch",
        )
    check_echo(proof, challenge)
    if proof.preimage is not None:
        # Sellers mint sha256 invoices only, so no other hash function can be meant here.
        found = hashlib.sha256(proof.preimage).digest()
        if not hmac.compare_digest(found, challenge.payment_hash):
            raise RemoteProtocolError(
                "the preimage does not hash to the payment hash", code="invalid_preimage"
            )
    return VerifiedProof(challenge=challenge, evidence=_evidence(proof, challenge))


def _evidence(proof: Proof, challenge: Challenge) -> Evidence:
    if challenge.mode is Mode.HOLD:
        return Evidence.ASK_FOR_LOCK
    return Evidence.ASK_NODE if proof.preimage is None else Evidence.PREIMAGE
