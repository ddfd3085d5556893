"""Set-ups only the embedded network can be given: a longer line, and tokens."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.errors import Money, NoRoute
from infern.core.fiber import rpc
from infern.core.fiber.errors import FiberUnauthorized
from infern.core.fiber.types import InvoiceRecord
from infern.core.ids import PaymentHash
from infern.core.units import Network
from infern.devnet.fiber import (
    NetworkSettings,
    NodeSettings,
    ThreeNodes,
    serve,
    three_nodes,
    violations,
)

pytestmark = pytest.mark.timeout(120)

CKB = 100_000_000


def _world(node_settings: NodeSettings | None = None) -> ThreeNodes:
    return three_nodes(
        secrets.token_bytes(32),
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(speed=20),
        node_settings=node_settings,
    )


@asynccontextmanager
async def _line_of_four() -> AsyncIterator[tuple[FiberRpcClient, FiberRpcClient]]:
    """consumer → hub → provider → far; yields the ends."""
    world = _world()
    far = world.network.add_node("far")
    world.network.open_ready_channel(world.provider, far, 2_000 * CKB)
    async with (
        serve(world.network) as endpoints,
        FiberRpcClient(endpoints.rpc_urls["consumer"]) as payer,
        FiberRpcClient(endpoints.rpc_urls["far"]) as payee,
    ):
        yield payer, payee
    assert violations(world.network) == []


async def _invoice(node: FiberRpcClient, amount: int) -> InvoiceRecord:
    return await node.call(rpc.NewInvoice(amount=amount, network=Network.DEV, expiry_s=3_600))


async def test_two_forwarders_charge_from_the_payee_backwards() -> None:
    async with _line_of_four() as (payer, payee):
        record = await _invoice(payee, 1_000_000)
        dry = rpc.SendPayment(invoice=record.invoice_text, dry_run=True)
        assert (await payer.call(dry)).fee == 1_000 + 1_001


async def test_a_tiny_amount_over_two_forwarders_needs_a_generous_rate() -> None:
    async with _line_of_four() as (payer, payee):
        record = await _invoice(payee, 100)
        with pytest.raises(NoRoute):
            await payer.call(rpc.SendPayment(invoice=record.invoice_text))
        dry = rpc.SendPayment(
            invoice=record.invoice_text, max_fee_amount=2, max_fee_rate_per_thousand=20,
            dry_run=True,
        )  # fmt: skip
        assert (await payer.call(dry)).fee == 2


PROVIDER_FACTS = {
    'read("node")', 'read("invoices")', 'write("invoices")', 'read("channels")',
}  # fmt: skip


async def test_a_token_allows_what_its_facts_say() -> None:
    world = _world(NodeSettings(tokens={"seller-token": PROVIDER_FACTS}))
    async with serve(world.network) as endpoints:
        url = endpoints.rpc_urls["provider"]
        async with FiberRpcClient(url, token="seller-token") as seller:
            record = await _invoice(seller, 5)
            await seller.call(rpc.GetInvoice(payment_hash=record.invoice.payment_hash))
            await seller.call(rpc.ListChannels())
            keysend = rpc.SendPayment(target=world.hub.pubkey, amount=1, keysend=True)
            for call in (keysend, rpc.ListPayments(), rpc.GraphNodes(), rpc.ListPeers()):
                with pytest.raises(FiberUnauthorized) as caught:
                    await seller.call(call)
                assert caught.value.money is Money.UNMOVED
            # The subscription is another right: waiting falls back to sleeping.
            await seller.wait_change(PaymentHash(bytes(32)), timeout_ms=20)


@pytest.mark.parametrize("token", [None, "another"])
async def test_without_the_token_nothing_is_allowed(token: str | None) -> None:
    world = _world(NodeSettings(tokens={"seller-token": PROVIDER_FACTS}))
    async with (
        serve(world.network) as endpoints,
        FiberRpcClient(endpoints.rpc_urls["provider"], token=token) as client,
    ):
        with pytest.raises(FiberUnauthorized):
            await client.call(rpc.GetNodeInfo())
