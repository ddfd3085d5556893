"""Offers that are out, and shown again to who asks for the same thing once more.

Every real double payment is two invoices for one need, each of them valid. A client that repeats a
request because it timed out may have paid the first invoice already, so it must not get a second
one. It is known by its `Idempotency-Key`, or as an automatic retry of a Stainless client. Who just
sends the same bytes, from behind the same address even, gets an offer of its own.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio

from infern.core.f402.offer import Offer
from infern.core.ids import PaymentHash, Pubkey, RequestDigest
from infern.ports import Clock
from infern.seller.limits import address_prefix

CAPACITY: Final = 4_096
"""Offers remembered; the oldest are forgotten first."""
KEEP_MS: Final = 600_000
"""How long after its expiry an offer is remembered, in case it was paid."""
Mint = Callable[[], Awaitable[Offer]]


class Witness(Protocol):
    """Who knows whether an offer was paid: `infern.seller.proofs.ProofDesk`."""

    async def is_paid(self, payment_hash: PaymentHash) -> bool:
        """Ask the node.

        Raises:
            InfernError: It does not say.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that has to be paid, as far as it tells two apart.

    Args:
        caller: 32 bytes: the address, and what else the client sends of itself with each request.
        digest: The request.
        refund_to: Where it wants its remainder; a part of the token.
        attempt: 32 bytes from its `Idempotency-Key`; None without one.
        retry: A Stainless client's count of repetitions; None from other clients.
    """

    caller: bytes
    digest: RequestDigest
    refund_to: Pubkey | None
    attempt: bytes | None
    retry: int | None

    @property
    def may_come_again(self) -> bool:
        """True when a later request can be known to be the same one."""
        return self.attempt is not None or self.retry is not None


def caller_of(address: str, headers: Mapping[str, str]) -> bytes:
    """32 bytes that two clients behind one address hardly share."""
    own = (address_prefix(address), headers.get("authorization"), headers.get("user-agent"))
    return hashlib.sha256(repr(own).encode()).digest()


@dataclass(slots=True, eq=False)
class _Entry:
    asked: Asked
    retry: int | None
    """The highest count of a retry that was shown it."""
    offer: Offer | None = None
    is_made: anyio.Event = field(default_factory=anyio.Event)

    def fits(self, asked: Asked) -> bool:
        own = self.asked
        if (own.caller, own.digest, own.refund_to) != (asked.caller, asked.digest, asked.refund_to):
            return False
        if own.attempt is not None or asked.attempt is not None:
            return own.attempt == asked.attempt
        return self.retry is not None and asked.retry is not None and self.retry < asked.retry


class StandingOffers:
    """Remembers offers, in memory alone. One per process."""

    def __init__(self, clock: Clock, witness: Witness) -> None:
        self._clock = clock
        self._witness = witness
        self._entries: OrderedDict[_Entry, None] = OrderedDict()
        self._by_digest: dict[RequestDigest, list[_Entry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def offer(self, asked: Asked, mint: Mint) -> Offer:
        """The offer this request got before, or a new one.

        Args:
            asked: The request.
            mint: Makes a new offer.

        Raises:
            InfernError: As `mint`, or the node does not say whether an old one was paid.
        """
        while (entry := self._find(asked)) is not None:
            await entry.is_made.wait()
            if entry.offer is not None and await self._stands(entry.offer):
                entry.retry = asked.retry
                return entry.offer
            self._forget(entry)
        if not asked.may_come_again:
            return await mint()
        entry = self._remember(asked)
        try:
            entry.offer = await mint()
            return entry.offer
        finally:
            entry.is_made.set()
            if entry.offer is None:
                self._forget(entry)

    def _find(self, asked: Asked) -> _Entry | None:
        same = self._by_digest.get(asked.digest, ())
        return next((entry for entry in same if entry.fits(asked)), None)

    async def _stands(self, offer: Offer) -> bool:
        """Whether an offer can still be paid, or was."""
        challenge = offer.challenge
        if self._clock.now_ms() < challenge.expires_at_s * 1000:
            return True
        return await self._witness.is_paid(challenge.payment_hash)

    def _remember(self, asked: Asked) -> _Entry:
        self._sweep()
        entry = _Entry(asked, asked.retry)
        self._entries[entry] = None
        self._by_digest.setdefault(asked.digest, []).append(entry)
        return entry

    def _sweep(self) -> None:
        """Forget the oldest, which end first: all offers live equally long."""
        now_ms = self._clock.now_ms()
        while self._entries:
            oldest = next(iter(self._entries))
            offer = oldest.offer
            ended = offer is not None and (now_ms > offer.challenge.expires_at_s * 1000 + KEEP_MS)
            if not ended and len(self._entries) < CAPACITY:
                return
            self._forget(oldest)

    def _forget(self, entry: _Entry) -> None:
        if entry not in self._entries:
            return
        del self._entries[entry]
        same = self._by_digest[entry.asked.digest]
        same.remove(entry)
        if not same:
            del self._by_digest[entry.asked.digest]
