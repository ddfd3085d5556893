"""The composition root: the only module of a service's side that knows adapters and services."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
import uvloop

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.http_protocol import BoundedHttpProtocol
from infern.adapters.keyfile import load_or_make_key, load_or_make_seller_secrets
from infern.adapters.model_http import HttpModelServer
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.adapters.system import SystemClock, SystemEntropy
from infern.core.errors import ConfigError, InfernError
from infern.core.fiber.rpc import GetNodeInfo
from infern.core.fiber.types import NodeInfo
from infern.core.ids import Pubkey
from infern.core.wire.dialects import ServerLook
from infern.devnet.fiber.server import Endpoints, serve
from infern.devnet.fiber.settings import NetworkSettings
from infern.devnet.fiber.topology import three_nodes
from infern.devnet.model import EmbeddedModel, EmbeddedModelConfig
from infern.provider.backend import ModelServerBackend
from infern.provider.config import ProviderConfig
from infern.provider.look import MAX_LOOK_BYTES, ServerAddress, look_at_server, speak
from infern.proxy.app import ProxyApp
from infern.seller.app import SellerApp, assemble
from infern.seller.config import SellerConfig, SellerSecrets

KEEP_ALIVE_S: Final = 75
"""Longer than clients keep idle connections, so that none is closed under a request."""
GRACEFUL_S: Final = 20
NODE_TIMEOUT_MS: Final = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAgent:
    """A provider agent ready to be served.

    Args:
        app: The ASGI application.
        pay_to: Its Fiber node.
        agent: The key its receipts are signed with.
        model_server: What it took the model server for, for people.
    """

    app: SellerApp
    pay_to: Pubkey
    agent: Pubkey
    model_server: str


@asynccontextmanager
async def provider_agent(config: ProviderConfig, home: Path) -> AsyncIterator[ProviderAgent]:
    """Open everything a provider agent needs, and close it again.

    Raises:
        ConfigError: Something in the set-up cannot work; says what to do.
    """
    async with AsyncExitStack() as stack:
        clock, entropy = SystemClock(), SystemEntropy()
        agent = CoincurveSigner(load_or_make_key(home / "agent.key"))
        kid, challenge_keys, preimage_key = load_or_make_seller_secrets(
            home / "seller-secrets.json"
        )
        fiber = await stack.enter_async_context(
            FiberRpcClient(config.fiber_rpc_url, token=config.fiber_rpc_token)
        )
        node = await _node_of(fiber, config)
        ledger = await stack.enter_async_context(SqliteLedger(home / "ledger.sqlite3"))
        server = await stack.enter_async_context(_model_server(config, stack))
        config, model_server = await _spoken_to(config)
        backend = ModelServerBackend(
            server,
            config.models,
            agent=agent.pubkey,
            genesis_hash=node.chain_hash,
            created_s=clock.now_ms() // 1000,
        )
        seller = SellerConfig(
            public_url=config.public_url,
            network=config.network,
            pay_to=node.pubkey,
            agent=agent.pubkey,
            secrets=SellerSecrets(
                kid=kid, challenge_keys=challenge_keys, preimage_key=preimage_key
            ),
            limits=config.limits,
            require_preimage=config.require_preimage,
        )
        parts = assemble(
            seller,
            backend=backend,
            ledger=ledger,
            fiber=fiber,
            agent=agent,
            verifier=CoincurveVerifier(),
            clock=clock,
            entropy=entropy,
        )
        yield ProviderAgent(
            app=SellerApp(parts),
            pay_to=node.pubkey,
            agent=agent.pubkey,
            model_server=model_server,
        )


async def _node_of(fiber: FiberRpcClient, config: ProviderConfig) -> NodeInfo:
    try:
        return await fiber.call(GetNodeInfo(), timeout_ms=NODE_TIMEOUT_MS)
    except InfernError as error:
        raise ConfigError(
            f"the Fiber node at {config.fiber_rpc_url} does not answer ({error.message}). "
            "Start it, or set rpc_url in [fiber]; `infern devnet up` starts an embedded one."
        ) from error


async def look_at_upstream(config: ProviderConfig) -> ServerLook:
    """Ask the configured model server which one it is; nothing is known of the embedded one."""
    if config.upstream is None:
        return ServerLook(name=None)
    address = ServerAddress.of(config.upstream)
    server = HttpModelServer(
        address.root, api_key=config.upstream_api_key, response_limit_bytes=MAX_LOOK_BYTES
    )
    async with server:
        return await look_at_server(server, address)


async def _spoken_to(config: ProviderConfig) -> tuple[ProviderConfig, str]:
    """The configuration with the model server's dialect, and what the server was taken for."""
    if config.upstream is None:
        return config, "embedded toy model"
    spoken = speak(config, await look_at_upstream(config))
    for warning in spoken.warnings:
        _log.warning("%s", warning)
    _log.info("model server at %s: %s", config.upstream, spoken.who)
    return spoken.config, spoken.who


def _model_server(config: ProviderConfig, stack: AsyncExitStack) -> HttpModelServer:
    limit = config.limits.response_bytes
    if config.upstream is not None:
        return HttpModelServer(
            config.upstream, api_key=config.upstream_api_key, response_limit_bytes=limit
        )
    model = stack.enter_context(
        EmbeddedModel(EmbeddedModelConfig(pace_tokens_per_s=config.embedded_pace_tokens_per_s))
    )
    return HttpModelServer(model.base_url, api_key=model.api_key, response_limit_bytes=limit)


def run_service(service: Coroutine[Any, Any, None]) -> None:
    """Run a service until it ends or Ctrl-C, on uvloop: about a third of the CPU per request."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(service)


class AnnouncingServer(uvicorn.Server):
    """A uvicorn server that says when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, then announce."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


def asgi_server(
    app: SellerApp | ProxyApp, *, host: str, port: int, on_started: Callable[[], None]
) -> AnnouncingServer:
    """A uvicorn server set up for paid traffic."""
    return AnnouncingServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=BoundedHttpProtocol,
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_S,
            access_log=False,
            log_config=None,
            server_header=False,
        ),
        on_started,
    )


@asynccontextmanager
async def embedded_fiber(
    seed: bytes, *, first_port: int = 0, speed: int = 1
) -> AsyncIterator[Endpoints]:
    """The embedded network of three nodes, served on loopback.

    Args:
        seed: Makes the nodes' keys.
        first_port: Ports from here on, one per node and one for control; 0 takes free ones.
        speed: Divides every latency; 1 is the pace of real nodes.
    """
    trio = three_nodes(
        seed,
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(speed=speed),
    )
    names = list(trio.network.nodes)
    ports = {name: first_port + at if first_port else 0 for at, name in enumerate(names)}
    control_port = first_port + len(names) if first_port else 0
    try:
        async with serve(trio.network, ports=ports, control_port=control_port) as endpoints:
            yield endpoints
    except OSError as error:
        raise ConfigError(
            f"a port of the embedded network is taken ({error.strerror}); try --port 0"
        ) from error
