"""Invoices in fnn's RPC form: a readable view of the text, made from it and never signed.

The text stays the authority. Feature bits a node does not know all have one name, so the view
alone cannot always be turned back into the same text.

Source: `CkbInvoice` of fiber-json-types 0.9.1.
"""

from typing import Final, assert_never

from infern.core.ckb import bech32
from infern.core.ckb.script import Script
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.fields import Fields
from infern.core.fiber.hexnum import U64_BITS, U128_BITS, write_bytes, write_uint
from infern.core.fiber.invoice_attributes import (
    FEATURE_NAMES,
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
from infern.core.fiber.invoice_value import Invoice
from infern.core.ids import parse_hex
from infern.core.units import Network

_SIGNATURE_VALUES: Final = 104
_NETWORKS: Final = {network.currency: network for network in Network}
_ALGORITHMS: Final = {algorithm.rpc_name: algorithm for algorithm in HashAlgorithm}


def invoice_to_json(invoice: Invoice) -> dict[str, JsonValue]:
    """fnn's RPC form of an invoice."""
    amount, signature = invoice.amount, invoice.signature
    attributes: list[JsonValue] = []
    for attribute in invoice.attributes:
        name, value = _attribute_to_json(attribute)
        attributes.append({name: value})
    return {
        "currency": invoice.network.currency,
        "amount": None if amount is None else write_uint(amount, U128_BITS),
        "signature": None if signature is None else bech32.values_from_bytes(signature).hex(),
        "data": {
            "timestamp": write_uint(invoice.timestamp_ms, U128_BITS),
            "payment_hash": write_bytes(invoice.payment_hash),
            "attrs": attributes,
        },
    }


def invoice_from_json(value: JsonValue) -> Invoice:
    """Read fnn's RPC form; members, attributes and features nobody knew are skipped.

    The signature is carried over and not checked.

    Raises:
        RemoteProtocolError: A known part is missing or wrong (`invalid_invoice`, money unmoved).
    """
    try:
        return _read(value)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(error.message, code="invalid_invoice") from None
    except ValueError as error:
        raise RemoteProtocolError(str(error), code="invalid_invoice") from None


def _read(value: JsonValue) -> Invoice:
    members = Fields(value, "an invoice")
    data = Fields(members.raw("data"), "an invoice's data")
    currency = members.text("currency")
    if currency not in _NETWORKS:
        raise ValueError(f"Unknown currency: {currency[:40]!r}")
    attributes = []
    for item in data.items("attrs"):
        attribute = _attribute_from_json(Fields(item, "an attribute"))
        if attribute is not None:
            attributes.append(attribute)
    signature = members.opt_text("signature")
    return Invoice(
        network=_NETWORKS[currency],
        amount=members.opt_u128("amount"),
        timestamp_ms=data.u128("timestamp"),
        payment_hash=data.payment_hash(),
        attributes=tuple(attributes),
        signature=None if signature is None else _read_signature(signature),
    )


def _read_signature(text: str) -> bytes:
    values = parse_hex(text, _SIGNATURE_VALUES, "an invoice's signature")
    if max(values) > 31:
        raise ValueError("an invoice's signature is made of five-bit values")
    return bech32.bytes_from_values(values)


def _attribute_to_json(attribute: Attribute) -> tuple[str, JsonValue]:
    match attribute:
        case ExpiryTime(expiry_s=seconds):
            return "expiry_time", write_uint(seconds, U64_BITS)
        case Description(text=text):
            return "description", text
        case FinalTlcTimeout(timeout_ms=timeout_ms):
            return "final_htlc_timeout", write_uint(timeout_ms, U64_BITS)
        case FinalExpiryDelta(delta_ms=delta_ms):
            return "final_htlc_minimum_expiry_delta", write_uint(delta_ms, U64_BITS)
        case FallbackAddress(text=text):
            return "fallback_addr", text
        case Features():
            return "feature", list(attribute.names())
        case UdtScript(script=script):
            return "udt_script", write_bytes(script.pack())
        case PayeePubkey(pubkey=pubkey):
            return "payee_public_key", pubkey.hex()
        case PaymentHashAlgorithm(algorithm=algorithm):
            return "hash_algorithm", algorithm.rpc_name
        case PaymentSecret(secret=secret):
            return "payment_secret", write_bytes(secret)
    assert_never(attribute)


def _attribute_from_json(item: Fields) -> Attribute | None:
    """Read an object with one known member; None when the member is not known."""
    for name in item.names()[:1]:
        match name:
            case "expiry_time":
                return ExpiryTime(expiry_s=item.u64(name))
            case "description":
                return Description(text=item.text(name))
            case "final_htlc_timeout":
                return FinalTlcTimeout(timeout_ms=item.u64(name))
            case "final_htlc_minimum_expiry_delta":
                return FinalExpiryDelta(delta_ms=item.u64(name))
            case "fallback_addr":
                return FallbackAddress(text=item.text(name))
            case "feature":
                return Features.of(FEATURE_NAMES.intersection(item.texts(name)))
            case "udt_script":
                return UdtScript(script=Script.unpack(item.blob(name)))
            case "payee_public_key":
                return PayeePubkey(pubkey=item.pubkey(name))
            case "hash_algorithm":
                return PaymentHashAlgorithm(algorithm=_read_algorithm(item.text(name)))
            case "payment_secret":
                return PaymentSecret(secret=item.hash32(name))
    return None


def _read_algorithm(name: str) -> HashAlgorithm:
    if name not in _ALGORITHMS:
        raise ValueError(f"Unknown Hash Algorithm: {name[:40]!r}")
    return _ALGORITHMS[name]
