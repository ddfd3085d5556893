"""Leases of holds: a hold whose owner is gone is released, and one of a live request never is.

A hold says until when its owner keeps it. This process renews the holds of its own requests and
releases holds that nobody renewed: those of a process that died, where several share a ledger, and
its own that no request knows any more, which is a bug that would tie up a payer's money until the
next start. What is live here is never swept here, however late the clock says it is: a laptop that
slept for hours goes on where it was.
"""

import logging
from collections.abc import Callable, Collection
from typing import Final

from infern.core.errors import LedgerError
from infern.core.ids import HoldId
from infern.ports import Clock, Ledger

LEASE_MS: Final = 90_000
"""A lease outlives two renewals that could not be booked."""
RENEW_MS: Final = 30_000
SWEEP_BATCH: Final = 500
"""Holds released at one look; the next look finds the rest."""
_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews and sweeps. `run` must be running, or leases end while their requests go on.

    Args:
        ledger: Where the holds are.
        clock: Says when a lease is over.
        owner: Names this process; no other process has this name, no earlier one either.
        waiting: Holds whose requests are over and whose ends are still to be booked.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        owner: str,
        waiting: Callable[[], Collection[HoldId]],
    ) -> None:
        self.owner = owner
        self._ledger = ledger
        self._clock = clock
        self._waiting = waiting
        self._held: set[HoldId] = set()

    def begin(self, hold_id: HoldId) -> int:
        """Keep a hold that is about to be placed; returns until when its first lease goes."""
        self._held.add(hold_id)
        return self._clock.now_ms() + LEASE_MS

    def end(self, hold_id: HoldId) -> None:
        """The hold has ended, or was left to who books its end later."""
        self._held.discard(hold_id)

    async def run(self) -> None:
        """Renew and sweep until cancelled."""
        while True:
            try:
                await self.look()
            except LedgerError as error:
                _log.warning("leases could not be renewed: %s", error.message)
            await self._clock.sleep_ms(RENEW_MS)

    async def look(self) -> None:
        """Renew what is live here, then release what nobody renewed.

        Raises:
            LedgerError: The ledger is away; what was not renewed is tried again at the next look.
        """
        now_ms = self._clock.now_ms()
        live = sorted(self._live())
        if live:
            await self._ledger.renew(live, lease_until_ms=now_ms + LEASE_MS)
        for hold in await self._ledger.expired_holds(now_ms=now_ms, limit=SWEEP_BATCH):
            if hold.hold_id in self._live():
                continue
            if not await self._ledger.release_expired(hold.hold_id, now_ms=now_ms):
                continue
            if hold.owner == self.owner:
                _log.error(
                    "hold %s was left open by this process; it is released, nobody was charged",
                    hold.hold_id,
                )
            else:
                _log.warning(
                    "hold %s of %s, which is gone, is released; nobody was charged",
                    hold.hold_id,
                    hold.owner or "nobody",
                )

    def _live(self) -> set[HoldId]:
        return self._held.union(self._waiting())
