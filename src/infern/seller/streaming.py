"""Making a streamed answer: bytes into its recording, tokens counted, receipt at the end.

Events pass byte for byte. The usage chunk is kept back until the charge is known; the receipt is
a comment just before `[DONE]`, and its response root covers every byte before that comment.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from infern.core.errors import (
    InfernError,
    Money,
    StreamInterrupted,
    UpstreamUnavailable,
)
from infern.core.f402.receipt import Finish, ResponseRoot
from infern.core.wire.render import render_stream_error
from infern.core.wire.sse import EventKind, SseEvent, SseMeter
from infern.core.wire.strict_json import dumps
from infern.core.wire.usage import BilledUsage
from infern.seller import upstream_errors
from infern.seller.billing import bill, odd_members
from infern.seller.http import ClientGone
from infern.seller.pricing import Order
from infern.seller.recordings import BATCH_BYTES, Recording
from infern.seller.settlement import Sale, Settled, Settlement

KEEPALIVE: Final = b": keepalive\n\n"
DONE: Final = b"data: [DONE]\n\n"
WINDOW_BYTES: Final = BATCH_BYTES
"""How far an answer that must have a reader is made ahead of the furthest one."""
TAIL_BYTES: Final = 2 * 1024
"""Room for what ends a stream: the receipt's comment, `[DONE]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """What was written at once: `end` pieces of the recording are then written."""

    end: int
    data: bytes
    events: Sequence[SseEvent]


class StreamAnswer:
    """One stream. Metering follows what was handed to a client's connection."""

    def __init__(
        self,
        *,
        recording: Recording,
        settlement: Settlement,
        sale: Sale,
        order: Order,
        headers: Mapping[str, str],
    ) -> None:
        self._recording = recording
        self._settlement = settlement
        self._sale = sale
        self._order = order
        self._headers = headers
        self._meter = SseMeter(order.request, order.bound)
        self._root = ResponseRoot()
        self._pieces: deque[_Piece] = deque()
        self._usage_event: SseEvent | None = None
        self.is_done = False

    def begin(self) -> None:
        """Write status and headers, unless a keepalive already did."""
        self._recording.start(
            200,
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "private, no-store",
                "x-accel-buffering": "no",
                "x-should-retry": "false",
                "f402-reserved": str(self._settlement.ceiling),
                **self._headers,
            },
        )

    def keepalive(self) -> None:
        """Tell a waiting client that its request is alive."""
        self.begin()
        self._write(KEEPALIVE, ())

    async def take(self, data: bytes) -> None:
        """Pass on the next bytes of the model server; empty bytes are its end.

        Raises:
            InfernError: The server reported an error, broke off or wrote more than was ordered.
        """
        recording = self._recording
        events = self._meter.feed(data) if data else self._meter.finish()
        for batch in _batches([event for event in events if self._is_passed_on(event)]):
            self._write(b"".join(event.raw for event in batch), batch)
            while recording.ahead_bytes > WINDOW_BYTES and recording.must_be_read:
                await recording.moved()
        self._count(recording.handed)
        if self._meter.fault is not None:
            raise upstream_errors.broke_off(
                self._meter.fault,
                self._order.listing,
                is_delivered=self._has_content,
            )
        if self._meter.is_over_limit:
            raise StreamInterrupted("The model server wrote more than was ordered.")
        self.is_done = self._meter.is_done or not data
        if self.is_done and not self._meter.is_finished:
            raise StreamInterrupted("The model server broke off in mid-answer.")

    @property
    def _has_content(self) -> bool:
        """True once something was handed over, or is about to be."""
        return bool(self._pieces) or self._meter.counted().is_delivered

    def _is_passed_on(self, event: SseEvent) -> bool:
        """True for what goes out as it came; the usage chunk and the end are sent anew."""
        if event.kind is EventKind.USAGE:
            self._usage_event = event
            return False
        return not self._meter.is_hidden(event) and event.kind is not EventKind.DONE

    def _write(self, data: bytes, events: Sequence[SseEvent]) -> None:
        self._recording.append(data)
        self._pieces.append(_Piece(end=self._recording.count, data=data, events=events))

    def _count(self, end: int) -> None:
        """Take what was handed over for delivered."""
        while self._pieces and self._pieces[0].end <= end:
            piece = self._pieces.popleft()
            self._root.update(piece.data)
            for event in piece.events:
                self._meter.mark_sent(event)

    async def wait_for_readers(self) -> None:
        """Wait until all of it was handed over, or is kept for who comes later.

        The watch limits how long nobody may read.
        """
        usage = self._usage_event
        tail_bytes = TAIL_BYTES + (2 * len(usage.raw) if usage is not None else 0)
        recording = self._recording
        if not recording.reserve(tail_bytes):
            recording.drop()
        while recording.ahead_bytes and not recording.runs_on:
            await recording.moved()
        self._count(recording.count)

    async def finish(self) -> bytes:
        """Charge a complete answer; returns what is still to be written.

        Raises:
            InfernError: There was nothing in it, and nothing is charged.
        """
        counted = self._meter.counted()
        nothing = upstream_errors.empty(self._order, self._meter.usage, counted)
        if nothing is not None:
            raise nothing
        usage = bill(self._order, self._meter.usage, counted)
        last = self._usage_chunk(usage)
        self._root.update(last)
        settled = await self._settlement.capture_delivered(
            usage, finish=self._finish_reason(), response_root=self._root.root()
        )
        return last + _comment(settled) + DONE

    def _finish_reason(self) -> Finish:
        reasons = self._meter.finish_reasons
        return Finish.from_reason(reasons[min(reasons)] if reasons else None)

    def _usage_chunk(self, usage: BilledUsage) -> bytes:
        event = self._usage_event
        if event is None or event.json is None or not self._order.request.include_usage_asked:
            return b""
        summary = {**self._settlement.summary(usage), **odd_members(usage)}
        chunk = {**event.json, "f402": summary}
        return b"data: " + dumps(chunk) + b"\n\n"

    async def close(self, failure: InfernError | ClientGone) -> bytes:
        """Charge what was delivered of a stream that broke off; returns what ends it.

        Raises:
            ClientGone: There is nobody to end it for.
        """
        recording = self._recording
        if isinstance(failure, InfernError):
            while recording.has_readers and recording.ahead_bytes:
                await recording.moved()
        self._count(recording.handed)
        recording.cut()
        settled = None
        counted = self._meter.counted()
        is_charged = upstream_errors.empty(self._order, self._meter.usage, counted) is None
        if is_charged:
            gone = isinstance(failure, ClientGone)
            settled = await self._settlement.capture_delivered(
                bill(self._order, self._meter.usage, counted),
                finish=Finish.CLIENT_LEFT if gone else Finish.INTERRUPTED,
                response_root=self._root.root(),
            )
        if isinstance(failure, ClientGone):
            raise failure
        ended = _as_it_ended(failure, is_charged=is_charged)
        event = render_stream_error(self._settlement.as_told(ended), self._sale.request_id)
        return _comment(settled) + event


def _batches(events: list[SseEvent]) -> Iterator[list[SseEvent]]:
    """Events in groups of `BATCH_BYTES`, or one that is larger."""
    batch: list[SseEvent] = []
    size = 0
    for event in events:
        if batch and size + len(event.raw) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.raw)
    if batch:
        yield batch


def _as_it_ended(failure: InfernError, *, is_charged: bool) -> InfernError:
    if is_charged:
        return StreamInterrupted(failure.message)
    # Nothing was delivered, so the same key or proof may try again.
    broke_off = isinstance(failure, StreamInterrupted)
    return UpstreamUnavailable(
        failure.message,
        code="provider_failed" if broke_off else failure.code,
        money=Money.UNMOVED,
        retry_after_s=failure.retry_after_s,
    )


def _comment(settled: Settled | None) -> bytes:
    if settled is None:
        return b""
    return b": f402-receipt " + settled.signed.to_text().encode("ascii") + b"\n\n"
