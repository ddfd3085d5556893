"""Attacks on an agent, each a function that goes on until it is cancelled.

Run as `python -m benchmarks.attacks NAME PORT KEY`; it says `started`, and at the end of its
standard input it prints how often it saw which answer, as JSON, and stops. Connections, pace and
bytes are bounded.
"""

import asyncio
import contextlib
import itertools
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import uvloop

from benchmarks.consumer import CHAT, chat_body

ANSWER_TIMEOUT_S = 30
ADDRESSES = 200
IDLE_CONNECTIONS = 4_000
_CODE = re.compile(rb'"code":"([a-z_]+)"')
_JSON = {"content-type": "application/json"}


@dataclass(slots=True)
class Target:
    """The agent, a key with money on it, and what was seen so far."""

    port: int
    key: str
    seen: Counter[str] = field(default_factory=Counter)

    @contextlib.asynccontextmanager
    async def connected(
        self, address: str = "127.0.0.1", *, receive_buffer: int | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """One connection from an address of loopback; a refused one is counted."""
        connection = socket.socket()
        connection.settimeout(0)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.bind((address, 0))
        writer = None
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
            limit = receive_buffer or 2**16
            reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
            yield reader, writer
        except OSError as error:
            self.seen[type(error).__name__] += 1
        finally:
            if writer is not None:
                writer.transport.abort()
            connection.close()

    async def answer(self, reader: asyncio.StreamReader) -> None:
        """Read to the end of what the agent says, and count its status and code."""
        got = b""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while not _is_whole(got):
                    piece = await reader.read(65_536)
                    if not piece:
                        break
                    got = (got + piece)[-200_000:] if len(got) > 400_000 else got + piece
        self.seen[_short(got)] += 1


def _is_whole(got: bytes) -> bool:
    head, end, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    if not end:
        return False
    return len(body) >= int(length[1]) if length else got.endswith(b"0\r\n\r\n")


def _short(got: bytes) -> str:
    if not got:
        return "closed without an answer"
    status = got.split(b" ", 2)[1].decode() if got.startswith(b"HTTP/1.1 ") else "?"
    code = _CODE.search(got)
    return f"{status} {code[1].decode()}" if code else status


def _head(body_bytes: int | None, headers: Mapping[str, str] = {}) -> bytes:
    """A POST's head; None is a chunked body."""
    length = {"transfer-encoding": "chunked"}
    if body_bytes is not None:
        length = {"content-length": str(body_bytes)}
    fields = {"host": "agent", **_JSON, **length, **headers}
    lines = [f"POST {CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _addresses() -> Iterable[str]:
    return itertools.cycle(f"127.0.{1 + at // 200}.{1 + at % 200}" for at in range(ADDRESSES))


async def _many(count: int, one: Callable[[str], Awaitable[None]], *, pause_s: float = 0.0) -> None:
    """`count` attackers at once, each from the next address, each again and again."""

    async def again(address: str) -> None:
        while True:
            await one(address)
            await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as group:
        for address in itertools.islice(_addresses(), count):
            group.create_task(again(address))


async def _sends(target: Target, address: str, *pieces: bytes, pace_s: float = 0.0) -> None:
    """Send pieces at a pace: attackers share a core with those who pay, and must not use it up."""
    async with target.connected(address) as (reader, writer):
        with contextlib.suppress(OSError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pace_s)
        await target.answer(reader)


async def flood(target: Target) -> None:
    """Unpaid requests from 200 addresses, as fast as they are answered."""
    body = chat_body()
    await _many(ADDRESSES, lambda address: _sends(target, address, _head(len(body)), body))


async def slow_heads(target: Target) -> None:
    """A byte of a header twice a second."""

    async def one(address: str) -> None:
        async with target.connected(address) as (reader, writer):
            asked = asyncio.create_task(target.answer(reader))
            with contextlib.suppress(OSError):
                for byte in itertools.chain(_head(10), itertools.repeat(ord("x"))):
                    writer.write(bytes([byte]))
                    await asyncio.wait([asked], timeout=0.5)
                    if asked.done():
                        break
            await asked

    await _many(500, one)


async def slow_bodies(target: Target) -> None:
    """A byte of a body twice a second, four from each address."""

    async def one(address: str) -> None:
        async with target.connected(address) as (reader, writer):
            asked = asyncio.create_task(target.answer(reader))
            with contextlib.suppress(OSError):
                writer.write(_head(100_000))
                while not asked.done():
                    writer.write(b" ")
                    await asyncio.wait([asked], timeout=0.5)
            await asked

    await _many(800, one)


async def large_bodies(target: Target) -> None:
    """8 MB that nobody pays for, announced and chunked."""
    piece = b" " * 65_536
    chunked = b"10000\r\n" + piece + b"\r\n"
    pieces = itertools.cycle(
        [(_head(8_388_608), *[piece] * 128), (_head(None), *[chunked] * 128, b"0\r\n\r\n")]
    )
    await _many(32, lambda address: _sends(target, address, *next(pieces), pace_s=0.02))


async def endless_bodies(target: Target) -> None:
    """Chunked bodies without an end, in small chunks."""
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    pieces = [_head(None), *[chunk * 16] * 1_000]
    await _many(32, lambda address: _sends(target, address, *pieces, pace_s=0.01))


async def deep_json(target: Target) -> None:
    """Bodies of brackets, and of as many small values as fit."""
    bodies = itertools.cycle([b"[" * 250_000, b'{"a":' * 40_000, b'{"a":[' + b"{}," * 80_000])

    async def one(address: str) -> None:
        body = next(bodies)
        await _sends(target, address, _head(len(body)), body)

    await _many(16, one, pause_s=0.05)


async def compressed(target: Target) -> None:
    """A small body that would unpack to gigabytes."""
    head = _head(1_000, {"content-encoding": "gzip"})
    await _many(32, lambda address: _sends(target, address, head, b"\x1f" * 1_000), pause_s=0.02)


async def header_bombs(target: Target) -> None:
    """Heads of 40 KB, of a thousand fields, and without an end."""
    heads = itertools.cycle(
        [
            [_head(0, {"x-bomb": "a" * 40_000})],
            [_head(0, {f"x-{at}": "a" for at in range(1_000)})],
            [b"GET / HTTP/1.1\r\n", *[b"x-a: " + b"a" * 1_000 + b"\r\n"] * 1_000],
        ]
    )
    await _many(32, lambda address: _sends(target, address, *next(heads)), pause_s=0.05)


async def idle_connections(target: Target) -> None:
    """Connections that say nothing."""

    async def one(address: str) -> None:
        async with target.connected(address) as (reader, _):
            await reader.read(1)
            target.seen["closed without an answer"] += 1

    await _many(IDLE_CONNECTIONS, one)


async def _asks_for(
    target: Target, model: str, *, stream: bool, count: int, max_tokens: int = 64
) -> None:
    asked = json.loads(chat_body(stream=stream)) | {"model": model, "max_tokens": max_tokens}
    body = json.dumps(asked).encode()
    head = _head(len(body), {"authorization": f"Bearer {target.key}"})
    await _many(count, lambda address: _sends(target, address, head, body), pause_s=0.05)


async def slow_readers(target: Target) -> None:
    """Paid streams of a megabyte and more, read at a byte a second."""
    asked = {**json.loads(chat_body(stream=True)), "model": "long", "max_tokens": 100_000}
    body = json.dumps(asked).encode()
    head = _head(len(body), {"authorization": f"Bearer {target.key}"})

    async def one(address: str) -> None:
        async with target.connected(address, receive_buffer=4_096) as (reader, writer):
            writer.write(head + body)
            with contextlib.suppress(OSError):
                for _ in itertools.count():
                    if not await reader.read(1):
                        break
                    await asyncio.sleep(1)
            target.seen["cut off"] += 1

    await _many(64, one)


async def fast_streams(target: Target) -> None:
    """Paid streams of small chunks, as fast as the model server can write them."""
    await _asks_for(target, "endless", stream=True, count=16, max_tokens=5_000)


async def endless_streams(target: Target) -> None:
    """A model server that never stops writing."""
    await _asks_for(target, "endless", stream=True, count=16)


async def endless_lines(target: Target) -> None:
    """A model server whose one event never ends."""
    await _asks_for(target, "line", stream=True, count=16)


async def huge_answers(target: Target) -> None:
    """A model server whose plain answer never ends."""
    await _asks_for(target, "huge", stream=False, count=16)


async def silent_upstream(target: Target) -> None:
    """A model server that does not answer."""
    await _asks_for(target, "silent", stream=False, count=64)


async def stuck_streams(target: Target) -> None:
    """A model server that stops in mid-answer."""
    await _asks_for(target, "stuck", stream=True, count=64)


ATTACKS: Mapping[str, Callable[[Target], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        flood,
        slow_heads,
        slow_bodies,
        large_bodies,
        endless_bodies,
        deep_json,
        compressed,
        header_bombs,
        idle_connections,
        slow_readers,
        fast_streams,
        endless_streams,
        endless_lines,
        huge_answers,
        silent_upstream,
        stuck_streams,
    )
}


async def main(name: str, port: int, key: str) -> None:
    """Attack until standard input ends."""
    target = Target(port=port, key=key)
    attack = asyncio.ensure_future(ATTACKS[name](target))
    print("started", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps(target.seen))  # before the attack is ended, which is nobody's answer
    attack.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attack


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
