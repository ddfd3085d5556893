"""Calls about this node and its peers."""

from dataclasses import dataclass

from infern.core.errors import JsonValue
from infern.core.fiber.fields import Fields
from infern.core.fiber.params import key, one_object, require_length
from infern.core.fiber.types import NodeInfo, Peer
from infern.core.ids import Pubkey


@dataclass(frozen=True, slots=True, kw_only=True)
class GetNodeInfo:
    """Who the node is. Moves no money."""

    method = "node_info"
    idempotent = True

    def params(self) -> list[JsonValue]:
        """No parameters."""
        return []

    def parse(self, result: JsonValue) -> NodeInfo:
        """Read the node info."""
        return NodeInfo.from_json(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectPeer:
    """Dial a peer. Moves no money and may be repeated.

    It returns before the handshake: wait for the peer in `ListPeers`, then a moment more for its
    Init message, before `OpenChannel`.

    Args:
        address: A multiaddr with the peer id.
        pubkey: Enough alone when gossip or the peer store knows its address.
        save: Remember the address over restarts.
    """

    method = "connect_peer"
    idempotent = True

    address: str | None = None
    pubkey: Pubkey | None = None
    save: bool = True

    def __post_init__(self) -> None:
        """Refuse a call that names nobody."""
        if not self.address and self.pubkey is None:
            raise ValueError("connect_peer needs an address or a pubkey")
        require_length(self.pubkey, 33, "a public key")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "address": self.address,
                "pubkey": key(self.pubkey),
                "save": None if self.save else False,
            }
        )

    def parse(self, result: JsonValue) -> None:
        """The result is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectPeer:
    """Hang up on a peer. Pending TLCs stay pending. Moves no money and may be repeated."""

    method = "disconnect_peer"
    idempotent = True

    pubkey: Pubkey

    def __post_init__(self) -> None:
        """Refuse something that is no key."""
        require_length(self.pubkey, 33, "a public key")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object({"pubkey": key(self.pubkey)})

    def parse(self, result: JsonValue) -> None:
        """The result is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPeers:
    """The peers connected right now. Moves no money."""

    method = "list_peers"
    idempotent = True

    def params(self) -> list[JsonValue]:
        """No parameters."""
        return []

    def parse(self, result: JsonValue) -> tuple[Peer, ...]:
        """Read the peers."""
        rows = Fields(result, "list_peers").items("peers")
        return tuple(Peer.from_json(row) for row in rows)
