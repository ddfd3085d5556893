"""From a checked offer to a paid row: intent first, then the payment, and never a second one."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from infern.client.effects import Intend, Record, Steps, look
from infern.client.journal import Attempt
from infern.client.wallet import ClientClock, Wallet
from infern.core.errors import (
    InfernError,
    Money,
    NoRoute,
    PaymentFailed,
    PaymentOutcomeUnknown,
)
from infern.core.f402.challenge import Mode
from infern.core.f402.client import ClientEvent, ClientState, advance
from infern.core.fiber.pay import (
    Answered,
    MakeCall,
    PayInvoice,
    PaymentMachine,
    Raised,
    Report,
    WaitChange,
    Woken,
)
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import Preimage


@dataclass(slots=True)
class Held:
    """The row an exchange owns at this moment, for whoever must clean up after it."""

    attempt: Attempt | None = None


def moved(
    attempt: Attempt,
    event: ClientEvent,
    now_ms: int,
    *,
    preimage: Preimage | None = None,
    fee: int | None = None,
) -> Attempt:
    """The row after an event; the table of `core.f402.client` decides whether it may happen."""
    return replace(
        attempt,
        state=advance(attempt.state, event),
        updated_ms=now_ms,
        preimage=attempt.preimage if preimage is None else preimage,
        fee=attempt.fee if fee is None else fee,
    )


def step(
    held: Held,
    attempt: Attempt,
    event: ClientEvent,
    clock: ClientClock,
    *,
    record: PaymentRecord | None = None,
) -> Steps[Attempt]:
    """Move a row and write it down before anything else happens."""
    after = moved(
        attempt,
        event,
        clock.now_ms(),
        preimage=record.preimage if record else None,
        fee=record.fee if record else None,
    )
    yield Record(before=attempt, after=after)
    held.attempt = after
    return after


def begin_payment(held: Held, intended: Attempt, wallet: Wallet) -> Steps[Attempt]:
    """Write the intent within the budget, pay, and return the row in `PAID`.

    In hold mode the row is in `HELD` as soon as the node says that the payment is under way.

    Raises:
        BudgetExceeded: Nothing was written or paid.
        PaymentFailed: Or any error with money unmoved; the row says so and counts no more.
        PaymentOutcomeUnknown: The row stays in `PAYING`; the next exchange asks the node again.
    """
    # Held before it is written, so that a driver cancelled in between knows what to give up.
    held.attempt = intended
    try:
        yield Intend(attempt=intended)
    except InfernError:
        held.attempt = None
        raise
    paying = yield from step(held, intended, ClientEvent.PAY_SENT, wallet.clock)
    return (yield from _finish(held, paying, wallet, lookup_first=False))


def resume_payment(held: Held, paying: Attempt, wallet: Wallet) -> Steps[Attempt]:
    """Learn what became of a payment that was begun earlier; pays that same invoice if nothing did.

    Fiber keys a payment by its hash, so sending the same invoice again cannot pay twice.

    Raises:
        PaymentFailed: Or `NoRoute`: the node says so; the row is closed.
        PaymentOutcomeUnknown: Nobody knows yet; the row stays in `PAYING`.
    """
    held.attempt = paying
    return (yield from _finish(held, paying, wallet, lookup_first=True))


def _finish(held: Held, paying: Attempt, wallet: Wallet, *, lookup_first: bool) -> Steps[Attempt]:
    payment = PayInvoice(
        invoice_text=paying.invoice,
        payment_hash=paying.payment_hash,
        amount=paying.amount,
        max_fee_amount=paying.fee_cap,
        timeout_ms=wallet.patience.pay_ms,
        lookup_first=lookup_first,
        is_hold=paying.mode is Mode.HOLD,
    )
    try:
        record = yield from _run(PaymentMachine(payment), wallet.clock.now_ms)
    except InfernError as error:
        if _certainly_failed(error, resumed=lookup_first):
            yield from step(held, paying, ClientEvent.PAY_FAILED, wallet.clock)
            raise
        yield from step(held, paying, ClientEvent.PAY_UNKNOWN, wallet.clock)
        if isinstance(error, PaymentOutcomeUnknown):
            raise
        raise PaymentOutcomeUnknown(
            f"the payment may be under way and the node does not say: {error.message}"
            " Repeat the same request later; it is not paid again."
        ) from error
    if record.status is not PaymentStatus.SUCCESS:
        # The record's fee is not the last word while the payment is under way.
        return (yield from step(held, paying, ClientEvent.PAY_HELD, wallet.clock))
    return (yield from step(held, paying, ClientEvent.PAY_SUCCEEDED, wallet.clock, record=record))


def _certainly_failed(error: InfernError, *, resumed: bool) -> bool:
    """True when no money can be under way for this row.

    An error of a resumed run says what that run did, not what the one before the restart did;
    only the node's word about the payment itself counts then.
    """
    if isinstance(error, PaymentFailed | NoRoute):
        return error.money is Money.UNMOVED
    return not resumed and error.money is Money.UNMOVED


def _run(machine: PaymentMachine, now_ms: Callable[[], int]) -> Steps[PaymentRecord]:
    todo = machine.begin(now_ms())
    while not isinstance(todo, PaymentRecord):
        report = yield from _report(todo)
        todo = machine.advance(report, now_ms())
    return todo


def _report(todo: MakeCall | WaitChange) -> Steps[Report]:
    if isinstance(todo, WaitChange):
        yield todo
        return Woken()
    try:
        return Answered(record=(yield from look(todo)))
    except InfernError as error:
        return Raised(error=error)


def last_words(attempt: Attempt, now_ms: int) -> Attempt:
    """The row as it must be left when its exchange ends without an answer.

    What was only intended is given up; what was being proved stays redeemable, or held.
    """
    events = {
        ClientState.INTENDED: ClientEvent.OFFER_DECLINED,
        ClientState.PROVING: ClientEvent.SELLER_FAILED,
        ClientState.CLAIMING: ClientEvent.SELLER_FAILED,
    }
    event = events.get(attempt.state)
    return attempt if event is None else moved(attempt, event, now_ms)
