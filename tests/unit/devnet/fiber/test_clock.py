"""Virtual and real time."""

import asyncio

import pytest

from infern.devnet.fiber import VirtualClock, WallClock


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_events_run_in_order_at_their_time() -> None:
    clock = VirtualClock(start_ms=1_000)
    seen: list[tuple[str, int]] = []
    clock.call_later_us(5_000, lambda: seen.append(("late", clock.now_ms)))
    clock.call_later_us(2_000, lambda: seen.append(("early", clock.now_ms)))
    clock.call_later_us(5_000, lambda: seen.append(("later", clock.now_ms)))
    clock.call_later_us(3_000, lambda: seen.append(("never", 0))).cancel()
    clock.advance_ms(4)
    assert seen == [("early", 1_002)]
    assert clock.now_ms == 1_004
    clock.advance_ms(10)
    assert seen[1:] == [("late", 1_005), ("later", 1_005)]


def test_upkeep_does_not_count_as_work() -> None:
    clock = VirtualClock(start_ms=0)
    seen: list[str] = []
    clock.call_later_us(1_000, lambda: seen.append("upkeep"), background=True)
    clock.call_later_us(2_000, lambda: seen.append("work"))
    clock.call_later_us(9_000, lambda: seen.append("upkeep"), background=True)
    clock.run_until_quiet()
    assert seen == ["upkeep", "work"]
    assert clock.now_ms == 2


async def test_real_time_runs_events_between_start_and_stop() -> None:
    clock = WallClock()
    done = asyncio.Event()
    clock.call_later_us(1_000, done.set)
    await asyncio.sleep(0)
    assert not done.is_set()
    clock.start()
    async with asyncio.timeout(5):
        await done.wait()
    sooner = asyncio.Event()
    clock.call_later_us(60_000_000, lambda: None)
    clock.call_later_us(1_000, sooner.set)
    async with asyncio.timeout(5):
        await sooner.wait()
    clock.stop()
    clock.stop()


def test_real_time_can_be_moved_ahead_and_events_see_their_own_time() -> None:
    now_ns = 1_000_000_000
    clock = WallClock(read_ns=lambda: now_ns)
    seen: list[int] = []
    clock.call_later_us(5_000, lambda: seen.append(clock.now_ms))
    clock.call_later_us(7_000, lambda: seen.append(clock.now_ms))
    clock.advance_ms(10)
    assert seen == [1_005, 1_007]
    assert clock.now_ms == 1_010


async def test_what_was_armed_before_real_time_was_moved_keeps_no_later_event_waiting() -> None:
    clock = WallClock()
    clock.start()
    clock.call_later_us(60_000_000, lambda: None)
    clock.call_later_us(90_000_000, lambda: None)
    clock.advance_ms(70_000)
    soon = asyncio.Event()
    clock.call_later_us(1_000, soon.set)
    async with asyncio.timeout(5):
        await soon.wait()
    clock.stop()
