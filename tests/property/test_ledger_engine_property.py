"""Random bookings on the SQLite engine against a model in memory.

The model is `infern.testing.ledger_model`. Each booking is made on both: they return the same or
refuse with the same code, and afterwards every row of the books is the same and conserved.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import InfernError
from infern.core.ids import RequestDigest
from infern.core.ledger.books import violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import LockEvent
from infern.core.ledger.payout import PayoutEvent, PayoutPurpose
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan, Topup, TopupState
from infern.core.units import CKB, MAX_LEDGER_AMOUNT, Asset
from infern.testing import ledger_rows as rows
from infern.testing.ledger_model import LedgerModel
from infern.testing.ledger_payouts import Refused

T = TypeVar("T")
USD = Asset(b"\xab" * 32)
SMALL = st.integers(1, 1_000)
AMOUNTS = SMALL | st.integers(10_000, 1_000_000)
ASSETS = st.sampled_from([CKB, CKB, CKB, USD])
ATTEMPTS = st.none() | st.sampled_from([b"\x01" * 32, b"\x02" * 32])
LOCK_EVENTS = sorted(
    set(LockEvent) - {LockEvent.CLAIM, LockEvent.CAPTURE, LockEvent.RELEASE}, key=str
)


class LedgerMachine(RuleBasedStateMachine):
    keys = Bundle("keys")
    topups = Bundle("topups")
    payments = Bundle("payments")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.ledger = self.open()
        self.model = LedgerModel()
        self.now_ms = 100
        self.names = 0

    @property
    def path(self) -> Path:
        return Path(self.directory.name) / "ledger.sqlite3"

    def open(self) -> SqliteLedger:
        ledger = SqliteLedger(self.path)
        # Nobody cuts the power here, and a thousand bookings need not wait for the disk.
        ledger._engine.batches.connection.execute("PRAGMA synchronous=OFF")
        return ledger

    def name(self) -> str:
        self.names += 1
        return str(self.names)

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    def both(self, method: str, *args: Any, **named: Any) -> Any:
        """Book on both; what they return, or None when both refuse with the same code."""
        try:
            expected = getattr(self.model, method)(*args, **named)
        except Refused as refused:
            with pytest.raises(InfernError) as caught:
                self.run(getattr(self.ledger, method)(*args, **named))
            assert caught.value.code == refused.code
            return None
        assert self.run(getattr(self.ledger, method)(*args, **named)) == expected
        return expected

    @initialize(target=keys)
    def two_funded_keys(self) -> Any:
        keys = [rows.a_key(self.name()), rows.a_key(self.name())]
        for key in keys:
            self.both("create_key", key)
            topup = rows.a_topup(self.name(), key, 5_000_000)
            self.both("add_topup", topup, open_limit=100)
            self.both("end_topup", topup.payment_hash, TopupState.PAID, now_ms=self.now_ms)
        return multiple(*keys)

    @rule(target=keys, asset=ASSETS)
    def make_key(self, asset: Asset) -> KeyRecord:
        key = rows.a_key(self.name(), asset=asset, created_ms=self.now_ms)
        self.both("create_key", key)
        return key

    @rule()
    def forget_empty_keys(self) -> None:
        self.both("delete_empty_keys", created_before_ms=self.now_ms, limit=1_000)

    @rule(target=topups, key=keys, amount=AMOUNTS | st.just(MAX_LEDGER_AMOUNT))
    def make_topup(self, key: KeyRecord, amount: int) -> Topup:
        topup = rows.a_topup(self.name(), key, amount)
        self.both("add_topup", topup, open_limit=3)
        return topup

    @rule(topup=topups, state=st.sampled_from(TopupState))
    def end_topup(self, topup: Topup, state: TopupState) -> None:
        self.both("end_topup", topup.payment_hash, state, now_ms=self.now_ms)

    @rule(target=holds, key=keys, amount=AMOUNTS, attempt=ATTEMPTS, other=st.booleans())
    def hold(self, key: KeyRecord, amount: int, attempt: bytes | None, other: bool) -> Hold:
        hold = rows.a_hold(
            self.name(), amount, key=key, attempt=attempt, lease_until_ms=self.now_ms + 3
        )
        hold = replace(hold, digest=RequestDigest(bytes([other]) * 32))
        self.both("hold", hold)
        return hold

    @rule(target=payments, amount=AMOUNTS, asset=ASSETS)
    def pay_upfront(self, amount: int, asset: Asset) -> PaidRequest:
        return rows.a_payment(self.name(), amount, asset=asset)

    @rule(target=payments, amount=AMOUNTS, asset=ASSETS)
    def offer_lock(self, amount: int, asset: Asset) -> PaidRequest:
        paid = rows.a_payment(self.name(), amount, asset=asset, is_lock=True)
        self.both("offer_lock", rows.a_lock(paid), open_limit=6)
        return paid

    @rule(target=holds, paid=payments, lies=st.integers(0, 19))
    def claim(self, paid: PaidRequest, lies: int) -> Hold:
        hold = rows.a_hold(self.name(), paid.amount, paid=paid, lease_until_ms=self.now_ms + 3)
        says = replace(paid, is_lock=paid.is_lock == bool(lies))
        self.both("claim", says, hold)
        return hold

    @rule(
        hold=holds,
        part=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        key=st.none() | keys,
        sent_back=st.booleans(),
    )
    def capture(self, hold: Hold, part: float, key: KeyRecord | None, sent_back: bool) -> None:
        known = self.model.holds.get(hold.hold_id, hold)
        plan = rows.refund(hold.hold_id) if sent_back else RemainderPlan()
        if hold.payment_hash is not None:
            plan = replace(plan, key=key)
        self.both(
            "capture",
            hold.hold_id,
            rows.a_receipt(int(known.amount * part)),
            request_id=rows.request_id(self.name()),
            remainder=plan,
        )

    @rule(hold=holds)
    def release(self, hold: Hold) -> None:
        self.both("release", hold.hold_id, now_ms=self.now_ms)

    @rule(hold=holds)
    def renew(self, hold: Hold) -> None:
        self.both("renew", [hold.hold_id], lease_until_ms=self.now_ms + 3)

    @rule(hold=holds)
    def sweep_one(self, hold: Hold) -> None:
        self.both("release_expired", hold.hold_id, now_ms=self.now_ms)

    @rule()
    def time_passes(self) -> None:
        self.now_ms += 2

    @rule(paid=payments)
    def arrive(self, paid: PaidRequest) -> None:
        self.both("credit_unclaimed", paid, now_ms=self.now_ms)

    @rule(paid=payments, key=keys)
    def redeem(self, paid: PaidRequest, key: KeyRecord) -> None:
        self.both("redeem", paid, key, now_ms=self.now_ms)

    @rule(paid=payments, event=st.sampled_from(LOCK_EVENTS))
    def move_lock(self, paid: PaidRequest, event: LockEvent) -> None:
        self.both("move_lock", paid.payment_hash, event, now_ms=self.now_ms)

    @rule(key=keys, amount=AMOUNTS, by_invoice=st.booleans(), asset=ASSETS)
    def withdraw(self, key: KeyRecord, amount: int, by_invoice: bool, asset: Asset) -> None:
        self.both(
            "add_payout",
            rows.a_withdrawal(self.name(), key, amount, by_invoice=by_invoice, asset=asset),
        )

    @precondition(lambda self: self.model.payouts)
    @rule(data=st.data(), more=st.integers(0, 1), elsewhere=st.booleans())
    def ask_for_a_payout_again(self, data: st.DataObject, more: int, elsewhere: bool) -> None:
        known = self.model.payouts[data.draw(st.sampled_from(sorted(self.model.payouts)))]
        again = replace(known, amount=known.amount + more, payout_id=f"payout_{self.name()}")
        if elsewhere and known.purpose is PayoutPurpose.WITHDRAW:
            again = replace(again, request_key=rows.named("wish", self.name()))
        self.both("add_payout", again)

    @precondition(lambda self: self.model.payouts)
    @rule(data=st.data(), event=st.sampled_from(PayoutEvent), fee=st.sampled_from([0, 1, 10**7]))
    def move_payout(self, data: st.DataObject, event: PayoutEvent, fee: int) -> None:
        payout_id = data.draw(st.sampled_from(sorted(self.model.payouts)))
        self.both("move_payout", payout_id, event, now_ms=self.now_ms, fee=fee)

    @precondition(lambda self: self.model.payouts)
    @rule(data=st.data())
    def note_payment(self, data: st.DataObject) -> None:
        payout_id = data.draw(st.sampled_from(sorted(self.model.payouts)))
        self.both("note_payment", payout_id, rows.payment_hash(f"noted {self.name()}"))

    @rule(dies=st.booleans())
    def reopen(self, dies: bool) -> None:
        self.ledger.close()
        self.ledger = self.open()
        if dies:
            self.both("recover", now_ms=self.now_ms)

    @invariant()
    def the_books_are_the_models(self) -> None:
        books = self.run(self.ledger.books())
        assert violations(books) == []
        assert rows.in_order(books) == self.model.books()

    @invariant()
    def the_sweeper_sees_what_ran_out(self) -> None:
        found = self.run(self.ledger.expired_holds(now_ms=self.now_ms, limit=1_000))
        expected = self.model.expired_holds(now_ms=self.now_ms, limit=1_000)
        assert [hold.lease_until_ms for hold in found] == [h.lease_until_ms for h in expected]
        assert {hold.hold_id for hold in found} == {hold.hold_id for hold in expected}

    def teardown(self) -> None:
        self.ledger.close()
        self.loop.close()
        self.directory.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerMachine = LedgerMachine.TestCase
