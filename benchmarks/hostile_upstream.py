"""A model server that misbehaves in the way its model is named for; see `MODELS`.

Run as `python -m benchmarks.hostile_upstream PORT PACE_MS`. Asked for any other model it answers
like `benchmarks.upstream`.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Final

import uvloop

from benchmarks.upstream import CONTENT, STREAM_HEAD, FixedAnswers, chunk, framed, serve

MODELS: Final = ("endless", "long", "line", "huge", "silent", "stuck")
"""`endless`: a stream without end. `long`: one of ten megabytes in large chunks, for slow readers.
`line`: one event without end. `huge`: a plain answer without end. `silent`: no answer at all.
`stuck`: a stream that stops after its first chunk."""
PIECE: Final = framed(b"x" * 16_384)
WORD: Final = framed(chunk(CONTENT, None))
LONG: Final = framed(chunk(CONTENT * 10_000, None))
LONG_CHUNKS: Final = 200
PLAIN_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Hostile(FixedAnswers):
    """One connection; writes no faster than it is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        super().connection_made(transport)
        self._is_paused = False
        self._write_more: Callable[[], bool] = lambda: False

    def pause_writing(self) -> None:
        """The reader is slow."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_paused = False
        self._go_on()

    def answer(self, body: bytes) -> None:
        """Misbehave as asked."""
        model = json.loads(body).get("model")
        if model not in MODELS:
            super().answer(body)
            return
        if model in ("endless", "long", "stuck", "line"):
            self.transport.write(STREAM_HEAD)
        elif model == "huge":
            self.transport.write(PLAIN_HEAD)
        if model == "stuck":
            self.transport.write(framed(chunk(CONTENT, None)))
        elif model == "line":
            self.transport.write(framed(b"data: "))
        left = {"endless": -1, "long": LONG_CHUNKS, "line": -1, "huge": -1}.get(model, 0)
        piece = {"endless": WORD, "long": LONG}.get(model, PIECE)

        def more() -> bool:
            nonlocal left
            left -= 1
            self.transport.write(piece)
            return left != 0

        if left:
            self._write_more = more
            self._go_on()

    def _go_on(self) -> None:
        if self._is_paused or self.transport.is_closing():
            return
        if self._write_more():
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._write_more = lambda: False


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Hostile, int(sys.argv[1]), int(sys.argv[2]) / 1000))
