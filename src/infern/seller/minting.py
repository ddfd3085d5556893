"""Making offers: a Fiber invoice and the token that goes with it, within strict limits.

Every invoice stays in the node's store for ever, so an unpaid 402 costs us disk and the asker
nothing. Above the limits the answer is a quote without an invoice; paying users never notice.
"""

import hashlib
import logging
from collections.abc import Mapping
from typing import Final

from infern.core.errors import InfernError, Money, TransportError
from infern.core.f402.challenge import Challenge, Mode, Terms, derive_preimage, mint_token
from infern.core.f402.checks import realm_of
from infern.core.f402.digest import invoice_description, topup_description
from infern.core.f402.offer import Offer
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.fiber.rpc import NewInvoice
from infern.core.fiber.types import InvoiceRecord
from infern.core.ids import PaymentHash, Preimage, Pubkey, RequestDigest, TabId
from infern.core.ledger.records import Topup
from infern.core.units import div_ceil
from infern.ports import Clock, Entropy, FiberNode
from infern.seller.backend import Listing
from infern.seller.config import SellerConfig
from infern.seller.limits import AddressLimiter, ExpiringCount, TokenBucket

MINT_TIMEOUT_MS: Final = 5_000
HOLD_EXPIRY_DELTA_MS: Final = 12_600_000
"""210 minutes for the last TLC of a hold invoice. The node gives it back 161 minutes before it
expires, so that at least 49 are left to answer and to settle."""
LINKS: Final[Mapping[str, str]] = {
    "keys": "/v1/f402/keys",
    "topups": "/v1/f402/topups",
    "quote": "/v1/f402/quote",
    "redeem": "/v1/f402/redeem",
}
_log = logging.getLogger(__name__)


class Minter:
    """Makes invoices at the seller's own node. One per process."""

    def __init__(
        self, config: SellerConfig, *, fiber: FiberNode, clock: Clock, entropy: Entropy
    ) -> None:
        limits = config.limits
        self._config = config
        self._fiber = fiber
        self._clock = clock
        self._entropy = entropy
        self._rate = TokenBucket(tokens=limits.mints_per_s, period_ms=1000, burst=limits.mint_burst)
        self._open = ExpiringCount(limits.open_invoices)
        self._addresses = AddressLimiter(
            per_minute=limits.address_per_minute, capacity=limits.addresses
        )

    def may_mint(self, address: str) -> bool:
        """True when an anonymous request from here may have an invoice; uses up its allowance."""
        now_ms = self._clock.now_ms()
        return (
            self._addresses.take(address, now_ms)
            and self._rate.take(now_ms)
            and self._open.add(
                now_ms=now_ms,
                expires_ms=now_ms + self._config.limits.invoice_expiry_s * 1000,
            )
        )

    async def offer(
        self,
        *,
        listing: Listing,
        terms: Terms,
        digest: RequestDigest,
        target: str,
        refund_to: Pubkey | None = None,
    ) -> Offer:
        """Mint an invoice for exactly this request and write its token.

        Raises:
            TransportError: `fiber_unavailable`; nothing moved.
        """
        challenge = self.draft(
            listing=listing, terms=terms, digest=digest, mode=Mode.UPFRONT, refund_to=refund_to
        )
        return await self.make(challenge, target)

    def draft(
        self,
        *,
        listing: Listing,
        terms: Terms,
        digest: RequestDigest,
        mode: Mode,
        refund_to: Pubkey | None,
    ) -> Challenge:
        """The claims of a new offer, whose payment hash is known and whose invoice is not made."""
        config = self._config
        nonce = self._entropy.random_bytes(16)
        now_s = self._clock.now_ms() // 1000
        return Challenge(
            issuer=realm_of(config.public_url),
            network=config.network,
            asset=terms.price.asset,
            amount=terms.ceiling,
            pay_to=config.pay_to,
            payment_hash=_hash(derive_preimage(config.secrets.preimage_key, nonce)),
            digest=digest,
            listing=listing.listing_id,
            mode=mode,
            issued_at_s=now_s,
            expires_at_s=now_s + config.limits.invoice_expiry_s,
            redeem_until_s=now_s + config.limits.redeem_s,
            nonce=nonce,
            terms=terms,
            refund_to=refund_to,
        )

    async def make(self, challenge: Challenge, target: str) -> Offer:
        """Mint a draft's invoice and write its token.

        In hold mode the node is told the payment hash alone: it must not be able to settle.

        Raises:
            TransportError: `fiber_unavailable`; nothing moved.
        """
        config, secrets = self._config, self._config.secrets
        is_lock = challenge.mode is Mode.HOLD
        record = await self._mint(
            NewInvoice(
                amount=challenge.amount,
                network=config.network,
                description=invoice_description(challenge.digest),
                preimage=None
                if is_lock
                else derive_preimage(secrets.preimage_key, challenge.nonce),
                payment_hash=challenge.payment_hash if is_lock else None,
                expiry_s=config.limits.invoice_expiry_s,
                final_expiry_delta_ms=HOLD_EXPIRY_DELTA_MS if is_lock else None,
                hash_algorithm=HashAlgorithm.SHA256,
                allow_mpp=False if is_lock else None,
            )
        )
        locked_ms = config.limits.lock_claim_ms + config.limits.total_timeout_ms
        return Offer(
            challenge=challenge,
            token=mint_token(challenge, kid=secrets.kid, key=secrets.challenge_keys[secrets.kid]),
            invoice=record.invoice_text,
            resource=config.public_url + target,
            provider=config.agent.hex(),
            links=LINKS,
            locked_s=div_ceil(locked_ms, 1000) if is_lock else 0,
        )

    async def topup(self, *, amount: int, key_id: str, tab_id: TabId) -> Topup:
        """Mint a top-up invoice for a key. The caller records it before showing it.

        Raises:
            TransportError: `fiber_unavailable`; nothing moved.
        """
        preimage = Preimage(self._entropy.random_bytes(32))
        expiry_s = self._config.limits.topup_expiry_s
        now_ms = self._clock.now_ms()
        record = await self._mint(
            NewInvoice(
                amount=amount,
                network=self._config.network,
                description=topup_description(key_id),
                preimage=preimage,
                expiry_s=expiry_s,
                hash_algorithm=HashAlgorithm.SHA256,
            )
        )
        return Topup(
            payment_hash=_hash(preimage),
            tab_id=tab_id,
            key_id=key_id,
            amount=amount,
            invoice=record.invoice_text,
            expires_ms=now_ms + expiry_s * 1000,
            created_ms=now_ms,
        )

    async def _mint(self, call: NewInvoice) -> InvoiceRecord:
        try:
            return await self._fiber.call(call, timeout_ms=MINT_TIMEOUT_MS)
        except InfernError as error:
            _log.warning("the Fiber node made no invoice: %s", error)
            raise TransportError(
                "This seller's Fiber node does not answer, so it cannot take payments now. "
                "Nothing was paid; try again.",
                code="fiber_unavailable",
                money=Money.UNMOVED,
                retry_after_s=5,
            ) from error


def _hash(preimage: Preimage) -> PaymentHash:
    return PaymentHash(hashlib.sha256(preimage).digest())
