"""A seller and a payer in hold mode over the embedded Fiber network; only the model is scripted.

Whatever a test does, afterwards the books balance, no hold and no lock is open, and what the nodes
have is what the ledger says, to the shannon.
"""

import contextlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.adapters.system import SystemClock, SystemEntropy
from infern.core.f402.credential import key_digest, make_key, proof_header
from infern.core.f402.offer import Offer, parse_offer
from infern.core.fiber import rpc
from infern.core.fiber.types import Channel, InvoiceStatus, PaymentStatus
from infern.core.ids import HoldId, PaymentHash, TabId
from infern.core.ledger.books import Totals, totals, violations
from infern.core.ledger.hold import HoldState
from infern.core.ledger.lock import Lock, LockState
from infern.core.ledger.payout import Payout
from infern.core.ledger.records import KeyRecord
from infern.core.ledger.tab import Tab
from infern.core.market.price import Price
from infern.core.units import CKB, Network
from infern.core.wire.bounds import ModelLimits
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.rewrite import Dialect
from infern.core.wire.strict_json import dumps
from infern.devnet.fiber import NetworkSettings, ThreeNodes, serve, three_nodes
from infern.devnet.fiber import violations as network_violations
from infern.provider.backend import ModelServerBackend
from infern.provider.config import ModelConfig
from infern.seller.app import SellerApp, assemble, open_books
from infern.seller.config import SellerConfig, SellerLimits, SellerSecrets
from infern.testing.asgi import HttpAnswer, HttpClient, exchange, scope_of
from infern.testing.scripted_model import ScriptedModel

CHAT = "/v1/chat/completions"
URL = "http://seller.test"
PATIENCE_S = 20
"""How long a state that must come is waited for; only a failing test takes it."""
MODEL = ModelConfig(
    name="m",
    upstream_name="upstream-m",
    price=Price(request_fee=1_000, input_per_mtok=200_000_000, output_per_mtok=600_000_000),
    limits=ModelLimits(context_tokens=8192, max_completion_tokens=64, default_completion_tokens=32),
    endpoints=frozenset(Endpoint),
    dialect=Dialect(),
)
LIMITS = SellerLimits(
    mint_burst=10_000,
    address_per_minute=10_000,
    mints_per_s=1_000,
    proof_wait_ms=20_000,
    locks_per_address=1_000,
)
AGENT = CoincurveSigner(b"\x22" * 32)
SECRETS = SellerSecrets(kid="k1", challenge_keys={"k1": b"\x0b" * 32}, preimage_key=b"\x0c" * 32)


class Gate:
    """The node's wire, on which calls of one method wait until the gate opens."""

    def __init__(self, fiber: Any, method: str) -> None:
        self._fiber, self._method = fiber, method
        self.opened = anyio.Event()
        self.reached = anyio.Event()

    async def call(self, call: Any, *, timeout_ms: int | None = None) -> Any:
        if call.method == self._method:
            self.reached.set()
            await self.opened.wait()
        return await self._fiber.call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        await self._fiber.wait_change(payment_hash, timeout_ms=timeout_ms)


class ShiftedClock(SystemClock):
    """The machine's clock, set forward by a test; waits stay real."""

    shift_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.shift_ms


@dataclass(slots=True, kw_only=True)
class HoldWorld:
    """consumer → hub → provider, and the provider's seller."""

    nodes: ThreeNodes
    consumer: FiberRpcClient
    provider: FiberRpcClient
    pay_to: Any
    path: Path
    group: Any
    limits: SellerLimits = LIMITS
    require_preimage: bool = False
    model: ScriptedModel = field(default_factory=ScriptedModel)
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    wrap_ledger: Callable[[Any], Any] = lambda ledger: ledger
    wrap_fiber: Callable[[Any], Any] = lambda fiber: fiber
    ledger: Any = None
    parts: Any = None
    app: Any = None
    at_start: dict[str, int] = field(default_factory=dict)
    fees: dict[PaymentHash, int] = field(default_factory=dict)
    returned: int = 0
    """Base units that reached the consumer's node as payouts."""
    is_channel_closed: bool = False
    _scope: Any = None
    _count: int = 0

    async def start(self) -> None:
        """Begin as a new process does."""
        self.ledger = SqliteLedger(self.path / "ledger.sqlite3")
        self.parts = assemble(
            SellerConfig(
                public_url=URL,
                network=Network.DEV,
                pay_to=self.pay_to,
                agent=AGENT.pubkey,
                secrets=SECRETS,
                limits=self.limits,
                require_preimage=self.require_preimage,
            ),
            backend=ModelServerBackend(
                self.model, (MODEL,), agent=AGENT.pubkey, genesis_hash=b"\x07" * 32, created_s=1
            ),
            ledger=self.wrap_ledger(self.ledger),
            fiber=self.wrap_fiber(self.provider),
            agent=AGENT,
            verifier=CoincurveVerifier(),
            clock=self.clock,
            entropy=SystemEntropy(),
        )
        self.app = SellerApp(self.parts)
        await open_books(self.parts)
        self._scope = anyio.CancelScope()
        await self.group.start(self._run, self._scope, self.parts, self.app)

    async def _run(
        self, scope: anyio.CancelScope, parts: Any, app: Any, *, task_status: Any
    ) -> None:
        # A killed process raises in its tasks; the world goes on without it.
        with scope, contextlib.suppress(BaseExceptionGroup):
            async with anyio.create_task_group() as group:
                app.answers.begin(group)
                task_status.started()
                group.start_soon(parts.locks.run)
                group.start_soon(parts.endings.run)
                group.start_soon(parts.payouts.run)
                group.start_soon(parts.leases.run)

    def kill(self) -> None:
        """End as a process that is killed does: nothing more happens, the file stays."""
        self._scope.cancel()
        self.ledger.close()

    async def restart(self) -> None:
        """Kill and begin again."""
        self.kill()
        await self.start()

    async def pass_ms(self, duration_ms: int) -> None:
        """Let time pass at the nodes and at the seller, and let the seller look around."""
        self.nodes.network.clock.advance_ms(duration_ms)
        self.clock.shift_ms += duration_ms
        await self.parts.locks.sweep()

    def close_channel(self) -> None:
        """The provider's node goes to the chain with its channel, as it does near an expiry."""
        network = self.nodes.network
        (channel,) = network.channels_of(self.nodes.provider)
        network.closing.force_close(channel, channel.index_of(self.nodes.provider))
        self.is_channel_closed = True

    # The consumer.

    def body(self, **members: Any) -> bytes:
        """A chat request nobody made before."""
        self._count += 1
        text = f"number {self._count:06}"
        chat = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
        return dumps({**chat, **members})

    async def request(
        self,
        body: bytes,
        *,
        client: HttpClient | None = None,
        address: str = "192.0.2.1",
        target: str = CHAT,
        **headers: str,
    ) -> HttpAnswer:
        """POST; `_` in header names is a dash, `proof` and `key` are the credentials."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if "key" in named:
            named["authorization"] = f"Bearer {named.pop('key')}"
        if "proof" in named:
            named["payment-signature"] = named.pop("proof")
        scope = scope_of("POST", target, list(named.items()), address=address)
        return await exchange(self.app, scope, body, client=client)

    async def request_with(self, headers: list[tuple[str, str]]) -> HttpAnswer:
        """POST with headers as they are."""
        return await exchange(self.app, scope_of("POST", CHAT, headers), self.body())

    async def offer(self, body: bytes, **more: str) -> Offer:
        """A 402 in hold mode."""
        got = await self.request(body, f402_mode="hold", **more)
        assert got.status == 402, got.body
        offer = parse_offer(got.body, URL + CHAT)
        assert offer is not None, got.body
        return offer

    async def send(self, offer: Offer) -> str:
        """Let the consumer's node send the payment; returns the proof without waiting for it."""
        call = rpc.SendPayment(
            invoice=offer.invoice, max_fee_amount=10_000, max_fee_rate_per_thousand=1_000_000
        )
        await self.consumer.call(call)
        return proof_header(offer, preimage=None)

    async def pay(self, body: bytes, **more: str) -> tuple[Offer, str]:
        """An offer whose payment is on its way, and its proof."""
        offer = await self.offer(body, **more)
        return offer, await self.send(offer)

    async def arrived(self, offer: Offer) -> None:
        """Wait until the payment is pending at the payee."""
        await self.invoice_is(offer.challenge.payment_hash, InvoiceStatus.RECEIVED)

    async def invoice_is(self, payment_hash: PaymentHash, status: InvoiceStatus) -> None:
        call = rpc.GetInvoice(payment_hash=payment_hash)
        await until(lambda: self.provider.call(call), lambda found: found.status is status)

    async def payment_is(self, offer: Offer, status: PaymentStatus) -> None:
        """Wait for the consumer's own node to say so."""
        call = rpc.GetPayment(payment_hash=offer.challenge.payment_hash)
        found = await until(lambda: self.consumer.call(call), lambda found: found.status is status)
        if status is PaymentStatus.SUCCESS:
            self.fees[offer.challenge.payment_hash] = found.fee

    async def wait_for(self, good: Callable[[list[Lock]], bool]) -> None:
        """Wait for the open locks to be as they should be."""
        await until(lambda: self.ledger.open_locks(limit=1_000), good)

    async def lock_is(self, offer: Offer, state: LockState) -> None:
        payment_hash = offer.challenge.payment_hash
        await until(
            lambda: self.ledger.lock(payment_hash),
            lambda found: found is not None and found.state is state,
        )

    async def is_taken(self, offer: Offer) -> None:
        """Wait until the payment is the seller's, here and there."""
        await self.lock_is(offer, LockState.SETTLED)
        await self.payment_is(offer, PaymentStatus.SUCCESS)

    async def is_given_back(self, offer: Offer) -> None:
        """Wait until the payment is the payer's again, here and there."""
        await self.lock_is(offer, LockState.CANCELLED)
        await self.payment_is(offer, PaymentStatus.FAILED)

    async def is_given_back_unpaid(self, offer: Offer) -> None:
        """Wait until an offer that nobody paid is over, here and there."""
        await self.lock_is(offer, LockState.CANCELLED)
        await self.invoice_is(offer.challenge.payment_hash, InvoiceStatus.CANCELLED)

    async def payment_succeeds(self, offer: Offer) -> None:
        await self.payment_is(offer, PaymentStatus.SUCCESS)

    async def key(self) -> str:
        """A prepaid key without money."""
        text = make_key(secrets.token_bytes(32))
        await self.ledger.create_key(
            KeyRecord(
                key_digest=key_digest(text),
                key_id="key_" + secrets.token_hex(13),
                tab_id=TabId("tab_" + secrets.token_hex(13)),
                session=secrets.token_bytes(16),
                asset=CKB,
                created_ms=self.clock.now_ms(),
            )
        )
        return text

    async def tab(self, key: str) -> Tab:
        record = await self.ledger.find_key(key_digest(key))
        tab: Tab = await self.ledger.tab(record.tab_id)
        return tab

    async def hold_state(self, hold_id: HoldId) -> HoldState:
        """Of any hold, also one that has ended."""
        with contextlib.closing(sqlite3.connect(self.path / "ledger.sqlite3")) as db:
            (state,) = db.execute(
                "SELECT state FROM holds WHERE hold_id = ?", (hold_id,)
            ).fetchone()
        return HoldState(state)

    async def redeem(self, offer: Offer, key: str) -> HttpAnswer:
        body = dumps({"challenge": offer.token})
        return await self.request(body, target="/v1/f402/redeem", key=key)

    async def payout_ends(self, tab_id: TabId) -> list[Payout]:
        """The payouts of a tab, when none is under way any more."""
        found: list[Payout] = await until(
            lambda: self.ledger.payouts(tab_id, limit=10),
            lambda payouts: payouts and not any(payout.is_open for payout in payouts),
        )
        return found

    # Money.

    async def sums(self) -> Totals:
        found = totals(await self.ledger.books())
        return found[CKB] if CKB in found else Totals(**dict.fromkeys(Totals.__slots__, 0))

    async def channels(self) -> dict[str, Channel]:
        (of_consumer,) = await self.consumer.call(rpc.ListChannels())
        (of_provider,) = await self.provider.call(rpc.ListChannels())
        return {"consumer": of_consumer, "provider": of_provider}

    async def idle_channels(self) -> dict[str, Channel]:
        return await until(
            self.channels, lambda rows: all(not row.pending_tlcs for row in rows.values())
        )

    async def check(self) -> None:
        """Everything has ended, and every shannon is where the ledger says."""
        await until(lambda: self.ledger.open_locks(limit=1_000), lambda locks: not locks)
        assert len(self.parts.endings) == 0
        books = await self.ledger.books()
        assert violations(books) == []
        assert books.holds == ()
        assert books.locks == ()
        assert network_violations(self.nodes.network) == []
        assert self.model.running == 0
        if self.is_channel_closed:
            return
        channels = await self.idle_channels()
        sums = await self.sums()
        gained = channels["provider"].local_balance - self.at_start["provider"]
        assert gained == sums.received - sums.returned - sums.sent
        paid = self.at_start["consumer"] - channels["consumer"].local_balance
        on_the_way_back = sums.sent - self.returned  # what the hub took of payouts
        assert paid == gained + sum(self.fees.values()) + on_the_way_back


T = Any


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Look until the answer is good; a query that fails ends the test."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        found = await look()
        if good(found):
            return found
        if time.monotonic() > deadline_s:
            pytest.fail(f"what must come did not come; last seen: {str(found)[-400:]}")
        await anyio.sleep(0.003)


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[Any]]:
    return until


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[HoldWorld]]]:
    nodes = three_nodes(
        secrets.token_bytes(32),
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(speed=50),
    )
    worlds: list[HoldWorld] = []
    found: list[BaseException] = []
    async with contextlib.AsyncExitStack() as stack:
        endpoints = await stack.enter_async_context(serve(nodes.network))
        urls = endpoints.rpc_urls
        consumer = await stack.enter_async_context(FiberRpcClient(urls["consumer"]))
        provider = await stack.enter_async_context(FiberRpcClient(urls["provider"]))
        info = await provider.call(rpc.GetNodeInfo())
        group = await stack.enter_async_context(anyio.create_task_group())

        async def make(*, limits: Any = None, **more: Any) -> HoldWorld:
            world = HoldWorld(
                nodes=nodes,
                consumer=consumer,
                provider=provider,
                pay_to=info.pubkey,
                path=tmp_path,
                group=group,
                limits=replace(LIMITS, **(limits or {})),
                **more,
            )
            channels = await world.idle_channels()
            world.at_start = {name: row.local_balance for name, row in channels.items()}
            await world.start()
            worlds.append(world)
            return world

        yield make
        try:
            for world in worlds:
                await world.check()
        except (AssertionError, pytest.fail.Exception) as wrong:
            found.append(wrong)
        for world in worlds:
            world.kill()
        group.cancel_scope.cancel()
    # Out here, so that it is reported as it is and not as part of a group.
    if found:
        raise found[0]


@pytest.fixture
def gate() -> type[Gate]:
    return Gate


@pytest.fixture
async def world(make_world: Any) -> HoldWorld:
    return await make_world()  # type: ignore[no-any-return] # what it makes
