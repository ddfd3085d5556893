"""Holds whose end could not be booked when their request ended; tried again until it is.

A ledger that is away for a moment (a full disk, a queue at its limit) must neither lock a
payer's money until the next restart nor lose the charge for what was delivered.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from infern.core.errors import LedgerError
from infern.core.ids import HoldId
from infern.ports import Clock

RETRY_MS: Final = 1_000
LAST_TRIES: Final = 10
"""Of a seller that stops: ten seconds, as long as it waits for anything then."""
MAX_OPEN: Final = 10_000
"""Above it an end is left to the next start-up, which releases."""
Ending = Callable[[], Awaitable[object]]
_log = logging.getLogger(__name__)


class Endings:
    """Ends of holds still to be booked. `run` must be running for anything to happen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[HoldId, Ending] = {}

    def __len__(self) -> int:
        return len(self._open)

    def hold_ids(self) -> Collection[HoldId]:
        """The holds whose ends wait here."""
        return self._open.keys()

    def add(self, hold_id: HoldId, ending: Ending) -> None:
        """Keep trying to book the end of a hold. The first ending of a hold counts.

        Args:
            hold_id: The hold.
            ending: Books its end; harmless when the hold has ended already.
        """
        if len(self._open) < MAX_OPEN:
            self._open.setdefault(hold_id, ending)
        else:
            _log.error("too many holds wait for their end; start-up will release %s", hold_id)

    async def run(self) -> None:
        """Try until cancelled."""
        while True:
            await self._clock.sleep_ms(RETRY_MS)
            await self.try_all()

    async def finish(self) -> None:
        """Before the process ends: try until all are booked, or for so long at most."""
        for turn in range(LAST_TRIES):
            await self.try_all()
            if not self._open:
                return
            if turn + 1 < LAST_TRIES:
                await self._clock.sleep_ms(RETRY_MS)
        _log.error(
            "the ledger is away: %d holds are left to start-up, which releases them unbilled",
            len(self._open),
        )

    async def try_all(self) -> None:
        """Try each once; stops at the first that finds the ledger still away."""
        for hold_id, ending in list(self._open.items()):
            try:
                await ending()
            except LedgerError as error:
                if error.code != "ledger_conflict":
                    return
                _log.warning("hold %s had ended otherwise: %s", hold_id, error.message)
            except Exception:  # noqa: BLE001 - one broken end must not keep the others waiting
                _log.exception("hold %s cannot be ended; start-up will release it", hold_id)
            else:
                _log.info("the end of hold %s is booked now", hold_id)
            self._open.pop(hold_id, None)
