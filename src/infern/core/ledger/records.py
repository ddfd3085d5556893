"""Rows around tabs and holds: keys, top-ups, claims and what an operation reports back."""

from dataclasses import dataclass, field
from enum import StrEnum

from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.tab import Tab
from infern.core.units import Asset


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A prepaid key, without the key.

    Args:
        key_digest: SHA-256 of the key, 32 bytes; all that is stored of it.
        key_id: Public name, safe to show and to put into invoices.
        tab_id: The tab it spends.
        session: 16 bytes naming the tab's receipt chain.
        asset: What the tab counts.
        created_ms: Unix milliseconds.
    """

    key_digest: bytes = field(repr=False)
    key_id: str
    tab_id: TabId
    session: bytes
    asset: Asset
    created_ms: int


class TopupState(StrEnum):
    """Where a top-up invoice stands."""

    OPEN = "open"
    PAID = "paid"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topup:
    """One invoice that credits a key when it is paid.

    Args:
        payment_hash: Primary key, 32 bytes.
        tab_id: Credited once, when the node says `Paid`.
        key_id: Named in the invoice's description.
        amount: Base units.
        invoice: Text to pay.
        expires_ms: After this no payment is accepted by the node.
        state: Where it stands.
        created_ms: Unix milliseconds.
    """

    payment_hash: PaymentHash
    tab_id: TabId
    key_id: str
    amount: int
    invoice: str
    expires_ms: int
    state: TopupState = TopupState.OPEN
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidRequest:
    """What a verified proof says, as the ledger needs it to make the proof single use.

    Args:
        payment_hash: Identity of the paid request.
        amount: Base units that arrived: the invoice's amount.
        asset: What the amount counts.
        digest: The request it pays for.
        tab_id: Name for its tab when it is new.
        session: 16 bytes for the new tab's receipts.
    """

    payment_hash: PaymentHash
    amount: int
    asset: Asset
    digest: RequestDigest
    tab_id: TabId
    session: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReceipt:
    """A receipt as the ledger keeps it; the signature is made again when it is read.

    Args:
        request_id: Names the request it answers.
        hold_id: The hold that was captured.
        packed: The 418-byte struct.
        charged: Base units charged.
        remainder: Base units of the hold that were not charged.
        remainder_to: Key id the remainder went to; empty when it stayed on the tab.
    """

    request_id: RequestId
    hold_id: HoldId
    packed: bytes
    charged: int
    remainder: int
    remainder_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What a capture booked.

    Args:
        stored: The receipt at its place in the session.
        payer: The tab the remainder is on, after the capture.
    """

    stored: StoredReceipt
    payer: Tab
