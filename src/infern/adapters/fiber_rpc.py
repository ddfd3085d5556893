"""`FiberNode` over fnn's JSON-RPC, for coroutines.

Calls go over HTTP with reused connections. Wake-ups come over one WebSocket subscribed to
`subscribe_store_changes`, opened when somebody first waits and reopened when it breaks. Where the
node does not offer it, waiting is plain sleeping and callers poll by their plan: an event saves
time and decides nothing.
"""

import asyncio
import itertools
import logging
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Final, Self, TypeVar

import aiohttp

from infern.core.errors import JsonValue, RemoteProtocolError, TransportError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.endpoint import FiberEndpoint
from infern.core.fiber.errors import CODE_METHOD_NOT_FOUND, CODE_UNAUTHORIZED
from infern.core.fiber.events import (
    SUBSCRIBE_METHOD,
    OtherChange,
    notification_from_json,
)
from infern.core.fiber.jsonrpc import (
    MAX_ANSWER_BYTES,
    broken,
    http_refusal,
    load_json,
    not_sent,
    oversized,
    read_answer,
    request_bytes,
)

T = TypeVar("T")

MAX_CONNECTIONS: Final = 64
RETRY_DELAYS_MS: Final = (50, 200)
"""Pauses before a query is repeated after a broken connection; then the error is raised."""
MAX_WAITERS: Final = 10_000
"""Waits woken by events; any further ones sleep."""
MAX_UNSEEN: Final = 4_096
"""Payments whose last event nobody has waited for yet; the oldest is forgotten."""
MAX_EVENT_BYTES: Final = 1024 * 1024
SUBSCRIBE_TIMEOUT_S: Final = 10.0
HEARTBEAT_S: Final = 20.0
CLOSE_TIMEOUT_S: Final = 1.0
RECONNECT_MIN_S: Final = 0.1
RECONNECT_MAX_S: Final = 30.0
UNSUPPORTED_PAUSE_S: Final = 600.0
"""How long a node that refused the subscription is not asked again."""

_READ_CHUNK_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


class _Unsupported(Exception):
    """The node does not offer the subscription to us."""


@dataclass(slots=True)
class Trip:
    """What became of one HTTP request: after `connected`, bytes of it may have been sent."""

    connected: bool = False


class FiberRpcClient:
    """One fnn node. Safe to share between tasks of one event loop.

    Args:
        url: The node's JSON-RPC, e.g. `http://127.0.0.1:8227`.
        token: A biscuit; None when the node needs none.
        default_timeout_ms: Deadline of a call, repetitions included, unless the call brings one.
        max_answer_bytes: Largest answer that is read.

    Raises:
        ConfigError: The address or token cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        default_timeout_ms: int = 10_000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._endpoint = FiberEndpoint(url=url, token=token)
        self._default_timeout_ms = default_timeout_ms
        self._max_answer_bytes = max_answer_bytes
        self._ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        self._feed: _ChangeFeed | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"FiberRpcClient({self._endpoint.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the subscription and the connections. Waiters return; later calls fail unsent."""
        self._closed = True
        if self._feed is not None:
            await self._feed.aclose()
        if self._session is not None:
            await self._session.close()

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call; a query is repeated after a broken connection, within its deadline.

        Raises:
            InfernError: The node's error, classified (`infern.core.fiber.errors`).
            TransportError: No readable answer in time. Money is unmoved for queries and for
                calls that never reached the node, unknown for others: ask the node again.
        """
        loop = asyncio.get_running_loop()
        wait_ms = self._default_timeout_ms if timeout_ms is None else timeout_ms
        deadline_s = loop.time() + wait_ms / 1000
        delays_ms = iter(RETRY_DELAYS_MS if call.idempotent else ())
        while True:
            try:
                return await self._attempt(call, deadline_s - loop.time())
            except TransportError:
                delay_ms = next(delays_ms, None)
                if delay_ms is None or loop.time() + delay_ms / 1000 >= deadline_s:
                    raise
                await asyncio.sleep(delay_ms / 1000)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Return when the node reports a change of this invoice or payment, or after the timeout.

        An event that came since the last wait for the hash counts too.
        """
        if self._closed:
            return
        if self._feed is None:
            self._feed = _ChangeFeed(self._endpoint, self._open_session())
        await self._feed.wait(payment_hash, timeout_ms / 1000)

    async def _attempt(self, call: RpcCall[T], timeout_s: float) -> T:
        if self._closed:
            raise not_sent(call, "the Fiber client is closed")
        request_id = next(self._ids)
        trip = Trip()
        try:
            body = request_bytes(call, request_id)
            answer = await self.post(call, body, trip, max(timeout_s, 0.001))
        except TimeoutError as error:
            why = "the Fiber node did not answer in time"
            raise (broken if trip.connected else not_sent)(call, why) from error
        except (aiohttp.ClientError, OSError) as error:
            why = f"no connection to the Fiber node ({type(error).__name__}); is it running?"
            raise (broken if trip.connected else not_sent)(call, why) from error
        return read_answer(call, answer, request_id)

    async def post(self, call: RpcCall[T], body: bytes, trip: Trip, timeout_s: float) -> bytes:
        """Carry one request to the node and its answer back; all else is `call`'s.

        Raises:
            TimeoutError: No answer in time. `trip.connected` says whether it may have arrived.
            OSError: Or aiohttp's `ClientError`: the connection failed.
        """
        async with self._open_session().post(
            self._endpoint.url,
            data=body,
            headers=self._endpoint.headers(),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            allow_redirects=False,
            trace_request_ctx=trip,
        ) as response:
            if response.status != 200:
                raise http_refusal(call, response.status)
            answer = bytearray()
            async for chunk in response.content.iter_chunked(_READ_CHUNK_BYTES):
                answer += chunk
                if len(answer) > self._max_answer_bytes:
                    raise oversized(call, self._max_answer_bytes)
            return bytes(answer)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(_mark_connected)
            trace.on_connection_reuseconn.append(_mark_connected)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trace_configs=[trace],
            )
        return self._session


async def _mark_connected(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: object
) -> None:
    trip = context.trace_request_ctx
    if isinstance(trip, Trip):
        trip.connected = True


class _ChangeFeed:
    """The subscription of one client: one connection, any number of waiters."""

    def __init__(self, endpoint: FiberEndpoint, session: aiohttp.ClientSession) -> None:
        self._endpoint = endpoint
        self._session = session
        self._waiters: dict[bytes, set[asyncio.Future[None]]] = {}
        self._waiting = 0
        self._unseen: OrderedDict[bytes, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._reconnect_s = RECONNECT_MIN_S
        self._unsupported_until_s = 0.0
        self._closed = False

    async def wait(self, payment_hash: bytes, timeout_s: float) -> None:
        self._start()
        if payment_hash in self._unseen:
            del self._unseen[payment_hash]
            await asyncio.sleep(0)
            return
        if self._waiting >= MAX_WAITERS:
            await asyncio.sleep(timeout_s)
            return
        woken = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(payment_hash, set())
        waiters.add(woken)
        self._waiting += 1
        try:
            await asyncio.wait([woken], timeout=timeout_s)
        finally:
            self._waiting -= 1
            waiters.discard(woken)
            if not waiters and self._waiters.get(payment_hash) is waiters:
                del self._waiters[payment_hash]

    async def aclose(self) -> None:
        self._closed = True
        self._wake_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _start(self) -> None:
        running = self._task is not None and not self._task.done()
        now_s = asyncio.get_running_loop().time()
        if running or self._closed or now_s < self._unsupported_until_s:
            return
        self._task = asyncio.create_task(self._run(), name="fiber-events")
        self._task.add_done_callback(_log_crash)

    async def _run(self) -> None:
        while True:
            try:
                await self._stay_subscribed()
            except _Unsupported:
                now_s = asyncio.get_running_loop().time()
                self._unsupported_until_s = now_s + UNSUPPORTED_PAUSE_S
                _log.info("the Fiber node offers no store changes; polling instead")
                return
            except (aiohttp.ClientError, OSError, RemoteProtocolError) as error:
                _log.debug("Fiber store changes broke off: %s", type(error).__name__)
            await asyncio.sleep(self._reconnect_s)
            self._reconnect_s = min(self._reconnect_s * 2, RECONNECT_MAX_S)

    async def _stay_subscribed(self) -> None:
        try:
            async with (
                asyncio.timeout(SUBSCRIBE_TIMEOUT_S) as limit,
                self._session.ws_connect(
                    self._endpoint.url,
                    headers=self._endpoint.headers(),
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=MAX_EVENT_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                ) as socket,
            ):
                await self._subscribe(socket)
                limit.reschedule(None)
                self._reconnect_s = RECONNECT_MIN_S
                # What changed while nobody listened was not told: let everybody look.
                self._wake_all()
                await self._listen(socket)
        except aiohttp.WSServerHandshakeError as error:
            if 400 <= error.status < 500:
                raise _Unsupported from error
            raise

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        request: JsonValue = {"jsonrpc": "2.0", "id": 1, "method": SUBSCRIBE_METHOD, "params": []}
        await socket.send_json(request)
        answer = await _receive(socket)
        if not isinstance(answer, dict) or answer.get("id") != 1:
            raise RemoteProtocolError("the Fiber node did not answer the subscription")
        error = answer.get("error")
        if isinstance(error, dict):
            if error.get("code") in {CODE_METHOD_NOT_FOUND, CODE_UNAUTHORIZED}:
                raise _Unsupported
            raise RemoteProtocolError("the Fiber node refused the subscription")

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await _receive(socket)
            try:
                change = notification_from_json(message)
            except RemoteProtocolError:
                # An event in a shape nobody knew; the plan of polls covers it.
                continue
            if change is not None and not isinstance(change, OtherChange):
                self._wake(change.payment_hash)

    def _wake(self, payment_hash: bytes) -> None:
        waiters = self._waiters.pop(payment_hash, None)
        if waiters is None:
            self._unseen[payment_hash] = None
            self._unseen.move_to_end(payment_hash)
            if len(self._unseen) > MAX_UNSEEN:
                self._unseen.popitem(last=False)
            return
        for woken in waiters:
            if not woken.done():
                woken.set_result(None)

    def _wake_all(self) -> None:
        for payment_hash in list(self._waiters):
            self._wake(payment_hash)


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("the Fiber event task broke; it starts again", exc_info=task.exception())


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> JsonValue:
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise RemoteProtocolError("the Fiber node closed the event connection")
    return load_json(str(message.data))
