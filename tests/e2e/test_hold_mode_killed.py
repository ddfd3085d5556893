"""A real agent in a process of its own, killed with SIGKILL while it has payments in hold mode."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import anyio
import httpx2
import pytest

from infern.cli.demo_world import MODEL, DemoWorld, demo_world
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import MODE_HEADER, Offer, parse_offer
from infern.core.fiber.rpc import GetInvoice, GetPayment, ListChannels, SendPayment
from infern.core.fiber.types import InvoiceStatus, PaymentStatus
from infern.core.ids import PaymentHash
from infern.core.ledger.books import violations

T = TypeVar("T")
PATH = "/v1/chat/completions"
WAIT_S = 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def world() -> AsyncIterator[DemoWorld]:
    async with demo_world(upstream=None, upstream_model="") as made:
        yield made


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    with anyio.fail_after(WAIT_S):
        while not good(found := await look()):
            await anyio.sleep(0.05)
    return found


class Payer:
    """One request in hold mode: its payment is on its way, and its proof."""

    def __init__(self, world: DemoWorld, question: str) -> None:
        self._world = world
        self._url = world.provider.url + PATH
        self._node = world.nodes["consumer"]
        self._body = json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 60,
                "stream": True,
            }
        ).encode()
        self._headers = {"content-type": "application/json"}
        self.payment_hash = PaymentHash(bytes(32))
        self.amount = 0

    async def pay(self) -> None:
        """Send the payment and wait until it is pending at the seller's node."""
        headers = {**self._headers, MODE_HEADER: "hold"}
        async with httpx2.AsyncClient(timeout=20) as http:
            asked = await http.post(self._url, content=self._body, headers=headers)
        offer = parse_offer(asked.content, self._url)
        assert isinstance(offer, Offer)
        self.payment_hash, self.amount = offer.challenge.payment_hash, offer.challenge.amount
        await self._node.call(
            SendPayment(
                invoice=offer.invoice, max_fee_amount=10_000, max_fee_rate_per_thousand=1_000_000
            )
        )
        self._headers["PAYMENT-SIGNATURE"] = proof_header(offer, preimage=None)
        call = GetInvoice(payment_hash=self.payment_hash)
        await until(
            lambda: self._world.nodes["provider"].call(call),
            lambda record: record.status is InvoiceStatus.RECEIVED,
        )

    async def read(self, *, until_content: bool = False) -> bytes:
        """Present the proof; the answer, or its beginning up to its first words."""
        seen = b""
        async with (
            httpx2.AsyncClient(timeout=30) as http,
            http.stream("POST", self._url, content=self._body, headers=self._headers) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            async for data in answer.aiter_raw():
                seen += data
                if until_content and b'"content"' in seen:
                    self._world.provider.kill()
                    break
        return seen

    async def ends(self) -> PaymentStatus:
        """What became of the payment, as the payer's own node says."""
        call = GetPayment(payment_hash=self.payment_hash)
        over = {PaymentStatus.SUCCESS, PaymentStatus.FAILED}
        record = await until(lambda: self._node.call(call), lambda found: found.status in over)
        return record.status


async def pending_tlcs(world: DemoWorld) -> int:
    channels = [await node.call(ListChannels()) for node in world.nodes.values()]
    return sum(len(channel.pending_tlcs) for found in channels for channel in found)


@pytest.mark.timeout(180)
async def test_a_killed_seller_takes_what_it_delivered_for_and_gives_back_the_rest(
    world: DemoWorld,
) -> None:
    waiting, cut, served = (Payer(world, f"What is Infern, number {n}?") for n in range(3))
    before = await world.balances()
    for payer in (waiting, cut, served):
        await payer.pay()

    # In mid-stream: what was sent is not charged by anybody, so all of it goes back.
    assert b"[DONE]" not in await cut.read(until_content=True)
    await world.provider.start()
    assert await cut.ends() is PaymentStatus.FAILED

    # A payment that only waited for its proof is good at the next life of the seller.
    assert b"[DONE]" in await waiting.read()
    assert await waiting.ends() is PaymentStatus.SUCCESS

    # At the last byte it may have booked the delivery or not; both sides agree on which.
    assert b"[DONE]" in await served.read()
    world.provider.kill()
    await world.provider.start()
    is_taken = await served.ends() is PaymentStatus.SUCCESS

    await until(lambda: pending_tlcs(world), lambda count: count == 0)
    after = await world.balances()
    world.provider.stop()
    books = await world.provider.books()
    assert violations(books) == []
    assert books.holds == ()
    assert sum(after.values()) == sum(before.values())
    taken = waiting.amount + (served.amount if is_taken else 0)
    assert after["provider"] - before["provider"] == taken
    assert sum(tab.deposited - tab.refunded for tab in books.tabs) == taken
