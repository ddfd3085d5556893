"""The ledger's rules as a machine: whatever is booked in whatever order, no unit comes or goes."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from infern.core.errors import InsufficientBalance, InvariantViolation, LedgerError
from infern.core.ids import HoldId, RequestDigest, TabId
from infern.core.ledger.books import Books, totals, violations
from infern.core.ledger.hold import Hold, HoldEvent, HoldState, end_hold
from infern.core.ledger.tab import Tab, TabKind, capture, deposit, hold, release, withdraw
from infern.core.units import CKB, MAX_LEDGER_AMOUNT, Asset

ASSETS = (CKB, Asset(bytes([0xAB]) * 32))
AMOUNTS = st.one_of(
    st.integers(0, 50),
    st.integers(0, 10**12),
    st.sampled_from([MAX_LEDGER_AMOUNT, MAX_LEDGER_AMOUNT - 1, MAX_LEDGER_AMOUNT // 2]),
)


class LedgerMachine(RuleBasedStateMachine):
    """Books at random, as an engine would, and compares with a model of plain sums.

    The model knows for each asset only what came in from outside, what went out and what was
    charged; everything else must be in the tabs.
    """

    tabs = Bundle("tabs")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Tab] = {}
        self.opened: dict[str, Hold] = {}
        self.received: Counter[Asset] = Counter()
        self.sent: Counter[Asset] = Counter()
        self.charged: Counter[Asset] = Counter()
        self.transferred: Counter[Asset] = Counter()

    @initialize(target=tabs)
    def begin(self) -> object:
        names = [self.open_tab(asset, kind) for asset in ASSETS for kind in TabKind]
        for name in names[:-1]:
            self.money_comes_in(name, 1000)
        return multiple(*names)

    @rule(target=tabs, asset=st.sampled_from(ASSETS), kind=st.sampled_from(TabKind))
    def open_tab(self, asset: Asset, kind: TabKind) -> str:
        name = f"tab{len(self.rows)}"
        self.rows[name] = Tab(tab_id=TabId(name), kind=kind, asset=asset)
        return name

    @rule(name=tabs, amount=AMOUNTS)
    def money_comes_in(self, name: str, amount: int) -> None:
        tab = self.rows[name]
        if tab.deposited + amount > MAX_LEDGER_AMOUNT:
            with pytest.raises(LedgerError):
                deposit(tab, amount)
            return
        self.rows[name] = deposit(tab, amount)
        self.received[tab.asset] += amount

    @rule(name=tabs, amount=AMOUNTS)
    def money_goes_out(self, name: str, amount: int) -> None:
        tab = self.rows[name]
        if amount > tab.balance:
            with pytest.raises(InsufficientBalance):
                withdraw(tab, amount)
            return
        self.rows[name] = withdraw(tab, amount)
        self.sent[tab.asset] += amount

    @rule(source=tabs, to=tabs, amount=AMOUNTS)
    def transfer(self, source: str, to: str, amount: int) -> None:
        giver, taker = self.rows[source], self.rows[to]
        if source == to or giver.asset != taker.asset:
            return
        try:
            given, taken = withdraw(giver, amount), deposit(taker, amount)
        except LedgerError:
            assert taker.deposited + amount > MAX_LEDGER_AMOUNT
            return
        except InsufficientBalance:
            assert amount > giver.balance
            return
        self.rows[source], self.rows[to] = given, taken
        self.transferred[giver.asset] += amount

    @rule(target=holds, name=tabs, amount=AMOUNTS)
    def reserve(self, name: str, amount: int) -> object:
        tab = self.rows[name]
        if amount > tab.balance:
            with pytest.raises(InsufficientBalance):
                hold(tab, amount)
            return multiple()
        self.rows[name] = hold(tab, amount)
        hold_id = f"hold{len(self.opened)}"
        self.opened[hold_id] = Hold(
            hold_id=HoldId(hold_id),
            tab_id=TabId(name),
            amount=amount,
            digest=RequestDigest(bytes(32)),
            opened_ms=1,
        )
        return hold_id

    @rule(hold_id=holds, charged=AMOUNTS)
    def deliver(self, hold_id: str, charged: int) -> None:
        row = self.opened[hold_id]
        tab = self.rows[row.tab_id]
        if row.state is not HoldState.OPEN:
            with pytest.raises(LedgerError):
                end_hold(row, HoldEvent.CAPTURE, charged=min(charged, row.amount), now_ms=2)
            return
        if charged > row.amount:
            with pytest.raises(InvariantViolation):
                capture(tab, row.amount, charged)
            with pytest.raises(ValueError, match="an amount"):
                end_hold(row, HoldEvent.CAPTURE, charged=charged, now_ms=2)
            return
        self.rows[row.tab_id] = capture(tab, row.amount, charged)
        self.opened[hold_id] = end_hold(row, HoldEvent.CAPTURE, charged=charged, now_ms=2)
        self.charged[tab.asset] += charged

    @rule(hold_id=holds)
    def fail(self, hold_id: str) -> None:
        row = self.opened[hold_id]
        if row.state is not HoldState.OPEN:
            with pytest.raises(LedgerError):
                end_hold(row, HoldEvent.RELEASE, charged=0, now_ms=2)
            return
        self.rows[row.tab_id] = release(self.rows[row.tab_id], row.amount)
        self.opened[hold_id] = end_hold(row, HoldEvent.RELEASE, charged=0, now_ms=2)

    @rule(data=st.data(), amount=st.integers(1, 50))
    def a_lost_or_invented_unit_is_noticed(self, data: st.DataObject, amount: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.rows)))
        tab = self.rows[name]
        wrong = [replace(tab, deposited=min(tab.deposited + amount, MAX_LEDGER_AMOUNT))]
        if tab.balance >= amount:
            wrong += [
                replace(tab, held=tab.held + amount),
                replace(tab, refunded=tab.refunded + amount),
                replace(tab, deposited=tab.deposited - amount),
            ]
        for bad in wrong:
            if bad != tab:
                rows = {**self.rows, name: bad}
                assert violations(replace(self.books(), tabs=tuple(rows.values())))

    def books(self) -> Books:
        return Books(
            tabs=tuple(self.rows.values()),
            holds=tuple(self.opened.values()),
            received=dict(self.received),
            captured=dict(self.charged),
            transferred=dict(self.transferred),
            sent=dict(self.sent),
            locks=(),
            payouts=(),
            returned={},
        )

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        assert violations(self.books()) == []
        for asset, t in totals(self.books()).items():
            assert t.balance + t.held == self.received[asset] - self.sent[asset] - t.spent
            assert t.spent == self.charged[asset]

    @invariant()
    def every_charge_is_within_its_hold(self) -> None:
        for row in self.opened.values():
            assert 0 <= row.charged <= row.amount

    @invariant()
    def each_tab_s_spending_is_its_captures(self) -> None:
        spent: Counter[str] = Counter()
        for row in self.opened.values():
            spent[row.tab_id] += row.charged
        for name, tab in self.rows.items():
            assert tab.spent == spent[name]
            assert min(tab.balance, tab.held, tab.spent, tab.refunded) >= 0


LedgerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
