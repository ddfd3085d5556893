"""A seller in the world: the real application over a simulated disk, node wire and model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.ids import Pubkey
from infern.core.market.price import Price
from infern.core.units import Network
from infern.core.wire.bounds import ModelLimits
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.rewrite import Dialect
from infern.devnet.fiber import Node, Version
from infern.provider.backend import ModelServerBackend
from infern.provider.config import ModelConfig
from infern.seller.app import SellerApp, assemble
from infern.seller.config import SellerConfig, SellerLimits, SellerSecrets
from infern.simulator.fiber import VirtualFiberClient
from infern.simulator.host import Host, ProcessClock, ProcessEntropy
from infern.simulator.model import VirtualModel
from infern.simulator.process import Process
from infern.simulator.storage import SellerDisk, VirtualEngine
from infern.simulator.wire import Internet, Listener
from infern.simulator.world import EPOCH_MS
from infern.testing.asgi import Message

MODEL: Final = "m"
MAX_SKEW_MS: Final = 5_000
LIMITS: Final = SellerLimits(
    body_timeout_ms=10_000,
    first_byte_timeout_ms=20_000,
    idle_timeout_ms=15_000,
    total_timeout_ms=120_000,
    keepalive_ms=3_000,
    stall_timeout_ms=10_000,
    address_per_minute=60,
    proof_wait_ms=3_000,
    redeem_s=1_000,
    topup_expiry_s=120,
    empty_key_s=900,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerSetup:
    """What one seller is, for all its lives."""

    origin: str
    agent: CoincurveSigner
    preimage_key: bytes
    requires_preimage: bool
    skew_ms: int


class SellerHost(Host):
    """The machine of one seller.

    Args:
        internet: Where it listens.
        name: Of the seller.
        node: Its Fiber node.
    """

    def __init__(self, internet: Internet, name: str, node: Node) -> None:
        super().__init__(internet.world, name)
        self.internet = internet
        self.node = node
        self.disk = SellerDisk()
        self.models: list[VirtualModel] = []
        self.killed: set[str] = set()
        """Names of the lives that ended by a crash."""
        dice = self.dice
        self.setup = SellerSetup(
            origin=f"https://{name}.sim",
            agent=CoincurveSigner(dice.randbytes(32)),
            preimage_key=dice.randbytes(32),
            requires_preimage=node.settings.version is Version.V0_9_1 and dice.random() < 0.3,
            skew_ms=dice.randrange(-MAX_SKEW_MS, MAX_SKEW_MS),
        )
        self._challenge_keys: dict[str, bytes] = {}
        self._price = self._new_price()

    def _new_price(self) -> Price:
        dice = self.dice
        return Price(
            request_fee=dice.choice((0, 1, 1_000)),
            input_per_mtok=dice.randrange(1, 400_000_000),
            output_per_mtok=dice.choice((0, 600_000_000, 1)),
        )

    def _change_terms(self) -> None:
        """Operators change prices and keys when they restart; what was quoted stays honoured."""
        if not self._challenge_keys or self.dice.random() < self.world.weather.new_terms:
            self._challenge_keys[f"k{self.lives}"] = self.dice.randbytes(32)
            self._price = self._new_price()

    async def boot(self, process: Process) -> None:
        """Start the seller as a new process does: open the books, listen, and end in good order."""
        model = VirtualModel(process)
        self.models.append(model)
        self.killed.add(process.name)  # until it has ended well
        self._change_terms()
        clock = ProcessClock(process, self.setup.skew_ms)
        ledger = SqliteLedger(VirtualEngine(process, self.disk))
        config = self._config()
        parts = assemble(
            config,
            backend=ModelServerBackend(
                model,
                (self._model(),),
                agent=config.agent,
                genesis_hash=b"\x07" * 32,
                created_s=EPOCH_MS // 1_000,
            ),
            ledger=ledger,
            fiber=VirtualFiberClient(process, self.node),
            agent=self.setup.agent,
            verifier=CoincurveVerifier(),
            clock=clock,
            entropy=ProcessEntropy(process),
        )
        app = SellerApp(parts)
        lifespan = _Lifespan()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(lifespan.run, app))
            await lifespan.started.wait()
            listener = Listener(self.internet, self.setup.origin, process, app)
            self.ready(process)
            await process.stop.wait()
            self.closed()
            await listener.close()
            lifespan.is_over.set()
        ledger.close()
        if not len(parts.endings):
            # One whose ledger stayed away has ended like a killed one: its charges are lost.
            self.killed.discard(process.name)
        model.has_ended_well = True

    def _config(self) -> SellerConfig:
        return SellerConfig(
            public_url=self.setup.origin,
            network=Network.DEV,
            pay_to=Pubkey(self.node.pubkey),
            agent=self.setup.agent.pubkey,
            secrets=SellerSecrets(
                kid=list(self._challenge_keys)[-1],
                challenge_keys=dict(self._challenge_keys),
                preimage_key=self.setup.preimage_key,
            ),
            limits=LIMITS,
            require_preimage=self.setup.requires_preimage,
        )

    def _model(self) -> ModelConfig:
        return ModelConfig(
            name=MODEL,
            upstream_name="upstream-m",
            price=self._price,
            limits=ModelLimits(
                context_tokens=8192, max_completion_tokens=64, default_completion_tokens=32, max_n=3
            ),
            endpoints=frozenset({Endpoint.CHAT_COMPLETIONS}),
            dialect=Dialect(),
        )


class _Lifespan:
    """ASGI's lifespan protocol, as a server speaks it."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.is_over = anyio.Event()
        self._asked = 0

    async def run(self, app: SellerApp) -> None:
        scope: Message = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        await self.is_over.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Mapping[str, object]) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.started.set()
