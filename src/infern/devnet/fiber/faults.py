"""Faults on demand: what goes wrong between real nodes, switched on by hand."""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from infern.devnet.fiber.channel import Channel, Tlc

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network
    from infern.devnet.fiber.node import Node

DISCONNECT_FOR_MS = 1_000
"""How long a peer stays away after it broke a message limit."""


class Faults:
    """Switches; all off at the start."""

    def __init__(self, network: "Network") -> None:
        self._network = network
        self._delay_ms: dict[frozenset[str], int] = {}
        self._stuck: dict[str, int | None] = {}
        self._stuck_tlcs: list[Tlc] = []
        self._limits: dict[str, int] = {}
        self._counted: dict[tuple[str, str], deque[tuple[int, int]]] = {}

    def drop_link(self, a: "Node", b: "Node", *, duration_ms: int | None = None) -> None:
        """Cut the connection of two nodes, for a while or until `restore_link`."""
        self._network.links.block(a, b)
        if duration_ms is not None:
            unblock = partial(self._network.links.unblock, a, b)
            self._network.clock.call_later_us(duration_ms * 1_000, unblock)

    def restore_link(self, a: "Node", b: "Node") -> None:
        """Let two nodes connect again."""
        self._network.links.unblock(a, b)

    def set_delay(self, a: "Node", b: "Node", delay_ms: int) -> None:
        """Add this to every exchange between two nodes; 0 turns it off. Scaled by speed."""
        self._delay_ms[frozenset((a.name, b.name))] = delay_ms

    def delay_ms(self, channel: Channel) -> int:
        """Extra latency of a channel's exchanges."""
        names = frozenset(side.node.name for side in channel.sides)
        return self._delay_ms.get(names, 0)

    def set_stuck(self, node: "Node", *, count: int | None = None) -> None:
        """Let the next `count` TLCs committed to `node`, or all, get stuck there unhandled."""
        self._stuck[node.name] = count

    def clear_stuck(self, node: "Node") -> int:
        """Stop that and go on with what is stuck; returns how many TLCs went on."""
        self._stuck.pop(node.name, None)
        released = [tlc for tlc in self._stuck_tlcs if tlc.receiver is node and tlc.stuck]
        self._stuck_tlcs = [tlc for tlc in self._stuck_tlcs if tlc not in released]
        for tlc in released:
            self._network.engine.release_stuck(tlc)
        return len(released)

    def holds_back(self, tlc: Tlc) -> bool:
        """Whether a TLC just committed gets stuck."""
        name = tlc.receiver.name
        if name not in self._stuck:
            return False
        left = self._stuck[name]
        if left is not None:
            if left <= 0:
                return False
            self._stuck[name] = left - 1
        self._stuck_tlcs.append(tlc)
        return True

    def set_message_limit(self, node: "Node", per_second: int | None) -> None:
        """Let `node` disconnect a peer that sends more peer messages a second than this."""
        if per_second is None:
            self._limits.pop(node.name, None)
        else:
            self._limits[node.name] = per_second

    def count_messages(self, channel: Channel, count: int) -> None:
        """Note messages of one exchange, and act on a limit that they break."""
        for index, side in enumerate(channel.sides):
            limit = self._limits.get(side.node.name)
            if limit is None:
                continue
            peer = channel.sides[1 - index].node
            seen = self._counted.setdefault((side.node.name, peer.name), deque())
            now_us = self._network.clock.now_us
            seen.append((now_us, count))
            while seen and seen[0][0] <= now_us - 1_000_000:
                seen.popleft()
            if sum(amount for _, amount in seen) > limit:
                seen.clear()
                cut = partial(self.drop_link, side.node, peer, duration_ms=DISCONNECT_FOR_MS)
                self._network.clock.call_later_us(0, cut)

    def restart(self, node: "Node", *, downtime_ms: int) -> None:
        """Kill a node and start it again after `downtime_ms` of the world's time."""
        self._network.stop_node(node)
        start = partial(self._network.start_node, node)
        self._network.clock.call_later_us(downtime_ms * 1_000, start)
