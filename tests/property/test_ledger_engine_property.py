"""Random bookings on the SQLite engine against a tiny model in memory.

The model knows four numbers a tab and the rules in one line each; the books are checked after
every step, and at the end the file is opened again.
"""

import asyncio
import secrets
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import InsufficientBalance, LedgerError, ProtocolError
from infern.core.f402.receipt import Finish, Receipt, SellerIdentity
from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.books import violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan, Topup, TopupState
from infern.core.units import CKB

T = TypeVar("T")
AMOUNTS = st.integers(min_value=1, max_value=1_000)
SELLER = SellerIdentity(
    genesis_hash=b"\x01" * 32,
    provider=b"\x02" * 32,
    listing=b"\x03" * 32,
    listing_data_hash=b"\x04" * 32,
    model_id=b"\x05" * 32,
)


def receipt(charged: int) -> Receipt:
    return Receipt(
        seller=SELLER,
        client_key_hash=bytes(20),
        session=bytes(16),
        seq=0,
        prev_digest=bytes(32),
        payment_ref=bytes(32),
        req_hash=bytes(32),
        resp_root=bytes(32),
        prompt_tokens=1,
        completion_tokens=1,
        asset=bytes(32),
        charged=charged,
        finish=Finish.STOP,
        started_ms=1,
        finished_ms=2,
    )


@dataclass
class ModelTab:
    deposited: int = 0
    held: int = 0
    spent: int = 0
    refunded: int = 0

    @property
    def balance(self) -> int:
        return self.deposited - self.held - self.spent - self.refunded


@dataclass
class ModelPayment:
    paid: PaidRequest
    state: str = "quoted"
    moved: dict[TabId, int] = field(default_factory=dict)


@dataclass
class ModelHold:
    hold: Hold
    payment: ModelPayment | None
    is_open: bool = True


class LedgerMachine(RuleBasedStateMachine):
    keys = Bundle("keys")
    topups = Bundle("topups")
    payments = Bundle("payments")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.ledger = SqliteLedger(self.path)
        self.tabs: dict[TabId, ModelTab] = {}
        self.open: list[ModelHold] = []
        self.receipts = 0

    @property
    def path(self) -> Path:
        return Path(self.directory.name) / "ledger.sqlite3"

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    @rule(target=keys)
    def make_key(self) -> KeyRecord:
        key = KeyRecord(
            key_digest=secrets.token_bytes(32),
            key_id=secrets.token_hex(8),
            tab_id=TabId(secrets.token_hex(8)),
            session=secrets.token_bytes(16),
            asset=CKB,
            created_ms=1,
        )
        self.run(self.ledger.create_key(key))
        self.tabs[key.tab_id] = ModelTab()
        return key

    @rule(target=topups, key=keys, amount=AMOUNTS)
    def make_topup(self, key: KeyRecord, amount: int) -> Topup:
        topup = Topup(
            payment_hash=PaymentHash(secrets.token_bytes(32)),
            tab_id=key.tab_id,
            key_id=key.key_id,
            amount=amount,
            invoice="i",
            expires_ms=1,
            created_ms=1,
        )
        self.run(self.ledger.add_topup(topup, open_limit=10_000))
        return topup

    @rule(topup=topups, state=st.sampled_from(TopupState))
    def end_topup(self, topup: Topup, state: TopupState) -> None:
        known = self.run(self.ledger.topup(topup.payment_hash))
        assert known is not None
        if state is TopupState.PAID and known.state is not TopupState.PAID:
            self.tabs[topup.tab_id].deposited += topup.amount
        self.run(self.ledger.end_topup(topup.payment_hash, state, now_ms=2))

    def a_hold(self, tab_id: TabId, amount: int) -> Hold:
        return Hold(
            hold_id=HoldId(secrets.token_hex(8)),
            tab_id=tab_id,
            amount=amount,
            digest=RequestDigest(bytes(32)),
            opened_ms=1,
        )

    @rule(target=holds, key=keys, amount=AMOUNTS)
    def hold(self, key: KeyRecord, amount: int) -> ModelHold:
        tab = self.tabs[key.tab_id]
        made = ModelHold(self.a_hold(key.tab_id, amount), None)
        if amount > tab.balance:
            made.is_open = False
            with pytest.raises(InsufficientBalance):
                self.run(self.ledger.hold(made.hold))
        else:
            assert self.run(self.ledger.hold(made.hold)).held == tab.held + amount
            tab.held += amount
            self.open.append(made)
        return made

    @rule(target=payments, amount=AMOUNTS)
    def pay(self, amount: int) -> ModelPayment:
        return ModelPayment(
            PaidRequest(
                payment_hash=PaymentHash(secrets.token_bytes(32)),
                amount=amount,
                asset=CKB,
                digest=RequestDigest(bytes(32)),
                tab_id=TabId(secrets.token_hex(8)),
                session=secrets.token_bytes(16),
            )
        )

    def first_deposit(self, payment: ModelPayment) -> ModelTab:
        paid = payment.paid
        if payment.state == "quoted":
            self.tabs[paid.tab_id] = ModelTab(deposited=paid.amount)
        return self.tabs[paid.tab_id]

    @rule(target=holds, payment=payments)
    def claim(self, payment: ModelPayment) -> ModelHold:
        paid = payment.paid
        hold = replace(self.a_hold(TabId(""), paid.amount), payment_hash=paid.payment_hash)
        made = ModelHold(replace(hold, tab_id=paid.tab_id), payment)
        if payment.state not in ("quoted", "failed"):
            made.is_open = False
            with pytest.raises(ProtocolError):
                self.run(self.ledger.claim(paid, hold))
            return made
        self.run(self.ledger.claim(paid, hold))
        self.first_deposit(payment).held += paid.amount
        payment.state = "running"
        self.open.append(made)
        return made

    @rule(made=holds, part=st.floats(0, 1), key=st.none() | keys)
    def capture(self, made: ModelHold, part: float, key: KeyRecord | None) -> None:
        hold, payment = made.hold, made.payment
        charged = int(hold.amount * part)
        key = key if payment is not None else None
        call = self.ledger.capture(
            hold.hold_id,
            receipt(charged),
            request_id=RequestId(secrets.token_hex(8)),
            remainder=RemainderPlan(key=key),
        )
        if not made.is_open:
            with pytest.raises(LedgerError):
                self.run(call)
            return
        captured = self.run(call)
        self.receipts += 1
        tab = self.tabs[hold.tab_id]
        tab.held -= hold.amount
        tab.spent += charged
        rest = hold.amount - charged
        assert captured.stored.remainder == rest
        if payment is not None:
            payment.state = "delivered"
            if key is not None and rest:
                self.move(payment, key, rest)
        self.close(made)

    def move(self, payment: ModelPayment, key: KeyRecord, amount: int) -> None:
        self.tabs[payment.paid.tab_id].refunded += amount
        self.tabs[key.tab_id].deposited += amount
        payment.moved[key.tab_id] = payment.moved.get(key.tab_id, 0) + amount

    def close(self, made: ModelHold) -> None:
        made.is_open = False
        self.open = [other for other in self.open if other is not made]

    def release_in_model(self, made: ModelHold) -> None:
        self.tabs[made.hold.tab_id].held -= made.hold.amount
        if made.payment is not None:
            made.payment.state = "failed"
        self.close(made)

    @rule(made=holds)
    def release(self, made: ModelHold) -> None:
        self.run(self.ledger.release(made.hold.hold_id, now_ms=3))
        if made.is_open:
            self.release_in_model(made)

    @rule(payment=payments, key=keys)
    def redeem(self, payment: ModelPayment, key: KeyRecord) -> None:
        if payment.state == "running":
            with pytest.raises(ProtocolError):
                self.run(self.ledger.redeem(payment.paid, key, now_ms=3))
            return
        left = self.first_deposit(payment).balance if payment.state != "credited" else 0
        if left:
            self.move(payment, key, left)
        if payment.state != "delivered":
            payment.state = "credited"
        moved = self.run(self.ledger.redeem(payment.paid, key, now_ms=3))
        assert moved == payment.moved.get(key.tab_id, 0)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = SqliteLedger(self.path)
        assert self.run(self.ledger.recover(now_ms=4)) == len(self.open)
        for made in list(self.open):
            self.release_in_model(made)

    @invariant()
    def the_books_are_the_models(self) -> None:
        books = self.run(self.ledger.books())
        assert violations(books) == []
        assert {hold.hold_id for hold in books.holds} == {m.hold.hold_id for m in self.open}
        found = {
            tab.tab_id: ModelTab(tab.deposited, tab.held, tab.spent, tab.refunded)
            for tab in books.tabs
        }
        assert found == self.tabs

    def teardown(self) -> None:
        self.ledger.close()
        self.loop.close()
        self.directory.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerMachine = LedgerMachine.TestCase
