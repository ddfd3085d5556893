"""Every failure Infern can report, with what it means for the money and what to do next.

The tree::

    InfernError
    ├ ConfigError                    our own set-up is wrong
    ├ ProtocolError                  somebody broke a format or a rule of F402
    │  ├ LocalProtocolError          we did
    │  └ RemoteProtocolError         the peer did
    ├ PaymentError                   money is needed, refused or unaccounted for
    │  ├ PaymentRequired             402 with a quote
    │  ├ BudgetExceeded              our own cap said no
    │  ├ InsufficientBalance         the tab cannot cover the hold
    │  ├ NoRoute                     Fiber finds no path
    │  ├ PaymentFailed               Fiber says it failed
    │  └ PaymentOutcomeUnknown       nobody knows yet: do not pay again
    ├ DeliveryError                  the inference did not happen or broke off
    │  ├ NoLiveProvider
    │  ├ UpstreamUnavailable
    │  └ StreamInterrupted
    ├ AccessError                    the caller may not, or not now
    │  ├ IdentityRejected
    │  └ QuotaExceeded
    ├ LedgerError                    the ledger refused or is away: nothing was booked
    └ TransportError                 a wire broke; adapters translate into this once

    InvariantViolation               our bug: crash, never catch

A code is stable and lives in `CODES` once, with its HTTP status, what a client should repeat
and what happened to the money. Raisers may narrow `retry` and `money` when they know better.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Retry(StrEnum):
    """What a client may repeat after an error."""

    NEVER = "never"
    SAME_CREDENTIAL = "same_credential"
    """The very same request with the very same key or proof, perhaps after `Retry-After`."""
    NEW_CHALLENGE = "new_challenge"
    """The request without a proof, to be quoted anew."""


class Money(StrEnum):
    """What happened to the payer's money when an error was raised."""

    UNMOVED = "unmoved"
    """Nothing left the payer, or everything held was given back to the payer's tab."""
    MOVED = "moved"
    """The payer was charged."""
    UNKNOWN = "unknown"
    """A payment is under way or its outcome could not be learned. Never pay again on this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSpec:
    """What a stable error code means: HTTP status, repetition, money and one sentence."""

    status: int
    retry: Retry
    money: Money
    meaning: str


def _spec(status: int, retry: Retry, money: Money, meaning: str) -> CodeSpec:
    return CodeSpec(status=status, retry=retry, money=money, meaning=meaning)


_N, _S, _C = Retry.NEVER, Retry.SAME_CREDENTIAL, Retry.NEW_CHALLENGE
_U, _M, _X = Money.UNMOVED, Money.MOVED, Money.UNKNOWN

CODES: Final[Mapping[str, CodeSpec]] = {
    # Money is needed.
    "payment_required": _spec(402, _C, _U, "the request has a price and carried no payment"),
    "insufficient_balance": _spec(402, _S, _U, "the key's balance does not cover the ceiling"),
    "free_quota_exhausted": _spec(402, _C, _U, "the free allowance is used up"),
    "price_above_max": _spec(402, _C, _U, "the ceiling is above the client's F402-Max-Amount"),
    # A proof was not accepted. No invoice is ever attached to these.
    "invalid_challenge": _spec(402, _C, _U, "the token was not made by this seller"),
    "wrong_realm": _spec(402, _C, _U, "the token belongs to another seller or network"),
    "challenge_expired": _spec(402, _C, _U, "the token's redeem-until time has passed"),
    "request_mismatch": _spec(402, _N, _U, "the token was issued for another request"),
    "invalid_preimage": _spec(402, _N, _U, "the preimage does not hash to the payment hash"),
    "amount_mismatch": _spec(402, _N, _U, "the echoed amount is not the token's"),
    "asset_mismatch": _spec(402, _N, _U, "the echoed asset is not the token's"),
    "pay_to_mismatch": _spec(402, _N, _U, "the echoed payee is not the token's"),
    "payment_not_received": _spec(402, _C, _U, "the invoice was cancelled or expired unpaid"),
    "hold_unavailable": _spec(402, _C, _U, "hold mode is not offered for this request now"),
    "payment_pending": _spec(425, _S, _X, "the payment has not arrived yet; repeat the proof"),
    # A request or a proof cannot be read.
    "malformed_proof": _spec(400, _N, _U, "the payment header cannot be parsed"),
    "ambiguous_payment": _spec(400, _N, _U, "two proofs at once"),
    "unsupported_scheme": _spec(400, _N, _U, "the payment scheme is not offered here"),
    "unsupported_network": _spec(400, _N, _U, "the payment network is not offered here"),
    "invalid_request": _spec(400, _N, _U, "the request cannot be read"),
    "invalid_invoice": _spec(400, _N, _U, "the text is not a valid Fiber invoice"),
    "invalid_molecule": _spec(400, _N, _U, "the bytes are not the molecule type expected"),
    "invalid_address": _spec(400, _N, _U, "the text is not a CKB address of this network"),
    "unpriceable_request": _spec(400, _N, _U, "the request asks for something without a price"),
    "context_length_exceeded": _spec(400, _N, _U, "prompt and answer do not fit the context"),
    "invalid_api_key": _spec(401, _N, _U, "the key is not known here"),
    "forbidden": _spec(403, _N, _U, "the caller may not use this"),
    "not_found": _spec(404, _N, _U, "there is no such thing here"),
    "model_not_found": _spec(404, _N, _U, "the model is not served here"),
    "method_not_allowed": _spec(405, _N, _U, "the path does not take this method"),
    "request_timeout": _spec(408, _S, _U, "the request body did not arrive in time"),
    "already_delivered": _spec(409, _N, _M, "this payment was already answered"),
    "request_in_progress": _spec(409, _S, _X, "this payment is being answered right now"),
    "idempotency_conflict": _spec(409, _N, _U, "the same key with another request"),
    "request_too_large": _spec(413, _N, _U, "the body is over the limit"),
    "unsupported_encoding": _spec(415, _N, _U, "bodies must be sent without Content-Encoding"),
    "rate_limit_exceeded": _spec(429, _S, _U, "too many requests"),
    "headers_too_large": _spec(431, _N, _U, "the headers are over the limit"),
    # The client side refuses to pay. Local only, never on the wire.
    "budget_exceeded": _spec(402, _N, _U, "the client's own budget does not allow this payment"),
    "offer_refused": _spec(402, _N, _U, "the seller's offer failed a check before paying"),
    "no_route": _spec(402, _S, _U, "Fiber finds no path to the payee"),
    "payment_failed": _spec(402, _S, _U, "Fiber reports that the payment failed"),
    "payment_outcome_unknown": _spec(402, _S, _X, "the payment may still succeed; do not repeat"),
    "receipt_mismatch": _spec(502, _N, _M, "the answer's receipt is missing or does not fit it"),
    # The inference did not happen or broke off.
    "no_provider": _spec(503, _S, _U, "no live provider"),
    "provider_failed": _spec(502, _S, _U, "the model server failed; nothing was charged"),
    "provider_timeout": _spec(504, _S, _U, "the model server did not answer in time"),
    "stream_interrupted": _spec(502, _N, _M, "the answer broke off; what was sent is charged"),
    "loop_detected": _spec(508, _N, _U, "the request passed through too many routers"),
    # Our own parts are away. Fail closed.
    "fiber_unavailable": _spec(503, _S, _U, "the Fiber node does not answer"),
    "fiber_error": _spec(502, _N, _X, "the Fiber node answered with an error"),
    "ledger_unavailable": _spec(503, _S, _U, "the ledger does not answer; nothing was booked"),
    "ledger_conflict": _spec(409, _N, _U, "the ledger refused a contradictory booking"),
    "overloaded": _spec(503, _S, _U, "the seller is at its limit of open requests"),
    "internal_error": _spec(500, _N, _X, "a bug on the answering side"),
    "invalid_config": _spec(500, _N, _U, "the configuration cannot be used"),
    "transport_error": _spec(502, _S, _X, "a connection broke before an answer"),
}


JsonScalar = str | int | bool | None
JsonValue = JsonScalar | list["JsonValue"] | dict[str, "JsonValue"]


class InfernError(Exception):
    """A failure with a stable code, an HTTP status, a retry rule and the state of the money.

    Args:
        message: One sentence a person can act on; ends with the next action where there is one.
        code: A key of `CODES`; the class has a default.
        retry: Overrides the code's rule when the raiser knows better.
        money: Overrides the code's money state when the raiser knows better.
        retry_after_s: Seconds to wait before repeating, when known.
        param: The request member at fault, for the OpenAI error shape.
        details: Machine-readable extras, rendered inside `error.f402`.
    """

    default_code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry: Retry | None = None,
        money: Money | None = None,
        retry_after_s: int | None = None,
        param: str | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        spec = CODES[self.code]
        self.status = spec.status
        self.retry = retry or spec.retry
        self.money = money or spec.money
        self.retry_after_s = retry_after_s
        self.param = param
        self.details: Mapping[str, JsonValue] = details or {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, money={self.money.value}, {self.message!r})"


class ConfigError(InfernError):
    """The configuration cannot be used. No money is involved."""

    default_code = "invalid_config"


class ProtocolError(InfernError):
    """A message broke a format or a rule. `money` says what is known of the payment."""

    default_code = "invalid_request"


class LocalProtocolError(ProtocolError):
    """We tried to do something the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol forbids."""


class PaymentError(InfernError):
    """Money is needed, was refused or is unaccounted for."""

    default_code = "payment_failed"


class PaymentRequired(PaymentError):
    """The request has a price; the offer is in `details` when one was made."""

    default_code = "payment_required"


class BudgetExceeded(PaymentError):
    """Our own cap forbids the payment. Nothing was sent."""

    default_code = "budget_exceeded"


class InsufficientBalance(PaymentError):
    """The tab's free balance does not cover the hold. Nothing was held."""

    default_code = "insufficient_balance"


class NoRoute(PaymentError):
    """Fiber finds no path with enough liquidity. Nothing was sent."""

    default_code = "no_route"


class PaymentFailed(PaymentError):
    """Fiber reports the payment as failed; the money is back with the payer."""

    default_code = "payment_failed"


class PaymentOutcomeUnknown(PaymentError):
    """The payment may still succeed. Ask for its status; never send another for the same need."""

    default_code = "payment_outcome_unknown"


class DeliveryError(InfernError):
    """The inference did not happen or broke off."""

    default_code = "provider_failed"


class NoLiveProvider(DeliveryError):
    """Nobody could serve the request; nothing was charged."""

    default_code = "no_provider"


class UpstreamUnavailable(DeliveryError):
    """The model server failed before it delivered anything; nothing was charged."""

    default_code = "provider_failed"


class StreamInterrupted(DeliveryError):
    """The answer broke off after some of it was delivered; what was delivered is charged."""

    default_code = "stream_interrupted"


class AccessError(InfernError):
    """The caller may not do this, or not now."""

    default_code = "forbidden"


class IdentityRejected(AccessError):
    """The key or identity is not valid here."""

    default_code = "invalid_api_key"


class QuotaExceeded(AccessError):
    """A rate or an allowance is used up."""

    default_code = "rate_limit_exceeded"


class LedgerError(InfernError):
    """The ledger refused a booking or is away. Nothing was booked by the failed step."""

    default_code = "ledger_unavailable"


class TransportError(InfernError):
    """A connection broke. Whether money moved depends on what was being sent."""

    default_code = "transport_error"


class InvariantViolation(Exception):
    """Something that must never be true was true. Our bug: let it crash, never catch it."""
