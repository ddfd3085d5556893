"""A payer's Fiber node that does what a test tells it, over the port's calls.

It keeps payments by hash as fnn does, so that paying one invoice twice is impossible and paying
two invoices is counted. `plan` says how the next sends go; without a plan every send succeeds at
the first look-up. `faults` breaks other calls, one after another.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar, cast

import anyio.lowlevel

from infern.core.crypto import SignatureVerifier
from infern.core.errors import InfernError, LocalProtocolError, Money, NoRoute, TransportError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.errors import (
    FiberNodeError,
    InvoiceNotFound,
    PaymentAlreadyExists,
    PaymentNotFound,
)
from infern.core.fiber.invoice import decode_invoice
from infern.core.fiber.rpc import GetInvoice, ListChannels
from infern.core.fiber.rpc_payments import GetPayment, ListPayments, PaymentsPage, SendPayment
from infern.core.fiber.types import Channel, PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash, Preimage

T = TypeVar("T")


class Send(Enum):
    """How one send goes."""

    SUCCEED = "succeed"
    FAIL = "fail"
    """Under way at first, failed at the first look-up."""
    NO_ROUTE = "no_route"
    STUCK = "stuck"
    """Under way for ever."""
    LOST = "lost"
    """The connection breaks before the node hears of it."""
    UNHEARD = "unheard"
    """The payment succeeds, and the connection breaks before the node's answer."""
    UNSENT = "unsent"
    """There is no connection: the node certainly hears nothing."""
    REFUSED = "refused"
    """The node refuses before it stores anything."""
    ODD = "odd"
    """The node answers with an error nobody knows; the payment is under way all the same."""
    ODD_FAIL = "odd_fail"
    """The node answers with an error nobody knows; the payment failed."""


_STORED = {
    Send.FAIL: PaymentStatus.FAILED,
    Send.NO_ROUTE: PaymentStatus.FAILED,
    Send.ODD_FAIL: PaymentStatus.FAILED,
    Send.STUCK: PaymentStatus.INFLIGHT,
    Send.ODD: PaymentStatus.INFLIGHT,
    Send.SUCCEED: PaymentStatus.SUCCESS,
    Send.UNHEARD: PaymentStatus.SUCCESS,
}
"""What the node has of a payment afterwards; the others leave no trace."""


def _error_of(how: Send) -> InfernError | None:
    return {
        Send.NO_ROUTE: NoRoute("no path found"),
        Send.LOST: TransportError("the connection to the node broke"),
        Send.UNHEARD: TransportError("the connection to the node broke"),
        Send.UNSENT: TransportError(
            "no connection to the node", code="fiber_unavailable", money=Money.UNMOVED
        ),
        Send.REFUSED: LocalProtocolError("fnn refused send_payment"),
        Send.ODD: FiberNodeError("fnn answered with an odd error"),
        Send.ODD_FAIL: FiberNodeError("fnn answered with an odd error"),
    }.get(how)


@dataclass(slots=True)
class ScriptedNode:
    """The node, for both kinds of callers (`call` and `acall`).

    Args:
        verifier: To read invoices.
        now_ms: Unix milliseconds, for invoice expiry.
        wait: Lets so many milliseconds pass; a manual clock's.
        on_paid: Told the hash of every payment that succeeds, as the payee's node would see it.
        holds: True for a payee's hold invoice: a send that would succeed stays under way.
        on_held: Told the hash of every payment that waits at the payee.
        preimage_of: What `get_payment` reveals after success; fnn 0.8 reveals nothing.
        plan: How the next sends go.
        faults: By method, errors that the next calls raise before the node hears of them; None
            lets one pass.
        routes: How the next dry runs end: an error, or None for a route.
        payments: What it has, by hash.
        sends: Every send that was not a dry run, whatever became of it.
        channels: What it lists as its channels.
        invoices: Hashes of invoices it made itself.
        fee: What routing takes.
    """

    verifier: SignatureVerifier
    now_ms: Callable[[], int]
    wait: Callable[[int], None]
    on_paid: Callable[[PaymentHash], None] = lambda _hash: None
    holds: Callable[[PaymentHash], bool] = lambda _hash: False
    on_held: Callable[[PaymentHash], None] = lambda _hash: None
    preimage_of: Callable[[PaymentHash], Preimage | None] = lambda _hash: None
    plan: deque[Send] = field(default_factory=deque)
    faults: dict[str, deque[InfernError | None]] = field(default_factory=dict)
    routes: deque[InfernError | None] = field(default_factory=deque)
    payments: dict[PaymentHash, PaymentRecord] = field(default_factory=dict)
    sends: list[SendPayment] = field(default_factory=list)
    channels: tuple[Channel, ...] = ()
    invoices: set[PaymentHash] = field(default_factory=set)
    fee: int = 1
    calls: list[str] = field(default_factory=list)
    is_down: bool = False

    @property
    def paid(self) -> list[PaymentHash]:
        """Hashes of the payments that succeeded: one a payment, in order."""
        return [h for h, p in self.payments.items() if p.status is PaymentStatus.SUCCESS]

    def settle(self, payment_hash: PaymentHash, status: PaymentStatus) -> None:
        """Let a stuck payment end."""
        self.payments[payment_hash] = replace(self.payments[payment_hash], status=status)
        if status is PaymentStatus.SUCCESS:
            self.on_paid(payment_hash)

    def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call as a thread does."""
        self.calls.append(call.method)
        del timeout_ms  # it answers at once
        if self.is_down:
            raise TransportError(
                "the scripted node is down", code="fiber_unavailable", money=Money.UNMOVED
            )
        faults = self.faults.get(call.method)
        fault = faults.popleft() if faults else None
        if fault is not None:
            raise fault
        return cast("T", self._answer(call))

    def _answer(self, call: object) -> object:
        match call:
            case SendPayment(dry_run=True):
                return self._rehearse(call)
            case SendPayment():
                return self._send(call)
            case GetPayment(payment_hash=payment_hash):
                return self._look_up(payment_hash)
            case ListPayments():
                return self._list(call)
            case ListChannels():
                return self.channels
            case GetInvoice(payment_hash=payment_hash):
                if payment_hash not in self.invoices:
                    raise InvoiceNotFound("invoice not found")
                raise AssertionError("the scripted node shows none of its invoices")
        raise AssertionError(f"the scripted node does not know {call!r}")

    def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Nothing ever changes by itself: the whole time passes."""
        del payment_hash
        self.wait(timeout_ms)

    def _hash_of(self, call: SendPayment) -> PaymentHash:
        """The invoice's hash; a keysend's is the node's to draw."""
        if call.keysend:
            return PaymentHash(hashlib.sha256(b"keysend %d" % len(self.sends)).digest())
        invoice = decode_invoice(call.invoice or "", self.verifier)
        known = self.payments.get(invoice.payment_hash)
        if known is not None and known.status is not PaymentStatus.FAILED:
            raise PaymentAlreadyExists("exists already", payment_status=known.status)
        if invoice.is_expired(self.now_ms()):
            raise NoRoute("invoice is expired")
        return invoice.payment_hash

    def _rehearse(self, call: SendPayment) -> PaymentRecord:
        payment_hash = self._hash_of(call)
        obstacle = self.routes.popleft() if self.routes else None
        if obstacle is not None:
            raise obstacle
        return self._record(payment_hash, PaymentStatus.CREATED, call)

    def _send(self, call: SendPayment) -> PaymentRecord:
        self.sends.append(call)
        payment_hash = self._hash_of(call)
        how = self.plan.popleft() if self.plan else Send.SUCCEED
        status = _STORED.get(how)
        is_held = status is PaymentStatus.SUCCESS and self.holds(payment_hash)
        status = PaymentStatus.INFLIGHT if is_held else status
        if status is not None and (call.keysend or how is not Send.NO_ROUTE):
            self.payments[payment_hash] = self._record(payment_hash, status, call)
        if status is PaymentStatus.SUCCESS:
            self.on_paid(payment_hash)
        if is_held:
            self.on_held(payment_hash)
        error = _error_of(how)
        if error is not None:
            raise error
        return replace(self.payments[payment_hash], status=PaymentStatus.CREATED)

    def _record(
        self, payment_hash: PaymentHash, status: PaymentStatus, call: SendPayment
    ) -> PaymentRecord:
        return PaymentRecord(
            payment_hash=payment_hash,
            status=status,
            preimage=None,
            fee=self.fee,
            failed_error="TemporaryChannelFailure" if status is PaymentStatus.FAILED else None,
            created_at_ms=self.now_ms(),
            last_updated_at_ms=self.now_ms(),
            custom_records=call.custom_records,
        )

    def _list(self, call: ListPayments) -> PaymentsPage:
        after = call.after or b""
        page = [self.payments[h] for h in sorted(self.payments) if h > after][: call.limit]
        return PaymentsPage(
            payments=tuple(page), last_cursor=page[-1].payment_hash if page else None
        )

    def _look_up(self, payment_hash: PaymentHash) -> PaymentRecord:
        record = self.payments.get(payment_hash)
        if record is None:
            raise _not_found()
        if record.status is PaymentStatus.SUCCESS:
            return replace(record, preimage=self.preimage_of(payment_hash))
        return record


def _not_found() -> InfernError:
    return PaymentNotFound("Payment session not found")


class AsyncScriptedNode:
    """The same node behind `ports.FiberNode`."""

    def __init__(self, node: ScriptedNode) -> None:
        self._node = node

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call as a coroutine does."""
        await anyio.lowlevel.checkpoint()
        return self._node.call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Nothing ever changes by itself: the whole time passes."""
        self._node.wait_change(payment_hash, timeout_ms=timeout_ms)
