"""Under attack on real sockets: clear refusals, every place and byte given back, payers served.

`benchmarks/overload.py` measures the same attacks with large numbers; here are small ones.
"""

import asyncio
import contextlib
import gc
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import pytest

from infern.adapters import http_protocol
from infern.adapters.model_http import PIECE_BYTES, HttpModelServer
from infern.cli.compose import asgi_server
from infern.ports import UpstreamRequest
from infern.seller.limits import SMALL_BYTES
from infern.testing.scripted_model import Script, Step, answer, chunk

CHAT = "/v1/chat/completions"
RICH = 10**9
PATIENCE_S = 30
PLACES = 8


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """An application behind the server that the program uses; gives its port."""
    started = anyio.Event()
    server = asgi_server(app, host="127.0.0.1", port=0, on_started=started.set)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True


class Connection:
    """One connection from an address of loopback."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._socket = socket.socket()
        self._socket.settimeout(0)
        self._socket.bind((address, 0))
        self._port = port
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        """Send, whether or not anybody still wants it."""
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """The next bytes; none at the end."""
        try:
            return await self._loop.sock_recv(self._socket, 65_536)
        except OSError:
            return b""

    async def answer(self) -> tuple[int, str]:
        """Status and error code of one whole answer."""
        got = b""
        with anyio.fail_after(PATIENCE_S):
            while not _is_whole(got):
                piece = await self.receive()
                if not piece:
                    break
                got += piece
        code = re.search(rb'"code":"([a-z_]+)"', got)
        return int(got.split(b" ", 2)[1]) if got else 0, code[1].decode() if code else ""


def _is_whole(got: bytes) -> bool:
    head, end, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    if not end:
        return False
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def head(body_bytes: int | None, **headers: str) -> bytes:
    """A POST's head; None is a chunked body."""
    length = "transfer-encoding: chunked"
    if body_bytes is not None:
        length = f"content-length: {body_bytes}"
    more = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"POST {CHAT} HTTP/1.1", "host: a", length, *more, "", ""]).encode()


def whole(body: bytes, **headers: str) -> bytes:
    """A whole request."""
    return head(len(body), **headers) + body


async def until(look: Callable[[], Any]) -> None:
    """Look until it is so; only a failing test takes the whole time."""
    with anyio.fail_after(PATIENCE_S):
        while not look():
            await anyio.sleep(0.001)


def is_at_rest(world: Any) -> bool:
    """Whether every place is free and every byte given back."""
    pipeline = world.app._pipeline
    slots = (pipeline._paid, pipeline._unpaid, pipeline._strangers)
    return (
        all(slot.used == 0 for slot in slots)
        and not pipeline._strangers_by_address._used
        and pipeline._buffered._left == world.limits.buffered_bytes
    )


async def served_a_payer(world: Any, port: int, key: str) -> bool:
    async with Connection(port) as connection:
        await connection.send(whole(world.fresh_body(), authorization=f"Bearer {key}"))
        return await connection.answer() == (200, "")


NESTED = b"[" * 250_000
BOMB = {"x_bomb": "a" * 40_000}
MANY = {f"x_{number}": "a" for number in range(1_000)}


@pytest.mark.parametrize(
    ("wire", "refusal"),
    [
        (whole(NESTED), (400, "invalid_request")),
        (whole(b'{"a":' * 40_000), (400, "invalid_request")),
        (whole(b'{"a":[' + b"{}," * 80_000), (400, "invalid_request")),
        (head(8 * 1024 * 1024), (413, "request_too_large")),
        (head(10**14), (413, "request_too_large")),
        (head(None) + b"40000\r\n" + b" " * 0x40000 + b"\r\n1\r\n ", (413, "request_too_large")),
        (head(1_000, content_encoding="gzip"), (415, "unsupported_encoding")),
        (whole(b"", **BOMB), (431, "headers_too_large")),
        (whole(b"", **MANY), (431, "headers_too_large")),
        (head(1_000), (408, "request_timeout")),
        (head(None), (408, "request_timeout")),
    ],
    ids=range(11),
)
async def test_an_attack_is_refused_clearly_and_leaves_nothing_behind(
    make_world: Any, wire: bytes, refusal: tuple[int, str]
) -> None:
    timeout_ms = 50 if refusal[0] == 408 else PATIENCE_S * 1000
    world = await make_world(limits={"body_timeout_ms": timeout_ms})
    key = await world.key(RICH)
    async with listening(world.app) as port:
        async with Connection(port) as connection:
            await connection.send(wire)
            assert await connection.answer() == refusal
        await until(lambda: is_at_rest(world))
        assert await served_a_payer(world, port, key)
    assert world.payee.calls == []


@pytest.mark.parametrize("limit", [{"HEAD_TIMEOUT_S": 0.05}, {"MAX_IGNORED_BYTES": 100_000}])
async def test_a_body_without_end_is_refused_and_its_connection_ended(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]
) -> None:
    """Whoever goes on sending after the refusal would otherwise keep us reading for ever."""
    for name, value in limit.items():
        monkeypatch.setattr(http_protocol, name, value)
    world = await make_world(limits={"body_timeout_ms": 60_000})
    piece = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    async with listening(world.app) as port, Connection(port) as connection:
        await connection.send(head(None))
        ended = anyio.Event()

        async def send_on_and_on() -> None:
            while not ended.is_set():
                await connection.send(piece)
                await anyio.sleep(0)

        async with anyio.create_task_group() as group:
            group.start_soon(send_on_and_on)
            assert await connection.answer() == (413, "request_too_large")
            with anyio.fail_after(PATIENCE_S):
                while await connection.receive():
                    pass
            ended.set()
        await until(lambda: is_at_rest(world))


async def test_strangers_from_many_addresses_fill_their_own_places_only(make_world: Any) -> None:
    world = await make_world(limits={"open_requests": PLACES, "body_timeout_ms": 60_000})
    key = await world.key(RICH)
    async with listening(world.app) as port, contextlib.AsyncExitStack() as stack:
        slow = [
            await stack.enter_async_context(Connection(port, f"127.0.0.{2 + at}"))
            for at in range(PLACES)
        ]
        for connection in slow:
            await connection.send(head(100) + b" ")
        await until(lambda: world.app._pipeline._strangers.used == PLACES)
        for at in range(PLACES):
            async with Connection(port, f"127.0.1.{2 + at}") as one_more:
                await one_more.send(head(100) + b" ")
                assert await one_more.answer() == (503, "overloaded")
        assert await served_a_payer(world, port, key)
        assert world.app._pipeline._strangers.used == PLACES
        for connection in slow:
            await connection.send(b" " * 99)
            assert await connection.answer() == (400, "invalid_request")
        await until(lambda: is_at_rest(world))


class SlowNode:
    """A Fiber node that answers no earlier than it is told."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.gate = anyio.Event()

    async def call(self, call: Any, *, timeout_ms: int | None = None) -> Any:
        await self.gate.wait()
        return await self._node.call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        await self._node.wait_change(payment_hash, timeout_ms=timeout_ms)


async def test_a_flood_of_unpaid_requests_waits_for_the_node_in_bounded_places(
    make_world: Any,
) -> None:
    world = await make_world(limits={"open_unpaid": 2})
    key = await world.key(RICH)
    node = world.fiber = SlowNode(world.payee)
    world.reassemble()
    async with listening(world.app) as port, contextlib.AsyncExitStack() as stack:
        asked = [
            await stack.enter_async_context(Connection(port, f"127.0.0.{2 + at}"))
            for at in range(2)
        ]
        for connection in asked:
            await connection.send(whole(world.fresh_body()))
        await until(lambda: world.app._pipeline._unpaid.used == 2)
        async with Connection(port, "127.0.0.9") as one_more:
            await one_more.send(whole(world.fresh_body()))
            assert await one_more.answer() == (503, "overloaded")
        assert await served_a_payer(world, port, key)
        node.gate.set()
        for connection in asked:
            assert await connection.answer() == (402, "payment_required")
        await until(lambda: is_at_rest(world))


async def test_whole_answers_and_bodies_share_one_memory(make_world: Any) -> None:
    """Each answer is within its limit; all together must be within the memory there is."""
    half = answer("x" * 130_000)
    two = 2 * (len(half) - SMALL_BYTES) + 2_000
    world = await make_world(limits={"buffered_bytes": two, "idle_timeout_ms": 60_000})
    key = await world.key(RICH)
    gates = [anyio.Event() for _ in range(3)]
    world.model.plan.extend(Script(steps=[half[:-1], gate, half[-1:]]) for gate in gates)
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(world.fresh_body(), key=key))

    async with anyio.create_task_group() as group:
        for _ in gates:
            group.start_soon(ask)
        await until(lambda: len(got) == 1)
        world.model.plan.append(Script(steps=[answer("small")]))
        assert (await world.chat(world.fresh_body(), key=key)).status == 200
        for gate in gates:
            gate.set()
    assert [one.status for one in got] == [503, 200, 200]
    error = got[0].error
    assert (error["code"], error["money"]) == ("overloaded", "unmoved")
    assert is_at_rest(world)
    assert await world.spent() == 3 * world.cost(7, 5)


Writing = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def model_server(write: Writing) -> AsyncIterator[str]:
    """A model server that reads a head and then writes what it likes; ends when nobody listens."""
    ended: list[bool] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await write(writer)
        except OSError:
            ended.append(True)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await until(lambda: ended)


def framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def for_ever(kind: str, begin: bytes, piece: bytes) -> Writing:
    async def write(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode() + framed(begin))
        while True:
            writer.write(framed(piece))
            await writer.drain()
            await asyncio.sleep(0)  # a drain that need not wait gives nobody a turn

    return write


class Counted(HttpModelServer):
    """The adapter, with the count of open replies the world's fixture asks for."""

    running = 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "line"])
async def test_failed_answers_leave_their_memory_at_once(make_world: Any, stream: bool) -> None:
    """Without a garbage collection, which comes late and all at once."""
    kind, begin = ("text/event-stream", b"data: ") if stream else ("application/json", b'{"a":"')
    write, limit = for_ever(kind, begin, b"x" * 60_000), 10**6
    async with model_server(write) as url, Counted(url, response_limit_bytes=limit) as model:
        world = await make_world(model=model, limits={"total_timeout_ms": PATIENCE_S * 1000})
        key = await world.key(RICH)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            kept: list[int] = []
            for _ in range(8):
                got = await world.chat(world.fresh_body(stream=stream), key=key)
                assert got.status == (200 if stream else 502)
                await until(lambda: is_at_rest(world))
                kept.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept[-1] - kept[0] < 2 * limit


@pytest.mark.parametrize(
    ("stream", "write", "code", "charged"),
    [
        (False, for_ever("application/json", b'{"a":"', b"x" * 60_000), "provider_failed", 0),
        (True, for_ever("text/event-stream", b"data: ", b"x" * 60_000), "provider_failed", 0),
        (
            True,
            for_ever("text/event-stream", b": hi\n\n", 100 * chunk("word")),
            "stream_interrupted",
            1,
        ),
        (
            True,
            for_ever("text/event-stream", b": hi\n\n", 1_000 * b": ho\n\n"),
            "provider_timeout",
            0,
        ),
    ],
    ids=["plain", "line", "words", "comments"],
)
async def test_a_model_server_that_never_ends_is_cut_off_and_never_overcharged(
    make_world: Any, stream: bool, write: Writing, code: str, charged: int
) -> None:
    async with model_server(write) as url, Counted(url, response_limit_bytes=10**6) as model:
        timeout_ms = 500 if code == "provider_timeout" else PATIENCE_S * 1000
        world = await make_world(model=model, limits={"total_timeout_ms": timeout_ms})
        key = await world.key(RICH)
        async with listening(world.app) as port, Connection(port) as connection:
            body = world.fresh_body(stream=stream)
            await connection.send(whole(body, authorization=f"Bearer {key}"))
            status, said = await connection.answer()
        assert said == code
        assert status == (200 if stream else 502)
        await until(lambda: is_at_rest(world))
        assert bool(await world.spent()) == bool(charged)
        assert await world.spent() <= await world.quote(body)


async def test_a_fast_model_server_keeps_nobody_else_waiting() -> None:
    """Between two full reads of what is here already, everybody else gets a turn."""
    data = b"x" * (20 * PIECE_BYTES)

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()
        raise ConnectionResetError

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with model_server(write) as url, HttpModelServer(url, response_limit_bytes=10**6) as it:
        request = UpstreamRequest(method="POST", path="/x", body=b"{}", headers={})
        reply = await it.send(request)
        got = [await reply.read()]
        async with anyio.create_task_group() as group:
            group.start_soon(others)
            while piece := await reply.read():
                got.append(piece)
                assert len(piece) <= PIECE_BYTES
            full = sum(len(piece) == PIECE_BYTES for piece in got)
            assert turns >= full - 1
            group.cancel_scope.cancel()
        await reply.aclose()
    assert b"".join(got) == data


async def test_a_silent_model_server_costs_nothing_and_frees_its_place(make_world: Any) -> None:
    world = await make_world(limits={"first_byte_timeout_ms": 30, "open_requests": 2})
    key = await world.key(RICH)
    world.model.plan.extend(Script(before=Step.HANG) for _ in range(2))
    async with listening(world.app) as port, contextlib.AsyncExitStack() as stack:
        asked = [await stack.enter_async_context(Connection(port)) for _ in range(2)]
        for connection in asked:
            await connection.send(whole(world.fresh_body(), authorization=f"Bearer {key}"))
        for connection in asked:
            assert await connection.answer() == (504, "provider_timeout")
        await until(lambda: is_at_rest(world))
        assert await world.spent() == 0
        assert await served_a_payer(world, port, key)


async def test_who_sends_a_refused_body_to_its_end_reads_why_and_goes_on(make_world: Any) -> None:
    world = await make_world(limits={"body_timeout_ms": 60_000})
    key = await world.key(RICH)
    async with listening(world.app) as port, Connection(port) as connection:
        size = world.limits.paid_body_bytes
        await connection.send(whole(b" " * size))
        assert await connection.answer() == (413, "request_too_large")
        await connection.send(whole(world.fresh_body(), authorization=f"Bearer {key}"))
        assert await connection.answer() == (200, "")


async def test_the_kernel_keeps_little_for_a_client_that_does_not_read(world: Any) -> None:
    """Left to itself it keeps megabytes for each, which no limit of a process counts."""
    started = anyio.Event()
    server = asgi_server(world.app, host="127.0.0.1", port=0, on_started=started.set)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        await started.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with Connection(port):
            await until(lambda: server.server_state.connections)
            (protocol,) = server.server_state.connections
            kept = protocol.transport.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF
            )
            # The kernel doubles what it is told, for its own bookkeeping.
            assert kept <= 2 * http_protocol.SEND_BUFFER_BYTES
        server.should_exit = True
