"""The offer: one internal object behind every rendering of a 402.

An OpenAI-shaped error body carries everything inside `error.f402`, because OpenAI clients show
people nothing else; the `PAYMENT-REQUIRED` header carries the x402 v2 object for its clients.

Source: x402 v2 core and HTTP transport; scheme strings as in fnn's x402 facilitator proposal.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.f402.challenge import MAX_TOKEN_CHARS, Challenge, Mode, Terms, peek_token
from infern.core.units import div_ceil, format_amount
from infern.core.wire import strict_json
from infern.core.wire.strict_json import JsonObject

X402_VERSION: Final = 2
SCHEME: Final = "exact"
PAYMENT_REQUIRED_HEADER: Final = "PAYMENT-REQUIRED"
PAYMENT_RESPONSE_HEADER: Final = "PAYMENT-RESPONSE"
F402_VERSION_HEADER: Final = "F402-Version"
MODE_HEADER: Final = "F402-Mode"
WORST_LOCK_S: Final = 14 * 86_400
"""How long Fiber may lock a payment whose payee vanishes: nobody but the payee can end it."""
MAX_OFFER_BYTES: Final = 64 * 1024
"""A client reads no more of a 402 than this."""
MAX_INVOICE_CHARS: Final = 2048
_REPEATED: Final = (
    "version",
    "network",
    "asset",
    "amount",
    "mode",
    "payment_hash",
    "pay_to",
    "expires_at",
    "redeem_until",
    "request_hash",
    "listing",
)
"""Members of `error.f402` that repeat the token's claims."""
_FLOWS: Final = {Mode.UPFRONT: "upfront", Mode.HOLD: "escrow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A priced, signed-for offer to answer one request.

    Args:
        challenge: The claims of the token.
        token: The token's text.
        invoice: Fiber invoice text, signed by the payee's node.
        resource: Absolute URL of the request.
        provider: The agent key receipts will be signed with, hex; empty when unknown.
        links: Where to go next (keys, top-ups, redeem), path by name.
        locked_s: Hold mode: how long a seller that does its duty locks the payment at most.
    """

    challenge: Challenge
    token: str
    invoice: str
    resource: str
    provider: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    locked_s: int = 0


def terms_to_json(terms: Terms) -> dict[str, JsonValue]:
    """The `quote` member: prices, token ceilings and what they add up to."""
    return {
        **terms.price.to_json(),
        "prompt_tokens_max": terms.prompt_tokens_max,
        "completion_tokens_max": terms.completion_tokens_max,
        "n": terms.n,
        "max": str(terms.ceiling),
    }


def offer_details(offer: Offer) -> dict[str, JsonValue]:
    """The `error.f402` object."""
    c = offer.challenge
    details: dict[str, JsonValue] = {
        "version": 1,
        "network": c.network.fiber_id,
        "asset": str(c.asset),
        "amount": str(c.amount),
        "mode": c.mode.value,
        "invoice": offer.invoice,
        "payment_hash": c.payment_hash.hex(),
        "pay_to": c.pay_to.hex(),
        "expires_at": c.expires_at_s,
        "redeem_until": c.redeem_until_s,
        "challenge": offer.token,
        "request_hash": c.digest.hex(),
        "listing": c.listing,
        "provider": offer.provider,
        "links": {**offer.links, "pay_uri": f"fiber:{offer.invoice}"},
    }
    if c.mode is Mode.HOLD:
        details["hold"] = {
            "amount": str(c.amount),
            "locked_s": offer.locked_s,
            "locked_at_worst_s": WORST_LOCK_S,
        }
    if c.terms is not None:
        details["quote"] = terms_to_json(c.terms)
    return details


def offer_message(offer: Offer, model: str) -> str:
    """One paragraph that makes sense alone: it is all most people see of a 402."""
    c = offer.challenge
    limit = f", at most {c.terms.completion_tokens_max} output tokens" if c.terms else ""
    if c.mode is Mode.HOLD:
        return _hold_message(offer, f"model {model}{limit}")
    keys = offer.links.get("keys")
    prepaid = f"Easiest: create a prepaid key (POST {keys}) and pass it as api_key. Or pay"
    return (
        f"Payment required: at most {format_amount(c.amount, c.asset)} for this request "
        f"(model {model}{limit}). {prepaid if keys else 'Pay'} error.f402.invoice over Fiber and "
        "repeat the request with the proof; `infern proxy` does that for any client."
    )


def _hold_message(offer: Offer, what: str) -> str:
    amount = format_amount(offer.challenge.amount, offer.challenge.asset)
    return (
        f"Payment required: at most {amount} for this request ({what}), in hold mode: taken only "
        "when the answer was delivered, given back otherwise. Send error.f402.invoice over Fiber "
        "and, without waiting for it to succeed, repeat the request with the proof. Until then "
        f"your node locks {amount}: for {div_ceil(offer.locked_s, 60)} minutes at most, but for "
        f"up to {WORST_LOCK_S // 86_400} days if this seller vanishes."
    )


def x402_object(offer: Offer) -> dict[str, JsonValue]:
    """The x402 v2 `PaymentRequired` object."""
    c = offer.challenge
    return {
        "x402Version": X402_VERSION,
        "error": "payment_required",
        "resource": {"url": offer.resource, "mimeType": "application/json"},
        "accepts": [
            {
                "scheme": SCHEME,
                "network": c.network.fiber_id,
                "amount": str(c.amount),
                "asset": str(c.asset),
                "payTo": c.pay_to.hex(),
                "maxTimeoutSeconds": max(0, c.expires_at_s - c.issued_at_s),
                "extra": {
                    "paymentFlow": _FLOWS[c.mode],
                    "assetTransferMethod": "fiber-invoice",
                    "invoice": offer.invoice,
                    "challenge": offer.token,
                    "requestHash": c.digest.hex(),
                },
            }
        ],
    }


def encode_header_json(value: dict[str, JsonValue]) -> str:
    """Standard base64 of compact JSON, as x402 headers carry it."""
    return base64.b64encode(strict_json.dumps(value)).decode("ascii")


def decode_header_json(text: str, *, limit_chars: int, code: str) -> JsonObject:
    """Read an x402 header: strict standard base64 of one strict JSON object.

    Raises:
        RemoteProtocolError: With `code`; unmoved.
    """
    if len(text) > limit_chars:
        raise RemoteProtocolError(f"the payment header is over {limit_chars} characters", code=code)
    try:
        raw = base64.b64decode(text, validate=True)
        return strict_json.loads_object(raw)
    except (ValueError, binascii.Error, RemoteProtocolError) as error:
        raise RemoteProtocolError(
            f"the payment header is not base64 of a JSON object: {error}", code=code
        ) from error


def offer_headers(offer: Offer) -> dict[str, str]:
    """Headers of the 402 that carries this offer."""
    return {
        PAYMENT_REQUIRED_HEADER: encode_header_json(x402_object(offer)),
        F402_VERSION_HEADER: "1",
    }


def settlement_header(challenge: Challenge, *, success: bool, reason: str = "") -> str:
    """The `PAYMENT-RESPONSE` value for a proof that was accepted or refused."""
    value: dict[str, JsonValue] = {
        "success": success,
        "transaction": challenge.payment_hash.hex(),
        "network": challenge.network.fiber_id,
        "amount": str(challenge.amount),
    }
    if reason:
        value["errorReason"] = reason
    return encode_header_json(value)


def parse_offer(body: bytes, resource: str) -> Offer | None:
    """Read a 402 body as a client; None when it carries no invoice to pay.

    The token's claims are taken from the token itself and every repeated member must agree, so
    that a relay cannot show one price and have another paid.

    Raises:
        RemoteProtocolError: An offer that contradicts itself (`offer_refused`, unmoved).
    """
    if len(body) > MAX_OFFER_BYTES:
        raise _refused("the 402 body is too large")
    try:
        error = strict_json.loads_object(body).get("error")
    except RemoteProtocolError:
        return None
    details = error.get("f402") if isinstance(error, dict) else None
    if not isinstance(details, dict):
        return None
    invoice, token = details.get("invoice"), details.get("challenge")
    if not isinstance(invoice, str) or not isinstance(token, str):
        return None
    if len(invoice) > MAX_INVOICE_CHARS or len(token) > MAX_TOKEN_CHARS:
        raise _refused("the invoice or the challenge is too long")
    challenge = peek_token(token)
    offer = Offer(
        challenge=challenge,
        token=token,
        invoice=invoice,
        resource=resource,
        provider=_optional_text(details, "provider"),
        links=_links(details),
        locked_s=_locked_s(details),
    )
    shown = offer_details(offer)
    for name in _REPEATED:
        if details.get(name) != shown[name]:
            raise _refused(f"the offer's {name} is not what its challenge says")
    if "quote" in details and details["quote"] != shown.get("quote"):
        raise _refused("the offer's quote is not what its challenge says")
    return offer


def _links(details: JsonObject) -> dict[str, str]:
    links = details.get("links")
    if not isinstance(links, dict):
        return {}
    return {k: v for k, v in links.items() if isinstance(v, str) and k != "pay_uri"}


def _locked_s(details: JsonObject) -> int:
    hold = details.get("hold")
    value = hold.get("locked_s") if isinstance(hold, dict) else None
    return value if type(value) is int and 0 <= value <= WORST_LOCK_S else 0


def _optional_text(details: JsonObject, name: str) -> str:
    value = details.get(name)
    return value if isinstance(value, str) else ""


def _refused(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code="offer_refused")
