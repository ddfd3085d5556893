"""The client against a live provider over the embedded Fiber network: nothing is scripted."""

import asyncio
import contextlib
from dataclasses import replace

import httpx2
import openai
import pytest

from infern.adapters.system import SystemClock
from infern.client.auth import F402Auth
from infern.client.budget import Budget
from infern.client.journal import AttemptKind
from infern.client.receipts import ReceiptStatus
from infern.core.errors import BudgetExceeded, InfernError, Money, PaymentError
from infern.core.f402.client import ClientState
from infern.core.fiber.rpc import GetNodeInfo, NewInvoice
from infern.core.ids import Pubkey
from infern.core.ledger.payout import fee_cap_of, largest_payout
from infern.core.units import Network
from infern.proxy.app import ProxyApp
from infern.proxy.config import Prepaid, ProxyConfig
from infern.sdk import AsyncInfern, Infern, close_wallet, open_wallet

STRANGER = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")

ASK = {
    "model": "infern-tiny",
    "messages": [{"role": "user", "content": "What is Infern?"}],
    "max_tokens": 16,
    "temperature": 0,
}


@pytest.fixture
def wallet(live, tmp_path):
    made = open_wallet(
        fiber_rpc_url=live.world.rpc_urls["consumer"], network=Network.DEV, home=tmp_path
    )
    yield made
    made.sync_node.close()
    made.journal.close()


@contextlib.asynccontextmanager
async def client_of(live, wallet, **options):
    client = AsyncInfern(base_url=live.base_url, wallet=wallet, strict_receipts=True, **options)
    try:
        yield client
    finally:
        await client.close()
        await wallet.node.aclose()


def states(wallet):
    return [row.state for row in wallet.journal.attempts(limit=20)]


def test_sync_infern_pays_per_request(live, wallet):
    with Infern(base_url=live.base_url, wallet=wallet, strict_receipts=True) as client:
        plain = client.chat.completions.create(**ASK)
        assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
        streamed = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**ASK, stream=True)
            if chunk.choices
        )
        assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
    assert plain.choices[0].message.content == streamed != ""
    assert states(wallet) == [ClientState.DELIVERED] * 2


def test_a_stock_sync_client_pays_by_f402_auth(live, wallet):
    auth = F402Auth(wallet)
    with httpx2.Client(auth=auth) as http:
        client = openai.OpenAI(base_url=live.base_url, api_key="none", http_client=http)
        assert client.chat.completions.create(**ASK).choices[0].message.content
    assert auth.receipts.last.status is ReceiptStatus.VERIFIED
    assert states(wallet) == [ClientState.DELIVERED]


async def test_a_stock_async_client_pays_by_f402_auth(live, wallet):
    auth = F402Auth(wallet)
    async with httpx2.AsyncClient(auth=auth) as http:
        client = openai.AsyncOpenAI(base_url=live.base_url, api_key="none", http_client=http)
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    await wallet.node.aclose()
    assert auth.receipts.last.status is ReceiptStatus.VERIFIED
    assert states(wallet) == [ClientState.DELIVERED]


async def test_a_prepaid_key_from_making_to_redeeming(live, wallet):
    async with client_of(live, wallet) as client:
        await client.chat.completions.create(**ASK)
        paid = wallet.journal.attempts(limit=1)[0]
        charged = client.f402.last_receipt.receipt.receipt.charged

        made = await client.f402.create_key()
        assert wallet.journal.keys(live.base_url.removesuffix("/v1"))[0].api_key == made.api_key
        done = await client.f402.topup(50_000_000)
        assert done.amount == (await client.f402.balance()).balance == 50_000_000

        await client.chat.completions.create(**ASK)
        assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
        books = await client.f402.balance()
        assert books.spent == client.f402.last_receipt.receipt.receipt.charged
        assert books.held == 0
        page = await client.f402.receipts(limit=5)
        assert len(page["data"]) == 1

        # What the first request left over comes to the key, once, however often it is asked for.
        for _ in range(2):
            assert [r.credited for r in await client.f402.redeem()] == [paid.amount - charged]
        after = await client.f402.balance()
        assert after.balance == books.balance + paid.amount - charged


async def test_a_payment_never_presented_is_redeemed_as_credit(live, wallet):
    async with client_of(live, wallet) as client:
        await client.chat.completions.create(**ASK)
        row = wallet.journal.attempts(limit=1)[0]
        assert await client.f402.redeem()
        # The same row as a crash between payment and proof would leave it.
        wallet.journal._db.execute("UPDATE attempts SET state = 'unredeemed'")
        redeemed = await client.f402.redeem()
        assert [r.payment_hash for r in redeemed] == [row.payment_hash.hex()]
        assert states(wallet) == [ClientState.REDEEMED_ELSEWHERE]


async def test_what_a_lost_answer_left_over_is_redeemed(live, wallet):
    """The seller says `already_delivered`: the answer is gone, most of the payment is not."""
    async with client_of(live, wallet) as client:
        await client.chat.completions.create(**ASK)
        wallet.journal._db.execute("UPDATE attempts SET state = 'redeemed_elsewhere'")
        row = wallet.journal.attempts(limit=1)[0]
        (redeemed,) = await client.f402.redeem()
        assert redeemed.payment_hash == row.payment_hash.hex()
        assert 0 < redeemed.credited < row.amount


async def test_a_payment_of_unknown_outcome_is_looked_up_and_redeemed(live, wallet):
    """Its proof is worth nothing any more, so no repeated request would ever ask the node."""

    class TwoDaysOn(SystemClock):
        def now_ms(self):
            return super().now_ms() + 2 * 86_400_000

    async with client_of(live, wallet) as client:
        await client.chat.completions.create(**ASK)
        wallet.journal._db.execute("UPDATE attempts SET state = 'paying', preimage = NULL")
        row = wallet.journal.attempts(limit=1)[0]
        assert await client.f402.redeem() == []
        client.wallet = replace(wallet, clock=TwoDaysOn())
        (redeemed,) = await client.f402.redeem()
        assert redeemed.payment_hash == row.payment_hash.hex()
        assert 0 < redeemed.credited < row.amount
        assert states(wallet) == [ClientState.REDEEMED_ELSEWHERE]


async def test_top_ups_are_within_the_budget(live, wallet, tmp_path):
    small = Budget(per_topup=20_000)
    async with client_of(live, wallet) as client:
        client.wallet = open_wallet(home=tmp_path / "other", budget=small, network=Network.DEV)
        await client.f402.create_key()
        with pytest.raises(BudgetExceeded):
            await client.f402.topup(20_001)
        client.wallet.journal.close()


def test_without_a_key_account_calls_say_what_to_do(live, wallet):
    client = Infern(base_url=live.base_url, wallet=wallet)
    with pytest.raises(InfernError, match="create_key"):
        client.f402.balance()
    client.close()


def test_sync_account(live, wallet):
    with Infern(base_url=live.base_url, wallet=wallet, strict_receipts=True) as client:
        client.f402.create_key()
        assert client.f402.topup(10_000_000).amount == 10_000_000
        assert client.chat.completions.create(**ASK).choices
        assert 0 < client.f402.balance().balance < 10_000_000
        assert client.f402.redeem() == []


async def test_money_is_taken_out_of_a_key(live, wallet):
    async with client_of(live, wallet) as client:
        await client.f402.create_key()
        await client.f402.topup(50_000_000)
        before = await _balance(live)
        done = await client.f402.withdraw(20_000_000)
        assert (done.state, done.amount, done.failure) == ("settled", 20_000_000, "")
        assert await _balance(live) == before + 20_000_000
        books = await client.f402.balance()
        assert books.balance == 30_000_000 - done.fee
        assert (books.refunded, books.owed) == (20_000_000 + done.fee, 0)
        # The same id is the same withdrawal.
        wish = {"amount": 1_000_000, "withdrawal_id": "one-and-the-same-wish"}
        first, second = [await client.f402.withdraw(**wish) for _ in "ab"]
        assert first == second
        rest = await client.f402.withdraw()
        assert [row.payout_id for row in await client.f402.withdrawals()] == [
            rest.payout_id, first.payout_id, done.payout_id,
        ]  # fmt: skip
        with pytest.raises(InfernError) as caught:
            await client.f402.withdraw(20_000_000)
        assert caught.value.code == "insufficient_balance"


def test_sync_withdrawals(live, wallet):
    with Infern(base_url=live.base_url, wallet=wallet) as client:
        client.f402.create_key()
        client.f402.topup(10_000_000)
        record = live.run(live.world.nodes["consumer"].call(
            NewInvoice(amount=3_000_000, network=Network.DEV, expiry_s=600)))  # fmt: skip
        done = client.f402.withdraw(invoice=record.invoice_text)
        assert (done.state, done.amount) == ("settled", 3_000_000)
        assert done.payment_hash == record.invoice.payment_hash.hex()
        with pytest.raises(PaymentError) as caught:
            client.f402.withdraw(100_000, to=Pubkey(STRANGER))
        assert (caught.value.code, caught.value.money) == ("no_route", Money.UNMOVED)
        assert [row.state for row in client.f402.withdrawals()] == ["returned", "settled"]
        assert client.f402.balance().held == 0


async def test_what_a_request_did_not_cost_comes_back_by_itself(live, tmp_path):
    wallet = open_wallet(
        fiber_rpc_url=live.world.rpc_urls["consumer"], network=Network.DEV,
        home=tmp_path / "refunded", refund_to="node",
    )  # fmt: skip
    assert wallet.refund_to == (await wallet.node.call(GetNodeInfo())).pubkey
    before = await _balance(live)
    async with client_of(live, wallet) as client:
        answer = await client.chat.completions.create(**ASK)
        assert answer.f402["remainder_to"] == "refund"
        row = wallet.journal.attempts(limit=1)[0]
        remainder = int(answer.f402["remainder"])
        back = largest_payout(remainder)
        for _ in range(400):
            if await _balance(live) == before - row.amount - row.fee + back:
                break
            await asyncio.sleep(0.05)
        assert await _balance(live) == before - row.amount - row.fee + back
        # The part of the fee cap that routing left is all there is to redeem.
        (redeemed,) = await client.f402.redeem()
        assert 0 <= redeemed.credited <= fee_cap_of(back)
    close_wallet(wallet)


async def _balance(live):
    """The consumer's, once nothing is on its way."""
    return (await asyncio.to_thread(live.run, live.world.balances()))["consumer"]


async def test_the_proxy_keeps_a_prepaid_key_topped_up(live, wallet):
    token = "inf_proxy_" + "t" * 32
    prepaid = Prepaid(threshold=1_000_000, amount=2_000_000)
    config = ProxyConfig(base_url=live.base_url, token=token, prepaid=prepaid)
    app = ProxyApp(config, wallet)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport) as http:
        client = openai.AsyncOpenAI(
            base_url="http://127.0.0.1:8402/v1", api_key=token, http_client=http
        )
        answers = [await client.chat.completions.create(**ASK) for _ in range(2)]
        answers += await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(3)))
        status = (
            await http.get("http://127.0.0.1:8402/", headers={"authorization": f"Bearer {token}"})
        ).json()
    await app.aclose()
    await wallet.node.aclose()
    assert all(answer.choices[0].message.content for answer in answers)
    rows = wallet.journal.attempts(limit=20)
    assert {row.kind for row in rows} == {AttemptKind.TOPUP}
    assert len(rows) == 1
    assert 0 < int(status["balance"]) < 2_000_000
