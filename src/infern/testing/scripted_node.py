"""A payer's Fiber node that does what a test tells it, over the port's calls.

It keeps payments by hash as fnn does, so that paying one invoice twice is impossible and paying
two invoices is counted. `plan` says how the next sends go; without a plan every send succeeds at
the first look-up.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar, cast

from infern.core.crypto import SignatureVerifier
from infern.core.errors import InfernError, NoRoute, TransportError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.errors import PaymentAlreadyExists, PaymentNotFound
from infern.core.fiber.invoice import decode_invoice
from infern.core.fiber.rpc_payments import GetPayment, SendPayment
from infern.core.fiber.types import PaymentRecord, PaymentStatus
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


@dataclass(slots=True)
class ScriptedNode:
    """The node, for both kinds of callers (`call` and `acall`).

    Args:
        verifier: To read invoices.
        now_ms: Unix milliseconds, for invoice expiry.
        wait: Lets so many milliseconds pass; a manual clock's.
        on_paid: Told the hash of every payment that succeeds, as the payee's node would see it.
        preimage_of: What `get_payment` reveals after success; fnn 0.8 reveals nothing.
    """

    verifier: SignatureVerifier
    now_ms: Callable[[], int]
    wait: Callable[[int], None]
    on_paid: Callable[[PaymentHash], None] = lambda _hash: None
    preimage_of: Callable[[PaymentHash], Preimage | None] = lambda _hash: None
    plan: deque[Send] = field(default_factory=deque)
    payments: dict[PaymentHash, PaymentRecord] = field(default_factory=dict)
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
            raise TransportError("the scripted node is down", code="fiber_unavailable")
        asked: object = call
        if isinstance(asked, SendPayment):
            return cast("T", self._send(asked))
        if isinstance(asked, GetPayment):
            return cast("T", self._look_up(asked.payment_hash))
        raise AssertionError(f"the scripted node does not know {call.method}")

    def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Nothing ever changes by itself: the whole time passes."""
        del payment_hash
        self.wait(timeout_ms)

    def _send(self, call: SendPayment) -> PaymentRecord:
        invoice = decode_invoice(call.invoice or "", self.verifier)
        payment_hash = invoice.payment_hash
        known = self.payments.get(payment_hash)
        if known is not None and known.status is not PaymentStatus.FAILED:
            raise PaymentAlreadyExists("exists already", payment_status=known.status)
        if invoice.is_expired(self.now_ms()):
            raise NoRoute("invoice is expired")
        how = self.plan.popleft() if self.plan else Send.SUCCEED
        if how is Send.NO_ROUTE:
            raise NoRoute("no path found")
        if how is not Send.LOST:
            status = PaymentStatus.FAILED if how is Send.FAIL else PaymentStatus.INFLIGHT
            self._keep(payment_hash, status)
        if how in {Send.SUCCEED, Send.UNHEARD}:
            self.settle(payment_hash, PaymentStatus.SUCCESS)
        if how in {Send.LOST, Send.UNHEARD}:
            raise TransportError("the connection to the node broke")
        return replace(self.payments[payment_hash], status=PaymentStatus.CREATED)

    def _keep(self, payment_hash: PaymentHash, status: PaymentStatus) -> None:
        self.payments[payment_hash] = PaymentRecord(
            payment_hash=payment_hash,
            status=status,
            preimage=None,
            fee=1,
            failed_error="TemporaryChannelFailure" if status is PaymentStatus.FAILED else None,
            created_at_ms=self.now_ms(),
            last_updated_at_ms=self.now_ms(),
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
        return self._node.call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Nothing ever changes by itself: the whole time passes."""
        self._node.wait_change(payment_hash, timeout_ms=timeout_ms)
