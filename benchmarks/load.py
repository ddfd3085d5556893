"""A closed-loop load generator: `concurrency` connections, each asking again when answered."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a scenario."""

    url: str
    body: bytes
    headers: dict[str, str]
    status: int
    contains: bytes


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one burst showed."""

    requests: int
    wrong: int
    seconds: float
    latencies_ms: list[float]


async def burst(asks: Iterator[Ask], *, requests: int, concurrency: int) -> LoadResult:
    """Send `requests` requests and check every answer."""
    latencies: list[float] = []
    wrong = 0
    left = requests
    connector = aiohttp.TCPConnector(limit=concurrency)

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal left, wrong
        while left > 0:
            left -= 1
            ask = next(asks)
            started = time.perf_counter()
            async with session.post(ask.url, data=ask.body, headers=ask.headers) as reply:
                body = await reply.read()
            latencies.append((time.perf_counter() - started) * 1000)
            if reply.status != ask.status or ask.contains not in body:
                wrong += 1

    async with aiohttp.ClientSession(connector=connector) as session:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker(session))
        seconds = time.perf_counter() - started
    return LoadResult(requests=requests, wrong=wrong, seconds=seconds, latencies_ms=latencies)
