"""Trouble that comes by itself: programs are killed, nodes restart, links drop, TLCs stick."""

import random
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from infern.devnet.fiber import Network, Node
from infern.simulator.host import Host
from infern.simulator.world import World

ROUND_S: Final = 10.0


async def crash_programs(world: World, hosts: Sequence[Host]) -> None:
    """Kill programs until cancelled."""
    dice = world.dice("crashes")
    while True:
        await anyio.sleep(ROUND_S * dice.random())
        if dice.random() < world.weather.crash:
            dice.choice(hosts).crash()


async def trouble_nodes(world: World, network: Network) -> None:
    """Trouble Fiber nodes until cancelled; what is broken heals after a while."""
    dice = world.dice("nodes")
    while True:
        await anyio.sleep(ROUND_S * dice.random())
        if dice.random() < world.weather.node_trouble:
            _trouble(world, network, dice)


def _trouble(world: World, network: Network, dice: random.Random) -> None:
    kind = dice.choice(("restart", "drop", "delay", "stick"))
    node = dice.choice(list(network.nodes.values()))
    peer = dice.choice([link.other(node) for link in network.links.of(node)] or [node])
    world.note(node.name, f"node.{kind}", peer.name)
    duration_ms = dice.choice((50, 500, 5_000, 60_000))
    faults = network.faults
    if kind == "restart":
        faults.restart(node, downtime_ms=duration_ms)
    elif kind == "drop":
        faults.drop_link(node, peer, duration_ms=duration_ms)
    elif kind == "delay":
        faults.set_delay(node, peer, duration_ms // 10)
        _later(network, duration_ms, lambda: faults.set_delay(node, peer, 0))
    else:
        faults.set_stuck(node, count=dice.randrange(1, 3))
        _later(network, duration_ms, lambda: faults.clear_stuck(node))


def _later(network: Network, delay_ms: int, heal: Callable[[], object]) -> None:
    def due() -> None:
        heal()

    network.clock.call_later_us(delay_ms * 1_000, due)


def heal_nodes(network: Network) -> None:
    """End all trouble of the Fiber network."""
    nodes: list[Node] = list(network.nodes.values())
    for node in nodes:
        network.start_node(node)
        network.faults.clear_stuck(node)
    for node in nodes:
        for peer in nodes:
            if node is not peer:
                network.faults.set_delay(node, peer, 0)
                network.faults.restore_link(node, peer)
        network.links.reconnect_channels(node)
