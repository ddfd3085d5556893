"""HTTP between processes without sockets: ASGI at one end, an httpx2 transport at the other.

Between the two are latency, a window as of a kernel's buffers, and the `Passage` of each request.
Bytes keep their order. A server behaves as uvicorn does: what is written to a client that is gone
vanishes, and `receive` then says so. What every answer was, and what harmed it, is kept for the
oracles as `Served`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
import httpx2

from infern.core.wire.endpoints import Endpoint
from infern.simulator.passage import Passage, latency_us
from infern.simulator.process import Process, ProcessDied
from infern.simulator.world import World
from infern.testing.asgi import AsgiApp, Message

GRACE_S: Final = 20
"""How long a server that stops waits for requests under way."""
_PRICED: Final = frozenset(endpoint.path for endpoint in Endpoint)


@dataclass(slots=True, kw_only=True)
class Served:
    """One request as a server saw it, and what became of its answer.

    Args:
        life: The process that served it.
        written: Pieces of the body, as they were handed to the connection.
        harms: What went wrong on the wire or with either end; empty for an undisturbed answer.
    """

    origin: str
    method: str
    target: str
    body: bytes
    proof: str
    key: str
    life: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    written: list[bytes] = field(default_factory=list)
    is_ended: bool = False
    harms: list[str] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        """The seller's name for it; empty before its headers."""
        return self.headers.get("x-request-id", "")

    @property
    def is_priced(self) -> bool:
        """True for what somebody pays for."""
        return bool(self.proof or self.key) and self.target in _PRICED

    @property
    def is_stream(self) -> bool:
        """True for an answer in events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


class End:
    """The answer is whole."""


_Item = Head | bytes | End | httpx2.TransportError


class Internet:
    """Who listens where, and everything that was served.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.listeners: dict[str, Listener] = {}
        self.served: list[Served] = []


class Listener:
    """A server process behind an origin, from now until it dies."""

    def __init__(self, internet: Internet, origin: str, process: Process, app: AsgiApp) -> None:
        self._internet = internet
        self._origin = origin
        self._process = process
        self._app = app
        self._serving: dict[ServerEnd, anyio.CancelScope] = {}
        internet.listeners[origin] = self
        process.at_death(self._unlisten)

    def accept(self, end: "ServerEnd") -> bool:
        """Begin to serve a request; False when nobody is there."""
        process = self._process
        if not process.alive:
            return False
        end.process = process
        end.served.life = process.name
        process.at_death(partial(end.server_died))
        process.start(partial(self._serve, end), "request")
        return True

    async def _serve(self, end: "ServerEnd") -> None:
        with anyio.CancelScope() as scope:
            self._serving[end] = scope
            try:
                await self._app(end.scope, end.receive, end.send)
            except Exception as error:  # noqa: BLE001 - a server outlives its handlers' bugs
                self._internet.world.fail(f"{self._process.name} raised {error!r}")
            finally:
                del self._serving[end]
        end.close()

    async def close(self) -> None:
        """Take no more requests, and end those under way: in their time, or else by force."""
        self._unlisten()
        for _ in range(GRACE_S * 10):
            if not self._serving:
                return
            await self._process.sleep_us(100_000)
        self._internet.world.note(self._process.name, "http.cancelled-at-stop")
        for scope in list(self._serving.values()):
            scope.cancel()
        while self._serving:
            await self._process.sleep_us(100_000)

    def _unlisten(self) -> None:
        if self._internet.listeners.get(self._origin) is self:
            del self._internet.listeners[self._origin]


class ClientEnd:
    """What arrives at a client, in order."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._items: deque[_Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.on_read: Callable[[int], None] = lambda _count: None
        self.on_close: Callable[[], None] = lambda: None
        self.is_through = False
        """The end of the answer was read."""
        self.is_closed = False
        process.at_death(self.close)

    def put(self, item: _Item) -> None:
        """Something has arrived."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self, timeout_s: float) -> Head | bytes | End:
        """The next thing that arrives.

        Raises:
            httpx2.TransportError: The connection broke, or nothing came in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._items:
                    self._waiter = self._process.future()
                    await self._process.wait(self._waiter)
        except TimeoutError:
            raise httpx2.ReadTimeout("no answer in time") from None
        self._process.check()
        item = self._items.popleft()
        if isinstance(item, bytes):
            self.on_read(len(item))
        self.is_through = isinstance(item, End)
        if isinstance(item, httpx2.TransportError):
            raise item
        return item

    def close(self) -> None:
        """The client leaves, or is dead."""
        self.is_closed = True
        leaving, self.on_close = self.on_close, lambda: None
        leaving()


class ServerEnd:
    """One request at its server: ASGI's two callables.

    Args:
        internet: Where it is kept.
        served: What the oracles will see of it.
        scope: Of the request.
        passage: What harms it.
        client: Who hears the answer; None when nobody does.
    """

    def __init__(
        self,
        internet: Internet,
        served: Served,
        scope: Message,
        passage: Passage,
        client: ClientEnd | None,
    ) -> None:
        self.scope = scope
        self.served = served
        self.process: Process | None = None
        self._world = internet.world
        self._dice = self._world.dice(f"wire {len(internet.served)}")
        internet.served.append(served)
        self._passage = passage
        self._client = client
        self._incoming: deque[Message] = deque()
        self._is_gone = False
        self._unread = 0
        self._sent = 0
        self._next_us = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        if client is None:
            served.harms.append("nobody listens")
        else:
            client.on_read = self._taken
            client.on_close = self._client_left
            if client.is_closed:
                self._client_left()  # while the request was on its way

    # The way there.

    def arrive(self, pieces: list[bytes], *, is_torn: bool) -> None:
        """Let the body arrive piece by piece, and the connection break after them if torn."""
        at_us = self._world.now_us
        for at, piece in enumerate(pieces):
            more = is_torn or at + 1 < len(pieces)
            message: Message = {"type": "http.request", "body": piece, "more_body": more}
            self._world.loop.call_at_us(at_us, partial(self._came, message))
            at_us += self._latency_us()
        if is_torn:
            self._world.loop.call_at_us(at_us, partial(self.leave, "torn"))

    def _came(self, message: Message) -> None:
        self._incoming.append(message)
        _wake(self._reader)

    def leave(self, why: str) -> None:
        """The server learns that the client is gone."""
        if not self._is_gone:
            if not self.served.is_ended:
                self.served.harms.append(why)
            self._is_gone = True
            _wake(self._reader)
            _wake(self._writer)

    def _client_left(self) -> None:
        if self._client is not None and not self._client.is_through:
            self.served.harms.append("client left")
        self._world.loop.call_at_us(
            self._world.now_us + self._latency_us(), partial(self.leave, "client left")
        )

    def _taken(self, count: int) -> None:
        self._unread -= count
        _wake(self._writer)

    async def receive(self) -> Message:
        """ASGI: the next message of the client."""
        process = self._alive()
        while not self._incoming:
            if self._is_gone or self.served.is_ended:
                return {"type": "http.disconnect"}
            self._reader = process.future()
            await process.wait(self._reader)
            process.check()
        return self._incoming.popleft()

    # The way back.

    async def send(self, message: Message) -> None:
        """ASGI: a message to the client; waits while too much is unread."""
        process = self._alive()
        if message["type"] == "http.response.start":
            self.served.status = message["status"]
            pairs = tuple(message["headers"])
            self.served.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in pairs}
            self._deliver(Head(message["status"], pairs))
            await process.sleep_us(0)
            return
        body = message.get("body", b"")
        if body:
            self.served.written.append(body)
        while self._unread > self._passage.window_bytes and not self._is_gone:
            self._writer = process.future()
            await process.wait(self._writer)
            process.check()
        if body and not self._is_gone:
            self._transmit(body)
        if not message.get("more_body", False):
            self._finish()
        await process.sleep_us(0)

    def _finish(self) -> None:
        self.served.is_ended = True
        self._deliver(End())
        _wake(self._reader)

    def _transmit(self, body: bytes) -> None:
        self._unread += len(body)
        cut_at = self._passage.cut_at
        if cut_at is not None and self._sent <= max(cut_at, 0) < self._sent + len(body):
            arriving = body[: max(cut_at, 0) - self._sent]
            if arriving:
                self._deliver(arriving)
            self._break("cut")
        else:
            self._deliver(body)
        self._sent += len(body)

    def _deliver(self, item: _Item) -> None:
        if self._is_gone:
            return
        if isinstance(item, Head) and self._passage.cut_at == -1:
            self._break("cut")
            return
        self._next_us = max(self._next_us, self._world.now_us) + self._latency_us()
        if self._client is None:
            if isinstance(item, bytes):
                self._world.loop.call_at_us(self._next_us, partial(self._taken, len(item)))
            return
        self._world.loop.call_at_us(self._next_us, partial(self._client.put, item))

    def _break(self, why: str) -> None:
        """The connection breaks: the client hears of it after what is on its way."""
        if self._is_gone or self._client is None:
            return
        self._deliver_broken(httpx2.ReadError(f"the connection broke ({why})"))
        self._world.note(self.served.origin, f"http.{why.replace(' ', '-')}")
        self.served.harms.append(why)
        self._client = None
        # A server hears of it at once, later, or never: until then it writes into the void.
        notice_us = self._dice.choice((0, self._latency_us(), 5_000_000, None))
        if notice_us is not None:
            due_us = self._world.now_us + notice_us
            self._world.loop.call_at_us(due_us, partial(self.leave, why))

    def _deliver_broken(self, error: httpx2.TransportError) -> None:
        self._next_us = max(self._next_us, self._world.now_us) + self._latency_us()
        if self._client is not None:
            self._world.loop.call_at_us(self._next_us, partial(self._client.put, error))

    def server_died(self) -> None:
        """The server is gone in the middle of this."""
        if self.served.is_ended:
            return
        self.served.harms.append("server died")
        self._deliver_broken(httpx2.ReadError("the server died"))
        self._is_gone = True

    def close(self) -> None:
        """The handler has returned; what it left unfinished ends as uvicorn ends it."""
        if self.served.is_ended or self._is_gone:
            return
        self._break("given up by the server")

    def _alive(self) -> Process:
        process = self.process
        if process is None:
            raise ProcessDied
        process.check()
        return process

    def _latency_us(self) -> int:
        return latency_us(self._dice, self._world.weather)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None:
        with suppress(asyncio.InvalidStateError):
            future.set_result(None)
