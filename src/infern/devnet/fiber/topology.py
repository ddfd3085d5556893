"""Ready-made networks."""

from dataclasses import dataclass

from infern.core.crypto import SignatureVerifier
from infern.core.units import SHANNON_PER_CKB
from infern.devnet.fiber.clock import EventClock, VirtualClock, WallClock
from infern.devnet.fiber.network import Network, SignerFactory
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.opening import SideTerms
from infern.devnet.fiber.settings import NetworkSettings, NodeSettings

CONSUMER, HUB, PROVIDER = "consumer", "hub", "provider"
DEFAULT_CHANNEL_SHANNON = 2_000 * SHANNON_PER_CKB


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeNodes:
    """consumer, hub and provider with a public channel between neighbours."""

    network: Network
    consumer: Node
    hub: Node
    provider: Node


def three_nodes(
    seed: bytes,
    *,
    signer_factory: SignerFactory,
    verifier: SignatureVerifier,
    clock: EventClock | None = None,
    settings: NetworkSettings | None = None,
    node_settings: NodeSettings | None = None,
    channel_shannon: int = DEFAULT_CHANNEL_SHANNON,
    handshake: bool = False,
) -> ThreeNodes:
    """consumer → hub → provider, each channel funded by its left side.

    Args:
        seed: Everything random comes from it.
        signer_factory: Makes a signer of a 32-byte secret.
        verifier: Checks invoice signatures.
        clock: Default `WallClock()`.
        settings: Of the network.
        node_settings: Of every node.
        channel_shannon: Funding of each channel; 99 CKB of it are reserve.
        handshake: Open the channels step by step as time passes, instead of having them ready at
            once. The connections' Init messages are taken as exchanged either way.
    """
    network = Network(
        seed=seed,
        clock=clock or WallClock(),
        signer_factory=signer_factory,
        verifier=verifier,
        settings=settings,
    )
    consumer, hub, provider = (
        network.add_node(name, node_settings) for name in (CONSUMER, HUB, PROVIDER)
    )
    for left, right in ((consumer, hub), (hub, provider)):
        if not handshake:
            network.open_ready_channel(left, right, channel_shannon)
            continue
        network.connect_at_once(left, right)
        terms = SideTerms(funding_amount=channel_shannon)
        channel = network.opening.open(left, right, terms, public=True, one_way=False, udt=None)
        network.opening.begin(channel)
    return ThreeNodes(network=network, consumer=consumer, hub=hub, provider=provider)


def virtual_three_nodes(
    seed: bytes,
    *,
    signer_factory: SignerFactory,
    verifier: SignatureVerifier,
    settings: NetworkSettings | None = None,
    node_settings: NodeSettings | None = None,
) -> tuple[ThreeNodes, VirtualClock]:
    """`three_nodes` in virtual time, with its clock."""
    clock = VirtualClock()
    world = three_nodes(
        seed,
        signer_factory=signer_factory,
        verifier=verifier,
        clock=clock,
        settings=settings,
        node_settings=node_settings,
    )
    return world, clock
