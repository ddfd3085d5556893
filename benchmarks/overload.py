"""`make overload`: a real agent under attack while others pay and want their answers.

For each attack: eight prepaid consumers ask at a steady pace, alone, then beside the attack. What
counts is whether they still get theirs, what the attackers get, and the agent's memory. Results go
to `benchmarks/runs/<date>-<cores>cores-overload/`.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop

from benchmarks import hostile_upstream
from benchmarks.attacks import ATTACKS
from benchmarks.consumer import CHAT, JSON, Consumer, bearer, chat_body
from benchmarks.measure import cpu_us, machine, quantile, rss_mb
from benchmarks.servers import OTHERS, ROOT, Server, Servers
from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.ledger.books import violations

RUNS = Path(__file__).parent / "runs"
CONSUMERS = 8
PAUSE_S = 0.1
SAMPLE_S = 0.1
TIMEOUTS = {
    "body_timeout_ms": 3_000,
    "first_byte_timeout_ms": 3_000,
    "idle_timeout_ms": 3_000,
    "stall_timeout_ms": 3_000,
    "keepalive_ms": 1_000,
}
"""Shorter than the defaults, so that a measurement sees them pass; other limits are defaults."""
MODEL = """\
[[models]]
name = "{name}"
context_tokens = 200000
max_completion_tokens = 100000
request_fee = 10
input_per_mtok = 1
output_per_mtok = 1
"""


@dataclass(slots=True)
class Service:
    """What the paying consumers got."""

    took_ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def row(self) -> dict[str, object]:
        """Figures for the report."""
        return {
            "per_s": round(len(self.took_ms) / self.seconds, 1),
            "p50_ms": round(quantile(self.took_ms, 0.5), 1) if self.took_ms else None,
            "p99_ms": round(quantile(self.took_ms, 0.99), 1) if self.took_ms else None,
            "failed": dict(self.failed),
        }


@dataclass(slots=True)
class Memory:
    """Resident memory while it was watched, MB."""

    most: float = 0.0

    async def watch(self, pid: int) -> None:
        """Look until cancelled."""
        while True:
            self.most = max(self.most, rss_mb(pid))
            await asyncio.sleep(SAMPLE_S)


async def _consume(url: str, key: str, service: Service) -> None:
    """Ask again and again, plain and streamed by turns."""
    async with aiohttp.ClientSession() as http:
        stream = False
        while True:
            stream = not stream
            began = time.perf_counter()
            wanted = b"f402-receipt" if stream else b'"charged"'
            try:
                async with http.post(
                    url + CHAT, data=chat_body(stream=stream), headers={**JSON, **bearer(key)}
                ) as reply:
                    body = await reply.read()
            except (aiohttp.ClientError, OSError) as error:
                service.failed[type(error).__name__] += 1
            else:
                if reply.status == 200 and wanted in body:
                    service.took_ms.append((time.perf_counter() - began) * 1000)
                else:
                    service.failed[str(reply.status)] += 1
            await asyncio.sleep(PAUSE_S)


async def _serve_consumers(url: str, key: str, seconds: float) -> Service:
    service = Service(seconds=seconds)
    consumers = [asyncio.ensure_future(_consume(url, key, service)) for _ in range(CONSUMERS)]
    await asyncio.sleep(seconds)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    return service


async def _attack(
    agent: Server, keys: tuple[str, str], name: str, args: argparse.Namespace
) -> dict:
    """One attack, beside consumers who pay."""
    (consumers_key, attackers_key), seconds = keys, args.seconds
    alone = await _serve_consumers(agent.url, consumers_key, seconds / 2)
    before, memory, used = rss_mb(agent.pid), Memory(), cpu_us(agent.pid)
    watch = asyncio.ensure_future(memory.watch(agent.pid))
    attack = await asyncio.create_subprocess_exec(
        *("taskset", "-c", ",".join(map(str, sorted(OTHERS)))),
        *(sys.executable, "-m", "benchmarks.attacks"),
        *(name, str(agent.address[1]), attackers_key),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert attack.stdout is not None
    await attack.stdout.readline()
    await asyncio.sleep(1)
    beside = await _serve_consumers(agent.url, consumers_key, seconds)
    busy = (cpu_us(agent.pid) - used) / 1e6 / (seconds + 1)
    seen, _ = await attack.communicate(b"")  # none given would leave its input open
    await asyncio.sleep(args.recovery)
    watch.cancel()
    return {
        "attack": name,
        "alone": alone.row(),
        "beside": beside.row(),
        "agent_cpu": round(busy, 2),
        "attackers_saw": json.loads(seen),
        "rss_mb": {"before": before, "most": memory.most, "after": rss_mb(agent.pid)},
    }


async def _books(home: Path) -> list[str]:
    """What is wrong with the agent's books once it has stopped; nothing should be."""
    async with SqliteLedger(home / "provider" / "ledger.sqlite3") as ledger:
        books = await ledger.books()
    return [*violations(books), *(f"hold {hold.hold_id} is open" for hold in books.holds)]


_HEADINGS = (
    "| attack | consumers alone: rate, p50 / p99 | beside the attack | agent CPU, cores "
    "| RSS MB before, most, after | attackers saw |"
)


def _how(seconds: float) -> str:
    times = ", ".join(f"{name} {value}" for name, value in TIMEOUTS.items())
    return (
        f"{CONSUMERS} prepaid consumers, each with a pause of {PAUSE_S} s between an answer and "
        f"the next request, plain and streamed by turns: {seconds / 2:g} s alone, then "
        f"{seconds:g} s beside each attack (`benchmarks/attacks.py`). The agent is one process on "
        "one core; attackers, consumers and model server share the others, so an attack that is "
        "cheap to refuse slows the consumers' own side first. Limits are the defaults, with "
        f"shorter times: {times}."
    )


def _summary(rows: list[dict], wrong: list[str], found: dict[str, str], seconds: float) -> str:
    def service(row: dict) -> str:
        failed = ", ".join(f"{count} x {what}" for what, count in row["failed"].items())
        lost = f"; **failed: {failed}**" if failed else ""
        return f"{row['per_s']}/s, {row['p50_ms']} / {row['p99_ms']} ms{lost}"

    lines = [
        "# An agent under attack",
        "",
        _how(seconds),
        "",
        _HEADINGS,
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        rss = row["rss_mb"]
        seen = sorted(row["attackers_saw"].items(), key=lambda item: -item[1])
        lines.append(
            f"| {row['attack'].replace('_', ' ')} | {service(row['alone'])} | "
            f"{service(row['beside'])} | {row['agent_cpu']} | "
            f"{rss['before']}, {rss['most']}, {rss['after']} | "
            f"{', '.join(f'{count} x {what}' for what, count in seen) or 'nothing'} |"
        )
    books = "they balance, and no hold is open" if not wrong else "**" + "; ".join(wrong) + "**"
    lines += ["", f"The books afterwards: {books}.", ""]
    lines += ["Machine: " + ", ".join(f"{name} {value}" for name, value in found.items()), ""]
    return "\n".join(lines)


async def main(args: argparse.Namespace) -> None:
    """Attack, measure, write."""
    found, rows = machine(), []
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        async with AsyncExitStack() as stack:
            upstream = await servers.upstream(2, "benchmarks.hostile_upstream")
            urls = await servers.network()
            node = await stack.enter_async_context(FiberRpcClient(urls["consumer"]))
            models = "".join(MODEL.format(name=model) for model in hostile_upstream.MODELS)
            agent = await servers.agent(
                "agent", upstream, urls["provider"], limits=TIMEOUTS, more_models=models
            )
            payer = Consumer(agent.url, node)
            keys = (await payer.key(), await payer.key())
            for attack in args.only or ATTACKS:
                rows.append(await _attack(agent, keys, attack, args))
                print(json.dumps(rows[-1]), file=sys.stderr)
            agent.stop()
        wrong = await _books(Path(name) / "agent")
    text = _summary(rows, wrong, found, args.seconds)
    print(text)
    if not args.no_write:
        stamp = time.strftime("%Y-%m-%d")
        target = RUNS / f"{stamp}-{os.cpu_count()}cores-overload"
        target.mkdir(parents=True, exist_ok=True)
        (target / "summary.md").write_text(text)
        raw = {"machine": found, "seconds": args.seconds, "books": wrong, "attacks": rows}
        (target / "raw.json").write_text(json.dumps(raw, indent=1) + "\n")
        print(f"written to {target.relative_to(ROOT)}", file=sys.stderr)
    if wrong or any(row["beside"]["failed"] for row in rows):
        raise SystemExit("consumers who paid were not served, or the books do not balance")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--recovery", type=float, default=4.0, help="seconds after each attack")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS))
    parser.add_argument("--no-write", action="store_true", help="print only")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
