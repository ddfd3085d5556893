"""Invoices as text: encode, decode, sign, verify.

The layers, outside in: bech32m over currency and amount (readable) and five-bit values; a marker
that says whether 104 values of signature end the text; the payload, compressed; molecule. The
signature covers the readable part and the compressed payload.

Decoding is stricter than fnn's: every invoice has exactly one text (in lower case), so
`encode_invoice(decode_invoice(text)) == text.lower()` always holds, and what fnn would read
charitably is refused: amounts with leading zeros, other markers than 0 and 1, compressed data
that the encoder would not write, an attribute twice, a hash algorithm nobody knows, a recovery
id that belongs to another key than the declared payee's. No fnn writes any of these.

Messages are fnn's own where it has one: the embedded node repeats them to its callers.

Source: `invoice.rs` of fiber-types 0.9.1 (`Display`, `from_str_allowing_unsigned`).
"""

import hashlib
import re
from dataclasses import replace
from typing import Final

from infern.core.ckb import bech32
from infern.core.ckb.molecule import UINT128, ByteArray, DynVec, Table
from infern.core.crypto import SignatureVerifier, Signer
from infern.core.errors import LocalProtocolError, RemoteProtocolError
from infern.core.fiber.arithmetic_coder import (
    CodedDataError,
    ExpandsTooFarError,
    compress,
    decompress,
)
from infern.core.fiber.invoice_attributes import (
    ATTRIBUTE,
    MAX_INVOICE_DATA_BYTES,
    Attribute,
)
from infern.core.fiber.invoice_value import Invoice
from infern.core.ids import PaymentHash, Pubkey
from infern.core.units import MAX_AMOUNT, MAX_AMOUNT_DIGITS, Network

MAX_INVOICE_CHARS: Final = 4096
"""Longer texts are neither read nor written; usual ones have 250 to 500 characters."""

_SIGNATURE_VALUES: Final = 104
"""How many values a signature takes. fnn also refuses texts with fewer values than that in all,
signed or not."""
_UNSIGNED, _SIGNED = b"\0", b"\1"
_ATTRIBUTE_KINDS: Final = 10
_HRP: Final = re.compile(r"(fib[btd])([0-9]*)(.*)", re.DOTALL)
_NETWORKS: Final = {network.currency.lower(): network for network in Network}
_FIELD_PRIME: Final = 2**256 - 2**32 - 977
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0

_PAYLOAD: Final = (
    Table.of("RawInvoiceData")
    .field(UINT128)
    .field(ByteArray("PaymentHash", 32))
    .field(DynVec("InvoiceAttrsVec", ATTRIBUTE, max_items=_ATTRIBUTE_KINDS))
)


def encode_invoice(invoice: Invoice) -> str:
    """Write an invoice; the inverse of `decode_invoice`.

    Raises:
        LocalProtocolError: Nobody could read it: longer than 4096 characters, or unsigned and
            nearly empty (`invalid_invoice`, money unmoved).
    """
    values = bech32.values_from_bytes(_compressed_payload(invoice))
    if invoice.signature is None:
        values = _UNSIGNED + values
    else:
        values = _SIGNED + values + bech32.values_from_bytes(invoice.signature)
    if len(values) < _SIGNATURE_VALUES:
        raise LocalProtocolError(
            "Too short data part: an unsigned invoice needs a description or the like",
            code="invalid_invoice",
        )
    text = bech32.encode(invoice.hrp, values, bech32.Variant.BECH32M)
    if len(text) > MAX_INVOICE_CHARS:
        raise LocalProtocolError(
            f"the invoice would be longer than {MAX_INVOICE_CHARS} characters",
            code="invalid_invoice",
        )
    return text


def decode_invoice(text: str, verifier: SignatureVerifier) -> Invoice:
    """Read an invoice and check its signature, if it has one.

    A signature must be valid, and by the declared payee when one is declared. Without a declared
    payee it defines the payee: ask `payee_of` and compare with the node you mean to pay.

    Raises:
        RemoteProtocolError: Not a valid invoice (`invalid_invoice`, money unmoved).
    """
    invoice, digest = _parse(text)
    if invoice.signature is not None:
        _recover(invoice, invoice.signature, digest, verifier)
    else:
        _check_payee(invoice)
    return invoice


def decode_signed_invoice(text: str, verifier: SignatureVerifier) -> tuple[Invoice, Pubkey]:
    """Read an invoice that must be signed; returns it with the node that signed it.

    One pass where `decode_invoice` and `payee_of` take two.

    Raises:
        RemoteProtocolError: Not a valid invoice, or not signed (`invalid_invoice`, money
            unmoved).
    """
    invoice, digest = _parse(text)
    if invoice.signature is None:
        raise _refuse("Invoice is not signed")
    return invoice, _recover(invoice, invoice.signature, digest, verifier)


def payee_of(invoice: Invoice, verifier: SignatureVerifier) -> Pubkey | None:
    """The node that signed the invoice; None when nobody did.

    Raises:
        RemoteProtocolError: The signature is invalid or not by the declared payee
            (`invalid_invoice`, money unmoved).
    """
    if invoice.signature is None:
        return None
    return _recover(invoice, invoice.signature, invoice_digest(invoice), verifier)


def sign_invoice(invoice: Invoice, signer: Signer) -> Invoice:
    """The invoice with the signer's signature and nothing else changed.

    Raises:
        LocalProtocolError: It declares another payee than the signer; nobody would accept it
            (`invalid_invoice`, money unmoved).
    """
    if invoice.payee_pubkey not in (None, signer.pubkey):
        raise LocalProtocolError(
            "Invalid signature: the invoice declares another payee than this key",
            code="invalid_invoice",
        )
    return replace(invoice, signature=signer.sign_recoverable(invoice_digest(invoice)))


def invoice_digest(invoice: Invoice) -> bytes:
    """The 32 bytes that the payee signs."""
    return _digest(invoice.hrp, _compressed_payload(invoice))


def _compressed_payload(invoice: Invoice) -> bytes:
    fields = (invoice.timestamp_ms, invoice.payment_hash, invoice.attributes)
    return compress(_PAYLOAD.pack(fields))


def _digest(hrp: str, compressed: bytes) -> bytes:
    # The payload is hashed as its five-bit values are: with their padding rounded up to a byte.
    padding = b"\0" if len(compressed) % 5 else b""
    return hashlib.sha256(hrp.encode("ascii") + compressed + padding).digest()


def _refuse(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code="invalid_invoice")


def _parse(text: str) -> tuple[Invoice, bytes]:
    """Undo every layer; returns the invoice and its digest. The signature is not checked."""
    if len(text) > MAX_INVOICE_CHARS:
        raise _refuse(f"the invoice is longer than {MAX_INVOICE_CHARS} characters")
    try:
        decoded = bech32.decode(text, max_chars=MAX_INVOICE_CHARS)
    except bech32.Bech32Error as error:
        raise _refuse(f"Bech32 error: {error}") from None
    if decoded.variant is not bech32.Variant.BECH32M:
        raise _refuse("Bech32 error: invalid checksum")
    values = decoded.values
    if len(values) < _SIGNATURE_VALUES:
        raise _refuse("Too short data part")
    network, amount = _parse_hrp(decoded.hrp)
    marker, end, signature = values[:1], len(values), None
    if marker == _SIGNED:
        end -= _SIGNATURE_VALUES
        signature = bech32.bytes_from_values(values[end:])
    elif marker != _UNSIGNED:
        raise _refuse("the invoice must say by 0 or 1 whether it is signed")
    try:
        compressed = bech32.bytes_from_values(values[1:end])
    except bech32.Bech32Error as error:
        raise _refuse(f"Bech32 error: {error}") from None
    timestamp_ms, payment_hash, attributes = _read_payload(compressed)
    try:
        invoice = Invoice(
            network=network,
            amount=amount,
            timestamp_ms=timestamp_ms,
            payment_hash=PaymentHash(payment_hash),
            attributes=attributes,
            signature=signature,
        )
    except ValueError as error:
        raise _refuse(str(error)) from None
    return invoice, _digest(decoded.hrp, compressed)


def _parse_hrp(hrp: str) -> tuple[Network, int | None]:
    found = _HRP.fullmatch(hrp)
    if found is None:
        raise _refuse(f"Parsing failed with malformed HRP: {hrp}")
    currency, digits, rest = found.groups()
    if rest:
        raise _refuse(f"Parsing failed with malformed HRP: {hrp}, unexpected ending `{rest}`")
    if not digits:
        return _NETWORKS[currency], None
    if len(digits) > 1 and digits[0] == "0":
        raise _refuse("Failed to parse amount: leading zeros")
    if len(digits) > MAX_AMOUNT_DIGITS or int(digits) > MAX_AMOUNT:
        raise _refuse("Failed to parse amount: number too large to fit in target type")
    return _NETWORKS[currency], int(digits)


def _read_payload(compressed: bytes) -> tuple[int, bytes, tuple[Attribute, ...]]:
    try:
        payload = decompress(compressed, max_bytes=MAX_INVOICE_DATA_BYTES)
    except ExpandsTooFarError:
        limit = MAX_INVOICE_DATA_BYTES
        raise _refuse(f"Invoice data length {limit + 1} exceeds max length {limit}") from None
    except CodedDataError as error:
        raise _refuse(f"Failed to decompress invoice data: {error}") from None
    try:
        return _PAYLOAD.unpack(payload)
    except RemoteProtocolError as error:
        if error.code == "invalid_invoice":
            raise
        raise _refuse(f"Molecule error: {error.message}") from None


def _recover(
    invoice: Invoice, signature: bytes, digest: bytes, verifier: SignatureVerifier
) -> Pubkey:
    # One recovery decides everything that recovery and verification would: the recovered key is
    # the only one, with this recovery id, for which the signature is valid. Of the two valid
    # values of s only the low one counts, as for fnn.
    payee = None
    if int.from_bytes(signature[32:64], "big") <= _HALF_ORDER:
        payee = verifier.recover(digest, signature)
    if payee is None or invoice.payee_pubkey not in (None, payee):
        _check_payee(invoice)
        raise _refuse("Invalid signature")
    return payee


def _check_payee(invoice: Invoice) -> None:
    """Refuse a declared payee that is no point of secp256k1. A valid signature proves it is."""
    if invoice.payee_pubkey is None:
        return
    x = int.from_bytes(invoice.payee_pubkey[1:], "big")
    square = (pow(x, 3, _FIELD_PRIME) + 7) % _FIELD_PRIME
    if x >= _FIELD_PRIME or pow(square, (_FIELD_PRIME - 1) // 2, _FIELD_PRIME) != 1:
        raise _refuse("Invalid payee public key")
