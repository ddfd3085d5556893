"""Fiber invoices: read, write, sign and check them without a node.

This module is the door; the parts are `invoice_value` (what an invoice is), `invoice_attributes`
(what it can say), `invoice_text` (its one text and its signature) and `invoice_json` (fnn's RPC
view of it).
"""

from infern.core.fiber.invoice_attributes import (
    MAX_DESCRIPTION_BYTES,
    Attribute,
    Description,
    ExpiryTime,
    FallbackAddress,
    Features,
    FinalExpiryDelta,
    FinalTlcTimeout,
    HashAlgorithm,
    PayeePubkey,
    PaymentHashAlgorithm,
    PaymentSecret,
    UdtScript,
)
from infern.core.fiber.invoice_json import invoice_from_json, invoice_to_json
from infern.core.fiber.invoice_text import (
    MAX_INVOICE_CHARS,
    decode_invoice,
    decode_signed_invoice,
    encode_invoice,
    invoice_digest,
    payee_of,
    sign_invoice,
)
from infern.core.fiber.invoice_value import Invoice

__all__ = [
    "MAX_DESCRIPTION_BYTES",
    "MAX_INVOICE_CHARS",
    "Attribute",
    "Description",
    "ExpiryTime",
    "FallbackAddress",
    "Features",
    "FinalExpiryDelta",
    "FinalTlcTimeout",
    "HashAlgorithm",
    "Invoice",
    "PayeePubkey",
    "PaymentHashAlgorithm",
    "PaymentSecret",
    "UdtScript",
    "decode_invoice",
    "decode_signed_invoice",
    "encode_invoice",
    "invoice_digest",
    "invoice_from_json",
    "invoice_to_json",
    "payee_of",
    "sign_invoice",
]
