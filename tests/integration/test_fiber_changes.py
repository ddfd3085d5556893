"""The async Fiber client's subscription to store changes: wake-ups, refusals, reconnects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web

from infern.adapters import fiber_rpc
from infern.adapters.fiber_rpc import FiberRpcClient
from infern.core.fiber.rpc import GetPayment
from infern.core.ids import PaymentHash

pytestmark = pytest.mark.timeout(120)

HASH = PaymentHash(b"\x11" * 32)
OTHER = PaymentHash(b"\x22" * 32)
LONG_MS = 600_000
"""A wait that only an event can end before the test is killed."""


class Node:
    """Takes subscriptions, or refuses them by a script; answers any call with a payment."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.sockets: asyncio.Queue[Socket] = asyncio.Queue()
        self.ws_refusals: list[int | dict] = []
        self.upgrades = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "upgrade" in request.headers.get("connection", "").lower():
            return await self._websocket(request)
        call = await request.json()
        payment = {
            "payment_hash": f"0x{HASH.hex()}", "status": "Created", "created_at": "0x1",
            "last_updated_at": "0x2", "failed_error": None, "fee": "0x3",
        }  # fmt: skip
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": payment})

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
        await client.call(GetPayment(payment_hash=HASH))
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
