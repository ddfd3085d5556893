"""`make bench`: direct upstream, prepaid, 402 and upfront, interleaved in one run.

The figure to read is the agent's CPU time per request: it does not change when the machine is
busy with something else. Results go to `benchmarks/runs/<date>-<cores>cores/`.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp

from benchmarks.load import Ask, LoadResult, burst
from benchmarks.measure import cpu_us, machine, summary
from infern.adapters.fiber_rpc import FiberRpcClient
from infern.cli.compose import embedded_fiber
from infern.cli.demo_world import ProviderProcess, free_port
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import parse_offer
from infern.core.fiber.pay import PayInvoice
from infern.core.fiber.pay_drivers import pay

CONFIG = """\
[provider]
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"
upstream = "{upstream}"
[fiber]
rpc_url = "{rpc_url}"
[[models]]
name = "bench"
context_tokens = 4096
max_completion_tokens = 512
request_fee = 10
input_per_mtok = 1000000
output_per_mtok = 1000000
[limits]
mints_per_s = 100000
mint_burst = 100000
open_invoices = 1000000
address_per_minute = 1000000
open_unpaid = 1000
"""
PROMPT = "Explain in some detail what a payment channel is and why one would open it. " * 12
KEY_SHANNON = 100_000_000


def _body(*, stream: bool, number: int = 0) -> bytes:
    request = {
        "model": "bench",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 64,
        "stream": stream,
        "seed": number,
    }
    return json.dumps(request).encode()


class Bench:
    """One agent, one upstream, one embedded network, and the scenarios over them."""

    def __init__(self, agent: ProviderProcess, upstream: str, node) -> None:
        self._agent = agent
        self._upstream = upstream
        self._node = node
        self._key = ""
        self._numbers = itertools.count(1)

    async def fund(self) -> None:
        """Make a prepaid key and fund it over the embedded network."""
        async with aiohttp.ClientSession(self._agent.url) as http:
            async with http.post("/v1/f402/keys", json={"amount": str(KEY_SHANNON)}) as reply:
                made = await reply.json()
            topup = made["topup"]
            await self._pay(topup["invoice"], bytes.fromhex(topup["payment_hash"]), KEY_SHANNON)
            self._key = made["api_key"]
            headers = {"authorization": f"Bearer {self._key}"}
            for _ in range(400):
                async with http.get("/v1/f402/balance", headers=headers) as reply:
                    if (await reply.json())["balance"] != "0":
                        return
                await asyncio.sleep(0.02)
        raise RuntimeError("the key was not credited")

    async def _pay(self, invoice: str, payment_hash: bytes, amount: int) -> None:
        payment = PayInvoice(
            invoice_text=invoice,
            payment_hash=payment_hash,
            amount=amount,
            max_fee_amount=amount,
            timeout_ms=20_000,
        )
        await pay(self._node, payment, now_ms=lambda: int(time.monotonic() * 1000))

    def direct(self, *, stream: bool) -> Iterator[Ask]:
        """The model server without us."""
        body = _body(stream=stream)
        url = self._upstream + "/chat/completions"
        return itertools.repeat(Ask(url, body, _json(), 200, b"[DONE]" if stream else b"usage"))

    def prepaid(self, *, stream: bool) -> Iterator[Ask]:
        """Through the agent, debited from a key, hold and receipt durable."""
        headers = {**_json(), "authorization": f"Bearer {self._key}"}
        wanted = b"f402-receipt" if stream else b'"charged"'
        return itertools.repeat(Ask(self._url(), _body(stream=stream), headers, 200, wanted))

    def unpaid(self) -> Iterator[Ask]:
        """A 402 with an invoice of the embedded node."""
        return itertools.repeat(
            Ask(self._url(), _body(stream=False), _json(), 402, b'"invoice":"fibd')
        )

    async def paid_proofs(self, count: int) -> Iterator[Ask]:
        """Requests paid beforehand, so that only the proof's leg is measured."""
        asks: list[Ask] = []
        slots = asyncio.Semaphore(16)

        async def one(http: aiohttp.ClientSession) -> None:
            body = _body(stream=False, number=next(self._numbers))
            async with slots:
                async with http.post(self._url(), data=body, headers=_json()) as reply:
                    offer = parse_offer(await reply.read(), self._url())
                if offer is None:
                    raise RuntimeError("no offer")
                claims = offer.challenge
                await self._pay(offer.invoice, claims.payment_hash, claims.amount)
            headers = {**_json(), "PAYMENT-SIGNATURE": proof_header(offer, preimage=None)}
            asks.append(Ask(self._url(), body, headers, 200, b'"charged"'))

        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one(http))
        return iter(asks)

    def _url(self) -> str:
        return self._agent.url + "/v1/chat/completions"


def _json() -> dict[str, str]:
    return {"content-type": "application/json"}


Record = dict[str, list[float]]


async def _round(
    name: str, asks: Iterator[Ask], pid: int | None, args, records: dict[str, Record], count: int
) -> None:
    before = cpu_us(pid) if pid else 0
    result: LoadResult = await burst(asks, requests=count, concurrency=args.concurrency)
    used = (cpu_us(pid) - before) / result.requests if pid else 0.0
    if result.wrong:
        raise RuntimeError(f"{name}: {result.wrong} of {result.requests} answers were wrong")
    row = records.setdefault(name, {"cpu_us": [], "rps": [], "p50_ms": []})
    row["cpu_us"].append(used)
    row["rps"].append(result.requests / result.seconds)
    row["p50_ms"].append(sorted(result.latencies_ms)[result.requests // 2])


async def _rounds(bench: Bench, pid: int, upstream_pid: int, args) -> dict[str, Record]:
    records: dict[str, Record] = {}
    plain, streams, proofs = args.requests, args.requests // 5, args.proofs
    for number in range(args.rounds):
        paid = await bench.paid_proofs(proofs)
        jobs: list[tuple[str, Callable[[], Iterator[Ask]], int, int]] = [
            ("direct", lambda: bench.direct(stream=False), upstream_pid, plain),
            ("prepaid", lambda: bench.prepaid(stream=False), pid, plain),
            ("402 with invoice", bench.unpaid, pid, proofs),
            ("upfront, paid leg", lambda paid=paid: paid, pid, proofs),
            ("direct, streamed", lambda: bench.direct(stream=True), upstream_pid, streams),
            ("prepaid, streamed", lambda: bench.prepaid(stream=True), pid, streams),
        ]
        random.Random(number).shuffle(jobs)
        for name, asks, measured, count in jobs:
            await _round(name, asks(), measured, args, records, count)
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    return records


def _report(records: dict[str, Record], args) -> str:
    conditions = (
        f"{args.rounds} interleaved rounds, {args.concurrency} connections, body "
        f"{len(_body(stream=False))} bytes; streams of 50 chunks. CPU is that of the process that "
        "answers (the agent; for `direct` the fixed-answer upstream), per request."
    )
    lines = [
        "# Paid requests side by side",
        "",
        conditions,
        "",
        "| scenario | CPU us/request, median (min to max) | requests/s, median | p50 ms, median |",
        "|---|---|---|---|",
    ]
    for name in sorted(records):
        row = {metric: summary(values) for metric, values in records[name].items()}
        cpu = row["cpu_us"]
        lines.append(
            f"| {name} | {cpu['median']} ({cpu['min']} to {cpu['max']}) | {row['rps']['median']} | "
            f"{row['p50_ms']['median']} |"
        )
    return "\n".join([*lines, "", "Machine: " + ", ".join(machine().values()), ""])


def _start_upstream(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.upstream", str(port)])


async def main() -> None:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--proofs", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        port, upstream_port = free_port(), free_port()
        upstream = f"http://127.0.0.1:{upstream_port}/v1"
        server = _start_upstream(upstream_port)
        try:
            async with (
                embedded_fiber(os.urandom(32), speed=100) as endpoints,
                FiberRpcClient(endpoints.rpc_urls["consumer"]) as node,
            ):
                config = root / "provider.toml"
                config.write_text(
                    CONFIG.format(
                        port=port, upstream=upstream, rpc_url=endpoints.rpc_urls["provider"]
                    )
                )
                agent = ProviderProcess(root, config, f"http://127.0.0.1:{port}")
                await agent.start()
                try:
                    bench = Bench(agent, upstream, node)
                    await bench.fund()
                    records = await _rounds(bench, agent.pid, server.pid, args)
                finally:
                    agent.stop()
        finally:
            server.terminate()
            server.wait()
    text = _report(records, args)
    print(text)
    if not args.no_write:
        stamp = time.strftime("%Y-%m-%d")
        target = Path(__file__).parent / "runs" / f"{stamp}-{os.cpu_count()}cores"
        target.mkdir(parents=True, exist_ok=True)
        (target / "summary.md").write_text(text)
        raw = {"machine": machine(), "arguments": vars(args), "records": records}
        (target / "raw.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
