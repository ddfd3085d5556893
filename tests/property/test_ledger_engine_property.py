"""Random bookings on the SQLite engine against a model in memory.

The model is `infern.testing.ledger_model`. Each booking is made on both: they return the same or
refuse with the same code, and afterwards every row of the books is the same and conserved.
"""

import asyncio
import random
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
    rule,
)

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import InfernError
from infern.core.ids import PayoutId, RequestDigest
from infern.core.ledger.books import totals, violations
from infern.core.ledger.records import KeyRecord, PaidRequest, TopupState
from infern.core.units import CKB, MAX_LEDGER_AMOUNT, Asset
from infern.testing import ledger_rows as rows
from infern.testing import ledger_steps as steps
from infern.testing.ledger_model import LedgerModel
from infern.testing.ledger_payouts import Refused
from infern.testing.ledger_steps import Scene, Step, step

T = TypeVar("T")
USD = Asset(b"\xab" * 32)
AMOUNTS = st.integers(1, 1_000) | st.integers(10_000, 1_000_000)
ASSETS = st.sampled_from([CKB, CKB, CKB, USD])
PARTS = st.sampled_from([0.0, 0.1, 0.5, 1.0])
SEEDS = st.integers(0, 2**32)
FUNDS = 5_000_000
MOST_STEPS = 8


class LedgerMachine(RuleBasedStateMachine):
    keys = Bundle("keys")
    payments = Bundle("payments")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.ledger = self.open()
        self.model = LedgerModel()
        self.now_ms = 100
        self.names = 0

    def open(self) -> SqliteLedger:
        ledger = SqliteLedger(Path(self.directory.name) / "ledger.sqlite3")
        # Nobody cuts the power here, and a thousand bookings need not wait for the disk.
        ledger._engine.batches.connection.execute("PRAGMA synchronous=OFF")
        return ledger

    def name(self) -> str:
        self.names += 1
        return str(self.names)

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    def both(self, taken: Step) -> None:
        """Book on both: they return the same, or refuse with the same code."""
        refused, expected = "", None
        try:
            expected = taken.play(self.model)
        except Refused as refusal:
            refused = refusal.code
        if not refused:
            assert self.run(taken.play(self.ledger)) == expected
            return
        with pytest.raises(InfernError) as caught:
            self.run(taken.play(self.ledger))
        assert caught.value.code == refused

    def walk(self, scene: Scene, seed: int) -> None:
        """Take some steps that change something; where it ends, try all that must not."""
        chance = random.Random(seed)
        for _ in range(MOST_STEPS):
            tried = list(scene(self.model))
            good = [taken for taken in tried if steps.after(self.model, taken) is not None]
            if not good:
                break
            likely = [4 if taken.method in ("claim", "capture") else 1 for taken in good]
            self.both(*chance.choices(good, likely))
            self.the_books_are_the_models()
        for taken in scene(self.model):
            if steps.after(self.model, taken) is None:
                self.both(taken)

    def make_key(self, *, asset: Asset, funds: int) -> KeyRecord:
        key = rows.a_key(self.name(), asset=asset, created_ms=self.now_ms)
        self.both(step("create_key", key))
        if funds:
            topup = rows.a_topup(self.name(), key, funds)
            self.both(step("add_topup", topup, open_limit=5))
            hash_, paid = topup.payment_hash, TopupState.PAID
            self.both(step("end_topup", hash_, paid, now_ms=self.now_ms))
        return key

    @initialize(target=keys)
    def begin(self) -> Any:
        return multiple(
            *(self.make_key(asset=CKB, funds=FUNDS) for _ in range(2)),
            self.make_key(asset=USD, funds=FUNDS),
            self.make_key(asset=CKB, funds=0),
        )

    @rule(target=payments, key=keys, amount=AMOUNTS, asset=ASSETS, part=PARTS, seed=SEEDS)
    def a_payment(
        self, key: KeyRecord, amount: int, asset: Asset, part: float, seed: int
    ) -> PaidRequest:
        paid = rows.a_payment(self.name(), amount, asset=asset)
        self.walk(steps.payment(paid, key, int(amount * part)), seed)
        return paid

    @rule(target=payments, key=keys, amount=AMOUNTS, asset=ASSETS, part=PARTS, seed=SEEDS)
    def a_lock(
        self, key: KeyRecord, amount: int, asset: Asset, part: float, seed: int
    ) -> PaidRequest:
        paid = rows.a_payment(self.name(), amount, asset=asset, is_lock=True)
        self.both(step("offer_lock", rows.a_lock(paid), open_limit=20))
        self.walk(steps.payment(paid, key, int(amount * part)), seed)
        return paid

    @rule(paid=payments, key=keys, part=PARTS, seed=SEEDS)
    def a_payment_goes_on(self, paid: PaidRequest, key: KeyRecord, part: float, seed: int) -> None:
        self.walk(steps.payment(paid, key, int(paid.amount * part)), seed)

    @rule(key=keys, amount=AMOUNTS, part=PARTS, seed=SEEDS)
    def a_key_goes_on(self, key: KeyRecord, amount: int, part: float, seed: int) -> None:
        scenes = (
            steps.keyed_request(key, amount, int(amount * part)),
            steps.top_up(key, amount),
            steps.withdrawal(key, amount, by_invoice=True),
            steps.withdrawal(key, amount, by_invoice=False),
        )
        self.walk(scenes[seed % len(scenes)], seed)

    @rule(paid=payments, key=keys, amount=AMOUNTS, seed=SEEDS)
    def somebody_lies(self, paid: PaidRequest, key: KeyRecord, amount: int, seed: int) -> None:
        lie = replace(paid, is_lock=not paid.is_lock)
        self.both(step("claim", lie, rows.a_hold(self.name(), paid.amount, paid=paid)))
        self.both(step("redeem", lie, key, now_ms=self.now_ms))
        self.both(step("credit_unclaimed", lie, now_ms=self.now_ms))
        if paid.is_lock:
            self.both(step("offer_lock", rows.a_lock(paid), open_limit=20))
        hold = rows.a_hold(self.name(), amount, key=key, attempt=bytes([seed % 2]) * 32)
        digest = RequestDigest(bytes([seed % 3]) * 32)
        self.both(step("hold", replace(hold, digest=digest)))

    @rule(seed=SEEDS, more=st.integers(0, 1), new_wish=st.booleans())
    def a_payout_is_asked_for_again(self, seed: int, more: int, new_wish: bool) -> None:
        if not self.model.payouts:
            return
        known = random.Random(seed).choice(list(self.model.payouts.values()))
        again = replace(
            known, amount=known.amount + more, payout_id=PayoutId(f"payout_{self.name()}")
        )
        if new_wish:
            again = replace(again, request_key=rows.named("wish", self.name()))
        self.both(step("add_payout", again))

    @rule(seed=SEEDS, until=st.integers(0, 10))
    def leases_are_renewed(self, seed: int, until: int) -> None:
        hold_ids = [hold_id for n, hold_id in enumerate(self.model.holds) if seed >> (n % 32) & 1]
        self.both(step("renew", hold_ids, lease_until_ms=self.now_ms + until))
        self.now_ms += 3
        for hold_id in hold_ids[:3]:
            self.both(step("release_expired", hold_id, now_ms=self.now_ms))

    @rule(
        target=keys,
        asset=ASSETS,
        funds=st.sampled_from([0, 1, MAX_LEDGER_AMOUNT]),
        is_new_process=st.booleans(),
    )
    def the_ledger_is_opened_again(
        self, asset: Asset, funds: int, is_new_process: bool
    ) -> KeyRecord:
        self.ledger.close()
        self.ledger = self.open()
        if is_new_process:
            self.both(step("recover", now_ms=self.now_ms))
            self.both(step("delete_empty_keys", created_before_ms=self.now_ms, limit=1_000))
        return self.make_key(asset=asset, funds=funds)

    @invariant()
    def the_books_are_the_models(self) -> None:
        books = self.run(self.ledger.books())
        assert violations(books) == []
        assert rows.in_order(books) == self.model.books()
        assert self.run(self.ledger.totals()) == totals(books)

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
    max_examples=20,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerMachine = LedgerMachine.TestCase
