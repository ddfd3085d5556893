"""A payout: money on its way from a tab out to Fiber.

`OWED → SENDING → SETTLED | RETURNED`. The row is durable, and its amount with the fee cap held on
the tab, before the node is told anything. What was not sent, or failed, returns to the tab.

A payment of an invoice is known to the node by its hash, so the node can always be asked what
became of it. A keysend draws its hash inside the node; it carries the payout's id as a custom
record, by which it is found among the node's payments when an answer was lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from infern.core.errors import InvariantViolation, LedgerError
from infern.core.ids import PaymentHash, PayoutId, Pubkey, TabId
from infern.core.units import MAX_LEDGER_AMOUNT, Asset, checked_amount, div_ceil

MIN_FEE_CAP: Final = 10
"""Base units: enough for ten forwarders of a tiny payment, each of which takes at least one."""
FEE_CAP_PER_THOUSAND: Final = 5
"""Five times fnn's usual 0.1 % for one forwarder."""


class PayoutPurpose(StrEnum):
    """Why money goes out."""

    WITHDRAW = "withdraw"
    """The owner of a key takes balance out."""
    REMAINDER = "remainder"
    """What a paid request did not cost goes back to its payer."""


class PayoutState(StrEnum):
    """Where a payout stands."""

    OWED = "owed"
    SENDING = "sending"
    """The node may have been told: never send again before it was asked."""
    SETTLED = "settled"
    RETURNED = "returned"
    """Nothing left; the amount is on the tab again."""


class PayoutEvent(StrEnum):
    """What can happen to a payout."""

    SEND = "send"
    SUCCEED = "succeed"
    FAIL = "fail"


_S, _E = PayoutState, PayoutEvent

TRANSITIONS: Final[Mapping[PayoutState, Mapping[PayoutEvent, PayoutState]]] = {
    _S.OWED: {_E.SEND: _S.SENDING, _E.FAIL: _S.RETURNED},
    _S.SENDING: {_E.SUCCEED: _S.SETTLED, _E.FAIL: _S.RETURNED},
    _S.SETTLED: {},
    _S.RETURNED: {},
}

OPEN: Final = frozenset(state for state, edges in TRANSITIONS.items() if edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """One payment out of one tab.

    Args:
        payout_id: Primary key.
        tab_id: Whose money it is.
        purpose: Why it goes out.
        request_key: 32 bytes naming the wish, unique within its tab, so that asking twice pays
            once: the digest of the client's id, or the payment hash of the paid request.
        asset: What the amounts count.
        amount: Base units that reach the payee, above zero.
        fee_cap: Base units routing may take on top; held with the amount.
        fee: Base units it took, once settled.
        invoice: Text to pay; None for a keysend.
        target: The node that receives a keysend, 33 bytes; None for an invoice.
        payment_hash: Known from the start for an invoice; of a keysend once the node told it.
        state: Where it stands.
        failure: A key of `CODES` that says why it returned; empty otherwise.
        created_ms: Unix milliseconds.
        sent_ms: Unix milliseconds when sending began; None before.
        ended_ms: Unix milliseconds; None while it is open.
    """

    payout_id: PayoutId
    tab_id: TabId
    purpose: PayoutPurpose
    request_key: bytes
    asset: Asset
    amount: int
    fee_cap: int
    fee: int = 0
    invoice: str | None = None
    target: Pubkey | None = None
    payment_hash: PaymentHash | None = None
    state: PayoutState = PayoutState.OWED
    failure: str = ""
    created_ms: int
    sent_ms: int | None = None
    ended_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse a row that says two things at once, or pays nobody."""
        checked_amount(self.amount + self.fee_cap, limit=MAX_LEDGER_AMOUNT)
        checked_amount(self.fee, limit=self.fee_cap)
        if self.amount < 1:
            raise ValueError("a payout is for more than nothing")
        if (self.invoice is None) == (self.target is None) or len(self.request_key) != 32:
            raise ValueError("a payout pays an invoice or a node, and has a 32-byte name")
        if (self.state in OPEN) != (self.ended_ms is None):
            raise InvariantViolation("a payout has an end exactly when it is not open")
        if self.failure and self.state is not PayoutState.RETURNED:
            raise InvariantViolation("only a payout that returned has failed")

    @property
    def reserved(self) -> int:
        """Base units held on the tab while it is open."""
        return self.amount + self.fee_cap

    @property
    def is_open(self) -> bool:
        """True while somebody still has to look after it."""
        return self.state in OPEN


def move_payout(
    payout: Payout,
    event: PayoutEvent,
    *,
    now_ms: int,
    fee: int = 0,
    payment_hash: PaymentHash | None = None,
    failure: str = "",
) -> Payout:
    """The payout after an event.

    Args:
        payout: As it stands.
        event: What happened.
        now_ms: Unix milliseconds.
        fee: What routing took, with `SUCCEED`. What a node took beyond the cap that it was given is
            not the payer's to bear.
        payment_hash: Of a keysend, when it is known by now.
        failure: A key of `CODES` that says why, with `FAIL`.

    Raises:
        LedgerError: The table has no such edge (`ledger_conflict`); nothing is booked twice.
        InvariantViolation: Another payment than the one that is known: it was sent twice.
    """
    if None not in (known := payout.payment_hash, payment_hash) and known != payment_hash:
        raise InvariantViolation(f"payout {payout.payout_id} was sent by two payments")
    target = TRANSITIONS[payout.state].get(event)
    if target is None:
        raise LedgerError(f"a payout that is {payout.state} cannot {event}", code="ledger_conflict")
    return replace(
        payout,
        state=target,
        fee=min(fee, payout.fee_cap) if event is PayoutEvent.SUCCEED else 0,
        payment_hash=known or payment_hash,
        failure=failure if event is PayoutEvent.FAIL else "",
        sent_ms=now_ms if event is PayoutEvent.SEND else payout.sent_ms,
        ended_ms=None if target in OPEN else now_ms,
    )


def fee_cap_of(amount: int) -> int:
    """What routing may take of a payout of `amount`, base units; rounded up."""
    return max(MIN_FEE_CAP, div_ceil(amount * FEE_CAP_PER_THOUSAND, 1000))


def largest_payout(available: int) -> int:
    """The largest amount that fits `available` together with its fee cap; 0 when none does."""
    amount = available * 1000 // (1000 + FEE_CAP_PER_THOUSAND)
    while amount > 0 and amount + fee_cap_of(amount) > available:
        amount -= max(1, amount + fee_cap_of(amount) - available)
    return max(amount, 0)
