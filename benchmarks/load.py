"""A closed-loop load generator: every connection asks again as soon as it is answered.

Written on a bare protocol, because a client that costs more than what it measures hides it.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

ANSWER_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of a scenario.

    Args:
        wire: The whole request as it goes over the socket.
        status: What the answer's status must be.
        contains: What must stand in its body.
    """

    wire: bytes
    status: int
    contains: bytes


def ask(
    url: str, body: bytes, *, headers: dict[str, str], status: int = 200, contains: bytes
) -> Ask:
    """A POST of JSON."""
    parts = urlsplit(url)
    fields = {"host": parts.netloc, "content-type": "application/json", **headers}
    fields["content-length"] = str(len(body))
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return Ask(wire="\r\n".join(lines).encode() + body, status=status, contains=contains)


@dataclass(slots=True)
class LoadResult:
    """What one burst showed; times in milliseconds."""

    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Answers, right or wrong."""
        return len(self.whole_ms) + len(self.wrong)


class Connection(asyncio.Protocol):
    """One connection of a closed loop; `done` is set when there is nothing more to ask."""

    def __init__(self, asks: Iterator[Ask], until: float, result: LoadResult) -> None:
        self._asks = asks
        self._until = until
        self._result = result
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # a socket's always
        self._next()

    def _next(self) -> None:
        asked = next(self._asks, None) if time.perf_counter() < self._until else None
        if asked is None:
            self._finish()
            return
        self._ask = asked
        self._first = 0.0
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)
        self._began = time.perf_counter()
        self._transport.write(asked.wire)

    def _finish(self) -> None:
        self._transport.close()
        if not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A piece of the answer."""
        if not self._body:
            self._first = time.perf_counter()
        self._body += body

    def on_message_complete(self) -> None:
        """Check the answer, and ask again."""
        now = time.perf_counter()
        status = self._parser.get_status_code()
        if status != self._ask.status or self._ask.contains not in self._body:
            self._result.wrong.append(f"{status} {bytes(self._body[:200])!r}")
        else:
            self._result.first_ms.append(((self._first or now) - self._began) * 1000)
            self._result.whole_ms.append((now - self._began) * 1000)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends before `_finish` lost an answer."""
        if not self.done.done():
            self._result.wrong.append(f"the connection ended: {exc!r}")
            self.done.set_result(None)


async def burst(
    address: tuple[str, int], asks: Iterator[Ask], *, connections: int, seconds: float
) -> LoadResult:
    """Ask over `connections` connections until `asks` ends or the time is over.

    Requests under way then are still waited for, so that CPU time can be divided by all of them.
    """
    loop = asyncio.get_running_loop()
    result = LoadResult()
    began = time.perf_counter()
    made = [
        (await loop.create_connection(lambda: Connection(asks, began + seconds, result), *address))[
            1
        ]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + ANSWER_TIMEOUT_S):
        await asyncio.gather(*(connection.done for connection in made))
    result.seconds = time.perf_counter() - began
    return result
