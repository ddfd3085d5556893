"""The control JSON-RPC: `devnet_*` methods that real nodes do not have.

Same envelope as fnn's (`params` is an array with one object), but numbers are plain JSON integers
of shannon, milliseconds or blocks. Errors: -32602 for parameters, -32601 for a method.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final

from infern.core.errors import JsonValue
from infern.devnet.fiber.errors import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RpcError,
)
from infern.devnet.fiber.invariants import violations
from infern.devnet.fiber.network import Network
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.views import channel_view

Json = dict[str, JsonValue]

MAX_ADVANCE_MS: Final = 60 * 24 * 3_600_000
MAX_DOWNTIME_MS: Final = 3_600_000
MAX_FUND_SHANNON: Final = 2**62


class Control:
    """Answers the control listener of a network.

    Args:
        network: What to control.
        rpc_urls: URL per node name, for `devnet_nodes`.
    """

    def __init__(self, network: Network, rpc_urls: Mapping[str, str]) -> None:
        self._network = network
        self._rpc_urls = rpc_urls
        self._methods: dict[str, Callable[[Json], JsonValue]] = {
            "devnet_nodes": self._nodes,
            "devnet_fund": self._fund,
            "devnet_mine": self._mine,
            "devnet_connect": self._connect,
            "devnet_set_fault": self._set_fault,
            "devnet_clear_fault": self._clear_fault,
            "devnet_restart": self._restart,
            "devnet_stop": self._stop,
            "devnet_start": self._start,
            "devnet_advance_clock": self._advance_clock,
            "devnet_snapshot": self._snapshot,
        }
        self._faults: dict[str, Callable[[Json], None]] = {
            "drop_link": self._drop_link,
            "delay": self._delay,
            "stuck": self._stuck,
            "message_limit": self._message_limit,
        }
        self._cures: dict[str, Callable[[Json], None]] = {
            "drop_link": self._restore_link,
            "delay": self._no_delay,
            "stuck": self._unstick,
            "message_limit": self._no_limit,
        }

    def answer_text(self, body: bytes) -> str:
        """Answer one request."""
        request_id: JsonValue = None
        try:
            request = _read(body)
            request_id = request.get("id")
            result = self.call(str(request.get("method")), request.get("params"))
        except RpcError as error:
            failed = {"code": error.code, "message": error.message}
            return _dump({"jsonrpc": "2.0", "id": request_id, "error": failed})
        return _dump({"jsonrpc": "2.0", "id": request_id, "result": result})

    def call(self, method: str, params: JsonValue = None) -> JsonValue:
        """Run one method.

        Raises:
            RpcError: Unknown method or unusable parameters; nothing changed.
        """
        handler = self._methods.get(method)
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        given = params[0] if isinstance(params, list) and params else params or {}
        if not isinstance(given, dict):
            raise _bad("params is an array with one object")
        return handler(given)

    def _nodes(self, _params: Json) -> JsonValue:
        rows: list[JsonValue] = [
            {
                "name": node.name,
                "pubkey": node.pubkey.hex(),
                "peer_id": node.peer_id,
                "address": node.address,
                "rpc_url": self._rpc_urls.get(node.name),
                "version": node.settings.version.value,
                "online": node.online,
            }
            for node in self._network.nodes.values()
        ]
        return {"nodes": rows}

    def _fund(self, params: Json) -> JsonValue:
        node = self._node(params, "node")
        self._network.chain.mint(node.name, _count(params, "amount_shannon", MAX_FUND_SHANNON))
        return {"wallet_shannon": self._network.chain.wallets[(node.name, None)]}

    def _mine(self, params: Json) -> JsonValue:
        return {"height": self._network.chain.mine(_count(params, "blocks", 10_000))}

    def _connect(self, params: Json) -> JsonValue:
        self._network.links.connect(self._node(params, "a"), self._node(params, "b"))
        return None

    def _set_fault(self, params: Json) -> JsonValue:
        self._pick(self._faults, params)(params)
        return None

    def _clear_fault(self, params: Json) -> JsonValue:
        self._pick(self._cures, params)(params)
        return None

    @staticmethod
    def _pick(table: Mapping[str, Callable[[Json], None]], params: Json) -> Callable[[Json], None]:
        chosen = table.get(str(params.get("kind")))
        if chosen is None:
            raise _bad("kind is one of " + ", ".join(table))
        return chosen

    def _drop_link(self, params: Json) -> None:
        timed = params.get("duration_ms") is not None
        self._network.faults.drop_link(
            self._node(params, "a"),
            self._node(params, "b"),
            duration_ms=_count(params, "duration_ms", MAX_ADVANCE_MS) if timed else None,
        )

    def _restore_link(self, params: Json) -> None:
        self._network.faults.restore_link(self._node(params, "a"), self._node(params, "b"))

    def _delay(self, params: Json) -> None:
        delay_ms = _count(params, "delay_ms", MAX_ADVANCE_MS)
        self._network.faults.set_delay(self._node(params, "a"), self._node(params, "b"), delay_ms)

    def _no_delay(self, params: Json) -> None:
        self._network.faults.set_delay(self._node(params, "a"), self._node(params, "b"), 0)

    def _stuck(self, params: Json) -> None:
        limited = params.get("count") is not None
        count = _count(params, "count", 1_000_000) if limited else None
        self._network.faults.set_stuck(self._node(params, "node"), count=count)

    def _unstick(self, params: Json) -> None:
        self._network.faults.clear_stuck(self._node(params, "node"))

    def _message_limit(self, params: Json) -> None:
        limit = _count(params, "messages_per_s", 1_000_000)
        self._network.faults.set_message_limit(self._node(params, "node"), limit)

    def _no_limit(self, params: Json) -> None:
        self._network.faults.set_message_limit(self._node(params, "node"), None)

    def _restart(self, params: Json) -> JsonValue:
        downtime_ms = _count(params, "downtime_ms", MAX_DOWNTIME_MS)
        self._network.faults.restart(self._node(params, "node"), downtime_ms=downtime_ms)
        return None

    def _stop(self, params: Json) -> JsonValue:
        self._network.stop_node(self._node(params, "node"))
        return None

    def _start(self, params: Json) -> JsonValue:
        self._network.start_node(self._node(params, "node"))
        return None

    def _advance_clock(self, params: Json) -> JsonValue:
        self._network.clock.advance_ms(_count(params, "duration_ms", MAX_ADVANCE_MS))
        return {"now_ms": self._network.clock.now_ms}

    def _snapshot(self, _params: Json) -> JsonValue:
        network = self._network
        balances: Json = {name: dict(entry) for name, entry in network.balances().items()}
        channels: list[JsonValue] = [
            channel_view(channel, channel.sides[0].node) for channel in network.channels.values()
        ]
        broken: list[JsonValue] = list(violations(network))
        return {
            "now_ms": network.clock.now_ms,
            "height": network.chain.height,
            "balances_shannon": balances,
            "channels": channels,
            "violations": broken,
        }

    def _node(self, params: Json, name: str) -> Node:
        node = self._network.nodes.get(str(params.get(name)))
        if node is None:
            raise _bad(f"{name} is the name of a node: " + ", ".join(self._network.nodes))
        return node


def _count(params: Json, name: str, limit: int) -> int:
    value = params.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise _bad(f"{name} is an integer from 0 to {limit}")
    return value


def _read(body: bytes) -> Json:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise RpcError(PARSE_ERROR, "Parse error") from None
    if not isinstance(request, dict):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    return request


def _bad(text: str) -> RpcError:
    return RpcError(INVALID_PARAMS, text)


def _dump(message: object) -> str:
    return json.dumps(message, separators=(",", ":"))
