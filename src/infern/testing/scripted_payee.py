"""A payee's Fiber node that does what a test tells it: real signed invoices, no channels.

`pay` is a payment that arrives; `is_down` is a node that does not answer; `set_status` is
whatever else the node may say about an invoice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from infern.core.crypto import Signer
from infern.core.errors import TransportError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.errors import InvoiceNotFound
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    encode_invoice,
    sign_invoice,
)
from infern.core.fiber.rpc import GetInvoice, NewInvoice
from infern.core.fiber.types import InvoiceRecord, InvoiceStatus
from infern.core.ids import PaymentHash, Preimage
from infern.ports import Clock

T = TypeVar("T")


@dataclass(slots=True)
class ScriptedPayee:
    """The node behind `ports.FiberNode`.

    Args:
        signer: Its key.
        clock: Its time, also for `wait_change`.
        on_wait: Called with the payment hash whenever somebody waits for a change.
    """

    signer: Signer
    clock: Clock
    on_wait: Callable[[PaymentHash], None] = lambda _hash: None
    is_down: bool = False
    invoices: dict[PaymentHash, Invoice] = field(default_factory=dict)
    preimages: dict[PaymentHash, Preimage] = field(default_factory=dict)
    statuses: dict[PaymentHash, InvoiceStatus] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def pay(self, payment_hash: PaymentHash) -> None:
        """Let a payment arrive."""
        self.set_status(payment_hash, InvoiceStatus.PAID)

    def set_status(self, payment_hash: PaymentHash, status: InvoiceStatus) -> None:
        """Say this about an invoice from now on."""
        if payment_hash not in self.invoices:
            raise KeyError("this node made no such invoice")
        self.statuses[payment_hash] = status

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make or find an invoice."""
        self.calls.append(call.method)
        del timeout_ms  # it answers at once or not at all
        if self.is_down:
            raise TransportError("the scripted node is down", code="fiber_unavailable")
        asked: object = call
        if isinstance(asked, NewInvoice):
            return cast("T", self._make(asked))
        if isinstance(asked, GetInvoice):
            return cast("T", self._find(asked.payment_hash))
        raise AssertionError(f"the scripted node does not know {call.method}")

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Tell the test that somebody waits, and wait by the clock."""
        self.on_wait(PaymentHash(payment_hash))
        await self.clock.sleep_ms(timeout_ms)

    def _make(self, call: NewInvoice) -> InvoiceRecord:
        assert call.preimage is not None
        assert call.expiry_s is not None
        algorithm = call.hash_algorithm or HashAlgorithm.CKB_HASH
        payment_hash = PaymentHash(algorithm.digest(call.preimage))
        invoice = sign_invoice(
            Invoice(
                network=call.network,
                amount=call.amount,
                timestamp_ms=self.clock.now_ms(),
                payment_hash=payment_hash,
                attributes=(
                    ExpiryTime(expiry_s=call.expiry_s),
                    Description(text=call.description or ""),
                    PayeePubkey(pubkey=self.signer.pubkey),
                    PaymentHashAlgorithm(algorithm=algorithm),
                ),
            ),
            self.signer,
        )
        self.invoices[payment_hash] = invoice
        self.preimages[payment_hash] = call.preimage
        self.statuses[payment_hash] = InvoiceStatus.OPEN
        return InvoiceRecord(invoice_text=encode_invoice(invoice), invoice=invoice, status=None)

    def _find(self, payment_hash: PaymentHash) -> InvoiceRecord:
        invoice = self.invoices.get(payment_hash)
        if invoice is None:
            raise InvoiceNotFound("invoice not found")
        status = self.statuses[payment_hash]
        if status is InvoiceStatus.OPEN and invoice.is_expired(self.clock.now_ms()):
            status = InvoiceStatus.EXPIRED
        return InvoiceRecord(invoice_text=encode_invoice(invoice), invoice=invoice, status=status)
