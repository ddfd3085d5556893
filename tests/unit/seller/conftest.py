"""A virtual clock, a scripted node and a configuration for a seller's parts."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.units import Network
from infern.seller.config import SellerConfig, SellerLimits, SellerSecrets
from infern.testing.scripted_payee import ScriptedPayee

NOW_MS = 1_700_000_000_000


class VirtualClock:
    """Waiting moves time on; nobody really waits."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    async def sleep_ms(self, duration_ms: int) -> None:
        self.ms += duration_ms
        await anyio.lowlevel.checkpoint()


class SteppedClock:
    """Time that moves when everybody waits, in the steps they asked for, or when told."""

    def __init__(self, start_ms: int, ledger: Any) -> None:
        self.ms = start_ms
        self.ledger = ledger
        self.sleepers: list[tuple[int, anyio.Event]] = []

    def now_ms(self) -> int:
        return self.ms

    async def sleep_ms(self, duration_ms: int) -> None:
        woken = anyio.Event()
        self.sleepers.append((self.ms + duration_ms, woken))
        await woken.wait()

    async def settle(self) -> None:
        """Let tasks and the ledger's thread run until they wait again.

        The ledger's writer answers in order, so whoever asked before has been answered too; no
        task here asks more often in a row than this. `books` would not do: it is a snapshot.
        """
        for _ in range(10):
            await self.ledger.find_key(bytes(32))
            for _ in range(10):
                await anyio.lowlevel.checkpoint()

    async def move(self, duration_ms: int) -> None:
        """Let time pass, waking everybody at their time, until nobody has more to do."""
        end_ms = self.ms + duration_ms
        await self.settle()
        while self.sleepers and min(self.sleepers, key=lambda s: s[0])[0] <= end_ms:
            self.sleepers.sort(key=lambda s: s[0])
            due_ms, woken = self.sleepers.pop(0)
            self.ms = max(self.ms, due_ms)
            woken.set()
            await self.settle()
        self.ms = end_ms


class CountingEntropy:
    """Bytes that are all different and the same in every run."""

    def __init__(self) -> None:
        self.count = 0

    def random_bytes(self, length: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(length, "big")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def make_stepped_clock() -> type[SteppedClock]:
    return SteppedClock


@pytest.fixture
def entropy() -> CountingEntropy:
    return CountingEntropy()


@pytest.fixture
def payee(clock: VirtualClock) -> ScriptedPayee:
    return ScriptedPayee(signer=CoincurveSigner(b"\x11" * 32), clock=clock)


@pytest.fixture
def make_config(payee: ScriptedPayee) -> Callable[..., SellerConfig]:
    def make(*, require_preimage: bool = False, **limits: Any) -> SellerConfig:
        return SellerConfig(
            public_url="https://seller.test",
            network=Network.TESTNET,
            pay_to=payee.signer.pubkey,
            agent=CoincurveSigner(b"\x22" * 32).pubkey,
            secrets=SellerSecrets(
                kid="k2",
                challenge_keys={"k1": b"\x0a" * 32, "k2": b"\x0b" * 32},
                preimage_key=b"\x0c" * 32,
            ),
            limits=SellerLimits(**limits),
            require_preimage=require_preimage,
        )

    return make
