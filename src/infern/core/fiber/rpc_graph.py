"""Calls about the gossip view of the network: announced nodes and public channels."""

from dataclasses import dataclass

from infern.core.errors import JsonValue
from infern.core.fiber.fields import Fields
from infern.core.fiber.hexnum import U64_BITS, write_bytes
from infern.core.fiber.params import one_object, require_uint, u64
from infern.core.fiber.types import GraphChannel, GraphNode


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNodesPage:
    """A page of announced nodes; shorter than the limit when it is the last."""

    nodes: tuple[GraphNode, ...]
    last_cursor: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChannelsPage:
    """A page of public channels; shorter than the limit when it is the last."""

    channels: tuple[GraphChannel, ...]
    last_cursor: bytes


def _page_params(limit: int | None, after: bytes | None) -> list[JsonValue]:
    return one_object({"limit": u64(limit), "after": None if after is None else write_bytes(after)})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNodes:
    """Nodes that announced themselves. Moves no money.

    Args:
        limit: Rows at most; fnn's default is 500.
        after: `last_cursor` of the page before.
    """

    method = "graph_nodes"
    idempotent = True

    limit: int | None = None
    after: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse a limit with no wire form."""
        require_uint(self.limit, U64_BITS, "limit")

    def params(self) -> list[JsonValue]:
        """One object."""
        return _page_params(self.limit, self.after)

    def parse(self, result: JsonValue) -> GraphNodesPage:
        """Read the page."""
        row = Fields(result, "graph_nodes")
        nodes = tuple(GraphNode.from_json(item) for item in row.items("nodes"))
        return GraphNodesPage(nodes=nodes, last_cursor=row.blob("last_cursor"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChannels:
    """Public channels, one direction disabled at most. Moves no money.

    Args:
        limit: Rows at most; fnn's default is 500.
        after: `last_cursor` of the page before.
    """

    method = "graph_channels"
    idempotent = True

    limit: int | None = None
    after: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse a limit with no wire form."""
        require_uint(self.limit, U64_BITS, "limit")

    def params(self) -> list[JsonValue]:
        """One object."""
        return _page_params(self.limit, self.after)

    def parse(self, result: JsonValue) -> GraphChannelsPage:
        """Read the page."""
        row = Fields(result, "graph_channels")
        channels = tuple(GraphChannel.from_json(item) for item in row.items("channels"))
        return GraphChannelsPage(channels=channels, last_cursor=row.blob("last_cursor"))
