"""Three Fiber nodes in a line, embedded or real: the suite does not know which.

Real ones: `FNN_RPC_URLS=payer,hub,payee` with ready public channels payer → hub → payee, some
tens of CKB on the left side of each, and `FNN_NETWORK` (default `dev`).
"""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.errors import InfernError, JsonValue
from infern.core.fiber import rpc
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.fiber.pay import PayInvoice
from infern.core.fiber.types import (
    Channel,
    InvoiceRecord,
    InvoiceStatus,
    NodeInfo,
    PaymentRecord,
    PaymentStatus,
)
from infern.core.ids import PaymentHash, Preimage, Pubkey
from infern.core.units import Network
from infern.devnet.fiber import (
    NetworkSettings,
    NodeSettings,
    ThreeNodes,
    Version,
    serve,
    three_nodes,
    violations,
)

T = TypeVar("T")

PATIENCE_S = 60
"""How long a state that must come is waited for; only a failing test takes it."""


@dataclass(frozen=True, slots=True)
class RawCall:
    """A call the typed client would refuse to build; its result is not read."""

    method: str
    members: list[JsonValue]
    idempotent: bool = False

    def params(self) -> list[JsonValue]:
        return self.members

    def parse(self, result: JsonValue) -> JsonValue:
        return result


@dataclass(slots=True)
class Trio:
    """payer → hub → payee."""

    payer: FiberRpcClient
    hub: FiberRpcClient
    payee: FiberRpcClient
    network: Network
    infos: dict[str, NodeInfo] = field(default_factory=dict)
    world: ThreeNodes | None = None
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def reveals_preimage(self) -> bool:
        return self.infos["payer"].reveals_preimage

    def key(self, name: str) -> Pubkey:
        return self.infos[name].pubkey

    async def invoice(
        self, amount: int = 1_000_000, *, node: FiberRpcClient | None = None, **more: Any
    ) -> tuple[InvoiceRecord, Preimage]:
        """An ordinary invoice at the payee."""
        preimage = Preimage(secrets.token_bytes(32))
        call = rpc.NewInvoice(
            amount=amount, network=self.network, preimage=preimage,
            hash_algorithm=HashAlgorithm.SHA256, **{"expiry_s": 3_600} | more,
        )  # fmt: skip
        return await (node or self.payee).call(call), preimage

    async def hold_invoice(
        self, amount: int = 1_000_000, **more: Any
    ) -> tuple[InvoiceRecord, Preimage]:
        """A hold invoice at the payee."""
        preimage = Preimage(secrets.token_bytes(32))
        call = rpc.NewInvoice(
            amount=amount, network=self.network, hash_algorithm=HashAlgorithm.SHA256,
            payment_hash=PaymentHash(hashlib.sha256(preimage).digest()),
            **{"expiry_s": 3_600, "final_expiry_delta_ms": 12_600_000} | more,
        )  # fmt: skip
        return await self.payee.call(call), preimage

    async def held(self, amount: int = 1_000_000) -> tuple[InvoiceRecord, Preimage]:
        """A hold invoice the payer's money is locked for."""
        record, preimage = await self.hold_invoice(amount)
        await self.payer.call(rpc.SendPayment(invoice=record.invoice_text))
        await self.until_invoice(record, InvoiceStatus.RECEIVED)
        return record, preimage

    async def until_invoice(self, record: InvoiceRecord, status: InvoiceStatus) -> None:
        call = rpc.GetInvoice(payment_hash=record.invoice.payment_hash)
        await until(lambda: self.payee.call(call), lambda found: found.status is status)

    async def until_payment(
        self,
        payment_hash: PaymentHash,
        status: PaymentStatus = PaymentStatus.SUCCESS,
        *,
        node: FiberRpcClient | None = None,
    ) -> PaymentRecord:
        call = rpc.GetPayment(payment_hash=payment_hash)
        return await until(
            lambda: (node or self.payer).call(call), lambda found: found.status is status
        )

    async def channels(self) -> dict[str, Channel]:
        """The two channels as each of their ends sees them."""
        at_payer = await self.payer.call(rpc.ListChannels(pubkey=self.key("hub")))
        at_hub_in = await self.hub.call(rpc.ListChannels(pubkey=self.key("payer")))
        at_hub_out = await self.hub.call(rpc.ListChannels(pubkey=self.key("payee")))
        at_payee = await self.payee.call(rpc.ListChannels(pubkey=self.key("hub")))
        return {
            "payer": at_payer[0],
            "hub_in": at_hub_in[0],
            "hub_out": at_hub_out[0],
            "payee": at_payee[0],
        }

    async def idle_channels(self) -> dict[str, Channel]:
        """The channels once every TLC has been removed at both ends."""
        return await until(
            self.channels, lambda rows: all(not row.pending_tlcs for row in rows.values())
        )

    async def raw(self, node: FiberRpcClient, method: str, *members: JsonValue) -> JsonValue:
        return await node.call(RawCall(method, list(members)))

    def payment(self, record: InvoiceRecord, **more: Any) -> PayInvoice:
        amount = record.invoice.amount
        assert amount is not None
        options = {"max_fee_amount": amount // 100 + 10, "timeout_ms": PATIENCE_S * 1_000} | more
        return PayInvoice(
            invoice_text=record.invoice_text,
            payment_hash=record.invoice.payment_hash,
            amount=amount,
            **options,
        )

    async def pass_time_ms(self, duration_ms: int) -> None:
        """Let the nodes' clock run on."""
        if self.world is None:
            await asyncio.sleep(duration_ms / 1_000)
        else:
            self.world.network.clock.advance_ms(duration_ms)

    @staticmethod
    def now_ms() -> int:
        return time.monotonic_ns() // 1_000_000

    def embedded(self) -> ThreeNodes:
        """The embedded world; tests that break things skip real nodes."""
        if self.world is None:
            pytest.skip("destructive or slow: runs on the embedded network only")
        return self.world


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Look until the answer is good; a query that fails ends the test."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        found = await look()
        if good(found):
            return found
        if time.monotonic() > deadline_s:
            pytest.fail(f"what must come did not come; last seen: {found!r}")
        await asyncio.sleep(0.003)


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[Any]]:
    return until


@pytest.fixture(
    params=[
        pytest.param(Version.V0_8_0, id="embedded-0.8.0"),
        pytest.param(Version.V0_9_1, id="embedded-0.9.1"),
        pytest.param(None, id="real", marks=pytest.mark.real),
    ]
)
async def fiber_trio(request: pytest.FixtureRequest) -> AsyncIterator[Trio]:
    if request.param is None:
        async for trio in _real_trio():
            yield trio
        return
    world = three_nodes(
        secrets.token_bytes(32),
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(speed=20),
        node_settings=NodeSettings(version=request.param),
    )
    async with serve(world.network) as endpoints:
        urls = [endpoints.rpc_urls[name] for name in ("consumer", "hub", "provider")]
        trio = await _connected(urls, Network.DEV)
        trio.world = world
        yield trio
        await _close(trio)
    assert violations(world.network) == []


async def _real_trio() -> AsyncIterator[Trio]:
    urls = [url for url in os.environ.get("FNN_RPC_URLS", "").split(",") if url]
    if len(urls) != 3:
        pytest.skip("FNN_RPC_URLS names no three fnn nodes (payer,hub,payee): NOT TESTED for real")
    trio = await _connected(urls, Network(os.environ.get("FNN_NETWORK", "dev")))
    yield trio
    await _close(trio)


async def _connected(urls: list[str], network: Network) -> Trio:
    payer, hub, payee = (FiberRpcClient(url) for url in urls)
    trio = Trio(payer=payer, hub=hub, payee=payee, network=network)
    for name, node in (("payer", payer), ("hub", hub), ("payee", payee)):
        trio.infos[name] = await node.call(rpc.GetNodeInfo())
    trio.urls = dict(zip(("payer", "hub", "payee"), urls, strict=True))
    await trio.idle_channels()
    return trio


async def _close(trio: Trio) -> None:
    for node in (trio.payer, trio.hub, trio.payee):
        await node.aclose()


@pytest.fixture
def refused() -> Callable[[Awaitable[Any], type[InfernError]], Awaitable[Any]]:
    """Await something that must raise; returns the error."""

    async def check(doing: Awaitable[Any], kind: type[InfernError]) -> InfernError:
        with pytest.raises(kind) as caught:
            await doing
        return caught.value

    return check
