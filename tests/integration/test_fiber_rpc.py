"""Both Fiber clients against a node that is slow, breaks off, floods and lies."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio.to_thread
import pytest
from aiohttp import WSMsgType, web

from infern.adapters import fiber_rpc
from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.fiber_rpc_sync import FiberRpcSyncClient
from infern.core.errors import InfernError, Money, RemoteProtocolError, TransportError
from infern.core.fiber.errors import FiberUnauthorized, PaymentNotFound
from infern.core.fiber.rpc import GetPayment, SendPayment
from infern.core.ids import PaymentHash

HASH = PaymentHash(b"\x11" * 32)
OTHER = PaymentHash(b"\x22" * 32)
QUERY = GetPayment(payment_hash=HASH)
SEND = SendPayment(invoice="fibd1x")
PAYMENT = {
    "payment_hash": "0x" + "11" * 32, "status": "Created", "created_at": "0x1",
    "last_updated_at": "0x2", "failed_error": None, "fee": "0x3",
}  # fmt: skip
pytestmark = pytest.mark.timeout(60)

Act = Callable[[web.Request, dict], Awaitable[web.StreamResponse]]


async def answer(request: web.Request, call: dict) -> web.StreamResponse:
    return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": PAYMENT})


async def hang(request: web.Request, call: dict) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def abort(request: web.Request, call: dict) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.Request, call: dict) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"jsonrpc"')
    return await abort(request, call)


def say(body: bytes, *, status: int = 200, headers: dict | None = None) -> Act:
    async def act(request: web.Request, call: dict) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return act


def reply(**members: object) -> Act:
    async def act(request: web.Request, call: dict) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": call["id"]} | members)

    return act


async def flood(request: web.Request, call: dict) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


class Node:
    """Acts out a script, one act per request; then answers well."""

    def __init__(self) -> None:
        self.script: list[Act] = []
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.peers: set[object] = set()
        self.sockets: asyncio.Queue[Socket] = asyncio.Queue()
        self.ws_refusals: list[int | dict] = []
        self.upgrades = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "upgrade" in request.headers.get("connection", "").lower():
            return await self._websocket(request)
        call = await request.json()
        self.requests.append(call)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        act = self.script.pop(0) if self.script else answer
        return await act(request, call)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        self.upgrades += 1
        self.headers.append(dict(request.headers))
        refusal = self.ws_refusals.pop(0) if self.ws_refusals else None
        if isinstance(refusal, int):
            return web.Response(status=refusal)
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        call = await ws.receive_json()
        assert (call["method"], call["params"]) == ("subscribe_store_changes", [])
        if refusal is not None:
            await ws.send_json({"jsonrpc": "2.0", "id": call["id"], "error": refusal})
        else:
            await ws.send_json({"jsonrpc": "2.0", "id": call["id"], "result": 77})
        session = Socket(ws)
        self.sockets.put_nowait(session)
        async for message in ws:
            assert message.type is WSMsgType.TEXT
        session.closed.set()
        return ws


class Socket:
    """One subscription."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws = ws
        self.closed = asyncio.Event()

    async def event(self, event: object) -> None:
        params = {"subscription": 77, "result": event}
        await self.ws.send_json({"jsonrpc": "2.0", "method": "store_changes", "params": params})

    async def invoice_event(self, payment_hash: bytes) -> None:
        row = {"payment_hash": f"0x{payment_hash.hex()}", "invoice_status": "Received"}
        await self.event({"PutCkbInvoiceStatus": row})


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/", node.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    node.url = f"http://{host}:{port}"
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    async with served(node):
        yield node


class ThreadedClient:
    """The sync client behind the async client's methods."""

    def __init__(self, url: str, **options) -> None:
        self._client = FiberRpcSyncClient(url, **options)

    def __repr__(self) -> str:
        return repr(self._client)

    async def call(self, call, *, timeout_ms=None):
        return await anyio.to_thread.run_sync(
            lambda: self._client.call(call, timeout_ms=timeout_ms)
        )

    async def aclose(self) -> None:
        self._client.close()


@pytest.fixture(params=[FiberRpcClient, ThreadedClient], ids=["async", "sync"])
async def connect(request: pytest.FixtureRequest):
    clients = []

    def make(url: str, **options):
        clients.append(request.param(url, **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def test_calls_share_a_connection_and_have_their_own_ids(node: Node, connect) -> None:
    client = connect(node.url, token="biscuit")
    for _ in range(3):
        assert (await client.call(QUERY)).fee == 3
    ids = [call["id"] for call in node.requests]
    assert len(set(ids)) == 3
    assert len(node.peers) == 1
    assert node.requests[0] == {
        "jsonrpc": "2.0", "id": ids[0], "method": "get_payment", "params": QUERY.params(),
    }  # fmt: skip
    for headers in node.headers:
        assert headers["Authorization"] == "Bearer biscuit"
        assert headers["Content-Type"] == "application/json"
        assert headers["Accept-Encoding"] == "identity"


async def test_without_a_token_no_authorisation_is_sent(node: Node, connect) -> None:
    await connect(node.url).call(QUERY)
    assert "Authorization" not in node.headers[0]


@pytest.mark.parametrize(
    "act",
    [
        abort,
        break_off,
        say(b"<html>"),
        say(b'{"jsonrpc":"2.0","id":999999,"result":null}'),
        say(b"busy", status=503),
        say(b"", status=302, headers={"Location": "http://127.0.0.1:1/"}),
        say(b"\x1f\x8b\x08garbage", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["abort", "break_off", "html", "wrong_id", "http_503", "redirect", "compressed"],
)
class TestBrokenAnswers:
    async def test_a_query_is_repeated(self, node: Node, connect, act: Act) -> None:
        node.script = [act, act]
        assert (await connect(node.url).call(QUERY)).fee == 3
        assert len(node.requests) == 3

    async def test_a_query_is_not_repeated_for_ever(self, node: Node, connect, act: Act) -> None:
        node.script = [act] * 10
        with pytest.raises(TransportError) as caught:
            await connect(node.url).call(QUERY)
        assert (caught.value.money, caught.value.code) == (Money.UNMOVED, "fiber_unavailable")
        assert len(node.requests) == 3

    async def test_a_payment_is_never_repeated(self, node: Node, connect, act: Act) -> None:
        node.script = [act]
        with pytest.raises(TransportError) as caught:
            await connect(node.url).call(SEND)
        assert (caught.value.money, caught.value.code) == (Money.UNKNOWN, "transport_error")
        assert len(node.requests) == 1


async def test_a_stale_connection_leaves_a_payment_open(node: Node, connect) -> None:
    client = connect(node.url)
    await client.call(QUERY)
    node.script = [abort]
    with pytest.raises(TransportError) as caught:
        await client.call(SEND)
    assert caught.value.money is Money.UNKNOWN


@pytest.mark.parametrize(("call", "money"), [(QUERY, Money.UNMOVED), (SEND, Money.UNKNOWN)])
async def test_a_slow_node_meets_the_deadline(node: Node, connect, call, money: Money) -> None:
    node.script = [hang] * 5
    with pytest.raises(TransportError, match="in time") as caught:
        await connect(node.url).call(call, timeout_ms=100)
    assert caught.value.money is money
    assert len(node.requests) == 1


@pytest.mark.parametrize(("call", "money"), [(QUERY, Money.UNMOVED), (SEND, Money.UNKNOWN)])
async def test_an_oversized_answer_is_cut_and_not_asked_for_again(
    node: Node, connect, call, money: Money
) -> None:
    node.script = [flood]
    client = connect(node.url, max_answer_bytes=100_000)
    with pytest.raises(RemoteProtocolError, match="over 100000 bytes") as caught:
        await client.call(call)
    assert caught.value.money is money
    assert len(node.requests) == 1


async def test_an_answer_of_exactly_the_limit_is_read(node: Node, connect) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": PAYMENT}).encode()
    node.script = [say(body)]
    assert (await connect(node.url, max_answer_bytes=len(body)).call(QUERY)).fee == 3


@pytest.mark.parametrize("call", [QUERY, SEND])
async def test_a_node_that_is_down_was_never_asked(connect, call) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TransportError, match="is it running") as caught:
        await connect(f"http://127.0.0.1:{port}").call(call)
    assert (caught.value.money, caught.value.code) == (Money.UNMOVED, "fiber_unavailable")


async def test_a_closed_client_sends_nothing(node: Node, connect) -> None:
    client = connect(node.url)
    await client.call(QUERY)
    await client.aclose()
    with pytest.raises(TransportError, match="closed") as caught:
        await client.call(SEND)
    assert caught.value.money is Money.UNMOVED
    assert len(node.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_our_set_up(node: Node, connect, status: int) -> None:
    node.script = [say(b"no", status=status)] * 5
    with pytest.raises(FiberUnauthorized) as caught:
        await connect(node.url).call(SEND)
    assert caught.value.money is Money.UNMOVED
    assert len(node.requests) == 1


async def test_an_error_answer_is_classified_and_not_repeated(node: Node, connect) -> None:
    error = {"code": -32000, "message": "InvalidParameter: Payment session not found: x"}
    node.script = [reply(error=error)] * 5
    with pytest.raises(PaymentNotFound):
        await connect(node.url).call(QUERY)
    assert len(node.requests) == 1


async def test_a_busy_node_is_asked_again_by_queries_only(node: Node, connect) -> None:
    busy = reply(error={"code": -32009, "message": "Server is busy"})
    client = connect(node.url)
    node.script = [busy]
    assert (await client.call(QUERY)).fee == 3
    node.script = [busy]
    with pytest.raises(TransportError) as caught:
        await client.call(SEND)
    assert caught.value.money is Money.UNMOVED


async def test_a_result_of_another_shape(node: Node, connect) -> None:
    node.script = [reply(result={"nothing": "useful"})]
    with pytest.raises(RemoteProtocolError) as caught:
        await connect(node.url).call(SEND)
    assert caught.value.money is Money.UNKNOWN


async def test_the_token_is_never_shown(
    node: Node, connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect(node.url, token="EpYBsecret")
    node.script = [abort, say(b"<html>")]
    with pytest.raises(InfernError) as caught:
        await client.call(SEND)
    await client.call(QUERY)
    shown = repr(client) + repr(caught.value) + repr(caught.value.__cause__) + caplog.text
    assert "EpYBsecret" not in shown


async def test_a_payment_that_got_no_connection_was_not_sent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fiber_rpc, "MAX_CONNECTIONS", 1)
    node.script = [hang]
    async with FiberRpcClient(node.url) as client:
        first = asyncio.create_task(client.call(SEND))
        while not node.requests:
            await asyncio.sleep(0)
        with pytest.raises(TransportError) as caught:
            await client.call(SEND, timeout_ms=50)
        assert caught.value.money is Money.UNMOVED
        assert len(node.requests) == 1
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


def test_the_sync_client_waits_by_sleeping() -> None:
    slept: list[float] = []
    with FiberRpcSyncClient("http://127.0.0.1:1", sleep=slept.append) as client:
        client.wait_change(HASH, timeout_ms=250)
    assert slept == [0.25]


# Store changes.

LONG_MS = 600_000
"""A wait that only an event can end before the test is killed."""


async def test_an_event_wakes_the_waiters_of_its_payment(node: Node) -> None:
    async with FiberRpcClient(node.url, token="biscuit") as client:
        first = await _subscribed(client, node)
        waits = [asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS)) for _ in "ab"]
        other = asyncio.create_task(client.wait_change(OTHER, timeout_ms=LONG_MS))
        await _settle()
        await first.invoice_event(HASH)
        await asyncio.gather(*waits)
        assert not other.done()
        await first.event({"PutPreimage": {"payment_hash": f"0x{OTHER.hex()}",
                                           "payment_preimage": "0x" + "ab" * 32}})  # fmt: skip
        await other
    assert node.headers[0]["Authorization"] == "Bearer biscuit"
    assert node.upgrades == 1


async def test_an_event_between_two_waits_is_not_lost(node: Node) -> None:
    async with FiberRpcClient(node.url) as client:
        first = await _subscribed(client, node)
        await first.invoice_event(HASH)
        await first.invoice_event(OTHER)
        await client.wait_change(OTHER, timeout_ms=LONG_MS)
        await client.wait_change(HASH, timeout_ms=LONG_MS)
        again = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
        await _settle()
        assert not again.done()
        await first.invoice_event(HASH)
        await again


async def test_without_an_event_a_wait_ends_by_time(node: Node) -> None:
    async with FiberRpcClient(node.url) as client:
        await _subscribed(client, node)
        await client.wait_change(HASH, timeout_ms=1)


async def test_calls_alone_open_no_subscription(node: Node) -> None:
    async with FiberRpcClient(node.url) as client:
        await client.call(QUERY)
    assert node.upgrades == 0


@pytest.mark.parametrize(
    "refusal",
    [{"code": -32999, "message": "Unauthorized"}, {"code": -32601, "message": "Method not found"},
     404, 405],
    ids=["unauthorised", "unknown", "http_404", "http_405"],
)  # fmt: skip
async def test_a_node_without_the_subscription_is_asked_once(node: Node, refusal) -> None:
    node.ws_refusals = [refusal] * 100
    async with FiberRpcClient(node.url) as client:
        await client.wait_change(HASH, timeout_ms=1)
        while client._feed is None or not client._feed._unsupported_until_s:
            await asyncio.sleep(0.001)
        for _ in range(5):
            await client.wait_change(HASH, timeout_ms=1)
    assert node.upgrades == 1


@pytest.mark.parametrize(
    "refusal", [{"code": -32000, "message": "odd"}, 500], ids=["odd_error", "http_500"]
)
async def test_a_node_that_stumbles_is_asked_again(node: Node, refusal) -> None:
    node.ws_refusals = [refusal]
    async with FiberRpcClient(node.url) as client:
        wait = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
        if isinstance(refusal, dict):
            await node.sockets.get()
        subscription = await node.sockets.get()
        await subscription.invoice_event(HASH)
        await wait
    assert node.upgrades == 2


@pytest.mark.parametrize("how", ["close", "abort", "garbage", "binary"])
async def test_a_broken_subscription_is_opened_again_and_everybody_looks(
    node: Node, how: str
) -> None:
    async with FiberRpcClient(node.url) as client:
        first = await _subscribed(client, node)
        waits = [
            asyncio.create_task(client.wait_change(payment_hash, timeout_ms=LONG_MS))
            for payment_hash in (HASH, OTHER)
        ]
        await _settle()
        match how:
            case "close":
                await first.ws.close()
            case "abort":
                transport = first.ws._req.transport
                transport.abort()
            case "garbage":
                await first.ws.send_str("{not json")
            case "binary":
                await first.ws.send_bytes(b"\x00")
        second = await node.sockets.get()
        await asyncio.gather(*waits)
        wait = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
        await _settle()
        await second.invoice_event(HASH)
        await wait
    assert node.upgrades == 2


async def test_events_nobody_knows_are_skipped(node: Node) -> None:
    async with FiberRpcClient(node.url) as client:
        first = await _subscribed(client, node)
        wait = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
        await _settle()
        for odd in (None, {}, {"PutMoon": 1}, {"PutPreimage": {}}, "x"):
            await first.event(odd)
        await first.ws.send_json({"jsonrpc": "2.0", "method": "other", "params": 5})
        await first.ws.send_json([1, 2])
        await first.invoice_event(HASH)
        await wait
    assert node.upgrades == 1


async def test_closing_ends_waits_and_the_subscription(node: Node) -> None:
    client = FiberRpcClient(node.url)
    first = await _subscribed(client, node)
    wait = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
    await _settle()
    await client.aclose()
    await wait
    await first.closed.wait()
    await client.wait_change(HASH, timeout_ms=LONG_MS)
    assert node.upgrades == 1


async def test_a_cancelled_wait_is_forgotten(node: Node) -> None:
    async with FiberRpcClient(node.url) as client:
        first = await _subscribed(client, node)
        wait = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
        await _settle()
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert client._feed is not None
        assert client._feed._waiters == {}
        await first.invoice_event(HASH)
        await client.wait_change(HASH, timeout_ms=LONG_MS)


async def test_what_is_remembered_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fiber_rpc, "MAX_UNSEEN", 3)
    monkeypatch.setattr(fiber_rpc, "MAX_WAITERS", 1)
    async with FiberRpcClient(node.url) as client:
        first = await _subscribed(client, node)
        for number in range(10):
            await first.invoice_event(bytes([number]) * 32)
        assert client._feed is not None
        while bytes([9]) * 32 not in client._feed._unseen:
            await asyncio.sleep(0.001)
        assert list(client._feed._unseen) == [bytes([n]) * 32 for n in (7, 8, 9)]
        wait = asyncio.create_task(client.wait_change(HASH, timeout_ms=LONG_MS))
        await _settle()
        await client.wait_change(OTHER, timeout_ms=1)
        assert list(client._feed._waiters) == [HASH]
        wait.cancel()


async def _subscribed(client: FiberRpcClient, node: Node) -> Socket:
    """Let the client subscribe; returns the node's side of it."""
    await client.wait_change(OTHER, timeout_ms=1)
    session = await node.sockets.get()
    feed = client._feed
    assert feed is not None
    # The client has read the answer once it took down its time limit for subscribing.
    await session.invoice_event(b"\x99" * 32)
    await client.wait_change(b"\x99" * 32, timeout_ms=LONG_MS)
    return session


async def _settle() -> None:
    """Let tasks that were just made reach their first wait."""
    for _ in range(5):
        await asyncio.sleep(0)
