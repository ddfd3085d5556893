"""A virtual clock, a scripted node and a configuration for a seller's parts."""

from collections.abc import Callable
from typing import Any

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
