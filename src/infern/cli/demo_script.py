"""What the demo plays, in three chapters; every claim it prints is checked first.

The consumer is the product's own client, watched from outside: its wire, its node, its journal.
The second chapter uses the stock OpenAI client with a key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import openai

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.system import SystemClock
from infern.cli.demo_watch import WatchedNode, WatchedTransport
from infern.cli.demo_world import MODEL, DemoWorld
from infern.cli.story import Story, require
from infern.client.budget import Budget
from infern.client.openai import AsyncInfern
from infern.client.receipts import ReceiptStatus
from infern.client.wallet import Wallet
from infern.core.errors import InfernError
from infern.core.f402.client import ClientState
from infern.core.ledger.books import totals, violations
from infern.core.units import CKB, SHANNON_PER_CKB, Network, format_amount

QUESTION: Final = "Explain how a payment works step by step."
SHORT_QUESTION: Final = "What is Infern?"
LONG_QUESTION: Final = "Count from 1 to 50."
KILL_AFTER_CHUNKS: Final = 10
TOPUP_SHANNON: Final = SHANNON_PER_CKB


@dataclass(slots=True, kw_only=True)
class _Actors:
    """The consumer's side.

    Args:
        client: Pays per request, or with a key once it has one.
        wire: Counts what the client sent.
        node: Counts what the client paid.
        journal: The client's record of payments.
    """

    client: AsyncInfern
    wire: WatchedTransport
    node: WatchedNode
    journal: SqliteJournal


@asynccontextmanager
async def _consumer(world: DemoWorld, story: Story) -> AsyncIterator[_Actors]:
    journal = SqliteJournal(world.home / "journal")
    node = WatchedNode(world.nodes["consumer"], story)
    wire = WatchedTransport(story)
    wallet = Wallet(
        journal=journal,
        budget=Budget(),
        verifier=CoincurveVerifier(),
        clock=SystemClock(),
        network=Network.DEV,
        session="demo",
        node=node,
    )
    client = AsyncInfern(base_url=world.provider.url + "/v1", wallet=wallet, transport=wire)
    try:
        yield _Actors(client=client, wire=wire, node=node, journal=journal)
    finally:
        await client.close()
        journal.close()


async def play(world: DemoWorld, story: Story, *, model: str | None) -> str:
    """Play all chapters; returns the prepaid key that was made.

    Raises:
        StepFailed: Something the demo promises did not happen.
    """
    name = model or MODEL
    before = await world.balances()
    async with _consumer(world, story) as actors:
        await _pay_per_request(actors, story, name)
        key = await _prepaid(world, actors, story, name)
        await _killed(world, actors, story, name)
        await _accounts(world, actors, story, before)
    return key


def _ask(model: str, question: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }


async def _read(story: Story, stream: Any) -> str:
    pieces = []
    story.text("      ")
    async for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            pieces.append(piece)
            story.text(piece)
    story.line()
    return "".join(pieces)


async def _pay_per_request(actors: _Actors, story: Story, model: str) -> None:
    story.chapter("1. Pay one request: no account, no key")
    client = actors.client
    stream = await client.chat.completions.create(**_ask(model, QUESTION, 240))
    with story.step("the answer, streamed by llama.cpp through the provider agent") as facts:
        answer = await _read(story, stream)
        facts["characters"] = len(answer)
    require(len(answer) > 0, "an answer came")
    require(actors.wire.unpaid == 1 and actors.wire.proofs == 1, "one 402 and one proof went by")
    require(len(actors.node.paid) == 1, "exactly one payment was made")
    with story.step("the receipt, verified offline") as facts:
        check = client.f402.last_receipt
        require(check is not None, "the answer carried a receipt")
        assert check is not None
        require(check.status is ReceiptStatus.VERIFIED, f"the receipt verifies: {check.problems}")
        require(check.receipt is not None, "the receipt can be read")
        assert check.receipt is not None
        receipt = check.receipt.receipt
        facts["signed_by"] = "the provider's agent key, over request, response, tokens and charge"
        facts["tokens"] = f"{receipt.prompt_tokens} prompt, {receipt.completion_tokens} completion"
        facts["charged_shannon"] = receipt.charged
    row = actors.journal.attempts(limit=1)[0]
    require(row.state is ClientState.DELIVERED, "the journal says delivered")
    with story.step("the unspent part, redeemed to a new prepaid key") as facts:
        redeemed = await client.f402.redeem()
        credited = sum(each.credited for each in redeemed)
        facts["paid_shannon"] = row.amount
        facts["charged_shannon"] = receipt.charged
        facts["credited_shannon"] = credited
        require(credited == row.amount - receipt.charged, "paid = charged + credited")


async def _prepaid(world: DemoWorld, actors: _Actors, story: Story, model: str) -> str:
    story.chapter("2. A prepaid key and the stock OpenAI client")
    client = actors.client
    key = client.api_key
    with story.step("topped up over Fiber") as facts:
        topup = await client.f402.topup(TOPUP_SHANNON)
        before = await client.f402.balance()
        facts["amount_shannon"] = topup.amount
        facts["balance_shannon"] = before.balance
    stock = openai.AsyncOpenAI(base_url=world.provider.url + "/v1", api_key=key)
    with story.step("openai-python, unmodified, with api_key=inf_sk_…") as facts:
        answer = await _read(
            story, await stock.chat.completions.create(**_ask(model, SHORT_QUESTION, 64))
        )
        facts["characters"] = len(answer)
    await stock.close()
    require(len(answer) > 0, "the stock client got an answer")
    require(actors.wire.unpaid == 1, "the key needed no 402")
    with story.step("the key's books at the provider") as facts:
        after = await client.f402.balance()
        charged = before.balance - after.balance
        facts["charged_shannon"] = charged
        facts["balance_shannon"] = after.balance
        require(charged > 0 and after.held == 0, "the key was charged and nothing stays held")
    return key


async def _killed(world: DemoWorld, actors: _Actors, story: Story, model: str) -> None:
    story.chapter("3. The provider is killed in mid-stream")
    client = actors.client.copy(api_key="none")
    request = _ask(model, LONG_QUESTION, 200)
    payments = len(actors.node.paid)
    stream = await client.chat.completions.create(**request)
    with story.step(f"kill -9 after {KILL_AFTER_CHUNKS} pieces of the answer") as facts:
        pieces = await _read_and_kill(world, story, stream)
        facts["received"] = f"{pieces} pieces, then a broken connection"
    row = actors.journal.attempts(limit=1)[0]
    require(row.state is ClientState.UNREDEEMED, "the journal keeps the payment as unredeemed")
    require(len(actors.node.paid) == payments + 1, "the request was paid once")
    with story.step("the provider starts again and opens its books") as facts:
        await world.provider.start()
        facts["holds"] = "what the dead process held is released: nobody was charged"
    again = await client.chat.completions.create(**request)
    with story.step("the same request is answered by the same payment") as facts:
        answer = await _read(story, again)
        facts["new_payments"] = len(actors.node.paid) - payments - 1
        facts["characters"] = len(answer)
    require(len(actors.node.paid) == payments + 1, "nothing was paid a second time")
    await actors.client.f402.redeem()


async def _read_and_kill(world: DemoWorld, story: Story, stream: Any) -> int:
    pieces = 0
    story.text("      ")
    try:
        async for chunk in stream:
            piece = chunk.choices[0].delta.content if chunk.choices else None
            if piece:
                pieces += 1
                story.text(piece)
            if pieces == KILL_AFTER_CHUNKS:
                world.provider.kill()
    except (openai.APIError, httpx2.TransportError, InfernError):
        story.line(" ✂")
        return pieces
    story.line()
    require(condition=False, what="the stream broke when its provider was killed")
    return pieces


async def _accounts(
    world: DemoWorld, actors: _Actors, story: Story, before: dict[str, int]
) -> None:
    story.chapter("Every shannon accounted for")
    with story.step("channels and the provider's ledger, compared") as facts:
        after = await world.balances()
        fees = sum(payment.fee for payment in actors.node.paid.values())
        paid_out = before["consumer"] - after["consumer"]
        earned = after["provider"] - before["provider"]
        world.provider.stop()
        books = await world.provider.books()
        await world.provider.start()
        sums = totals(books)[CKB]
        facts["consumer_paid_shannon"] = paid_out
        facts["hub_fees_shannon"] = after["hub"] - before["hub"]
        facts["provider_received_shannon"] = earned
        facts["ledger"] = (
            f"received {format_amount(sums.received)} = spent {format_amount(sums.spent)} + "
            f"balances {format_amount(sums.balance)} + held {format_amount(sums.held)}"
        )
        require(violations(books) == [], f"the ledger adds up: {violations(books)}")
        require(earned == sums.received, "the ledger has exactly what the channels brought")
        require(paid_out == earned + fees, "the consumer paid what arrived and the hub's fees")
        require(after["hub"] - before["hub"] == fees, "the hub earned exactly its fees")
        require(sums.held == 0, "nothing stays held")
