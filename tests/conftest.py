"""Fixtures for the whole suite: an isolated home, and one live world for end-to-end tests."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, settings

from infern.cli.demo_world import DemoWorld, demo_world
from infern.core.fiber.pay import PayInvoice
from infern.core.fiber.pay_drivers import pay
from infern.core.ids import parse_payment_hash
from infern.testing.one_address import ONE_ADDRESS_LIMITS

PAY_TIMEOUT_MS = 20_000
START_TIMEOUT_S = 90
# A busy machine is no failure: Hypothesis's own limits are of wall time.
settings.register_profile("infern", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("infern")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the developer's own data or configuration."""
    monkeypatch.setenv("INFERN_HOME", str(tmp_path / "infern-home"))
    for name in ("INFERN_BASE_URL", "INFERN_API_KEY", "INFERN_FIBER_RPC_URL", "INFERN_NETWORK",
                 "INFERN_REFUND_TO", "INFERN_MODE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@dataclass
class LiveWorld:
    """A provider agent in its own process on an embedded Fiber network, for blocking tests."""

    world: DemoWorld
    loop: asyncio.AbstractEventLoop
    keys: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return self.world.provider.url + "/v1"

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def funded_key(self, amount: int = 100_000_000) -> str:
        """A prepaid key with money on it, paid over the embedded network."""
        made = httpx2.post(
            f"{self.base_url}/f402/keys", json={"amount": str(amount)}, timeout=20
        ).json()
        topup = made["topup"]
        payment = PayInvoice(
            invoice_text=topup["invoice"],
            payment_hash=parse_payment_hash(topup["payment_hash"]),
            amount=amount,
            max_fee_amount=amount // 10,
            timeout_ms=PAY_TIMEOUT_MS,
        )
        clock = self.loop.time
        self.run(pay(self.world.nodes["consumer"], payment, now_ms=lambda: int(clock() * 1000)))
        headers = {"authorization": f"Bearer {made['api_key']}"}
        for _ in range(200):
            books = httpx2.get(f"{self.base_url}/f402/balance", headers=headers).json()
            if int(books["balance"]) == amount:
                return str(made["api_key"])
            self.run(asyncio.sleep(0.05))
        raise AssertionError("the top-up was not credited")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveWorld]:
    """One live world for all end-to-end tests."""
    ready: Future[LiveWorld] = Future()
    stop: asyncio.Event
    loop = asyncio.new_event_loop()

    async def main() -> None:
        nonlocal stop
        stop = asyncio.Event()
        try:
            async with demo_world(
                upstream=None, upstream_model="", more_config=ONE_ADDRESS_LIMITS
            ) as world:
                ready.set_result(LiveWorld(world=world, loop=loop))
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    yield ready.result(START_TIMEOUT_S)
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()
