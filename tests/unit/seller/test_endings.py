from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.core.errors import LedgerError
from infern.core.ids import HoldId
from infern.seller import endings as endings_module
from infern.seller.endings import LAST_TRIES, Endings


class Ending:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)


AWAY = LedgerError("away")
CONFLICT = LedgerError("ended", code="ledger_conflict")


async def test_an_end_is_tried_until_it_is_booked_and_then_no_more(clock: Any) -> None:
    endings = Endings(clock)
    ending, other = Ending(AWAY, AWAY), Ending()
    endings.add(HoldId("a"), ending)
    endings.add(HoldId("b"), other)
    endings.add(HoldId("a"), Ending())
    await endings.try_all()
    assert (ending.calls, other.calls, len(endings)) == (1, 0, 2)
    await endings.try_all()
    await endings.try_all()
    assert (ending.calls, other.calls, len(endings)) == (3, 1, 0)
    await endings.try_all()
    assert ending.calls == 3


@pytest.mark.parametrize("failure", [CONFLICT, KeyError("a bug")])
async def test_an_end_that_can_never_be_booked_keeps_no_other_waiting(
    clock: Any, failure: Exception
) -> None:
    endings = Endings(clock)
    broken, good = Ending(failure), Ending()
    endings.add(HoldId("a"), broken)
    endings.add(HoldId("b"), good)
    await endings.try_all()
    assert (good.calls, len(endings)) == (1, 0)


async def test_it_runs_by_itself_and_is_bounded(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings_module, "MAX_OPEN", 1)
    endings = Endings(clock)
    first, second = Ending(AWAY), Ending()
    endings.add(HoldId("a"), first)
    endings.add(HoldId("b"), second)
    async with anyio.create_task_group() as group:
        group.start_soon(endings.run)
        while len(endings):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert (first.calls, second.calls) == (2, 0)


async def test_a_seller_that_stops_tries_on_while_the_ledger_is_away(clock: Any) -> None:
    endings = Endings(clock)
    late = Ending(*[AWAY] * (LAST_TRIES - 1))
    endings.add(HoldId("a"), late)
    with anyio.fail_after(5):
        await endings.finish()
    assert (late.calls, len(endings)) == (LAST_TRIES, 0)


async def test_a_seller_that_stops_gives_up_in_the_end_and_says_so(
    clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    endings = Endings(clock)
    never = Ending(*[AWAY] * 100)
    endings.add(HoldId("a"), never)
    with anyio.fail_after(5):
        await endings.finish()
    assert (never.calls, len(endings)) == (LAST_TRIES, 1)
    assert "1 holds are left to start-up" in caplog.text
