"""Embedded Fiber network: an accounting twin of fnn nodes, reached over their JSON-RPC.

What is real: invoices and their signatures, routing, fees, TLC states, timing, error texts. What is
not: commitment transactions, funding and closing on a chain, MPP and trampoline routing (neither
is listed among the features, both are refused), biscuit tokens (opaque ones stand in).

Usage::

    world = three_nodes(seed, signer_factory=..., verifier=...)
    async with serve(world.network) as endpoints:
        endpoints.rpc_urls["provider"], endpoints.control_url
"""

from infern.devnet.fiber.clock import EventClock, VirtualClock, WallClock
from infern.devnet.fiber.invariants import violations
from infern.devnet.fiber.network import Network
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.rpc import Caller, NodeRpc
from infern.devnet.fiber.server import Endpoints, serve
from infern.devnet.fiber.settings import Latencies, NetworkSettings, NodeSettings, UdtInfo, Version
from infern.devnet.fiber.topology import ThreeNodes, three_nodes, virtual_three_nodes

__all__ = [
    "Caller",
    "Endpoints",
    "EventClock",
    "Latencies",
    "Network",
    "NetworkSettings",
    "Node",
    "NodeRpc",
    "NodeSettings",
    "ThreeNodes",
    "UdtInfo",
    "Version",
    "VirtualClock",
    "WallClock",
    "serve",
    "three_nodes",
    "violations",
    "virtual_three_nodes",
]
