"""A scripted world for the client: seller, Fiber node, clock, journal."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.adapters.sqlite_journal import SqliteJournal
from infern.client.budget import Budget
from infern.client.wallet import Wallet
from infern.core.f402.offer import Offer
from infern.core.fiber.types import PaymentStatus
from infern.core.units import Network
from infern.testing.offers import NOW_S, honest_invoice, offer_with
from infern.testing.scripted_node import AsyncScriptedNode, ScriptedNode
from infern.testing.scripted_seller import Break, ScriptedSeller, SellerAnswer, SellerRequest

PAYEE = CoincurveSigner(b"\x11" * 32)
AGENT = CoincurveSigner(b"\x22" * 32)
VERIFIER = CoincurveVerifier()


class ManualClock:
    def __init__(self) -> None:
        self.ms = NOW_S * 1000
        self.waits: list[int] = []

    def now_ms(self) -> int:
        return self.ms

    def wait_ms(self, duration_ms: int) -> None:
        self.waits.append(duration_ms)
        self.ms += duration_ms

    async def sleep_ms(self, duration_ms: int) -> None:
        self.wait_ms(duration_ms)


class _Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, answer: SellerAnswer, request: httpx2.Request) -> None:
        self._answer = answer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.chunks
        if self._answer.breaks is Break.CUT:
            raise httpx2.ReadError("cut", request=self._request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


class SellerTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """The scripted seller without a network, for both kinds of clients."""

    def __init__(self, seller: ScriptedSeller) -> None:
        self.seller = seller
        self.hosts: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return self._respond(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return self._respond(request)

    def _respond(self, request: httpx2.Request) -> httpx2.Response:
        # As a real transport does: what goes on the wire is `raw`.
        headers = {k.decode().lower(): v.decode() for k, v in request.headers.raw}
        self.hosts.append(request.url.host)
        answer = self.seller.respond(
            SellerRequest(
                method=request.method,
                target=request.url.raw_path.decode(),
                headers=headers,
                body=request.content,
            )
        )
        if answer.breaks is Break.RESET:
            raise httpx2.ReadError("reset", request=request)
        if answer.breaks is Break.HANG:
            raise httpx2.ReadTimeout("hang", request=request)
        return httpx2.Response(
            answer.status, headers=dict(answer.headers), stream=_Body(answer, request)
        )


@dataclass
class World:
    """A seller, a node, a clock and a journal directory; wallets made from them at will."""

    home: Path
    clock: ManualClock = field(default_factory=ManualClock)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        self.seller = ScriptedSeller(
            node=PAYEE, agent=AGENT, now_s=lambda: self.clock.ms // 1000, realm="router.test"
        )
        self.node = ScriptedNode(
            verifier=VERIFIER,
            now_ms=self.clock.now_ms,
            wait=self.clock.wait_ms,
            on_paid=self.seller.pay,
            holds=self.seller.holds,
            on_held=self.seller.arrive,
        )
        self.seller.on_taken = lambda h: self.node.settle(h, PaymentStatus.SUCCESS)
        self.seller.on_returned = lambda h: self.node.settle(h, PaymentStatus.FAILED)
        self.transport = SellerTransport(self.seller)
        self._sessions = itertools.count(1)
        self.journals: list[SqliteJournal] = []

    def wallet(self, **changes: object) -> Wallet:
        journal = SqliteJournal(self.home)
        self.journals.append(journal)
        wallet = Wallet(
            journal=journal,
            budget=self.budget,
            verifier=VERIFIER,
            clock=self.clock,
            network=Network.TESTNET,
            session=f"session-{next(self._sessions)}",
            node=AsyncScriptedNode(self.node),
            sync_node=self.node,
        )
        return replace(wallet, **changes)  # type: ignore[arg-type] # tests change what they like

    def states(self) -> list[str]:
        return [a.state.value for a in self.journals[-1].attempts(limit=100)]

    def close(self) -> None:
        for journal in self.journals:
            journal.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(home=tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**changes: object) -> World:
        worlds.append(World(home=tmp_path / f"home{len(worlds)}", **changes))  # type: ignore[arg-type]
        return worlds[-1]

    yield make
    for made in worlds:
        made.close()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def make_signer() -> Callable[[int], CoincurveSigner]:
    return lambda number: CoincurveSigner(bytes([number]) * 32)


def _remade(offer: Offer, **claims: object) -> Offer:
    """The offer with other claims, everything else made to agree."""
    challenge = replace(offer.challenge, **claims)  # type: ignore[arg-type]
    made = offer_with(challenge, honest_invoice(challenge), PAYEE)
    return replace(made, provider=offer.provider)


@pytest.fixture(scope="session")
def lies(make_signer: Callable[[int], CoincurveSigner]) -> dict[str, Callable[[Offer], Offer]]:
    thief = make_signer(7)

    def other_invoice(offer: Offer) -> Offer:
        other = replace(offer.challenge, pay_to=thief.pubkey)
        return replace(offer, invoice=offer_with(other, honest_invoice(other), thief).invoice)

    return {
        "another invoice": other_invoice,
        "dearer": lambda offer: _remade(offer, amount=offer.challenge.amount + 1),
        "another request": lambda offer: _remade(offer, digest=b"\x09" * 32),
        "another payee": lambda offer: replace(
            offer_with(
                replace(offer.challenge, pay_to=thief.pubkey),
                honest_invoice(offer.challenge),
                PAYEE,
            )
        ),
        "another realm": lambda offer: _remade(offer, issuer="other.test"),
        "no refund": lambda offer: _remade(offer, refund_to=None),
        "another refund": lambda offer: _remade(offer, refund_to=thief.pubkey),
    }
