"""Time of the embedded network: one queue of events, driven by a virtual or by the real clock.

The world is a discrete-event simulation. Everything that takes time is a callback put into the
queue; nothing in the world sleeps or awaits. Under `VirtualClock` a test moves time by hand and
a day passes in microseconds; under `WallClock` an asyncio loop runs each event when it is due.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Final

Callback = Callable[[], None]

US_PER_MS: Final = 1_000
MAX_EVENTS_PER_DRAIN: Final = 5_000_000
"""Above any honest test; a world that feeds itself without end is a bug and stops here."""


class Timer:
    """One event to come; `cancel` makes it nothing."""

    __slots__ = ("background", "callback", "due_us")

    def __init__(self, due_us: int, callback: Callback | None, *, background: bool) -> None:
        self.due_us = due_us
        self.callback = callback
        self.background = background

    def cancel(self) -> None:
        """Forget the event; harmless when it has run."""
        self.callback = None


class EventClock:
    """The queue itself. Use one of the two subclasses.

    Times are integers of microseconds since the Unix epoch, so that scaled latencies keep their
    order; what nodes show is milliseconds.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._order = itertools.count()

    @property
    def now_us(self) -> int:
        """Microseconds since the Unix epoch, as this world sees them."""
        raise NotImplementedError

    @property
    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, as this world sees them."""
        return self.now_us // US_PER_MS

    def call_at_us(self, due_us: int, callback: Callback, *, background: bool = False) -> Timer:
        """Run `callback` at `due_us`, or as soon as time moves when that has passed.

        Args:
            due_us: When, in microseconds since the Unix epoch.
            callback: What to run.
            background: True for periodic upkeep that must not count as work under way.
        """
        timer = Timer(due_us, callback, background=background)
        heapq.heappush(self._heap, (due_us, next(self._order), timer))
        self._arm()
        return timer

    def call_later_us(
        self, delay_us: int, callback: Callback, *, background: bool = False
    ) -> Timer:
        """Run `callback` after `delay_us` microseconds."""
        return self.call_at_us(self.now_us + max(delay_us, 0), callback, background=background)

    def advance_ms(self, duration_ms: int) -> None:
        """Move time forward and run everything that falls due on the way, in order."""
        raise NotImplementedError

    def _arm(self) -> None:
        """Note that the earliest event may have changed."""

    def _pop_due(self, until_us: int) -> Timer | None:
        while self._heap and self._heap[0][0] <= until_us:
            timer = heapq.heappop(self._heap)[2]
            if timer.callback is not None:
                return timer
        return None


class VirtualClock(EventClock):
    """Time stands still until a test moves it. Deterministic."""

    def __init__(self, start_ms: int = 1_795_000_000_000) -> None:
        super().__init__()
        self._now_us = start_ms * US_PER_MS

    @property
    def now_us(self) -> int:
        """Microseconds since the Unix epoch, as this world sees them."""
        return self._now_us

    def advance_ms(self, duration_ms: int) -> None:
        """Move time forward and run everything that falls due on the way, in order."""
        self.advance_us(duration_ms * US_PER_MS)

    def advance_us(self, duration_us: int) -> None:
        """Like `advance_ms`, finer."""
        until_us = self._now_us + duration_us
        for _ in range(MAX_EVENTS_PER_DRAIN):
            timer = self._pop_due(until_us)
            if timer is None:
                self._now_us = until_us
                return
            self._run(timer)
        raise RuntimeError("the world never comes to rest")

    def run_until_quiet(self) -> None:
        """Run until only upkeep is left: every payment under way is held, settled or failed."""
        for _ in range(MAX_EVENTS_PER_DRAIN):
            work = (t for _, _, t in self._heap if t.callback is not None and not t.background)
            last = min((t.due_us for t in work), default=None)
            if last is None:
                return
            timer = self._pop_due(last)
            if timer is not None:
                self._run(timer)
        raise RuntimeError("the world never comes to rest")

    def _run(self, timer: Timer) -> None:
        self._now_us = max(self._now_us, timer.due_us)
        callback, timer.callback = timer.callback, None
        if callback is not None:
            callback()


class WallClock(EventClock):
    """Real time, driven by the running asyncio loop between `start` and `stop`.

    Events put in before `start` wait for it. `advance_ms` shifts this world's clock ahead of the
    machine's.
    """

    def __init__(self, read_ns: Callable[[], int] = time.time_ns) -> None:
        super().__init__()
        self._read_ns = read_ns
        self._offset_us = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._armed_us: int | None = None

    @property
    def now_us(self) -> int:
        """Microseconds since the Unix epoch, as this world sees them."""
        return self._read_ns() // 1_000 + self._offset_us

    def advance_ms(self, duration_ms: int) -> None:
        """Move time forward and run everything that falls due on the way, in order."""
        until_us = self.now_us + duration_ms * US_PER_MS
        for _ in range(MAX_EVENTS_PER_DRAIN):
            timer = self._pop_due(until_us)
            if timer is None:
                self._offset_us += max(until_us - self.now_us, 0)
                # What was armed was to wake after a wait of the machine's, and now is too late.
                self._disarm()
                self._arm()
                return
            self._offset_us += max(timer.due_us - self.now_us, 0)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        raise RuntimeError("the world never comes to rest")

    def start(self) -> None:
        """Begin to run events on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        """Run nothing any more. Idempotent."""
        self._disarm()
        self._loop = None

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._armed_us = None, None

    def _arm(self) -> None:
        if self._loop is None or not self._heap:
            return
        due_us = self._heap[0][0]
        if self._handle is not None:
            if self._armed_us is not None and self._armed_us <= due_us:
                return
            self._handle.cancel()
        self._armed_us = due_us
        delay_s = max(due_us - self.now_us, 0) / 1_000_000
        self._handle = self._loop.call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._handle, self._armed_us = None, None
        self._pump()
        self._arm()

    def _pump(self) -> None:
        for _ in range(MAX_EVENTS_PER_DRAIN):
            timer = self._pop_due(self.now_us)
            if timer is None:
                return
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        raise RuntimeError("the world never comes to rest")
