"""Payments in hold mode after the proof went out: only our own node says how they ended.

The seller takes the payment when it delivered and gives it back when it did not; it may also
vanish, and then the payment stays locked for up to two weeks. Nobody waits for any of that except
who asks for the very same request again. The journal has the rows; these steps ask the node about
them, one look-up each.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from infern.client.effects import Conclude, Steps, locking, look
from infern.client.journal import Attempt
from infern.client.paying import Held, moved, step
from infern.client.wallet import Wallet
from infern.core.errors import InfernError, PaymentOutcomeUnknown
from infern.core.f402.client import ClientEvent, ClientState
from infern.core.fiber.errors import PaymentNotFound
from infern.core.fiber.pay import POLL_PLAN_MS, MakeCall, WaitChange
from infern.core.fiber.rpc_payments import GetPayment
from infern.core.fiber.types import Channel, PaymentRecord, PaymentStatus
from infern.core.units import format_amount

logger = logging.getLogger(__name__)

LOOK_TIMEOUT_MS: Final = 2_000
LATE_MS: Final = 900_000
"""A seller that does its duty has ended a payment by then; an older one is worth a warning."""
BUSY_MS: Final = 60_000
"""A row whose proof went out more recently is probably a live exchange's, which looks itself."""
_WAITING: Final = frozenset({ClientState.SETTLING, ClientState.RETURNING})


def glance(held: Held, attempt: Attempt, wallet: Wallet) -> Steps[Attempt]:
    """Ask the node once what became of a payment that is held by this exchange.

    Returns:
        The row in `PAID`, `UNREDEEMED` or `PAYMENT_FAILED`, or as it was when there is no news.
    """
    record = yield from _look_up(attempt)
    event = _ended(record)
    if event is None:
        return attempt
    return (yield from step(held, attempt, event, wallet.clock, record=record))


def await_return(held: Held, attempt: Attempt, wallet: Wallet) -> Steps[Attempt]:
    """Wait a moment for a refused payment to come back.

    Returns:
        The row in `PAYMENT_FAILED`, in `UNREDEEMED` when the seller took it all the same, or still
        in `RETURNING` when patience ended.
    """
    give_up_ms = wallet.clock.now_ms() + wallet.patience.return_ms
    turn = 0
    while True:
        attempt = yield from glance(held, attempt, wallet)
        left_ms = give_up_ms - wallet.clock.now_ms()
        if attempt.state is not ClientState.RETURNING or left_ms <= 0:
            return attempt
        pause_ms = POLL_PLAN_MS[min(turn, len(POLL_PLAN_MS) - 1)]
        turn += 1
        yield WaitChange(payment_hash=attempt.payment_hash, timeout_ms=min(pause_ms, left_ms))


def look_after(wallet: Wallet) -> Steps[None]:
    """Ask the node about every payment in hold mode whose end nobody has heard of.

    A node that does not answer ends this: then the rows stay as they are. What a live exchange is
    using, or may be, is left to it.

    Raises:
        LedgerError: The journal is away.
    """
    rows = yield from locking()
    busy_ms = wallet.clock.now_ms() - BUSY_MS
    for attempt in rows:
        if attempt.state not in _WAITING and attempt.updated_ms > busy_ms:
            continue
        try:
            record = yield from _ask_node(attempt)
        except PaymentNotFound:
            record = None  # never sent, or the node lost it: nothing is known
        except InfernError as error:
            logger.warning("held payments could not be looked up: %s", error.message)
            return
        now_ms = wallet.clock.now_ms()
        event = _ended(record)
        if event is None and record is not None and attempt.state is ClientState.PAYING:
            yield Conclude(before=attempt, after=moved(attempt, ClientEvent.PAY_HELD, now_ms))
        if event is not None and record is not None:
            after = moved(attempt, event, now_ms, preimage=record.preimage, fee=record.fee)
            yield Conclude(before=attempt, after=after)
        else:
            _warn_when_late(attempt, now_ms, wallet)


def locked_until_ms(attempt: Attempt, channels: Sequence[Channel]) -> int:
    """When Fiber ends a payment in hold mode at the latest, Unix milliseconds.

    Args:
        attempt: Of the payment.
        channels: Of the payer's node, whose TLC knows better than the rule of 14 days; none when
            the node was not asked.
    """
    expiries = [
        tlc.expiry_ms
        for channel in channels
        for tlc in channel.pending_tlcs
        if tlc.payment_hash == attempt.payment_hash
    ]
    return max(expiries, default=attempt.locked_until_ms)


def lock_details(attempt: Attempt, channels: Sequence[Channel] = ()) -> dict[str, str]:
    """What the payer should know of a payment that may be locked, for programs."""
    return {
        "payment_hash": attempt.payment_hash.hex(),
        "amount": str(attempt.amount),
        "since": _time(attempt.created_ms),
        "until": _time(locked_until_ms(attempt, channels)),
    }


def lock_text(attempt: Attempt, channels: Sequence[Channel] = ()) -> str:
    """The same in one line for people."""
    return (
        f"{format_amount(attempt.amount)} to {attempt.origin}, locked since"
        f" {_time(attempt.created_ms)} and until {_time(locked_until_ms(attempt, channels))} at the"
        " latest"
    )


def not_back(attempt: Attempt, complaint: str) -> PaymentOutcomeUnknown:
    """The error for a need whose held payment has neither been taken nor come back."""
    return PaymentOutcomeUnknown(
        f"{complaint} The payment in hold mode has not come back yet: {lock_text(attempt)}. It is"
        " not paid again until your node says that it is back; repeat the same request later.",
        details={**lock_details(attempt)},
    )


def _look_up(attempt: Attempt) -> Steps[PaymentRecord | None]:
    try:
        return (yield from _ask_node(attempt))
    except InfernError:
        return None


def _ask_node(attempt: Attempt) -> Steps[PaymentRecord]:
    call = GetPayment(payment_hash=attempt.payment_hash)
    record = yield from look(MakeCall(call=call, timeout_ms=LOOK_TIMEOUT_MS))
    if record.payment_hash != attempt.payment_hash:
        raise PaymentOutcomeUnknown("the node answered with another payment")
    return record


def _ended(record: PaymentRecord | None) -> ClientEvent | None:
    if record is None:
        return None
    if record.status is PaymentStatus.SUCCESS:
        return ClientEvent.PAY_SUCCEEDED
    return ClientEvent.PAY_FAILED if record.status is PaymentStatus.FAILED else None


def _warn_when_late(attempt: Attempt, now_ms: int, wallet: Wallet) -> None:
    if now_ms - attempt.created_ms < LATE_MS or attempt.payment_hash in wallet.noticed:
        return
    wallet.noticed.add(attempt.payment_hash)
    logger.warning("a payment in hold mode does not end: %s", lock_text(attempt))


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
