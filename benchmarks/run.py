"""`make bench`: direct upstream, nginx, our agent and LiteLLM, interleaved in one run.

The figure to read is CPU time per request of the process in front of the upstream: it hardly
changes when the machine is busy with something else. Results go to
`benchmarks/runs/<date>-<cores>cores/`.
"""

import argparse
import asyncio
import csv
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.consumer import CHAT, Consumer, bearer, chat_body
from benchmarks.load import Ask, ask, burst
from benchmarks.measure import cpu_us, machine, quantile, rss_mb
from benchmarks.report import Row, summary
from benchmarks.servers import LITELLM_KEY, ROOT, Server, Servers
from infern.adapters.fiber_rpc import FiberRpcClient

RUNS = Path(__file__).parent / "runs"
CONNECTIONS = (1, 8, 64)
WARM_UP_CONNECTIONS = 8
BUDGET_S = 540
"""After it only the first round is finished, so that a run takes about ten minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is asked of whom.

    Args:
        name: As in the report.
        server: Whose CPU time is measured.
        streamed: Whether answers are streams.
        asks: One request over and over; None for proofs, of which each is good once.
    """

    name: str
    server: Server
    streamed: bool
    asks: Ask | None


def _both(name: str, server: Server, headers: dict[str, str], ours: bool) -> list[Scenario]:
    """A target's plain and streamed scenario."""
    marks = (b'"charged"', b"f402-receipt") if ours else (b'"usage"', b"[DONE]")
    return [
        Scenario(
            name=name,
            server=server,
            streamed=streamed,
            asks=ask(
                server.url + CHAT,
                chat_body(stream=streamed),
                headers=headers,
                contains=marks[streamed],
            ),
        )
        for streamed in (False, True)
    ]


class Bench:
    """The servers, the scenarios over them, and what was measured so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.scenarios: list[Scenario] = []
        self.absent: list[str] = []
        self.rows: list[Row] = []
        self._payer: Consumer | None = None

    async def start(self, servers: Servers, stack: AsyncExitStack) -> None:
        """Start everything and say what is missing."""
        upstream = await servers.upstream(self._args.pace_ms)
        urls = await servers.network()
        node = await stack.enter_async_context(FiberRpcClient(urls["consumer"]))
        rpc_url = urls["provider"]
        self.scenarios += _both("direct", upstream, {}, ours=False)
        if self._wants("nginx"):
            self._add_peer("nginx", await servers.nginx(upstream), {})
        if self._wants("LiteLLM"):
            litellm = await servers.litellm(upstream)
            self._add_peer("LiteLLM", litellm, dict(bearer(LITELLM_KEY)))
        if self._wants("pass-through"):
            command = ("-m", "benchmarks.passthrough", "provider", "run", "--config")
            bare = await servers.agent("pass-through", upstream, rpc_url, command=command)
            headers = dict(bearer("inf_sk_" + "0" * 43))
            self.scenarios += _both("pass-through", bare, headers, ours=True)
        agent = await servers.agent("agent", upstream, rpc_url)
        self._payer = Consumer(agent.url, node)
        key = await self._payer.key()
        self.scenarios += _both("prepaid", agent, dict(bearer(key)), ours=True)
        unpaid = ask(agent.url + CHAT, chat_body(), headers={}, status=402, contains=b'"fibd')
        for name, asks in (("402 with invoice", unpaid), ("upfront, paid leg", None)):
            self.scenarios.append(Scenario(name=name, server=agent, streamed=False, asks=asks))
        for name, source in self._args.against:
            other = await servers.agent(name, upstream, rpc_url, source=source)
            key = await Consumer(other.url, node).key()
            self.scenarios += _both(f"prepaid ({name})", other, dict(bearer(key)), ours=True)
        streamed = [kind == "streamed" for kind in self._args.kinds]
        self.scenarios = [
            scenario
            for scenario in self.scenarios
            if self._wants(scenario.name) and scenario.streamed in streamed
        ]

    def _wants(self, name: str) -> bool:
        return name.startswith(tuple(self._args.only.split(",")))

    def _add_peer(self, name: str, server: Server | None, headers: dict[str, str]) -> None:
        if server is None:
            self.absent.append(name)
            print(f"*** {name} is not installed and was NOT measured ***", file=sys.stderr)
        else:
            self.scenarios += _both(name, server, headers, ours=False)

    async def rounds(self) -> None:
        """Every scenario at every concurrency, in another order each round."""
        began = time.monotonic()
        for number in range(self._args.rounds):
            cells = list(itertools.product(self.scenarios, self._args.connections))
            random.Random(number).shuffle(cells)
            for scenario, connections in cells:
                if number and time.monotonic() - began > BUDGET_S:
                    print("the time is over", file=sys.stderr)
                    return
                await self._cell(number, scenario, connections)
            took = time.monotonic() - began
            print(f"round {number + 1} of {self._args.rounds}: {took:.0f} s", file=sys.stderr)

    async def _asks(self, scenario: Scenario, connections: int) -> Iterator[Ask]:
        if scenario.asks is not None:
            return itertools.repeat(scenario.asks)
        assert self._payer is not None
        return iter(await self._payer.paid(max(self._args.proofs, 2 * connections)))

    async def _cell(self, number: int, scenario: Scenario, connections: int) -> None:
        server = scenario.server
        asks = await self._asks(scenario, connections)
        if scenario.asks is not None:  # connections and caches warm
            few = min(connections, WARM_UP_CONNECTIONS)
            await burst(server.address, asks, connections=few, seconds=0.1)
        before = cpu_us(server.pid)
        got = await burst(server.address, asks, connections=connections, seconds=self._args.seconds)
        used = cpu_us(server.pid) - before
        if got.wrong:
            raise RuntimeError(f"{scenario.name}: {len(got.wrong)} wrong answers: {got.wrong[0]}")
        self.rows.append(
            Row(
                round=number,
                scenario=scenario.name,
                streamed=scenario.streamed,
                connections=connections,
                requests=got.requests,
                cpu_us=round(used / got.requests, 1),
                per_s=round(got.requests / got.seconds, 1),
                p50_ms=round(quantile(got.first_ms, 0.5), 3),
                p99_ms=round(quantile(got.first_ms, 0.99), 3),
                rss_mb=rss_mb(server.pid),
            )
        )


def _write(bench: Bench, text: str) -> None:
    target = RUNS / f"{time.strftime('%Y-%m-%d')}-{os.cpu_count()}cores"
    target.mkdir(parents=True, exist_ok=True)
    (target / "summary.md").write_text(text)
    (target / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    with (target / "raw.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, Row.columns())
        writer.writeheader()
        writer.writerows(row.cells() for row in bench.rows)
    print(f"written to {target.relative_to(ROOT)}", file=sys.stderr)


async def main(args: argparse.Namespace) -> None:
    """Run the benchmark and write its results."""
    bench = Bench(args)
    found = machine()
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        async with AsyncExitStack() as stack:
            await bench.start(servers, stack)
            await bench.rounds()
    text = summary(bench.rows, absent=bench.absent, machine=found, pace_ms=args.pace_ms)
    print(text)
    if not args.no_write:
        _write(bench, text)


def _tree(text: str) -> tuple[str, Path]:
    name, _, source = text.partition("=")
    return name, Path(source).absolute()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--proofs", type=int, default=100, help="paid requests a measurement")
    parser.add_argument("--pace-ms", type=int, default=2, help="between two chunks of a stream")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--only", default="", help="scenarios by the begin of their names: a,b")
    parser.add_argument("--kinds", nargs="+", default=["plain", "streamed"])
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        type=_tree,
        metavar="NAME=SRC",
        help="another source tree",
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser.parse_args()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(arguments()))
