"""Rows around tabs and holds: keys, top-ups, claims and what an operation reports back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from infern.core.ids import (
    HoldId,
    PaymentHash,
    PayoutId,
    Pubkey,
    RequestDigest,
    RequestId,
    TabId,
)
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


TOPUP_TRANSITIONS: Final[Mapping[TopupState, frozenset[TopupState]]] = {
    TopupState.OPEN: frozenset({TopupState.PAID, TopupState.EXPIRED}),
    # A payment that was on its way when its invoice expired still counts.
    TopupState.EXPIRED: frozenset({TopupState.PAID}),
    TopupState.PAID: frozenset(),
}
"""What the node may say next; anything else is old news and changes nothing."""


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
        is_lock: It was paid in hold mode: the amount is a lock, which the ledger knows since it
            was offered.
    """

    payment_hash: PaymentHash
    amount: int
    asset: Asset
    digest: RequestDigest
    tab_id: TabId
    session: bytes
    is_lock: bool = False


DUST: Final = 10_000
"""Base units below which a remainder is not sent back by itself: it stays to be redeemed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainderPlan:
    """Where what an answer did not cost goes; the first that applies.

    1. To `key`, if its tab is there and counts the same asset. 2. Back over Fiber to `refund_to`,
    if it is at least `DUST`. 3. It stays on the request's own tab, to be redeemed.

    Args:
        key: The prepaid key that came beside the proof.
        refund_to: The payer's Fiber node, if the payer asked for it in a way nobody could forge.
        payout_id: Names the payout, should there be one.
    """

    key: KeyRecord | None = None
    refund_to: Pubkey | None = None
    payout_id: PayoutId | None = None

    def __post_init__(self) -> None:
        """What is sent back needs a name before it is sent."""
        if self.refund_to is not None and self.payout_id is None:
            raise ValueError("a remainder that may be sent back needs a payout id")

    def says(self, remainder: int) -> str:
        """Where it sends a remainder, in words for the payer: a key id, `refund` or `payment`."""
        if self.key is not None:
            return self.key.key_id
        return "refund" if self.refund_to is not None and remainder >= DUST else "payment"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReceipt:
    """A receipt as the ledger keeps it; the signature is made again when it is read.

    Args:
        request_id: Names the request it answers.
        hold_id: The hold that was captured.
        packed: The 418-byte struct.
        charged: Base units charged.
        remainder: Base units of the hold that were not charged.
        remainder_to: Key id or payout id the remainder went to; empty when it stayed on the tab
            or waits for a lock to become money.
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
