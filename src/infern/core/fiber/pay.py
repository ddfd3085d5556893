"""Paying an invoice exactly once: the state machine, without I/O.

A payment is keyed by its payment hash at the payer's node. So whatever breaks — the connection,
the node, this process — the answer to "did it happen?" is `get_payment`, and a second send is
allowed only after that answer says that nothing is under way::

    LOOKING_UP ── none / old failure ──► SENDING ── accepted, exists, no answer ──► WAITING
        ▲  │ success ► done                │ refused: raise, unmoved                  │
        │  │ failure of ours: raise        │                                          │
        │  └ under way ───────────────────────────────────────────────────► WAITING   │
        └──────────────────────────── woken by an event or the polling plan ──────────┘

The caller's deadline ends in `PaymentOutcomeUnknown` unless the outcome is certain. The node
cannot cancel a payment, so the money may still leave later: look it up again, do not pay again.

`PaymentMachine` says what to do next (`MakeCall`, `WaitChange`) and is told what came of it;
`infern.core.fiber.pay_drivers` runs it over any node.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.errors import (
    ConfigError,
    InfernError,
    InvariantViolation,
    LocalProtocolError,
    Money,
    PaymentFailed,
    PaymentOutcomeUnknown,
    TransportError,
)
from infern.core.fiber.errors import (
    FiberNodeError,
    PaymentAlreadyExists,
    PaymentNotFound,
    payment_failure,
)
from infern.core.fiber.hexnum import U128_BITS
from infern.core.fiber.params import require_length, require_uint
from infern.core.fiber.rpc_payments import GetPayment, SendPayment
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash
from infern.core.units import div_ceil

POLL_PLAN_MS: Final = (50, 100, 250, 500)
"""How long to wait before each look-up; the last is repeated. Events wake up sooner."""
LOOKUP_TIMEOUT_MS: Final = 5_000
SEND_TIMEOUT_MS: Final = 10_000
MAX_SENDS: Final = 3
"""Sends of one run. More than one only when a send got no answer and left no trace."""
RESEND_AFTER_MS: Final = 2_000
"""How long a send without an answer gets to show up at the node before another is made.

fnn keys payments by hash, but versions before 0.9.1 had races between sends of one hash.
"""
_DEFAULT_FEE_RATE: Final = 5
_MAX_FEE_RATE: Final = 10**15


def fee_rate_per_thousand(amount: int, max_fee_amount: int) -> int:
    """The `max_fee_rate` that leaves `max_fee_amount` as the only real cap.

    fnn's budget is `min(max_fee_amount, ceil(amount * rate / 1000))`. With its default rate of 5 a
    payment of 200 units or less has a budget of one unit, too little for two forwarders.
    """
    if amount <= 0:
        raise ValueError("a payment's amount is greater than zero")
    wanted = div_ceil(max_fee_amount * 1000, amount)
    return min(max(wanted, _DEFAULT_FEE_RATE), _MAX_FEE_RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayInvoice:
    """One invoice to pay, decoded and approved by the caller.

    Args:
        invoice_text: What the node pays.
        payment_hash: Of that invoice; the identity of the payment.
        amount: Of that invoice, base units.
        max_fee_amount: The most to pay forwarders on top, base units.
        timeout_ms: How long to try and wait. Counted by the driver's clock; the run ends at most
            one look-up (`LOOKUP_TIMEOUT_MS`) later.
        lookup_first: Ask the node before the first send. False saves a round trip and is right
            only for an invoice that was certainly never sent before.
        is_hold: The payee takes it only after it delivered: the run ends as soon as the node says
            that the payment is under way, with a record that says so.
    """

    invoice_text: str
    payment_hash: PaymentHash
    amount: int
    max_fee_amount: int
    timeout_ms: int
    lookup_first: bool = True
    is_hold: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be paid."""
        require_length(self.payment_hash, 32, "a payment hash")
        require_uint(self.amount, U128_BITS, "amount")
        require_uint(self.max_fee_amount, U128_BITS, "max_fee_amount")
        if self.amount == 0:
            raise ValueError("a payment's amount is greater than zero")
        if self.timeout_ms <= 0:
            raise ValueError("timeout_ms is greater than zero")

    def send_call(self) -> SendPayment:
        """The call that pays, with both fee caps."""
        return SendPayment(
            invoice=self.invoice_text,
            max_fee_amount=self.max_fee_amount,
            max_fee_rate_per_thousand=fee_rate_per_thousand(self.amount, self.max_fee_amount),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeCall:
    """Make this call and report what came of it: `Answered` or `Raised`."""

    call: SendPayment | GetPayment
    timeout_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitChange:
    """Wait for a change of this payment, at most so long, then report `Woken`."""

    payment_hash: PaymentHash
    timeout_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The call returned."""

    record: PaymentRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The call raised."""

    error: InfernError


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """The wait is over, by an event or by time."""


Step = MakeCall | WaitChange | PaymentRecord
"""What to do next; a record means that the payment succeeded, or is under way in hold mode."""
Report = Answered | Raised | Woken


class Stage(Enum):
    """Where a run is."""

    NEW = "new"
    LOOKING_UP = "looking_up"
    SENDING = "sending"
    WAITING = "waiting"
    ENDED = "ended"


class Event(Enum):
    """What happened, as the transition table knows it."""

    BEGIN = "begin"
    SUCCEEDED = "succeeded"
    UNDER_WAY = "under_way"
    FAILED = "failed"
    MISSING = "missing"
    """The node knows no such payment."""
    EXISTS = "exists"
    """The node refused a send because it has the payment."""
    REFUSED = "refused"
    """An error after which nothing of this call happened."""
    DOUBTED = "doubted"
    """The node answered a send with an error nobody knows: its store tells what it did."""
    UNSENT = "unsent"
    """The call certainly never reached the node."""
    NO_ANSWER = "no_answer"
    """An error after which the call may or may not have happened."""
    WOKEN = "woken"


class PaymentMachine:
    """One run of paying one invoice. Not reusable, not safe to share.

    A run is begun once and advanced with a report of each step. A step or a raised error ends
    nothing by itself: the driver stops when it gets a `PaymentRecord` or an exception.
    """

    def __init__(self, payment: PayInvoice) -> None:
        self._payment = payment
        self._stage = Stage.NEW
        self._now_ms = 0
        self._deadline_ms = 0
        self._polls = 0
        self._sends = 0
        self._unanswered = False
        """A send of this run got no clear answer and the node has not accounted for it since."""
        self._unanswered_at_ms = 0
        self._contested = False
        """The node refused a send because of a payment that was not looked up since."""
        self._accepted = False
        """The node confirmed that a payment is or was under way during this run."""
        self._clear = False
        """The node's last word: nothing is under way. Nothing was sent since."""
        self._old_failure: PaymentRecord | None = None
        """The failed payment that was there before the last send."""
        self._refusal: InfernError | None = None
        """The error of a send, kept while the node's store is asked what it did."""
        self._last_error: InfernError | None = None
        self._table = self._transitions()

    @property
    def stage(self) -> Stage:
        """Where the run is."""
        return self._stage

    def begin(self, now_ms: int) -> Step:
        """Start the run; the deadline counts from here."""
        self._deadline_ms = now_ms + self._payment.timeout_ms
        return self._on(Event.BEGIN, None, None, now_ms)

    def advance(self, report: Report, now_ms: int) -> Step:
        """Say what came of the last step and get the next.

        Raises:
            NoRoute: No path; nothing was paid.
            PaymentFailed: The payment failed; nothing was paid.
            PaymentOutcomeUnknown: The deadline passed, or the node stopped answering, while the
                payment may be under way. Look it up later; never pay again for the same need.
            InfernError: The node refused the call before anything moved.
            InvariantViolation: The report does not fit the step.
        """
        match report:
            case Woken():
                return self._on(Event.WOKEN, None, None, now_ms)
            case Answered(record=record):
                return self._on(_event_of_record(record), record, None, now_ms)
            case Raised(error=error):
                looking = self._stage is Stage.LOOKING_UP
                event = _event_of_lookup(error) if looking else _event_of_send(error)
                return self._on(event, None, error, now_ms)

    def _on(
        self, event: Event, record: PaymentRecord | None, error: InfernError | None, now_ms: int
    ) -> Step:
        handler = self._table.get((self._stage, event))
        if handler is None:
            raise InvariantViolation(f"payment machine: {event.name} in {self._stage.name}")
        if record is not None and record.payment_hash != self._payment.payment_hash:
            raise self._end(self._unknown("the node answered with another payment"))
        self._now_ms = now_ms
        self._last_error = error or self._last_error
        return handler(record, error)

    def _transitions(self) -> Mapping[tuple[Stage, Event], "_Handler"]:
        looking, sending = Stage.LOOKING_UP, Stage.SENDING
        return {
            (Stage.NEW, Event.BEGIN): self._begin,
            (looking, Event.SUCCEEDED): self._done,
            (looking, Event.UNDER_WAY): self._found,
            (looking, Event.FAILED): self._found_failed,
            (looking, Event.MISSING): self._found_nothing,
            (looking, Event.REFUSED): self._lookup_refused,
            (looking, Event.NO_ANSWER): self._lookup_unanswered,
            (sending, Event.SUCCEEDED): self._done,
            (sending, Event.UNDER_WAY): self._found,
            (sending, Event.FAILED): self._failed,
            (sending, Event.EXISTS): self._exists,
            (sending, Event.REFUSED): self._send_refused,
            (sending, Event.DOUBTED): self._send_doubted,
            (sending, Event.UNSENT): self._send_unsent,
            (sending, Event.NO_ANSWER): self._send_unanswered,
            (Stage.WAITING, Event.WOKEN): self._woken,
        }

    # Handlers, named for what happened.

    def _begin(self, _record: PaymentRecord | None, _error: InfernError | None) -> Step:
        return self._look_up() if self._payment.lookup_first else self._send()

    def _done(self, record: PaymentRecord | None, _error: InfernError | None) -> Step:
        self._stage = Stage.ENDED
        return _present(record)

    def _found(self, record: PaymentRecord | None, _error: InfernError | None) -> Step:
        self._accepted, self._unanswered, self._contested = True, False, False
        self._clear = False
        return self._done(record, None) if self._payment.is_hold else self._wait()

    def _found_failed(self, record: PaymentRecord | None, _error: InfernError | None) -> Step:
        """A failure seen under way, or new since our send, is ours; an older one is history."""
        record = _present(record)
        if self._accepted or (self._sends > 0 and record != self._old_failure):
            return self._failed(record, None)
        self._old_failure = record
        return self._found_nothing(None, None)

    def _failed(self, record: PaymentRecord | None, _error: InfernError | None) -> Step:
        raise self._end(payment_failure(_present(record)))

    def _found_nothing(self, _record: PaymentRecord | None, _error: InfernError | None) -> Step:
        """Nothing is under way at the node, as far as it knows."""
        if self._accepted:
            # It was there and is gone: a node that lost its store cannot say what it sent.
            return self._wait()
        if self._refusal is not None:
            if self._contested:
                raise self._end(self._unknown("the node contradicts itself about the payment"))
            raise self._end(_unmoved(self._refusal))
        self._clear = True
        settling = self._unanswered and self._now_ms < self._unanswered_at_ms + RESEND_AFTER_MS
        if settling or self._sends >= MAX_SENDS:
            return self._wait()
        return self._send()

    def _lookup_refused(self, _record: PaymentRecord | None, error: InfernError | None) -> Step:
        if error is not None and self._sends == 0 and not self._in_doubt:
            raise self._end(error)
        raise self._end(self._unknown("the node refuses to say what became of the payment"))

    def _lookup_unanswered(self, _record: PaymentRecord | None, _error: InfernError | None) -> Step:
        return self._wait()

    def _exists(self, _record: PaymentRecord | None, error: InfernError | None) -> Step:
        self._sends -= 1
        if (
            isinstance(error, PaymentAlreadyExists)
            and error.payment_status is PaymentStatus.SUCCESS
        ):
            self._accepted = True
            return self._look_up()
        # Under way by another send, or failed with attempts that are not accounted for: the
        # look-up tells which, and after some waiting an old failure may be sent again.
        self._contested = True
        return self._wait()

    def _send_refused(self, _record: PaymentRecord | None, error: InfernError | None) -> Step:
        if error is not None and not self._in_doubt:
            raise self._end(error)
        return self._send_doubted(None, error)

    def _send_doubted(self, _record: PaymentRecord | None, error: InfernError | None) -> Step:
        # The error says nothing of a send before it. The node takes sends in order and stores a
        # payment before it moves anything, so its store knows all of them by now.
        self._unanswered = True
        self._refusal = error
        return self._look_up()

    def _send_unsent(self, _record: PaymentRecord | None, error: InfernError | None) -> Step:
        self._sends -= 1
        if error is not None and not self._in_doubt:
            raise self._end(error)
        return self._wait()

    def _send_unanswered(self, _record: PaymentRecord | None, _error: InfernError | None) -> Step:
        self._unanswered = True
        self._unanswered_at_ms = self._now_ms
        return self._wait()

    def _woken(self, _record: PaymentRecord | None, _error: InfernError | None) -> Step:
        return self._look_up()

    # Steps.

    def _look_up(self) -> Step:
        self._stage = Stage.LOOKING_UP
        timeout_ms = max(self._remaining_ms(), LOOKUP_TIMEOUT_MS // 5)
        return MakeCall(
            call=GetPayment(payment_hash=self._payment.payment_hash),
            timeout_ms=min(timeout_ms, LOOKUP_TIMEOUT_MS),
        )

    def _send(self) -> Step:
        if self._remaining_ms() <= 0:
            raise self._end(self._too_late())
        self._stage = Stage.SENDING
        self._sends += 1
        self._clear = False
        return MakeCall(
            call=self._payment.send_call(), timeout_ms=min(self._remaining_ms(), SEND_TIMEOUT_MS)
        )

    def _wait(self) -> Step:
        if self._remaining_ms() <= 0:
            raise self._end(self._too_late())
        self._stage = Stage.WAITING
        wait_ms = POLL_PLAN_MS[min(self._polls, len(POLL_PLAN_MS) - 1)]
        self._polls += 1
        return WaitChange(
            payment_hash=self._payment.payment_hash,
            timeout_ms=min(wait_ms, self._remaining_ms()),
        )

    # Ends.

    def _remaining_ms(self) -> int:
        return self._deadline_ms - self._now_ms

    @property
    def _in_doubt(self) -> bool:
        return self._unanswered or self._contested or self._accepted

    def _end(self, error: InfernError) -> InfernError:
        self._stage = Stage.ENDED
        return error

    def _too_late(self) -> InfernError:
        if self._clear and not self._in_doubt:
            return TransportError(
                "the time for this payment was over before it could be sent",
                code="fiber_unavailable",
                money=Money.UNMOVED,
            )
        return self._unknown("the payment did not end in time")

    def _unknown(self, why: str) -> PaymentOutcomeUnknown:
        unknown = PaymentOutcomeUnknown(
            f"{why}: it may still succeed; look it up by its payment hash, do not pay again",
            details={"payment_hash": f"0x{self._payment.payment_hash.hex()}"},
        )
        unknown.__cause__ = self._last_error
        return unknown


_Handler = Callable[[PaymentRecord | None, InfernError | None], Step]


def _present(record: PaymentRecord | None) -> PaymentRecord:
    if record is None:
        raise InvariantViolation("payment machine: a record is missing")
    return record


def _event_of_record(record: PaymentRecord) -> Event:
    match record.status:
        case PaymentStatus.SUCCESS:
            return Event.SUCCEEDED
        case PaymentStatus.FAILED:
            return Event.FAILED
        case PaymentStatus.CREATED | PaymentStatus.INFLIGHT | PaymentStatus.UNKNOWN:
            return Event.UNDER_WAY


def _event_of_lookup(error: InfernError) -> Event:
    if isinstance(error, PaymentNotFound):
        return Event.MISSING
    if isinstance(error, ConfigError | LocalProtocolError):
        return Event.REFUSED
    return Event.NO_ANSWER


def _event_of_send(error: InfernError) -> Event:
    if isinstance(error, PaymentAlreadyExists):
        return Event.EXISTS
    if isinstance(error, FiberNodeError):
        return Event.DOUBTED
    if error.money is not Money.UNMOVED:
        return Event.NO_ANSWER
    return Event.UNSENT if isinstance(error, TransportError) else Event.REFUSED


def _unmoved(refusal: InfernError) -> InfernError:
    """The error of a refused send after the node's store confirmed that nothing was paid."""
    if refusal.money is Money.UNMOVED:
        return refusal
    return PaymentFailed(f"the node refused the payment, nothing was paid: {refusal.message}")
