"""Answers being made, each in a task of its own that outlives the connection which asked for it.

One timer looks after all deadlines: of the model server, of whole answers, of slow readers, of
answers nobody reads, of answers that are kept. A timer per wait would cost more than the waits.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from infern.core.errors import (
    DeliveryError,
    InfernError,
    InvariantViolation,
    UpstreamUnavailable,
)
from infern.seller.config import SellerLimits
from infern.seller.http import Caller, ClientGone
from infern.seller.recordings import Recording
from infern.seller.replays import Replays
from infern.seller.settlement import Settlement

TICKS_PER_LIMIT: Final = 8
"""How finely the shortest of the watched limits is measured."""
_log = logging.getLogger(__name__)


class Watch:
    """The deadlines of one answer. Cancels the work in its `scope` and says why."""

    def __init__(self, recording: Recording, timer: "Timekeeper", limits: SellerLimits) -> None:
        self.scope = anyio.CancelScope()
        self.why: InfernError | ClientGone | None = None
        self.keepalive: Callable[[], None] | None = None
        """Tells a reader of a silent answer that it is alive."""
        self._recording = recording
        self._timer = timer
        self._limits = limits
        self._ends_ms = timer.now_ms + limits.total_timeout_ms
        self._due_ms: int | None = None
        self._complaint = ""
        self._is_stopped = False

    def expect(self, within_ms: int, complaint: str) -> None:
        """The model server must do something within this time."""
        self._due_ms = self._timer.now_ms + within_ms
        self._complaint = complaint

    def rest(self) -> None:
        """The model server is waited for no more."""
        self._due_ms = None

    async def stop(self) -> None:
        """Let no deadline come between a charge and its delivery."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self.halt()

    def halt(self) -> None:
        """The work has ended, well or not."""
        self._is_stopped = True

    def look(self) -> None:
        """Compare with the time; called at every tick, and when the last reader has left."""
        now_ms, recording = self._timer.now_ms, self._recording
        if self._is_stopped or self.why is not None:
            return
        if now_ms >= self._ends_ms:
            self._end(_timeout("The answer took longer than this seller allows."))
        elif self._due_ms is not None and now_ms >= self._due_ms:
            self._end(_timeout(self._complaint))
        elif not recording.has_readers:
            linger_ms = recording.linger_ms if recording.is_kept else 0
            if not recording.runs_on and now_ms - recording.left_ms >= linger_ms:
                recording.drop()  # who comes from now on is too late
                self._end(ClientGone())
        elif (
            self.keepalive is not None
            and not recording.ahead_bytes
            and now_ms - recording.written_ms >= self._limits.keepalive_ms
        ):
            self.keepalive()

    def _end(self, why: InfernError | ClientGone) -> None:
        self.why = why
        self.scope.cancel()


def _timeout(why: str) -> UpstreamUnavailable:
    return UpstreamUnavailable(why, code="provider_timeout")


class Work(Protocol):
    """What makes an answer: `infern.seller.relay.Relay`."""

    async def make(self) -> bytes:
        """Write the answer into its recording, charge it, and return its last bytes.

        Raises:
            InfernError: Nothing was written and nothing is charged.
            ClientGone: Nobody reads; what was delivered is charged.
        """
        ...


class Timekeeper:
    """Loop time in milliseconds, as of the last tick."""

    def __init__(self, limits: SellerLimits) -> None:
        shortest_ms = min(
            limits.first_byte_timeout_ms,
            limits.idle_timeout_ms,
            limits.total_timeout_ms,
            limits.keepalive_ms,
            limits.stall_timeout_ms,
            limits.linger_ms,
        )
        self.now_ms = 0
        self.tick_ms = max(1, shortest_ms // TICKS_PER_LIMIT)

    async def tick(self) -> None:
        """Wait for the next tick."""
        await anyio.sleep(self.tick_ms / 1000)
        self.now_ms = int(anyio.current_time() * 1000)


class Jobs:
    """All answers under way and all connections that read one. One per process."""

    def __init__(self, limits: SellerLimits) -> None:
        self._limits = limits
        self._group: TaskGroup | None = None
        self._watches: dict[Watch, None] = {}
        self._callers: dict[Caller, None] = {}
        self.timer = Timekeeper(limits)
        self.replays = Replays(limits, self.timer)

    def begin(self, group: TaskGroup) -> None:
        """Run jobs in this group from now on."""
        self._group = group
        self.timer.now_ms = int(anyio.current_time() * 1000)
        group.start_soon(self._keep_time)

    async def _keep_time(self) -> None:
        while True:
            await self.timer.tick()
            for watch in tuple(self._watches):
                watch.look()
            for caller in tuple(self._callers):
                caller.look(self.timer.now_ms)
            self.replays.sweep()

    @contextmanager
    def look_after(self, caller: Caller) -> Iterator[None]:
        """Serve a client as long as it is there and not late."""
        self._callers[caller] = None
        try:
            with caller.scope:
                yield
        finally:
            del self._callers[caller]

    def watch(self, recording: Recording) -> Watch:
        """The deadlines of a new answer."""
        watch = Watch(recording, self.timer, self._limits)
        recording.on_left = watch.look
        return watch

    def start(
        self,
        recording: Recording,
        *,
        settlement: Settlement,
        work: Work,
        watch: Watch,
        places: ExitStack,
    ) -> None:
        """Begin to make an answer.

        Args:
            recording: Where it is written.
            settlement: Holds its ceiling; ends the hold.
            work: Makes it.
            watch: Its deadlines.
            places: What it takes up here until it has ended.
        """
        self._running().start_soon(self._run, recording, settlement, work, watch, places)

    async def _run(
        self,
        recording: Recording,
        settlement: Settlement,
        work: Work,
        watch: Watch,
        places: ExitStack,
    ) -> None:
        self._watches[watch] = None
        failure: Exception | None = None
        with places:
            try:
                async with settlement:
                    last = await work.make()
                # Told only now that the hold has ended: whoever repeats the request finds it so.
                if not settlement.is_charged:
                    self.replays.forget(recording)
                recording.end(last)
                if settlement.is_charged:
                    await self._written(recording)
            except (InfernError, ClientGone) as error:
                failure = error
            except Exception as bug:  # noqa: BLE001 - whoever waits for the answer raises it
                failure = bug
            finally:
                del self._watches[watch]
                self._end(recording, failure)
                if settlement.is_charged:
                    settlement.delivered()

    async def _written(self, recording: Recording) -> None:
        """Wait until a connection has all of it, or none is left."""
        while recording.has_readers and recording.delivered_ms is None:
            await recording.moved()

    def _end(self, recording: Recording, failure: Exception | None) -> None:
        if recording.is_ended:
            self.replays.ended(recording)
        else:
            self.refuse(recording, failure)

    def refuse(self, recording: Recording, failure: BaseException | None) -> None:
        """End an answer that will not come, for all who wait for it."""
        self.replays.forget(recording)
        if not isinstance(failure, Exception):
            failure = DeliveryError("This seller is stopping.", code="overloaded")
        recording.fail(failure)

    async def deliver(
        self, recording: Recording, caller: Caller, *, is_replay: bool
    ) -> Exception | None:
        """Give a recording to a client; returns why there is no answer, or no more of it.

        Raises:
            ClientGone: The client does not take it.
        """
        reader = recording.join(is_replay=is_replay)
        try:
            self._running().start_soon(caller.watch_for_leaving)
            return await reader.deliver(caller, stall_ms=self._limits.stall_timeout_ms)
        finally:
            caller.due_ms = None
            reader.leave()

    def _running(self) -> TaskGroup:
        if self._group is None:
            raise InvariantViolation("a seller serves only after its start")
        return self._group
