"""Waiting by the seller's own clock: for an event no longer than a limit, and for ever."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from infern.ports import Clock

AFTER_BUG_MS: Final = 1_000
_log = logging.getLogger(__name__)


async def happens_within(event: anyio.Event, timeout_ms: int, clock: Clock) -> bool:
    """Wait for `event`; False when the time was over first."""
    async with anyio.create_task_group() as group:

        async def give_up() -> None:
            await clock.sleep_ms(timeout_ms)
            group.cancel_scope.cancel()

        group.start_soon(give_up)
        await event.wait()
        group.cancel_scope.cancel()
    return event.is_set()


async def keep_running(what: str, work: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run what looks after money until cancelled; a bug in it is logged, and it begins again.

    Without this, one broken row would end the whole seller with all answers under way. Everything
    that runs here goes on from the ledger.
    """
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - a bug here must not end the seller
            _log.exception("what looks after %s broke; it begins again", what)
        await clock.sleep_ms(AFTER_BUG_MS)
