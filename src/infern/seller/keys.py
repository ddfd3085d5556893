"""Looking prepaid keys up: cached when known, slow and limited when guessed."""

from collections import OrderedDict
from typing import Final

from infern.core.errors import IdentityRejected, LedgerError, QuotaExceeded
from infern.core.f402.credential import key_digest
from infern.core.ids import TabId
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
        self._forgotten = 0
        self._funded: set[TabId] = set()
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
        forgotten = self._forgotten
        found = await self._ledger.find_key(digest)
        if found is None:
            if not self._wrong.take(address, self._clock.now_ms()):
                raise QuotaExceeded("Too many unknown keys from this address.", retry_after_s=60)
            raise IdentityRejected(
                "This key is not known here. Unfunded keys are forgotten after a while: make a "
                "new one (POST /v1/f402/keys) and top it up."
            )
        if forgotten != self._forgotten:
            # It may be one of those deleted while the ledger answered: not remembered.
            return found
        self._known[digest] = found
        if len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return found

    async def is_funded(self, key: KeyRecord) -> bool:
        """Whether money ever came in for a key. Keys cost nothing, so others earn no trust.

        Raises:
            LedgerError: The ledger is away.
        """
        if key.tab_id in self._funded:
            return True
        try:
            tab = await self._ledger.tab(key.tab_id)
        except LedgerError as error:
            if error.code != "ledger_conflict":
                raise
            return False  # forgotten a moment ago, which only happens to keys without money
        if not tab.deposited:
            return False
        if len(self._funded) >= CACHE_SIZE:
            self._funded.clear()
        self._funded.add(key.tab_id)  # for good: what was deposited only grows
        return True

    def forget_all(self) -> None:
        """Drop the cache, after unfunded keys were deleted."""
        self._known.clear()
        self._forgotten += 1
