"""One HTTP exchange with an ASGI application in memory, with a client that can misbehave.

The client may leave after so many pieces of the body, take no more bytes, send its body in
pieces, never end it, or leave before it is complete.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from infern.core.wire.strict_json import JsonObject, loads_object

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """What the client got.

    Args:
        status: HTTP status; 0 when no headers came.
        headers: By lower-case name.
        pieces: The body as it was written.
        is_complete: Whether the answer was ended.
    """

    status: int
    headers: Mapping[str, str]
    pieces: tuple[bytes, ...]
    is_complete: bool

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces)

    def json(self) -> JsonObject:
        """The body as one JSON object."""
        return loads_object(self.body)

    @property
    def error(self) -> JsonObject:
        """The `error` member."""
        error = self.json()["error"]
        assert isinstance(error, dict)
        return error


@dataclass(slots=True)
class HttpClient:
    """The client's side of one exchange.

    Args:
        leave_after: Body pieces after which it closes the connection; None stays.
        stall_after: Body pieces after which it takes nothing more; None takes all.
        leave: Set it to close the connection at any moment.
    """

    leave_after: int | None = None
    stall_after: int | None = None
    leave: anyio.Event = field(default_factory=anyio.Event)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    is_complete: bool = False
    incoming: list[Message] = field(default_factory=list)
    got_piece: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)

    async def receive(self) -> Message:
        """What the application reads."""
        if self.incoming:
            await anyio.lowlevel.checkpoint()
            return self.incoming.pop(0)
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """What the application writes."""
        if message["type"] == "http.response.start":
            assert self.status == 0, "two answers to one request"
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            await anyio.lowlevel.checkpoint()
            return
        assert not self.is_complete, "bytes behind the end of an answer"
        if self.stall_after is not None and len(self.pieces) >= self.stall_after:
            await anyio.sleep_forever()
        if self.leave.is_set():
            return  # as servers do: the bytes go nowhere
        if message.get("body"):
            self.pieces.append(message["body"])
            self.got_piece.set()
            self.got_piece = anyio.Event()
        if not message.get("more_body", False):
            self.is_complete = True
            self.leave.set()
        elif self.leave_after is not None and len(self.pieces) >= self.leave_after:
            self.leave.set()
        await anyio.lowlevel.checkpoint()

    async def has_pieces(self, count: int) -> None:
        """Wait until so many pieces of the body are here."""
        while len(self.pieces) < count:
            await self.got_piece.wait()

    def answer(self) -> HttpAnswer:
        """What it got so far."""
        return HttpAnswer(
            status=self.status,
            headers=self.headers,
            pieces=tuple(self.pieces),
            is_complete=self.is_complete,
        )


def scope_of(
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    address: str = "192.0.2.1",
) -> Message:
    """The ASGI scope of a request."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers],
        "client": (address, 50_000) if address else None,
        "server": ("seller.test", 80),
    }


async def exchange(
    app: AsgiApp, scope: Message, body: bytes | Sequence[bytes], *, client: HttpClient | None = None
) -> HttpAnswer:
    """Run one exchange to its end.

    Args:
        app: The application.
        scope: From `scope_of`.
        body: The whole body, or its pieces.
        client: How the client behaves; polite by default.
    """
    client = client or HttpClient()
    pieces = [body] if isinstance(body, bytes) else list(body)
    client.incoming += [
        {"type": "http.request", "body": piece, "more_body": at < len(pieces) - 1}
        for at, piece in enumerate(pieces)
    ]
    try:
        await app(scope, client.receive, client.send)
    finally:
        client.done.set()
    return client.answer()
