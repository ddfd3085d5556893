"""The processes a benchmark runs: upstream, embedded network, agents and the peers beside them.

Everything that is measured is pinned to the first core; the rest to the others, so that requests
per second are those of one core.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import aiohttp

from infern.cli.demo_world import free_port

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120
SLOW_START_TIMEOUT_S = 1_800
STOP_TIMEOUT_S = 20
PEERS = Path(os.environ.get("INFERN_BENCH_PEERS") or Path.home() / ".cache" / "infern-bench")
"""Where `make bench` keeps LiteLLM: it is large, and no part of this project."""
MEASURED = {0}
OTHERS = set(range(1, os.cpu_count() or 1)) or MEASURED

AGENT_CONFIG = """\
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
{limits}
"""
NO_LIMITS = {
    "mints_per_s": 100_000,
    "mint_burst": 100_000,
    "open_invoices": 1_000_000,
    "address_per_minute": 1_000_000,
    "open_unpaid": 1_000,
}
"""What would refuse a benchmark's own requests for invoices."""
NGINX_CONFIG = """\
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  keepalive_requests 10000000;
  upstream model {{ server 127.0.0.1:{upstream_port}; keepalive 128; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
LITELLM_CONFIG = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{upstream}", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: {key}, disable_spend_logs: true}}
"""
LITELLM_KEY = "sk-benchmark"


class Server:
    """One process that serves on a port of loopback."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"
        self.pid = process.pid
        self._process = process
        self._log = log

    async def ready(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: int = START_TIMEOUT_S,
    ) -> None:
        """Wait until it answers."""
        until = time.monotonic() + timeout_s
        async with aiohttp.ClientSession() as http:
            while time.monotonic() < until and self._process.poll() is None:
                try:
                    async with http.get(self.url + path, headers=headers) as reply:
                        if reply.status == 200:
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Servers:
    """Starts servers below one directory; leaving the `with` block ends them all."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, OTHERS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def directory(self, name: str) -> Path:
        """A place for a server's files."""
        path = self._home / name
        path.mkdir()
        return path

    def _start(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        *,
        cores: set[int],
        env: Mapping[str, str] | None = None,
    ) -> Server:
        log = self._home / f"{name}.log"
        pinned = ["taskset", "-c", ",".join(map(str, sorted(cores))), *command]
        with log.open("wb") as output:
            process = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )
        server = Server(name, port, process, log)
        self._stack.callback(server.stop)
        return server

    async def upstream(self, pace_ms: int, module: str = "benchmarks.upstream") -> Server:
        """A fixed-answer model server."""
        port = free_port()
        command = [sys.executable, "-m", module, str(port), str(pace_ms)]
        server = self._start(f"upstream{port}", command, port, cores=OTHERS)
        await server.ready("/v1/models")
        return server

    async def network(self) -> dict[str, str]:
        """The embedded Fiber network; its nodes' URLs by name."""
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.network", str(port)]
        server = self._start("network", command, port, cores=OTHERS)
        await server.ready("/")
        async with aiohttp.ClientSession() as http, http.get(server.url + "/") as reply:
            urls: dict[str, str] = json.loads(await reply.read())
        return urls

    async def agent(
        self,
        name: str,
        upstream: Server,
        rpc_url: str,
        *,
        source: Path = ROOT / "src",
        limits: Mapping[str, int] = NO_LIMITS,
        more_models: str = "",
        command: Sequence[str] = ("-m", "infern.cli.main", "provider", "run", "--config"),
        under: Sequence[str] = (),
    ) -> Server:
        """Our agent, from any source tree, maybe under a program that watches it."""
        port, home = free_port(), self.directory(name)
        config = home / "provider.toml"
        lines = "\n".join(f"{name} = {value}" for name, value in limits.items())
        text = AGENT_CONFIG.format(
            port=port, upstream=upstream.url + "/v1", rpc_url=rpc_url, limits=lines
        )
        config.write_text(text + more_models)
        env = {"INFERN_HOME": str(home), "PYTHONPATH": f"{source}:{ROOT}"}
        full = [*under, sys.executable, *command, str(config)]
        server = self._start(name, full, port, cores=MEASURED, env=env)
        await server.ready("/ready", timeout_s=SLOW_START_TIMEOUT_S if under else START_TIMEOUT_S)
        return server

    async def nginx(self, upstream: Server) -> Server | None:
        """nginx as a reverse proxy; None where it is not installed."""
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            return None
        port, home = free_port(), self.directory("nginx")
        # nginx drops root's rights for its worker, which must reach its own directories.
        for above in (self._home, home):
            above.chmod(0o755)
        config = home / "nginx.conf"
        text = NGINX_CONFIG.format(home=home, port=port, upstream_port=upstream.address[1])
        config.write_text(text)
        command = [program, "-c", str(config), "-p", str(home), "-g", "daemon off;"]
        server = self._start("nginx", command, port, cores=MEASURED)
        await server.ready("/v1/models")
        return server

    async def litellm(self, upstream: Server) -> Server | None:
        """LiteLLM's proxy with a master key and nothing else; None where it is not installed."""
        program = PEERS / "litellm" / "bin" / "litellm"
        if not (PEERS / "litellm" / ".installed").exists():
            return None
        port, home = free_port(), self.directory("litellm")
        config = home / "config.yaml"
        config.write_text(LITELLM_CONFIG.format(upstream=upstream.url + "/v1", key=LITELLM_KEY))
        command = [str(program), "--config", str(config), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
        env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
        server = self._start("litellm", command, port, cores=MEASURED, env=env)
        await server.ready("/v1/models", {"authorization": f"Bearer {LITELLM_KEY}"})
        return server
