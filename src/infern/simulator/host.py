"""A machine that keeps one program running: it starts it again whenever it dies."""

import random
from collections.abc import Callable
from typing import Final

import anyio

from infern.core.errors import InfernError, InvariantViolation
from infern.simulator.process import Process
from infern.simulator.world import World

BOOT_DEATH_CHANCE: Final = 0.25
"""How often a crash that is still to come hits the next start-up."""
RESTART_CHANCE: Final = 0.15
"""How often a program is told to stop instead, and ends in good order."""
MAX_PAUSE_US: Final = 20_000_000


class ProcessClock:
    """A process's clock; machines do not agree about the time.

    Args:
        process: Whose it is.
        skew_ms: How far it is ahead of the world's.
    """

    def __init__(self, process: Process, skew_ms: int) -> None:
        self._process = process
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return self._process.world.now_ms + self._skew_ms

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait; cancellable."""
        await self._process.sleep_us(duration_ms * 1_000)

    def wait_ms(self, duration_ms: int) -> None:
        """Never called: nothing in a run blocks."""
        raise InvariantViolation(f"somebody blocks the loop for {duration_ms} ms")


class ProcessEntropy:
    """A process's randomness: seeded, and different in every life."""

    def __init__(self, process: Process) -> None:
        self._dice = process.world.dice(f"entropy {process.name}")

    def random_bytes(self, length: int) -> bytes:
        """`length` bytes nobody in the run can predict."""
        return self._dice.randbytes(length)


class Host:
    """One machine with one program, through all its lives. Subclasses say what the program does.

    Args:
        world: Where it stands.
        name: Names the program; lives are numbered.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process: Process | None = None
        """The life that is ready to work; None while there is none."""
        self.strikes_at: int | None = None
        """The resumption at which the next life is struck."""
        self.strike: Callable[[], None] | None = None
        """What strikes it; its death when None."""
        self.dice: random.Random = world.dice(f"host {name}")
        self.lives = 0
        self._up = anyio.Event()
        self.life: Process | None = None
        """The newest life."""
        self._is_stopping = False

    async def boot(self, process: Process) -> None:
        """Be the program: start, say `ready`, work until `process.stop`, end in good order."""
        raise NotImplementedError

    def ready(self, process: Process) -> None:
        """The program has started."""
        self.process = process
        process.at_death(self.closed)
        self._up.set()

    def closed(self) -> None:
        """The program takes no more work, or is dead."""
        self.process = None
        if self._up.is_set():  # who waits for the next life waits on
            self._up = anyio.Event()

    async def keep_up(self) -> None:
        """Start the program, and again whenever it has died, until `stop`."""
        while not self._is_stopping:
            self.lives += 1
            strikes_at, self.strikes_at = self.strikes_at, None
            process = self.life = Process(
                self.world,
                f"{self.name}.{self.lives}",
                strikes_at=strikes_at,
                strike=self.strike,
            )
            try:
                await process.run(self.boot)
            except Exception as error:  # noqa: BLE001 - a bug of the program, for the oracles
                self._note_end(error)
            if not self._is_stopping:
                await anyio.sleep(self.dice.randrange(MAX_PAUSE_US) / 1e6)

    def _note_end(self, error: Exception) -> None:
        """A program that ends with an error: its environment's fault, or a bug."""
        for cause in _causes(error):
            if isinstance(cause, InfernError):
                self.world.note(self.name, "process.gave-up", str(cause))
            else:
                self.world.fail(f"{self.name} ended with {cause!r}")

    def crash(self) -> None:
        """End the program: now, at one of its next awaits, or in good order."""
        process = self.life
        if process is None or not process.alive:
            if self.dice.random() < BOOT_DEATH_CHANCE:
                self.strikes_at = self.dice.randrange(1, 40)
        elif self.dice.random() < RESTART_CHANCE and self.process is process:
            self.world.note(self.name, "process.stopped")
            process.stop.set()
        elif self.dice.random() < 0.25:
            process.kill("killed")
        else:
            process.strikes_at = process.resumes + self.dice.choice((1, 5, 20, 80)) * (
                1 + self.dice.randrange(4)
            )

    def spare(self) -> None:
        """Take back every crash that has not come yet."""
        self.strikes_at = None
        if self.life is not None:
            self.life.strikes_at = None

    async def up(self) -> Process:
        """Wait until the program works."""
        while self.process is None:
            await self._up.wait()
        return self.process

    async def stop(self) -> None:
        """Ask the program to end in good order, and wait until it has."""
        self._is_stopping = True
        process = self.life if self.life is not None and self.life.alive else await self.up()
        process.stop.set()
        await process.over.wait()


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [error]
