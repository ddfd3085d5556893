"""An answer as it is made and kept: written once by its maker, read by any number of connections.

Every reader gets the same bytes from the first one on, then follows as the answer grows. What is
handed to a connection is what was delivered, so the maker asks how far the furthest got.
A recording that is kept has all its bytes; one that is not drops what was read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from infern.core.ids import RequestId
from infern.seller.http import ClientGone, Responder

BATCH_BYTES: Final = 16 * 1024
"""Bytes handed to a connection at once, and so the most it can be charged for unread."""
LAG_BYTES: Final = 256 * 1024
"""How far a reader may fall behind another one of an answer that is not kept."""
REPLAYED_HEADER: Final = "f402-replayed"


class Timer(Protocol):
    """What time it is; see `infern.seller.answers`."""

    @property
    def now_ms(self) -> int:
        """Milliseconds since some moment."""
        ...


class Shelf(Protocol):
    """The memory for kept bytes, shared by all recordings."""

    def take(self, count: int) -> bool:
        """Take bytes; False when there is no room for them."""
        ...

    def give_back(self, count: int) -> None:
        """Give bytes back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and headers of an answer."""

    status: int
    headers: Mapping[str, str]


class Recording:
    """One answer.

    Args:
        request_id: Names it in headers and receipts, however often it is given.
        timer: What time it is.
        shelf: Where the memory for its bytes comes from.
        limit_bytes: It is kept up to this size; 0 keeps nothing.
        runs_on: It is made to its end although nobody reads, as long as it is kept.
        linger_ms: Otherwise, how long it is still made when nobody reads.
    """

    def __init__(
        self,
        request_id: RequestId,
        *,
        timer: Timer,
        shelf: Shelf,
        limit_bytes: int,
        runs_on: bool,
        linger_ms: int,
    ) -> None:
        self.request_id = request_id
        self.linger_ms = linger_ms
        self.head: Head | None = None
        self.failure: Exception | None = None
        self.is_ended = False
        self.count = 0
        """Pieces written so far."""
        self.handed = 0
        """Pieces that some connection was given: what was delivered."""
        self.ahead_bytes = 0
        """Written, and not handed to any connection yet."""
        self.written_ms = self.left_ms = timer.now_ms
        self.delivered_ms: int | None = None
        """When a reader first had all of it."""
        self.on_left: Callable[[], None] | None = None
        self._runs_on = runs_on
        self._timer = timer
        self._shelf = shelf
        self._limit = limit_bytes
        self._reserved = 0
        self._pieces: list[bytes] = []
        self._first = 0
        self._bytes = 0
        self._readers: set[Reader] = set()
        self._waiting: list[anyio.Event] = []
        self._moved: anyio.Event | None = None

    @property
    def is_kept(self) -> bool:
        """True while all its bytes are here, for anybody who comes later."""
        return self._limit > 0

    @property
    def has_readers(self) -> bool:
        """True while a connection is open for it."""
        return bool(self._readers)

    @property
    def runs_on(self) -> bool:
        """True when it needs no reader: what is written can be had later."""
        return self._runs_on and self._limit > 0

    @property
    def must_be_read(self) -> bool:
        """True while somebody reads what cannot be had later."""
        return bool(self._readers) and not self.runs_on

    # Writing, for the maker alone.

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Write status and headers; the first call counts."""
        if self.head is None:
            self.head = Head(status=status, headers=headers)
            self._tell_readers()

    def append(self, data: bytes) -> None:
        """Write the next piece."""
        if self._limit and not self._keep(len(data)):
            self.drop()
        self._pieces.append(data)
        self.count += 1
        self._bytes += len(data)
        self.ahead_bytes += len(data)
        self.written_ms = self._timer.now_ms
        self._tell_readers()

    def end(self, data: bytes = b"") -> None:
        """Write the last piece."""
        self.is_ended = True
        self.append(data)
        self._give_back_reserve()

    def fail(self, failure: Exception) -> None:
        """End without an answer, or without the rest of it."""
        self.failure = failure
        self.drop()
        self._tell_readers()

    def cut(self) -> None:
        """Take back what no connection was given; nobody has seen it."""
        while self.count > self.handed:
            gone = len(self._pieces.pop())
            self.count -= 1
            self._bytes -= gone
            if self._limit:
                self._shelf.give_back(gone)
        self.ahead_bytes = 0

    def reserve(self, count: int) -> bool:
        """Make sure that so many more bytes will be kept; False when they will not be."""
        if self._bytes + count > self._limit or not self._shelf.take(count):
            return False
        self._reserved += count
        return True

    def drop(self) -> None:
        """Keep it no longer: what was read goes, and nobody can begin to read it any more."""
        if not self._limit:
            return
        self._limit = 0
        self._shelf.give_back(self._bytes)
        self._give_back_reserve()
        self._trim()

    async def moved(self) -> None:
        """Wait until a reader came, took something or left."""
        self._moved = anyio.Event()
        await self._moved.wait()

    def _keep(self, count: int) -> bool:
        more = max(0, count - self._reserved)
        if self._bytes + count > self._limit or (more and not self._shelf.take(more)):
            return False
        self._reserved -= count - more
        return True

    def _give_back_reserve(self) -> None:
        self._shelf.give_back(self._reserved)
        self._reserved = 0

    def _tell_readers(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                event.set()

    # Reading, for readers alone.

    def join(self, *, is_replay: bool) -> "Reader":
        """A reader at the first byte; it must `leave`."""
        reader = Reader(self, is_replay=is_replay)
        self._readers.add(reader)
        self._tell_maker()
        return reader

    async def news(self) -> None:
        """Wait until something was written."""
        event = anyio.Event()
        self._waiting.append(event)
        await event.wait()

    def take(self, reader: "Reader") -> bytes:
        """What a reader hands to its connection next; empty when there is nothing yet.

        Counted when it is handed over: a client that read it could otherwise leave before the
        write returns, and have it for nothing.

        Raises:
            ClientGone: The reader is too far behind the others.
        """
        at = reader.at - self._first
        if at < 0:
            raise ClientGone
        pieces: list[bytes] = []
        size = 0
        for piece in self._pieces[at:]:
            if pieces and size + len(piece) > BATCH_BYTES:
                break
            pieces.append(piece)
            size += len(piece)
        reader.at += len(pieces)
        if reader.at > self.handed:
            unseen = self._pieces[self.handed - self._first : reader.at - self._first]
            self.ahead_bytes -= sum(map(len, unseen))
            self.handed = reader.at
        if pieces:
            self._reader_moved()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def note_delivered(self) -> None:
        """A reader's connection took the last byte."""
        if self.delivered_ms is None:
            self.delivered_ms = self._timer.now_ms
        self._tell_maker()

    def note_left(self, reader: "Reader") -> None:
        """A reader reads no more."""
        self._readers.discard(reader)
        self._reader_moved()
        if not self._readers:
            self.left_ms = self._timer.now_ms
            if self.on_left is not None:
                self.on_left()

    def _reader_moved(self) -> None:
        if not self._limit:
            self._trim()
        self._tell_maker()

    def _tell_maker(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _trim(self) -> None:
        """Drop what every reader has had, and what the furthest has had beyond a limit."""
        lowest = min((reader.at for reader in self._readers), default=self.count) - self._first
        drop = 0
        while drop < self.handed - self._first and (drop < lowest or self._bytes > LAG_BYTES):
            self._bytes -= len(self._pieces[drop])
            drop += 1
        del self._pieces[:drop]
        self._first += drop


class Reader:
    """One connection that is given a recording."""

    def __init__(self, recording: Recording, *, is_replay: bool) -> None:
        self.at = 0
        """The next piece."""
        self._recording = recording
        self._is_replay = is_replay

    async def deliver(self, responder: Responder) -> Exception | None:
        """Write the answer as it comes; returns why there is none, or no more of it.

        Raises:
            ClientGone: The connection takes no more bytes, or fell too far behind.
        """
        recording = self._recording
        while recording.head is None:
            if recording.failure is not None:
                return recording.failure
            await recording.news()
        headers = {**recording.head.headers, "x-request-id": recording.request_id}
        if self._is_replay:
            headers[REPLAYED_HEADER] = "true"
        await responder.start(recording.head.status, headers)
        while True:
            data = recording.take(self)
            if recording.is_ended and self.at == recording.count:
                await responder.end(data)
                recording.note_delivered()
                return None
            if data:
                await responder.chunk(data)
            elif recording.failure is not None:
                return recording.failure
            else:
                await recording.news()

    def leave(self) -> None:
        """Stop reading. Must be called, whatever happened."""
        self._recording.note_left(self)
