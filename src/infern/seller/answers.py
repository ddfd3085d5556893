"""Answers under way, each made in a task of its own that outlives the connection it began with.

One timer looks after all their deadlines: of the model server, of whole answers, of answers nobody
reads, of answers that are kept. A timer per wait would cost more than the waits.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable
from contextlib import ExitStack
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
from infern.seller.http import ClientGone, Receive, Responder
from infern.seller.recordings import Reader, Recording
from infern.seller.replays import Replays
from infern.seller.settlement import Settlement

TICKS_PER_LIMIT: Final = 8
"""How finely the shortest of the watched limits is measured."""
_log = logging.getLogger(__name__)


class Watch:
    """The deadlines of one answer. Cancels the work in its `scope` and says why."""

    def __init__(self, recording: Recording, timer: "Timekeeper", limits: SellerLimits) -> None:
        self.scope = anyio.CancelScope()
        self._why: InfernError | ClientGone | None = None
        self.keepalive: Callable[[], None] | None = None
        """Tells a reader of a silent answer that it is alive."""
        self._recording = recording
        self.limits = limits
        self._timer = timer
        self._ends_ms = timer.now_ms + limits.total_timeout_ms
        self._due_ms: int | None = None
        self._complaint = ""
        self._is_stopped = False

    @property
    def why_cancelled(self) -> InfernError | ClientGone:
        """Why the work was cancelled."""
        if self._why is None:
            raise InvariantViolation("work was cancelled and nobody says why")
        return self._why

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
        # What tells of one another would keep one another in memory, with the answer's last bytes.
        self.keepalive = self._recording.on_left = None

    def look(self) -> None:
        """Compare with the time; called at every tick, and when the last reader has left."""
        now_ms, recording = self._timer.now_ms, self._recording
        if self._is_stopped or self._why is not None:
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
            and now_ms - recording.written_ms >= self.limits.keepalive_ms
        ):
            self.keepalive()

    def _end(self, why: InfernError | ClientGone) -> None:
        self._why = why
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
    """The loop's time, and how often deadlines are compared with it."""

    def __init__(self, limits: SellerLimits) -> None:
        self._time: Callable[[], float] = float
        shortest_ms = min(
            limits.first_byte_timeout_ms,
            limits.idle_timeout_ms,
            limits.total_timeout_ms,
            limits.keepalive_ms,
            limits.linger_ms,
        )
        self._tick_ms = max(1, shortest_ms // TICKS_PER_LIMIT)

    @property
    def now_ms(self) -> int:
        """Milliseconds since some moment; 0 before the start."""
        return int(self._time() * 1000)

    def begin(self) -> None:
        """Use the running loop's time from now on."""
        self._time = asyncio.get_running_loop().time

    async def tick(self) -> None:
        """Wait for the next tick."""
        await anyio.sleep(self._tick_ms / 1000)


class Answers:
    """All answers under way and all connections that read one. One per process."""

    def __init__(self, limits: SellerLimits) -> None:
        self._limits = limits
        self._group: TaskGroup | None = None
        self._watches: dict[Watch, None] = {}
        self._idle = anyio.Event()
        self.timer = Timekeeper(limits)
        self.replays = Replays(limits, self.timer)

    @property
    def under_way(self) -> int:
        """Answers that are being made or written."""
        return len(self._watches)

    def begin(self, group: TaskGroup) -> None:
        """Make answers in this group from now on."""
        self._group = group
        self.timer.begin()
        group.start_soon(self._keep_time)

    async def _keep_time(self) -> None:
        while True:
            if not self._watches and not len(self.replays):
                self._idle = anyio.Event()
                await self._idle.wait()
            await self.timer.tick()
            for watch in tuple(self._watches):
                watch.look()
            self.replays.sweep()

    def watch(self, recording: Recording) -> Watch:
        """The deadlines of a new answer.

        Raises:
            InvariantViolation: The seller was not started, and so serves nobody.
        """
        self._running()
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
            settlement: Its hold, which was placed and is owned from now on.
            work: Makes it.
            watch: Its deadlines.
            places: What it takes up here; closed when it has ended.
        """
        self._watches[watch] = None
        self._idle.set()
        self._running().start_soon(self._run, recording, settlement, work, watch, places)

    async def _run(
        self,
        recording: Recording,
        settlement: Settlement,
        work: Work,
        watch: Watch,
        places: ExitStack,
    ) -> None:
        failure: BaseException | None = None
        last: bytes | None = None
        with places:
            try:
                async with settlement:
                    last = await work.make()
                    if settlement.is_charged:
                        recording.end(last)
                        await self._written(recording, settlement)
            except (InfernError, ClientGone) as error:
                failure = error
            except Exception as bug:  # noqa: BLE001 - whoever waits for the answer raises it
                failure = bug
            finally:
                del self._watches[watch]
                self._end(recording, last, failure)
                if failure is not None:
                    # Whoever is told of it keeps it, its frames, and all that the maker had read.
                    traceback.clear_frames(failure.__traceback__)

    async def _written(self, recording: Recording, settlement: Settlement) -> None:
        """Wait until a connection has all of a charged answer, or none is left."""
        try:
            while recording.has_readers and recording.delivered_ms is None:
                await recording.moved()
        finally:
            if recording.handed:
                settlement.begin_delivery()
            elif settlement.waits_for_delivery:
                # The payment goes back, so nobody may have the answer any more.
                self.replays.forget(recording)

    def _end(self, recording: Recording, last: bytes | None, failure: BaseException | None) -> None:
        """Tell readers the end only now that the hold has: who repeats the request finds it so."""
        if recording.is_ended:
            self.replays.ended(recording)
        elif last is None:
            self.refuse(recording, failure)
        else:
            self.replays.forget(recording)
            recording.end(last)

    def refuse(self, recording: Recording, failure: BaseException | None) -> None:
        """End an answer that will not come, for all who wait for it."""
        self.replays.forget(recording)
        if not isinstance(failure, Exception):
            failure = DeliveryError("This seller is stopping.", code="overloaded")
        recording.fail(failure)

    async def deliver(
        self, reader: Reader, receive: Receive, responder: Responder
    ) -> Exception | None:
        """Give a recording to a client; returns why there is no answer, or no more of it.

        Raises:
            ClientGone: The client does not take it.
        """
        with anyio.CancelScope() as scope:
            self._running().start_soon(_watch_for_leaving, receive, responder, scope)
            return await reader.deliver(responder)
        raise ClientGone

    def _running(self) -> TaskGroup:
        if self._group is None:
            raise InvariantViolation("a seller serves only after its start")
        return self._group


async def _watch_for_leaving(
    receive: Receive, responder: Responder, scope: anyio.CancelScope
) -> None:
    """Cancel the delivery to a client that leaves; servers say the same of an answer's end."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:  # noqa: BLE001 - a server's bug is no reason to stop all other answers
        _log.exception("whether a client is still there cannot be told any more")
    if not responder.ended:
        scope.cancel()
