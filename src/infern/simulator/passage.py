"""What befalls an HTTP request on its way: drawn before it is sent, latency by the message."""

import random
from dataclasses import dataclass

from infern.simulator.weather import Weather

WINDOWS_BYTES = (512, 16 * 1024, 256 * 1024)
SILENT_CHANCE = 0.3
SPREAD = 4
"""The longest latency of a message is so many times the weather's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The luck of one request.

    Args:
        lost: It never arrives.
        silent: Of a lost request nothing is ever heard; otherwise the connection is refused.
        torn_at: The connection breaks after this share of the body, in thousandths.
        again_after_us: A second copy of it arrives so much later; None for none.
        hears_second: The client gets the answer to the second copy; nobody that to the first.
        cut_at: The connection breaks after so many bytes of the answer; -1 before its headers.
        window_bytes: How much may be under way to a client that does not read.
        slow_us: How long the reader takes for each piece.
        pieces: In how many pieces the body arrives.
    """

    lost: bool = False
    silent: bool = False
    torn_at: int | None = None
    again_after_us: int | None = None
    hears_second: bool = False
    cut_at: int | None = None
    window_bytes: int = 256 * 1024
    slow_us: int = 0
    pieces: int = 1


def latency_us(dice: random.Random, weather: Weather) -> int:
    """How long one message takes."""
    return dice.randrange(weather.latency_us * SPREAD) + 1


def draw(dice: random.Random, weather: Weather) -> Passage:
    """The luck of the next request."""
    twice = dice.random() < weather.http_twice
    torn = dice.random() < weather.http_torn
    cut = dice.random() < weather.http_cut
    slow = dice.random() < weather.http_slow
    return Passage(
        lost=dice.random() < weather.http_lost,
        silent=dice.random() < SILENT_CHANCE,
        torn_at=dice.randrange(1_000) if torn else None,
        again_after_us=dice.choice((0, 1_000, 50_000, 2_000_000, 20_000_000)) if twice else None,
        hears_second=dice.random() < 0.5,
        cut_at=dice.choice((-1, 0, dice.randrange(400), dice.randrange(3_000))) if cut else None,
        window_bytes=dice.choice(WINDOWS_BYTES),
        slow_us=dice.choice((1_000, 300_000, 12_000_000, 40_000_000)) if slow else 0,
        pieces=dice.choice((1, 1, 2, 5)),
    )
