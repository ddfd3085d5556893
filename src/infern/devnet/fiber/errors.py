"""Errors as a node answers them, and the codes of its JSON-RPC."""

from typing import Final

from infern.core.errors import JsonValue

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
CALL_FAILED: Final = -32000
UNAUTHORIZED: Final = -32999


class NodeError(Exception):
    """The node refuses: code -32000 with this text; 0.8.0 echoes the parameters in `data`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RpcError(Exception):
    """Any other JSON-RPC error.

    Args:
        data: Sent as `data` when it is not None.
    """

    def __init__(self, code: int, message: str, data: JsonValue = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def invalid_params(detail: str) -> RpcError:
    """-32602 with the deserialiser's complaint in `data`."""
    return RpcError(INVALID_PARAMS, "Invalid params", detail)


def invalid_parameter(text: str) -> NodeError:
    """A refusal that fnn's channel code words `Invalid parameter: …`."""
    return NodeError(f"Invalid parameter: {text}")


def invalid_state(text: str) -> NodeError:
    """A refusal that fnn's channel code words `Invalid state: …`."""
    return NodeError(f"Invalid state: {text}")
