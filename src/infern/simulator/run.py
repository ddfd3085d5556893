"""One run: a world is built of its seed, lives through trouble, comes to rest and is judged."""

import asyncio
import gc
import logging
import random
import shlex
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from infern.core.units import SHANNON_PER_CKB
from infern.devnet.fiber import NodeSettings, Version
from infern.simulator import weather as weathers
from infern.simulator.chaos import crash_programs, heal_nodes, trouble_nodes
from infern.simulator.consumer import Consumer
from infern.simulator.fiber import RESERVE_SHANNON, build_network
from infern.simulator.host import Host
from infern.simulator.loop import VirtualLoop, numbered_scopes
from infern.simulator.oracles import Evidence, complaints, funds_of
from infern.simulator.payouts import successes
from infern.simulator.process import ProcessDied, on_resumption
from infern.simulator.seller import SellerHost
from infern.simulator.settle import settling
from infern.simulator.users import Heard, Need, User
from infern.simulator.weather import Weather
from infern.simulator.wire import Internet
from infern.simulator.world import World

REST_S: Final = 30.0
MAX_WAIT_S: Final = 1_200


class Violation(AssertionError):
    """A run ended with something that must not be. The message says how to repeat it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a world is, at most."""

    consumers: int = 3
    sellers: int = 2
    hubs: int = 2
    programs: int = 2
    users: int = 2
    actions: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did.

    Args:
        seed: Of the run.
        counts: Events by name.
        digest: Of the whole trace.
        payments: Fiber payments that succeeded.
        virtual_s: How long the world lived.
        failures: What must not have been; empty for a good run.
        last: The last lines of the trace.
        repeat: Arguments of the command line that repeat it.
    """

    seed: str
    counts: Counter[str]
    digest: str
    payments: int
    virtual_s: int
    failures: tuple[str, ...]
    last: tuple[str, ...] = field(repr=False)
    repeat: str

    def check(self) -> None:
        """Complain of a run that went wrong.

        Raises:
            Violation: With what was found, the end of the trace, and how to repeat the run.
        """
        if self.failures:
            found = "\n".join(self.failures)
            trace = "\n".join(self.last)
            raise Violation(
                f"the run of seed {self.seed} is wrong:\n{found}\n\n{trace}\n\n"
                f"python -m infern.simulator {self.repeat} --trace"
            )


Act = Callable[["Stage"], Awaitable[None]]
"""What happens in a run before it comes to rest."""


class Stage:
    """A world with its cast.

    Args:
        world: The world.
        size: How many of each at most; the seed decides.
        directory: Where journals are.
    """

    def __init__(self, world: World, size: Size, directory: Path) -> None:
        self.world = world
        self.internet = Internet(world)
        self.network = build_network(world)
        self.heard: list[Heard] = []
        dice = world.dice("cast")
        hubs = [
            self.network.add_node(f"hub{at}", NodeSettings(auto_accept_min=RESERVE_SHANNON))
            for at in range(dice.randint(1, size.hubs))
        ]
        version = dice.choice((Version.V0_8_0, Version.V0_9_1))
        settings = NodeSettings(version=version)
        self.sellers = []
        for at in range(dice.randint(1, size.sellers)):
            node = self.network.add_node(f"seller{at}-node", settings)
            for hub in hubs:
                self.network.open_ready_channel(hub, node, 1_000 * SHANNON_PER_CKB)
            self.sellers.append(SellerHost(self.internet, f"seller{at}", node))
        self.consumers = []
        for at in range(dice.randint(1, size.consumers)):
            node = self.network.add_node(f"consumer{at}-node", settings)
            for hub in hubs[: dice.randint(1, len(hubs))]:
                funds = dice.choice((2_000_000, SHANNON_PER_CKB, 100 * SHANNON_PER_CKB))
                self.network.open_ready_channel(node, hub, RESERVE_SHANNON + funds)
            self.consumers.append(
                Consumer(
                    self.internet,
                    f"consumer{at}",
                    node,
                    directory=directory / f"consumer{at}",
                    origins=[seller.setup.origin for seller in self.sellers],
                    programs=dice.randint(1, size.programs),
                )
            )
        self.users: list[User] = []
        for consumer in self.consumers:
            needs: list[Need] = []
            for at in range(dice.randint(1, size.users)):
                self.users.append(User(consumer, f"{consumer.name}-user{at}", self.heard, needs))
        self.funds = funds_of(self.network)

    @property
    def hosts(self) -> Sequence[Host]:
        """Every machine with a program on it."""
        return [*self.sellers, *(p for c in self.consumers for p in c.programs)]

    def evidence(self) -> Evidence:
        """For the oracles."""
        return Evidence(
            network=self.network,
            sellers=self.sellers,
            consumers=self.consumers,
            served=self.internet.served,
            heard=self.heard,
            funds=self.funds,
        )

    async def play(self, act: Act) -> None:
        """Keep everything up through an act and the settling after it."""
        async with anyio.create_task_group() as group:
            for host in self.hosts:
                group.start_soon(host.keep_up, name=host.name)
            await act(self)
            await self._come_to_rest()
            for host in self.hosts:
                await host.stop()

    async def _come_to_rest(self) -> None:
        world = self.world
        world.note("world", "calm")
        world.weather = weathers.calmed(world.weather)
        for host in self.hosts:
            host.spare()
        heal_nodes(self.network)
        await anyio.sleep(REST_S)
        await self._settle()
        for _ in range(0, MAX_WAIT_S, int(REST_S)):
            if not any(_unfinished(seller) for seller in self.sellers):
                break
            await anyio.sleep(REST_S)
        # What sellers could not send out has come back to its payment meanwhile.
        await self._settle()
        await anyio.sleep(REST_S)

    async def _settle(self) -> None:
        for consumer in self.consumers:
            users = [user for user in self.users if user.consumer is consumer]
            await settling(consumer, users[0]).settle()


def _unfinished(seller: SellerHost) -> int:
    """Rows that the seller still looks after by itself."""
    (count,) = seller.disk.connection.execute(
        "SELECT (SELECT count(*) FROM topups WHERE state = 'open')"
        " + (SELECT count(*) FROM locks WHERE ended_ms IS NULL)"
        " + (SELECT count(*) FROM payouts WHERE ended_ms IS NULL)"
    ).fetchone()
    return int(count)


async def troubled_life(stage: Stage, *, size: Size) -> None:
    """Every user does some things while everything around them fails."""
    for host in stage.hosts:
        await host.up()
    async with anyio.create_task_group() as trouble:
        trouble.start_soon(crash_programs, stage.world, stage.hosts)
        trouble.start_soon(trouble_nodes, stage.world, stage.network)
        async with anyio.create_task_group() as users:
            for user in stage.users:
                users.start_soon(user.live, size.actions)
        trouble.cancel_scope.cancel()


def simulate(
    seed: str,
    *,
    size: Size | None = None,
    weather: Weather | None = None,
    show: Callable[[str], None] | None = None,
    act: Act | None = None,
    repeat: str = "",
) -> Report:
    """Run one world to its end.

    Args:
        seed: Everything random comes from it.
        size: Of the world at most.
        weather: How often what fails; the seed's when None.
        show: Given every line of the trace.
        act: What happens; users' lives by default.
        repeat: Arguments that repeat the run, when the seed alone does not.
    """
    dice = random.Random(f"{seed}/world")  # noqa: S311 - chance that repeats
    drawn = weathers.draw(dice)
    conditions = weather or drawn
    loop = VirtualLoop(shuffle=dice if conditions.shuffles else None)
    loop.resumed = on_resumption
    world = World(seed, loop, conditions, show=show)
    loop.set_exception_handler(partial(_unheard, world))
    size = size or Size()
    with tempfile.TemporaryDirectory(prefix="infern-simulator-") as directory, _quiet():
        life = _live(world, size, Path(directory), act or partial(troubled_life, size=size))
        try:
            payments = loop.run_until_complete(life)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed must be told
            world.fail(f"the run broke: {error!r}")
            payments = 0
        finally:
            loop.close()
    return Report(
        seed=seed,
        counts=world.trace.counts,
        digest=world.trace.digest,
        payments=payments,
        virtual_s=world.now_us // 1_000_000,
        failures=tuple(world.failures),
        last=tuple(world.trace.last),
        repeat=repeat or f"--seed {shlex.quote(seed)}",
    )


async def _live(world: World, size: Size, directory: Path, act: Act) -> int:
    """Play and judge; returns how many payments succeeded."""
    stage = Stage(world, size, directory)
    await stage.play(act)
    for text in await complaints(stage.evidence()):
        world.fail(text)
    return sum(len(successes(consumer.node)) for consumer in stage.consumers)


def _unheard(world: World, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error that nobody waited for."""
    error = context.get("exception")
    if not isinstance(error, ProcessDied):
        world.fail(f"nobody heard of {error!r}: {context.get('message')}")


@contextmanager
def _quiet() -> Iterator[None]:
    """No logs, and no finalisers at moments of the collector's choosing: they would not repeat."""
    level = logging.root.manager.disable
    was_collecting = gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        with numbered_scopes():
            yield
    finally:
        logging.disable(level)
        if was_collecting:
            gc.enable()
