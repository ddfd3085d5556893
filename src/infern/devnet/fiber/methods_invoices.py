"""Methods about invoices: issue, parse, look up, cancel, settle."""

from typing import Final

from infern.core.ckb.script import Script
from infern.core.errors import InfernError, JsonValue
from infern.core.fiber.invoice import (
    MAX_DESCRIPTION_BYTES,
    Attribute,
    Description,
    ExpiryTime,
    FallbackAddress,
    Features,
    FinalExpiryDelta,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    UdtScript,
    decode_invoice,
    encode_invoice,
    invoice_to_json,
    sign_invoice,
)
from infern.core.ids import PaymentHash, Pubkey
from infern.devnet.fiber.errors import NodeError
from infern.devnet.fiber.node import InvoiceStatus, Node, StoredInvoice
from infern.devnet.fiber.params import (
    ALGORITHM,
    BOOL,
    CURRENCY,
    HASH256,
    SCRIPT,
    STRING,
    U64,
    U128,
    Field,
    Params,
)
from infern.devnet.fiber.settings import MAX_TLC_EXPIRY_MS, MIN_TLC_EXPIRY_DELTA_MS
from infern.devnet.fiber.table import Method
from infern.devnet.fiber.views import invoice_view

SETTLE_REFUSALS: Final = {
    InvoiceStatus.OPEN: "Invoice is still open",
    InvoiceStatus.EXPIRED: "Invoice is already expired",
    InvoiceStatus.CANCELLED: "Invoice is already cancelled",
    InvoiceStatus.PAID: "Invoice is already paid",
}


def _new_invoice(node: Node, params: Params) -> JsonValue:
    network = node.network.settings.network
    if params.need("currency", str) != network.currency:
        raise NodeError(f"Currency must be {network.currency} with the chain network")
    given = params.maybe("payment_preimage", bytes)
    payment_hash = params.maybe("payment_hash", bytes)
    preimage = node.entropy.take(32) if given is None and payment_hash is None else given
    _check_features(params)
    delta_ms = _final_delta_ms(params)
    description = params.maybe("description", str)
    size = len((description or "").encode())
    if size > MAX_DESCRIPTION_BYTES:
        raise NodeError(
            f"Description with length of {size} is too long, max length is {MAX_DESCRIPTION_BYTES}"
        )
    if given is not None and payment_hash is not None:
        raise NodeError("Both payment_hash and payment_preimage are set")
    algorithm = params.maybe("hash_algorithm", HashAlgorithm) or HashAlgorithm.CKB_HASH
    if payment_hash is None:
        assert preimage is not None
        payment_hash = algorithm.digest(preimage)
    if payment_hash in node.invoices:
        raise NodeError("invoice already exists")
    invoice = Invoice(
        network=network,
        amount=params.need("amount", int),
        timestamp_ms=node.network.clock.now_ms,
        payment_hash=PaymentHash(payment_hash),
        attributes=_attributes(node, params, delta_ms),
    )
    return _issue(node, sign_invoice(invoice, node.signer), preimage, delta_ms)


def _issue(node: Node, invoice: Invoice, preimage: bytes | None, delta_ms: int) -> JsonValue:
    stored = StoredInvoice(
        text=encode_invoice(invoice),
        view=invoice_to_json(invoice),
        payment_hash=bytes(invoice.payment_hash),
        amount=invoice.amount or 0,
        timestamp_ms=invoice.timestamp_ms,
        expiry_s=invoice.expiry_s,
        final_delta_ms=delta_ms,
        algorithm=invoice.hash_algorithm,
        udt=invoice.udt_script,
    )
    node.invoices[stored.payment_hash] = stored
    if preimage is not None:
        node.learn_preimage(stored.payment_hash, preimage)
    node.set_invoice_status(stored, InvoiceStatus.OPEN)
    return {"invoice_address": stored.text, "invoice": stored.view}


def _check_features(params: Params) -> None:
    """Refuse what this node cannot do, in the words of a node without the feature."""
    if params.flag("allow_mpp"):
        raise NodeError("Node does not support MPP, please enable MPP feature")
    if params.flag("allow_trampoline_routing"):
        raise NodeError(
            "Node does not support trampoline routing, please enable trampoline routing feature"
        )


def _final_delta_ms(params: Params) -> int:
    given = params.maybe("final_expiry_delta", int)
    delta_ms = MIN_TLC_EXPIRY_DELTA_MS if given is None else given
    if delta_ms < MIN_TLC_EXPIRY_DELTA_MS:
        raise NodeError(
            f"final_expiry_delta must be greater than or equal to {MIN_TLC_EXPIRY_DELTA_MS}"
        )
    if delta_ms > MAX_TLC_EXPIRY_MS:
        raise NodeError(f"final_expiry_delta must be less than or equal to {MAX_TLC_EXPIRY_MS}")
    return delta_ms


def _attributes(node: Node, params: Params, delta_ms: int) -> tuple[Attribute, ...]:
    attributes: list[Attribute] = []
    description = params.maybe("description", str)
    if description is not None:
        attributes.append(Description(text=description))
    expiry_s = params.maybe("expiry", int)
    if expiry_s is not None:
        attributes.append(ExpiryTime(expiry_s=expiry_s))
    fallback = params.maybe("fallback_address", str)
    if fallback is not None:
        attributes.append(FallbackAddress(text=fallback))
    asked = (params.maybe("allow_mpp", bool), params.maybe("allow_trampoline_routing", bool))
    if asked != (None, None):
        attributes.append(Features.of(()))
    attributes.append(FinalExpiryDelta(delta_ms=delta_ms))
    udt = params.maybe("udt_type_script", Script)
    if udt is not None:
        attributes.append(UdtScript(script=udt))
    algorithm = params.maybe("hash_algorithm", HashAlgorithm)
    if algorithm is not None:
        attributes.append(PaymentHashAlgorithm(algorithm=algorithm))
    attributes.append(PayeePubkey(pubkey=Pubkey(node.pubkey)))
    return tuple(attributes)


def _parse_invoice(node: Node, params: Params) -> JsonValue:
    try:
        invoice = decode_invoice(params.need("invoice", str), node.network.verifier)
    except InfernError as error:
        raise NodeError(error.message) from None
    return {"invoice": invoice_to_json(invoice)}


def _get_invoice(node: Node, params: Params) -> JsonValue:
    return invoice_view(node, _stored(node, params))


def _stored(node: Node, params: Params) -> StoredInvoice:
    stored = node.invoices.get(params.need("payment_hash", bytes))
    if stored is None:
        raise NodeError("invoice not found")
    return stored


def _cancel_invoice(node: Node, params: Params) -> JsonValue:
    stored = _stored(node, params)
    if stored.status in (InvoiceStatus.PAID, InvoiceStatus.CANCELLED):
        raise NodeError(f"invoice can not be canceled, current status: {stored.status.value}")
    node.network.receiver.cancel(node, stored)
    return invoice_view(node, stored)


def _settle_invoice(node: Node, params: Params) -> JsonValue:
    stored = node.invoices.get(params.need("payment_hash", bytes))
    if stored is None:
        raise NodeError("Invoice not found")
    preimage = params.need("payment_preimage", bytes)
    if stored.algorithm.digest(preimage) != stored.payment_hash:
        raise NodeError("Hash mismatch")
    refusal = SETTLE_REFUSALS.get(stored.status_at(node.network.clock.now_ms))
    if refusal is not None:
        raise NodeError(refusal)
    node.network.receiver.settle(node, stored, preimage)
    return {}


_HASH: Final = Field("payment_hash", HASH256, required=True)

METHODS: Final = (
    Method(
        "new_invoice",
        (
            Field("amount", U128, required=True),
            Field("description", STRING),
            Field("currency", CURRENCY, required=True),
            Field("payment_preimage", HASH256),
            Field("payment_hash", HASH256),
            Field("expiry", U64),
            Field("fallback_address", STRING),
            Field("final_expiry_delta", U64),
            Field("udt_type_script", SCRIPT),
            Field("hash_algorithm", ALGORITHM),
            Field("allow_mpp", BOOL),
            Field("allow_trampoline_routing", BOOL),
        ),
        _new_invoice,
        'write("invoices")',
    ),
    Method(
        "parse_invoice",
        (Field("invoice", STRING, required=True),),
        _parse_invoice,
        'read("invoices")',
    ),
    Method("get_invoice", (_HASH,), _get_invoice, 'read("invoices")'),
    Method("cancel_invoice", (_HASH,), _cancel_invoice, 'write("invoices")'),
    Method(
        "settle_invoice",
        (_HASH, Field("payment_preimage", HASH256, required=True)),
        _settle_invoice,
        'write("invoices")',
    ),
)
