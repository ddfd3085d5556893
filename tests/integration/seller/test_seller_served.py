"""The seller on real sockets: uvicorn, an HTTP model server, the embedded Fiber network."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from aiohttp import web

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.model_http import HttpModelServer
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.cli.compose import asgi_server
from infern.core.errors import UpstreamUnavailable
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import parse_offer
from infern.core.f402.receipt import Finish, Receipt
from infern.core.fiber import rpc
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import RequestId
from infern.core.ledger.records import TopupState
from infern.devnet.fiber import NetworkSettings, serve, three_nodes
from infern.ports import UpstreamRequest
from infern.testing.scripted_model import DONE, answer, chunk, stream

PATIENCE_S = 60
CHAT = "/v1/chat/completions"


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """Look until there is something; only a failing test takes the whole time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        found = await look()
        if found:
            return found
        await asyncio.sleep(0.002)
    return pytest.fail("what must come did not come")


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An ASGI app behind the very server that the program uses."""
    started = asyncio.Event()
    server = asgi_server(app, host="127.0.0.1", port=0, on_started=started.set)
    task = asyncio.create_task(server.serve())
    await asyncio.wait([task, asyncio.ensure_future(started.wait())], return_when="FIRST_COMPLETED")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


class ModelApp:
    """A model server on aiohttp that answers as it is told, and notices who leaves."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.handler: Any = None
        self.gate = asyncio.Event()
        self.left = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.handler is not None:
            made: web.StreamResponse = await self.handler(request)
            return made
        if not body.get("stream"):
            return web.Response(body=answer(), content_type="application/json")
        return await self.stream(request, stream())

    async def stream(self, request: web.Request, pieces: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    async def words_for_ever(self, request: web.Request) -> web.StreamResponse:
        """Three words, then as many as are read, as a slow model would."""
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number in range(3):
                await response.write(chunk(f"w{number}"))
            await asyncio.Event().wait()
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        return response


@pytest.fixture
async def model_app() -> AsyncIterator[Any]:
    made = ModelApp()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"  # type: ignore[attr-defined] # for tests
    yield made
    await runner.cleanup()


class Counted(HttpModelServer):
    """The adapter, with the count of open replies the world's fixture asks for."""

    running = 0


@pytest.fixture
async def network() -> AsyncIterator[Any]:
    world = three_nodes(
        b"\x05" * 32,
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(speed=50),
    )
    async with serve(world.network) as endpoints:
        consumer = FiberRpcClient(endpoints.rpc_urls["consumer"])
        provider = FiberRpcClient(endpoints.rpc_urls["provider"])
        async with consumer, provider:
            yield {"consumer": consumer, "provider": provider, "world": world}


@pytest.fixture
async def live(make_world: Any, model_app: Any, network: Any) -> AsyncIterator[Any]:
    """A served seller on the embedded network in front of the aiohttp model server."""
    async with Counted(model_app.url, api_key="up-key", response_limit_bytes=10**9) as model:
        world = await make_world(
            model=model,
            fiber=network["provider"],
            pay_to=network["world"].provider.pubkey,
            limits={"proof_wait_ms": 10_000, "stall_timeout_ms": 300},
        )
        async with (
            served(world.app) as url,
            httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
        ):
            yield _Live(world, http, network, model_app, url)


class _Live:
    def __init__(self, world: Any, http: Any, network: Any, model: Any, url: str) -> None:
        self.world, self.http, self.network, self.model, self.url = (
            world, http, network, model, url,
        )  # fmt: skip

    async def pay(self, invoice: str) -> None:
        await self.network["consumer"].call(rpc.SendPayment(invoice=invoice))

    async def paid_proof(self, body: bytes) -> Any:
        got = await self.http.post(CHAT, content=body)
        assert got.status_code == 402, got.text
        offer = parse_offer(got.content, self.world.public_url + CHAT)
        assert offer is not None
        await self.pay(offer.invoice)
        return offer, {"payment-signature": proof_header(offer, preimage=None)}


async def test_a_stranger_pays_over_fiber_and_is_answered_with_a_receipt(live: Any) -> None:
    for streaming in (False, True):
        body = live.world.fresh_body(stream=streaming)
        offer, proof = await live.paid_proof(body)
        got = await live.http.post(CHAT, content=body, headers=proof)
        assert got.status_code == 200, got.text
        if streaming:
            before, _, rest = got.content.partition(b"\n: f402-receipt ")
            text = rest.split(b"\n")[0].decode()
            receipt = live.world.checked_receipt(text, body, before + b"\n")
            assert got.content.endswith(DONE)
        else:
            text = got.headers["f402-receipt"]
            receipt = live.world.checked_receipt(text, body, got.content)
        assert receipt.charged == live.world.cost(7, 5)
        assert receipt.payment_ref == offer.challenge.payment_hash
        again = await live.http.post(CHAT, content=body, headers=proof)
        assert (again.status_code, again.content) == (200, got.content)
        assert again.headers["f402-replayed"] == "true"
    assert len(live.model.requests) == 2
    assert {h["Authorization"] for h in live.model.headers} == {"Bearer up-key"}
    assert all("Payment-Signature" not in h for h in live.model.headers)


async def test_a_topup_is_credited_by_the_seller_alone_and_spent(live: Any) -> None:
    got = await live.http.post("/v1/f402/keys", json={"amount": "5000000"})
    made = got.json()
    headers = {"authorization": f"Bearer {made['api_key']}"}
    body = live.world.body()
    poor = await live.http.post(CHAT, content=body, headers=headers)
    assert poor.status_code == 402
    await live.pay(made["topup"]["invoice"])

    async def credited() -> Any:
        shown = (await live.http.get("/v1/f402/balance", headers=headers)).json()
        return shown if shown["balance"] != "0" else None

    assert (await until(credited))["balance"] == "5000000"
    got = await live.http.post(CHAT, content=body, headers=headers)
    assert got.status_code == 200
    assert int(got.headers["f402-balance"]) == 5_000_000 - live.world.cost(7, 5)


async def test_a_topup_paid_while_the_seller_was_away_is_credited_at_its_start(
    live: Any,
) -> None:
    """The payment happens between two lives of the seller."""
    world = live.world
    key = await world.key(0)
    got = await world.request(
        "POST", "/v1/f402/topups", b'{"amount":"60000"}', {"authorization": f"Bearer {key}"}
    )
    topup = got.json()
    world.ledger.close()
    await live.pay(topup["invoice"])
    paid = rpc.GetInvoice(payment_hash=bytes.fromhex(topup["payment_hash"]))  # type: ignore[arg-type] # JSON

    async def is_paid() -> bool:
        record = await live.network["provider"].call(paid)
        return bool(record.status is InvoiceStatus.PAID)

    await until(is_paid)
    await world.start()
    async with served(world.app):

        async def credited() -> bool:
            stored = await world.ledger.topup(bytes.fromhex(topup["payment_hash"]))
            return bool(stored.state is TopupState.PAID)

        await until(credited)
    assert (await world.tab(key)).balance == 60_000


async def raw_request(url: str, body: bytes, key: str) -> tuple[Any, Any]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return reader, writer


async def test_abuse_20_a_closed_socket_stops_the_model_and_is_charged_for_what_went_out(
    live: Any,
) -> None:
    world = live.world
    key = await world.key(10_000_000)
    live.model.handler = live.model.words_for_ever
    body = world.body(stream=True)
    reader, writer = await raw_request(live.url, body, key)
    head = await reader.readuntil(b"\r\n\r\n")
    request_id = next(
        line.split(b": ")[1].decode()
        for line in head.split(b"\r\n")
        if line.startswith(b"x-request-id")
    )
    await reader.readuntil(b'"w2"')
    assert await world.open_holds() == 1
    writer.transport.abort()

    async def ended() -> bool:
        return await world.open_holds() == 0

    await until(ended)
    stored = await world.ledger.receipt(RequestId(request_id))
    assert stored is not None
    assert 0 < stored.charged == await world.spent() <= world.cost(40, 3)

    async def upstream_left() -> bool:
        return bool(live.model.left == 1)

    await until(upstream_left)


async def test_abuse_21_a_socket_nobody_reads_is_cut_off(live: Any) -> None:
    world = live.world
    key = await world.key(10**10)
    big = chunk("x" * 60_000)

    async def flood(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await live.model.stream(request, [chunk("first")])
        for _ in range(2_000):
            await response.write(big)
        return response

    live.model.handler = flood
    world.models = tuple(
        replace(model, limits=replace(model.limits, **WIDE)) for model in world.models
    )
    world.reassemble()
    async with served(world.app) as url:
        reader, writer = await raw_request(url, world.body(stream=True, max_tokens=2_000_000), key)
        await reader.readuntil(b'"first"')

        async def cut_off() -> bool:
            return await world.open_holds() == 0

        await until(cut_off)
        writer.transport.abort()
    (tab,) = [tab for tab in (await world.ledger.books()).tabs if tab.spent]
    (row,) = await world.ledger.receipts(tab.tab_id, after=None, limit=9)
    assert Receipt.unpack(row.packed).finish is Finish.CLIENT_LEFT
    assert 0 < row.charged < 10**9


WIDE: Any = {"context_tokens": 4_000_000, "max_completion_tokens": 3_000_000}


async def send(model: Any, path: str = "/chat/completions") -> Any:
    return await model.send(UpstreamRequest(method="POST", path=path, body=b"{}", headers={}))


async def read_all(reply: Any) -> bytes:
    parts = []
    while data := await reply.read():
        parts.append(data)
    return b"".join(parts)


async def whole_answer(model: Any) -> bytes:
    reply = await send(model)
    try:
        return await read_all(reply)
    finally:
        await reply.aclose()


async def raw_server(reply: bytes, *, close: bool = True) -> Any:
    """A server that answers every connection with these bytes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        if not close:
            await reader.read()
        writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_a_model_server_that_breaks_http_is_unavailable(reply: bytes) -> None:
    server = await raw_server(reply)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with HttpModelServer(url, response_limit_bytes=1_000) as model:
        with pytest.raises(UpstreamUnavailable):
            await whole_answer(model)
    server.close()
    await server.wait_closed()


async def test_a_redirect_is_not_followed_and_a_reply_is_read_as_it_is() -> None:
    server = await raw_server(
        b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\n"
        b"content-type: Text/HTML; charset=x\r\ncontent-length: 2\r\n\r\nok"
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with HttpModelServer(url, response_limit_bytes=1_000) as model:
        reply = await send(model)
        assert (reply.status, reply.content_type) == (307, "text/html")
        assert await read_all(reply) == b"ok"
        await reply.aclose()
        assert "HttpModelServer" in repr(model)
    server.close()
    await server.wait_closed()


async def test_nobody_there_is_unavailable_and_a_closed_client_too() -> None:
    server = await raw_server(b"")
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    model = HttpModelServer(f"http://127.0.0.1:{port}", response_limit_bytes=10)
    with pytest.raises(UpstreamUnavailable):
        await send(model)
    async with model:
        with pytest.raises(UpstreamUnavailable):
            await send(model)


async def test_a_cancelled_read_loses_no_bytes(model_app: Any) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await first.wait()
        await response.write(b"one")
        await second.wait()
        await response.write(b"two")
        return response

    model_app.handler = slowly
    async with HttpModelServer(model_app.url, response_limit_bytes=1_000) as model:
        reply = await send(model)
        for gate in (first, second):
            task = asyncio.create_task(reply.read())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gate.set()
        assert await read_all(reply) == b"onetwo"
        await reply.aclose()
