"""Time limits that cost next to nothing, for waits that come with every write and every read.

Most writes go into the socket's buffer at once, most bodies have arrived with their headers, and
much of an answer is here before it is read: what never waits needs no clock. Where something does
wait, a bare timer costs a sixth of a cancel scope.
"""

import asyncio
import types
from collections.abc import Awaitable, Generator
from types import TracebackType
from typing import Any, TypeVar, cast

T = TypeVar("T")


@types.coroutine
def within(timeout_ms: int, work: Awaitable[T]) -> Generator[Any, Any, T]:
    """Await `work`, for at most so long; the clock starts at its first wait.

    Like `anyio.fail_after` around an await. It may stand inside cancel scopes and around them.

    Raises:
        TimeoutError: It took longer, and was cancelled.
    """
    steps = work.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as end:
        return cast("T", end.value)
    with _Timer(timeout_ms):
        while True:
            # What `yield from` does, begun in the middle (PEP 380).
            try:
                try:
                    sent = yield waits_for
                except BaseException as thrown:  # noqa: BLE001 - it is for the work to handle
                    waits_for = steps.throw(thrown)
                else:
                    waits_for = steps.send(sent)
            except StopIteration as end:
                return cast("T", end.value)


class _Timer:
    """Cancels the task it is entered in when the time is over, and turns that into an error.

    `asyncio.timeout` for a fixed time, except that it stays out of a cancellation under way: two
    requests in one round of the loop become one, and the one for a scope around would be lost.
    """

    __slots__ = ("_before", "_handle", "_is_over", "_task")

    def __init__(self, timeout_ms: int) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a coroutine of asyncio runs in a task"
        self._task = task
        self._before = task.cancelling()
        self._is_over = False
        self._handle = loop.call_later(timeout_ms / 1000, self._end)

    def __enter__(self) -> None:
        pass

    def _end(self) -> None:
        if self._task.cancelling() <= self._before:
            self._is_over = True
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.cancel()
        if not self._is_over:
            return
        is_ours_alone = self._task.uncancel() <= self._before
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error
