"""Calls about invoices at the payee's node."""

from dataclasses import dataclass, field

from infern.core.ckb.script import Script
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.fields import Fields
from infern.core.fiber.hexnum import U64_BITS, U128_BITS
from infern.core.fiber.invoice import (
    MAX_DESCRIPTION_BYTES,
    HashAlgorithm,
    Invoice,
    invoice_from_json,
)
from infern.core.fiber.params import (
    bytes32,
    one_object,
    require_length,
    require_uint,
    script,
    u64,
    u128,
)
from infern.core.fiber.types import InvoiceRecord, InvoiceStatus
from infern.core.ids import PaymentHash, Preimage
from infern.core.units import Network

MIN_FINAL_EXPIRY_DELTA_MS = 9_600_000
"""fnn's default and minimum: 160 minutes."""
MAX_FINAL_EXPIRY_DELTA_MS = 1_209_600_000
"""fnn's maximum: 14 days."""


def _record(result: JsonValue, payment_hash: PaymentHash | None) -> InvoiceRecord:
    row = Fields(result, "an invoice answer")
    invoice = invoice_from_json(row.raw("invoice"))
    if payment_hash is not None and invoice.payment_hash != payment_hash:
        raise RemoteProtocolError("the node answered with another invoice than asked for")
    status = row.opt_text("status")
    return InvoiceRecord(
        invoice_text=row.text("invoice_address"),
        invoice=invoice,
        status=None if status is None else InvoiceStatus.read(status),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvoice:
    """Create an invoice. Moves no money.

    With `preimage` it settles by itself, with `payment_hash` alone it is a hold invoice. With
    neither the node draws a preimage that no call ever tells. Not repeatable blindly: a second
    call with the same preimage or hash answers `InvoiceAlreadyExists`, then ask `GetInvoice`;
    without both it makes a second invoice.

    Args:
        amount: Base units of the asset.
        expiry_s: Seconds from now; None never expires.
        final_expiry_delta_ms: How long the last TLC may stay pending, at least.
        hash_algorithm: How the preimage hashes to the payment hash; fnn's default is ckb hash.
        udt_type_script: The asset; None is CKB.
        allow_mpp: None writes no feature at all, which is not the same as False.
    """

    method = "new_invoice"
    idempotent = False

    amount: int
    network: Network
    description: str | None = None
    preimage: Preimage | None = field(default=None, repr=False)
    payment_hash: PaymentHash | None = None
    expiry_s: int | None = None
    final_expiry_delta_ms: int | None = None
    hash_algorithm: HashAlgorithm | None = None
    udt_type_script: Script | None = None
    allow_mpp: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what no node would accept."""
        require_uint(self.amount, U128_BITS, "amount")
        require_length(self.preimage, 32, "a preimage")
        require_length(self.payment_hash, 32, "a payment hash")
        require_uint(self.expiry_s, U64_BITS, "expiry_s")
        if self.preimage is not None and self.payment_hash is not None:
            raise ValueError("an invoice takes a preimage or a payment hash, not both")
        if len((self.description or "").encode()) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"a description has at most {MAX_DESCRIPTION_BYTES} bytes")
        delta_ms = self.final_expiry_delta_ms
        if delta_ms is not None and not (
            MIN_FINAL_EXPIRY_DELTA_MS <= delta_ms <= MAX_FINAL_EXPIRY_DELTA_MS
        ):
            raise ValueError(
                f"final_expiry_delta_ms lies between {MIN_FINAL_EXPIRY_DELTA_MS} and"
                f" {MAX_FINAL_EXPIRY_DELTA_MS}"
            )

    def params(self) -> list[JsonValue]:
        """One object."""
        algorithm = self.hash_algorithm
        return one_object(
            {
                "amount": u128(self.amount),
                "currency": self.network.currency,
                "description": self.description,
                "payment_preimage": bytes32(self.preimage),
                "payment_hash": bytes32(self.payment_hash),
                "expiry": u64(self.expiry_s),
                "final_expiry_delta": u64(self.final_expiry_delta_ms),
                "hash_algorithm": None if algorithm is None else algorithm.rpc_name,
                "udt_type_script": script(self.udt_type_script),
                "allow_mpp": self.allow_mpp,
            }
        )

    def parse(self, result: JsonValue) -> InvoiceRecord:
        """Read the invoice; it has no status yet.

        Raises:
            RemoteProtocolError: Not an invoice, or one of another amount or hash than asked for.
        """
        payment_hash = self.payment_hash
        if self.preimage is not None:
            algorithm = self.hash_algorithm or HashAlgorithm.CKB_HASH
            payment_hash = PaymentHash(algorithm.digest(self.preimage))
        record = _record(result, payment_hash)
        if record.invoice.amount != self.amount:
            raise RemoteProtocolError("the node made an invoice of another amount")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseInvoice:
    """Let the node decode an invoice text. Unsigned ones pass here: do not trust this to pay."""

    method = "parse_invoice"
    idempotent = True

    invoice_text: str

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object({"invoice": self.invoice_text})

    def parse(self, result: JsonValue) -> Invoice:
        """Read the invoice."""
        return invoice_from_json(Fields(result, "parse_invoice").raw("invoice"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GetInvoice:
    """An invoice of this node and its status. Moves no money."""

    method = "get_invoice"
    idempotent = True

    payment_hash: PaymentHash

    def __post_init__(self) -> None:
        """Refuse what is no hash."""
        require_length(self.payment_hash, 32, "a payment hash")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object({"payment_hash": bytes32(self.payment_hash)})

    def parse(self, result: JsonValue) -> InvoiceRecord:
        """Read the invoice and its status.

        Raises:
            RemoteProtocolError: Not an invoice with a status, or one of another hash.
        """
        return _with_status(_record(result, self.payment_hash))


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelInvoice:
    """Cancel an invoice; money held for it goes back to its payer.

    Works from `OPEN` and `RECEIVED`. A second call answers `InvoiceStateConflict` with status
    `CANCELLED`, so it is not repeated blindly.
    """

    method = "cancel_invoice"
    idempotent = False

    payment_hash: PaymentHash

    def __post_init__(self) -> None:
        """Refuse what is no hash."""
        require_length(self.payment_hash, 32, "a payment hash")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object({"payment_hash": bytes32(self.payment_hash)})

    def parse(self, result: JsonValue) -> InvoiceRecord:
        """Read the cancelled invoice.

        Raises:
            RemoteProtocolError: Not an invoice with a status, or one of another hash.
        """
        return _with_status(_record(result, self.payment_hash))


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleInvoice:
    """Take the money held for a hold invoice by revealing its preimage.

    Works only from `RECEIVED`, also after the invoice's own expiry. When it returns the status is
    still `RECEIVED`: poll until `PAID`. After a broken connection ask `GetInvoice` first; a
    second call is harmless but may answer `InvoiceStateConflict` with status `PAID`.
    """

    method = "settle_invoice"
    idempotent = False

    payment_hash: PaymentHash
    preimage: Preimage = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no hash or preimage."""
        require_length(self.payment_hash, 32, "a payment hash")
        require_length(self.preimage, 32, "a preimage")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "payment_hash": bytes32(self.payment_hash),
                "payment_preimage": bytes32(self.preimage),
            }
        )

    def parse(self, result: JsonValue) -> None:
        """The result is an empty object."""


def _with_status(record: InvoiceRecord) -> InvoiceRecord:
    if record.status is None:
        raise RemoteProtocolError("the node told no status of the invoice")
    return record
