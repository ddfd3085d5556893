"""A crash at every await: one story is told once to count, then once for each point to die at.

The story is fixed and the weather fair, so that whatever goes wrong is the crash's doing. Victims
are the programs, which die at the n-th resumption of their first life, and the Fiber nodes, which
are restarted when the consumer's program is about to go on for the n-th time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from infern.core.errors import JsonValue
from infern.core.wire.strict_json import dumps
from infern.simulator.run import Report, Size, Stage, simulate
from infern.simulator.seller import MODEL
from infern.simulator.users import Need, User
from infern.simulator.weather import Weather

SEED: Final = "sweep"
SIZE: Final = Size(consumers=1, sellers=1, hubs=1, programs=1, users=1)
FAIR: Final = Weather(latency_us=2_000)
PROGRAMS: Final = ("seller0", "consumer0a")
NODES: Final = ("seller0-node", "hub0", "consumer0-node")
DOWNTIME_MS: Final = 700
TURNS: Final = 12
PAUSE_S: Final = 5.0
TOPUP: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a run of the story is struck.

    Args:
        victim: A program or a Fiber node.
        at: The resumption of the program, or of the consumer's program for a node.
    """

    victim: str
    at: int


async def story(stage: Stage) -> None:
    """One of everything that moves money: plain, streamed, topped up, keyed, redeemed."""
    (user,) = stage.users
    await user.satisfy(_asked(user, "plain"), TURNS)
    await user.satisfy(_asked(user, "streamed", stream=True), TURNS)
    keyed = _asked(user, "keyed", stream=True)
    keyed.is_keyed = True
    for _ in range(TURNS):
        if await user.attempt(partial(user.fund, keyed.origin, TOPUP)):
            break
        await anyio.sleep(PAUSE_S)
    await user.satisfy(keyed, TURNS)
    await user.attempt(partial(user.redeem_all, keyed.origin))


def _asked(user: User, words: str, **more: bool) -> Need:
    body: dict[str, JsonValue] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": 20,
        **more,
    }
    need = Need(origin=user.consumer.origins[0], body=dumps(body))
    user.needs.append(need)
    return need


def lengths() -> dict[str, int]:
    """How often each program goes on behind an await when nothing happens to it."""
    found: dict[str, int] = {}

    async def counted(stage: Stage) -> None:
        await story(stage)
        for host in stage.hosts:
            found[host.name] = host.life.resumes if host.life is not None else 0

    report = simulate(SEED, size=SIZE, weather=FAIR, act=counted)
    report.check()
    return found


def points(*, every: int = 1) -> Iterator[Point]:
    """Every n-th point at which something can be struck."""
    known = lengths()
    for victim in PROGRAMS:
        for at in range(1, known[victim] + 1, every):
            yield Point(victim=victim, at=at)
    for victim in NODES:
        for at in range(1, known["consumer0a"] + 1, every):
            yield Point(victim=victim, at=at)


def struck(point: Point, *, show: Callable[[str], None] | None = None) -> Report:
    """Tell the story with one strike; everything must be as if nothing had happened."""

    async def act(stage: Stage) -> None:
        hosts = {host.name: host for host in stage.hosts}
        host = hosts.get(point.victim, hosts["consumer0a"])
        host.strikes_at = point.at
        if point.victim not in hosts:
            node = stage.network.nodes[point.victim]
            host.strike = partial(stage.network.faults.restart, node, downtime_ms=DOWNTIME_MS)
        await story(stage)
        for need in stage.users[0].needs:
            if not (need.is_answered or need.is_lost):
                stage.world.fail(f"{need.body!r} was never answered")

    return simulate(
        SEED,
        size=SIZE,
        weather=FAIR,
        act=act,
        show=show,
        repeat=f"--strike {point.victim}:{point.at}",
    )
