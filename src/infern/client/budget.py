"""The consumer's cap: pure rules over sums the journal gives inside its own transaction.

A payment counts in full, with its fee cap, from the moment it is intended; a refused or failed
one is given back. What an answer leaves over is the seller's to return (to a key or by redeem)
and does not refill a budget.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infern.client.journal import AttemptKind, Spent
from infern.core.errors import BudgetExceeded, JsonValue
from infern.core.f402.challenge import Mode
from infern.core.units import (
    MAX_LEDGER_AMOUNT,
    SHANNON_PER_CKB,
    checked_amount,
    div_ceil,
    format_amount,
)

DEFAULT_PER_REQUEST: Final = 5 * SHANNON_PER_CKB
DEFAULT_PER_TOPUP: Final = 20 * SHANNON_PER_CKB
DEFAULT_PER_SESSION: Final = 50 * SHANNON_PER_CKB
DEFAULT_PER_DAY: Final = 100 * SHANNON_PER_CKB
DEFAULT_PER_LOCK: Final = 1 * SHANNON_PER_CKB
DEFAULT_LOCKED: Final = 10 * SHANNON_PER_CKB
DEFAULT_LOCKS: Final = 20
MAX_LOCKS: Final = 60
"""A channel has 125 slots; near that a node refuses routes for minutes, so half is the most."""
LOCK, LOCKS, LOCKED = "lock", "locks", "locked"
HOLD_WINDOWS: Final = frozenset({LOCK, LOCKS, LOCKED})
"""`details["window"]` of a refusal that payment upfront would not have got."""
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be paid without asking anybody. All amounts in shannon.

    Args:
        per_request: The most one payment may be, without its routing fee.
        per_topup: The most one top-up of a prepaid key may be, without its routing fee.
        per_session: The most one client instance may spend, fees included.
        per_day: The most all clients of this journal may spend in 24 hours, fees included.
        per_lock: The most one payment in hold mode may be, without its routing fee.
        locked: The most that all clients of this journal may have in hold mode at once, fees
            included. A seller that vanishes keeps it locked for up to two weeks.
        locks: How many payments that may be.
        fee_base: Part of the fee cap that does not depend on the amount; hops round up, so tiny
            payments need one.
        fee_ppm: Part of the fee cap in millionths of the amount.
    """

    per_request: int = DEFAULT_PER_REQUEST
    per_topup: int = DEFAULT_PER_TOPUP
    per_session: int = DEFAULT_PER_SESSION
    per_day: int = DEFAULT_PER_DAY
    per_lock: int = DEFAULT_PER_LOCK
    locked: int = DEFAULT_LOCKED
    locks: int = DEFAULT_LOCKS
    fee_base: int = 1_000
    fee_ppm: int = 10_000

    def __post_init__(self) -> None:
        """Refuse negative or absurd caps."""
        caps = (self.per_request, self.per_topup, self.per_session, self.per_day, self.fee_base)
        for amount in (*caps, self.per_lock, self.locked):
            checked_amount(amount, limit=MAX_LEDGER_AMOUNT)
        checked_amount(self.locks, limit=MAX_LOCKS)
        checked_amount(self.fee_ppm, limit=_MILLION)

    def fee_cap(self, amount: int) -> int:
        """The most routing may take on top of `amount`."""
        return self.fee_base + div_ceil(amount * self.fee_ppm, _MILLION)

    def admit(
        self, amount: int, kind: AttemptKind, mode: Mode = Mode.UPFRONT
    ) -> Callable[[Spent], None]:
        """The rule for one payment, to be applied where the sums are exact.

        Args:
            amount: Shannon, without the routing fee.
            kind: What it is for; requests and top-ups have caps of their own.
            mode: How it settles; hold mode has caps of its own beside the others.

        Returns:
            A function that raises `BudgetExceeded` (unmoved) when the payment does not fit.
        """
        need = amount + self.fee_cap(amount)
        cap = self.per_request if kind is AttemptKind.REQUEST else self.per_topup

        def rule(spent: Spent) -> None:
            if amount > cap:
                raise _exceeded(kind.value, amount, cap, 0)
            if spent.session + need > self.per_session:
                raise _exceeded("session", need, self.per_session, spent.session)
            if spent.day + need > self.per_day:
                raise _exceeded("day", need, self.per_day, spent.day)
            if mode is Mode.HOLD:
                self._admit_lock(amount, need, spent)

        return rule

    def _admit_lock(self, amount: int, need: int, spent: Spent) -> None:
        if amount > self.per_lock:
            raise _exceeded(LOCK, amount, self.per_lock, 0)
        if spent.locks >= self.locks:
            raise BudgetExceeded(
                f"{spent.locks} payments in hold mode are neither taken nor given back, as many as"
                " the budget allows at once. Nothing was paid. Wait for one to end, pay with"
                " mode='upfront', or raise Budget(locks=...).",
                details={"window": LOCKS, "budget": str(self.locks), "spent": str(spent.locks)},
            )
        if spent.locked + need > self.locked:
            raise BudgetExceeded(
                f"{format_amount(need)} is over what may be in hold mode at once"
                f" ({format_amount(spent.locked)} of {format_amount(self.locked)} is). Nothing was"
                " paid. Wait for a payment to end, pay with mode='upfront', or raise"
                " Budget(locked=...).",
                details={
                    "window": LOCKED,
                    "required": str(need),
                    "budget": str(self.locked),
                    "spent": str(spent.locked),
                },
            )

    def left(self, spent: Spent) -> int:
        """What still fits before a session or day cap says no."""
        return max(0, min(self.per_session - spent.session, self.per_day - spent.day))


def _exceeded(window: str, need: int, cap: int, spent: int) -> BudgetExceeded:
    details: dict[str, JsonValue] = {
        "window": window,
        "required": str(need),
        "budget": str(cap),
        "spent": str(spent),
    }
    return BudgetExceeded(
        f"{format_amount(need)} is over what is left of the budget per {window}"
        f" ({format_amount(max(0, cap - spent))} of {format_amount(cap)}). Nothing was paid."
        f" Raise Budget(per_{window}=...) to allow it.",
        details=details,
    )
