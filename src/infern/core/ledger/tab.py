"""The tab: the one money object. Everything that pays resolves to one.

An API key is a long-lived tab; a per-request payment is a tab with one deposit, scoped to one
request; a free allowance is a tab the treasury funds. Four columns and one equation:
`deposited = balance + held + spent + refunded`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from infern.core.errors import InsufficientBalance, InvariantViolation, LedgerError
from infern.core.ids import TabId
from infern.core.units import MAX_LEDGER_AMOUNT, Asset, checked_amount, format_amount


class TabKind(StrEnum):
    """What a tab stands for."""

    KEY = "key"
    REQUEST = "request"
    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """One tab's sums, in base units of its asset, each 0..2^63-1.

    Args:
        tab_id: Primary key.
        kind: What it stands for.
        asset: What the sums count.
        deposited: All that ever came in.
        held: Reserved by open holds and by payouts under way.
        spent: Captured for delivered answers.
        refunded: Sent out again, or moved to another tab.
    """

    tab_id: TabId
    kind: TabKind
    asset: Asset
    deposited: int = 0
    held: int = 0
    spent: int = 0
    refunded: int = 0

    def __post_init__(self) -> None:
        """Refuse rows that break the equation or a range; such a row must never be written."""
        for value in (self.deposited, self.held, self.spent, self.refunded):
            checked_amount(value, limit=MAX_LEDGER_AMOUNT)
        if self.balance < 0:
            raise InvariantViolation(f"tab {self.tab_id} holds or spent more than was deposited")

    @property
    def balance(self) -> int:
        """What can still be held, spent or refunded."""
        return self.deposited - self.held - self.spent - self.refunded


def deposit(tab: Tab, amount: int) -> Tab:
    """Credit `amount`, which has arrived.

    Raises:
        LedgerError: The sum would not fit the ledger (`ledger_conflict`); nothing is booked.
    """
    checked_amount(amount, limit=MAX_LEDGER_AMOUNT)
    if tab.deposited + amount > MAX_LEDGER_AMOUNT:
        raise LedgerError("the tab cannot hold that much", code="ledger_conflict")
    return replace(tab, deposited=tab.deposited + amount)


def hold(tab: Tab, amount: int) -> Tab:
    """Reserve `amount` of the balance.

    Raises:
        InsufficientBalance: The balance does not cover it; nothing is held.
    """
    checked_amount(amount, limit=MAX_LEDGER_AMOUNT)
    if amount > tab.balance:
        ceiling = format_amount(amount, tab.asset)
        raise _short(
            tab,
            amount,
            f"this request's ceiling of {ceiling}; top the key up, or ask for fewer tokens.",
        )
    return replace(tab, held=tab.held + amount)


def reserve(tab: Tab, amount: int) -> Tab:
    """Reserve `amount` of the balance for a payout: what it pays, and its fee cap.

    Raises:
        InsufficientBalance: The balance does not cover it; nothing is reserved.
    """
    checked_amount(amount, limit=MAX_LEDGER_AMOUNT)
    if amount > tab.balance:
        wanted = format_amount(amount, tab.asset)
        raise _short(tab, amount, f"{wanted}, its routing fee cap included; take out less.")
    return replace(tab, held=tab.held + amount)


def _short(tab: Tab, amount: int, need: str) -> InsufficientBalance:
    return InsufficientBalance(
        f"The balance of {format_amount(tab.balance, tab.asset)} does not cover {need}",
        details={
            "balance": str(tab.balance),
            "held": str(tab.held),
            "required": str(amount),
        },
    )


def capture(tab: Tab, held: int, charged: int) -> Tab:
    """End a hold of `held` by charging `charged` of it; the rest returns to the balance.

    Raises:
        InvariantViolation: The charge exceeds the hold, or the hold is not in the tab: our bug.
    """
    checked_amount(held, limit=MAX_LEDGER_AMOUNT)
    checked_amount(charged, limit=MAX_LEDGER_AMOUNT)
    if charged > held or held > tab.held:
        raise InvariantViolation(f"charge {charged} of hold {held} on {tab.tab_id}")
    return replace(tab, held=tab.held - held, spent=tab.spent + charged)


def release(tab: Tab, held: int) -> Tab:
    """End a hold of `held` without charge."""
    return capture(tab, held, 0)


def void(tab: Tab, charged: int) -> Tab:
    """Undo a charge that was never paid for; it is balance again.

    Raises:
        InvariantViolation: So much was never charged: our bug.
    """
    checked_amount(charged, limit=MAX_LEDGER_AMOUNT)
    if charged > tab.spent:
        raise InvariantViolation(f"{charged} was never charged to {tab.tab_id}")
    return replace(tab, spent=tab.spent - charged)


def pay_out(tab: Tab, reserved: int, out: int) -> Tab:
    """End a reservation of `reserved` with `out` of it gone to Fiber; the rest is balance again.

    Raises:
        InvariantViolation: More goes out than was reserved, or it is not in the tab: our bug.
    """
    checked_amount(reserved, limit=MAX_LEDGER_AMOUNT)
    checked_amount(out, limit=MAX_LEDGER_AMOUNT)
    if out > reserved or reserved > tab.held:
        raise InvariantViolation(f"{out} of {reserved} reserved on {tab.tab_id} goes out")
    return replace(tab, held=tab.held - reserved, refunded=tab.refunded + out)


def withdraw(tab: Tab, amount: int) -> Tab:
    """Take `amount` out of the balance, to a payee or to another tab.

    Raises:
        InsufficientBalance: The balance does not cover it; nothing is taken.
    """
    checked_amount(amount, limit=MAX_LEDGER_AMOUNT)
    if amount > tab.balance:
        raise _short(tab, amount, f"{format_amount(amount, tab.asset)}; take out less.")
    return replace(tab, refunded=tab.refunded + amount)
