"""Waiting for an event no longer than a limit, by the seller's own clock."""

import anyio

from infern.ports import Clock


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
