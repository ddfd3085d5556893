"""What looks after money survives its own bugs."""

import logging

import anyio
import pytest

from infern.adapters.system import SystemClock
from infern.core.errors import InvariantViolation
from infern.seller.waiting import AFTER_BUG_MS, keep_running


class CountingClock(SystemClock):
    def __init__(self) -> None:
        super().__init__()
        self.slept_ms: list[int] = []

    async def sleep_ms(self, duration_ms: int) -> None:
        self.slept_ms.append(duration_ms)
        await anyio.sleep(0)


@pytest.mark.parametrize("bug", [KeyError("row"), InvariantViolation("row"), None])
async def test_work_that_broke_or_returned_begins_again_after_a_pause(
    bug: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock, begun = CountingClock(), 0
    done = anyio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            done.set()
            await anyio.sleep_forever()
        if bug is not None:
            raise bug

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(keep_running, "rows", work, clock)
            await done.wait()
            group.cancel_scope.cancel()
    assert clock.slept_ms == [AFTER_BUG_MS] * 2
    broken = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(broken) == (2 if bug is not None else 0)


async def test_bugs_of_tasks_inside_count_too() -> None:
    clock, begun = CountingClock(), 0
    done = anyio.Event()

    async def broken() -> None:
        raise KeyError("row")

    async def work() -> None:
        nonlocal begun
        begun += 1
        async with anyio.create_task_group() as group:
            if begun == 1:
                group.start_soon(broken)
            else:
                done.set()
            await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(keep_running, "rows", work, clock)
            await done.wait()
            group.cancel_scope.cancel()
    assert begun == 2
