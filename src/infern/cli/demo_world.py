"""The demo's world: an embedded Fiber network here, a provider agent in a process of its own.

The agent is a separate process so that it can be killed like one.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import httpx2

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.cli.compose import embedded_fiber
from infern.core.errors import ConfigError
from infern.core.fiber.rpc import ListChannels
from infern.core.ledger.books import Books

MODEL: Final = "infern-tiny"
PACE_TOKENS_PER_S: Final = 40
"""The toy model writes thousands of tokens a second; nobody could see it stream, or kill it."""
START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30
UNASKED_PORTS: Final = range(20_000, 32_000)
NODES: Final = ("consumer", "hub", "provider")
PROVIDER_RUN: Final = (sys.executable, "-m", "infern.cli.main", "-v", "provider", "run")
CONFIG: Final = """\
[provider]
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"
network = "dev"
{upstream}
[fiber]
rpc_url = "{rpc_url}"

[[models]]
name = "{model}"
upstream_name = "{upstream_name}"
context_tokens = 1024
max_completion_tokens = 512
default_completion_tokens = 256
request_fee = 1000
input_per_mtok = 200000000
output_per_mtok = 600000000
endpoints = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
"""


class ProviderProcess:
    """A provider agent as its own process, on one port and one home for all its lives.

    Args:
        home: Its INFERN_HOME.
        config: Its configuration file.
        url: Where it serves.
    """

    def __init__(self, home: Path, config: Path, url: str) -> None:
        self._home = home
        self._config = config
        self.url = url
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id while it runs; 0 otherwise."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ConfigError: It did not start; with the end of its log.
        """
        log = self._home / "provider.log"
        with log.open("ab") as output:
            # Popen returns at once; waiting is done below without blocking the loop.
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own program
                [*PROVIDER_RUN, "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "INFERN_HOME": str(self._home)},
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        async with httpx2.AsyncClient(base_url=self.url, timeout=5) as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    if (await client.get("/ready")).status_code == 200:
                        return
                except httpx2.HTTPError:
                    pass  # not listening yet
                await anyio.sleep(0.05)
        tail = log.read_bytes()[-2_000:].decode("utf-8", "replace")
        raise ConfigError(f"the provider agent did not start. The end of its log:\n{tail}")

    def kill(self) -> None:
        """End it as a power cut would: no clean-up of any kind."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order. Idempotent."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    async def books(self) -> Books:
        """Its ledger, read while it is stopped."""
        async with SqliteLedger(self._home / "provider" / "ledger.sqlite3") as ledger:
            return await ledger.books()


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoWorld:
    """Everything the demo plays with.

    Args:
        provider: The agent's process.
        rpc_urls: Fiber node URLs: consumer, hub, provider.
        nodes: Clients of them, by name.
        home: The consumer's INFERN_HOME.
    """

    provider: ProviderProcess
    rpc_urls: Mapping[str, str]
    nodes: Mapping[str, FiberRpcClient]
    home: Path

    async def balances(self) -> dict[str, int]:
        """What each node has in its channels, shannon."""
        found = {}
        for name, node in self.nodes.items():
            channels = await node.call(ListChannels())
            found[name] = sum(channel.local_balance for channel in channels)
        return found


@asynccontextmanager
async def demo_world(
    *, upstream: str | None, upstream_model: str, more_config: str = ""
) -> AsyncIterator[DemoWorld]:
    """Start the world in a temporary directory and clear it away again.

    Args:
        upstream: A model server's base URL; None for the embedded model.
        upstream_model: The model it serves.
        more_config: TOML added to the provider's configuration.
    """
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infern-demo-")))
        seed = os.urandom(32)
        endpoints = await stack.enter_async_context(embedded_fiber(seed))
        port = free_port()
        home = root / "seller"
        home.mkdir()
        config = root / "provider.toml"
        pace = f"embedded_pace_tokens_per_s = {PACE_TOKENS_PER_S}"
        config.write_text(
            CONFIG.format(
                port=port,
                rpc_url=endpoints.rpc_urls["provider"],
                upstream=f'upstream = "{upstream}"' if upstream else pace,
                model=upstream_model if upstream else MODEL,
                upstream_name=upstream_model if upstream else MODEL,
            )
            + more_config,
            "utf-8",
        )
        provider = ProviderProcess(home, config, f"http://127.0.0.1:{port}")
        stack.callback(provider.stop)
        await provider.start()
        nodes = {
            name: await stack.enter_async_context(FiberRpcClient(endpoints.rpc_urls[name]))
            for name in NODES
        }
        consumer_home = root / "consumer"
        consumer_home.mkdir()
        yield DemoWorld(
            provider=provider, rpc_urls=endpoints.rpc_urls, nodes=nodes, home=consumer_home
        )


def free_port() -> int:
    """A port nobody listens on at this moment, and that nobody is given who does not ask for it.

    Whoever opens a connection or asks for any port gets one of the higher ones (RFC 6335, section
    6; Linux begins at 32768), and could take one of those before its server has started.
    """
    while True:
        port = secrets.choice(UNASKED_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody's
            return port
