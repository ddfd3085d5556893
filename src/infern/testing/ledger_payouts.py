"""The part of the ledger's model that has tabs and sends money out; see `ledger_model`."""

from dataclasses import dataclass, field, replace
from typing import Final

from infern.core.ids import PaymentHash, PayoutId, TabId
from infern.core.ledger.lock import Lock
from infern.core.ledger.payout import Payout, PayoutEvent, PayoutPurpose, PayoutState
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import Asset

_PAYOUT_ENDS: Final = {PayoutState.SETTLED, PayoutState.RETURNED}


class Refused(Exception):
    """The ledger must refuse, with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Sums:
    """A tab, and where its next receipt goes."""

    tab_id: TabId
    kind: TabKind
    asset: Asset
    session: bytes
    deposited: int = 0
    held: int = 0
    spent: int = 0
    refunded: int = 0
    seq: int = 0
    last: bytes = bytes(32)

    @property
    def balance(self) -> int:
        """What is left."""
        return self.deposited - self.held - self.spent - self.refunded

    def row(self) -> Tab:
        """As the port shows it."""
        return Tab(
            tab_id=self.tab_id,
            kind=self.kind,
            asset=self.asset,
            deposited=self.deposited,
            held=self.held,
            spent=self.spent,
            refunded=self.refunded,
        )


@dataclass(slots=True)
class PayoutModel:
    """Tabs, locks as far as they are in the way of payouts, and payouts."""

    tabs: dict[TabId, Sums] = field(default_factory=dict)
    locks: dict[PaymentHash, Lock] = field(default_factory=dict)
    payouts: dict[PayoutId, Payout] = field(default_factory=dict)

    def add_payout(self, payout: Payout) -> Payout:
        """Reserve, once for a wish."""
        of_tab = [p for p in self.payouts.values() if p.tab_id == payout.tab_id]
        for known in of_tab:
            if known.request_key == payout.request_key:
                return self._same(known, payout)
        withdraws = payout.purpose is PayoutPurpose.WITHDRAW
        if withdraws and any(p.purpose is payout.purpose and p.ended_ms is None for p in of_tab):
            raise Refused("request_in_progress")
        hashes = {p.payment_hash for p in self.payouts.values()} - {None}
        if payout.payment_hash in hashes:
            raise Refused("idempotency_conflict")
        tab = self.tabs.get(payout.tab_id)
        locked = {k.tab_id for k in self.locks.values() if k.ended_ms is None}
        if tab is None or tab.asset != payout.asset or payout.tab_id in locked:
            raise Refused("ledger_conflict")
        if tab.balance < payout.amount + payout.fee_cap:
            raise Refused("insufficient_balance")
        tab.held += payout.amount + payout.fee_cap
        self.payouts[payout.payout_id] = payout
        return payout

    def _same(self, known: Payout, asked: Payout) -> Payout:
        for name in ("purpose", "asset", "amount", "invoice", "target"):
            if getattr(known, name) != getattr(asked, name):
                raise Refused("idempotency_conflict")
        return known

    def move_payout(
        self,
        payout_id: PayoutId,
        event: PayoutEvent,
        *,
        now_ms: int,
        fee: int = 0,
        payment_hash: PaymentHash | None = None,
        failure: str = "",
    ) -> Payout:
        """What the desk did, or the node says."""
        payout = self.payouts.get(payout_id)
        if payout is None or payout.state in _PAYOUT_ENDS:
            raise Refused("ledger_conflict")
        sending = payout.state is PayoutState.SENDING
        if sending != (event is not PayoutEvent.SEND) and event is not PayoutEvent.FAIL:
            raise Refused("ledger_conflict")
        known = payout.payment_hash or payment_hash
        if event is PayoutEvent.SEND:
            payout = replace(payout, state=PayoutState.SENDING, sent_ms=now_ms)
        else:
            tab = self.tabs[payout.tab_id]
            tab.held -= payout.amount + payout.fee_cap
            if event is PayoutEvent.SUCCEED:
                fee = min(fee, payout.fee_cap)
                tab.refunded += payout.amount + fee
                payout = replace(payout, state=PayoutState.SETTLED, fee=fee, ended_ms=now_ms)
            else:
                payout = replace(
                    payout, state=PayoutState.RETURNED, failure=failure, ended_ms=now_ms
                )
        self.payouts[payout_id] = replace(payout, payment_hash=known)
        return self.payouts[payout_id]

    def note_payment(self, payout_id: PayoutId, payment_hash: PaymentHash) -> None:
        """A keysend's hash."""
        payout = self.payouts.get(payout_id)
        if payout is not None and payout.payment_hash is None:
            self.payouts[payout_id] = replace(payout, payment_hash=payment_hash)
