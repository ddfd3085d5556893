"""Looking prepaid keys up: cached when known, slow and limited when guessed."""

from collections import OrderedDict
from typing import Final

from infern.core.errors import IdentityRejected, QuotaExceeded
from infern.core.f402.credential import key_digest
from infern.core.ledger.records import KeyRecord
from infern.ports import Clock, Ledger
from infern.seller.limits import AddressLimiter

CACHE_SIZE: Final = 10_000
WRONG_PER_MINUTE: Final = 30
ADDRESSES: Final = 10_000


class KeyRing:
    """Finds the record of a key. Records never change, so those found are remembered."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known: OrderedDict[bytes, KeyRecord] = OrderedDict()
        self._wrong = AddressLimiter(per_minute=WRONG_PER_MINUTE, capacity=ADDRESSES)

    async def find(self, key: str, address: str) -> KeyRecord:
        """The record of a key.

        Raises:
            IdentityRejected: `invalid_api_key`.
            QuotaExceeded: Too many unknown keys from this address.
        """
        digest = key_digest(key)
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
            return known
        found = await self._ledger.find_key(digest)
        if found is None:
            if not self._wrong.take(address, self._clock.now_ms()):
                raise QuotaExceeded("Too many unknown keys from this address.", retry_after_s=60)
            raise IdentityRejected(
                "This key is not known here. Unfunded keys are forgotten after a while: make a "
                "new one (POST /v1/f402/keys) and top it up."
            )
        self._known[digest] = found
        if len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return found

    def forget_all(self) -> None:
        """Drop the cache, after unfunded keys were deleted."""
        self._known.clear()
