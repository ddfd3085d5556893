"""What a seller checks before it promises to pay somebody's invoice, and how a wish is named."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from infern.core.crypto import SignatureVerifier
from infern.core.errors import RemoteProtocolError
from infern.core.fiber.invoice import MAX_INVOICE_CHARS, decode_signed_invoice
from infern.core.ids import PaymentHash, Pubkey
from infern.core.units import Asset, Network

MIN_LIFE_MS: Final = 120_000
"""An invoice that lives shorter than this may expire before it is paid."""
MAX_FINAL_DELTA_MS: Final = 12_600_000
"""The last TLC of an ordinary payment needs 160 minutes. A payee that asks for much more could
keep a slot of the seller's channels for days without taking the money."""
_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")
_NAME_PREFIX: Final = b"f402/withdraw."
_MULTI_PART: Final = frozenset({"BASIC_MPP_REQUIRED", "BASIC_MPP_OPTIONAL"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PayableInvoice:
    """An invoice that a seller is willing to pay out of a tab.

    Args:
        text: What its node pays.
        amount: Base units.
        payment_hash: Identity of the payment.
        payee: The node that signed it.
    """

    text: str
    amount: int
    payment_hash: PaymentHash
    payee: Pubkey


def withdrawal_key(client_id: str) -> bytes:
    """32 bytes that name a withdrawal within its tab, from the client's own id.

    Raises:
        RemoteProtocolError: Not 16 to 128 of `A-Z a-z 0-9 _ -` (`invalid_request`, unmoved).
    """
    if not _ID.fullmatch(client_id):
        raise RemoteProtocolError(
            "id names this withdrawal, so that asking again pays once: 16 to 128 of A-Z a-z 0-9 "
            "_ -, made anew for each withdrawal",
            param="id",
        )
    return hashlib.sha256(_NAME_PREFIX + client_id.encode("ascii")).digest()


def payable_invoice(
    text: str,
    *,
    network: Network,
    asset: Asset,
    own: Pubkey,
    now_ms: int,
    verifier: SignatureVerifier,
) -> PayableInvoice:
    """Check an invoice that a stranger wants to have paid.

    Args:
        text: The invoice.
        network: Of the seller's node.
        asset: What the tab counts.
        own: The seller's node, which cannot pay itself.
        now_ms: Unix milliseconds.
        verifier: Checks the signature.

    Raises:
        RemoteProtocolError: `invalid_invoice`, unmoved; says what is wrong with it.
    """
    if len(text) > MAX_INVOICE_CHARS:
        raise _refused(f"it is over {MAX_INVOICE_CHARS} characters")
    invoice, payee = decode_signed_invoice(text, verifier)
    if invoice.network is not network:
        raise _refused(f"it is of {invoice.network.value}, this seller is on {network.value}")
    if invoice.asset != asset:
        raise _refused(f"it asks for {invoice.asset}, the key holds {asset}")
    if not invoice.amount:
        raise _refused("it names no amount")
    if invoice.expiry_s is not None and invoice.is_expired(now_ms + MIN_LIFE_MS):
        raise _refused("it has expired or is about to; make one that lives for some minutes")
    if payee == own:
        raise _refused("it is of this seller's own node; use one of yours")
    if (invoice.final_expiry_delta_ms or 0) > MAX_FINAL_DELTA_MS:
        raise _refused("it could lock the payment for days; make it without final_expiry_delta")
    if not invoice.features.isdisjoint(_MULTI_PART):
        # fnn may report such a payment as failed while some of its parts can still be taken.
        raise _refused("it allows payment in several parts; make it without allow_mpp")
    return PayableInvoice(
        text=text, amount=invoice.amount, payment_hash=invoice.payment_hash, payee=payee
    )


def _refused(complaint: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"This invoice cannot be paid: {complaint}. Nothing was reserved.",
        code="invalid_invoice",
        param="invoice",
    )
