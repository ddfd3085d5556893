"""A model server that costs almost nothing: fixed answers, so that what is in front is measured.

Run as `python -m benchmarks.upstream PORT PACE_MS`. Streams are `CHUNKS` chunks, each a write of
its own every `PACE_MS` milliseconds.
"""

import asyncio
import json
import sys
from collections.abc import Callable

import httptools
import uvloop

CHUNKS = 50
CONTENT = "word "
USAGE = {"prompt_tokens": 40, "completion_tokens": CHUNKS, "total_tokens": 40 + CHUNKS}


def _json(kind: str, choices: list[dict[str, object]], **more: object) -> bytes:
    body = {"id": "bench", "object": kind, "created": 1, "model": "bench", "choices": choices}
    return json.dumps({**body, **more}).encode()


def chunk(content: str | None, finish: str | None) -> bytes:
    """One event of a streamed answer."""
    delta = {} if content is None else {"role": "assistant", "content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + _json("chat.completion.chunk", [choice]) + b"\n\n"


def _whole(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def framed(data: bytes) -> bytes:
    """One chunk of a body with chunked transfer encoding."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


MESSAGE = {"role": "assistant", "content": CONTENT * CHUNKS * 3}
PLAIN = _whole(
    _json(
        "chat.completion",
        [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
        usage=USAGE,
    )
)
MODELS = _whole(b'{"object":"list","data":[{"id":"bench","object":"model"}]}')
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM = [
    *[framed(chunk(CONTENT, None))] * CHUNKS,
    framed(chunk(None, "stop"))
    + framed(b"data: " + _json("chat.completion.chunk", [], usage=USAGE) + b"\n\n")
    + framed(b"data: [DONE]\n\n")
    + b"0\r\n\r\n",
]


class FixedAnswers(asyncio.Protocol):
    """One connection; httptools calls the `on_…` methods."""

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # a socket's always
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """A request."""
        self._body = b""

    def on_body(self, body: bytes) -> None:
        """A piece of it."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer."""
        if self._parser.get_method() != b"POST":
            self.transport.write(MODELS)
        else:
            self.answer(self._body)

    def answer(self, body: bytes) -> None:
        """Answer a request for a completion."""
        if b'"stream":true' in body or b'"stream": true' in body:
            self.transport.write(STREAM_HEAD)
            self._send(0)
        else:
            self.transport.write(PLAIN)

    def _send(self, at: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(STREAM[at])
        if at + 1 < len(STREAM):
            self._loop.call_later(self._pace_s, self._send, at + 1)


async def serve(kind: Callable[[float], FixedAnswers], port: int, pace_s: float) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: kind(pace_s), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(FixedAnswers, int(sys.argv[1]), int(sys.argv[2]) / 1000))
