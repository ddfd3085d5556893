"""Abuse on real parts: the seller of `tests/integration/seller`, also on the embedded network.

Fixtures: `world` and `make_world`, a seller with a scripted node; `live` and `make_live`, a running
seller on three Fiber nodes; `payer`, a consumer of ours at the first of them; `client_world`, our
client against a scripted seller that lies.
"""

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.system import SystemClock
from infern.client.auth import F402Auth
from infern.client.budget import Budget
from infern.client.wallet import Patience, Wallet
from infern.core.fiber.rpc_payments import ListPayments
from infern.core.units import Network

_TESTS = Path(__file__).parents[1]
CHAT = "/v1/chat/completions"


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_seller = _load("_infern_seller_world", _TESTS / "seller" / "conftest.py")
_ways_back = _load("_infern_ways_back", _TESTS / "seller" / "ways_back" / "conftest.py")
_client = _load("_infern_hostile_client", _TESTS / "client" / "conftest.py")

anyio_backend = _seller.anyio_backend
make_world = _seller.make_world
world = _seller.world
make_live = _ways_back.make_live
live = _ways_back.live
eventually = _ways_back.eventually


@pytest.fixture
def client_world(tmp_path: Path) -> Any:
    made = _client.World(home=tmp_path / "client")
    yield made
    made.close()


@pytest.fixture
def make_signer() -> Any:
    return _client.CoincurveSigner


class ShiftedClock(SystemClock):
    """The machine's clock, set forward by a test; waits stay real."""

    shift_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.shift_ms

    def wait_ms(self, duration_ms: int) -> None:
        raise AssertionError("nothing here waits in a thread")


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def later(clock: ShiftedClock) -> Callable[[Any, int], None]:
    """Lets time pass at the nodes, the seller and the client."""

    def pass_ms(live: Any, duration_ms: int) -> None:
        live.net.network.clock.advance_ms(duration_ms)
        clock.shift_ms += duration_ms

    return pass_ms


class Payer:
    """A careful client at the consumer's node."""

    def __init__(self, live: Any, home: Path, clock: Any, *, on_sockets: bool = False) -> None:
        self.live = live
        self.home = home
        self.journal = SqliteJournal(home)
        self.wallet = Wallet(
            journal=self.journal,
            budget=Budget(),
            verifier=CoincurveVerifier(),
            clock=clock,
            network=Network.DEV,
            session="session",
            node=live.nodes["consumer"],
            patience=Patience(pause_ms=5),
        )
        self.auth = F402Auth(self.wallet)
        self.http = httpx2.AsyncClient(
            transport=None if on_sockets else httpx2.ASGITransport(app=live.world.app),
            base_url=live.world.public_url,
            auth=self.auth,
        )

    async def ask(self, body: bytes) -> httpx2.Response:
        return await self.http.post(CHAT, content=body)

    async def payments(self) -> list[Any]:
        """Everything this node ever sent."""
        return list((await self.live.nodes["consumer"].call(ListPayments(limit=500))).payments)

    async def aclose(self) -> None:
        await self.http.aclose()
        self.journal.close()


@pytest.fixture
async def make_payer(tmp_path: Path, clock: ShiftedClock) -> AsyncIterator[Callable[..., Payer]]:
    payers: list[Payer] = []

    def make(live: Any, **more: bool) -> Payer:
        payers.append(Payer(live, tmp_path / f"payer{len(payers)}", clock, **more))
        return payers[-1]

    yield make
    for payer in payers:
        await payer.aclose()
