"""One payment of a client, as a value: what a journal keeps of it.

The row is keyed by payment hash and written before anything is paid. A row whose money is at
stake gives a right to a proof and forbids a second payment for the same need.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from infern.core.f402.challenge import Mode, peek_token
from infern.core.f402.client import LOCKING, MONEY_AT_STAKE, ClientState
from infern.core.f402.offer import WORST_LOCK_S, Offer
from infern.core.ids import PaymentHash, Preimage, Pubkey, RequestDigest
from infern.core.units import MAX_LEDGER_AMOUNT, Asset, checked_amount

DAY_MS: Final = 24 * 3600 * 1000
FORGOTTEN_LOCK_MS: Final = (WORST_LOCK_S + 86_400) * 1000
"""After so long a payment locks nothing any more, whatever its row says."""
RETURNED: Final = frozenset({ClientState.REFUSED, ClientState.PAYMENT_FAILED})
"""States whose amount no longer counts towards a budget: nothing left us, or it came back."""


class AttemptKind(StrEnum):
    """What a payment is for."""

    REQUEST = "request"
    TOPUP = "topup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One payment and the proof it gives a right to.

    Args:
        payment_hash: 32 bytes, primary key.
        kind: A request paid by itself, or a top-up of a prepaid key.
        digest: What it pays for: the request digest, or the SHA-256 of a top-up's description.
        origin: Scheme, host and port of the seller. Proofs are for one origin only.
        resource: Absolute URL of the request.
        pay_to: The payee's Fiber node, 33 bytes.
        provider: Agent key receipts will be signed with, hex; empty when unknown.
        amount: Base units, 1..2^63-1.
        fee_cap: Base units the routing fee may take at most.
        asset: What the amounts count.
        token: The challenge token; empty for a top-up.
        invoice: Fiber invoice text.
        redeem_until_s: Until when the seller honours the payment, Unix seconds.
        state: Where it stands.
        session: The client instance whose session budget it counts towards.
        preimage: When the node told it.
        fee: Base units the routing took; None until known.
        created_ms: Unix milliseconds.
        updated_ms: Unix milliseconds.
        mode: How it settles.
    """

    payment_hash: PaymentHash
    kind: AttemptKind
    digest: RequestDigest
    origin: str
    resource: str
    pay_to: Pubkey
    provider: str
    amount: int
    fee_cap: int
    asset: Asset
    token: str = field(repr=False)
    invoice: str
    redeem_until_s: int
    state: ClientState
    session: str
    preimage: Preimage | None = field(default=None, repr=False)
    fee: int | None = None
    created_ms: int
    updated_ms: int
    mode: Mode = Mode.UPFRONT

    def __post_init__(self) -> None:
        """Refuse sums a ledger column cannot hold."""
        for sum_ in (self.amount, self.fee_cap, self.fee or 0):
            checked_amount(sum_, limit=MAX_LEDGER_AMOUNT)
        if self.amount == 0:
            raise ValueError("a payment is for more than nothing")

    @property
    def is_at_stake(self) -> bool:
        """True while a second payment for the same need is forbidden."""
        return self.state in MONEY_AT_STAKE

    @property
    def is_locking(self) -> bool:
        """True while it is in hold mode and neither taken nor given back, as far as we know."""
        return self.mode is Mode.HOLD and self.state in LOCKING

    @property
    def locked_until_ms(self) -> int:
        """When Fiber itself ends a payment in hold mode at the latest, Unix milliseconds."""
        return self.created_ms + WORST_LOCK_S * 1000

    def offer(self) -> Offer:
        """The offer this row was made from, to write its proof again.

        Raises:
            RemoteProtocolError: The row has no token (a top-up).
        """
        return Offer(
            challenge=peek_token(self.token),
            token=self.token,
            invoice=self.invoice,
            resource=self.resource,
            provider=self.provider,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the journal says was spent or is at stake, fees included, base units of CKB.

    Args:
        session: By the session that asks.
        day: By everybody who uses this journal, in the last 24 hours.
        locked: Of it, by everybody, in hold mode and neither taken nor given back; however old.
        locks: How many payments that is.
    """

    session: int
    day: int
    locked: int = 0
    locks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A prepaid key we made. The key is money: it is stored before it is topped up."""

    key_id: str
    origin: str
    api_key: str = field(repr=False)
    created_ms: int
