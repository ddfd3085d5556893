"""The budget's rules over given sums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infern.client.budget import Budget
from infern.client.journal import AttemptKind, Spent
from infern.core.errors import BudgetExceeded, Money

AMOUNTS = st.integers(min_value=1, max_value=10**12)


def admits(budget, amount, spent, kind=AttemptKind.REQUEST):
    try:
        budget.admit(amount, kind)(spent)
    except BudgetExceeded:
        return False
    return True


def test_a_refusal_moves_nothing():
    with pytest.raises(BudgetExceeded) as caught:
        Budget(per_request=1).admit(2, AttemptKind.REQUEST)(Spent(session=0, day=0))
    assert caught.value.money is Money.UNMOVED


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_what_is_admitted_fits_every_cap(amount, session, day, per_request, per_session, per_day):
    budget = Budget(per_request=per_request, per_session=per_session, per_day=per_day)
    need = amount + budget.fee_cap(amount)
    fits = amount <= per_request and session + need <= per_session and day + need <= per_day
    assert admits(budget, amount, Spent(session=session, day=day)) is fits


def test_a_budget_of_nothing_pays_nothing():
    budget = Budget(per_request=0, per_topup=0, per_session=0, per_day=0)
    for kind in AttemptKind:
        assert not admits(budget, 1, Spent(session=0, day=0), kind)


def test_requests_and_top_ups_have_caps_of_their_own():
    budget = Budget(per_request=10, per_topup=1_000)
    nothing = Spent(session=0, day=0)
    assert not admits(budget, 11, nothing)
    assert admits(budget, 1_000, nothing, AttemptKind.TOPUP)
    assert not admits(budget, 1_001, nothing, AttemptKind.TOPUP)


@pytest.mark.parametrize("amount", [1, 999, 10**6, 10**12])
def test_the_fee_cap_is_rounded_up_and_never_nothing(amount):
    assert Budget().fee_cap(amount) == 1_000 + -(-amount * 10_000 // 10**6)


def test_what_is_left_is_the_tighter_window_and_never_negative():
    budget = Budget(per_session=100, per_day=50)
    assert budget.left(Spent(session=10, day=20)) == 30
    assert budget.left(Spent(session=10, day=90)) == 0


@pytest.mark.parametrize("name", ["per_request", "per_topup", "per_session", "per_day", "fee_ppm"])
def test_negative_caps_are_refused(name):
    with pytest.raises(ValueError, match="between"):
        Budget(**{name: -1})
