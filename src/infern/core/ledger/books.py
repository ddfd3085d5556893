"""Conservation: what must be true of a whole ledger at any moment.

Checked after every test, at start-up and on request. Amounts are summed per asset.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from infern.core.ledger.hold import Hold, HoldState
from infern.core.ledger.lock import Lock
from infern.core.ledger.payout import Payout
from infern.core.ledger.tab import Tab
from infern.core.units import Asset


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all tabs of one asset, and what came from and went to the outside.

    Args:
        deposited: Everything credited to tabs, transfers between tabs included.
        balance: What payers can still use: the operator's liability, with `held`.
        held: Reserved by open holds and by payouts under way.
        spent: The operator's revenue, still locked charges included.
        refunded: Taken out of tabs, transfers included.
        transferred: Moved from tab to tab; part of both `deposited` and `refunded`.
        received: What Fiber payments brought in from outside, locks included.
        sent: What was paid out to the outside, routing fees included.
        returned: Locks that were given back to their payers.
        captured: What the captured holds charged.
        locked: Deposits that are pending locks: not money at the node yet.
        unsettled: What of `locked` is still in `balance` or `held`, that is, not charged.
        owed: Reserved by payouts under way; part of `held`.
    """

    deposited: int
    balance: int
    held: int
    spent: int
    refunded: int
    transferred: int
    received: int
    sent: int
    returned: int
    captured: int
    locked: int
    unsettled: int
    owed: int

    @property
    def liability(self) -> int:
        """What the operator's node must be able to pay: what payers have that is money."""
        return self.balance + self.held - self.unsettled


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A consistent snapshot of a ledger.

    Args:
        tabs: Every tab.
        holds: Every open hold (ended ones may be left out).
        locks: Every open lock.
        payouts: Every open payout.
        received: Base units credited from outside, by asset.
        captured: Base units charged by captured holds, by asset.
        transferred: Base units moved between tabs, by asset.
        sent: Base units paid out with their fees, by asset.
        returned: Base units of deposits whose locks were given back, by asset.
    """

    tabs: tuple[Tab, ...]
    holds: tuple[Hold, ...]
    locks: tuple[Lock, ...]
    payouts: tuple[Payout, ...]
    received: dict[Asset, int]
    captured: dict[Asset, int]
    transferred: dict[Asset, int]
    sent: dict[Asset, int]
    returned: dict[Asset, int]


def totals(books: Books) -> dict[Asset, Totals]:
    """Sums by asset."""
    by_asset: dict[Asset, list[Tab]] = defaultdict(list)
    for tab in books.tabs:
        by_asset[tab.asset].append(tab)
    pending = [lock for lock in books.locks if lock.is_pending]
    locked_tabs = {lock.tab_id for lock in pending}
    outside = (books.received, books.captured, books.transferred, books.sent, books.returned)
    for sums in outside:
        for asset in sums:
            by_asset[asset] += []
    return {
        asset: Totals(
            deposited=sum(t.deposited for t in tabs),
            balance=sum(t.balance for t in tabs),
            held=sum(t.held for t in tabs),
            spent=sum(t.spent for t in tabs),
            refunded=sum(t.refunded for t in tabs),
            transferred=books.transferred.get(asset, 0),
            received=books.received.get(asset, 0),
            sent=books.sent.get(asset, 0),
            returned=books.returned.get(asset, 0),
            captured=books.captured.get(asset, 0),
            locked=sum(k.amount for k in pending if k.asset == asset),
            unsettled=sum(t.balance + t.held for t in tabs if t.tab_id in locked_tabs),
            owed=sum(p.reserved for p in books.payouts if p.is_open and p.asset == asset),
        )
        for asset, tabs in by_asset.items()
    }


def violations(books: Books) -> list[str]:
    """Everything that is wrong with a ledger, in words; an empty list when nothing is."""
    found = []
    open_by_tab: dict[str, int] = defaultdict(int)
    for hold in books.holds:
        if hold.state is HoldState.OPEN:
            open_by_tab[hold.tab_id] += hold.amount
    for payout in books.payouts:
        if payout.is_open:
            open_by_tab[payout.tab_id] += payout.reserved
    by_id = {tab.tab_id: tab for tab in books.tabs}
    for tab in books.tabs:
        if tab.held != open_by_tab.pop(tab.tab_id, 0):
            found.append(f"tab {tab.tab_id}: held is not the sum of its open holds and payouts")
    found += [
        f"an open hold or payout names tab {tab_id}, which is not there" for tab_id in open_by_tab
    ]
    found += imbalances(totals(books))
    return found + [
        f"tab {lock.tab_id}: its lock is not there whole"
        for lock in books.locks
        if lock.is_pending and lock.tab_id and not _is_whole(lock, by_id.get(lock.tab_id))
    ]


def _is_whole(lock: Lock, tab: Tab | None) -> bool:
    """Whether nothing left a request's tab while its deposit was no money yet."""
    return tab is not None and (tab.deposited, tab.refunded) == (lock.amount, 0)


def imbalances(sums: Mapping[Asset, Totals]) -> list[str]:
    """Which laws the sums of a ledger break, in words; an empty list when none."""
    found = []
    for asset, t in sums.items():
        if t.deposited != t.balance + t.held + t.spent + t.refunded:
            found.append(f"{asset}: deposited is not balance + held + spent + refunded")
        if t.deposited != t.received + t.transferred:
            found.append(f"{asset}: tabs were credited with something that never came in")
        if t.spent != t.captured:
            found.append(f"{asset}: spent is not what the captured holds charged")
        if t.refunded != t.sent + t.returned + t.transferred:
            found.append(f"{asset}: tabs were debited for something that never went out")
    return found
