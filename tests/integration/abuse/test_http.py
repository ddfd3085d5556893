"""Bombs, in memory and on a real socket: refused before they are read, held or minted for.

Numbers are those of `docs/abuse-cases.md`.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest

from infern.adapters import http_protocol
from infern.cli.compose import asgi_server
from infern.core.wire.strict_json import loads_object

pytestmark = pytest.mark.timeout(60)

CHAT = "/v1/chat/completions"
PATIENCE_S = 20
BALANCE = 10_000_000
MB = 1_000_000


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """The server that the program uses."""
    started = asyncio.Event()
    server = asgi_server(app, host="127.0.0.1", port=0, on_started=started.set)
    task = asyncio.create_task(server.serve())
    await asyncio.wait([task, asyncio.ensure_future(started.wait())], return_when="FIRST_COMPLETED")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Sender:
    """A socket that sends what it is told, and notices when nobody takes it any more."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent = 0

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, data: bytes) -> bool:
        """False when the other side has closed."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                await self._writer.drain()
        except ConnectionError:
            return False
        self.sent += len(data)
        return not self._reader.at_eof()

    async def send_until_refused(self, piece: bytes, limit_bytes: int) -> None:
        """Send and send, until somebody answers or closes."""
        while self.sent < limit_bytes and await self.send(piece):
            if self._reader._buffer:  # type: ignore[attr-defined] # an answer came
                return
            await asyncio.sleep(0)

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and error of the answer."""
        head, _, body = (await self.all_that_comes()).partition(b"\r\n\r\n")
        assert head, "no answer came"
        error = loads_object(body)["error"]
        assert isinstance(error, dict)
        return int(head.split()[1]), error

    async def all_that_comes(self) -> bytes:
        """Up to the end of an error, or until the other side closes."""
        got = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while b"\r\n\r\n" not in got or not got.rstrip().endswith(b"}"):
                    piece = await self._reader.read(65_536)
                    if not piece:
                        break
                    got += piece
        except ConnectionError:
            pass
        return got


def head(length: int | None, *more: str) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"POST {CHAT} HTTP/1.1", "host: seller.test", framing, *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def is_served(world: Any, port: int) -> None:
    """Nothing was minted, held or run, and the next one is answered."""
    assert world.payee.calls == []
    assert world.model.requests == []
    assert (await world.ledger.books()).tabs == ()
    async with Sender(port) as honest:
        body = world.body()
        await honest.send(head(len(body)) + body)
        status, error = await honest.answer()
        assert (status, error["code"]) == (402, "payment_required")


async def test_abuse_31_a_large_body_is_refused_before_it_is_read(world: Any) -> None:
    async with served(world.app) as port:
        async with Sender(port) as sender:
            await sender.send(head(8 * MB))
            await sender.send_until_refused(b" " * 65_536, 8 * MB)
            status, error = await sender.answer()
        assert (status, error["code"]) == (413, "request_too_large")
        # What the kernel's buffers took; no more than the first of it was read.
        assert sender.sent < 8 * MB
        await is_served(world, port)


async def test_abuse_31_a_chunked_body_without_end_is_cut_off(world: Any) -> None:
    async with served(world.app) as port:
        async with Sender(port) as sender:
            await sender.send(head(None))
            piece = b"%x\r\n" % 65_536 + b" " * 65_536 + b"\r\n"
            await sender.send_until_refused(piece, 100 * MB)
            status, error = await sender.answer()
        assert (status, error["code"]) == (413, "request_too_large")
        assert sender.sent < 100 * MB
        await is_served(world, port)


async def test_abuse_31_a_body_that_drips_is_given_up(make_world: Any) -> None:
    world = await make_world(limits={"body_timeout_ms": 50})
    async with served(world.app) as port:
        async with Sender(port) as sender:
            await sender.send(head(None) + b"1\r\n{\r\n")
            status, error = await sender.answer()
        assert (status, error["code"]) == (408, "request_timeout")
        await is_served(world, port)


async def test_abuse_31_packed_and_deep_bodies_are_refused(world: Any) -> None:
    bomb = gzip.compress(b" " * 10 * MB)
    deep = b'{"a":' * 30_000 + b"1" + b"}" * 30_000
    async with served(world.app) as port:
        for sent, status, code in (
            (head(len(bomb), "content-encoding: gzip") + bomb, 415, "unsupported_encoding"),
            (head(len(deep)) + deep, 400, "invalid_request"),
        ):
            async with Sender(port) as sender:
                await sender.send(sent)
                got = await sender.answer()
                assert (got[0], got[1]["code"]) == (status, code)
        await is_served(world, port)


@pytest.mark.parametrize("name", ["payment-signature", "payment-authorization", "authorization",
                                  "x-anything"])  # fmt: skip
async def test_abuse_32_a_header_of_64_kb_is_refused(world: Any, name: str) -> None:
    """Beyond the head's limit the connection ends: it is not even put together."""
    body = world.body()
    async with served(world.app) as port:
        for size in (17_000, 64_000, 200_000):
            async with Sender(port) as sender:
                await sender.send(head(len(body), f"{name}: {'A' * size}") + body)
                if size > http_protocol.MAX_HEAD_BYTES:
                    # Closed at once; the answer may be lost with the bytes nobody read.
                    refused = b"HTTP/1.1 431 "
                    assert (await sender.all_that_comes())[: len(refused)] in {b"", refused}
                else:
                    status, error = await sender.answer()
                    assert status in {400, 401, 402, 431}, error
                    assert error["money"] == "unmoved"
        world.payee.calls.clear()
        await is_served(world, port)


async def test_abuse_32_headers_without_number_are_refused(world: Any) -> None:
    body = world.body()
    async with served(world.app) as port:
        async with Sender(port) as sender:
            many = [f"x-{number}: 1" for number in range(1_000)]
            await sender.send(head(len(body), *many) + body)
            status, error = await sender.answer()
        assert (status, error["code"]) == (431, "headers_too_large")
        await is_served(world, port)


async def test_abuse_31_body_bombs_are_refused_before_anything_is_held(make_world: Any) -> None:
    world = await make_world(limits={"body_timeout_ms": 50, "paid_body_bytes": 300_000})
    key = await world.key(BALANCE)
    big, bigger = b" " * 262_145, b" " * 300_001
    for body, paying, status, code in (
        (big, {}, 413, "request_too_large"),
        ([b" " * 100_000] * 3, {}, 413, "request_too_large"),
        (bigger, {"key": key}, 413, "request_too_large"),
        (b"[" * 200_000, {}, 400, "invalid_request"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, {}, 400, "invalid_request"),
        (b'{"model":"m","model":"n"}', {}, 400, "invalid_request"),
        (b"x", {"content_encoding": "gzip"}, 415, "unsupported_encoding"),
        (b"x", {"content_length": "9999999999"}, 413, "request_too_large"),
        (b"x", {"content_length": "1e5"}, 400, "invalid_request"),
    ):
        got = await world.chat(body, **paying)
        assert (got.status, got.error["code"]) == (status, code)
        assert got.error["money"] == "unmoved"
    assert world.payee.calls == []
    assert world.model.requests == []


async def test_abuse_32_header_bombs_are_refused_before_anything_is_held(world: Any) -> None:
    for headers, status, code in (
        ({"proof": "A" * 17_000}, 400, "malformed_proof"),
        ({"x_bomb": "A" * 33_000}, 431, "headers_too_large"),
        ({f"x_{n}": "1" for n in range(101)}, 431, "headers_too_large"),
    ):
        got = await world.chat(b"x", **headers)
        assert (got.status, got.error["code"]) == (status, code)
        assert got.error["money"] == "unmoved"
    assert world.payee.calls == []
    assert world.model.requests == []
