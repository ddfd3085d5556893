"""The paying side of one F402 exchange, as a table.

Two rules. (1) All state lives in these states; whoever drives them only reports what happened.
(2) From `PAYING` on there is no edge to another payment: a client that has begun to pay can wait,
prove, repeat the proof or give up, and what it paid stays on record until it is redeemed or
known to have failed. That is what stops the double payments that retries cause.

Theory of operation: an unpaid request goes out (`ASKING`). A 402 with an offer that passes the
checks and the budget is written to the journal (`INTENDED`), then paid (`PAYING`), then the very
same request goes out with the proof (`PROVING`). A restart resumes from the journal.

In hold mode the proof goes out while the payment is still under way (`HELD`, `CLAIMING`). An answer
makes the payment the seller's to take (`SETTLING`), a refusal lets it come back (`RETURNING`), and
only our own node says that either has happened.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from infern.core.errors import LocalProtocolError


class ClientState(StrEnum):
    """Where one request stands at the payer."""

    ASKING = "asking"
    INTENDED = "intended"
    PAYING = "paying"
    PAID = "paid"
    PROVING = "proving"
    DELIVERED = "delivered"
    REFUSED = "refused"
    """We declined to pay, or nothing was for sale."""
    PAYMENT_FAILED = "payment_failed"
    """Fiber says so; the money is back."""
    UNREDEEMED = "unredeemed"
    """Paid, not delivered: the proof stays good until redeem-until, or is claimed as credit."""
    REDEEMED_ELSEWHERE = "redeemed_elsewhere"
    """The seller says it already answered this payment."""
    HELD = "held"
    """Hold mode: our node sends the payment, or it waits at the payee; the proof may go out."""
    CLAIMING = "claiming"
    """Hold mode: the proof is out."""
    SETTLING = "settling"
    """Hold mode: answered. The seller may take the payment; our node has not said that it did."""
    RETURNING = "returning"
    """Hold mode: refused, or the run failed. Our node has not said that the payment is back."""


class ClientEvent(StrEnum):
    """What can happen to a request at the payer."""

    ANSWERED = "answered"
    """A final answer that is not a 402."""
    OFFER_ACCEPTED = "offer_accepted"
    OFFER_DECLINED = "offer_declined"
    PAY_SENT = "pay_sent"
    PAY_SUCCEEDED = "pay_succeeded"
    PAY_HELD = "pay_held"
    """Hold mode: the node says that the payment is under way; it succeeds after the answer."""
    PAY_FAILED = "pay_failed"
    PAY_UNKNOWN = "pay_unknown"
    """Our deadline passed and the node still says it is under way."""
    PROOF_SENT = "proof_sent"
    PROOF_PENDING = "proof_pending"
    """425: the seller has not seen the payment yet."""
    PROOF_REFUSED = "proof_refused"
    """No repetition of this proof is answered; in hold mode also when its run failed."""
    SELLER_FAILED = "seller_failed"
    """5xx, a broken connection or a timeout after the proof went out."""
    ALREADY_DELIVERED = "already_delivered"


_S, _E = ClientState, ClientEvent

TRANSITIONS: Final[Mapping[ClientState, Mapping[ClientEvent, ClientState]]] = {
    _S.ASKING: {
        _E.ANSWERED: _S.DELIVERED,
        _E.OFFER_ACCEPTED: _S.INTENDED,
        _E.OFFER_DECLINED: _S.REFUSED,
    },
    _S.INTENDED: {
        _E.PAY_SENT: _S.PAYING,
        # The budget, the clock or the user may still say no before anything was sent.
        _E.OFFER_DECLINED: _S.REFUSED,
    },
    _S.PAYING: {
        _E.PAY_SUCCEEDED: _S.PAID,
        _E.PAY_HELD: _S.HELD,
        _E.PAY_FAILED: _S.PAYMENT_FAILED,
        _E.PAY_UNKNOWN: _S.PAYING,
    },
    _S.PAID: {_E.PROOF_SENT: _S.PROVING},
    _S.PROVING: {
        _E.ANSWERED: _S.DELIVERED,
        _E.PROOF_PENDING: _S.PAID,
        _E.SELLER_FAILED: _S.UNREDEEMED,
        _E.PROOF_REFUSED: _S.UNREDEEMED,
        _E.ALREADY_DELIVERED: _S.REDEEMED_ELSEWHERE,
    },
    _S.UNREDEEMED: {_E.PROOF_SENT: _S.PROVING},
    # From here on the node may say at any time what became of a payment in hold mode.
    _S.HELD: {
        _E.PROOF_SENT: _S.CLAIMING,
        _E.PAY_SUCCEEDED: _S.PAID,
        _E.PAY_FAILED: _S.PAYMENT_FAILED,
    },
    _S.CLAIMING: {
        _E.ANSWERED: _S.SETTLING,
        _E.PROOF_PENDING: _S.HELD,
        _E.SELLER_FAILED: _S.HELD,
        _E.PROOF_REFUSED: _S.RETURNING,
        _E.ALREADY_DELIVERED: _S.SETTLING,
        _E.PAY_SUCCEEDED: _S.PAID,
        _E.PAY_FAILED: _S.PAYMENT_FAILED,
    },
    _S.SETTLING: {_E.PAY_SUCCEEDED: _S.DELIVERED, _E.PAY_FAILED: _S.PAYMENT_FAILED},
    # Taken although the proof was refused: what was not charged can be redeemed.
    _S.RETURNING: {_E.PAY_SUCCEEDED: _S.UNREDEEMED, _E.PAY_FAILED: _S.PAYMENT_FAILED},
    _S.DELIVERED: {},
    _S.REFUSED: {},
    _S.PAYMENT_FAILED: {},
    _S.REDEEMED_ELSEWHERE: {},
}

TERMINAL: Final = frozenset(state for state, edges in TRANSITIONS.items() if not edges)
MONEY_AT_STAKE: Final = frozenset(
    {_S.PAYING, _S.PAID, _S.PROVING, _S.UNREDEEMED, _S.HELD, _S.CLAIMING, _S.RETURNING}
)
"""States in which a new payment for the same request digest is forbidden."""
LOCKING: Final = frozenset({_S.PAYING, _S.HELD, _S.CLAIMING, _S.SETTLING, _S.RETURNING})
"""States in which a payment in hold mode may occupy our channels: neither taken nor given back."""


def advance(state: ClientState, event: ClientEvent) -> ClientState:
    """The state after `event`.

    Raises:
        LocalProtocolError: The table has no such edge: the driver is wrong.
    """
    target = TRANSITIONS[state].get(event)
    if target is None:
        raise LocalProtocolError(f"an exchange that is {state} cannot be {event}")
    return target
