"""Holds: one terminal state, reached once."""

from dataclasses import replace

import pytest

from infern.core.errors import InvariantViolation, LedgerError, Money
from infern.core.ids import HoldId, RequestDigest, TabId
from infern.core.ledger.hold import TRANSITIONS, Hold, HoldEvent, HoldState, end_hold
from infern.core.units import MAX_LEDGER_AMOUNT

OPEN = Hold(
    hold_id=HoldId("h"),
    tab_id=TabId("t"),
    amount=100,
    digest=RequestDigest(bytes(32)),
    opened_ms=1,
)
CAPTURED = end_hold(OPEN, HoldEvent.CAPTURE, charged=40, now_ms=2)
RELEASED = end_hold(OPEN, HoldEvent.RELEASE, charged=0, now_ms=2)
VOIDED = end_hold(CAPTURED, HoldEvent.VOID, charged=0, now_ms=3)
ENDED = (CAPTURED, RELEASED, VOIDED)


def test_table_is_total_and_ends() -> None:
    assert set(TRANSITIONS) == set(HoldState)
    assert TRANSITIONS[HoldState.OPEN].keys() == {HoldEvent.CAPTURE, HoldEvent.RELEASE}
    assert TRANSITIONS[HoldState.CAPTURED].keys() == {HoldEvent.VOID}
    assert not TRANSITIONS[HoldState.RELEASED]
    assert not TRANSITIONS[HoldState.VOIDED]


def test_a_voided_hold_keeps_what_it_had_charged() -> None:
    assert replace(CAPTURED, state=HoldState.VOIDED, ended_ms=3) == VOIDED
    assert end_hold(CAPTURED, HoldEvent.VOID, charged=7, now_ms=3) == VOIDED


def test_ends() -> None:
    assert replace(OPEN, state=HoldState.CAPTURED, charged=40, ended_ms=2) == CAPTURED
    assert replace(OPEN, state=HoldState.RELEASED, ended_ms=2) == RELEASED


@pytest.mark.parametrize("charged", [0, 100])
def test_a_capture_may_charge_nothing_or_everything(charged: int) -> None:
    assert end_hold(OPEN, HoldEvent.CAPTURE, charged=charged, now_ms=2).charged == charged


@pytest.mark.parametrize(
    ("ended", "event"),
    [(ended, event) for ended in ENDED for event in HoldEvent
     if (ended, event) != (CAPTURED, HoldEvent.VOID)],
)  # fmt: skip
def test_nothing_is_booked_twice(ended: Hold, event: HoldEvent) -> None:
    with pytest.raises(LedgerError) as caught:
        end_hold(ended, event, charged=0, now_ms=3)
    assert (caught.value.code, caught.value.money) == ("ledger_conflict", Money.UNMOVED)
    assert f"already {ended.state}" in caught.value.message


@pytest.mark.parametrize("charged", [101, -1, True])
def test_no_charge_over_the_hold(charged: int) -> None:
    with pytest.raises(ValueError, match="an amount"):
        end_hold(OPEN, HoldEvent.CAPTURE, charged=charged, now_ms=2)


def test_a_released_hold_is_not_charged() -> None:
    with pytest.raises(InvariantViolation, match="only a captured hold"):
        end_hold(OPEN, HoldEvent.RELEASE, charged=1, now_ms=2)


@pytest.mark.parametrize(
    "change",
    [
        {"ended_ms": 2},
        {"state": HoldState.CAPTURED},
        {"state": HoldState.RELEASED},
        {"charged": 1},
        {"state": HoldState.RELEASED, "ended_ms": 2, "charged": 1},
        {"state": HoldState.VOIDED},
    ],
)
def test_rows_that_say_two_things_cannot_exist(change: dict[str, object]) -> None:
    with pytest.raises(InvariantViolation):
        replace(OPEN, **change)


def test_an_attempt_has_a_whole_name() -> None:
    assert replace(OPEN, attempt=bytes(32)).attempt == bytes(32)
    with pytest.raises(ValueError, match="32 bytes"):
        replace(OPEN, attempt=bytes(31))


@pytest.mark.parametrize("amount", [-1, MAX_LEDGER_AMOUNT + 1, True])
def test_amounts_out_of_range_cannot_exist(amount: int) -> None:
    with pytest.raises(ValueError, match="an amount"):
        replace(OPEN, amount=amount)
