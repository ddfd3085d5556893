"""A whole seller on the embedded Fiber network, through its JSON-RPC: consumer, hub, provider.

Afterwards the seller's books and its node's channels must agree to the shannon.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import pytest

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.f402.credential import key_digest
from infern.core.f402.offer import Offer, parse_offer
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.fiber.keysend import NAME_RECORD
from infern.core.fiber.pay import PayInvoice
from infern.core.fiber.pay_drivers import pay
from infern.core.fiber.rpc import GetNodeInfo, ListChannels, ListPayments, NewInvoice
from infern.core.fiber.types import InvoiceRecord, PaymentRecord, PaymentStatus
from infern.core.ids import Preimage, Pubkey, parse_payment_hash
from infern.core.ledger.books import imbalances, violations
from infern.core.ledger.payout import Payout
from infern.core.units import CKB, Network
from infern.core.wire.strict_json import dumps
from infern.devnet.fiber import NetworkSettings, serve, three_nodes
from infern.devnet.fiber import violations as network_violations
from infern.seller.payouts import Pace
from infern.testing.asgi import HttpAnswer

T = TypeVar("T")
SPEED = 20
NAMES = ("consumer", "hub", "provider")
PAY_TIMEOUT_MS = 20_000
PATIENCE_S = 30
QUICK = replace(Pace(), sweep_ms=200, later_ms=(50, 100, 200), search_ms=50)
"""The desk's pace on a network that runs twenty times as fast."""


@dataclass(slots=True, kw_only=True)
class Live:
    """A seller at the provider's node, and the two other nodes."""

    world: Any
    net: Any
    nodes: dict[str, FiberRpcClient]
    keys: dict[str, Pubkey]
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    gifts: int = 0
    """Base units that were paid over what an invoice asked."""

    @property
    def node(self) -> FiberRpcClient:
        """The seller's."""
        return self.nodes["provider"]

    def fresh_id(self) -> str:
        return f"withdrawal-number-{next(self.numbers):04}-{secrets.token_hex(4)}"

    async def pay(self, text: str, payment_hash: bytes, amount: int) -> None:
        """The consumer pays an invoice."""
        payment = PayInvoice(
            invoice_text=text,
            payment_hash=parse_payment_hash(payment_hash.hex()),
            amount=amount,
            max_fee_amount=amount // 10 + 10,
            timeout_ms=PAY_TIMEOUT_MS,
        )
        await pay(self.nodes["consumer"], payment, now_ms=self.world.clock.now_ms)

    async def key(self, amount: int) -> str:
        """A prepaid key, topped up over Fiber."""
        got = await self.world.request("POST", "/v1/f402/keys", dumps({"amount": str(amount)}))
        assert got.status == 201, got.body
        made = got.json()
        topup: Any = made["topup"]
        await self.pay(topup["invoice"], bytes.fromhex(topup["payment_hash"]), amount)
        text = str(made["api_key"])

        async def balance() -> int:
            return int((await self.world.tab(text)).balance)

        await until(balance, lambda found: found == amount)
        return text

    async def paid(self, body: bytes, **headers: str) -> Offer:
        """An offer whose invoice the consumer paid."""
        offer = await self.offer(body, **headers)
        challenge = offer.challenge
        await self.pay(offer.invoice, challenge.payment_hash, challenge.amount)
        return offer

    async def offer(self, body: bytes, **headers: str) -> Offer:
        got = await self.world.chat(body, **headers)
        assert got.status == 402, got.body
        offer = parse_offer(got.body, self.world.public_url + "/v1/chat/completions")
        assert offer is not None
        return offer

    async def invoice(self, amount: int, *, node: str = "consumer", **more: Any) -> InvoiceRecord:
        """An invoice of one of the nodes."""
        call = NewInvoice(
            amount=amount,
            network=Network.DEV,
            preimage=Preimage(secrets.token_bytes(32)),
            hash_algorithm=HashAlgorithm.SHA256,
            **{"expiry_s": 3_600} | more,
        )
        return await self.nodes[node].call(call)

    async def withdraw(self, key: str, **body: Any) -> HttpAnswer:
        """Ask for a withdrawal; with an id of its own unless one is given."""
        asked = {"id": self.fresh_id(), **body}
        return await self.call("POST", "/v1/f402/withdraw", key, dumps(asked))

    async def call(self, method: str, path: str, key: str, body: bytes = b"") -> HttpAnswer:
        got: HttpAnswer = await self.world.request(
            method, path, body, {"authorization": f"Bearer {key}"}
        )
        return got

    async def local(self, name: str = "provider") -> int:
        """What a node has in its channels once nothing is on its way."""

        async def look() -> Any:
            return await self.nodes[name].call(ListChannels())

        channels = await until(look, lambda rows: not any(row.pending_tlcs for row in rows))
        return sum(row.local_balance for row in channels)

    async def payments(self) -> list[PaymentRecord]:
        """Everything the seller's node ever sent."""
        return list((await self.node.call(ListPayments(limit=500))).payments)

    async def payments_of(self, payout_id: str) -> list[PaymentRecord]:
        """Keysends that carry a payout's name."""
        return [p for p in await self.payments() if p.custom_records.get(NAME_RECORD) ==
                payout_id.encode()]  # fmt: skip

    async def payout_of(self, key: str, payout_id: str) -> Payout:
        """A payout of a key as the ledger has it."""
        record = await self.world.ledger.find_key(key_digest(key))
        found: list[Payout] = await self.world.ledger.payouts(record.tab_id, limit=100)
        (payout,) = [row for row in found if row.payout_id == payout_id]
        return payout

    async def until_settled(self) -> None:
        """Wait until no payout is open."""

        async def look() -> Any:
            return await self.world.ledger.open_payouts(limit=10)

        await until(look, lambda rows: rows == [])

    async def adds_up(self) -> None:
        """What the node has is what the seller owes and what it earned, to the shannon."""
        local = await self.local()
        totals = (await self.world.ledger.totals()).get(CKB)
        if totals is None:
            assert local == 0
            return
        assert imbalances({CKB: totals}) == []
        owned = totals.liability + totals.spent - (totals.locked - totals.unsettled)
        assert local == owned + self.gifts


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Look until the answer is good."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            found = await look()
            if good(found):
                return found
            await asyncio.sleep(0.005)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    return until


@pytest.fixture
async def make_live(make_world: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Makes a running seller on a network of its own."""
    async with AsyncExitStack() as stack:
        made: list[Live] = []

        async def make(*, runs: bool = True, **changes: Any) -> Live:
            net = three_nodes(
                secrets.token_bytes(32),
                signer_factory=CoincurveSigner,
                verifier=CoincurveVerifier(),
                settings=NetworkSettings(speed=SPEED),
            )
            endpoints = await stack.enter_async_context(serve(net.network))
            nodes = {
                name: await stack.enter_async_context(FiberRpcClient(endpoints.rpc_urls[name]))
                for name in NAMES
            }
            keys = {name: (await nodes[name].call(GetNodeInfo())).pubkey for name in NAMES}
            world = await make_world(fiber=nodes["provider"], pay_to=keys["provider"], **changes)
            world.parts.payouts._pace = QUICK
            if runs:
                await stack.enter_async_context(world.app._lifespan(None))
            made.append(Live(world=world, net=net, nodes=nodes, keys=keys))
            return made[-1]

        yield make
        for live in made:
            await live.adds_up()
            assert violations(await live.world.ledger.books()) == []
            assert network_violations(live.net.network) == []
            names = [p.custom_records.get(NAME_RECORD) for p in succeeded(await live.payments())]
            assert len(set(names) - {None}) == len([name for name in names if name is not None])


def succeeded(payments: Iterable[PaymentRecord]) -> list[PaymentRecord]:
    return [payment for payment in payments if payment.status is PaymentStatus.SUCCESS]


@pytest.fixture
async def live(make_live: Callable[..., Any]) -> Any:
    return await make_live()
