"""MPP: the `Payment` HTTP authentication scheme as a second rendering of the same offer.

One offer, one token, one way to verify; only the clothes differ. A challenge carries the token in
`opaque`, so nothing more is stored for it than for an x402 offer, and its id is an HMAC over its
parts under a key of its own. It is only shown to clients that announce `fiber/charge` in
`Accept-Payment`: a 402 has little room for headers, and x402 clients announce nothing.

Source: draft-ryan-httpauth-payment (tempoxyz/mpp-specs). Three of its MUSTs are not kept, above all
that an answer to a refused proof offers anew: clients that pay by themselves would pay twice. See
docs/f402-spec.md. The `header` parameter and its place in the id are those of pympp 0.16.
"""

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from infern.core.errors import InfernError, JsonValue, RemoteProtocolError
from infern.core.f402.challenge import Challenge
from infern.core.f402.offer import F402_VERSION_HEADER, Offer, offer_headers
from infern.core.ids import Preimage, parse_preimage
from infern.core.wire import base64url
from infern.core.wire.jcs import canonicalize
from infern.core.wire.strict_json import Json, JsonObject, dumps, loads_object

METHOD: Final = "fiber"
INTENT: Final = "charge"
PAYMENT_SCHEME: Final = "Payment"
ACCEPT_HEADER: Final = "accept-payment"
CREDENTIAL_HEADER: Final = "Payment-Authorization"
"""Where a credential goes when `Authorization` is taken by a key; both are read."""
RECEIPT_HEADER: Final = "Payment-Receipt"
MAX_CREDENTIAL_CHARS: Final = 16 * 1024
MAX_ACCEPT_CHARS: Final = 4096
MAX_402_HEADER_BYTES: Final = 8 * 1024 - 512
"""For the headers of an offer; the rest of a 402's headers fit in what is left of 8 KiB."""
_KEY_LABEL: Final = b"f402/mpp"
_OPAQUE_MEMBER: Final = "f402"
_RANGE = re.compile(
    r"(?P<method>[a-z]+|\*)/(?P<intent>[A-Za-z0-9-]+|\*)"
    r"(?:[ \t]*;[ \t]*[qQ]=(?P<q>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)
_CREDENTIAL = re.compile(r"[Pp][Aa][Yy][Mm][Ee][Nn][Tt] +([A-Za-z0-9_-]+)")
_PROBLEMS: Final = "https://paymentauth.org/problems/"
_REQUIRED: Final = ("payment-required", "Payment Required")
_EXPIRED: Final = ("payment-expired", "Payment Expired")
_UNKNOWN: Final = ("invalid-challenge", "Invalid Challenge")
_UNVERIFIED: Final = ("verification-failed", "Payment Verification Failed")
_PROBLEM_OF: Final[Mapping[str, tuple[str, str]]] = {
    "insufficient_balance": ("payment-insufficient", "Payment Insufficient"),
    "challenge_expired": _EXPIRED,
    "invalid_challenge": _UNKNOWN,
    "wrong_realm": _UNKNOWN,
    "request_mismatch": _UNKNOWN,
    "invalid_preimage": _UNVERIFIED,
    "amount_mismatch": _UNVERIFIED,
    "asset_mismatch": _UNVERIFIED,
    "pay_to_mismatch": _UNVERIFIED,
    "payment_not_received": _UNVERIFIED,
}


def announces_fiber(header: str) -> bool:
    """Whether an `Accept-Payment` header asks for `fiber/charge`.

    The most specific range that matches decides; of equally specific ones the highest weight.
    Weight 0 means no. Ranges that cannot be read are skipped, and an absent (empty) or overlong
    header announces nothing.
    """
    if len(header) > MAX_ACCEPT_CHARS:
        return False
    best = (-1, 0)
    for text in header.split(","):
        found = _RANGE.fullmatch(text.strip(" \t"))
        if found is None or found["method"] not in {METHOD, "*"}:
            continue
        if found["intent"] not in {INTENT, "*"}:
            continue
        specificity = (found["method"] != "*") + (found["intent"] != "*")
        best = max(best, (specificity, _thousandths(found["q"])))
    return best[1] > 0


def _thousandths(q: str | None) -> int:
    """A weight as an integer from 0 to 1000; no weight is the full one."""
    if q is None:
        return 1000
    whole, _, fraction = q.partition(".")
    return int(whole) * 1000 + int(fraction.ljust(3, "0"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MppChallenge:
    """The parts of a `Payment` challenge that its id binds; an empty text is an absent part.

    Args:
        realm: Of the seller.
        request: Base64url of the JCS object of what is to be paid.
        expires: RFC 3339; pay until.
        digest: RFC 9530 digest of the request's body.
        opaque: Base64url of the JCS object with the token.
        method: Lower-case ASCII.
        intent: As registered.
        header: The advertised field of the credential when it is not `Authorization`.
    """

    realm: str
    request: str = field(repr=False)
    expires: str = ""
    digest: str = ""
    opaque: str = field(default="", repr=False)
    method: str = METHOD
    intent: str = INTENT
    header: str = CREDENTIAL_HEADER

    def identity(self, key: bytes) -> str:
        """The id: base64url of HMAC-SHA256 over the parts in fixed places, joined by `|`.

        The draft has seven places. An advertised `header` stands before the last one.
        """
        places = [self.realm, self.method, self.intent, self.request, self.expires, self.digest]
        if self.header:
            places.append(self.header)
        places.append(self.opaque)
        mac = hmac.new(key, "|".join(places).encode("utf-8"), hashlib.sha256)
        return base64url.encode(mac.digest())


def mpp_key(challenge_key: bytes) -> bytes:
    """The key of challenge ids, made from the key of the token inside.

    64 hex digits as ASCII: MPP's own libraries take their key as text.
    """
    return hmac.new(challenge_key, _KEY_LABEL, hashlib.sha256).hexdigest().encode("ascii")


def challenge_of(offer: Offer, body: bytes) -> MppChallenge:
    """An offer as a challenge for the request with this body."""
    c = offer.challenge
    request: dict[str, JsonValue] = {
        "amount": str(c.amount),
        "currency": str(c.asset),
        "recipient": c.pay_to.hex(),
        "methodDetails": {
            "invoice": offer.invoice,
            "network": c.network.value,
            "paymentHash": c.payment_hash.hex(),
        },
    }
    digest = b64encode(hashlib.sha256(body).digest()).decode("ascii")
    return MppChallenge(
        realm=c.issuer,
        request=base64url.encode(canonicalize(request)),
        expires=rfc3339(c.expires_at_s),
        digest=f"sha-256=:{digest}:",
        opaque=base64url.encode(canonicalize({_OPAQUE_MEMBER: offer.token})),
    )


def challenge_header(challenge: MppChallenge, key: bytes) -> str:
    """The `WWW-Authenticate` value. No part can hold a quote: none is anybody's free text."""
    parameters = {
        "id": challenge.identity(key),
        "realm": challenge.realm,
        "method": challenge.method,
        "intent": challenge.intent,
        "request": challenge.request,
        "expires": challenge.expires,
        "digest": challenge.digest,
        "opaque": challenge.opaque,
        "header": challenge.header,
    }
    written = ", ".join(f'{name}="{value}"' for name, value in parameters.items() if value)
    return f"{PAYMENT_SCHEME} {written}"


def announced_headers(offer: Offer, *, body: bytes, challenge_key: bytes) -> dict[str, str]:
    """Headers of the 402 for a client that announced `fiber/charge`: both renderings.

    Where both would be too large, the one it announced. Only an absurdly long query does that.

    Args:
        offer: What is offered.
        body: Of the request.
        challenge_key: The key the offer's token was made with.
    """
    challenge = challenge_header(challenge_of(offer, body), mpp_key(challenge_key))
    headers = {**offer_headers(offer), "WWW-Authenticate": challenge}
    size = sum(len(name) + len(value) + len(": \r\n") for name, value in headers.items())
    if size <= MAX_402_HEADER_BYTES:
        return headers
    return {name: headers[name] for name in (F402_VERSION_HEADER, "WWW-Authenticate")}


@dataclass(frozen=True, slots=True, kw_only=True)
class MppCredential:
    """A `Payment` credential as it was read; nothing of it is believed yet.

    Args:
        challenge_id: The id it gives back.
        challenge: The parts it gives back, with the header we always advertise.
        token: From `opaque`.
        preimage: None when the payer has none.
        echoed: What it says was paid, by the names x402 has for it.
    """

    challenge_id: str
    challenge: MppChallenge
    token: str = field(repr=False)
    preimage: Preimage | None = field(repr=False)
    echoed: Mapping[str, str]


def parse_payment(text: str) -> MppCredential:
    """Read the value of an `Authorization` or `Payment-Authorization` header.

    Raises:
        RemoteProtocolError: `malformed_proof`, or `unsupported_scheme` for another method or
            intent; unmoved, nothing consumed.
    """
    if len(text) > MAX_CREDENTIAL_CHARS:
        raise _malformed(f"the payment header is over {MAX_CREDENTIAL_CHARS} characters")
    found = _CREDENTIAL.fullmatch(text)
    if found is None:
        raise _malformed("the payment header is not Payment and base64url")
    value = _object(found[1], "the payment credential")
    echo, payload = value.get("challenge"), value.get("payload")
    if not isinstance(echo, dict) or not isinstance(payload, dict):
        raise _malformed("challenge and payload must be objects")
    if _text(echo, "method") != METHOD or _text(echo, "intent") != INTENT:
        raise RemoteProtocolError(
            "only fiber/charge is offered by this seller", code="unsupported_scheme"
        )
    challenge = MppChallenge(
        realm=_text(echo, "realm"),
        request=_text(echo, "request"),
        expires=_optional_text(echo, "expires"),
        digest=_optional_text(echo, "digest"),
        opaque=_text(echo, "opaque"),
    )
    return MppCredential(
        challenge_id=_text(echo, "id"),
        challenge=challenge,
        token=_text(_object(challenge.opaque, "opaque"), _OPAQUE_MEMBER),
        preimage=_preimage(payload),
        echoed=_echoed(challenge),
    )


def check_identity(credential: MppCredential, challenge_key: bytes) -> None:
    """Check that the challenge that came back is one of ours, whole and unaltered.

    Args:
        credential: As it was read.
        challenge_key: The key the token inside was made with.

    Raises:
        RemoteProtocolError: `invalid_challenge`; nothing is consumed.
    """
    expected = credential.challenge.identity(mpp_key(challenge_key))
    if not hmac.compare_digest(credential.challenge_id.encode("utf-8"), expected.encode("ascii")):
        raise RemoteProtocolError(
            "the challenge was not made by this seller, or was altered", code="invalid_challenge"
        )


def receipt_header(challenge: Challenge, *, challenge_id: str, now_ms: int) -> str:
    """The `Payment-Receipt` of a request that was answered."""
    return base64url.encode(
        dumps(
            {
                "status": "success",
                "method": METHOD,
                "timestamp": rfc3339(now_ms // 1000),
                "reference": challenge.payment_hash.hex(),
                "challengeId": challenge_id,
            }
        )
    )


def problem_members(error: InfernError) -> dict[str, JsonValue]:
    """The RFC 9457 members of a 402, to stand beside `error`; none for another status."""
    if error.status != 402:
        return {}
    name, title = _PROBLEM_OF.get(error.code, _REQUIRED)
    return {
        "type": _PROBLEMS + name,
        "title": title,
        "status": error.status,
        "detail": error.message,
    }


def rfc3339(unix_s: int) -> str:
    """Unix seconds as MPP writes times: UTC, whole seconds."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _echoed(challenge: MppChallenge) -> dict[str, str]:
    request = _object(challenge.request, "request")
    details = request.get("methodDetails")
    if not isinstance(details, dict):
        raise _malformed("request.methodDetails must be an object")
    return {
        "network": f"{METHOD}:{_text(details, 'network')}",
        "amount": _text(request, "amount"),
        "asset": _text(request, "currency"),
        "payTo": _text(request, "recipient"),
    }


def _preimage(payload: JsonObject) -> Preimage | None:
    value: Json = payload.get("preimage", "")
    if not isinstance(value, str):
        raise _malformed("payload.preimage must be hex")
    if not value:
        return None
    try:
        return parse_preimage(value)
    except RemoteProtocolError as error:
        raise _malformed(error.message) from error


def _object(text: str, what: str) -> JsonObject:
    try:
        return loads_object(base64url.decode(text))
    except (ValueError, RemoteProtocolError) as error:
        raise _malformed(f"{what} is not base64url of a JSON object: {error}") from error


def _text(members: JsonObject, name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise _malformed(f"the payment credential lacks {name}")
    return value


def _optional_text(members: JsonObject, name: str) -> str:
    return _text(members, name) if name in members else ""


def _malformed(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code="malformed_proof")
