"""Payouts: sent once, ended once, never more than was reserved."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infern.core.errors import InvariantViolation, LedgerError, Money
from infern.core.ids import PaymentHash, PayoutId, Pubkey, TabId
from infern.core.ledger.payout import (
    MIN_FEE_CAP,
    OPEN,
    TRANSITIONS,
    Payout,
    PayoutEvent,
    PayoutPurpose,
    PayoutState,
    fee_cap_of,
    largest_payout,
    move_payout,
)
from infern.core.units import CKB, MAX_LEDGER_AMOUNT

S, E = PayoutState, PayoutEvent
HASH = PaymentHash(b"\x07" * 32)
OWED = Payout(
    payout_id=PayoutId("p"),
    tab_id=TabId("t"),
    purpose=PayoutPurpose.WITHDRAW,
    request_key=bytes(32),
    asset=CKB,
    amount=100,
    fee_cap=10,
    target=Pubkey(b"\x02" * 33),
    created_ms=1,
)
SENDING = move_payout(OWED, E.SEND, now_ms=2)
ENDED = (
    move_payout(SENDING, E.SUCCEED, now_ms=3, fee=4, payment_hash=HASH),
    move_payout(SENDING, E.FAIL, now_ms=3, failure="no_route"),
    move_payout(OWED, E.FAIL, now_ms=3, failure="no_route"),
)


def test_the_table_is_total_and_ends() -> None:
    assert set(TRANSITIONS) == set(PayoutState)
    assert {event for edges in TRANSITIONS.values() for event in edges} == set(PayoutEvent)
    assert {S.OWED, S.SENDING} == OPEN
    assert TRANSITIONS[S.OWED] == {E.SEND: S.SENDING, E.FAIL: S.RETURNED}
    assert TRANSITIONS[S.SENDING] == {E.SUCCEED: S.SETTLED, E.FAIL: S.RETURNED}


def test_nothing_is_sent_twice() -> None:
    """No state is entered by sending that was sent before, and none after it leads there."""
    sends = {s for s, edges in TRANSITIONS.items() if E.SEND in edges}
    assert sends == {S.OWED}
    assert all(S.OWED not in edges.values() for edges in TRANSITIONS.values())


def test_it_counts_what_routing_took() -> None:
    assert replace(OWED, state=S.SENDING, sent_ms=2) == SENDING
    assert ENDED[0] == replace(SENDING, state=S.SETTLED, fee=4, payment_hash=HASH, ended_ms=3)
    assert ENDED[1] == replace(SENDING, state=S.RETURNED, failure="no_route", ended_ms=3)
    assert ENDED[2].sent_ms is None


def test_a_fee_above_the_cap_is_not_the_payers() -> None:
    settled = move_payout(SENDING, E.SUCCEED, now_ms=3, fee=11)
    assert settled.fee == settled.fee_cap == 10


@pytest.mark.parametrize("state", list(PayoutState))
@pytest.mark.parametrize("event", list(PayoutEvent))
def test_edges(state: PayoutState, event: PayoutEvent) -> None:
    at = replace(OWED, state=state, ended_ms=None if state in OPEN else 3)
    if event in TRANSITIONS[state]:
        assert move_payout(at, event, now_ms=4).state is TRANSITIONS[state][event]
    else:
        with pytest.raises(LedgerError, match=f"{state} cannot {event}") as caught:
            move_payout(at, event, now_ms=4)
        assert (caught.value.code, caught.value.money) == ("ledger_conflict", Money.UNMOVED)


def test_the_payment_that_is_known_is_never_replaced() -> None:
    noted = replace(SENDING, payment_hash=HASH)
    assert move_payout(noted, E.SUCCEED, now_ms=3).payment_hash == HASH
    assert move_payout(noted, E.SUCCEED, now_ms=3, payment_hash=HASH).payment_hash == HASH
    for event in (E.SUCCEED, E.FAIL):
        with pytest.raises(InvariantViolation, match="two payments"):
            move_payout(noted, event, now_ms=3, payment_hash=PaymentHash(bytes(32)))


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": -1},
        {"fee_cap": -1},
        {"fee": 11},
        {"amount": MAX_LEDGER_AMOUNT, "fee_cap": 1},
        {"target": None},
        {"invoice": "fibd1"},
        {"request_key": bytes(31)},
        {"state": S.SETTLED},
        {"ended_ms": 3},
        {"failure": "no_route"},
        {"state": S.SETTLED, "ended_ms": 3, "failure": "no_route"},
    ],
)
def test_rows_that_say_two_things_cannot_exist(change: dict[str, object]) -> None:
    with pytest.raises((InvariantViolation, ValueError)):
        replace(OWED, **change)


AVAILABLE = st.integers(0, 5_000) | st.integers(0, MAX_LEDGER_AMOUNT)


@given(AVAILABLE)
def test_the_largest_payout_fits_with_its_fee_cap_and_one_more_does_not(available: int) -> None:
    amount = largest_payout(available)
    assert amount == 0 or amount + fee_cap_of(amount) <= available
    assert amount + 1 + fee_cap_of(amount + 1) > available


@given(AVAILABLE)
def test_a_fee_cap_is_enough_for_the_default_route(amount: int) -> None:
    """Three forwarders at fnn's 0.1 %, each rounding up."""
    assert fee_cap_of(amount) >= MIN_FEE_CAP
    due = amount
    for _ in range(3):
        due += -(-due // 1000)
    assert due - amount <= fee_cap_of(amount)
