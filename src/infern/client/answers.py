"""What an answer to a proof means for the payment, and when the proof may go out again."""

from collections.abc import Mapping
from typing import Final

from infern.client.effects import Reply, WireBroken
from infern.client.wallet import Patience
from infern.core.errors import RemoteProtocolError, Retry
from infern.core.f402.client import ClientEvent
from infern.core.wire import strict_json

PROOF_REFUSALS: Final = frozenset(
    {
        "invalid_challenge",
        "wrong_realm",
        "challenge_expired",
        "request_mismatch",
        "invalid_preimage",
        "amount_mismatch",
        "asset_mismatch",
        "pay_to_mismatch",
        "payment_not_received",
    }
)
"""Codes with which a seller may refuse a proof by a 402."""


def judge(answer: Reply | WireBroken, *, is_held: bool = False) -> ClientEvent:
    """What an answer to a proof means for the payment.

    Args:
        answer: Of the seller.
        is_held: In hold mode a run that failed is over: its payment comes back.
    """
    if isinstance(answer, WireBroken):
        return ClientEvent.SELLER_FAILED
    if answer.redirected:
        return ClientEvent.PROOF_REFUSED
    if answer.is_success:
        return ClientEvent.ANSWERED
    code = str(error_of(answer).get("code"))
    if answer.status == 409 and code == "already_delivered":
        return ClientEvent.ALREADY_DELIVERED
    if answer.status in {425, 429} or is_in_progress(answer):
        return ClientEvent.PROOF_PENDING
    if is_held and error_of(answer).get("retry") == Retry.NEW_CHALLENGE.value:
        return ClientEvent.PROOF_REFUSED
    if answer.status >= 500 or answer.status == 408:
        return ClientEvent.SELLER_FAILED
    return ClientEvent.PROOF_REFUSED


def pause_before_next(
    answer: Reply | WireBroken, event: ClientEvent, turn: int, patience: Patience
) -> int | None:
    """How long to wait before the same proof goes out again; None to stop."""
    if event not in {ClientEvent.PROOF_PENDING, ClientEvent.SELLER_FAILED}:
        return None
    own_ms = min(patience.pause_ms << turn, patience.retry_after_ms)
    if isinstance(answer, WireBroken):
        return None if answer.timed_out else own_ms
    if error_of(answer).get("retry") == Retry.NEVER.value:
        return None
    wish = answer.headers.get("retry-after", "")
    if not (wish.isascii() and wish.isdigit() and len(wish) <= 6):
        return own_ms
    wish_ms = int(wish) * 1000
    return max(own_ms, wish_ms) if wish_ms <= patience.retry_after_ms else None


def pause_before_same(answer: Reply | WireBroken, turn: int, patience: Patience) -> int | None:
    """How long to wait before a named request goes out again for its lost answer; None to stop.

    Only where nobody read an answer: what a seller says is for the caller to hear.
    """
    if isinstance(answer, WireBroken) or is_in_progress(answer):
        return pause_before_next(answer, ClientEvent.PROOF_PENDING, turn, patience)
    return None


def is_in_progress(answer: Reply) -> bool:
    """True when the seller is still answering an earlier try."""
    return answer.status == 409 and error_of(answer).get("code") == "request_in_progress"


def error_of(reply: Reply) -> Mapping[str, object]:
    """The `error` object of an answer; empty when there is none."""
    try:
        error = strict_json.loads_object(reply.body).get("error")
    except RemoteProtocolError:
        return {}
    return error if isinstance(error, dict) else {}


def is_elsewhere(answer: Reply) -> bool:
    """True when it points to another address."""
    return answer.redirected or 300 <= answer.status < 400


def is_no_refusal(answer: Reply) -> bool:
    """True for an answer to a proof that must not be shown as it stands."""
    asks_again = answer.status == 402 and error_of(answer).get("code") not in PROOF_REFUSALS
    return asks_again or is_elsewhere(answer)
