"""JSON-RPC as fnn speaks it: the bytes of a request and the meaning of an answer.

Shared by every transport, so that an answer means the same over each. A transport adds only
connections, deadlines and size limits.
"""

import json
import re
from typing import Final, TypeVar

from infern.core.errors import (
    InfernError,
    JsonValue,
    Money,
    RemoteProtocolError,
    TransportError,
)
from infern.core.fiber.call import RpcCall
from infern.core.fiber.errors import CODE_INVALID_PARAMS, Fault, FiberUnauthorized, classify
from infern.core.fiber.fields import Fields

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""fnn's own limit is 10 MiB."""

_METHODS_WITHOUT_MONEY: Final = frozenset({"new_invoice", "update_channel", "abandon_channel"})
"""Effects that are not repeatable and yet never move anybody's money."""

_SECRET: Final = re.compile(r"[0-9A-Fa-f]{64}")


def money_at_stake(call: RpcCall[T]) -> Money:
    """What is known of the money when a call was sent and no answer was understood."""
    if call.idempotent or call.method in _METHODS_WITHOUT_MONEY:
        return Money.UNMOVED
    return Money.UNKNOWN


def request_bytes(call: RpcCall[T], request_id: int) -> bytes:
    """The body of a request."""
    message: JsonValue = {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": call.method,
        "params": call.params(),
    }
    return json.dumps(message, separators=(",", ":")).encode()


def broken(call: RpcCall[T], why: str) -> TransportError:
    """The error of a call that was sent, or may have been, and got no readable answer."""
    money = money_at_stake(call)
    code = "fiber_unavailable" if money is Money.UNMOVED else "transport_error"
    return TransportError(f"{call.method}: {why}", code=code, money=money)


def not_sent(call: RpcCall[T], why: str) -> TransportError:
    """The error of a call that certainly never reached the node. Money is unmoved."""
    return TransportError(f"{call.method}: {why}", code="fiber_unavailable", money=Money.UNMOVED)


def oversized(call: RpcCall[T], limit_bytes: int) -> RemoteProtocolError:
    """The error of an answer larger than a transport reads; repeating would not help."""
    return RemoteProtocolError(
        f"the Fiber node's answer to {call.method} is over {limit_bytes} bytes",
        code="fiber_error",
        money=money_at_stake(call),
    )


def http_refusal(call: RpcCall[T], status: int) -> TransportError | FiberUnauthorized:
    """The error of an HTTP status other than 200, which fnn itself never sends with an answer."""
    if status in {401, 403}:
        return FiberUnauthorized(
            f"the Fiber node's front refuses {call.method} with HTTP {status}: check the token"
        )
    return broken(call, f"the Fiber node answered HTTP {status}")


def load_json(body: bytes | str) -> JsonValue:
    """Read JSON without floats: a number with a fraction stays the text it was.

    Raises:
        RemoteProtocolError: Not JSON, or nested too deeply.
    """
    try:
        value: JsonValue = json.loads(body, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("the Fiber node's answer is not JSON") from error
    return value


def _no_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")


def read_answer(call: RpcCall[T], body: bytes, request_id: int) -> T:
    """Read the body that answers a request.

    Raises:
        TransportError: Not a JSON-RPC answer to this request; money as `money_at_stake` says.
        InfernError: The node's error, classified.
        RemoteProtocolError: A result of another shape; money as `money_at_stake` says.
    """
    try:
        message = load_json(body)
    except RemoteProtocolError as error:
        raise broken(call, error.message) from error
    if not isinstance(message, dict):
        raise broken(call, "the Fiber node's answer is not a JSON-RPC object")
    # An error without id answers a request the node could not read at all.
    unread = message.get("id") is None and "error" in message
    if not unread and not _same_id(message.get("id"), request_id):
        raise broken(call, "the Fiber node answered another request")
    return read_message(call, message)


def _same_id(value: JsonValue, request_id: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == request_id


def read_message(call: RpcCall[T], message: dict[str, JsonValue]) -> T:
    """Read an answer object whose id was already matched.

    Raises:
        InfernError: As `read_answer`.
    """
    error = message.get("error")
    if error is not None:
        raise _classified(call, error)
    if "result" not in message:
        raise broken(call, "the Fiber node's answer has neither result nor error")
    try:
        return call.parse(message["result"])
    except RemoteProtocolError as problem:
        raise RemoteProtocolError(
            f"the Fiber node's answer to {call.method} cannot be read: {problem.message}",
            code="fiber_error",
            money=money_at_stake(call),
        ) from problem


def _classified(call: RpcCall[T], error: JsonValue) -> InfernError:
    try:
        row = Fields(error, "an error")
        code, message = row.raw("code"), row.text("message")
    except RemoteProtocolError as problem:
        return broken(call, problem.message)
    if not isinstance(code, int) or isinstance(code, bool):
        return broken(call, "the Fiber node's error has no code")
    data = row.raw("data")
    if isinstance(data, str) and code == CODE_INVALID_PARAMS:
        # serde says here what it disliked, and may quote it: no preimage gets into an error.
        message = f"{message}: {_SECRET.sub('(32 bytes)', data)}"
    return classify(
        Fault(method=call.method, code=code, message=message, money=money_at_stake(call))
    )
