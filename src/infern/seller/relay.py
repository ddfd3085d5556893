"""Forwarding one held request and making its answer, plain or streamed.

What was delivered is what was handed to a client's connection, or is kept for a client that can
ask for it again. Nothing delivered, nothing charged; a stream that breaks off is charged for what
went out, never above the hold. The receipt of a stream rides in an SSE comment, because clients
ignore comments and stumble over unknown events.
"""

from typing import Final

from infern.core.errors import InfernError, RemoteProtocolError, UpstreamUnavailable
from infern.core.f402.offer import PAYMENT_RESPONSE_HEADER, settlement_header
from infern.core.f402.receipt import Finish, response_root
from infern.core.wire.chunks import MalformedChunk, count_answer, read_answer
from infern.core.wire.faults import fault_of, read_fault
from infern.core.wire.strict_json import JsonObject, dumps
from infern.core.wire.usage import read_usage
from infern.ports import UpstreamReply
from infern.seller import upstream_errors
from infern.seller.answers import Watch
from infern.seller.backend import Backend
from infern.seller.billing import bill, odd_members
from infern.seller.http import ClientGone
from infern.seller.limits import ByteShare
from infern.seller.pricing import Order
from infern.seller.recordings import Recording
from infern.seller.settlement import Sale, Settled, Settlement
from infern.seller.streaming import StreamAnswer

MAX_ERROR_BYTES: Final = 64 * 1024


class Relay:
    """Makes one answer inside its settlement. Use once."""

    def __init__(
        self,
        *,
        backend: Backend,
        order: Order,
        settlement: Settlement,
        sale: Sale,
        recording: Recording,
        watch: Watch,
        share: ByteShare,
    ) -> None:
        self._backend = backend
        self._order = order
        self._settlement = settlement
        self._sale = sale
        self._limits = watch.limits
        self._recording = recording
        self._watch = watch
        self._share = share
        self._answer: StreamAnswer | None = None

    async def make(self) -> bytes:
        """Write the answer into its recording, charge it, and return its last bytes.

        Raises:
            InfernError: Nothing was written and nothing will be charged.
            ClientGone: Nobody reads it; what was delivered is charged.
        """
        try:
            with self._watch.scope:
                return await (self._stream() if self._order.request.stream else self._plain())
        except (InfernError, ClientGone) as error:
            failure = error
        else:
            failure = self._watch.why_cancelled
        self._watch.halt()
        if self._answer is not None and self._recording.head is not None:
            try:
                return await self._answer.close(failure)
            finally:
                # Or this frame and its failure would keep one another, and the answer, in memory.
                del failure
        if isinstance(failure, ClientGone):
            raise failure
        raise self._settlement.as_told(failure)

    async def _send(self) -> UpstreamReply:
        """Forward the request and wait for the reply's headers."""
        self._watch.expect(
            self._limits.first_byte_timeout_ms, "The model server did not begin to answer in time."
        )
        reply = await self._backend.send(
            self._order.listing, self._order.request, self._order.bound
        )
        if reply.status != 200:
            try:
                raise await self._upstream_error(reply)
            finally:
                await reply.aclose()
        return reply

    async def _upstream_error(self, reply: UpstreamReply) -> InfernError:
        body = await self._read_up_to(reply, MAX_ERROR_BYTES)
        return upstream_errors.refused(reply.status, fault_of(body), self._order.listing)

    async def _read(self, reply: UpstreamReply) -> bytes:
        self._watch.expect(self._limits.idle_timeout_ms, "The model server fell silent.")
        data = await reply.read()
        self._watch.rest()
        return data

    async def _read_up_to(self, reply: UpstreamReply, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            while size <= limit_bytes:
                data = await self._read(reply)
                if not data:
                    return b"".join(parts)
                self._share.take(len(data))
                parts.append(data)
                size += len(data)
        finally:
            # A failure keeps its frames alive, and with them megabytes until a collection.
            parts.clear()
        raise UpstreamUnavailable("the model server's answer is over the size limit")

    async def _plain(self) -> bytes:
        reply = await self._send()
        try:
            body = await self._read_up_to(reply, self._limits.response_bytes)
        finally:
            await reply.aclose()
        try:
            answer = read_answer(body)
            counted = count_answer(self._order.request, answer)
        except (RemoteProtocolError, MalformedChunk) as error:
            raise UpstreamUnavailable(
                "The model server's answer cannot be read. Nothing was charged."
            ) from error
        fault = read_fault(answer)
        if fault is not None:
            raise upstream_errors.failed(fault, self._order.listing)
        reported = read_usage(answer)
        nothing = upstream_errors.empty(self._order, reported, counted)
        if nothing is not None:
            raise nothing
        usage = bill(self._order, reported, counted)
        answer["f402"] = {**self._settlement.summary(usage), **odd_members(usage)}
        delivered = dumps(answer)
        await self._wait_for_a_taker(len(delivered))
        await self._watch.stop()
        settled = await self._settlement.capture(
            usage, finish=_finish_of(answer), response_root=response_root([delivered])
        )
        self._recording.start(200, self._paid_headers(settled, len(delivered)))
        return delivered

    async def _wait_for_a_taker(self, size_bytes: int) -> None:
        """Charge no plain answer that nobody could have; the watch limits the wait."""
        recording = self._recording
        if not recording.reserve(size_bytes):
            recording.drop()
        while not recording.has_readers and not recording.runs_on:
            await recording.moved()

    def _paid_headers(self, settled: Settled | None, size_bytes: int) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "content-length": str(size_bytes),
            "cache-control": "private, no-store",
            "x-should-retry": "false",
        }
        if settled is not None:
            headers["f402-cost"] = str(settled.captured.stored.charged)
            headers["f402-receipt"] = settled.signed.to_text()
            if self._sale.payer.key is not None:
                headers["f402-balance"] = str(settled.captured.payer.balance)
        return headers | self._proof_headers()

    def _proof_headers(self) -> dict[str, str]:
        challenge = self._sale.payer.challenge
        if challenge is None:
            return {}
        return {PAYMENT_RESPONSE_HEADER: settlement_header(challenge, success=True)}

    async def _stream(self) -> bytes:
        answer = self._answer = StreamAnswer(
            recording=self._recording,
            settlement=self._settlement,
            sale=self._sale,
            order=self._order,
            headers=self._proof_headers(),
        )
        self._watch.keepalive = answer.keepalive
        reply = await self._send()
        try:
            answer.begin()
            while not answer.is_done:
                await answer.take(await self._read(reply))
        finally:
            await reply.aclose()
        await answer.wait_for_readers()
        await self._watch.stop()
        return await answer.finish()


def _finish_of(answer: JsonObject) -> Finish:
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        reason = choices[0].get("finish_reason")
        return Finish.from_reason(reason if isinstance(reason, str) else None)
    return Finish.STOP
