"""A process that can be killed at any await, and the ports through which it acts.

Whatever a process does to the world outside its memory goes through here: from the instant it is
killed no port call has an effect and none returns. Its tasks are then unwound, because Python has
no other way to be rid of them; what their `finally` blocks try is refused by the ports.

Every resumption of a task is counted by the loop, so "at any await" is meant: `strikes_at` names
the resumption before which the process dies. What it had sent is on its way all the same.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from infern.core.errors import InvariantViolation
from infern.simulator.world import World

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]
CURRENT: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class ProcessDied(BaseException):
    """Thrown into what a dead process still runs. Nobody may catch it."""


class Process:
    """One life of a program.

    Args:
        world: Where it lives.
        name: Of this life, e.g. `seller0.2`.
        strikes_at: The resumption before which `strike` happens; None lets it live.
        strike: What happens; by default it dies.
    """

    def __init__(
        self,
        world: World,
        name: str,
        *,
        strikes_at: int | None = None,
        strike: Callable[[], None] | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.dice = world.dice(f"process {name}")
        self.alive = True
        self.died_us = 0
        self.resumes = 0
        self.strikes_at = strikes_at
        self._strike = strike or (lambda: self.kill("killed-at-await"))
        self.context = contextvars.copy_context()
        self.stop = anyio.Event()
        """Set to ask for an end in good order."""
        self.over = anyio.Event()
        """Set when nothing of it runs any more."""
        self._waits: dict[asyncio.Future[Any], None] = {}
        self._at_death: list[Callable[[], None]] = []
        self._scope = anyio.CancelScope()
        self._to_start: list[tuple[Work, str]] = []
        self._starter: asyncio.Future[None] | None = None

    async def run(self, body: Callable[["Process"], Awaitable[None]]) -> None:
        """Live until `body` returns or the process is killed. Never raises for the dead."""
        CURRENT.set(self)
        self.context = contextvars.copy_context()
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    starting = anyio.CancelScope()
                    tasks.start_soon(self._start_tasks, tasks, starting)
                    await body(self)
                    starting.cancel()
        except BaseException as error:
            if self.alive:
                raise
            self._bury(error)
        finally:
            CURRENT.set(None)
            self.kill("ended")
            self.over.set()

    def _bury(self, error: BaseException) -> None:
        """What a dead process raised while it was unwound proves nothing, except our own bugs."""
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                self._bury(inner)
        elif isinstance(error, InvariantViolation):
            self.world.note(self.name, "broke-while-dying", str(error))

    def start(self, work: Work, name: str) -> None:
        """Let a task of this process start, from wherever the caller is.

        Raises:
            ProcessDied: It is dead.
        """
        self.check()
        self._to_start.append((work, name))
        if self._starter is not None:
            _resolve(self._starter, None)

    async def _start_tasks(self, tasks: TaskGroup, scope: anyio.CancelScope) -> None:
        # Tasks are started here because they inherit the context of who starts them.
        with scope:
            while True:
                while self._to_start:
                    work, name = self._to_start.pop(0)
                    tasks.start_soon(work, name=name)
                self._starter = self.future()
                await self.wait(self._starter)

    def kill(self, why: str) -> None:
        """End it now, as kill -9 does. Idempotent."""
        if not self.alive:
            return
        self.alive = False
        self.died_us = self.world.now_us
        self.world.note(self.name, f"process.{why}", f"after {self.resumes} resumptions")
        for last_rite in self._at_death:
            last_rite()
        waits, self._waits = self._waits, {}
        for future in waits:
            if not future.done():
                future.set_exception(ProcessDied())
                future.exception()  # nobody may be left to hear it
        self._scope.cancel()

    def at_death(self, last_rite: Callable[[], None]) -> None:
        """What the world does when the process is gone: break its connections, free its locks."""
        self._at_death.append(last_rite)

    def resumed(self) -> None:
        """A task of this process is about to go on behind an await."""
        self.resumes += 1
        if self.alive and self.resumes == self.strikes_at:
            self._strike()

    # Ports.

    def check(self) -> None:
        """Refuse a port call of a dead process.

        Raises:
            ProcessDied: It is dead.
        """
        if not self.alive:
            raise ProcessDied

    def act(self, effect: Callable[[], T]) -> T:
        """A synchronous port call: a crash may come before it or after it."""
        self.check()
        self.resumed()
        self.check()
        result = effect()
        self.resumed()
        self.check()
        return result

    def future(self) -> "asyncio.Future[T]":
        """Something to wait for that fails when the process dies."""
        self.check()
        future: asyncio.Future[T] = self.world.loop.create_future()
        self._waits[future] = None
        return future

    async def wait(self, future: "asyncio.Future[T]") -> T:
        """Wait for a future of this process."""
        try:
            return await future
        finally:
            self._waits.pop(future, None)

    async def sleep_us(self, duration_us: int) -> None:
        """Wait in virtual time."""
        future: asyncio.Future[None] = self.future()
        timer = self.later(duration_us, lambda: _resolve(future, None))
        try:
            await self.wait(future)
        finally:
            timer.cancel()

    def later(self, delay_us: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run something after a while, if the process lives then."""
        self.check()

        def if_alive() -> None:
            if self.alive:
                callback()

        due_us = self.world.now_us + delay_us
        return self.world.loop.call_at_us(due_us, if_alive, context=self.context)

    def submit(
        self, effect: Callable[[], T], *, before_us: int, after_us: int
    ) -> "asyncio.Future[T]":
        """Let something be done by a thread or a queue of this process, and answered later.

        Cancelling the wait does not stop it; the process's death does, until it is done.
        """
        future: asyncio.Future[T] = self.future()

        def do() -> None:
            try:
                result = effect()
            except ProcessDied:
                return  # it died doing this; nobody is left to be told
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
                problem = error
                self.later(after_us, lambda: _fail(future, problem))
            else:
                self.later(after_us, lambda: _resolve(future, result))

        self.later(before_us, do)
        return future


def _resolve(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def on_resumption(context: contextvars.Context | None) -> None:
    """What a `VirtualLoop` is told: which process's task goes on."""
    process = None if context is None else context.get(CURRENT)
    if process is not None:
        with suppress(ProcessDied):
            process.resumed()
