"""Instructions per prepaid request, by source tree: what a change saves, on however busy a machine.

    python -m benchmarks.instructions before=../other/src after=src [--kind streamed]

CPU time moves by a third when a neighbour fills the caches; instructions do not. They are those of
the program alone, without the kernel's, counted by valgrind's callgrind, under which the agent runs
fifty times slower. So differences count here and not the absolute figure.
"""

import argparse
import asyncio
import itertools
import re
import shutil
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks.consumer import CHAT, Consumer, bearer, chat_body
from benchmarks.load import Ask, ask, burst
from benchmarks.servers import Server, Servers
from infern.adapters.fiber_rpc import FiberRpcClient

CONNECTIONS = 8
WARM_UP = 40
PATIENCE_S = 1_800
_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def _dump(agent: Server) -> None:
    subprocess.run(["callgrind_control", "-d", str(agent.pid)], check=True, capture_output=True)


def _totals(counts: Path) -> list[int]:
    """What each dump so far counted; one that is not whole yet has no total."""
    dumps = sorted(counts.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    found = (_TOTAL.findall(path.read_text()) for path in dumps)
    return [max(map(int, totals)) for totals in found if totals]


async def _counted(agent: Server, counts: Path) -> int:
    """Instructions since the last time it was asked."""
    before = len(_totals(counts))
    _dump(agent)
    async with asyncio.timeout(PATIENCE_S):
        for _ in itertools.count():
            totals = _totals(counts)
            if len(totals) > before:
                break
            await asyncio.sleep(0.5)
    return totals[-1]


async def _ask(agent: Server, asked: Ask, count: int) -> None:
    asks = itertools.repeat(asked, count)
    got = await burst(agent.address, asks, connections=CONNECTIONS, seconds=PATIENCE_S)
    if got.wrong:
        raise RuntimeError(got.wrong[0])


async def main(args: argparse.Namespace) -> None:
    """Count for each tree."""
    streamed = args.kind == "streamed"
    with tempfile.TemporaryDirectory() as root, Servers(Path(root)) as servers:
        async with AsyncExitStack() as stack:
            upstream = await servers.upstream(1)
            urls = await servers.network()
            node = await stack.enter_async_context(FiberRpcClient(urls["consumer"]))
            for name, source in args.trees:
                counts = servers.directory(f"{name}-counts")
                under = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}/of.%p"]
                agent = await servers.agent(
                    name, upstream, urls["provider"], source=source, under=under
                )
                key = await Consumer(agent.url, node).key()
                body, mark = chat_body(stream=streamed), b"f402-receipt" if streamed else b"charged"
                asked = ask(agent.url + CHAT, body, headers=dict(bearer(key)), contains=mark)
                await _ask(agent, asked, WARM_UP)
                await _counted(agent, counts)
                await _ask(agent, asked, args.requests)
                each = await _counted(agent, counts) / args.requests
                print(f"{name:20} {each / 1000:8,.0f} thousand instructions a request", flush=True)
                agent.stop()


def _tree(text: str) -> tuple[str, Path]:
    name, _, source = text.partition("=")
    return name, Path(source).absolute()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+", type=_tree, metavar="NAME=SRC")
    parser.add_argument("--kind", choices=["plain", "streamed"], default="plain")
    parser.add_argument("--requests", type=int, default=80)
    if shutil.which("valgrind") is None:
        raise SystemExit("this needs valgrind")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
