"""Methods about the node itself, its peers and the graph it sees."""

import re
from typing import Final

from infern.core.errors import JsonValue
from infern.devnet.fiber.errors import INVALID_PARAMS, NodeError, RpcError
from infern.devnet.fiber.node import Node, hex0x
from infern.devnet.fiber.params import (
    ADDR_TYPE,
    BOOL,
    JSON_BYTES,
    PUBKEY,
    STRING,
    U64,
    Field,
    Params,
)
from infern.devnet.fiber.table import Method
from infern.devnet.fiber.views import Json, graph_channel_views, graph_node_view, node_info_view

DEFAULT_GRAPH_LIMIT: Final = 500
CURSOR_BYTES: Final = 45
_MULTIADDR: Final = re.compile(
    r"/(?:ip4|ip6|dns4|dns6)/[^/]+/tcp/(\d{1,5})(?:/(?:ws|wss))?(?:/p2p/([^/]+))?"
)


def _node_info(node: Node, _params: Params) -> JsonValue:
    return node_info_view(node)


def _connect_peer(node: Node, params: Params) -> JsonValue:
    address, pubkey = params.maybe("address", str), params.maybe("pubkey", bytes)
    network = node.network
    if address is not None:
        if not address:
            raise NodeError(
                "address must not be empty, expected a multiaddr like /ip4/1.2.3.4/tcp/8080"
            )
        found = _MULTIADDR.fullmatch(address)
        if found is None:
            raise NodeError("invalid multiaddr")
        port, peer_id = found.groups()
        if peer_id is not None:
            peer = network.node_by_peer_id(peer_id)
        else:
            peer = next((n for n in network.nodes.values() if n.p2p_port == int(port)), None)
    elif pubkey is not None:
        peer = network.node_by_pubkey(pubkey)
        if peer is None or pubkey not in _known_by(node):
            raise NodeError(f"Peer not found error: Pubkey({pubkey.hex()})")
    else:
        raise NodeError("either `address` or `pubkey` is required")
    if peer is not None:
        network.links.connect(node, peer)
    return None


def _known_by(node: Node) -> set[bytes]:
    """Public keys whose address a node knows: peers so far, and who appears in its graph."""
    announced = {bytes.fromhex(str(row["pubkey"])) for _, row in _graph_rows(node)}
    return node.known_pubkeys | announced


def _disconnect_peer(node: Node, params: Params) -> JsonValue:
    pubkey = params.need("pubkey", bytes)
    peer = node.network.node_by_pubkey(pubkey)
    if peer is None or not node.network.links.disconnect(node, peer):
        raise NodeError(f"peer Pubkey({pubkey.hex()}) is not connected")
    return None


def _list_peers(node: Node, _params: Params) -> JsonValue:
    peers: list[JsonValue] = []
    for link in node.network.links.of(node):
        peer = link.other(node)
        peers.append({"pubkey": peer.pubkey.hex(), "address": peer.address})
    return {"peers": peers}


def _graph_rows(node: Node) -> list[tuple[bytes, Json]]:
    """Nodes that gossip has brought here: everyone connected by peers, directly or not."""
    seen, waiting = {node.name: node}, [node]
    while waiting:
        here = waiting.pop()
        for link in node.network.links.of(here):
            peer = link.other(here)
            if peer.name not in seen:
                seen[peer.name] = peer
                waiting.append(peer)
    for other in node.network.nodes.values():
        if other.pubkey in node.known_pubkeys:
            seen.setdefault(other.name, other)
    return sorted((graph_node_view(found) for found in seen.values()), key=lambda row: row[0])


def _page(rows: list[tuple[bytes, Json]], params: Params, name: str) -> JsonValue:
    limit, after = params.maybe("limit", int), params.maybe("after", bytes)
    if after is not None and len(after) != CURSOR_BYTES:
        text = f"Invalid cursor size: {len(after)}, want {CURSOR_BYTES}"
        raise RpcError(INVALID_PARAMS, text, params.echo())
    if after is not None and after[8] > 2:
        text = f"Invalid message id type: {after[8]}"
        raise RpcError(INVALID_PARAMS, text, params.echo())
    rest = [row for row in rows if after is None or row[0] > after]
    page = rest[: DEFAULT_GRAPH_LIMIT if limit is None else limit]
    items: list[JsonValue] = [view for _, view in page]
    return {name: items, "last_cursor": hex0x(page[-1][0]) if page else "0x"}


def _graph_nodes(node: Node, params: Params) -> JsonValue:
    return _page(_graph_rows(node), params, "nodes")


def _graph_channels(node: Node, params: Params) -> JsonValue:
    return _page(graph_channel_views(node), params, "channels")


_PAGE_FIELDS: Final = (Field("limit", U64), Field("after", JSON_BYTES))

METHODS: Final = (
    Method("node_info", None, _node_info, 'read("node")'),
    Method(
        "connect_peer",
        (Field("address", STRING), Field("pubkey", PUBKEY), Field("save", BOOL)),
        _connect_peer,
        'write("peers")',
        since_0_9=(Field("addr_type", ADDR_TYPE),),
    ),
    Method(
        "disconnect_peer",
        (Field("pubkey", PUBKEY, required=True),),
        _disconnect_peer,
        'write("peers")',
    ),
    Method("list_peers", None, _list_peers, 'read("peers")'),
    Method("graph_nodes", _PAGE_FIELDS, _graph_nodes, 'read("graph")'),
    Method("graph_channels", _PAGE_FIELDS, _graph_channels, 'read("graph")'),
)
