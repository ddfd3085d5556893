"""A lock: a payment in hold mode, which is money only once the seller settles it.

The payer's TLC sits at the payee while the answer is made. Settling it turns it into money;
cancelling it gives it back. The row is written before the invoice is made, because a node lists
no invoices: a lock nobody remembers would stay for up to two weeks.

    OFFERED ─ claim ► HELD ─ capture ► CHARGED ─ deliver ► SETTLING ─ paid ► SETTLED
       │               │ release         │ abandon           └ gone ► LOST
       └─ expire ──────┴─────────────────┴──► CANCELLING ─ gone ► CANCELLED

The preimage is told to the node in `SETTLING` and in no other state. So a process that dies
before the answer was written gives the money back, and one that dies afterwards takes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from infern.core.errors import InvariantViolation, LedgerError
from infern.core.ids import HoldId, PaymentHash, PayoutId, Pubkey, RequestDigest, TabId
from infern.core.units import MAX_LEDGER_AMOUNT, Asset, checked_amount


class LockState(StrEnum):
    """Where a lock stands."""

    OFFERED = "offered"
    """Its invoice is out; perhaps nobody ever pays it."""
    HELD = "held"
    """The node has the TLC and the request is being answered."""
    CHARGED = "charged"
    """The charge is booked; the answer is on its way to the consumer."""
    SETTLING = "settling"
    """The answer was written; the node is told the preimage until it says `Paid`."""
    SETTLED = "settled"
    CANCELLING = "cancelling"
    """The node is told to give the TLC back until it has."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """Delivered, but the TLC was gone before it could be settled: the seller's loss."""


class LockEvent(StrEnum):
    """What can happen to a lock."""

    CLAIM = "claim"
    """A proof came and the node says `Received`."""
    CAPTURE = "capture"
    RELEASE = "release"
    """The request failed; nothing was delivered."""
    DELIVER = "deliver"
    """Writing the answer ended, whole or in part."""
    ABANDON = "abandon"
    """The process died before writing ended."""
    EXPIRE = "expire"
    """Nobody claimed it in time."""
    PAID = "paid"
    """The node says `Paid`."""
    GONE = "gone"
    """The node says `Cancelled` or `Expired`, or never made the invoice and cannot any more."""


_S, _E = LockState, LockEvent

TRANSITIONS: Final[Mapping[LockState, Mapping[LockEvent, LockState]]] = {
    _S.OFFERED: {_E.CLAIM: _S.HELD, _E.EXPIRE: _S.CANCELLING, _E.GONE: _S.CANCELLED},
    _S.HELD: {_E.CAPTURE: _S.CHARGED, _E.RELEASE: _S.CANCELLING},
    _S.CHARGED: {_E.DELIVER: _S.SETTLING, _E.ABANDON: _S.CANCELLING},
    _S.SETTLING: {_E.PAID: _S.SETTLED, _E.GONE: _S.LOST},
    # PAID from CANCELLING: the operator settled it by hand. What is not charged becomes credit.
    _S.CANCELLING: {_E.GONE: _S.CANCELLED, _E.PAID: _S.SETTLED},
    _S.SETTLED: {},
    _S.CANCELLED: {},
    _S.LOST: {},
}

CLAIM_GRACE_MS: Final = 600_000
"""How long after its invoice expired a payment may still buy its answer. Fiber gives a payment back
when its time runs out, without a word to the ledger: one that lies about for long, because the
seller or its node was away, must not be worked for."""
OPEN: Final = frozenset(state for state, edges in TRANSITIONS.items() if edges)
"""States of locks that somebody still has to look after."""
PENDING: Final = OPEN - {_S.OFFERED}
"""States in which a TLC may be pending at the node for a deposit that is no money yet."""
_CLAIMED: Final = frozenset({_S.HELD, _S.CHARGED, _S.SETTLING, _S.LOST})
GIVEN_BACK: Final = frozenset({_S.CANCELLING, _S.CANCELLED, _S.LOST})
"""States in which the payer has its money again, or is about to have it: no proof counts here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """One payment in hold mode.

    Args:
        payment_hash: Primary key, 32 bytes.
        nonce: The token's 16 bytes; the preimage is derived from them.
        amount: Base units the payer locks: the ceiling.
        asset: What the amount counts.
        digest: The request it is for.
        tab_id: The request's tab; None until it is claimed.
        hold_id: The hold of its run; None until it is claimed.
        remainder_tab: The key's tab the remainder goes to once it is money; None for none.
        refund_to: The node it is sent back to otherwise; None for none.
        payout_id: Names the payout that sends it, should there be one.
        state: Where it stands.
        offered_ms: Unix milliseconds.
        expires_ms: After this no payment reaches the invoice any more.
        ended_ms: Unix milliseconds; None while it is open.
    """

    payment_hash: PaymentHash
    nonce: bytes
    amount: int
    asset: Asset
    digest: RequestDigest
    tab_id: TabId | None = None
    hold_id: HoldId | None = None
    remainder_tab: TabId | None = None
    refund_to: Pubkey | None = None
    payout_id: PayoutId | None = None
    state: LockState = LockState.OFFERED
    offered_ms: int
    expires_ms: int
    ended_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse a row that says two things at once."""
        checked_amount(self.amount, limit=MAX_LEDGER_AMOUNT)
        if len(self.nonce) != 16:
            raise ValueError("a lock keeps the 16 bytes its preimage is derived from")
        if (self.tab_id is None) != (self.hold_id is None):
            raise InvariantViolation("a lock has a tab and a hold since it was claimed")
        if self.tab_id is None and self.state in _CLAIMED:
            raise InvariantViolation(f"a lock that is {self.state} was claimed")
        if (self.state in OPEN) != (self.ended_ms is None):
            raise InvariantViolation("a lock has an end exactly when it is not open")

    @property
    def claim_until_ms(self) -> int:
        """Unix milliseconds until when a proof of it is taken."""
        return self.expires_ms + CLAIM_GRACE_MS

    @property
    def is_pending(self) -> bool:
        """True while its deposit is booked, or on its way back, and is no money yet."""
        return self.state in PENDING and self.tab_id is not None


def move_lock(lock: Lock, event: LockEvent, now_ms: int) -> Lock:
    """The lock after an event.

    Raises:
        LedgerError: The table has no such edge (`ledger_conflict`); nothing is booked twice.
    """
    target = TRANSITIONS[lock.state].get(event)
    if target is None:
        raise LedgerError(f"a lock that is {lock.state} cannot {event}", code="ledger_conflict")
    return replace(lock, state=target, ended_ms=None if target in OPEN else now_ms)
