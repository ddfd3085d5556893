"""How a request pays: the headers a client sends, read into one closed union of meanings.

Order of precedence: a payment proof pays; a Bearer key beside it only receives the remainder;
a Bearer key alone is debited; anything else is anonymous and gets a 402. Keys that are not ours
(SDKs force users to set some key) are treated as absent: never logged, never forwarded.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from infern.core.errors import IdentityRejected, JsonValue, RemoteProtocolError
from infern.core.f402.challenge import Challenge
from infern.core.f402.mpp import (
    CREDENTIAL_HEADER,
    PAYMENT_SCHEME,
    MppCredential,
    parse_payment,
)
from infern.core.f402.offer import (
    SCHEME,
    X402_VERSION,
    Offer,
    decode_header_json,
    encode_header_json,
    x402_object,
)
from infern.core.ids import Preimage, Pubkey, parse_preimage, parse_pubkey
from infern.core.wire.strict_json import Json, JsonObject

PROOF_HEADER: Final = "payment-signature"
ATTEMPT_HEADER: Final = "idempotency-key"
LEAVE_HEADER: Final = "f402-on-leave"
MAX_ATTEMPT_CHARS: Final = 255
MPP_HEADER: Final = CREDENTIAL_HEADER.lower()
KEY_PREFIX: Final = "inf_sk_"
FREE_PREFIX: Final = "inf_free_"
MAX_PROOF_CHARS: Final = 16 * 1024
KEY_CHARS: Final = 43
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(r"inf_sk_[0-9A-Za-z]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A claim that a challenge was paid, whichever way it came.

    Args:
        token: The challenge token, to be opened by the seller that made it.
        preimage: 32 bytes when the payer has them; fnn 0.8 payers do not.
        refund_to: Where a remainder should go.
        echoed: What the client says it accepted: network, amount, asset, payTo.
        mpp: The credential it came as when that was MPP, for its id to be checked; None for x402.
    """

    token: str = field(repr=False)
    preimage: Preimage | None = field(default=None, repr=False)
    refund_to: Pubkey | None = None
    echoed: Mapping[str, str]
    mpp: MppCredential | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a request brings: a proof, a prepaid key, both, or neither."""

    proof: Proof | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def is_anonymous(self) -> bool:
        """True when nothing here can pay."""
        return self.proof is None and self.key is None


def key_digest(key: str) -> bytes:
    """32 bytes: all that is stored of an API key."""
    return hashlib.sha256(key.encode("ascii")).digest()


def make_key(entropy: bytes) -> str:
    """Write a prepaid key from 32 random bytes: `inf_sk_` and 43 base62 characters."""
    if len(entropy) != 32:
        raise ValueError("a key takes 32 bytes of entropy")
    number = int.from_bytes(entropy, "big")
    chars = []
    for _ in range(KEY_CHARS):
        number, digit = divmod(number, 62)
        chars.append(_BASE62[digit])
    return KEY_PREFIX + "".join(reversed(chars))


def parse_credential(headers: Mapping[str, str]) -> Credential:
    """Read the paying headers of a request.

    Args:
        headers: By lower-case name; a repeated header must already be refused by the caller.

    Raises:
        RemoteProtocolError: `malformed_proof`, `ambiguous_payment`, `unsupported_scheme`,
            `unsupported_network`; unmoved, nothing consumed.
        IdentityRejected: A key with our prefix that cannot be one (`invalid_api_key`).
    """
    authorization = headers.get("authorization", "")
    scheme, _, value = authorization.partition(" ")
    payments = [headers[MPP_HEADER]] if MPP_HEADER in headers else []
    if scheme.lower() == PAYMENT_SCHEME.lower():
        payments.append(authorization)
    if len(payments) + (PROOF_HEADER in headers) > 1:
        raise RemoteProtocolError("two payment proofs at once", code="ambiguous_payment")
    proof = None
    if PROOF_HEADER in headers:
        proof = _parse_x402(headers[PROOF_HEADER])
    elif payments:
        proof = _parse_mpp(payments[0])
    return Credential(proof=proof, key=_own_key(scheme, value.strip()))


def stops_on_leave(headers: Mapping[str, str]) -> bool:
    """Whether the answer to a named request is given up soon when nobody reads it any more.

    Without the header it is made to its end and charged, because who has the name can fetch it. A
    client that names requests only to repeat them at once wants to pay for what it read.

    Raises:
        RemoteProtocolError: Neither `stop` nor `finish`; unmoved.
    """
    wish = headers.get(LEAVE_HEADER, "finish")
    if wish not in {"stop", "finish"}:
        raise RemoteProtocolError("F402-On-Leave is stop or finish")
    return wish == "stop"


def parse_attempt(headers: Mapping[str, str]) -> bytes | None:
    """The 32 bytes that name the need of a keyed request: the hash of its `Idempotency-Key`.

    Raises:
        RemoteProtocolError: The header is empty, too long or not printable ASCII; unmoved.
    """
    text = headers.get(ATTEMPT_HEADER)
    if text is None:
        return None
    if not 0 < len(text) <= MAX_ATTEMPT_CHARS or not text.isascii() or not text.isprintable():
        raise RemoteProtocolError(
            f"Idempotency-Key has 1 to {MAX_ATTEMPT_CHARS} printable ASCII characters"
        )
    return hashlib.sha256(b"f402/attempt." + text.encode("ascii")).digest()


def _own_key(scheme: str, value: str) -> str | None:
    if scheme.lower() != "bearer":
        return None
    if value.startswith(KEY_PREFIX):
        if not _KEY.fullmatch(value):
            raise IdentityRejected("the API key is incomplete; copy it again, all 50 characters")
        return value
    if value.startswith(FREE_PREFIX):
        raise IdentityRejected("this seller has no free tier; use a prepaid key or pay per request")
    return None


def _parse_x402(text: str) -> Proof:
    value = decode_header_json(text, limit_chars=MAX_PROOF_CHARS, code="malformed_proof")
    accepted, payload = value.get("accepted"), value.get("payload")
    if value.get("x402Version") != X402_VERSION:
        raise RemoteProtocolError("x402Version must be 2", code="malformed_proof")
    if not isinstance(accepted, dict) or not isinstance(payload, dict):
        raise RemoteProtocolError("accepted and payload must be objects", code="malformed_proof")
    if accepted.get("scheme") != SCHEME:
        raise RemoteProtocolError("only the exact scheme is offered", code="unsupported_scheme")
    extra = accepted.get("extra")
    offered = extra.get("challenge") if isinstance(extra, dict) else None
    token = payload.get("challenge", offered)
    if not isinstance(token, str):
        raise RemoteProtocolError("the proof names no challenge", code="malformed_proof")
    return Proof(
        token=token,
        preimage=_preimage(payload.get("paymentPreimage")),
        refund_to=_refund_to(payload.get("refundTo")),
        echoed={name: _echo(accepted, name) for name in ("network", "amount", "asset", "payTo")},
    )


def _parse_mpp(text: str) -> Proof:
    credential = parse_payment(text)
    return Proof(
        token=credential.token,
        preimage=credential.preimage,
        echoed=credential.echoed,
        mpp=credential,
    )


def _echo(accepted: JsonObject, name: str) -> str:
    value = accepted.get(name)
    if not isinstance(value, str):
        raise RemoteProtocolError(f"accepted.{name} must be a string", code="malformed_proof")
    return value


def _preimage(value: Json) -> Preimage | None:
    if value is None or value == "":
        return None
    try:
        return parse_preimage(value if isinstance(value, str) else "")
    except RemoteProtocolError as error:
        raise RemoteProtocolError(error.message, code="malformed_proof") from error


def _refund_to(value: Json) -> Pubkey | None:
    if value is None:
        return None
    try:
        return parse_pubkey(value if isinstance(value, str) else "")
    except RemoteProtocolError as error:
        raise RemoteProtocolError(error.message, code="malformed_proof") from error


def proof_header(offer: Offer, *, preimage: Preimage | None) -> str:
    """Write the `PAYMENT-SIGNATURE` value a client sends after paying an offer."""
    accepts = x402_object(offer)["accepts"]
    payload: dict[str, JsonValue] = {"invoice": offer.invoice, "challenge": offer.token}
    if preimage is not None:
        payload["paymentPreimage"] = preimage.hex()
    accepted = accepts[0] if isinstance(accepts, list) else None
    return encode_header_json(
        {"x402Version": X402_VERSION, "accepted": accepted, "payload": payload}
    )


def check_echo(proof: Proof, challenge: Challenge) -> None:
    """Compare what the client says it accepted with what the token says.

    Raises:
        RemoteProtocolError: `unsupported_network`, `amount_mismatch`, `asset_mismatch` or
            `pay_to_mismatch`; nothing is consumed.
    """
    expected = {
        "network": (challenge.network.fiber_id, "unsupported_network"),
        "amount": (str(challenge.amount), "amount_mismatch"),
        "asset": (str(challenge.asset), "asset_mismatch"),
        "payTo": (challenge.pay_to.hex(), "pay_to_mismatch"),
    }
    for name, (value, code) in expected.items():
        if proof.echoed[name] != value:
            raise RemoteProtocolError(f"the proof's {name} is not the challenge's", code=code)
