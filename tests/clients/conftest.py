"""A provider behind a loopback proxy that breaks the paid leg, for clients nobody here wrote.

The provider's public URL is the proxy's, so that realm and digest are right. A client says in
`x-test-need` which need a request belongs to and in `x-test-fault` what shall happen to it; both
are only read here. What was paid is asked of the consumer's node, what was charged of the
seller's ledger, per need, so that many needs can run side by side.
"""

import asyncio
import json
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.cli.compose import embedded_fiber
from infern.cli.demo_world import CONFIG, MODEL, ProviderProcess, free_port
from infern.core.fiber.rpc_payments import ListPayments, SendPayment
from infern.core.fiber.types import PaymentStatus
from infern.core.ledger.books import violations
from infern.testing.one_address import ONE_ADDRESS_LIMITS

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "host"}
PROOFS = {"payment-signature", "payment-authorization"}


class Fault(StrEnum):
    """What happens to the first answer to a need's proof or key, or to all of them."""

    NONE = "none"
    UNAVAILABLE = "503, once"
    UNAVAILABLE_LONG = "503, as often as a client of ours repeats by itself"
    LOST = "an answer that breaks off, once: it was made and charged"
    HANG = "no answer, once: the client's own time is over"
    REJECTED = "402 for the proof, until the client comes again"
    ANEW = "402 with a fresh challenge, until the client comes again"


LONG = 6


@dataclass
class FaultProxy:
    """An ASGI application between the clients and the provider."""

    upstream: str
    offered: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    proofs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    client: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        need = headers.pop("x-test-need", "")
        fault = Fault[headers.pop("x-test-fault", "NONE")]
        carries = bool(PROOFS & headers.keys()) or headers.get("authorization", "").startswith(
            ("Payment ", "Bearer inf_sk_")
        )
        if not carries:
            self.asked[need] += 1
        elif await self._breaks(need, fault, receive, send, (scope, headers, body)):
            return
        await self._forward(need, scope, headers, body, send)

    async def _breaks(self, need: str, fault: Fault, receive: Any, send: Any, ask: Any) -> bool:
        self.proofs[need] += 1
        turn = self.proofs[need]
        if turn <= {Fault.UNAVAILABLE: 1, Fault.UNAVAILABLE_LONG: LONG}.get(fault, 0):
            await answer(send, 503, b'{"error":{"message":"upstream away"}}')
        elif fault is Fault.HANG and turn == 1:
            while (await receive())["type"] != "http.disconnect":
                pass
        elif fault is Fault.LOST and turn == 1:
            scope, headers, body = ask
            await self._forward(need, scope, headers, body, Half(send))
        elif fault is Fault.REJECTED:
            await answer(send, 402, b'{"error":{"message":"no","code":"invalid_challenge"}}')
        elif fault is Fault.ANEW:
            scope, headers, body = ask
            unpaid = {k: v for k, v in headers.items() if k not in {*PROOFS, "authorization"}}
            await self._forward(need, scope, unpaid, body, send)
        else:
            return False
        return True

    async def _forward(self, need: str, scope: Any, headers: Any, body: bytes, send: Any) -> None:
        query = scope["query_string"].decode()
        url = self.upstream + scope["path"] + (f"?{query}" if query else "")
        kept = {k: v for k, v in headers.items() if k not in HOP_BY_HOP}
        request = self.client.build_request(scope["method"], url, headers=kept, content=body)
        response = await self.client.send(request, stream=True)
        try:
            raw = [(k.lower(), v) for k, v in response.headers.raw]
            raw = [(k, v) for k, v in raw if k.decode() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status_code,
                        "headers": raw})  # fmt: skip
            text = b""
            async for chunk in response.aiter_raw():
                text += chunk if response.status_code == 402 else b""
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if response.status_code == 402:
                offer = json.loads(text)["error"].get("f402", {})
                if offer.get("payment_hash"):
                    self.offered[need].add(offer["payment_hash"])
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


class Half:
    """Passes on half of an answer; the server ends the connection of one that is not complete."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._body = b""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
            return
        self._body += message["body"]
        if not message.get("more_body", False):
            half = self._body[: len(self._body) // 2]
            await self._send({"type": "http.response.body", "body": half, "more_body": True})


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class FaultWorld:
    """The world, for blocking tests."""

    base_url: str
    rpc_url: str
    proxy: FaultProxy
    node: Any
    ledger: Path
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def paid(self, need: str) -> int:
        """How many payments for this need left the consumer's node."""
        offered = {bytes.fromhex(text) for text in self.proxy.offered[need]}
        return sum(
            payment.status is PaymentStatus.SUCCESS
            for payment in self.run(self._payments())
            if payment.payment_hash in offered
        )

    async def _payments(self) -> list[Any]:
        found: list[Any] = []
        cursor = None
        while True:
            page = await self.node.call(ListPayments(limit=50, after=cursor))
            found += page.payments
            cursor = page.last_cursor
            if len(page.payments) < 50:
                return found

    async def key(self, amount: int) -> str:
        """A prepaid key with this balance, paid by the consumer's node."""
        async with httpx2.AsyncClient(base_url=self.base_url, timeout=60) as http:
            wish = {"amount": str(amount)} if amount else {}
            made = (await http.post("/f402/keys", json=wish)).json()
            if amount:
                await self.node.call(SendPayment(invoice=made["topup"]["invoice"]))
            headers = {"authorization": f"Bearer {made['api_key']}"}
            async with asyncio.timeout(60):
                while True:
                    books = (await http.get("/f402/balance", headers=headers)).json()
                    if int(books["balance"]) == amount:
                        return str(made["api_key"])
                    await asyncio.sleep(0.02)

    def charges(self, need: str) -> int:
        """How many answers to this need the seller charged for."""
        with sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True) as books:
            rows = books.execute("SELECT payment_hash FROM receipts").fetchall()
        charged = {bytes(row[0]).hex() for row in rows if row[0] is not None}
        return sum(text in charged for text in self.proxy.offered[need])


@asynccontextmanager
async def _fault_world(root: Path) -> AsyncIterator[FaultWorld]:
    async with AsyncExitStack() as stack:
        endpoints = await stack.enter_async_context(embedded_fiber(os.urandom(32)))
        port, public = free_port(), free_port()
        home, config = root / "seller", root / "provider.toml"
        home.mkdir()
        text = CONFIG.format(
            port=port,
            rpc_url=endpoints.rpc_urls["provider"],
            upstream="",
            model=MODEL,
            upstream_name=MODEL,
        )
        text = text.replace(f'public_url = "http://127.0.0.1:{port}"',
                            f'public_url = "http://127.0.0.1:{public}"')  # fmt: skip
        config.write_text(text + ONE_ADDRESS_LIMITS, "utf-8")
        provider = ProviderProcess(home, config, f"http://127.0.0.1:{port}")
        stack.callback(provider.stop)
        await provider.start()
        proxy = FaultProxy(provider.url)
        proxy.client = await stack.enter_async_context(httpx2.AsyncClient(timeout=60))
        server = uvicorn.Server(
            uvicorn.Config(proxy, port=public, log_level="critical", lifespan="off")
        )
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        node = await stack.enter_async_context(FiberRpcClient(endpoints.rpc_urls["consumer"]))
        ledger = home / "provider" / "ledger.sqlite3"
        yield FaultWorld(
            base_url=f"http://127.0.0.1:{public}/v1",
            rpc_url=endpoints.rpc_urls["consumer"],
            proxy=proxy,
            node=node,
            ledger=ledger,
            loop=asyncio.get_running_loop(),
        )
        server.should_exit = True
        await serving
        provider.stop()
        books = await provider.books()
        assert violations(books) == []
        assert books.holds == ()


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultWorld]:
    """One provider behind one breaking proxy for all payment clients."""
    ready: Future[FaultWorld] = Future()
    loop = asyncio.new_event_loop()
    stop: asyncio.Event

    async def main() -> None:
        nonlocal stop
        stop = asyncio.Event()
        try:
            async with _fault_world(tmp_path_factory.mktemp("faulty")) as world:
                ready.set_result(world)
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    ended: Future[None] = Future()

    def run() -> None:
        try:
            loop.run_until_complete(main())
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    yield ready.result(90)
    loop.call_soon_threadsafe(stop.set)
    # Also where the books did not add up.
    ended.result(60)
    loop.close()
