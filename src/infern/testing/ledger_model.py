"""A ledger of plain dictionaries and sums, to compare an engine with.

It says what `infern.ports.Ledger` says, in the fewest words: no transaction, no SQL, and none of
the tables or functions of `infern.core.ledger` that an engine books by. Each method checks
everything first and changes something afterwards, so a refusal leaves it as it was.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from infern.core.f402.receipt import Receipt
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.books import Books
from infern.core.ledger.hold import Hold, HoldState
from infern.core.ledger.lock import Lock, LockEvent, LockState
from infern.core.ledger.payout import (
    Payout,
    PayoutPurpose,
    PayoutState,
    fee_cap_of,
    largest_payout,
)
from infern.core.ledger.records import (
    DUST,
    Captured,
    KeyRecord,
    PaidRequest,
    RemainderPlan,
    StoredReceipt,
    Topup,
    TopupState,
)
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import MAX_LEDGER_AMOUNT, Asset
from infern.testing.ledger_payouts import PayoutModel, Refused, Sums
from infern.testing.ledger_rows import in_order

_LOCK_MOVES: Final = {
    (LockState.OFFERED, LockEvent.EXPIRE): LockState.CANCELLING,
    (LockState.OFFERED, LockEvent.GONE): LockState.CANCELLED,
    (LockState.CHARGED, LockEvent.DELIVER): LockState.SETTLING,
    (LockState.CHARGED, LockEvent.ABANDON): LockState.CANCELLING,
    (LockState.SETTLING, LockEvent.PAID): LockState.SETTLED,
    (LockState.SETTLING, LockEvent.GONE): LockState.LOST,
    (LockState.CANCELLING, LockEvent.GONE): LockState.CANCELLED,
    (LockState.CANCELLING, LockEvent.PAID): LockState.SETTLED,
}
_LOCK_ENDS: Final = {LockState.SETTLED, LockState.CANCELLED, LockState.LOST}
_LOCK_GIVEN_BACK: Final = {LockState.CANCELLING, LockState.CANCELLED, LockState.LOST}


@dataclass(slots=True)
class LedgerModel(PayoutModel):
    """The model; `runs` has a paid request's tab and state by payment hash."""

    keys: dict[bytes, KeyRecord] = field(default_factory=dict)
    topups: dict[PaymentHash, Topup] = field(default_factory=dict)
    deposits: dict[PaymentHash, tuple[TabId, int]] = field(default_factory=dict)
    holds: dict[HoldId, Hold] = field(default_factory=dict)
    runs: dict[PaymentHash, tuple[TabId, str]] = field(default_factory=dict)
    receipts: dict[RequestId, StoredReceipt] = field(default_factory=dict)
    moved: dict[tuple[TabId, TabId], int] = field(default_factory=lambda: defaultdict(int))

    def create_key(self, key: KeyRecord) -> None:
        """See the port, as for every method here."""
        self.keys[key.key_digest] = key
        self.tabs[key.tab_id] = Sums(key.tab_id, TabKind.KEY, key.asset, key.session)

    def delete_empty_keys(self, *, created_before_ms: int, limit: int) -> int:
        """All of them; `limit` is for engines."""
        assert limit
        waiting = {t.tab_id for t in self.topups.values() if t.state is TopupState.OPEN}
        for lock in self.locks.values():
            if lock.ended_ms is None and lock.remainder_tab is not None:
                waiting.add(lock.remainder_tab)
        found = [
            key
            for key in self.keys.values()
            if key.created_ms < created_before_ms
            and not self.tabs[key.tab_id].deposited
            and key.tab_id not in waiting
        ]
        for key in found:
            del self.keys[key.key_digest], self.tabs[key.tab_id]
            self.topups = {h: t for h, t in self.topups.items() if t.tab_id != key.tab_id}
            for payment_hash, lock in self.locks.items():
                if lock.remainder_tab == key.tab_id:
                    self.locks[payment_hash] = replace(lock, remainder_tab=None)
        return len(found)

    def add_topup(self, topup: Topup, *, open_limit: int) -> None:
        """An invoice of a key."""
        of_key = [t for t in self.topups.values() if t.tab_id == topup.tab_id]
        if sum(t.state is TopupState.OPEN for t in of_key) >= open_limit:
            raise Refused("rate_limit_exceeded")
        if topup.tab_id not in self.tabs:
            raise Refused("ledger_conflict")
        self.topups[topup.payment_hash] = topup

    def end_topup(self, payment_hash: PaymentHash, state: TopupState, *, now_ms: int) -> None:
        """Paid counts always and once; expired only while nothing else is known."""
        assert now_ms
        topup = self.topups.get(payment_hash)
        if topup is None or topup.state is TopupState.PAID or state is TopupState.OPEN:
            return
        if state is TopupState.PAID:
            self._deposit(self.tabs[topup.tab_id], payment_hash, topup.amount)
        self.topups[payment_hash] = replace(topup, state=state)

    def _deposit(self, tab: Sums, payment_hash: PaymentHash, amount: int) -> None:
        if payment_hash in self.deposits or tab.deposited + amount > MAX_LEDGER_AMOUNT:
            raise Refused("ledger_conflict")
        self.deposits[payment_hash] = (tab.tab_id, amount)
        tab.deposited += amount

    def hold(self, hold: Hold) -> Tab:
        """Reserve, once for an attempt."""
        for other in self.holds.values():
            same = (other.tab_id, other.attempt) == (hold.tab_id, hold.attempt)
            if hold.attempt and same and other.state is not HoldState.RELEASED:
                if other.digest != hold.digest:
                    raise Refused("idempotency_conflict")
                running = other.state is HoldState.OPEN
                raise Refused("request_in_progress" if running else "already_delivered")
        tab = self.tabs.get(hold.tab_id)
        if tab is None:
            raise Refused("ledger_conflict")
        if tab.balance < hold.amount:
            raise Refused("insufficient_balance")
        tab.held += hold.amount
        self.holds[hold.hold_id] = hold
        return tab.row()

    def _lock_of(self, paid: PaidRequest) -> Lock | None:
        lock = self.locks.get(paid.payment_hash)
        if (lock is not None) != paid.is_lock:
            raise Refused("ledger_conflict")
        return lock

    def claim(self, paid: PaidRequest, hold: Hold) -> None:
        """Take a proof."""
        lock = self._lock_of(paid)
        if lock is not None and lock.state in _LOCK_GIVEN_BACK:
            raise Refused("payment_not_received")
        known = self.runs.get(paid.payment_hash)
        refusals = {
            "running": "request_in_progress",
            "delivered": "already_delivered",
            "credited": "already_delivered",
        }
        if known is not None and known[1] in refusals:
            raise Refused(refusals[known[1]])
        if lock is not None and lock.state is LockState.SETTLED:
            raise Refused("already_delivered")
        tab = self._tab_of(paid)
        placed = replace(hold, tab_id=tab.tab_id, amount=min(hold.amount, tab.balance))
        self.hold(placed)
        self.runs[paid.payment_hash] = (tab.tab_id, "running")
        if lock is not None:
            self.locks[paid.payment_hash] = replace(
                lock, state=LockState.HELD, tab_id=tab.tab_id, hold_id=hold.hold_id
            )

    def _tab_of(self, paid: PaidRequest) -> Sums:
        known = self.runs.get(paid.payment_hash)
        if known is not None:
            return self.tabs[known[0]]
        if paid.payment_hash in self.deposits:
            raise Refused("ledger_conflict")
        tab = Sums(paid.tab_id, TabKind.REQUEST, paid.asset, paid.session)
        self.tabs[paid.tab_id] = tab
        self._deposit(tab, paid.payment_hash, paid.amount)
        return tab

    def credit_unclaimed(self, paid: PaidRequest, *, now_ms: int) -> bool:
        """Book what nobody presented."""
        assert now_ms
        self._require_money(self._lock_of(paid))
        if paid.payment_hash in self.runs:
            return False
        self.runs[paid.payment_hash] = (self._tab_of(paid).tab_id, "paid")
        return True

    def _require_money(self, lock: Lock | None) -> None:
        if lock is not None and lock.state in _LOCK_GIVEN_BACK:
            raise Refused("payment_not_received")
        if lock is not None and lock.state is not LockState.SETTLED:
            raise Refused("request_in_progress")

    def redeem(self, paid: PaidRequest, key: KeyRecord, *, now_ms: int) -> int:
        """Move what is left to a key."""
        assert now_ms
        self._require_money(self._lock_of(paid))
        known = self.runs.get(paid.payment_hash)
        state = known[1] if known is not None else "quoted"
        if state == "running":
            raise Refused("request_in_progress")
        if known is None and paid.payment_hash in self.deposits:
            raise Refused("ledger_conflict")
        left = self.tabs[known[0]].balance if known is not None else paid.amount
        if left and self._taker(key.tab_id, paid.asset, left) is None:
            raise Refused("ledger_conflict")
        tab = self._tab_of(paid)
        if left:
            self._move(tab, self.tabs[key.tab_id], left)
        if state != "credited":
            after = "delivered" if state == "delivered" else "credited"
            self.runs[paid.payment_hash] = (tab.tab_id, after)
        return self.moved[tab.tab_id, key.tab_id]

    def _taker(self, tab_id: TabId | None, asset: Asset, amount: int) -> Sums | None:
        tab = self.tabs.get(tab_id) if tab_id is not None else None
        fits = tab is not None and tab.deposited + amount <= MAX_LEDGER_AMOUNT
        return tab if tab is not None and tab.asset == asset and fits else None

    def _move(self, source: Sums, target: Sums, amount: int) -> None:
        source.refunded += amount
        target.deposited += amount
        self.moved[source.tab_id, target.tab_id] += amount

    def capture(
        self,
        hold_id: HoldId,
        receipt: Receipt,
        *,
        request_id: RequestId,
        remainder: RemainderPlan,
    ) -> Captured:
        """Charge."""
        hold = self._open(hold_id)
        if hold is None or request_id in self.receipts:
            raise Refused("ledger_conflict")
        tab, charged, now_ms = self.tabs[hold.tab_id], receipt.charged, receipt.finished_ms
        tab.held -= hold.amount
        tab.spent += charged
        self.holds[hold_id] = replace(
            hold, state=HoldState.CAPTURED, charged=charged, ended_ms=now_ms
        )
        if hold.payment_hash is not None:
            self.runs[hold.payment_hash] = (tab.tab_id, "delivered")
        placed = receipt.placed(session=tab.session, seq=tab.seq, prev_digest=tab.last)
        tab.seq, tab.last = tab.seq + 1, placed.digest
        payer, went_to = self._send_on(hold, tab, hold.amount - charged, remainder, now_ms)
        stored = StoredReceipt(
            request_id=request_id,
            hold_id=hold_id,
            packed=placed.pack(),
            charged=charged,
            remainder=hold.amount - charged,
            remainder_to=went_to,
        )
        self.receipts[request_id] = stored
        return Captured(stored=stored, payer=payer.row())

    def _send_on(
        self, hold: Hold, tab: Sums, rest: int, plan: RemainderPlan, now_ms: int
    ) -> tuple[Sums, str]:
        key_tab = self._taker(plan.key.tab_id if plan.key else None, tab.asset, rest)
        lock = self.locks.get(hold.payment_hash) if hold.payment_hash is not None else None
        if lock is not None:
            self.locks[lock.payment_hash] = replace(
                lock,
                state=LockState.CHARGED,
                remainder_tab=key_tab.tab_id if key_tab else None,
                refund_to=None if key_tab else plan.refund_to,
                payout_id=None if key_tab else plan.payout_id,
            )
            return key_tab or tab, ""
        if key_tab is not None and plan.key is not None:
            if rest and key_tab is not tab:
                self._move(tab, key_tab, rest)
                return key_tab, plan.key.key_id
            return key_tab, ""
        if plan.refund_to is None or hold.payment_hash is None:
            return tab, ""
        return tab, self._refund(tab, hold.payment_hash, rest, plan, now_ms)

    def _refund(
        self,
        tab: Sums,
        payment_hash: PaymentHash,
        rest: int,
        plan: RemainderPlan | Lock,
        now_ms: int,
    ) -> str:
        amount = largest_payout(rest)
        if rest < DUST or not amount:
            return ""
        assert plan.payout_id is not None
        self.payouts[plan.payout_id] = Payout(
            payout_id=plan.payout_id,
            tab_id=tab.tab_id,
            purpose=PayoutPurpose.REMAINDER,
            request_key=payment_hash,
            asset=tab.asset,
            amount=amount,
            fee_cap=fee_cap_of(amount),
            target=plan.refund_to,
            created_ms=now_ms,
        )
        tab.held += amount + fee_cap_of(amount)
        return plan.payout_id

    def _open(self, hold_id: HoldId) -> Hold | None:
        hold = self.holds.get(hold_id)
        return hold if hold is not None and hold.state is HoldState.OPEN else None

    def release(self, hold_id: HoldId, *, now_ms: int) -> None:
        """Give back."""
        hold = self._open(hold_id)
        if hold is None:
            return
        tab = self.tabs[hold.tab_id]
        tab.held -= hold.amount
        self.holds[hold_id] = replace(hold, state=HoldState.RELEASED, ended_ms=now_ms)
        if hold.payment_hash is None:
            return
        self.runs[hold.payment_hash] = (tab.tab_id, "failed")
        lock = self.locks.get(hold.payment_hash)
        if lock is not None:
            self.locks[hold.payment_hash] = replace(lock, state=LockState.CANCELLING)

    def renew(self, hold_ids: Sequence[HoldId], *, lease_until_ms: int) -> None:
        """Longer leases."""
        for hold_id in hold_ids:
            hold = self._open(hold_id)
            if hold is not None:
                self.holds[hold_id] = replace(hold, lease_until_ms=lease_until_ms)

    def expired_holds(self, *, now_ms: int, limit: int) -> list[Hold]:
        """All of them; `limit` is for engines."""
        assert limit
        found = [h for h in self.holds.values() if self._has_expired(h, now_ms)]
        return sorted(found, key=lambda hold: hold.lease_until_ms)

    def _has_expired(self, hold: Hold, now_ms: int) -> bool:
        return hold.state is HoldState.OPEN and hold.lease_until_ms < now_ms

    def release_expired(self, hold_id: HoldId, *, now_ms: int) -> bool:
        """Give back what nobody renewed."""
        hold = self.holds.get(hold_id)
        if hold is None or not self._has_expired(hold, now_ms):
            return False
        self.release(hold_id, now_ms=now_ms)
        return True

    def offer_lock(self, lock: Lock, *, open_limit: int) -> None:
        """A hold invoice about to be made."""
        if sum(other.ended_ms is None for other in self.locks.values()) >= open_limit:
            raise Refused("hold_unavailable")
        if lock.payment_hash in self.locks:
            raise Refused("ledger_conflict")
        self.locks[lock.payment_hash] = lock

    def move_lock(self, payment_hash: PaymentHash, event: LockEvent, *, now_ms: int) -> Lock:
        """What the node or the delivery says."""
        lock = self.locks.get(payment_hash)
        target = _LOCK_MOVES.get((lock.state, event)) if lock is not None else None
        if lock is None or target is None:
            raise Refused("ledger_conflict")
        moved = replace(lock, state=target, ended_ms=now_ms if target in _LOCK_ENDS else None)
        self.locks[payment_hash] = moved
        tab = self.tabs.get(lock.tab_id) if lock.tab_id is not None else None
        if tab is not None and event is LockEvent.GONE:
            self._give_back(lock, tab, now_ms)
        elif tab is not None and event is LockEvent.PAID:
            rest = tab.balance
            key_tab = self._taker(lock.remainder_tab, tab.asset, rest)
            if key_tab is not None and rest:
                self._move(tab, key_tab, rest)
            elif lock.refund_to is not None:
                self._refund(tab, payment_hash, rest, lock, now_ms)
        return moved

    def _give_back(self, lock: Lock, tab: Sums, now_ms: int) -> None:
        assert lock.hold_id is not None
        hold = self.holds[lock.hold_id]
        if hold.state is HoldState.CAPTURED:
            tab.spent -= hold.charged
            self.holds[hold.hold_id] = replace(hold, state=HoldState.VOIDED, ended_ms=now_ms)
        tab.refunded += lock.amount
        self.runs[lock.payment_hash] = (tab.tab_id, "cancelled")

    def recover(self, *, now_ms: int) -> int:
        """What start-up does."""
        left = [hold.hold_id for hold in self.holds.values() if hold.state is HoldState.OPEN]
        for hold_id in left:
            self.release(hold_id, now_ms=now_ms)
        for payment_hash, lock in self.locks.items():
            if lock.state is LockState.CHARGED:
                self.locks[payment_hash] = replace(lock, state=LockState.CANCELLING)
        return len(left)

    def books(self) -> Books:
        """Rows in the order of their names."""
        return in_order(
            Books(
                tabs=tuple(tab.row() for tab in self.tabs.values()),
                holds=tuple(h for h in self.holds.values() if h.state is HoldState.OPEN),
                locks=tuple(lock for lock in self.locks.values() if lock.ended_ms is None),
                payouts=tuple(p for p in self.payouts.values() if p.ended_ms is None),
                received=self._sum(self.deposits.values()),
                captured=self._sum(
                    (hold.tab_id, hold.charged)
                    for hold in self.holds.values()
                    if hold.state is HoldState.CAPTURED
                ),
                transferred=self._sum((source, n) for (source, _), n in self.moved.items()),
                sent=self._sum(
                    (p.tab_id, p.amount + p.fee)
                    for p in self.payouts.values()
                    if p.state is PayoutState.SETTLED
                ),
                returned=self._sum(
                    (lock.tab_id, lock.amount)
                    for lock in self.locks.values()
                    if lock.state in (LockState.CANCELLED, LockState.LOST) and lock.tab_id
                ),
            )
        )

    def _sum(self, amounts: Iterable[tuple[TabId, int]]) -> dict[Asset, int]:
        by_asset: dict[Asset, int] = defaultdict(int)
        for tab_id, amount in amounts:
            by_asset[self.tabs[tab_id].asset] += amount
        return by_asset
