"""Offers in hold mode: made only when the seller's node and its ledger can carry one more lock.

A hold invoice that is paid occupies a slot of every channel on its way. Beyond 125 in one channel
payers get stuck for minutes, so far fewer are let in, and never more than a stranger may hold.
"""

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio

from infern.core.errors import (
    ConfigError,
    InfernError,
    Money,
    PaymentRequired,
    QuotaExceeded,
    TransportError,
)
from infern.core.f402.challenge import Mode, Terms
from infern.core.f402.offer import Offer, terms_to_json
from infern.core.fiber.rpc import ListChannels
from infern.core.fiber.types import Channel, TlcDirection
from infern.core.ids import Pubkey, RequestDigest
from infern.core.ledger.lock import Lock
from infern.core.units import format_amount
from infern.ports import Clock, FiberNode, Ledger
from infern.seller.backend import Listing
from infern.seller.config import SellerConfig
from infern.seller.locks import LockKeeper
from infern.seller.minting import LINKS, Minter

MAX_PENDING_TLCS: Final = 60
"""TLCs a channel may have pending before no more locks are sent through it; its limit is 125."""
ROOM_AGE_MS: Final = 2_000
"""How old a look at the channels may be."""
LOOK_TIMEOUT_MS: Final = 5_000
MAX_RUN_MS: Final = 30 * 60_000
"""Longest answer that can still be settled in time, should it begin at the last moment it may
(`CLAIM_GRACE_MS`); see `HOLD_EXPIRY_DELTA_MS`."""
WITHDRAW_TIMEOUT_S: Final = 10
_log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why hold mode is not offered, as programs read it."""

    AMOUNT = "amount"
    LOCKS = "locks"
    ADDRESS = "address"
    CHANNELS = "channels"
    PREIMAGE = "preimage"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class _Room:
    """Base units that each channel with room for another TLC can still receive."""

    receivable: tuple[int, ...]
    until_ms: int


class HoldOffers:
    """Makes offers in hold mode. One per process."""

    def __init__(
        self,
        config: SellerConfig,
        *,
        minter: Minter,
        locks: LockKeeper,
        ledger: Ledger,
        fiber: FiberNode,
        clock: Clock,
    ) -> None:
        self._config = config
        self._minter = minter
        self._locks = locks
        self._ledger = ledger
        self._fiber = fiber
        self._clock = clock
        self._room = _Room((), 0)
        self._looking = anyio.Lock()

    async def admit(self, terms: Terms) -> None:
        """Refuse what could not be held, before anything is counted against the asker.

        Raises:
            PaymentRequired: `hold_unavailable`, with the reason and the cap; nothing moved.
            TransportError: `fiber_unavailable`; nothing moved.
        """
        config, amount = self._config, terms.ceiling
        if config.require_preimage:
            raise self._unavailable(
                terms, Reason.PREIMAGE, "this seller takes payments by their preimage only"
            )
        if config.limits.total_timeout_ms > MAX_RUN_MS:
            raise self._unavailable(
                terms,
                Reason.TIME,
                "answers of this seller may take longer than a payment can be held",
            )
        if not terms.price.asset.is_ckb or amount > config.limits.hold_max_amount:
            cap = format_amount(config.limits.hold_max_amount, terms.price.asset)
            raise self._unavailable(
                terms,
                Reason.AMOUNT,
                f"it may cost more than {cap}, the most this seller lets anybody lock",
            )
        if not any(amount <= receivable for receivable in await self._receivable()):
            raise self._unavailable(
                terms,
                Reason.CHANNELS,
                "no channel of this seller has room for another held payment",
            )

    async def offer(
        self,
        *,
        listing: Listing,
        terms: Terms,
        digest: RequestDigest,
        target: str,
        address: str,
        refund_to: Pubkey | None = None,
    ) -> Offer:
        """Record a lock, then make its invoice and token.

        Raises:
            PaymentRequired: `hold_unavailable`: too many locks, of this address or of all.
            TransportError: `fiber_unavailable`; nothing moved.
            LedgerError: `ledger_unavailable`; nothing moved.
        """
        limits = self._config.limits
        if self._locks.unclaimed_of(address) >= limits.locks_per_address:
            raise self._unavailable(
                terms,
                Reason.ADDRESS,
                "your address has as many unanswered ones as this seller allows",
            )
        challenge = self._minter.draft(
            listing=listing, terms=terms, digest=digest, mode=Mode.HOLD, refund_to=refund_to
        )
        lock = Lock(
            payment_hash=challenge.payment_hash,
            nonce=challenge.nonce,
            amount=challenge.amount,
            asset=challenge.asset,
            digest=challenge.digest,
            offered_ms=self._clock.now_ms(),
            expires_ms=(challenge.expires_at_s + 1) * 1000,
        )
        self._locks.expect(lock.payment_hash, address)
        try:
            # Durable before the node has the invoice: a lock nobody remembers would last for days.
            await self._ledger.offer_lock(lock, open_limit=limits.open_locks)
            return await self._minter.make(challenge, target)
        except QuotaExceeded:
            self._locks.claimed(lock.payment_hash)
            raise self._unavailable(
                terms, Reason.LOCKS, "this seller has as many held payments as it allows"
            ) from None
        except BaseException:
            with anyio.move_on_after(WITHDRAW_TIMEOUT_S, shield=True):
                await self._locks.withdraw(lock.payment_hash)
            raise

    async def _receivable(self) -> tuple[int, ...]:
        # One look at a time, shared by all who wait for it: a stranger can ask for many.
        async with self._looking:
            now_ms = self._clock.now_ms()
            if now_ms >= self._room.until_ms:
                channels = await self._channels()
                self._room = _Room(
                    tuple(channel.receivable for channel in channels if _has_slot(channel)),
                    now_ms + ROOM_AGE_MS,
                )
            return self._room.receivable

    async def _channels(self) -> tuple[Channel, ...]:
        try:
            return await self._fiber.call(ListChannels(), timeout_ms=LOOK_TIMEOUT_MS)
        except ConfigError as error:
            _log.error("hold mode needs the right to read the node's channels: %s", error.message)
            return ()
        except InfernError as error:
            _log.warning("the Fiber node did not list its channels: %s", error.message)
            raise TransportError(
                "This seller's Fiber node does not answer, so it cannot take payments now. "
                "Nothing was paid; try again.",
                code="fiber_unavailable",
                money=Money.UNMOVED,
                retry_after_s=5,
            ) from error

    def _unavailable(self, terms: Terms, reason: Reason, why: str) -> PaymentRequired:
        return PaymentRequired(
            f"Hold mode is not offered for this request now: {why}. Send it without F402-Mode to "
            "pay upfront. Nothing was paid.",
            code="hold_unavailable",
            details={
                "reason": reason.value,
                "max_amount": str(self._config.limits.hold_max_amount),
                "quote": terms_to_json(terms),
                "links": dict(LINKS),
            },
        )


def _has_slot(channel: Channel) -> bool:
    inbound = sum(tlc.direction is TlcDirection.INBOUND for tlc in channel.pending_tlcs)
    is_ckb = channel.udt_type_script is None
    return channel.is_ready and is_ckb and inbound < MAX_PENDING_TLCS
