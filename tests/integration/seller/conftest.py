"""A whole seller in memory: real ledger, scripted Fiber node and model server.

Whatever a test does, afterwards the books must balance and no hold may be open.
"""

import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.adapters.system import SystemClock, SystemEntropy
from infern.core.f402.credential import key_digest, make_key, proof_header
from infern.core.f402.digest import request_digest
from infern.core.f402.offer import Offer, decode_header_json, parse_offer
from infern.core.f402.receipt import Receipt, parse_receipt, response_root
from infern.core.ids import PaymentHash, RequestId, TabId
from infern.core.ledger.books import violations
from infern.core.ledger.records import KeyRecord, Topup, TopupState
from infern.core.ledger.tab import Tab
from infern.core.market.price import Price
from infern.core.units import CKB, Network
from infern.core.wire.bounds import ModelLimits
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.rewrite import Dialect
from infern.core.wire.strict_json import dumps
from infern.ports import FiberNode, Ledger
from infern.provider.backend import ModelServerBackend
from infern.provider.config import ModelConfig
from infern.seller.app import SellerApp, assemble, open_books
from infern.seller.config import SellerConfig, SellerLimits, SellerSecrets
from infern.testing.asgi import HttpAnswer, HttpClient, exchange, scope_of
from infern.testing.scripted_model import ScriptedModel
from infern.testing.scripted_payee import ScriptedPayee

CHAT = "/v1/chat/completions"
PRICE = Price(request_fee=1_000, input_per_mtok=200_000_000, output_per_mtok=600_000_000)
MODEL = ModelConfig(
    name="m",
    upstream_name="upstream-m",
    price=PRICE,
    limits=ModelLimits(
        context_tokens=8192, max_completion_tokens=64, default_completion_tokens=32, max_n=3
    ),
    endpoints=frozenset(Endpoint),
    dialect=Dialect(),
)
LIMITS = SellerLimits(
    body_timeout_ms=2_000,
    linger_ms=500,
    first_byte_timeout_ms=2_000,
    idle_timeout_ms=2_000,
    total_timeout_ms=20_000,
    keepalive_ms=1_000,
    stall_timeout_ms=1_000,
    mint_burst=10_000,
    address_per_minute=10_000,
    topups_per_minute=10_000,
    proof_wait_ms=200,
    open_requests=2_000,
)
SECRETS = SellerSecrets(kid="k1", challenge_keys={"k1": b"\x0b" * 32}, preimage_key=b"\x0c" * 32)


@dataclass(slots=True, kw_only=True)
class SellerWorld:
    """The seller, its parts, and what a consumer needs to deal with it."""

    path: Path
    model: ScriptedModel = field(default_factory=ScriptedModel)
    clock: SystemClock = field(default_factory=SystemClock)
    models: tuple[ModelConfig, ...] = (MODEL,)
    limits: SellerLimits = LIMITS
    public_url: str = "http://seller.test"
    require_preimage: bool = False
    fiber: Any = None
    pay_to: Any = None
    agent: CoincurveSigner = field(default_factory=lambda: CoincurveSigner(b"\x22" * 32))
    node: CoincurveSigner = field(default_factory=lambda: CoincurveSigner(b"\x11" * 32))
    wrap: Callable[[Ledger], Any] = lambda ledger: ledger
    ledger: Any = None
    parts: Any = None
    app: Any = None
    payee: Any = None
    group: Any = None
    numbers: Any = field(default_factory=itertools.count)

    async def start(self) -> None:
        """Open the ledger and put the seller together, as a new process does."""
        self.payee = self.payee or ScriptedPayee(signer=self.node, clock=self.clock)
        fiber: FiberNode = self.fiber or self.payee
        self.ledger = SqliteLedger(self.path / "ledger.sqlite3")
        self.reassemble(fiber)
        await open_books(self.parts)

    def reassemble(self, fiber: FiberNode | None = None) -> None:
        """Make the app again, with the configuration as it stands now."""
        self.parts = assemble(
            SellerConfig(
                public_url=self.public_url,
                network=Network.DEV,
                pay_to=self.pay_to or self.node.pubkey,
                agent=self.agent.pubkey,
                secrets=SECRETS,
                limits=self.limits,
                require_preimage=self.require_preimage,
            ),
            backend=ModelServerBackend(
                self.model,
                self.models,
                agent=self.agent.pubkey,
                genesis_hash=b"\x07" * 32,
                created_s=1,
            ),
            ledger=self.wrap(self.ledger),
            fiber=fiber or self.fiber or self.payee,
            agent=self.agent,
            verifier=CoincurveVerifier(),
            clock=self.clock,
            entropy=SystemEntropy(),
        )
        self.app = SellerApp(self.parts)
        self.app.answers.begin(self.group)

    async def stop(self) -> None:
        """End in good order."""
        self.ledger.close()

    def body(self, text: str = "hi", **members: Any) -> bytes:
        """A chat request of 16 tokens at most."""
        chat = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
        return dumps({**chat, **members})

    def fresh_body(self, **members: Any) -> bytes:
        """A chat request nobody made before."""
        return self.body(f"number {next(self.numbers):06}", **members)

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | list[bytes] = b"",
        headers: dict[str, str] | None = None,
        *,
        client: HttpClient | None = None,
        address: str = "192.0.2.1",
    ) -> HttpAnswer:
        scope = scope_of(method, target, list((headers or {}).items()), address=address)
        return await exchange(self.app, scope, body, client=client)

    async def chat(
        self, body: bytes, *, client: HttpClient | None = None, target: str = CHAT, **headers: str
    ) -> HttpAnswer:
        """POST to a priced endpoint; `key` and `proof` become headers, `_` in names a dash."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if "key" in named:
            named["authorization"] = f"Bearer {named.pop('key')}"
        if "proof" in named:
            named["payment-signature"] = named.pop("proof")
        return await self.request("POST", target, body, named, client=client)

    async def quiet(self) -> None:
        """Wait until no answer is made any more: they outlive their connections."""
        while self.app.answers.under_way:
            await anyio.sleep(0.001)

    async def key(self, balance: int) -> str:
        """A prepaid key with this balance, credited by a top-up."""
        text = make_key(secrets.token_bytes(32))
        record = KeyRecord(
            key_digest=key_digest(text),
            key_id="key_" + secrets.token_hex(13),
            tab_id=TabId("tab_" + secrets.token_hex(13)),
            session=secrets.token_bytes(16),
            asset=CKB,
            created_ms=self.clock.now_ms(),
        )
        await self.ledger.create_key(record)
        if balance:
            payment_hash = PaymentHash(secrets.token_bytes(32))
            topup = Topup(
                payment_hash=payment_hash,
                tab_id=record.tab_id,
                key_id=record.key_id,
                amount=balance,
                invoice="fibd1",
                expires_ms=self.clock.now_ms() + 1_000,
                created_ms=self.clock.now_ms(),
            )
            await self.ledger.add_topup(topup, open_limit=1)
            await self.ledger.end_topup(payment_hash, TopupState.PAID, now_ms=self.clock.now_ms())
        return text

    async def tab(self, key: str) -> Tab:
        record = await self.ledger.find_key(key_digest(key))
        assert record is not None
        tab: Tab = await self.ledger.tab(record.tab_id)
        return tab

    async def offer(self, body: bytes, target: str = CHAT) -> Offer:
        """The 402 of a request that carries no payment."""
        got = await self.request("POST", target, body)
        assert got.status == 402, got.body
        offer = parse_offer(got.body, self.public_url + target)
        assert offer is not None
        return offer

    async def paid(self, body: bytes, target: str = CHAT) -> Offer:
        """An offer whose invoice was paid at the scripted node."""
        offer = await self.offer(body, target)
        self.payee.pay(offer.challenge.payment_hash)
        return offer

    async def proof(self, body: bytes, target: str = CHAT) -> str:
        """The header of a paid request."""
        return proof_header(await self.paid(body, target), preimage=None)

    async def redeem(self, token: str, key: str, **more: str) -> HttpAnswer:
        return await self.request(
            "POST",
            "/v1/f402/redeem",
            dumps({"challenge": token, **more}),
            {"authorization": f"Bearer {key}"},
        )

    def cost(self, prompt: int, completion: int) -> int:
        return self.models[0].price.cost(prompt, completion)

    async def quote(self, body: bytes, target: str = CHAT) -> int:
        """The ceiling of a request."""
        got = await self.request("POST", f"/v1/f402/quote?target={target}", body)
        assert got.status == 200, got.body
        quote = got.json()["quote"]
        assert isinstance(quote, dict)
        return int(str(quote["max"]))

    def checked_receipt(
        self, text: str, body: bytes, delivered: bytes, *, target: str = CHAT
    ) -> Receipt:
        """A receipt whose signature, request digest and response root are verified."""
        signed = parse_receipt(text)
        assert signed.is_signed_by(self.agent.pubkey, CoincurveVerifier())
        assert signed.receipt.req_hash == request_digest("POST", target, body)
        assert signed.receipt.resp_root == response_root([delivered])
        return signed.receipt

    def plain_receipt(self, got: HttpAnswer, body: bytes, *, target: str = CHAT) -> Receipt:
        """The checked receipt of a plain answer."""
        assert got.status == 200, got.body
        receipt = self.checked_receipt(got.headers["f402-receipt"], body, got.body, target=target)
        assert got.headers["f402-cost"] == str(receipt.charged)
        summary = got.json()["f402"]
        assert isinstance(summary, dict)
        assert summary["charged"] == str(receipt.charged)
        assert summary["prompt_tokens"] == receipt.prompt_tokens
        assert summary["completion_tokens"] == receipt.completion_tokens
        return receipt

    def stream_receipt(self, got: HttpAnswer, body: bytes) -> Receipt:
        """The checked receipt of a streamed answer: over all bytes before its own comment."""
        before, mark, rest = got.body.partition(b"\n: f402-receipt ")
        assert mark, got.body
        return self.checked_receipt(rest.split(b"\n", 1)[0].decode(), body, before + b"\n")

    async def stored_receipt(self, got: HttpAnswer) -> Receipt | None:
        """What the ledger kept of an answer."""
        stored = await self.ledger.receipt(RequestId(got.headers["x-request-id"]))
        return None if stored is None else Receipt.unpack(stored.packed)

    async def open_holds(self) -> int:
        return len((await self.ledger.books()).holds)

    async def spent(self) -> int:
        """Everything ever charged."""
        return sum(tab.spent for tab in (await self.ledger.books()).tabs)

    def payment_response(self, got: HttpAnswer) -> dict[str, Any]:
        return decode_header_json(
            got.headers["payment-response"], limit_chars=4096, code="malformed_proof"
        )

    def price(self, **changes: int) -> None:
        """The operator changes the price and restarts."""
        self.models = tuple(
            replace(model, price=replace(model.price, **changes)) for model in self.models
        )
        self.reassemble()

    def preimage_of(self, offer: Offer) -> Any:
        preimage = self.payee.preimages[offer.challenge.payment_hash]
        assert hashlib.sha256(preimage).digest() == offer.challenge.payment_hash
        return preimage


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    worlds: list[SellerWorld] = []

    async def make(**changes: Any) -> SellerWorld:
        path = tmp_path / f"seller{len(worlds)}"
        path.mkdir()
        limits = changes.pop("limits", {})
        world = SellerWorld(path=path, limits=replace(LIMITS, **limits), group=group, **changes)
        await world.start()
        worlds.append(world)
        return world

    async with anyio.create_task_group() as group:
        yield make
        group.cancel_scope.cancel()
    for world in worlds:
        books = await world.ledger.books()
        world.ledger.close()
        assert violations(books) == []
        assert books.holds == ()
        assert world.model.running == 0


@pytest.fixture
async def world(make_world: Callable[..., Any]) -> Any:
    return await make_world()
