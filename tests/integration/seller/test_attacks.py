"""Attacks that once worked, each named for what it tried."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from infern.adapters import http_protocol
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.cli.compose import asgi_server
from infern.core.wire.strict_json import dumps, loads_object
from infern.seller import accounts, pipeline, topups
from infern.testing.asgi import HttpClient

CHAT = "/v1/chat/completions"
RICH = 10**9
PATIENCE_S = 20


async def headers_seen(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the names of the headers that the request had."""
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await anyio.sleep(0)
    while (await receive()).get("more_body"):
        pass
    body = dumps({"names": [name.decode() for name, _ in scope["headers"]]})
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    started = anyio.Event()
    app: Any = headers_seen
    server = asgi_server(app, host="127.0.0.1", port=0, on_started=started.set)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True


async def rest_of(stream: anyio.abc.ByteStream) -> bytes:
    got = b""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                got += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return got


async def send_on_and_on(stream: anyio.abc.ByteStream, begin: bytes, more: bytes) -> None:
    with anyio.fail_after(PATIENCE_S):
        await stream.send(begin)
        for _ in range(100 * http_protocol.MAX_HEAD_BYTES // len(more)):
            await stream.send(more)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /x HTTP/1.1\r\n", b"x-a: " + b"a" * 1000 + b"\r\n"),
        (b"GET /x HTTP/1.1\r\nx-a: ", b"a" * 1000),
        (b"GET /", b"a" * 1000),
        (b"\r\n", b"\r\n" * 500),
        (b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x-a: 1\r\n" * 100),
        (b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;", b"a" * 1000),
    ],
)
async def test_endless_heads_trailers_and_chunk_framing_are_cut_off(
    begin: bytes, more: bytes
) -> None:
    async with listening() as port:
        stream = await anyio.connect_tcp("127.0.0.1", port)
        async with stream:
            with pytest.raises(anyio.BrokenResourceError):
                await send_on_and_on(stream, begin, more)


@pytest.mark.parametrize("begin", [b"", b"GET /x", b"GET /x HTTP/1.1\r\nx-a: b\r\n", b"\r\n"])
async def test_connections_that_fall_silent_before_a_request_are_ended(
    monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    async with listening() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(begin)
        assert await rest_of(stream) == b""


async def test_a_trailer_is_no_header_and_the_connection_goes_on() -> None:
    request = (
        b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n"
        b"authorization: Bearer smuggled\r\nx-forwarded-for: 192.0.2.1\r\n\r\n"
    )
    async with listening() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(2):
            await stream.send(request)
            got = b""
            with anyio.fail_after(PATIENCE_S):
                while not got.endswith(b"}"):
                    got += await stream.receive()
            names = loads_object(got.partition(b"\r\n\r\n")[2])["names"]
            assert names == ["host", "transfer-encoding"]


async def test_the_host_header_is_not_sent_back_as_a_place_to_go(world: Any) -> None:
    for method, path in (("POST", "/v1/f402/topups/"), ("GET", "/v1/f402/balance/")):
        got = await world.request(method, path, b"{}", {"host": "evil.example"})
        assert got.status == 404
        assert "location" not in got.headers


async def test_free_credentials_take_no_place_from_those_who_pay(make_world: Any) -> None:
    world = await make_world(limits={"open_requests": 2})
    rich, poor = await world.key(RICH), await world.key(0)
    body = world.body()
    proof = await world.proof(body)
    slow: list[HttpClient] = []
    async with anyio.create_task_group() as group:
        for headers in ({"key": poor}, {"proof": proof}):
            client = HttpClient()
            client.incoming.append({"type": "http.request", "body": b"{", "more_body": True})
            slow.append(client)

            async def never_ends(
                client: HttpClient = client, headers: dict[str, str] = headers
            ) -> None:
                await world.chat([], client=client, **headers)

            group.start_soon(never_ends)
        await anyio.wait_all_tasks_blocked()
        got = await world.chat(world.fresh_body(), key=rich)
        assert got.status == 200, got.body
        got = await world.chat(world.fresh_body(), key=poor)
        assert (got.status, got.error["code"]) == (503, "overloaded")
        for client in slow:
            client.leave.set()
    assert (await world.chat(body, proof=proof)).status == 200


@pytest.mark.parametrize(("target", "status"), [(CHAT, 402), ("/v1/f402/quote", 200)])
async def test_one_address_cannot_take_all_places_for_bodies(
    world: Any, monkeypatch: pytest.MonkeyPatch, target: str, status: int
) -> None:
    monkeypatch.setattr(pipeline, "BODIES_PER_ADDRESS", 1)
    monkeypatch.setattr(accounts, "BODIES_PER_ADDRESS", 1)
    world.reassemble()
    client = HttpClient()
    client.incoming.append({"type": "http.request", "body": b"{", "more_body": True})
    async with anyio.create_task_group() as group:

        async def never_ends() -> None:
            await world.request("POST", target, [], client=client)

        group.start_soon(never_ends)
        await anyio.wait_all_tasks_blocked()
        statuses = [
            (await world.request("POST", target, world.body(), address=address)).status
            for address in ("192.0.2.1", "192.0.2.2")
        ]
        assert statuses == [503, status]
        client.leave.set()
    assert (await world.request("POST", target, world.body())).status == status


async def test_a_key_without_money_sends_no_larger_bodies_than_anybody(make_world: Any) -> None:
    world = await make_world(limits={"anonymous_body_bytes": 2_000, "paid_body_bytes": 8_000})
    body = world.body("x" * 4_000)
    poor, rich = await world.key(0), await world.key(RICH)
    got = await world.chat(body, key=poor)
    assert (got.status, got.error["code"]) == (413, "request_too_large")
    assert (await world.chat(body, key=rich)).status == 200


async def test_forgetting_a_strangers_key_does_not_read_the_whole_history(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    async with SqliteLedger(path):
        pass
    db = sqlite3.connect(path)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    looked_up = 0
    for table in tables:
        for row in db.execute(f"PRAGMA foreign_key_list({table})").fetchall():
            plan = db.execute(
                f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {row[3]} = 'x'"
            ).fetchall()
            assert plan[0][3].startswith("SEARCH"), (table, row[3], plan)
            looked_up += 1
    db.close()
    assert looked_up >= 7


async def test_many_open_topups_hide_nobody_elses(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topups, "WATCHED", 1)
    monkeypatch.setattr(topups, "SWEEP_BATCH", 2)
    monkeypatch.setattr(topups, "SWEEP_MS", 1)
    world = await make_world(limits={"keys_per_minute": 100})
    made = []
    for _ in range(8):
        got = await world.request("POST", "/v1/f402/keys", b'{"amount":"50000"}')
        made.append(got.json())
    last = made[-1]
    paid = bytes.fromhex(last["topup"]["payment_hash"])
    world.payee.pay(paid)
    async with anyio.create_task_group() as group:
        group.start_soon(world.parts.topups.run)
        with anyio.fail_after(PATIENCE_S):
            while (await world.tab(last["api_key"])).deposited != 50_000:
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()


async def test_who_asks_about_a_paid_topup_need_not_wait_for_the_watch(world: Any) -> None:
    got = (await world.request("POST", "/v1/f402/keys", b'{"amount":"50000"}')).json()
    bearer = {"authorization": f"Bearer {got['api_key']}"}
    target = "/v1/f402/topups/" + got["topup"]["payment_hash"]
    assert (await world.request("GET", target, b"", bearer)).json()["status"] == "open"
    world.payee.pay(bytes.fromhex(got["topup"]["payment_hash"]))
    for _ in range(2):
        assert (await world.request("GET", target, b"", bearer)).json()["status"] == "paid"
    assert (await world.tab(got["api_key"])).deposited == 50_000


async def test_asking_whether_the_seller_is_ready_does_not_flood_the_model_server(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    answer = anyio.Event()

    async def ready() -> bool:
        nonlocal looks
        looks += 1
        await answer.wait()
        return True

    monkeypatch.setattr(world.parts.backend, "ready", ready)
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(world.request, "GET", "/ready")
        await anyio.wait_all_tasks_blocked()
        assert looks == 1
        answer.set()
    assert (await world.request("GET", "/ready")).status == 200
    assert looks == 2
