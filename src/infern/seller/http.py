"""The little HTTP the hot path needs: read a bounded request from ASGI, write answers.

Framework-free, because this runs for every paid request; everything else goes to Starlette.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from infern.core.errors import InfernError, ProtocolError, RemoteProtocolError
from infern.core.wire.render import render_error
from infern.core.wire.strict_json import dumps
from infern.seller.limits import ByteShare

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_HEADER_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
MAX_TARGET_BYTES: Final = 2048
SINGLE_HEADERS: Final = frozenset(
    {"authorization", "payment-signature", "payment-authorization", "content-encoding"}
    | {"idempotency-key", "f402-max-amount", "f402-mode", "f402-refund-to"}
)
"""Headers that decide about money must not come twice: two parsers could pick different ones."""


class ClientGone(Exception):
    """The consumer closed the connection. Not an error: a way a request can end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request whose headers were read and checked.

    Args:
        method: Upper case.
        target: Origin form with query, as digests use it.
        path: Without query.
        headers: By lower-case name.
        address: Peer's IP address, for rate limits; empty when unknown.
        request_id: Ours, for logs, headers and receipts.
    """

    method: str
    target: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    address: str
    request_id: str


def read_head(scope: Scope, *, request_id: str) -> HttpRequest:
    """Read what ASGI parsed of the request line and headers.

    Raises:
        RemoteProtocolError: Too many or too large headers, or a paying header sent twice.
    """
    raw_headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    headers: dict[str, str] = {}
    total = 0
    for count, (raw_name, raw_value) in enumerate(raw_headers, start=1):
        total += len(raw_name) + len(raw_value)
        if total > MAX_HEADER_BYTES or count > MAX_HEADERS:
            raise RemoteProtocolError("the headers are too large", code="headers_too_large")
        name = raw_name.decode("latin-1").lower()
        if name in headers and name in SINGLE_HEADERS:
            raise RemoteProtocolError(f"the header {name} came twice", code="ambiguous_payment")
        headers[name] = raw_value.decode("latin-1")
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string") or b""
    target = path + (b"?" + query if query else b"")
    if len(target) > MAX_TARGET_BYTES:
        raise RemoteProtocolError("the request target is too long", code="headers_too_large")
    client = scope.get("client")
    return HttpRequest(
        method=scope["method"],
        target=target.decode("latin-1"),
        path=scope["path"],
        headers=headers,
        address=client[0] if client else "",
        request_id=request_id,
    )


async def read_body(
    request: HttpRequest,
    receive: Receive,
    *,
    limit_bytes: int,
    share: ByteShare | None = None,
) -> bytes:
    """Read the whole body within a size and a share of the memory for bodies.

    Raises:
        DeliveryError: `overloaded`; the memory for bodies is used up.
        ProtocolError: `request_too_large` or `unsupported_encoding`; unmoved.
        ClientGone: The client went away.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RemoteProtocolError(
            "send the body without Content-Encoding: the payment is bound to its bytes",
            code="unsupported_encoding",
        )
    declared = request.headers.get("content-length", "0")
    too_large = ProtocolError(f"the body is over {limit_bytes} bytes", code="request_too_large")
    if not declared.isascii() or not declared.isdigit() or len(declared) > 15:
        raise RemoteProtocolError("Content-Length is not a number")
    if int(declared) > limit_bytes:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        if share is not None:
            share.take(len(piece))
        body += piece
        if len(body) > limit_bytes:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


class Responder:
    """Writes one response.

    A whole answer has a limit on how long the client may take to accept it; who writes in pieces
    limits each by itself.

    Args:
        send: ASGI send.
        request_id: Set on every answer that names no other.
        stall_timeout_ms: How long a whole answer may wait for a slow reader.
    """

    def __init__(self, send: Send, *, request_id: str, stall_timeout_ms: int) -> None:
        self._send = send
        self._request_id = request_id
        self._stall_timeout_ms = stall_timeout_ms
        self.started = False
        self.ended = False

    async def _write(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            raise ClientGone from None

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers.

        Raises:
            ClientGone: The client does not take them.
        """
        named = {"x-request-id": self._request_id, **headers}
        pairs = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in named.items()]
        self.started = True
        await self._write({"type": "http.response.start", "status": status, "headers": pairs})

    async def chunk(self, data: bytes) -> None:
        """Send bytes of a streamed body.

        Raises:
            ClientGone: The client does not take them.
        """
        await self._write({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last bytes of the body.

        Raises:
            ClientGone: The client does not take them.
        """
        self.ended = True
        await self._write({"type": "http.response.body", "body": data, "more_body": False})

    async def json(
        self, status: int, value: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send one JSON object as the whole answer."""
        await self.whole(status, dumps(value), headers or {})

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole JSON body given as bytes.

        Raises:
            ClientGone: The client does not take it, or not in time.
        """
        length = {"content-type": "application/json", "content-length": str(len(body))}
        try:
            with anyio.fail_after(self._stall_timeout_ms / 1000):
                await self.start(status, {**length, **headers})
                await self.end(body)
        except TimeoutError:
            raise ClientGone from None

    async def error(self, error: InfernError, headers: Mapping[str, str] | None = None) -> None:
        """Send an error in the OpenAI shape with its headers."""
        rendered = render_error(error, self._request_id)
        await self.whole(rendered.status, rendered.body, {**rendered.headers, **(headers or {})})


class Caller:
    """A client's connection while it is served.

    Whoever looks after it cancels its `scope` when the client leaves, or lets `due_ms` pass.

    Args:
        receive: ASGI receive.
        responder: Writes to it.
    """

    def __init__(self, receive: Receive, responder: Responder) -> None:
        self.receive = receive
        self.responder = responder
        self.scope = anyio.CancelScope()
        self.due_ms: int | None = None
        """Loop time by which it must have done what it is waited for; None for nothing."""
        self.is_late = False

    def look(self, now_ms: int) -> None:
        """Give it up when it is late."""
        if self.due_ms is not None and now_ms >= self.due_ms:
            self.is_late = True
            self.scope.cancel()

    async def watch_for_leaving(self) -> None:
        """Give it up when it leaves; servers say the same when an answer is whole."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if not self.responder.ended:
            self.scope.cancel()
