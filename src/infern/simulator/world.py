"""The world of one run: its seed, time, weather and trace, and what the oracles will look at."""

import random
from collections.abc import Callable
from typing import Final

from infern.simulator.loop import VirtualLoop
from infern.simulator.trace import Trace
from infern.simulator.weather import Weather

EPOCH_MS: Final = 1_795_000_000_000
"""Unix milliseconds at which every run begins."""


class World:
    """Shared by everything in a run.

    Args:
        seed: Everything random comes from it.
        loop: Virtual time.
        weather: How often what fails.
        show: Given every line of the trace.
    """

    def __init__(
        self,
        seed: str,
        loop: VirtualLoop,
        weather: Weather,
        *,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.loop = loop
        self.weather = weather
        self.trace = Trace(show)
        self.failures: list[str] = []

    @property
    def now_us(self) -> int:
        """Microseconds since the run began."""
        return self.loop.now_us

    @property
    def now_ms(self) -> int:
        """Unix milliseconds."""
        return EPOCH_MS + self.loop.now_us // 1_000

    def dice(self, name: str) -> random.Random:
        """A stream of chance of its own, so that one actor's luck does not change another's."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - chance that repeats

    def note(self, who: str, what: str, detail: str = "") -> None:
        """Put an event into the trace."""
        self.trace.note(self.now_us, who, what, detail)

    def fail(self, complaint: str) -> None:
        """Something that must not be was seen; the run fails at its end."""
        self.note("ORACLE", "failure", complaint)
        self.failures.append(complaint)
