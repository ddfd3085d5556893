"""JSON-RPC of a node: envelopes, batches, authorisation, the differences between releases.

Transports hand in text and get text back; subscriptions are theirs (`server`).

Source: jsonrpsee 0.25 and fnn 0.8.0 `rpc/middleware.rs`, `rpc/biscuit.rs`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infern.core.errors import JsonValue
from infern.devnet.fiber import (
    methods_channels,
    methods_invoices,
    methods_node,
    methods_payments,
)
from infern.devnet.fiber.errors import (
    CALL_FAILED,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNAUTHORIZED,
    NodeError,
    RpcError,
)
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.params import Params, read_params
from infern.devnet.fiber.settings import Version
from infern.devnet.fiber.table import Method

Envelope = dict[str, JsonValue]

SUBSCRIBE: Final = "subscribe_store_changes"
UNSUBSCRIBE: Final = "unsubscribe_store_changes"
NOTIFICATION: Final = "store_changes"
INTERNAL_ERROR: Final = -32603

_METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for group in (methods_node, methods_channels, methods_invoices, methods_payments)
    for method in group.METHODS
}
_RULED_ELSEWHERE: Final[Mapping[str, str]] = {
    "send_btc": 'write("cch")',
    "receive_btc": 'read("cch")',
    "get_cch_order": 'read("cch")',
    "open_channel_with_external_funding": 'write("channels")',
    "submit_signed_funding_tx": 'write("channels")',
    "commitment_signed": 'write("messages")',
    "add_tlc": 'write("channels")',
    "remove_tlc": 'write("channels")',
    "check_channel_shutdown": 'write("channels")',
    "pprof": 'write("pprof")',
}
"""Methods that have a rule in fnn but are not served here."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Args:
        token: The bearer token, if one was sent.
    """

    token: str | None = None


class NodeRpc:
    """The JSON-RPC of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def call(
        self, method: str, params: JsonValue = None, *, caller: Caller | None = None
    ) -> Envelope:
        """Answer one call made in the process; returns the response envelope.

        Args:
            method: Its name.
            params: The positional array; None is the same as an empty one.
            caller: Only needed when the node wants tokens.
        """
        request: Envelope = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or []}
        response = self.answer(request, caller or Caller())
        assert response is not None
        return response

    def answer_text(self, body: bytes, caller: Caller) -> str:
        """Answer a request or a batch; empty when there is nothing to say."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            return _dump(_error(None, RpcError(PARSE_ERROR, "Parse error")))
        if isinstance(message, list):
            if not message:
                return _dump(_error(None, RpcError(INVALID_REQUEST, "Invalid request")))
            answers = [self.answer(entry, caller) for entry in message]
            kept = [entry for entry in answers if entry is not None]
            return _dump(kept) if kept else ""
        answer = self.answer(message, caller)
        return "" if answer is None else _dump(answer)

    def answer(self, request: JsonValue, caller: Caller) -> Envelope | None:
        """Answer one request; None for a notification."""
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            given = request.get("id") if isinstance(request, dict) else None
            return _error(given, RpcError(INVALID_REQUEST, "Invalid request"))
        if "id" not in request:
            return None
        request_id = request["id"]
        try:
            result = self._run(str(request["method"]), request.get("params"), caller)
        except RpcError as error:
            return _error(request_id, error)
        return {"jsonrpc": "2.0", "id": request_id, "result": result}

    def authorise(self, name: str, caller: Caller) -> None:
        """Let a caller through or not, and know the method or not.

        Raises:
            RpcError: `Unauthorized` or, from 0.9 on for a method nobody knows, `Method not found`.
        """
        right = self._right(name)
        tokens = self._node.settings.tokens
        if right is None:
            if tokens is None and self._node.settings.version is Version.V0_9_1:
                raise RpcError(METHOD_NOT_FOUND, "Method not found")
            raise RpcError(UNAUTHORIZED, "Unauthorized")
        if tokens is None:
            return
        facts = tokens.get(caller.token or "")
        if facts is None or right not in facts:
            raise RpcError(UNAUTHORIZED, "Unauthorized")

    def _right(self, name: str) -> str | None:
        newer = self._node.settings.version is Version.V0_9_1
        if name in _METHODS:
            return _METHODS[name].right
        if name == SUBSCRIBE:
            return 'internal("store_changes")' if newer else 'read("cch")'
        if name == UNSUBSCRIBE:
            # 0.8.0 has no rule for it and so refuses everybody; closing the socket ends it.
            return 'internal("store_changes")' if newer else None
        return _RULED_ELSEWHERE.get(name)

    def _run(self, name: str, raw_params: JsonValue, caller: Caller) -> JsonValue:
        self.authorise(name, caller)
        if name in (SUBSCRIBE, UNSUBSCRIBE) and self._node.settings.pubsub:
            raise RpcError(INTERNAL_ERROR, "Internal error")  # served over WebSocket only
        method = _METHODS.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        older = self._node.settings.version is Version.V0_8_0
        fields = method.fields
        if fields is not None and not older:
            fields += method.since_0_9
        params = Params((), {}) if fields is None else read_params(fields, raw_params)
        try:
            return method.handler(self._node, params)
        except NodeError as error:
            echo = params.echo() if older and fields is not None else None
            raise RpcError(CALL_FAILED, error.message, echo) from None


def _error(request_id: JsonValue, error: RpcError) -> Envelope:
    body: Envelope = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def _dump(message: object) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)
