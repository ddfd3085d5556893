"""A hold: a row with one end, never a number added to a column.

`OPEN → CAPTURED | RELEASED`, each once. A hold whose process died is released, since nobody can
show that anything was delivered. A captured hold that a lock paid for is `VOIDED` when the lock
never became money: then the payer has it back, and the charge is the seller's loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from infern.core.errors import InvariantViolation, LedgerError
from infern.core.ids import HoldId, PaymentHash, RequestDigest, TabId
from infern.core.units import MAX_LEDGER_AMOUNT, checked_amount


class HoldState(StrEnum):
    """Where a hold stands."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    VOIDED = "voided"


class HoldEvent(StrEnum):
    """What ends a hold, or undoes its charge."""

    CAPTURE = "capture"
    RELEASE = "release"
    VOID = "void"


TRANSITIONS: Final[Mapping[HoldState, Mapping[HoldEvent, HoldState]]] = {
    HoldState.OPEN: {
        HoldEvent.CAPTURE: HoldState.CAPTURED,
        HoldEvent.RELEASE: HoldState.RELEASED,
    },
    HoldState.CAPTURED: {HoldEvent.VOID: HoldState.VOIDED},
    HoldState.RELEASED: {},
    HoldState.VOIDED: {},
}
_CHARGED: Final = frozenset({HoldState.CAPTURED, HoldState.VOIDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One reservation on one tab.

    Args:
        hold_id: Primary key; also names the request in receipts of prepaid keys.
        tab_id: Whose money is reserved.
        amount: Base units reserved: the ceiling of the request.
        digest: The request it pays for.
        payment_hash: The proof it was made by; None for a prepaid key.
        attempt: 32 bytes naming the need it serves, from the consumer's `Idempotency-Key`; None
            without one. A tab has at most one hold of an attempt that was not released.
        owner: The process that answers the request; empty only in a fixture.
        lease_until_ms: Unix milliseconds. The owner renews it; a hold whose lease ran out has no
            living owner and is released by whoever sweeps.
        state: Where it stands.
        charged: Base units charged once captured, at most `amount`; kept when it is voided.
        opened_ms: Unix milliseconds.
        ended_ms: Unix milliseconds; None while open.
    """

    hold_id: HoldId
    tab_id: TabId
    amount: int
    digest: RequestDigest
    payment_hash: PaymentHash | None = None
    attempt: bytes | None = None
    owner: str = ""
    lease_until_ms: int = 0
    state: HoldState = HoldState.OPEN
    charged: int = 0
    opened_ms: int
    ended_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse a row that says two things at once."""
        checked_amount(self.amount, limit=MAX_LEDGER_AMOUNT)
        checked_amount(self.charged, limit=self.amount)
        if (self.state is HoldState.OPEN) != (self.ended_ms is None):
            raise InvariantViolation("a hold has an end exactly when it is not open")
        if self.charged and self.state not in _CHARGED:
            raise InvariantViolation("only a captured hold is charged")
        if self.attempt is not None and len(self.attempt) != 32:
            raise ValueError("an attempt is named by 32 bytes")


def end_hold(hold: Hold, event: HoldEvent, *, charged: int, now_ms: int) -> Hold:
    """End an open hold, or void a captured one.

    Args:
        hold: As it stands.
        event: What happened.
        charged: Base units charged; a voided hold keeps what it has.
        now_ms: Unix milliseconds.

    Raises:
        LedgerError: It has ended already (`ledger_conflict`); nothing is booked twice.
    """
    target = TRANSITIONS[hold.state].get(event)
    if target is None:
        raise LedgerError(f"hold {hold.hold_id} is already {hold.state}", code="ledger_conflict")
    kept = hold.charged if event is HoldEvent.VOID else charged
    return replace(hold, state=target, charged=kept, ended_ms=now_ms)
