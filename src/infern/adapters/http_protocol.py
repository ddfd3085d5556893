"""uvicorn's HTTP protocol with bounds on what a connection can send besides its requests.

uvicorn with httptools keeps a request's head in memory however long it grows, never ends a
connection that stays silent, and adds the trailer fields of a chunked body to the headers. So one
stranger could fill the memory or use up every descriptor, and a header could be sent past whoever
reads headers in front of us.
"""

import asyncio
import socket
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers as they come in; the seller's own limits on them are lower."""
SEND_BUFFER_BYTES: Final = 256 * 1024
"""Of the kernel's for one connection. Left alone it grows to megabytes for a client that does not
read: memory that no process is seen to use, and answers that are paid for and never arrive."""
HEAD_TIMEOUT_S: Final = 20
"""From the opening of a connection, or the first byte of a further request, to its whole head."""
MAX_IGNORED_BYTES: Final = 8 * 1024 * 1024
"""Of a body that was refused and still comes: as much as any body may have. A client that sends
before it reads learns why it was refused; one that never stops does not keep us reading."""
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Ends connections whose request line, headers, chunk framing or trailers go on too long."""

    _head_is_open = True
    _bytes_without_progress = 0
    _ignored_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it so
        """Bound what the kernel buffers, and start the time for the first request's head."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what brought neither a head nor a piece of a body to its end."""
        if self.transport.is_closing():
            return
        self._bytes_without_progress += len(data)
        before = self._bytes_without_progress
        super().data_received(data)
        if self._bytes_without_progress == before > MAX_HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif not self._is_answering() and not self.transport.is_closing():
            self._start_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_is_open = True
        self._ignored_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer field is none, and nobody here reads trailers."""
        if self._head_is_open:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_is_open = False
        self._bytes_without_progress = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body came."""
        self._bytes_without_progress = 0
        if not self._is_answering():
            self._ignored_bytes += len(body)
            if self._ignored_bytes > MAX_IGNORED_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What follows belongs to the next head."""
        self._bytes_without_progress = 0
        super().on_message_complete()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._start_timer()  # the next request of a client that still reads its answer
        else:
            self.transport.abort()

    def _is_answering(self) -> bool:
        cycle = cast("Any", self.cycle)  # uvicorn has none before the first request
        return cycle is not None and not cycle.response_complete
