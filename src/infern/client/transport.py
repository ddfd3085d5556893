"""The paying transport: under `openai.Infern` and the paying proxy, where we own the connection.

Unlike `auth`, it sees broken connections and repeats the same proof itself; it never follows a
redirect; and it raises our own errors instead of rendering them. It also learns a seller's agent
keys from its model list, to check receipts of prepaid answers.
"""

import logging
from threading import Lock
from typing import Final

import httpx2

from infern.client.account import named_keys
from infern.client.delivery import AsyncWatchedStream, Delivery, WatchedStream
from infern.client.drive import AsyncDriver, SyncDriver, leave
from infern.client.effects import Ask, Reply, WireBroken
from infern.client.exchange import Exchange, Order, Outcome
from infern.client.messages import (
    aread_reply,
    broken_by,
    copy_for,
    has_key,
    is_payable,
    mark_final,
    naming,
    order_of,
    outward,
    read_reply,
)
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Wallet
from infern.core.errors import InvariantViolation, RemoteProtocolError
from infern.core.ids import Pubkey
from infern.core.wire import strict_json

logger = logging.getLogger(__name__)

MAX_MODELS_BYTES: Final = 1024 * 1024
LEARN_AGAIN_MS: Final = 60_000
LEARN_TIMEOUT_S: Final = 5.0
DELIVERY_EXTENSION: Final = "infern.delivery"
"""Where a response's `extensions` hold its `Delivery`, for who passes the answer on."""


class AgentBook:
    """The agent keys of one seller, as its model list names them; learned when first needed.

    Args:
        models_url: The seller's `GET /v1/models`.
    """

    def __init__(self, models_url: str) -> None:
        self.models_url = models_url
        self._lock = Lock()
        self._agents: frozenset[Pubkey] = frozenset()
        self._next_try_ms = 0

    @property
    def agents(self) -> frozenset[Pubkey]:
        """What was learned so far."""
        return self._agents

    def is_due(self, now_ms: int) -> bool:
        """True when somebody should fetch the list now; says so to one caller a minute."""
        with self._lock:
            if self._agents or now_ms < self._next_try_ms:
                return False
            self._next_try_ms = now_ms + LEARN_AGAIN_MS
            return True

    def learn(self, body: bytes) -> None:
        """Read a model list. One that cannot be read teaches nothing."""
        try:
            self._agents = named_keys(strict_json.loads_object(body), "agent_pubkey")
        except RemoteProtocolError as error:
            logger.warning("the seller's model list cannot be read: %s", error)

    def request(self) -> httpx2.Request:
        """The request for the list."""
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), LEARN_TIMEOUT_S)
        return httpx2.Request(
            "GET",
            self.models_url,
            headers={"Accept-Encoding": "identity", "Accept": "application/json"},
            extensions={"timeout": timeout},
        )


class _Paying:
    """What both transports share."""

    def __init__(self, wallet: Wallet, receipts: ReceiptLog, book: AgentBook | None) -> None:
        self.wallet = wallet
        self.receipts = receipts
        self._book = book

    def _agents_of(self, origin: str) -> frozenset[Pubkey]:
        pinned = self.wallet.known_of(origin).agents
        return pinned or (self._book.agents if self._book else frozenset())

    def _must_learn(self, request: httpx2.Request, order: Order) -> bool:
        return (
            self._book is not None
            and has_key(request)
            and not self._agents_of(order.origin)
            and self._book.is_due(self.wallet.clock.now_ms())
        )

    def _delivery(self, outcome: Outcome, request: httpx2.Request, exchange: Exchange) -> Delivery:
        return exchange.delivery(
            outcome,
            is_keyed=has_key(request),
            agents=self._agents_of(exchange.order.origin),
            log=self.receipts,
        )


class F402Transport(_Paying, httpx2.BaseTransport):
    """Pays under an `httpx2.Client`.

    Args:
        inner: Sends; usually `httpx2.HTTPTransport`. Closed with this one.
        wallet: What to pay with; its `sync_node` pays.
        receipts: Where checks of receipts are kept.
        book: Where a seller's agent keys are learned, for prepaid answers.
    """

    def __init__(
        self,
        inner: httpx2.BaseTransport,
        wallet: Wallet,
        *,
        receipts: ReceiptLog | None = None,
        book: AgentBook | None = None,
    ) -> None:
        super().__init__(wallet, receipts or ReceiptLog(), book)
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, paying for it when it has a price.

        Raises:
            InfernError: As `Exchange.run`; `money` says what happened to it.
            httpx2.TransportError: No answer. What was paid is kept for the same request.
        """
        if not is_payable(request):
            return self._inner.handle_request(request)
        more = naming(request)
        body = request.read()
        order = order_of(request, body, can_pay=self.wallet.sync_node is not None, more=more)
        if self._must_learn(request, order):
            self._learn()
        exchange = Exchange(order, self.wallet)
        driver = SyncDriver(exchange.run(), self.wallet, Ask)
        response: httpx2.Response | None = None
        try:
            todo = driver.begin()
            while isinstance(todo, Ask):
                if response is not None:
                    response.close()
                response, reply = self._send(
                    copy_for(request, body, todo, more), wants_whole=order.can_repeat(todo)
                )
                todo = driver.answer(reply)
            response = _last(response)
            if todo.reply.is_success:
                assert isinstance(response.stream, httpx2.SyncByteStream)
                delivery = self._delivery(todo, request, exchange)
                response.stream = WatchedStream(response.stream, delivery)
                response.extensions[DELIVERY_EXTENSION] = delivery
            elif todo.attempt is not None:
                mark_final(response)
            answer, response = response, None
        except WireBroken as broken:
            raise outward(broken) from broken
        finally:
            leave(exchange.held, self.wallet)
            if response is not None:
                response.close()
        return answer

    def _send(
        self, request: httpx2.Request, *, wants_whole: bool
    ) -> tuple[httpx2.Response | None, Reply | WireBroken]:
        try:
            response = self._inner.handle_request(request)
        except httpx2.TransportError as error:
            return None, broken_by(error)
        return response, read_reply(response, request, wants_whole=wants_whole)

    def _learn(self) -> None:
        assert self._book is not None
        try:
            response = self._inner.handle_request(self._book.request())
            try:
                read = bytearray()
                assert isinstance(response.stream, httpx2.SyncByteStream)
                for chunk in response.stream:
                    read += chunk
                    if len(read) > MAX_MODELS_BYTES:
                        return
            finally:
                response.close()
            self._book.learn(bytes(read))
        except httpx2.TransportError as error:
            logger.warning("the seller's model list cannot be had: %s", error)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class AsyncF402Transport(_Paying, httpx2.AsyncBaseTransport):
    """Pays under an `httpx2.AsyncClient`; the twin of `F402Transport`, paid by `wallet.node`."""

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        wallet: Wallet,
        *,
        receipts: ReceiptLog | None = None,
        book: AgentBook | None = None,
    ) -> None:
        super().__init__(wallet, receipts or ReceiptLog(), book)
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, paying for it when it has a price; raises as the sync twin."""
        if not is_payable(request):
            return await self._inner.handle_async_request(request)
        more = naming(request)
        body = await request.aread()
        order = order_of(request, body, can_pay=self.wallet.node is not None, more=more)
        if self._must_learn(request, order):
            await self._learn()
        exchange = Exchange(order, self.wallet)
        driver = AsyncDriver(exchange.run(), self.wallet, Ask)
        response: httpx2.Response | None = None
        try:
            todo = await driver.begin()
            while isinstance(todo, Ask):
                if response is not None:
                    await response.aclose()
                response, reply = await self._send(
                    copy_for(request, body, todo, more), wants_whole=order.can_repeat(todo)
                )
                todo = await driver.answer(reply)
            response = _last(response)
            if todo.reply.is_success:
                assert isinstance(response.stream, httpx2.AsyncByteStream)
                delivery = self._delivery(todo, request, exchange)
                response.stream = AsyncWatchedStream(response.stream, delivery)
                response.extensions[DELIVERY_EXTENSION] = delivery
            elif todo.attempt is not None:
                mark_final(response)
            answer, response = response, None
        except WireBroken as broken:
            raise outward(broken) from broken
        finally:
            leave(exchange.held, self.wallet)
            if response is not None:
                await response.aclose()
        return answer

    async def _send(
        self, request: httpx2.Request, *, wants_whole: bool
    ) -> tuple[httpx2.Response | None, Reply | WireBroken]:
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            return None, broken_by(error)
        return response, await aread_reply(response, request, wants_whole=wants_whole)

    async def _learn(self) -> None:
        assert self._book is not None
        try:
            response = await self._inner.handle_async_request(self._book.request())
            try:
                read = bytearray()
                assert isinstance(response.stream, httpx2.AsyncByteStream)
                async for chunk in response.stream:
                    read += chunk
                    if len(read) > MAX_MODELS_BYTES:
                        return
            finally:
                await response.aclose()
            self._book.learn(bytes(read))
        except httpx2.TransportError as error:
            logger.warning("the seller's model list cannot be had: %s", error)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def _last(response: httpx2.Response | None) -> httpx2.Response:
    if response is None:
        raise InvariantViolation("an exchange that ended without an error has an answer")
    return response
