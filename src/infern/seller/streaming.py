"""Delivering a streamed answer: bytes out, tokens counted, receipt at the end.

Events pass byte for byte. The usage chunk is kept back until the charge is known; the receipt is
a comment just before `[DONE]`, and its response root covers every byte before that comment.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Final

from infern.core.errors import (
    InfernError,
    LedgerError,
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
from infern.seller.http import ClientGone, Responder
from infern.seller.pricing import Order
from infern.seller.settlement import Sale, Settled, Settlement

KEEPALIVE: Final = b": keepalive\n\n"
DONE: Final = b"data: [DONE]\n\n"
BATCH_BYTES: Final = 16 * 1024
"""Bytes handed to the client's connection at once, and so the most it can be charged for unread."""
_log = logging.getLogger(__name__)


class StreamDelivery:
    """One stream to one client. Metering follows what was written to the client's socket."""

    def __init__(
        self,
        *,
        responder: Responder,
        settlement: Settlement,
        sale: Sale,
        order: Order,
        headers: Mapping[str, str],
    ) -> None:
        self._responder = responder
        self._settlement = settlement
        self._sale = sale
        self._order = order
        self._headers = headers
        self._meter = SseMeter(order.request, order.bound)
        self._root = ResponseRoot()
        self._usage_event: SseEvent | None = None
        self.done = False

    async def begin(self) -> None:
        """Send status and headers, unless a keepalive already did."""
        if self._responder.started:
            return
        await self._responder.start(
            200,
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "private, no-store",
                "x-accel-buffering": "no",
                "f402-reserved": str(self._settlement.ceiling),
                **self._headers,
            },
        )

    async def keepalive(self) -> None:
        """Tell a waiting client that its request is alive."""
        await self.begin()
        await self._write(KEEPALIVE)

    async def take(self, data: bytes) -> None:
        """Pass on the next bytes of the model server; empty bytes are its end.

        Raises:
            InfernError: The server reported an error, broke off or wrote more than was ordered.
            ClientGone: The client does not take bytes any more.
        """
        events = self._meter.feed(data) if data else self._meter.finish()
        for batch in _batches([event for event in events if self._is_passed_on(event)]):
            # Counted when it is handed over: a client that read it could otherwise leave before
            # the write returns, and have it for nothing. So batches are small.
            for event in batch:
                self._meter.mark_sent(event)
            await self._write(b"".join(event.raw for event in batch))
        if self._meter.fault is not None:
            raise upstream_errors.broke_off(
                self._meter.fault,
                self._order.listing,
                is_delivered=self._meter.counted().is_delivered,
            )
        if self._meter.is_over_limit:
            raise StreamInterrupted("The model server wrote more than was ordered.")
        self.done = self._meter.is_done or not data
        if self.done and not self._meter.is_finished:
            raise StreamInterrupted("The model server broke off in mid-answer.")

    def _is_passed_on(self, event: SseEvent) -> bool:
        """True for what goes out as it came; the usage chunk and the end are sent anew."""
        if event.kind is EventKind.USAGE:
            self._usage_event = event
            return False
        return not self._meter.is_hidden(event) and event.kind is not EventKind.DONE

    async def _write(self, data: bytes) -> None:
        self._root.update(data)
        await self._responder.chunk(data)

    async def finish(self) -> None:
        """Charge a complete answer, send its receipt and end the stream.

        Raises:
            InfernError: There was nothing in it, and nothing is charged.
            ClientGone: The client does not take bytes any more.
        """
        counted = self._meter.counted()
        nothing = upstream_errors.empty(self._order, self._meter.usage, counted)
        if nothing is not None:
            raise nothing
        usage = bill(self._order, self._meter.usage, counted)
        last = self._usage_chunk(usage)
        if last:
            await self._write(last)
        settled = await self._capture(usage, self._finish_reason())
        await self._responder.end(_comment(settled) + DONE)

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

    async def _capture(self, usage: BilledUsage, finish: Finish) -> Settled | None:
        root = self._root.root()
        self._settlement.begin_delivery()
        try:
            return await self._settlement.capture(usage, finish=finish, response_root=root)
        except LedgerError as error:
            # The client has its answer, so the charge is booked as soon as the ledger is back.
            _log.warning("a delivered answer is not charged yet: %s", error.message)
            self._settlement.capture_later(usage, finish=finish, response_root=root)
            return None

    async def close(self, failure: InfernError | ClientGone) -> None:
        """End a stream that broke off: charge what was delivered, say what happened."""
        if self._settlement.is_settled:
            return
        gone = isinstance(failure, ClientGone)
        settled = None
        counted = self._meter.counted()
        is_charged = upstream_errors.empty(self._order, self._meter.usage, counted) is None
        if is_charged:
            usage = bill(self._order, self._meter.usage, counted)
            settled = await self._capture(usage, Finish.CLIENT_LEFT if gone else Finish.INTERRUPTED)
        if isinstance(failure, InfernError):
            ended = _as_it_ended(failure, is_charged=is_charged)
            event = render_stream_error(self._settlement.as_told(ended), self._sale.request_id)
            await self._responder.end(_comment(settled) + event)


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
