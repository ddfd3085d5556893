"""Both Fiber clients against a node that is slow, breaks off, floods and lies."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio.to_thread
import pytest
from aiohttp import web

from infern.adapters import fiber_rpc
from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.fiber_rpc_sync import FiberRpcSyncClient
from infern.core.errors import InfernError, Money, RemoteProtocolError, TransportError
from infern.core.fiber.errors import FiberUnauthorized, PaymentNotFound
from infern.core.fiber.rpc import GetPayment, SendPayment
from infern.core.ids import PaymentHash

HASH = PaymentHash(b"\x11" * 32)
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
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = await request.json()
        self.requests.append(call)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        act = self.script.pop(0) if self.script else answer
        return await act(request, call)


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
