"""Delivering a streamed answer: bytes out, tokens counted, receipt at the end.

Events pass byte for byte. The usage chunk is kept back until the charge is known; the receipt is
a comment just before `[DONE]`, and its response root covers every byte before that comment.
"""

import logging
from collections.abc import Mapping
from typing import Final

from infern.core.errors import InfernError, LedgerError, Money, StreamInterrupted
from infern.core.f402.receipt import Finish, ResponseRoot
from infern.core.wire.render import render_stream_error
from infern.core.wire.sse import EventKind, SseEvent, SseMeter
from infern.core.wire.strict_json import dumps
from infern.core.wire.usage import BilledUsage, Counted, charge_usage
from infern.seller.http import ClientGone, Responder
from infern.seller.pricing import Order
from infern.seller.settlement import Sale, Settled, Settlement

KEEPALIVE: Final = b": keepalive\n\n"
DONE: Final = b"data: [DONE]\n\n"
_log = logging.getLogger(__name__)


class StreamDelivery:
    """One stream to one client. Metering follows what the client's socket took."""

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
        self._meter = SseMeter(order.request)
        self._root = ResponseRoot()
        self._delivered: Counted = self._meter.counted()
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
            StreamInterrupted: The server reported an error or broke off.
            ClientGone: The client does not take bytes any more.
        """
        events = self._meter.feed(data) if data else self._meter.finish()
        out = b"".join(self._passed_on(event) for event in events)
        if out:
            await self._write(out)
        self._delivered = self._meter.counted()
        if self._meter.failure is not None:
            raise StreamInterrupted("The model server reported an error in mid-answer.")
        if not data and not self.done:
            if self._meter.finish_reason is None:
                raise StreamInterrupted("The model server broke off in mid-answer.")
            self.done = True

    def _passed_on(self, event: SseEvent) -> bytes:
        if event.kind is EventKind.DONE:
            self.done = True
            return b""
        if event.kind is EventKind.ERROR:
            return b""
        if event.kind is EventKind.USAGE:
            self._usage_event = event
            return b""
        return event.raw

    async def _write(self, data: bytes) -> None:
        await self._responder.chunk(data)
        self._root.update(data)

    async def finish(self) -> None:
        """Charge a complete answer, send its receipt and end the stream."""
        usage = charge_usage(self._meter.usage, self._delivered, self._order.bound)
        last = self._usage_chunk(usage)
        if last:
            await self._write(last)
        settled = await self._capture(usage, Finish.from_reason(self._meter.finish_reason))
        await self._responder.end(_comment(settled) + DONE)

    def _usage_chunk(self, usage: BilledUsage) -> bytes:
        if self._usage_event is None or not self._order.request.include_usage_asked:
            return b""
        chunk = {**self._usage_event.json, "f402": self._settlement.summary(usage)}
        return b"data: " + dumps(chunk) + b"\n\n"

    async def _capture(self, usage: BilledUsage, finish: Finish) -> Settled | None:
        try:
            return await self._settlement.capture(
                usage, finish=finish, response_root=self._root.root()
            )
        except LedgerError:
            # The client has its answer; the loss is ours and start-up releases the hold.
            _log.exception("a delivered answer could not be charged")
            return None

    async def close(self, failure: InfernError | ClientGone) -> None:
        """End a stream that broke off: charge what was delivered, say what happened."""
        if self._settlement.is_settled:
            return
        gone = isinstance(failure, ClientGone)
        settled = None
        if not self._delivered.is_empty:
            # Usage the server may have reported covers more than what went out.
            usage = charge_usage(None, self._delivered, self._order.bound)
            settled = await self._capture(usage, Finish.CLIENT_LEFT if gone else Finish.INTERRUPTED)
        if isinstance(failure, InfernError):
            error = StreamInterrupted(
                failure.message,
                code="stream_interrupted" if settled else failure.code,
                money=Money.MOVED if settled else Money.UNMOVED,
            )
            event = render_stream_error(error, self._sale.request_id)
            await self._responder.end(_comment(settled) + event)


def _comment(settled: Settled | None) -> bytes:
    if settled is None:
        return b""
    return b": f402-receipt " + settled.signed.to_text().encode("ascii") + b"\n\n"
