"""A hold: a row with one terminal state, never a number added to a column.

`OPEN → CAPTURED | RELEASED`, each exactly once. A hold whose process died is released, since
nobody can show that anything was delivered.
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


class HoldEvent(StrEnum):
    """What ends a hold."""

    CAPTURE = "capture"
    RELEASE = "release"


TRANSITIONS: Final[Mapping[HoldState, Mapping[HoldEvent, HoldState]]] = {
    HoldState.OPEN: {
        HoldEvent.CAPTURE: HoldState.CAPTURED,
        HoldEvent.RELEASE: HoldState.RELEASED,
    },
    HoldState.CAPTURED: {},
    HoldState.RELEASED: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One reservation on one tab.

    Args:
        hold_id: Primary key; also names the request in receipts of prepaid keys.
        tab_id: Whose money is reserved.
        amount: Base units reserved: the ceiling of the request.
        digest: The request it pays for.
        payment_hash: The proof it was made by; None for a prepaid key.
        state: Where it stands.
        charged: Base units charged once captured, at most `amount`.
        opened_ms: Unix milliseconds.
        ended_ms: Unix milliseconds; None while open.
    """

    hold_id: HoldId
    tab_id: TabId
    amount: int
    digest: RequestDigest
    payment_hash: PaymentHash | None = None
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
        if self.charged and self.state is not HoldState.CAPTURED:
            raise InvariantViolation("only a captured hold is charged")


def end_hold(hold: Hold, event: HoldEvent, *, charged: int, now_ms: int) -> Hold:
    """End an open hold.

    Raises:
        LedgerError: It has ended already (`ledger_conflict`); nothing is booked twice.
    """
    target = TRANSITIONS[hold.state].get(event)
    if target is None:
        raise LedgerError(f"hold {hold.hold_id} is already {hold.state}", code="ledger_conflict")
    return replace(hold, state=target, charged=charged, ended_ms=now_ms)
