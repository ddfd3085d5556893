"""A payee's Fiber node that does what a test tells it: real signed invoices, one made-up channel.

`pay` is a payment that arrives, `lock` one that arrives in hold mode; `is_down` is a node that does
not answer, `faults` are calls whose answer is lost, `forget` is a node that lost its store, `drop`
a TLC that went back without the node saying so. `set_status` is whatever else it may say.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar, cast

from infern.core.crypto import Signer
from infern.core.errors import LocalProtocolError, TransportError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.errors import InvoiceNotFound, InvoiceStateConflict
from infern.core.fiber.invoice import (
    Attribute,
    Description,
    ExpiryTime,
    FinalExpiryDelta,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    encode_invoice,
    sign_invoice,
)
from infern.core.fiber.rpc import (
    CancelInvoice,
    GetInvoice,
    ListChannels,
    NewInvoice,
    SettleInvoice,
)
from infern.core.fiber.types import (
    Channel,
    ChannelId,
    ChannelState,
    ChannelStateName,
    InvoiceRecord,
    InvoiceStatus,
    PendingTlc,
    TlcDirection,
    TlcStage,
)
from infern.core.ids import PaymentHash, Preimage, Pubkey
from infern.ports import Clock

RECEIVABLE: Final = 1_000 * 100_000_000
TLC_MS: Final = 12_600_000
T = TypeVar("T")


class Fault(Enum):
    """How a call goes wrong."""

    NOT_DONE = "not done"
    """It never reached the node."""
    UNHEARD = "unheard"
    """The node did it, and its answer was lost."""


@dataclass(slots=True)
class ScriptedPayee:
    """The node behind `ports.FiberNode`.

    Args:
        signer: Its key.
        clock: Its time, also for `wait_change`.
        on_wait: Called with the payment hash whenever somebody waits for a change.
        faults: By method, what becomes of the next calls; beyond them all is well.
        receivable: Base units the one channel can receive.
        strangers: TLCs pending in the channel that are none of ours.
        settling_looks: How often a settled invoice is still said to be `Received`.
        invoices: By payment hash, what it made.
        preimages: What it knows.
        statuses: As set, or as they came to be.
        tlcs: Locked payments, by hash.
        calls: Methods called, in order.
    """

    signer: Signer
    clock: Clock
    on_wait: Callable[[PaymentHash], None] = lambda _hash: None
    is_down: bool = False
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    receivable: int = RECEIVABLE
    strangers: int = 0
    settling_looks: int = 1
    invoices: dict[PaymentHash, Invoice] = field(default_factory=dict)
    preimages: dict[PaymentHash, Preimage] = field(default_factory=dict)
    statuses: dict[PaymentHash, InvoiceStatus] = field(default_factory=dict)
    tlcs: dict[PaymentHash, PendingTlc] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _settling: dict[PaymentHash, int] = field(default_factory=dict)

    def pay(self, payment_hash: PaymentHash) -> None:
        """Let a payment arrive."""
        self.set_status(payment_hash, InvoiceStatus.PAID)

    def lock(self, payment_hash: PaymentHash) -> None:
        """Let a payment of a hold invoice arrive: its TLC is pending here from now on."""
        if self._status(payment_hash) is not InvoiceStatus.OPEN:
            raise ValueError("an invoice takes one payment, before it expires")
        amount = self.invoices[payment_hash].amount
        assert amount is not None
        self.tlcs[payment_hash] = _tlc(payment_hash, amount, self.clock.now_ms() + TLC_MS)
        self.set_status(payment_hash, InvoiceStatus.RECEIVED)

    def drop(self, payment_hash: PaymentHash) -> None:
        """The TLC goes back to its payer; the invoice stays `Received`."""
        del self.tlcs[payment_hash]

    def forget(self, payment_hash: PaymentHash) -> None:
        """The node starts again without this invoice."""
        del self.invoices[payment_hash]
        self.tlcs.pop(payment_hash, None)

    def set_status(self, payment_hash: PaymentHash, status: InvoiceStatus) -> None:
        """Say this about an invoice from now on."""
        if payment_hash not in self.invoices:
            raise KeyError("this node made no such invoice")
        self.statuses[payment_hash] = status

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Do what is asked, or what `faults` says."""
        self.calls.append(call.method)
        del timeout_ms  # it answers at once or not at all
        fault = self.faults[call.method].popleft() if self.faults[call.method] else None
        if self.is_down or fault is Fault.NOT_DONE:
            raise TransportError("the scripted node is down", code="fiber_unavailable")
        result = self._answer(call)
        if fault is Fault.UNHEARD:
            raise TransportError("the scripted node's answer was lost")
        return cast("T", result)

    def _answer(self, call: object) -> object:
        if isinstance(call, NewInvoice):
            return self._make(call)
        if isinstance(call, GetInvoice):
            return self._find(call.payment_hash)
        if isinstance(call, CancelInvoice):
            return self._cancel(call.payment_hash)
        if isinstance(call, SettleInvoice):
            self._settle(call)
            return None
        if isinstance(call, ListChannels):
            return (self._channel(),)
        raise AssertionError(f"the scripted node does not know {call!r}")

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Tell the test that somebody waits, and wait by the clock."""
        self.on_wait(PaymentHash(payment_hash))
        await self.clock.sleep_ms(timeout_ms)

    def _make(self, call: NewInvoice) -> InvoiceRecord:
        assert call.expiry_s is not None
        algorithm = call.hash_algorithm or HashAlgorithm.CKB_HASH
        payment_hash = call.payment_hash
        if call.preimage is not None:
            payment_hash = PaymentHash(algorithm.digest(call.preimage))
            self.preimages[payment_hash] = call.preimage
        assert payment_hash is not None
        attributes: list[Attribute] = [
            ExpiryTime(expiry_s=call.expiry_s),
            Description(text=call.description or ""),
            PayeePubkey(pubkey=self.signer.pubkey),
            PaymentHashAlgorithm(algorithm=algorithm),
        ]
        if call.final_expiry_delta_ms is not None:
            attributes.append(FinalExpiryDelta(delta_ms=call.final_expiry_delta_ms))
        invoice = sign_invoice(
            Invoice(
                network=call.network,
                amount=call.amount,
                timestamp_ms=self.clock.now_ms(),
                payment_hash=payment_hash,
                attributes=tuple(attributes),
            ),
            self.signer,
        )
        self.invoices[payment_hash] = invoice
        self.statuses[payment_hash] = InvoiceStatus.OPEN
        return InvoiceRecord(invoice_text=encode_invoice(invoice), invoice=invoice, status=None)

    def _find(self, payment_hash: PaymentHash) -> InvoiceRecord:
        status = self._status(payment_hash)
        if self._settling.get(payment_hash, 0) > 0:
            self._settling[payment_hash] -= 1
        elif payment_hash in self._settling and payment_hash in self.tlcs:
            del self.tlcs[payment_hash]
            self.statuses[payment_hash] = status = InvoiceStatus.PAID
        return self._record(payment_hash, status)

    def _status(self, payment_hash: PaymentHash) -> InvoiceStatus:
        invoice = self.invoices.get(payment_hash)
        if invoice is None:
            raise InvoiceNotFound("invoice not found")
        status = self.statuses[payment_hash]
        is_expired = status is InvoiceStatus.OPEN and invoice.is_expired(self.clock.now_ms())
        return InvoiceStatus.EXPIRED if is_expired else status

    def _record(self, payment_hash: PaymentHash, status: InvoiceStatus) -> InvoiceRecord:
        invoice = self.invoices[payment_hash]
        return InvoiceRecord(invoice_text=encode_invoice(invoice), invoice=invoice, status=status)

    def _cancel(self, payment_hash: PaymentHash) -> InvoiceRecord:
        status = self._status(payment_hash)
        if status in (InvoiceStatus.PAID, InvoiceStatus.CANCELLED):
            raise InvoiceStateConflict("it cannot be cancelled", invoice_status=status)
        self.tlcs.pop(payment_hash, None)
        self.statuses[payment_hash] = InvoiceStatus.CANCELLED
        return self._record(payment_hash, InvoiceStatus.CANCELLED)

    def _settle(self, call: SettleInvoice) -> None:
        status = self._status(call.payment_hash)
        algorithm = self.invoices[call.payment_hash].hash_algorithm
        if algorithm.digest(call.preimage) != call.payment_hash:
            raise LocalProtocolError("Hash mismatch", code="invalid_preimage")
        if status is not InvoiceStatus.RECEIVED:
            raise InvoiceStateConflict("it cannot be settled", invoice_status=status)
        self.preimages[call.payment_hash] = call.preimage
        self._settling.setdefault(call.payment_hash, self.settling_looks)

    def _channel(self) -> Channel:
        strangers = [
            _tlc(PaymentHash(number.to_bytes(32, "big")), 1, self.clock.now_ms() + TLC_MS)
            for number in range(self.strangers)
        ]
        pending = (*self.tlcs.values(), *strangers)
        return Channel(
            channel_id=ChannelId(bytes(32)),
            is_public=True,
            is_acceptor=True,
            is_one_way=False,
            outpoint=None,
            peer=Pubkey(b"\x02" + bytes(32)),
            udt_type_script=None,
            state=ChannelState(
                name=ChannelStateName.CHANNEL_READY, text="ChannelReady", flags=frozenset()
            ),
            local_balance=0,
            remote_balance=self.receivable,
            offered_tlc_balance=0,
            received_tlc_balance=sum(tlc.amount for tlc in pending),
            pending_tlcs=pending,
            latest_commitment_tx_hash=None,
            created_at_ms=0,
            enabled=True,
            tlc_expiry_delta_ms=14_400_000,
            tlc_fee_ppm=1_000,
            shutdown_tx_hash=None,
            failure_detail=None,
        )


def _tlc(payment_hash: PaymentHash, amount: int, expiry_ms: int) -> PendingTlc:
    return PendingTlc(
        id=0,
        amount=amount,
        payment_hash=payment_hash,
        expiry_ms=expiry_ms,
        forwarding_channel_id=None,
        forwarding_tlc_id=None,
        direction=TlcDirection.INBOUND,
        stage=TlcStage.COMMITTED,
    )
