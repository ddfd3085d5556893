"""Ways to break the code that the simulator has to notice; each is a mistake somebody could make.

A mutant replaces one function for the length of a test, and must be found within `SEEDS` seeds.
"""

from dataclasses import replace

import pytest

from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.sqlite_ledger import SqliteLedger, bookings, rows
from infern.client import account, exchange, paying
from infern.client.effects import Intend
from infern.client.paying import step
from infern.core.f402.client import ClientEvent, ClientState
from infern.core.f402.server import ServerState
from infern.core.ledger.hold import HoldState
from infern.core.ledger.records import TopupState
from infern.core.ledger.tab import deposit
from infern.seller import proofs, relay, settlement, streaming
from infern.seller.http import ClientGone
from infern.simulator.run import simulate

pytestmark = pytest.mark.slow
SEEDS = 40


def recover_is_not_called(patch):
    async def recover(_self, *, now_ms):
        return 0

    patch.setattr(SqliteLedger, "recover", recover)


def a_delivered_payment_runs_again(patch):
    real = bookings._paid_tab

    def paid_tab(db, paid, now_ms):
        tab, state = real(db, paid, now_ms)
        return tab, ServerState.FAILED if state is ServerState.DELIVERED else state

    patch.setattr(bookings, "_paid_tab", paid_tab)


def the_payment_goes_before_the_intent(patch):
    def begin(held, intended, wallet):
        held.attempt = intended
        paying_ = replace(intended, state=ClientState.PAYING)
        machine = paying.PaymentMachine(
            paying.PayInvoice(
                invoice_text=intended.invoice,
                payment_hash=intended.payment_hash,
                amount=intended.amount,
                max_fee_amount=intended.fee_cap,
                timeout_ms=wallet.patience.pay_ms,
                lookup_first=False,
            )
        )
        record = yield from paying._run(machine, wallet.clock.now_ms)
        yield Intend(attempt=intended)
        paying_ = yield from step(held, intended, ClientEvent.PAY_SENT, wallet.clock)
        return (
            yield from step(held, paying_, ClientEvent.PAY_SUCCEEDED, wallet.clock, record=record)
        )

    patch.setattr(exchange, "begin_payment", begin)
    patch.setattr(account, "begin_payment", begin)


def a_topup_is_credited_whenever_it_is_seen(patch):
    def end_topup(db, payment_hash, state, now_ms):
        topup = rows.load_topup(db, payment_hash)
        if topup is None or state is TopupState.OPEN:
            return
        if state is TopupState.PAID:
            db.execute(
                "INSERT OR IGNORE INTO deposits VALUES (?,?,?,?)",
                (payment_hash, topup.tab_id, topup.amount, now_ms),
            )
            rows.save_tab(db, deposit(rows.load_tab(db, topup.tab_id), topup.amount))
        db.execute("UPDATE topups SET state=? WHERE payment_hash=?", (state.value, payment_hash))

    patch.setattr(bookings, "end_topup", end_topup)


def a_release_gives_back_what_was_captured(patch):
    real = bookings.release_hold

    def release_hold(db, hold_id, now_ms):
        hold = rows.load_hold(db, hold_id)
        if hold is not None and hold.state is HoldState.CAPTURED:
            tab = rows.load_tab(db, hold.tab_id)
            rows.save_tab(db, replace(tab, spent=tab.spent - hold.charged))
            rows.save_hold(db, replace(hold, state=HoldState.RELEASED, charged=0))
        real(db, hold_id, now_ms)

    patch.setattr(bookings, "release_hold", release_hold)


def a_redeemed_payment_is_not_marked(patch):
    real = bookings._save_claim

    def save_claim(db, paid, tab_id, state, hold_id):
        if state is not ServerState.CREDITED:
            real(db, paid, tab_id, state, hold_id)

    patch.setattr(bookings, "_save_claim", save_claim)


def a_client_that_leaves_keeps_its_hold_open(patch):
    real = settlement.Settlement.__aexit__

    async def leave(self, kind, error, trace):
        if kind is not ClientGone:
            await real(self, kind, error, trace)

    patch.setattr(settlement.Settlement, "__aexit__", leave)


def a_plain_answer_goes_out_before_its_charge(patch):
    async def plain(self):
        reply = await self._send()
        try:
            body = await self._read_up_to(reply, self._limits.response_bytes)
        finally:
            await reply.aclose()
        answer = relay.read_answer(body)
        counted = relay.count_answer(self._order.request, answer)
        usage = relay.charge_usage(relay.read_usage(answer), counted, self._order.bound)
        answer["f402"] = self._settlement.summary(usage)
        delivered = relay.dumps(answer)
        await self._responder.whole(200, delivered, self._proof_headers())
        await self._settlement.capture(
            usage,
            finish=relay._finish_of(answer),
            response_root=relay.response_root([delivered]),
        )

    patch.setattr(relay.Relay, "_plain", plain)


def who_leaves_a_stream_pays_nothing(patch):
    real = streaming.StreamDelivery.close

    async def close(self, failure):
        if not isinstance(failure, ClientGone):
            await real(self, failure)

    patch.setattr(streaming.StreamDelivery, "close", close)


def unredeemed_payments_are_forgotten(patch):
    real = SqliteJournal.adopt

    def adopt(self, **asked):
        found = real(self, **asked)
        if found is not None and found.state is ClientState.UNREDEEMED:
            self.release(found.payment_hash)
            return None
        return found

    patch.setattr(SqliteJournal, "adopt", adopt)


def an_unknown_outcome_is_taken_for_a_failure(patch):
    patch.setattr(paying, "_certainly_failed", lambda _error, **_how: True)


def an_open_invoice_is_taken_for_paid(patch):
    real = proofs.ProofDesk._is_paid

    async def is_paid(self, payment_hash):
        await real(self, payment_hash)
        return True

    patch.setattr(proofs.ProofDesk, "_is_paid", is_paid)


def receipts_are_not_chained(patch):
    def place(db, tab_id, receipt):
        session, seq = db.execute(
            "SELECT session, next_seq FROM tabs WHERE tab_id = ?", (tab_id,)
        ).fetchone()
        db.execute("UPDATE tabs SET next_seq=? WHERE tab_id=?", (seq + 1, tab_id))
        return receipt.placed(session=session, seq=seq, prev_digest=bytes(32)), seq

    patch.setattr(bookings, "_place", place)


def a_charge_that_was_not_booked_is_forgotten(patch):
    patch.setattr(settlement.Settlement, "capture_later", lambda *_args, **_how: None)


def a_remainder_is_moved_twice(patch):
    def redeem(db, paid, key, now_ms):
        tab, state = bookings._paid_tab(db, paid, now_ms)
        amount = tab.deposited - tab.spent - tab.held
        credited = deposit(rows.load_tab(db, key.tab_id), amount)
        if amount:
            rows.save_tab(db, credited)
        if state is not ServerState.DELIVERED:
            bookings._save_claim(db, paid, tab.tab_id, ServerState.CREDITED, "")
        return amount

    patch.setattr(bookings, "redeem", redeem)


MUTANTS = (
    recover_is_not_called,
    a_delivered_payment_runs_again,
    the_payment_goes_before_the_intent,
    a_topup_is_credited_whenever_it_is_seen,
    a_release_gives_back_what_was_captured,
    a_redeemed_payment_is_not_marked,
    a_client_that_leaves_keeps_its_hold_open,
    a_plain_answer_goes_out_before_its_charge,
    who_leaves_a_stream_pays_nothing,
    unredeemed_payments_are_forgotten,
    an_unknown_outcome_is_taken_for_a_failure,
    an_open_invoice_is_taken_for_paid,
    receipts_are_not_chained,
    a_charge_that_was_not_booked_is_forgotten,
    a_remainder_is_moved_twice,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulator_notices(mutant, monkeypatch):
    mutant(monkeypatch)
    assert any(simulate(str(seed)).failures for seed in range(SEEDS))
