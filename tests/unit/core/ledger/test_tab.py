"""Tabs: four columns and one equation."""

import pytest

from infern.core.errors import InsufficientBalance, InvariantViolation, LedgerError, Money
from infern.core.ids import TabId
from infern.core.ledger.tab import (
    Tab,
    TabKind,
    capture,
    deposit,
    hold,
    pay_out,
    release,
    reserve,
    void,
    withdraw,
)
from infern.core.units import CKB, MAX_LEDGER_AMOUNT, Asset

EMPTY = Tab(tab_id=TabId("t"), kind=TabKind.KEY, asset=CKB)


def tab(**sums: int) -> Tab:
    return Tab(tab_id=TabId("t"), kind=TabKind.KEY, asset=CKB, **sums)


def test_an_answer_is_held_charged_and_the_rest_is_free_again() -> None:
    funded = deposit(EMPTY, 100)
    reserved = hold(funded, 60)
    assert (reserved.balance, reserved.held) == (40, 60)
    charged = capture(reserved, 60, 25)
    assert charged == tab(deposited=100, spent=25)
    assert charged.balance == 75


def test_release_charges_nothing() -> None:
    assert release(hold(deposit(EMPTY, 100), 60), 60) == deposit(EMPTY, 100)


def test_withdrawal_leaves_by_refunded() -> None:
    assert withdraw(tab(deposited=100, held=30), 70) == tab(deposited=100, held=30, refunded=70)


def test_capture_of_everything_and_of_nothing() -> None:
    assert capture(tab(deposited=5, held=5), 5, 5) == tab(deposited=5, spent=5)
    assert capture(tab(deposited=5, held=5), 5, 0) == tab(deposited=5)
    assert hold(tab(deposited=5), 5) == tab(deposited=5, held=5)
    assert hold(EMPTY, 0) == EMPTY


@pytest.mark.parametrize(
    ("have", "amount"), [(EMPTY, 1), (tab(deposited=10), 11), (tab(deposited=10, held=9), 2)]
)
def test_nothing_is_held_beyond_the_balance(have: Tab, amount: int) -> None:
    with pytest.raises(InsufficientBalance) as caught:
        hold(have, amount)
    assert (caught.value.code, caught.value.money) == ("insufficient_balance", Money.UNMOVED)
    assert caught.value.details == {
        "balance": str(have.balance),
        "held": str(have.held),
        "required": str(amount),
    }
    assert "this request's ceiling" in caught.value.message
    with pytest.raises(InsufficientBalance) as caught:
        withdraw(have, amount)
    assert caught.value.details["required"] == str(amount)
    assert "request" not in caught.value.message


def test_messages_of_a_udt_tab_do_not_speak_of_ckb() -> None:
    asset = Asset(bytes([0xAB]) * 32)
    with pytest.raises(InsufficientBalance) as caught:
        hold(Tab(tab_id=TabId("t"), kind=TabKind.KEY, asset=asset), 7)
    assert "7 base units" in caught.value.message
    assert "CKB" not in caught.value.message


def test_a_payout_is_reserved_and_then_leaves_or_returns() -> None:
    reserved = reserve(tab(deposited=100), 60)
    assert reserved == tab(deposited=100, held=60)
    assert pay_out(reserved, 60, 55) == tab(deposited=100, refunded=55)
    assert pay_out(reserved, 60, 0) == tab(deposited=100)
    with pytest.raises(InsufficientBalance) as caught:
        reserve(reserved, 41)
    assert (caught.value.money, caught.value.details["required"]) == (Money.UNMOVED, "41")
    assert "take out less" in caught.value.message
    assert "request" not in caught.value.message


@pytest.mark.parametrize(("reserved", "out"), [(5, 6), (11, 1), (11, 11)])
def test_more_going_out_than_was_reserved_is_a_bug(reserved: int, out: int) -> None:
    with pytest.raises(InvariantViolation, match="goes out"):
        pay_out(tab(deposited=100, held=10), reserved, out)


def test_a_charge_that_was_never_paid_is_undone() -> None:
    assert void(tab(deposited=100, spent=30), 30) == tab(deposited=100)
    assert void(tab(deposited=100, spent=30), 10) == tab(deposited=100, spent=20)
    with pytest.raises(InvariantViolation, match="never charged"):
        void(tab(deposited=100, spent=30), 31)


@pytest.mark.parametrize(("held", "charged"), [(5, 6), (11, 1), (11, 11)])
def test_a_charge_over_its_hold_is_a_bug(held: int, charged: int) -> None:
    with pytest.raises(InvariantViolation, match="charge"):
        capture(tab(deposited=100, held=10), held, charged)


def test_the_ledger_s_widest_sum() -> None:
    full = deposit(EMPTY, MAX_LEDGER_AMOUNT)
    assert full.balance == MAX_LEDGER_AMOUNT
    with pytest.raises(LedgerError) as caught:
        deposit(full, 1)
    assert caught.value.code == "ledger_conflict"
    spent = tab(deposited=MAX_LEDGER_AMOUNT, spent=MAX_LEDGER_AMOUNT)
    with pytest.raises(LedgerError):
        deposit(spent, 1)


@pytest.mark.parametrize("value", [-1, MAX_LEDGER_AMOUNT + 1, True, 1.5])
def test_amounts_are_integers_of_the_ledger_s_width(value: int) -> None:
    funded = tab(deposited=10, held=5)
    for book in (deposit, hold, release, reserve, void, withdraw):
        with pytest.raises(ValueError, match="an amount"):
            book(funded, value)
    with pytest.raises(ValueError, match="an amount"):
        capture(funded, 5, value)
    with pytest.raises(ValueError, match="an amount"):
        pay_out(funded, 5, value)


@pytest.mark.parametrize("name", ["deposited", "held", "spent", "refunded"])
@pytest.mark.parametrize("value", [-1, MAX_LEDGER_AMOUNT + 1, True])
def test_rows_out_of_range_cannot_exist(name: str, value: int) -> None:
    with pytest.raises(ValueError, match="an amount"):
        tab(**{name: value})


@pytest.mark.parametrize(
    "sums",
    [
        {"held": 1},
        {"spent": 1},
        {"refunded": 1},
        {"deposited": 2, "held": 1, "spent": 1, "refunded": 1},
    ],
)
def test_rows_that_break_the_equation_cannot_exist(sums: dict[str, int]) -> None:
    with pytest.raises(InvariantViolation, match="more than was deposited"):
        tab(**sums)
