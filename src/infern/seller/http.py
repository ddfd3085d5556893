"""The little HTTP the hot path needs: read a bounded request from ASGI, write answers.

Framework-free, because this runs for every paid request; everything else goes to Starlette.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from infern.core.errors import InfernError, ProtocolError, RemoteProtocolError
from infern.core.f402.mpp import problem_members
from infern.core.wire.render import render_error
from infern.core.wire.strict_json import dumps
from infern.seller.deadlines import within
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
    | {"idempotency-key", "f402-max-amount", "f402-mode", "f402-on-leave", "f402-refund-to"}
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
    timeout_ms: int,
    share: ByteShare | None = None,
) -> bytes:
    """Read the whole body within a size, a time and a share of the memory for bodies.

    Raises:
        DeliveryError: `overloaded`; the memory for bodies is used up.
        ProtocolError: `request_too_large`, `unsupported_encoding` or `request_timeout`; unmoved.
        ClientGone: The client went away.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RemoteProtocolError(
            "send the body without Content-Encoding: the payment is bound to its bytes",
            code="unsupported_encoding",
        )
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or len(declared) > 15:
        raise RemoteProtocolError("Content-Length is not a number")
    if int(declared) > limit_bytes:
        raise _too_large(limit_bytes)

    async def collect() -> bytes:
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
                raise _too_large(limit_bytes)
            if not message.get("more_body", False):
                return bytes(body)

    try:
        return await within(timeout_ms, collect())
    except TimeoutError:
        raise ProtocolError("the body did not arrive in time", code="request_timeout") from None


def _too_large(limit_bytes: int) -> ProtocolError:
    return ProtocolError(f"the body is over {limit_bytes} bytes", code="request_too_large")


class Responder:
    """Writes one response, with a limit on how long the client may take to accept bytes.

    Args:
        send: ASGI send.
        request_id: Set on every answer that names no other.
        stall_timeout_ms: How long one write may wait for a slow reader.
    """

    def __init__(self, send: Send, *, request_id: str, stall_timeout_ms: int) -> None:
        self._send = send
        self._request_id = request_id
        self._stall_timeout_ms = stall_timeout_ms
        self.started = False
        self.ended = False
        self.speaks_mpp = False
        """The client announced MPP: its 402s are RFC 9457 problems too."""
        self.on_success: Mapping[str, str] = {}
        """Headers that every 2xx of this exchange has."""

    async def _write(self, message: Message) -> None:
        try:
            await within(self._stall_timeout_ms, self._send(message))
        except (TimeoutError, OSError):
            raise ClientGone from None

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers; `x-request-id` is added unless it is there.

        Raises:
            ClientGone: The client does not take them.
        """
        if 200 <= status < 300:
            headers = {**headers, **self.on_success}
        headers = {"x-request-id": self._request_id, **headers}
        pairs = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
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
        """Send a whole JSON body given as bytes."""
        await self.start(
            status,
            {
                "content-type": "application/json",
                "content-length": str(len(body)),
                **headers,
            },
        )
        await self.end(body)

    async def error(self, error: InfernError, headers: Mapping[str, str] | None = None) -> None:
        """Send an error in the OpenAI shape with its headers."""
        beside = problem_members(error) if self.speaks_mpp else {}
        rendered = render_error(error, self._request_id, beside)
        await self.whole(rendered.status, rendered.body, {**rendered.headers, **(headers or {})})
