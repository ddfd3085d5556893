"""Server-sent events cut out of a byte stream, each with the very bytes it came as.

Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
"""

import re
from dataclasses import dataclass
from typing import Final

from infern.core.errors import UpstreamUnavailable

MAX_EVENT_BYTES: Final = 1024 * 1024
BOM: Final = b"\xef\xbb\xbf"

# Atomic groups: `\r\n` is one line end and must never be tried as two.
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class SseBlock:
    """One event as its lines say, or a block of comments.

    Args:
        raw: The bytes as they came, with the blank line that ends them.
        data: The data lines joined by line feeds; None when there were none.
        event: The event's type; empty for the default.
        id: The last event id it sets; None when it sets none.
        comments: Its comment lines, without the colon and one space.
    """

    raw: bytes
    data: bytes | None
    event: bytes = b""
    id: bytes | None = None
    comments: tuple[bytes, ...] = ()


class SseParser:
    """Cuts a stream into events. The same bytes give the same events however they are split.

    One detail of the standard is left out: a block ended by a lone CR is handed over with the
    next byte, because that may be the LF which belongs to it.

    Args:
        max_event_bytes: Longest event, with its line ends.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._rest = bytearray()
        self._has_cr = False
        self._is_first = True

    def feed(self, data: bytes) -> list[SseBlock]:
        """Take the next bytes; return the events that are now complete.

        Raises:
            UpstreamUnavailable: An event is longer than the limit.
        """
        return [self.read(raw) for raw in self.blocks(data)]

    def finish(self) -> SseBlock | None:
        """Take the end of the stream; return what stood there without a blank line, if anything.

        The standard drops such a rest. Several model servers end with `data: [DONE]` and one line
        end or none, so it is read here.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        return self.read(rest) if rest else None

    def blocks(self, data: bytes) -> list[bytes]:
        """Like `feed`, but leaves the complete events unread."""
        before = len(self._rest)
        if not self._has_cr:
            if b"\r" in data:
                self._has_cr = True
            elif not before and 0 <= data.find(b"\n\n") == len(data) - 2 < self._limit - 1:
                # What nearly always comes: one event, whole.
                return [data]
        if before:
            self._rest += data
            if not self._may_have_block(before):
                self._check_size(len(self._rest))
                return []
            data = bytes(self._rest)
            self._rest.clear()
        blocks, rest = self._cut_any(data) if self._has_cr else self._cut_lf(data)
        self._rest += rest
        for block in blocks:
            self._check_size(len(block))
        self._check_size(len(rest))
        return blocks

    def read(self, raw: bytes) -> SseBlock:
        """Read one block of lines."""
        text = raw
        if self._is_first:
            self._is_first = False
            text = raw.removeprefix(BOM)
        if text.startswith(b"data: ") and text.find(b"\n") == len(text) - 2 and b"\r" not in text:
            return SseBlock(raw=raw, data=text[6:-2])
        return _read_lines(raw, _LINE_END.split(text))

    def _may_have_block(self, before: int) -> bool:
        if self._has_cr:
            return _BLANK_LINE.search(self._rest, max(0, before - 3)) is not None
        return self._rest.find(b"\n\n", max(0, before - 1)) >= 0

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise UpstreamUnavailable(
                f"The model server sent an event of more than {self._limit} bytes."
            )

    @staticmethod
    def _cut_lf(data: bytes) -> tuple[list[bytes], bytes]:
        parts = data.split(b"\n\n")
        rest = parts.pop()
        return [part + b"\n\n" for part in parts], rest

    @staticmethod
    def _cut_any(data: bytes) -> tuple[list[bytes], bytes]:
        blocks: list[bytes] = []
        start = 0
        for match in _BLANK_LINE.finditer(data):
            end = match.end()
            if end == len(data) and data.endswith(b"\r"):
                break
            blocks.append(data[start:end])
            start = end
        return blocks, data[start:]


def _read_lines(raw: bytes, lines: list[bytes]) -> SseBlock:
    data: list[bytes] = []
    comments: list[bytes] = []
    event = b""
    event_id: bytes | None = None
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif colon and not name:
            comments.append(value)
        elif name == b"event":
            event = value
        elif name == b"id" and b"\x00" not in value:
            event_id = value
        elif name == b"error":
            # Older llama.cpp servers put errors into a field of this name.
            event = b"error"
            data.append(value)
    return SseBlock(
        raw=raw,
        data=b"\n".join(data) if data else None,
        event=event,
        id=event_id,
        comments=tuple(comments),
    )
