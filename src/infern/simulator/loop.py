"""An asyncio event loop in virtual time: it never waits, it jumps to the next timer.

Whatever asks the loop for the time, anyio's deadlines included, lives in this time. When nothing is
ready, the clock jumps to the earliest timer. A turn in which something was ready costs a
microsecond or so, so that a task that spins cannot stop time.

Order is deterministic: timers by time, callbacks in the order they were asked for, and tasks and
anyio's cancel scopes have hashes by number, because anyio keeps them in sets and goes through those
when it cancels. With `shuffle` a task's resumption is put
behind others by a seeded coin, which is a schedule that a busy machine could have had.
"""

import asyncio
import contextvars
import itertools
import math
import random
import selectors
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from anyio._backends import _asyncio as anyio_asyncio

T = TypeVar("T")
US_PER_S: Final = 1_000_000
MAX_BUSY_TURNS: Final = 2_000
"""Turns in a row with something ready; then the clock jumps all the same."""
LIMIT_US: Final = 400 * 86_400 * US_PER_S
"""Beyond the longest deadline there is; sleeping for ever is a timer that never comes."""
MAX_TURNS: Final = 2_000_000
"""Above any honest run; a world that feeds itself without end stops here."""
_HOP_CHANCE: Final = 0.3
_MAX_HOPS: Final = 4


class Stuck(Exception):
    """Every task waits for something that nobody will do."""


class NumberedTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks have an order that repeats."""

    numbers = itertools.count()

    def __init__(self, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        self._number = next(NumberedTask.numbers)
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class NumberedScope(anyio_asyncio.CancelScope):
    """A cancel scope whose hash is its number."""

    numbers = itertools.count()

    def __init__(self, **options: Any) -> None:
        self._number = next(NumberedScope.numbers)
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


@contextmanager
def numbered_scopes() -> Iterator[None]:
    """Let anyio make `NumberedScope`s for the length of a block, counted from 0."""
    plain = anyio_asyncio.CancelScope
    NumberedScope.numbers = itertools.count()
    setattr(anyio_asyncio, "CancelScope", NumberedScope)  # noqa: B010 - there is no other seam
    try:
        yield
    finally:
        setattr(anyio_asyncio, "CancelScope", plain)  # noqa: B010 - as above


class _Jump(selectors.SelectSelector):
    """Waits for nothing: reports how long the loop would have waited."""

    def __init__(self, waited: Callable[[float | None], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time pass."""
        self._waited(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. Make one for each run and close it after.

    Args:
        shuffle: Decides the order of tasks that could run at once; None runs them in order.
        limit_us: Virtual time at which a run that has not ended is given up.
    """

    def __init__(self, *, shuffle: random.Random | None = None, limit_us: int = LIMIT_US) -> None:
        self.now_us = 0
        self.turns = 0
        self.resumed: Callable[[contextvars.Context | None], None] = lambda _context: None
        """Told the context of every task that is about to go on behind an await."""
        self._busy_turns = 0
        self._shuffle = shuffle
        self._limit_us = limit_us
        super().__init__(_Jump(self._pass))
        NumberedTask.numbers = itertools.count()
        self.set_task_factory(_numbered)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now_us / US_PER_S

    def call_at_us(
        self,
        due_us: int,
        callback: Callable[[], object],
        *,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """`call_at` in whole microseconds."""
        return self.call_at(due_us / US_PER_S, callback, context=context)

    def call_soon(  # type: ignore[override]  # typeshed ties args to callback; we pass them on
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As asyncio's; a task's resumption is counted and may be put behind others."""
        if not _is_resumption(callback):
            return super().call_soon(callback, *args, context=context)
        self.resumed(context)
        hops = 0
        if self._shuffle is not None:
            while hops < _MAX_HOPS and self._shuffle.random() < _HOP_CHANCE:
                hops += 1
        return self._after_hops(hops, callback, args, context)

    def _after_hops(
        self,
        hops: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.Handle:
        if hops:
            return super().call_soon(self._after_hops, hops - 1, callback, args, context)
        return super().call_soon(callback, *args, context=context)

    def _pass(self, timeout: float | None) -> None:
        self.turns += 1
        if self.turns > MAX_TURNS:
            raise Stuck(f"the world never comes to rest: {_waiting(self)}")
        if timeout is None:
            raise Stuck(f"nothing will happen any more: {_waiting(self)}")
        if timeout > 0:
            self._busy_turns = 0
            # Rounded up and past it, or the timer would be due a moment after the clock stops.
            due_us = math.ceil((self.time() + timeout) * US_PER_S - 0.01)
            self.now_us = max(due_us, self.now_us + 1)
        else:
            self._busy_turns += 1
            self.now_us += 1 if self._busy_turns < MAX_BUSY_TURNS else 1_000
        if self.now_us > self._limit_us:
            raise Stuck(f"the run is not over in time: {_waiting(self)}")


def _numbered(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> NumberedTask[T]:
    assert asyncio.iscoroutine(coro)
    return NumberedTask(coro, loop=loop, **options)


def _is_resumption(callback: Callable[..., object]) -> bool:
    """True for what asyncio asks for when a task goes on: its first step, or a wake-up."""
    owner = getattr(callback, "__self__", None)
    return isinstance(owner, asyncio.Task) or type(callback).__name__ == "TaskStepMethWrapper"


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    tasks = sorted(asyncio.all_tasks(loop), key=hash)
    return "; ".join(f"{task.get_name()} {task.get_coro()}" for task in tasks[:20])
