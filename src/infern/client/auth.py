"""`F402Auth`: lets any httpx2 client, and so any stock OpenAI SDK, pay for what it asks.

    client = openai.OpenAI(base_url=..., api_key="none",
                           http_client=httpx2.Client(auth=F402Auth(wallet)))

The client keeps sending; this only looks at 402s, pays, and repeats the same bytes with a proof.
When the SDK repeats a request after the flow has ended (its default on 5xx and timeouts), the
journal has the payment and the same proof goes out again: one payment, however often it asks.

A refusal to pay becomes a 402 answer in the OpenAI error shape, so that the SDK raises
`APIStatusError` with our `code` and message.

Source: the flow of `httpx2.Auth`, as in its own DigestAuth.
"""

from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import httpx2

from infern.client.delivery import AsyncWatchedStream, Delivery, WatchedStream
from infern.client.drive import AsyncDriver, SyncDriver, leave
from infern.client.effects import Ask, WireBroken
from infern.client.exchange import Exchange, Outcome
from infern.client.messages import (
    aread_reply,
    dress,
    has_key,
    is_payable,
    mark_final,
    order_of,
    outward,
    read_reply,
    replace_by_error,
)
from infern.client.receipts import ReceiptLog
from infern.client.wallet import PayMode, Wallet
from infern.core.errors import InfernError


class F402Auth(httpx2.Auth):
    """Pays 402 answers of F402 sellers, within the wallet's budget.

    A client that follows redirects is safe to use: a proof goes to the first address only, and
    an offer that came by a redirect is refused.

    Args:
        wallet: What to pay with. Its node must fit the client: `node` for `httpx2.AsyncClient`,
            `sync_node` for `httpx2.Client`.
        receipts: Where checks of receipts are kept; one that raises when strict.
        mode: How requests are paid for; the wallet's by default.
    """

    requires_request_body = True

    def __init__(
        self,
        wallet: Wallet,
        *,
        receipts: ReceiptLog | None = None,
        mode: PayMode | str | None = None,
    ) -> None:
        self.wallet = wallet if mode is None else replace(wallet, mode=PayMode(mode))
        self.receipts = receipts or ReceiptLog()

    def sync_auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        """The exchange under `httpx2.Client`.

        Raises:
            InfernError: Only when nothing could be asked at all, so that there is no response to
                render the failure in: the journal is away, or an old payment is unaccounted for.
        """
        if not is_payable(request):
            yield request
            return
        order = order_of(request, request.read(), can_pay=self.wallet.sync_node is not None)
        exchange = Exchange(order, self.wallet)
        driver = SyncDriver(exchange.run(), self.wallet, Ask)
        response: httpx2.Response | None = None
        try:
            todo = driver.begin()
            while isinstance(todo, Ask):
                dress(request, todo)
                response = yield request
                whole = order.can_repeat(todo)
                todo = driver.answer(read_reply(response, request, wants_whole=whole))
            if response is not None and todo.reply.is_success:
                assert isinstance(response.stream, httpx2.SyncByteStream)
                delivery = self._delivery(todo, request, exchange)
                response.stream = WatchedStream(response.stream, delivery)
            elif response is not None and todo.attempt is not None:
                mark_final(response)
        except WireBroken as broken:
            # Only a body can break here. As where it is read; the SDK may know what to do.
            raise outward(broken) from broken
        except InfernError as error:
            if response is None:
                raise
            replace_by_error(response, error)
        finally:
            leave(exchange.held, self.wallet)

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """The exchange under `httpx2.AsyncClient`; raises as `sync_auth_flow`."""
        if not is_payable(request):
            yield request
            return
        order = order_of(request, await request.aread(), can_pay=self.wallet.node is not None)
        exchange = Exchange(order, self.wallet)
        driver = AsyncDriver(exchange.run(), self.wallet, Ask)
        response: httpx2.Response | None = None
        try:
            todo = await driver.begin()
            while isinstance(todo, Ask):
                dress(request, todo)
                response = yield request
                whole = order.can_repeat(todo)
                todo = await driver.answer(await aread_reply(response, request, wants_whole=whole))
            if response is not None and todo.reply.is_success:
                assert isinstance(response.stream, httpx2.AsyncByteStream)
                delivery = self._delivery(todo, request, exchange)
                response.stream = AsyncWatchedStream(response.stream, delivery)
            elif response is not None and todo.attempt is not None:
                mark_final(response)
        except WireBroken as broken:
            # Only a body can break here. As where it is read; the SDK may know what to do.
            raise outward(broken) from broken
        except InfernError as error:
            if response is None:
                raise
            replace_by_error(response, error)
        finally:
            leave(exchange.held, self.wallet)

    def _delivery(self, outcome: Outcome, request: httpx2.Request, exchange: Exchange) -> Delivery:
        return exchange.delivery(
            outcome,
            is_keyed=has_key(request),
            agents=self.wallet.known_of(exchange.order.origin).agents,
            log=self.receipts,
        )
