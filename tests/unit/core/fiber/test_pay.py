"""The pay-once machine: scripted runs, every impossible event, and its drivers."""

import dataclasses
import itertools

import pytest

from infern.core.errors import (
    ConfigError,
    InvariantViolation,
    LocalProtocolError,
    Money,
    NoRoute,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RemoteProtocolError,
    Retry,
    TransportError,
)
from infern.core.fiber.errors import (
    FiberNodeError,
    FiberUnauthorized,
    PaymentAlreadyExists,
    PaymentNotFound,
)
from infern.core.fiber.pay import (
    LOOKUP_TIMEOUT_MS,
    MAX_SENDS,
    POLL_PLAN_MS,
    RESEND_AFTER_MS,
    SEND_TIMEOUT_MS,
    Answered,
    Event,
    MakeCall,
    PayInvoice,
    PaymentMachine,
    Raised,
    Report,
    Stage,
    Step,
    WaitChange,
    Woken,
    fee_rate_per_thousand,
)
from infern.core.fiber.pay_drivers import pay, pay_sync
from infern.core.fiber.rpc import GetPayment, SendPayment
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash

HASH = PaymentHash(b"\x11" * 32)
PAYMENT = PayInvoice(
    invoice_text="fibd1x", payment_hash=HASH, amount=1_000_000, max_fee_amount=5_000,
    timeout_ms=60_000,
)  # fmt: skip
FRESH = dataclasses.replace(PAYMENT, lookup_first=False)
HOLD = dataclasses.replace(PAYMENT, is_hold=True)
FRESH_HOLD = dataclasses.replace(HOLD, lookup_first=False)


def _record(status: PaymentStatus, *, at_ms: int = 5, error: str | None = None) -> PaymentRecord:
    return PaymentRecord(
        payment_hash=HASH, status=status, preimage=None, fee=1_000, failed_error=error,
        created_at_ms=at_ms, last_updated_at_ms=at_ms,
    )  # fmt: skip


CREATED = Answered(record=_record(PaymentStatus.CREATED))
INFLIGHT = Answered(record=_record(PaymentStatus.INFLIGHT))
NOVEL = Answered(record=_record(PaymentStatus.UNKNOWN))
SUCCESS = Answered(record=_record(PaymentStatus.SUCCESS))
FAILED = Answered(record=_record(PaymentStatus.FAILED, error="TemporaryChannelFailure"))
OLD_FAILED = Answered(record=_record(PaymentStatus.FAILED, at_ms=1, error="InvoiceCancelled"))
NOT_FOUND = Raised(error=PaymentNotFound("not found"))
BROKEN = Raised(error=TransportError("broken", money=Money.UNKNOWN))
NOT_SENT = Raised(error=TransportError("refused", code="fiber_unavailable"))
LOOKUP_BROKEN = Raised(error=TransportError("broken", code="fiber_unavailable"))
UNREADABLE = Raised(
    error=RemoteProtocolError("odd result", code="fiber_error", money=Money.UNKNOWN)
)
NO_ROUTE = Raised(error=NoRoute("no path"))
EXPIRED = Raised(error=PaymentFailed("expired", retry=Retry.NEW_CHALLENGE))
ODD_ERROR = Raised(error=FiberNodeError("odd", money=Money.UNKNOWN))
FORBIDDEN = Raised(error=FiberUnauthorized("no right"))
WRONG = Raised(error=LocalProtocolError("wrong"))
EXISTS_SUCCESS = Raised(error=PaymentAlreadyExists("exists", payment_status=PaymentStatus.SUCCESS))
EXISTS_INFLIGHT = Raised(
    error=PaymentAlreadyExists("exists", payment_status=PaymentStatus.INFLIGHT)
)
WOKEN = Woken()

PAID = "paid"
"""The run ends with the successful record."""
OPEN = "open"
"""The run goes on after the script."""


def _advance(
    payment: PayInvoice, reports: list[Report], *, step_ms: int = 0
) -> tuple[PaymentMachine, list[str], Step]:
    """Run a script; returns the machine, the names of all steps and the last step."""
    machine = PaymentMachine(payment)
    now_ms = 1_000
    step = machine.begin(now_ms)
    steps = [_name(step)]
    for report in reports:
        now_ms += step_ms
        step = machine.advance(report, now_ms)
        steps.append(_name(step))
    return machine, steps, step


def _name(step: Step) -> str:
    match step:
        case MakeCall(call=GetPayment()):
            return "look"
        case MakeCall(call=SendPayment()):
            return "send"
        case WaitChange():
            return "wait"
        case _:
            return PAID


RUNS = [
    ("an unknown payment is sent and waited for",
     PAYMENT, [NOT_FOUND, CREATED, WOKEN, INFLIGHT, WOKEN, SUCCESS],
     "look send wait look wait look paid"),
    ("a fresh invoice is sent without a look-up",
     FRESH, [CREATED, WOKEN, SUCCESS], "send wait look paid"),
    ("a payment that succeeded before is done", PAYMENT, [SUCCESS], "look paid"),
    ("a payment under way is waited for and never sent",
     PAYMENT, [CREATED, WOKEN, INFLIGHT, WOKEN, SUCCESS], "look wait look wait look paid"),
    ("a status nobody knew is waited for",
     PAYMENT, [NOVEL, WOKEN, SUCCESS], "look wait look paid"),
    ("an old failure is sent again", PAYMENT, [OLD_FAILED, CREATED, WOKEN, SUCCESS],
     "look send wait look paid"),
    ("a payment that answers at once with success is done", FRESH, [SUCCESS], "send paid"),
    ("a broken look-up is repeated before anything is sent",
     PAYMENT, [LOOKUP_BROKEN, WOKEN, LOOKUP_BROKEN, WOKEN, NOT_FOUND, CREATED],
     "look wait look wait look send wait"),
    ("a duplicate that succeeded is looked up at once",
     FRESH, [EXISTS_SUCCESS, SUCCESS], "send look paid"),
    ("a duplicate under way is waited for",
     FRESH, [EXISTS_INFLIGHT, WOKEN, INFLIGHT, WOKEN, SUCCESS], "send wait look wait look paid"),
    ("a send without answer is looked up, not repeated",
     FRESH, [BROKEN, WOKEN, INFLIGHT, WOKEN, SUCCESS], "send wait look wait look paid"),
    ("an unreadable answer to a send is looked up, not repeated",
     FRESH, [UNREADABLE, WOKEN, CREATED, WOKEN, SUCCESS], "send wait look wait look paid"),
    ("a send without answer and trace is not repeated at once",
     FRESH, [BROKEN, WOKEN, NOT_FOUND, WOKEN, NOT_FOUND], "send wait look wait look wait"),
    ("a new failure after a send without answer is ours, an old one is history",
     PAYMENT, [OLD_FAILED, BROKEN, WOKEN, OLD_FAILED], "look send wait look wait"),
    ("an old failure whose attempts are in flight is waited for, then sent again",
     PAYMENT, [OLD_FAILED, EXISTS_INFLIGHT, WOKEN, OLD_FAILED, CREATED],
     "look send wait look send wait"),
    ("a payment the node lost after accepting it is waited for, never sent again",
     FRESH, [CREATED, WOKEN, NOT_FOUND, WOKEN, NOT_FOUND], "send wait look wait look wait"),
    ("an unsent send after one without answer is not the end",
     FRESH, [BROKEN, WOKEN, *[NOT_FOUND, WOKEN] * 3, SUCCESS],
     "send wait look wait look wait look wait look paid"),
    ("in hold mode an accepted send ends the run", FRESH_HOLD, [CREATED], "send paid"),
    ("in hold mode a payment found under way ends the run", HOLD, [INFLIGHT], "look paid"),
    ("in hold mode a payment that was taken already ends the run", HOLD, [SUCCESS], "look paid"),
    ("in hold mode a send without answer is looked up, not repeated",
     FRESH_HOLD, [BROKEN, WOKEN, INFLIGHT], "send wait look paid"),
    ("in hold mode a duplicate under way is looked up, not repeated",
     FRESH_HOLD, [EXISTS_INFLIGHT, WOKEN, INFLIGHT], "send wait look paid"),
    ("in hold mode a send without trace is made again only after a while",
     FRESH_HOLD, [BROKEN, WOKEN, NOT_FOUND], "send wait look wait"),
]  # fmt: skip


@pytest.mark.parametrize(("payment", "reports", "steps"), [run[1:] for run in RUNS],
                         ids=[run[0] for run in RUNS])  # fmt: skip
def test_a_run_takes_these_steps(payment, reports, steps: str) -> None:
    assert _advance(payment, reports)[1] == steps.split()


ENDINGS = [
    # (what, payment, reports before, last report, error, money)
    ("no path", FRESH, [], NO_ROUTE, NoRoute, Money.UNMOVED),
    ("no path in hold mode", FRESH_HOLD, [], NO_ROUTE, NoRoute, Money.UNMOVED),
    ("failed at once in hold mode", FRESH_HOLD, [], FAILED, PaymentFailed, Money.UNMOVED),
    ("refused parameters", FRESH, [], WRONG, LocalProtocolError, Money.UNMOVED),
    ("expired invoice", FRESH, [], EXPIRED, PaymentFailed, Money.UNMOVED),
    ("no right to pay", FRESH, [], FORBIDDEN, ConfigError, Money.UNMOVED),
    ("no right to look up", PAYMENT, [], FORBIDDEN, ConfigError, Money.UNMOVED),
    ("no connection for a send", FRESH, [], NOT_SENT, TransportError, Money.UNMOVED),
    ("failed at once", FRESH, [], FAILED, PaymentFailed, Money.UNMOVED),
    ("failed later", FRESH, [CREATED, WOKEN], FAILED, PaymentFailed, Money.UNMOVED),
    ("found under way, failed", PAYMENT, [INFLIGHT, WOKEN], FAILED, PaymentFailed, Money.UNMOVED),
    ("resent after an old failure, failed the same way",
     PAYMENT, [OLD_FAILED, CREATED, WOKEN], OLD_FAILED, PaymentFailed, Money.UNMOVED),
    ("send without answer, failed",
     PAYMENT, [OLD_FAILED, BROKEN, WOKEN], FAILED, PaymentFailed, Money.UNMOVED),
    ("odd error, nothing stored", FRESH, [ODD_ERROR], NOT_FOUND, PaymentFailed, Money.UNMOVED),
    ("odd error, stored as failed", FRESH, [ODD_ERROR], FAILED, PaymentFailed, Money.UNMOVED),
    ("no right to look up after a send without answer",
     FRESH, [BROKEN, WOKEN], FORBIDDEN, PaymentOutcomeUnknown, Money.UNKNOWN),
    ("no right to look up a payment under way",
     PAYMENT, [INFLIGHT, WOKEN], FORBIDDEN, PaymentOutcomeUnknown, Money.UNKNOWN),
    ("no right to look up a duplicate",
     FRESH, [EXISTS_INFLIGHT, WOKEN], FORBIDDEN, PaymentOutcomeUnknown, Money.UNKNOWN),
    ("refused while attempts of an old failure were in flight",
     PAYMENT, [OLD_FAILED, EXISTS_INFLIGHT, WOKEN, OLD_FAILED, EXPIRED], OLD_FAILED,
     PaymentOutcomeUnknown, Money.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("payment", "reports", "last", "kind", "money"),
    [ending[1:] for ending in ENDINGS],
    ids=[ending[0] for ending in ENDINGS],
)
def test_a_run_ends_with_this_error(payment, reports, last, kind, money) -> None:
    machine, _, _ = _advance(payment, reports)
    with pytest.raises(kind) as caught:
        machine.advance(last, 1_000)
    assert caught.value.money is money
    assert machine.stage is Stage.ENDED


def test_a_refusal_after_a_send_without_answer_waits_for_what_the_store_says() -> None:
    machine, steps, _ = _advance(FRESH, [BROKEN, WOKEN])
    later_ms = 1_000 + RESEND_AFTER_MS
    assert _name(machine.advance(NOT_FOUND, later_ms)) == "send"
    assert _name(machine.advance(EXPIRED, later_ms)) == "look"
    with pytest.raises(PaymentFailed, match="expired") as caught:
        machine.advance(NOT_FOUND, later_ms)
    assert caught.value.money is Money.UNMOVED
    assert steps == ["send", "wait", "look"]


def test_a_refusal_after_a_send_without_answer_says_nothing_when_that_send_arrived() -> None:
    machine, _, _ = _advance(FRESH, [BROKEN, WOKEN])
    later_ms = 1_000 + RESEND_AFTER_MS
    machine.advance(NOT_FOUND, later_ms)
    machine.advance(NO_ROUTE, later_ms)
    assert _name(machine.advance(INFLIGHT, later_ms)) == "wait"
    machine.advance(WOKEN, later_ms)
    assert machine.advance(SUCCESS, later_ms) == SUCCESS.record


def test_an_unsent_send_after_one_without_answer_is_looked_up_again() -> None:
    machine, _, _ = _advance(FRESH, [BROKEN, WOKEN])
    later_ms = 1_000 + RESEND_AFTER_MS
    assert _name(machine.advance(NOT_FOUND, later_ms)) == "send"
    assert _name(machine.advance(NOT_SENT, later_ms)) == "wait"
    assert _name(machine.advance(WOKEN, later_ms)) == "look"


def test_sends_that_never_left_are_not_counted() -> None:
    machine, _, step = _advance(FRESH, [BROKEN, WOKEN])
    later_ms = 1_000 + RESEND_AFTER_MS
    for _ in range(3 * MAX_SENDS):
        assert _name(machine.advance(NOT_FOUND, later_ms)) == "send"
        assert _name(machine.advance(NOT_SENT, later_ms)) == "wait"
        step = machine.advance(WOKEN, later_ms)
    assert _name(step) == "look"


def test_sends_that_leave_no_trace_are_limited() -> None:
    machine = PaymentMachine(dataclasses.replace(FRESH, timeout_ms=10**9))
    now_ms, sends = 0, 0
    step = machine.begin(now_ms)
    for _ in range(100):
        sends += _name(step) == "send"
        report = {"send": BROKEN, "wait": WOKEN, "look": NOT_FOUND}[_name(step)]
        now_ms += 1_000
        step = machine.advance(report, now_ms)
    assert sends == MAX_SENDS


LATE = [
    ("under way", PAYMENT, [INFLIGHT], INFLIGHT, PaymentOutcomeUnknown, Money.UNKNOWN),
    ("accepted", FRESH, [CREATED], CREATED, PaymentOutcomeUnknown, Money.UNKNOWN),
    ("no answer", FRESH, [BROKEN], NOT_FOUND, PaymentOutcomeUnknown, Money.UNKNOWN),
    ("node away after a send", FRESH, [CREATED], LOOKUP_BROKEN,
     PaymentOutcomeUnknown, Money.UNKNOWN),
    ("never looked up", PAYMENT, [LOOKUP_BROKEN], LOOKUP_BROKEN,
     PaymentOutcomeUnknown, Money.UNKNOWN),
    ("looked up too late to send", PAYMENT, [LOOKUP_BROKEN], NOT_FOUND,
     TransportError, Money.UNMOVED),
    ("duplicate never accounted for", PAYMENT, [NOT_FOUND, EXISTS_INFLIGHT], LOOKUP_BROKEN,
     PaymentOutcomeUnknown, Money.UNKNOWN),
    ("old failure with attempts in flight", PAYMENT, [OLD_FAILED, EXISTS_INFLIGHT], OLD_FAILED,
     PaymentOutcomeUnknown, Money.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("payment", "before", "after", "kind", "money"),
                         [late[1:] for late in LATE], ids=[late[0] for late in LATE])  # fmt: skip
def test_the_deadline_ends_a_run_after_one_last_look(payment, before, after, kind, money) -> None:
    machine, _, step = _advance(payment, before)
    assert isinstance(step, WaitChange)
    over_ms = 1_000 + payment.timeout_ms
    last = machine.advance(WOKEN, over_ms)
    assert isinstance(last, MakeCall)
    assert 0 < last.timeout_ms <= LOOKUP_TIMEOUT_MS
    with pytest.raises(kind) as caught:
        machine.advance(after, over_ms)
    assert caught.value.money is money
    if kind is PaymentOutcomeUnknown:
        assert caught.value.details["payment_hash"] == "0x" + "11" * 32


def test_the_last_look_may_still_find_success() -> None:
    machine, _, _ = _advance(FRESH, [CREATED])
    machine.advance(WOKEN, 1_000 + FRESH.timeout_ms)
    assert machine.advance(SUCCESS, 1_000 + FRESH.timeout_ms) == SUCCESS.record


def test_an_unknown_outcome_names_the_last_error_as_its_cause() -> None:
    machine, _, _ = _advance(FRESH, [CREATED, WOKEN, LOOKUP_BROKEN])
    machine.advance(WOKEN, 10**9)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        machine.advance(LOOKUP_BROKEN, 10**9)
    assert caught.value.__cause__ is LOOKUP_BROKEN.error


def test_waits_follow_the_plan_and_end_with_the_deadline() -> None:
    machine = PaymentMachine(dataclasses.replace(FRESH, timeout_ms=1_000))
    now_ms = 0
    machine.begin(now_ms)
    step = machine.advance(CREATED, now_ms)
    waits = []
    while isinstance(step, WaitChange) and now_ms < 1_000:
        waits.append(step.timeout_ms)
        now_ms += step.timeout_ms
        machine.advance(WOKEN, now_ms)
        if now_ms >= 1_000:
            break
        step = machine.advance(INFLIGHT, now_ms)
    assert waits == [*POLL_PLAN_MS, 1_000 - sum(POLL_PLAN_MS)]


def test_calls_have_deadlines_within_the_payment_s() -> None:
    long = PaymentMachine(dataclasses.replace(FRESH, timeout_ms=10**6)).begin(0)
    assert isinstance(long, MakeCall)
    assert long.timeout_ms == SEND_TIMEOUT_MS
    short = PaymentMachine(dataclasses.replace(FRESH, timeout_ms=700)).begin(0)
    assert isinstance(short, MakeCall)
    assert short.timeout_ms == 700


def test_an_answer_about_another_payment_is_not_believed() -> None:
    other = dataclasses.replace(SUCCESS.record, payment_hash=PaymentHash(b"\x12" * 32))
    machine, _, _ = _advance(FRESH, [])
    with pytest.raises(PaymentOutcomeUnknown):
        machine.advance(Answered(record=other), 1_000)


LEGAL = {
    (Stage.NEW, Event.BEGIN),
    (Stage.WAITING, Event.WOKEN),
    *itertools.product(
        [Stage.LOOKING_UP],
        [Event.SUCCEEDED, Event.UNDER_WAY, Event.FAILED, Event.MISSING, Event.REFUSED,
         Event.NO_ANSWER],
    ),
    *itertools.product(
        [Stage.SENDING],
        [Event.SUCCEEDED, Event.UNDER_WAY, Event.FAILED, Event.EXISTS, Event.REFUSED,
         Event.DOUBTED, Event.UNSENT, Event.NO_ANSWER],
    ),
}  # fmt: skip


def _machine_in(stage: Stage) -> PaymentMachine:
    match stage:
        case Stage.NEW:
            return PaymentMachine(PAYMENT)
        case Stage.LOOKING_UP:
            return _advance(PAYMENT, [])[0]
        case Stage.SENDING:
            return _advance(FRESH, [])[0]
        case Stage.WAITING:
            return _advance(FRESH, [CREATED])[0]
        case Stage.ENDED:
            return _advance(FRESH, [SUCCESS])[0]


@pytest.mark.parametrize(
    ("stage", "event"), sorted(set(itertools.product(Stage, Event)) - LEGAL, key=str)
)
def test_an_event_that_does_not_fit_the_stage_is_a_bug(stage: Stage, event: Event) -> None:
    machine = _machine_in(stage)
    assert machine.stage is stage
    with pytest.raises(InvariantViolation):
        machine._on(event, None, None, 1_000)


@pytest.mark.parametrize(("stage", "event"), sorted(LEGAL, key=str))
def test_every_other_event_has_a_transition(stage: Stage, event: Event) -> None:
    assert (stage, event) in _machine_in(stage)._table


@pytest.mark.parametrize(
    ("amount", "cap", "rate"),
    [
        (1, 1, 1_000),
        (1, 0, 5),
        (100, 2, 20),
        (1_000_000, 5_000, 5),
        (1_000_000, 0, 5),
        (3, 1, 334),
        (1, 2**128 - 1, 10**15),
    ],
)
def test_the_fee_rate_leaves_the_cap_as_the_only_limit(amount: int, cap: int, rate: int) -> None:
    assert fee_rate_per_thousand(amount, cap) == rate
    if rate < 10**15:
        assert -(-amount * rate // 1000) >= cap


def test_a_send_carries_both_fee_caps() -> None:
    payment = dataclasses.replace(PAYMENT, amount=100, max_fee_amount=3)
    (members,) = payment.send_call().params()
    assert members == {
        "invoice": "fibd1x",
        "max_fee_amount": "0x3",
        "max_fee_rate": hex(30),
    }


@pytest.mark.parametrize(
    "wrong",
    [{"amount": 0}, {"amount": -1}, {"max_fee_amount": -1}, {"timeout_ms": 0},
     {"payment_hash": b"short"}],
)  # fmt: skip
def test_what_cannot_be_paid_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each check has its own words
        dataclasses.replace(PAYMENT, **wrong)


# Drivers.


class ScriptedNode:
    """Answers calls from a script; waits move a virtual clock."""

    def __init__(self, reports: list[Report]) -> None:
        self._reports = iter(reports)
        self.clock_ms = 0
        self.calls: list[str] = []

    def now_ms(self) -> int:
        return self.clock_ms

    def call(self, call, *, timeout_ms=None):
        assert timeout_ms is not None
        self.calls.append(call.method)
        report = next(self._reports)
        if isinstance(report, Raised):
            raise report.error
        assert isinstance(report, Answered)
        return report.record

    def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        assert payment_hash == HASH
        self.clock_ms += timeout_ms


class AsyncScriptedNode(ScriptedNode):
    async def call(self, call, *, timeout_ms=None):
        return super().call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        super().wait_change(payment_hash, timeout_ms=timeout_ms)


DRIVEN = [NOT_FOUND, BROKEN, INFLIGHT, LOOKUP_BROKEN, SUCCESS]
DRIVEN_CALLS = ["get_payment", "send_payment", "get_payment", "get_payment", "get_payment"]


def test_the_sync_driver_carries_steps() -> None:
    node = ScriptedNode(DRIVEN)
    assert pay_sync(node, PAYMENT, now_ms=node.now_ms) == SUCCESS.record
    assert node.calls == DRIVEN_CALLS
    assert node.clock_ms == 50 + 100 + 250


async def test_the_async_driver_carries_steps() -> None:
    node = AsyncScriptedNode(DRIVEN)
    assert await pay(node, PAYMENT, now_ms=node.now_ms) == SUCCESS.record
    assert node.calls == DRIVEN_CALLS
    assert node.clock_ms == 50 + 100 + 250


def test_the_sync_driver_ends_with_the_deadline() -> None:
    node = ScriptedNode([CREATED] * 1_000)
    with pytest.raises(PaymentOutcomeUnknown):
        pay_sync(node, FRESH, now_ms=node.now_ms)
    assert node.clock_ms == FRESH.timeout_ms


async def test_the_async_driver_raises_what_the_machine_raises() -> None:
    node = AsyncScriptedNode([NO_ROUTE])
    with pytest.raises(NoRoute):
        await pay(node, FRESH, now_ms=node.now_ms)
