"""Store changes: the one subscription fnn has, as values.

Events are a wake-up and nothing more: there is no replay, no filter, and what happens while
nobody listens is lost. Every rule about money asks the node again.

Source: `StoreChange` of fnn 0.8.0, externally tagged JSON.
"""

from dataclasses import dataclass, field

from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.fields import Fields
from infern.core.fiber.types import InvoiceStatus, PaymentStatus
from infern.core.ids import PaymentHash, Preimage, parse_preimage

SUBSCRIBE_METHOD = "subscribe_store_changes"
NOTIFICATION_METHOD = "store_changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreimageStored:
    """The node learned a preimage: its own, or one revealed downstream of a payment."""

    payment_hash: PaymentHash
    preimage: Preimage = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceChanged:
    """An invoice of this node took another status."""

    payment_hash: PaymentHash
    status: InvoiceStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentChanged:
    """A payment of this node took another status."""

    payment_hash: PaymentHash
    status: PaymentStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherChange:
    """Something this version does not know."""

    name: str


StoreChange = PreimageStored | InvoiceChanged | PaymentChanged | OtherChange


def store_change_from_json(value: JsonValue) -> StoreChange:
    """Read one event.

    The payment event is fnn's internal serialisation, not a promise: only its hash and status
    are read, and a status in another shape is `UNKNOWN`.

    Raises:
        RemoteProtocolError: Not an object with one member, or a known event without its hash.
    """
    row = Fields(value, "a store change")
    names = row.names()
    if len(names) != 1:
        raise RemoteProtocolError("a store change has exactly one kind")
    name = names[0]
    if name not in {"PutPreimage", "PutCkbInvoiceStatus", "PutPaymentSession"}:
        return OtherChange(name=name[:64])
    body = Fields(row.raw(name), name)
    payment_hash = body.payment_hash()
    match name:
        case "PutPreimage":
            return PreimageStored(
                payment_hash=payment_hash, preimage=parse_preimage(body.text("payment_preimage"))
            )
        case "PutCkbInvoiceStatus":
            return InvoiceChanged(
                payment_hash=payment_hash, status=InvoiceStatus.read(body.text("invoice_status"))
            )
        case _:
            session = body.raw("payment_session")
            status = session.get("status") if isinstance(session, dict) else None
            known = PaymentStatus.read(status) if isinstance(status, str) else None
            return PaymentChanged(payment_hash=payment_hash, status=known or PaymentStatus.UNKNOWN)


def notification_from_json(message: JsonValue) -> StoreChange | None:
    """Read a WebSocket message; None when it is not a store change notification.

    Raises:
        RemoteProtocolError: A notification whose event cannot be read.
    """
    if not isinstance(message, dict) or message.get("method") != NOTIFICATION_METHOD:
        return None
    return store_change_from_json(Fields(message.get("params"), "a notification").raw("result"))
