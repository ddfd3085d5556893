"""The selling side of one paid request, as a table.

The row is keyed by payment hash. It does not exist while a quote is merely out (`QUOTED` is the
token in the client's hands); it is created by the one durable insert that makes a proof single
use, in the same ledger transaction as the deposit and the hold.

Nothing delivered means nothing charged: a failed run gives the hold back to the request's own tab
and the same proof may run again, or the deposit is redeemed as credit. In hold mode a failed run is
over: its payment is cancelled, which gives the money back over Fiber.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from infern.core.errors import (
    InfernError,
    InvariantViolation,
    LocalProtocolError,
    PaymentError,
    ProtocolError,
    Retry,
)


class ServerState(StrEnum):
    """Where one paid request stands at the seller."""

    QUOTED = "quoted"
    PAID = "paid"
    """The payment arrived and was booked; nobody has presented the proof yet."""
    RUNNING = "running"
    DELIVERED = "delivered"
    FAILED = "failed"
    CREDITED = "credited"
    CANCELLED = "cancelled"
    """Hold mode only: the payer has the money back, over Fiber."""


class ServerEvent(StrEnum):
    """What can happen to a paid request at the seller."""

    ARRIVE = "arrive"
    """The node says that an invoice was paid whose proof nobody presented in time."""
    CLAIM = "claim"
    """A verified proof arrived and the ledger took it."""
    DELIVER = "deliver"
    """The answer ended, wholly or in part; what was delivered is charged."""
    FAIL = "fail"
    """Nothing was delivered; the hold is given back."""
    CREDIT = "credit"
    """The deposit was moved to a key or refunded."""
    CANCEL = "cancel"
    """Hold mode only: the lock is cancelled, or was gone before it could be settled."""


_S, _E = ServerState, ServerEvent

TRANSITIONS: Final[Mapping[ServerState, Mapping[ServerEvent, ServerState]]] = {
    # CREDIT from QUOTED: the payer redeems a payment it never used for an answer.
    _S.QUOTED: {_E.ARRIVE: _S.PAID, _E.CLAIM: _S.RUNNING, _E.CREDIT: _S.CREDITED},
    _S.PAID: {_E.CLAIM: _S.RUNNING, _E.CREDIT: _S.CREDITED},
    _S.RUNNING: {_E.DELIVER: _S.DELIVERED, _E.FAIL: _S.FAILED},
    _S.FAILED: {_E.CLAIM: _S.RUNNING, _E.CREDIT: _S.CREDITED, _E.CANCEL: _S.CANCELLED},
    # What an answer left over may be redeemed; the request itself is over.
    _S.DELIVERED: {_E.CREDIT: _S.DELIVERED, _E.CANCEL: _S.CANCELLED},
    _S.CREDITED: {},
    _S.CANCELLED: {},
}


def advance(state: ServerState, event: ServerEvent) -> ServerState:
    """The state after `event`.

    Raises:
        LocalProtocolError: The table has no such edge; see `refusal` for what to tell a client.
    """
    target = TRANSITIONS[state].get(event)
    if target is None:
        raise LocalProtocolError(f"a paid request that is {state} cannot {event}")
    return target


def refusal(state: ServerState) -> InfernError:
    """What a client hears when it presents a proof in a state that cannot run it.

    Raises:
        InvariantViolation: The state can run it: nobody may be told that it was charged.
    """
    if _E.CLAIM in TRANSITIONS[state]:
        raise InvariantViolation(f"a paid request that is {state} may be claimed")
    if state is _S.RUNNING:
        return ProtocolError(
            "This payment is being answered right now; wait for that answer. It was paid once "
            "and is charged once.",
            code="request_in_progress",
            retry_after_s=2,
        )
    if state is _S.CANCELLED:
        return PaymentError(
            "This payment was held and then given back over Fiber; nothing was charged. Send the "
            "request without a proof to get a new offer.",
            code="payment_not_received",
        )
    if state is _S.CREDITED:
        return ProtocolError(
            "This payment was redeemed as credit; use the key it went to.",
            code="already_delivered",
            retry=Retry.NEVER,
        )
    return ProtocolError(
        "This payment was already answered and charged once; its receipt is in error.f402.",
        code="already_delivered",
    )
