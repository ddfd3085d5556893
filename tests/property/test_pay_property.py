"""The pay-once machine against a node that loses, delays and refuses.

One promise matters: what a run says about the money is true, whatever was lost on the way.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from infern.core.errors import InfernError, Money, NoRoute, PaymentOutcomeUnknown, TransportError
from infern.core.fiber.errors import FiberNodeError, PaymentAlreadyExists, PaymentNotFound
from infern.core.fiber.pay import (
    RESEND_AFTER_MS,
    Answered,
    MakeCall,
    PayInvoice,
    PaymentMachine,
    Raised,
    Report,
    Step,
    WaitChange,
    Woken,
)
from infern.core.fiber.rpc import GetPayment
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash

HASH = PaymentHash(b"\x11" * 32)
NOT_FOUND = Raised(error=PaymentNotFound("not found"))
BROKEN = Raised(error=TransportError("broken", money=Money.UNKNOWN))
NOT_SENT = Raised(error=TransportError("refused", code="fiber_unavailable"))
LOOKUP_BROKEN = Raised(error=TransportError("broken", code="fiber_unavailable"))
NO_ROUTE = Raised(error=NoRoute("no path"))
ODD_ERROR = Raised(error=FiberNodeError("odd", money=Money.UNKNOWN))

SEND_FATES = ["answered", "answer_lost", "request_lost", "late", "not_sent", "no_route", "odd"]
LOOK_FATES = ["answered", "answered", "lost"]


class LossyNode:
    """One payment at a node, on a virtual clock, with a fate drawn for every call."""

    def __init__(self, draw, history: str) -> None:
        self._draw = draw
        self.now_ms = 0
        self.status: PaymentStatus | None = None
        self.started_at_ms = -1
        self.ends_at_ms: int | None = None
        self.end = PaymentStatus.SUCCESS
        self.arriving: list[int] = []
        self.successes = 0
        match history:
            case "failed":
                self.status = PaymentStatus.FAILED
            case "under_way":
                self._start()
            case "paid":
                self.status = PaymentStatus.SUCCESS
                self.successes = 1

    def _start(self) -> None:
        if self.status in {None, PaymentStatus.FAILED}:
            self.status = PaymentStatus.INFLIGHT
            self.started_at_ms = self.now_ms
            self.end = self._draw(st.sampled_from([PaymentStatus.SUCCESS, PaymentStatus.FAILED]))
            lasts_ms = self._draw(st.sampled_from([1, 300, 5_000, 10**7]))
            self.ends_at_ms = self.now_ms + lasts_ms

    def advance_to(self, now_ms: int) -> None:
        for at_ms in sorted(at for at in self.arriving if at <= now_ms):
            self.arriving.remove(at_ms)
            self.now_ms = at_ms
            self._finish(at_ms)
            self._start()
        self._finish(now_ms)
        self.now_ms = now_ms

    def _finish(self, now_ms: int) -> None:
        if self.ends_at_ms is not None and self.ends_at_ms <= now_ms:
            self.ends_at_ms = None
            self.status = self.end
            self.successes += self.end is PaymentStatus.SUCCESS

    def _record(self) -> PaymentRecord:
        assert self.status is not None
        return PaymentRecord(
            payment_hash=HASH,
            status=self.status,
            preimage=None,
            fee=0,
            failed_error=None,
            created_at_ms=self.started_at_ms,
            last_updated_at_ms=self.started_at_ms,
        )

    def report(self, step: Step) -> Report:
        match step:
            case WaitChange(timeout_ms=timeout_ms):
                self.advance_to(self.now_ms + self._draw(st.integers(0, timeout_ms)))
                return Woken()
            case MakeCall(call=GetPayment()):
                self.advance_to(self.now_ms + 1)
                if self._draw(st.sampled_from(LOOK_FATES)) == "lost":
                    return LOOKUP_BROKEN
                return NOT_FOUND if self.status is None else Answered(record=self._record())
            case _:
                self.advance_to(self.now_ms + 1)
                return self._send(self._draw(st.sampled_from(SEND_FATES)))

    def _send(self, fate: str) -> Report:
        if fate == "not_sent":
            return NOT_SENT
        if fate == "request_lost":
            return BROKEN
        if fate == "late":
            delay_ms = self._draw(st.integers(1, RESEND_AFTER_MS - 1))
            self.arriving.append(self.now_ms + delay_ms)
            return BROKEN
        # The node takes sends in order: one that is late is taken before this one.
        for at_ms in self.arriving:
            assert at_ms <= self.now_ms, "a second send overtook the first"
        busy = self.status not in {None, PaymentStatus.FAILED}
        if busy:
            assert self.status is not None
            exists = PaymentAlreadyExists("exists", payment_status=self.status)
            return BROKEN if fate == "answer_lost" else Raised(error=exists)
        if fate == "odd":
            return ODD_ERROR
        if fate == "no_route":
            self.status, self.started_at_ms = PaymentStatus.FAILED, self.now_ms
            return NO_ROUTE
        self._start()
        return BROKEN if fate == "answer_lost" else Answered(record=self._record())


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(["none", "failed", "under_way", "paid"]), st.booleans())
def test_whatever_is_lost_the_verdict_about_the_money_is_true(data, history, lookup) -> None:
    node = LossyNode(data.draw, history)
    lookup_first = lookup or history != "none"
    machine = PaymentMachine(
        PayInvoice(
            invoice_text="fibd1x",
            payment_hash=HASH,
            amount=1_000_000,
            max_fee_amount=5_000,
            timeout_ms=8_000,
            lookup_first=lookup_first,
        )
    )
    outcome = _drive(machine, node)
    if isinstance(outcome, PaymentRecord):
        assert node.successes == 1
    elif outcome.money is Money.UNMOVED:
        assert node.arriving == []
        assert node.status in {None, PaymentStatus.FAILED}
        assert node.successes == 0
    else:
        assert isinstance(outcome, PaymentOutcomeUnknown)
    node.advance_to(10**9)
    assert node.successes <= 1


def _drive(machine: PaymentMachine, node: LossyNode) -> PaymentRecord | InfernError:
    step = machine.begin(node.now_ms)
    try:
        while not isinstance(step, PaymentRecord):
            step = machine.advance(node.report(step), node.now_ms)
    except InfernError as error:
        return error
    return step
