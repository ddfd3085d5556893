"""Peer connections. TLC messages of a channel pass only while its two nodes are connected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network
    from infern.devnet.fiber.node import Node


@dataclass(slots=True, eq=False)
class Link:
    """A live connection.

    Args:
        dialer: The node that called.
        init_done_us: When both Init messages have arrived; channels can be opened from then on.
    """

    dialer: "Node"
    listener: "Node"
    init_done_us: int

    def other(self, node: "Node") -> "Node":
        """The node at the far end."""
        return self.listener if node is self.dialer else self.dialer


class Links:
    """All connections of a network.

    A node that comes up dials the peers it has channels with, and so does a pair that `unblock`
    sets free; after `disconnect` somebody has to call `connect`.
    """

    def __init__(self, network: "Network") -> None:
        self._network = network
        self._links: dict[frozenset[str], Link] = {}
        self._blocked: set[frozenset[str]] = set()

    def get(self, a: "Node", b: "Node") -> Link | None:
        """The connection between two nodes, if there is one."""
        return self._links.get(_pair(a, b))

    def of(self, node: "Node") -> list[Link]:
        """All connections of a node, oldest first."""
        return [link for link in self._links.values() if node in (link.dialer, link.listener)]

    def connect(self, dialer: "Node", listener: "Node") -> None:
        """Connect, unless either is down or the pair is blocked. Idempotent."""
        pair = _pair(dialer, listener)
        up = dialer.online and listener.online
        if pair in self._links or pair in self._blocked or not up or dialer is listener:
            return
        network = self._network
        init_us = network.scaled_us(network.settings.latencies.init_ms)
        self._links[pair] = Link(dialer, listener, network.clock.now_us + init_us)
        for node, peer in ((dialer, listener), (listener, dialer)):
            node.known_pubkeys.add(peer.pubkey)
        self._set_channels(dialer, listener, up=True)

    def disconnect(self, a: "Node", b: "Node") -> bool:
        """Break the connection; False when there was none."""
        if self._links.pop(_pair(a, b), None) is None:
            return False
        self._set_channels(a, b, up=False)
        return True

    def disconnect_all(self, node: "Node") -> None:
        """Break every connection of a node that goes down."""
        for link in self.of(node):
            self.disconnect(node, link.other(node))

    def reconnect_channels(self, node: "Node") -> None:
        """Dial every peer that shares an open channel with `node`."""
        for channel in self._network.channels_of(node):
            if not channel.settled:
                self.connect(node, channel.peer_of(node))

    def block(self, a: "Node", b: "Node") -> None:
        """Keep two nodes apart until `unblock`."""
        self._blocked.add(_pair(a, b))
        self.disconnect(a, b)

    def unblock(self, a: "Node", b: "Node") -> None:
        """Let them connect again, and connect them when they share a channel. Idempotent."""
        if _pair(a, b) in self._blocked:
            self._blocked.discard(_pair(a, b))
            if any(channel.has_party(b) for channel in self._network.channels_of(a)):
                self.connect(a, b)

    def _set_channels(self, a: "Node", b: "Node", *, up: bool) -> None:
        network = self._network
        for channel in network.channels_of(a):
            if not channel.has_party(b) or channel.link_up is up:
                continue
            channel.link_up = up
            channel.link_changed_at_ms = network.clock.now_ms
            if not up:
                continue
            for node in network.nodes.values():
                node.history.forget_channel(channel.outpoint)
            waiting = list(channel.parked)
            channel.parked.clear()
            step_us = network.scaled_us(network.settings.latencies.message_ms)
            for position, operation in enumerate(waiting, start=1):
                resume = _resume(network, channel.channel_id, operation)
                network.clock.call_later_us(position * step_us, resume)


def _resume(
    network: "Network", channel_id: bytes, operation: Callable[[], None]
) -> Callable[[], None]:
    return lambda: network.engine.run_when_linked(network.channels[channel_id], operation)


def _pair(a: "Node", b: "Node") -> frozenset[str]:
    return frozenset((a.name, b.name))
