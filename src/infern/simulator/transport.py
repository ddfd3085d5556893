"""The network as a client sees it: an httpx2 transport that may lose, repeat and break requests."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import httpx2

from infern.core.f402.credential import PROOF_HEADER
from infern.simulator.passage import Passage, draw, latency_us
from infern.simulator.process import Process
from infern.simulator.wire import ClientEnd, End, Head, Internet, Served, ServerEnd
from infern.testing.asgi import scope_of

DEFAULT_TIMEOUT_S: Final = 600.0


class Wire(httpx2.AsyncBaseTransport):
    """The network as one client process sees it.

    Args:
        internet: Where servers are.
        process: The client.
        address: Its network address.
    """

    def __init__(self, internet: Internet, process: Process, address: str) -> None:
        self._internet = internet
        self._process = process
        self._address = address
        self._dice = internet.world.dice(f"passage {process.name}")

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return when the answer's headers are here."""
        self._process.check()
        body = await request.aread()
        passage = draw(self._dice, self._internet.world.weather)
        end = ClientEnd(self._process)
        self._send(request, body, passage, end)
        timeout_s = _read_timeout_s(request)
        try:
            head = await end.get(timeout_s)
        except BaseException:
            end.close()
            raise
        assert isinstance(head, Head)
        stream = _Body(end, timeout_s, passage.slow_us, self._process)
        return httpx2.Response(head.status, headers=list(head.headers), stream=stream)

    def _send(self, request: httpx2.Request, body: bytes, passage: Passage, end: ClientEnd) -> None:
        world = self._internet.world
        first_us = world.now_us + self._latency_us()
        if passage.lost:
            world.note(self._process.name, "http.lost")
            if not passage.silent:
                refused = httpx2.ConnectError("the connection was refused")
                world.loop.call_at_us(first_us, partial(end.put, refused))
            return
        twice = passage.again_after_us is not None
        deaf = twice and passage.hears_second
        send = partial(self._reach, request, body, passage)
        world.loop.call_at_us(first_us, partial(send, None if deaf else end))
        if passage.again_after_us is not None:
            world.note(self._process.name, "http.twice")
            again_us = first_us + passage.again_after_us
            world.loop.call_at_us(again_us, partial(send, end if deaf else None))

    def _reach(
        self, request: httpx2.Request, body: bytes, passage: Passage, end: ClientEnd | None
    ) -> None:
        """The request is at the server's door."""
        origin = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers.raw]
        named = {name.lower(): value for name, value in headers}
        target = request.url.raw_path.decode("ascii")
        listener = self._internet.listeners.get(origin)
        if listener is None:
            if end is not None:
                end.put(httpx2.ConnectError("nobody listens there"))
            return
        served = Served(
            origin=origin,
            method=request.method,
            target=target,
            body=body,
            proof=named.get(PROOF_HEADER, ""),
            key=named.get("authorization", "").removeprefix("Bearer "),
        )
        scope = scope_of(request.method, target, headers, address=self._address)
        server_end = ServerEnd(self._internet, served, scope, passage, end)
        is_torn = passage.torn_at is not None and bool(body)
        if is_torn:
            self._internet.world.note(self._process.name, "http.torn")
            body = body[: len(body) * (passage.torn_at or 0) // 1_000]
            if end is not None:
                end.put(httpx2.WriteError("the connection broke while the body was sent"))
        server_end.arrive(_cut_up(body, passage.pieces), is_torn=is_torn)
        listener.accept(server_end)

    def _latency_us(self) -> int:
        return latency_us(self._dice, self._internet.world.weather)


class _Body(httpx2.AsyncByteStream):
    """The body of an answer as it arrives."""

    def __init__(self, end: ClientEnd, timeout_s: float, slow_us: int, process: Process) -> None:
        self._end = end
        self._timeout_s = timeout_s
        self._slow_us = slow_us
        self._process = process

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces; raises where the connection breaks."""
        while True:
            if self._slow_us:
                self._process.world.note(self._process.name, "http.slow")
                await self._process.sleep_us(self._slow_us)
            item = await self._end.get(self._timeout_s)
            if isinstance(item, End):
                return
            assert isinstance(item, bytes)
            yield item

    async def aclose(self) -> None:
        """Leave."""
        self._end.close()


def _cut_up(body: bytes, pieces: int) -> list[bytes]:
    size = max(len(body) // pieces, 1)
    return [body[at : at + size] for at in range(0, len(body), size)] or [b""]


def _read_timeout_s(request: httpx2.Request) -> float:
    timeout = request.extensions.get("timeout")
    found = timeout.get("read") if isinstance(timeout, dict) else None
    return DEFAULT_TIMEOUT_S if found is None else float(found)
