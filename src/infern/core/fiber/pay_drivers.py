"""Running a `PaymentMachine` over a node: once for coroutines, once for plain calls.

A driver only carries steps to the node and reports back. Every decision is the machine's, so
both kinds of consumer pay by the same rules.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from infern.core.errors import InfernError
from infern.core.fiber.call import RpcCall
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
from infern.core.fiber.types import PaymentRecord

T = TypeVar("T")


class AsyncNode(Protocol):
    """What `pay` needs of a node; every `infern.ports.FiberNode` has it."""

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call."""
        ...

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Return on a change of the payment or after the timeout."""
        ...


class SyncNode(Protocol):
    """What `pay_sync` needs of a node."""

    def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call."""
        ...

    def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Return after the timeout at the latest."""
        ...


async def pay(node: AsyncNode, payment: PayInvoice, *, now_ms: Callable[[], int]) -> PaymentRecord:
    """Pay an invoice once, however often this is called for it.

    Cancelling leaves the outcome open: call again with `lookup_first` to learn it.

    Args:
        node: The payer's node.
        payment: What to pay and how long to try.
        now_ms: A clock for the deadline; any epoch.

    Raises:
        InfernError: As `PaymentMachine.advance`.
    """
    machine = PaymentMachine(payment)
    step = machine.begin(now_ms())
    while not isinstance(step, PaymentRecord):
        report: Report = Woken()
        match step:
            case MakeCall(call=call, timeout_ms=timeout_ms):
                try:
                    report = Answered(record=await node.call(call, timeout_ms=timeout_ms))
                except InfernError as error:
                    report = Raised(error=error)
            case WaitChange(payment_hash=payment_hash, timeout_ms=timeout_ms):
                await node.wait_change(payment_hash, timeout_ms=timeout_ms)
        step = machine.advance(report, now_ms())
    return step


def pay_sync(node: SyncNode, payment: PayInvoice, *, now_ms: Callable[[], int]) -> PaymentRecord:
    """Pay an invoice once, however often this is called for it; see `pay`.

    Raises:
        InfernError: As `PaymentMachine.advance`.
    """
    machine = PaymentMachine(payment)
    step = machine.begin(now_ms())
    while not isinstance(step, PaymentRecord):
        report: Report = Woken()
        match step:
            case MakeCall(call=call, timeout_ms=timeout_ms):
                try:
                    report = Answered(record=node.call(call, timeout_ms=timeout_ms))
                except InfernError as error:
                    report = Raised(error=error)
            case WaitChange(payment_hash=payment_hash, timeout_ms=timeout_ms):
                node.wait_change(payment_hash, timeout_ms=timeout_ms)
        step = machine.advance(report, now_ms())
    return step
