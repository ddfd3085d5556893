"""Forwarding, metering and delivering one held request, plain or streamed.

What was delivered is what was written to the client's socket. Nothing delivered, nothing charged;
a stream that breaks off is charged for what went out, never above the hold. The receipt of a
stream rides in an SSE comment, because clients ignore comments and stumble over unknown events.
"""

import math
from typing import Final

import anyio
import anyio.lowlevel

from infern.core.errors import InfernError, RemoteProtocolError, UpstreamUnavailable
from infern.core.f402.offer import PAYMENT_RESPONSE_HEADER, settlement_header
from infern.core.f402.receipt import Finish, response_root
from infern.core.wire.chunks import MalformedChunk, count_answer, read_answer
from infern.core.wire.faults import fault_of, read_fault
from infern.core.wire.strict_json import JsonObject, dumps
from infern.core.wire.usage import read_usage
from infern.ports import UpstreamReply
from infern.seller import upstream_errors
from infern.seller.backend import Backend
from infern.seller.billing import bill, odd_members
from infern.seller.config import SellerLimits
from infern.seller.http import ClientGone, Receive, Responder
from infern.seller.limits import ByteShare
from infern.seller.pricing import Order
from infern.seller.settlement import Sale, Settled, Settlement
from infern.seller.streaming import StreamDelivery

MAX_ERROR_BYTES: Final = 64 * 1024


class Relay:
    """Serves one request inside its settlement. Use once."""

    def __init__(
        self,
        *,
        backend: Backend,
        order: Order,
        settlement: Settlement,
        sale: Sale,
        limits: SellerLimits,
        responder: Responder,
        share: ByteShare,
    ) -> None:
        self._backend = backend
        self._order = order
        self._settlement = settlement
        self._sale = sale
        self._limits = limits
        self._responder = responder
        self._share = share
        self._delivery: StreamDelivery | None = None
        self._total = anyio.CancelScope()

    async def serve(self, receive: Receive) -> None:
        """Answer the request, or raise why not while nothing has been sent.

        Raises:
            InfernError: Nothing was sent and nothing will be charged.
            ClientGone: The client left; what it took is charged.
        """
        failure = await self._until_gone(receive)
        if failure is None:
            return
        delivery = self._delivery
        if delivery is None or not self._responder.started:
            if isinstance(failure, ClientGone):
                raise failure
            raise self._settlement.as_told(failure)
        await delivery.close(failure)
        if isinstance(failure, ClientGone):
            raise failure

    async def _until_gone(self, receive: Receive) -> InfernError | ClientGone | None:
        """Run the work until it ends or the client leaves; returns how it failed."""
        outcome: list[InfernError | ClientGone] = []
        run = self._stream if self._order.request.stream else self._plain

        async def work() -> None:
            try:
                with anyio.fail_after(self._limits.total_timeout_ms / 1000) as self._total:
                    await run()
            except (InfernError, ClientGone) as error:
                outcome.append(error)
            except TimeoutError:
                outcome.append(_timeout("the answer took longer than this seller allows"))
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            while (await receive())["type"] != "http.disconnect":
                pass
            if not self._responder.ended:
                outcome.append(ClientGone())
            group.cancel_scope.cancel()
        return outcome[0] if outcome else None

    async def _stop_the_clock(self) -> None:
        """Let no deadline of the answer's come between its charge and its delivery."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._total.deadline = math.inf

    async def _send(self) -> UpstreamReply:
        """Forward the request and wait for the reply's headers."""
        try:
            with anyio.fail_after(self._limits.first_byte_timeout_ms / 1000):
                reply = await self._backend.send(
                    self._order.listing, self._order.request, self._order.bound
                )
        except TimeoutError:
            raise _timeout("the model server did not begin to answer in time") from None
        if reply.status != 200:
            try:
                raise await self._upstream_error(reply)
            finally:
                await reply.aclose()
        return reply

    async def _upstream_error(self, reply: UpstreamReply) -> InfernError:
        body = await self._read_up_to(reply, MAX_ERROR_BYTES)
        return upstream_errors.refused(reply.status, fault_of(body), self._order.listing)

    async def _read_up_to(self, reply: UpstreamReply, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while size <= limit_bytes:
            try:
                with anyio.fail_after(self._limits.idle_timeout_ms / 1000):
                    data = await reply.read()
            except TimeoutError:
                raise _timeout("the model server fell silent") from None
            if not data:
                return b"".join(parts)
            self._share.take(len(data))
            parts.append(data)
            size += len(data)
        raise UpstreamUnavailable("the model server's answer is over the size limit")

    async def _plain(self) -> None:
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
        await self._stop_the_clock()
        settled = await self._settlement.capture(
            usage, finish=_finish_of(answer), response_root=response_root([delivered])
        )
        # Who is known to have left by now gets nothing any more.
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._settlement.begin_delivery()
        await self._responder.whole(200, delivered, self._paid_headers(settled))

    def _paid_headers(self, settled: Settled) -> dict[str, str]:
        stored = settled.captured.stored
        headers = {
            "f402-cost": str(stored.charged),
            "f402-receipt": settled.signed.to_text(),
            "cache-control": "private, no-store",
        }
        payer = self._sale.payer
        if payer.key is not None:
            headers["f402-balance"] = str(settled.captured.payer.balance)
        return headers | self._proof_headers()

    def _proof_headers(self) -> dict[str, str]:
        challenge = self._sale.payer.challenge
        if challenge is None:
            return {}
        return {PAYMENT_RESPONSE_HEADER: settlement_header(challenge, success=True)}

    async def _stream(self) -> None:
        delivery = self._delivery = StreamDelivery(
            responder=self._responder,
            settlement=self._settlement,
            sale=self._sale,
            order=self._order,
            headers=self._proof_headers(),
        )
        reply = await self._send_keeping_alive(delivery)
        try:
            await delivery.begin()
            while not delivery.done:
                await delivery.take(await self._next_data(reply, delivery))
        finally:
            await reply.aclose()
        await self._stop_the_clock()
        await delivery.finish()

    async def _send_keeping_alive(self, delivery: StreamDelivery) -> UpstreamReply:
        """Forward the request; a client that waits long for the first token hears from us."""
        replies: list[UpstreamReply] = []
        failures: list[InfernError | ClientGone] = []
        answered = anyio.Event()

        async def send() -> None:
            try:
                replies.append(await self._send())
            except InfernError as error:
                failures.append(error)
            answered.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(send)
                while not answered.is_set():
                    with anyio.move_on_after(self._limits.keepalive_ms / 1000):
                        await answered.wait()
                    if answered.is_set():
                        break
                    try:
                        await delivery.keepalive()
                    except ClientGone as gone:
                        failures.append(gone)
                        group.cancel_scope.cancel()
        except BaseException:
            await _give_up(replies)
            raise
        if failures:
            await _give_up(replies)
            raise failures[0]
        return replies[0]

    async def _next_data(self, reply: UpstreamReply, delivery: StreamDelivery) -> bytes:
        silent_ms = 0
        while silent_ms < self._limits.idle_timeout_ms:
            with anyio.move_on_after(self._limits.keepalive_ms / 1000):
                return await reply.read()
            silent_ms += self._limits.keepalive_ms
            await delivery.keepalive()
        raise _timeout("the model server fell silent")


async def _give_up(replies: list[UpstreamReply]) -> None:
    """Close a reply that arrived for nobody, or the model server would go on writing."""
    with anyio.CancelScope(shield=True):
        for reply in replies:
            await reply.aclose()


def _timeout(why: str) -> UpstreamUnavailable:
    return UpstreamUnavailable(f"{why[0].upper()}{why[1:]}.", code="provider_timeout")


def _finish_of(answer: JsonObject) -> Finish:
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        reason = choices[0].get("finish_reason")
        return Finish.from_reason(reason if isinstance(reason, str) else None)
    return Finish.STOP
