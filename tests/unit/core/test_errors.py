"""Error codes, classes and the tree drawn in the module's docstring agree."""

import inspect
import re

import pytest

from infern.core import errors
from infern.core.errors import CODES, InfernError, InvariantViolation, Money, Retry

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, InfernError)
]


def test_error_takes_its_meaning_from_its_code() -> None:
    error = InfernError("Wait for the payment.", code="payment_pending")
    assert (error.status, error.retry, error.money) == (425, Retry.SAME_CREDENTIAL, Money.UNKNOWN)
    assert str(error) == error.message == "Wait for the payment."
    assert error.retry_after_s is None
    assert error.param is None
    assert error.details == {}


def test_raiser_who_knows_better_narrows_retry_and_money() -> None:
    error = InfernError(
        "x",
        code="fiber_error",
        retry=Retry.SAME_CREDENTIAL,
        money=Money.UNMOVED,
        retry_after_s=3,
        param="model",
        details={"payment_hash": "00"},
    )
    assert (error.retry, error.money) == (Retry.SAME_CREDENTIAL, Money.UNMOVED)
    assert (error.retry_after_s, error.param) == (3, "model")
    assert error.details == {"payment_hash": "00"}


def test_repr_says_what_happened_to_the_money() -> None:
    assert repr(errors.NoRoute("x")) == "NoRoute('no_route', money=unmoved, 'x')"


def test_unknown_code_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        InfernError("x", code="no_such_code")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_code_of_its_own_or_of_its_parent(kind: type[InfernError]) -> None:
    assert kind("x").code == kind.default_code
    assert kind.default_code in CODES


def test_an_invariant_violation_is_no_infern_error() -> None:
    assert not issubclass(InvariantViolation, InfernError)


@pytest.mark.parametrize("code", CODES)
def test_code_is_a_complete_statement(code: str) -> None:
    spec = CODES[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert 400 <= spec.status <= 599
    assert spec.meaning
    assert spec.meaning == spec.meaning.strip(" .")


@pytest.mark.parametrize("code", [code for code, spec in CODES.items() if spec.status == 402])
def test_no_402_says_that_money_moved(code: str) -> None:
    # Automatic payers take a 402 for "pay"; after a charge that would be a second payment.
    assert CODES[code].money is not Money.MOVED


def test_a_client_that_was_charged_is_never_told_to_pay_anew() -> None:
    for code, spec in CODES.items():
        if spec.money is not Money.UNMOVED:
            assert spec.retry is not Retry.NEW_CHALLENGE, code


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└ ]*)(\w+)", line)
        if found:
            depth = len(found[1].rstrip().replace("│  ", "x").replace("├", "x").replace("└", "x"))
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else ""
    drawn.pop("InvariantViolation")
    actual = {kind.__name__: kind.__mro__[1].__name__ for kind in CLASSES}
    assert drawn == actual | {"InfernError": ""}
