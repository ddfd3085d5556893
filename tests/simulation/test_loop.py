"""The virtual-time loop: it jumps, keeps order, repeats itself, and says when it is stuck."""

import asyncio
import random

import anyio
import pytest

from infern.simulator.loop import LIMIT_US, Stuck, VirtualLoop


def run(main, **options):
    loop = VirtualLoop(**options)
    try:
        return loop.run_until_complete(main()), loop
    finally:
        loop.close()


async def interleaved():
    seen = []

    async def worker(name):
        for turn in range(3):
            await anyio.sleep(0)
            seen.append((name, turn))

    async with anyio.create_task_group() as group:
        for name in range(5):
            group.start_soon(worker, name)
    return seen


def test_a_day_passes_at_once():
    async def main():
        await anyio.sleep(86_400)

    _, loop = run(main)
    assert loop.now_us == pytest.approx(86_400_000_000, abs=100)
    assert loop.turns < 10


def test_deadlines_are_virtual():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        with anyio.move_on_after(7) as scope:
            await anyio.sleep_forever()
        return scope.cancelled_caught

    cancelled, loop = run(main)
    assert cancelled
    assert loop.now_us == pytest.approx(12_000_000, abs=100)


def test_a_deadline_never_finds_its_time_not_yet_come():
    """Every timer is due when the clock stops at it: no turn is spent in waiting for a rounding."""

    async def main():
        for step in range(1, 500):
            await asyncio.sleep(step / 3e5)

    _, loop = run(main)
    assert loop.turns < 3 * 500


def test_the_same_dice_give_the_same_order_and_others_another():
    plain, _ = run(interleaved)
    first, _ = run(interleaved, shuffle=random.Random(1))
    again, _ = run(interleaved, shuffle=random.Random(1))
    other, _ = run(interleaved, shuffle=random.Random(2))
    assert first == again
    assert len({str(order) for order in (plain, first, other)}) == 3
    assert sorted(first) == sorted(plain)


def test_a_spinning_task_does_not_stop_time():
    async def main():
        async def spin():
            while True:
                await asyncio.sleep(0)

        async with anyio.create_task_group() as group:
            group.start_soon(spin)
            await anyio.sleep(1)
            group.cancel_scope.cancel()

    _, loop = run(main)
    assert loop.now_us >= 1_000_000


def test_waiting_for_nobody_is_told():
    async def main():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck, match="nothing will happen"):
        run(main)


def test_sleeping_for_ever_is_told():
    with pytest.raises(Stuck, match="not over in time"):
        run(anyio.sleep_forever, limit_us=LIMIT_US // 100)
