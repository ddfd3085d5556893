"""The time limit that starts at the first wait: it ends as a cancel scope around the await does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.seller import deadlines
from infern.seller.deadlines import within

LONG_MS = 60_000


async def answer(*, after: Callable[[], Awaitable[None]] | None = None) -> str:
    if after is not None:
        await after()
    return "done"


async def test_work_that_does_not_wait_gets_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: int) -> Any:
        raise AssertionError("a clock was started")

    monkeypatch.setattr(deadlines, "_Timer", never)
    assert await within(LONG_MS, answer()) == "done"
    with pytest.raises(AssertionError):
        await within(LONG_MS, answer(after=anyio.lowlevel.checkpoint))


async def test_work_that_waits_is_awaited_to_its_end() -> None:
    async def several() -> None:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.001)

    assert await within(LONG_MS, answer(after=several)) == "done"


@pytest.mark.parametrize("waits", [False, True])
async def test_what_the_work_raises_comes_out(waits: bool) -> None:
    async def broken() -> None:
        if waits:
            await anyio.lowlevel.checkpoint()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await within(LONG_MS, broken())


async def test_too_long_work_is_cancelled_and_may_clean_up() -> None:
    seen: list[str] = []

    async def hangs() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        await within(1, hangs())
    assert seen == ["cancelled"]


async def test_work_that_answers_to_what_is_thrown_into_it_goes_on() -> None:
    """An inner limit is the work's own affair."""

    async def patient() -> str:
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        return "went on"

    assert await within(LONG_MS, patient()) == "went on"


async def test_being_cancelled_from_outside_is_not_a_timeout() -> None:
    outcome: list[str] = []

    async def waits() -> None:
        try:
            await within(LONG_MS, anyio.sleep_forever())
        except TimeoutError:
            outcome.append("timeout")
        finally:
            outcome.append("left")

    async with anyio.create_task_group() as group:
        group.start_soon(waits)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert outcome == ["left"]


async def spin() -> None:
    """Waits for nothing, again and again: a task like this is cancelled in another way."""
    while True:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("timer_is_first", [False, True])
@pytest.mark.parametrize("work", [anyio.sleep_forever, spin])
async def test_a_timeout_and_a_cancelled_scope_in_one_moment_end_the_scope(
    monkeypatch: pytest.MonkeyPatch, work: Any, timer_is_first: bool
) -> None:
    """A cancellation that is nobody's would go past the scope and skip what ends a hold."""
    timers: list[Any] = []

    class Kept(deadlines._Timer):
        def __init__(self, timeout_ms: int) -> None:
            super().__init__(timeout_ms)
            timers.append(self)

    monkeypatch.setattr(deadlines, "_Timer", Kept)
    outcome: list[str] = []
    scope = anyio.CancelScope()

    async def waits() -> None:
        with scope:
            try:
                await within(LONG_MS, work())
            except TimeoutError:
                outcome.append("timeout")
            await anyio.sleep_forever()
        outcome.append("left the scope")

    async with anyio.create_task_group() as group:
        group.start_soon(waits)
        while not timers:
            await anyio.lowlevel.checkpoint()
        (timer,) = timers
        steps = [timer._end, scope.cancel]
        for step in steps if timer_is_first else reversed(steps):
            step()
    assert outcome in (["timeout", "left the scope"], ["left the scope"])
    assert scope.cancelled_caught


@pytest.mark.parametrize("catches", [False, True])
async def test_a_task_that_timed_out_is_not_left_half_cancelled(catches: bool) -> None:
    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if not catches:
                raise
        return "caught it"

    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    if catches:
        assert await within(1, stubborn()) == "caught it"
    else:
        with pytest.raises(TimeoutError):
            await within(1, stubborn())
    assert task.cancelling() == before
    await anyio.sleep(0.001)


async def test_limits_nest() -> None:
    async def inner() -> str:
        with pytest.raises(TimeoutError):
            await within(1, anyio.sleep_forever())
        return await within(LONG_MS, answer(after=anyio.lowlevel.checkpoint))

    assert await deadlines.within(LONG_MS, inner()) == "done"
