"""The embedded network: nodes, channels, chain stub and clock, held together by one seed.

It is an accounting twin of fnn nodes: invoices and their signatures are real, routing, fees, TLC
states and timing follow fnn, but there are no commitment transactions and no keys per channel.
"""

from collections.abc import Callable, Mapping
from functools import partial

from infern.core.ckb.script import Script
from infern.core.crypto import SignatureVerifier, Signer
from infern.devnet.fiber.chain import ChainStub
from infern.devnet.fiber.channel import Channel
from infern.devnet.fiber.clock import EventClock
from infern.devnet.fiber.closing import Closing
from infern.devnet.fiber.engine import Engine
from infern.devnet.fiber.faults import Faults
from infern.devnet.fiber.identity import SeededBytes
from infern.devnet.fiber.links import Links
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.opening import Opening, SideTerms
from infern.devnet.fiber.payer import Payer
from infern.devnet.fiber.receiver import Receiver
from infern.devnet.fiber.settings import NetworkSettings, NodeSettings
from infern.devnet.fiber.watchdog import Watchdog

FIRST_P2P_PORT = 8_341

SignerFactory = Callable[[bytes], Signer]
NodeListener = Callable[[Node], None]


class Network:
    """All of it. Not thread-safe: use from the thread that drives the clock.

    Args:
        seed: Everything random comes from it: keys, preimages, ids, expiry padding.
        clock: `VirtualClock` for tests, `WallClock` when served.
        signer_factory: Makes a signer of a 32-byte secret.
        verifier: Checks the signatures of invoices.
    """

    def __init__(
        self,
        *,
        seed: bytes,
        clock: EventClock,
        signer_factory: SignerFactory,
        verifier: SignatureVerifier,
        settings: NetworkSettings | None = None,
    ) -> None:
        self.seed = seed
        self.clock = clock
        self.verifier = verifier
        self.settings = settings or NetworkSettings()
        self.entropy = SeededBytes(seed, "network")
        self.nodes: dict[str, Node] = {}
        self.channels: dict[bytes, Channel] = {}
        self.listeners: list[NodeListener] = []
        self._signer_factory = signer_factory
        self._by_outpoint: dict[bytes, Channel] = {}
        self.chain = ChainStub(self)
        self.links = Links(self)
        self.faults = Faults(self)
        self.engine = Engine(self)
        self.watchdog = Watchdog(self)
        self.opening = Opening(self)
        self.closing = Closing(self)
        self.receiver = Receiver(self)
        self.payer = Payer(self)

    def scaled_us(self, duration_ms: int) -> int:
        """A latency at this network's speed, in microseconds."""
        return self.settings.scaled_us(duration_ms)

    def add_node(self, name: str, settings: NodeSettings | None = None) -> Node:
        """Make a node with a key and a wallet.

        Raises:
            ValueError: The name is taken.
        """
        if name in self.nodes:
            raise ValueError(f"there is a node named {name!r} already")
        secret = SeededBytes(self.seed, f"secret {name}").take(32)
        node = Node(self, name, self._signer_factory(secret), settings or NodeSettings())
        node.p2p_port = FIRST_P2P_PORT + len(self.nodes)
        self.nodes[name] = node
        self.chain.mint(name, node.settings.initial_wallet)
        for script, amount in self.settings.udt_balances.get(name, {}).items():
            self.chain.mint(name, amount, script)
        return node

    def node_by_pubkey(self, pubkey: bytes) -> Node | None:
        """The node with this key."""
        return next((node for node in self.nodes.values() if node.pubkey == pubkey), None)

    def node_by_peer_id(self, peer_id: str) -> Node | None:
        """The node with this peer id."""
        return next((node for node in self.nodes.values() if node.peer_id == peer_id), None)

    def add_channel(self, channel: Channel) -> None:
        """Take in a channel that is being opened, under its final id."""
        self.channels[channel.channel_id] = channel

    def channel_by_outpoint(self, outpoint: bytes) -> Channel | None:
        """The channel funded by this cell, while it is not settled."""
        found = self._by_outpoint.get(outpoint)
        if found is None:
            found = next((c for c in self.channels.values() if c.outpoint == outpoint), None)
            if found is not None:
                self._by_outpoint[outpoint] = found
        return found

    def channels_of(self, node: Node) -> list[Channel]:
        """Every channel a node is a party of, settled ones included, oldest first."""
        return [channel for channel in self.channels.values() if channel.has_party(node)]

    def open_ready_channel(
        self,
        opener: Node,
        acceptor: Node,
        amount: int,
        *,
        public: bool = True,
        one_way: bool = False,
        udt: Script | None = None,
    ) -> Channel:
        """Connect two nodes and give them a ready channel at once, skipping the handshake.

        Raises:
            NodeError: The opener refuses. ValueError: the peer does, or a wallet is short.
        """
        self.connect_at_once(opener, acceptor)
        terms = SideTerms(funding_amount=amount)
        channel = self.opening.open(
            opener, acceptor, terms, public=public, one_way=one_way, udt=udt
        )
        self.opening.open_ready(channel)
        gossip_ms = self.scaled_us(self.settings.latencies.gossip_ms) // 1_000 + 1
        if channel.announced_at_ms is not None:
            channel.announced_at_ms -= gossip_ms
        channel.link_changed_at_ms -= gossip_ms
        return channel

    def connect_at_once(self, dialer: Node, listener: Node) -> None:
        """Connect two nodes with their Init messages taken as exchanged."""
        self.links.connect(dialer, listener)
        link = self.links.get(dialer, listener)
        if link is not None:
            link.init_done_us = self.clock.now_us

    def stop_node(self, node: Node) -> None:
        """Take a node down; its RPC goes away too."""
        if node.online:
            node.stop()
            self._tell(node)

    def start_node(self, node: Node) -> None:
        """Bring a node up again with everything it had stored."""
        if not node.online:
            node.start()
            self._tell(node)

    def _tell(self, node: Node) -> None:
        for listener in list(self.listeners):
            self.clock.call_later_us(0, partial(listener, node))

    def balances(self) -> Mapping[str, Mapping[str, int]]:
        """Per node: wallet, channel balances and reserves in shannon; UDTs are left out."""
        result: dict[str, dict[str, int]] = {}
        for name in self.nodes:
            entry = {"wallet": self.chain.wallets[(name, None)], "channels": 0, "reserves": 0}
            result[name] = entry
        for channel in self.channels.values():
            if not channel.funded:
                continue
            for side in channel.sides:
                entry = result[side.node.name]
                entry["reserves"] += side.reserve
                if channel.udt is None:
                    entry["channels"] += side.balance
        return result
