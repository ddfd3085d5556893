"""x402 and pympp under the stock OpenAI client with default retries: one payment, whatever happens.

The frameworks are the real packages, the journal and the checks are ours; seller and node are
scripted, so that every fault can be had. `tests/clients` runs the same against a live provider.
"""

import asyncio
import subprocess
import sys
import time

import httpx
import openai
import pytest
from x402 import x402Client

from infern.client import mpp, x402
from infern.client.budget import Budget
from infern.client.receipts import ReceiptStatus
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Turn

MESSAGES = [{"role": "user", "content": "hi"}]
CAP = 1_000_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)


@pytest.fixture(autouse=True)
def _today(world):
    # pympp compares a challenge's expiry with the real time.
    world.clock.ms = int(time.time()) * 1000


@pytest.fixture(params=["x402", "mpp"])
def pays(request, world):
    """A stock client that pays by one of the frameworks, and its transport."""

    def make(**changes):
        wallet = world.wallet(**changes)
        if request.param == "mpp":
            transport = mpp.fiber_transport(wallet, inner=world.transport)
        else:
            transport = x402.fiber_transport(
                x402Client(), wallet, max_shannon=CAP, inner=world.transport
            )
        http = httpx.AsyncClient(transport=transport, follow_redirects=True)
        client = openai.AsyncOpenAI(
            base_url="https://router.test/v1", api_key="none", http_client=http
        )
        return client, transport

    make.header = {"mpp": "payment-authorization", "x402": "payment-signature"}[request.param]
    make.framework = request.param
    return make


async def ask(client, **options):
    return await client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=64, **options
    )


async def text_of(answer):
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


def proofs(world):
    names = {"payment-signature", "payment-authorization"}
    return [names & request.headers.keys() for request in world.seller.requests]


async def test_plain(world, pays):
    client, transport = pays()
    answer = await ask(client)
    assert answer.choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert transport.receipts.last.status is ReceiptStatus.VERIFIED
    # The framework's own proof bought it.
    assert proofs(world) == [set(), {pays.header}]


async def test_stream(world, pays):
    client, transport = pays()
    assert await text_of(await ask(client, stream=True)) == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert transport.receipts.last.status is ReceiptStatus.VERIFIED


async def test_a_node_that_tells_the_preimage(world, pays):
    world.node.preimage_of = world.seller.preimage_of
    client, _ = pays()
    assert (await ask(client)).choices[0].message.content == "Hello"


RECOVERS = [
    [Turn.UNAVAILABLE],
    [Turn.BROKEN, Turn.UNAVAILABLE],
    [Turn.PENDING, Turn.PENDING],
    [Turn.IN_PROGRESS],
    [Turn.RESET],
    [Turn.RESET, Turn.RESET],
    [Turn.RESET_AFTER],
    [Turn.HANG],
    [Turn.HANG_AFTER, Turn.HANG],
    [Turn.CUT],
    [Turn.UNAVAILABLE, Turn.RESET, Turn.PENDING, Turn.HANG_AFTER],
    [Turn.UNAVAILABLE] * 6,
    [Turn.RESET] * 6,
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("turns", RECOVERS, ids=lambda turns: "+".join(t.name for t in turns))
async def test_faults_on_the_paid_leg_cost_one_payment(world, pays, turns, stream):
    world.seller.turns.extend(turns)
    client, _ = pays()
    content = None
    for _ in range(3):
        try:
            answer = await ask(client, stream=stream)
            content = await text_of(answer) if stream else answer.choices[0].message.content
            break
        except (openai.APIError, httpx.TransportError):
            assert len(world.node.paid) == 1
    assert content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert len(world.seller.delivered) == 1


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (Turn.ASK_AGAIN, "offer_refused"),
        (Turn.REFUSE, "invalid_challenge"),
        (Turn.REFUSE_ANEW, "invalid_challenge"),
        (Turn.BAD_REQUEST, "invalid_request"),
        (Turn.REDIRECT, "offer_refused"),
    ],
)
async def test_a_seller_that_keeps_refusing_is_paid_once(world, pays, turn, code):
    world.seller.turns.extend([turn] * 50)
    client, _ = pays()
    for attempt in range(3):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(client)
        assert caught.value.code == code
        headers = caught.value.response.headers
        assert headers["x-should-retry"] == "false"
        assert not {"payment-required", "www-authenticate"} & headers.keys()
        # The SDK repeated nothing: one more request, with the old proof.
        assert len(world.seller.requests) == 2 + attempt
    assert len(world.node.paid) == 1
    assert world.states() == ["unredeemed"]


async def test_another_client_of_the_journal_shows_the_old_payment(world, pays):
    world.seller.turns.extend([Turn.UNAVAILABLE] * 6)
    first, _ = pays()
    with pytest.raises(openai.APIStatusError):
        await ask(first)
    again, _ = pays()
    assert (await ask(again)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


async def test_equal_requests_side_by_side_are_two_needs(world, pays):
    client, _ = pays()
    answers = await asyncio.gather(*(ask(client) for _ in range(3)))
    assert [a.choices[0].message.content for a in answers] == ["Hello"] * 3
    assert len(world.node.paid) == 3
    assert world.states() == ["delivered"] * 3


@pytest.mark.parametrize(
    "lie",
    ["another invoice", "another payee", "another request", "another realm", "another refund",
     "dearer"],
)  # fmt: skip
async def test_a_false_offer_is_refused_once_and_not_paid(world, pays, lies, lie):
    world.seller.lie = lies[lie]
    client, _ = pays()
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.code == "offer_refused"
    assert world.node.calls == []
    assert len(world.seller.requests) == 1


async def test_a_header_that_offers_something_else_than_the_body(world, pays, monkeypatch):
    from infern.testing import scripted_seller

    client, _ = pays()
    seen = []
    real = (
        scripted_seller.offer_headers
        if pays.framework == "x402"
        else (scripted_seller.announced_headers)
    )

    def other(offer, **named):
        seen.append(offer)
        return real(seen[0], **named)

    monkeypatch.setattr(scripted_seller, real.__name__, other)
    await ask(client)
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.code == "offer_refused"
    assert len(world.node.paid) == 1


async def test_the_budget_holds(world, pays):
    client, _ = pays(budget=Budget(per_session=0))
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.code == "budget_exceeded"
    assert world.node.calls == []


async def test_without_a_node_nothing_is_paid_and_the_402_is_readable(world, pays):
    client, _ = pays(node=None)
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.status_code == 402
    assert len(world.seller.requests) == 1


@pytest.mark.parametrize("send", [Send.NO_ROUTE, Send.FAIL])
async def test_a_payment_that_failed_is_said_so_and_may_be_made_again(world, pays, send):
    world.node.plan.append(send)
    client, _ = pays()
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.code in {"no_route", "payment_failed"}
    assert len(world.seller.requests) == 1
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


async def test_an_unknown_outcome_is_asked_for_and_not_paid_again(world, pays):
    world.node.plan.append(Send.STUCK)
    client, _ = pays()
    for _ in range(2):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(client)
        assert caught.value.code == "payment_outcome_unknown"
    assert world.node.calls.count("send_payment") == 1
    from infern.core.fiber.types import PaymentStatus

    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.SUCCESS)
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert world.node.calls.count("send_payment") == 1


async def test_cancelled_while_the_proof_is_out(world, pays):
    """What was paid stays on record and is free for the next request."""
    client, _ = pays()
    reached = asyncio.Event()
    real = world.transport.handle_async_request

    async def hang(request):
        if len(world.seller.requests) == 1:
            reached.set()
            await asyncio.Event().wait()
        return await real(request)

    world.transport.handle_async_request = hang
    task = asyncio.create_task(ask(client))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.states() == ["unredeemed"]
    world.transport.handle_async_request = real
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


async def test_other_requests_pass(world, pays):
    client, _ = pays()
    assert [model.id for model in (await client.models.list()).data] == ["m"]
    assert world.node.calls == []


async def test_x402_s_own_cap_says_no_before_anything_is_paid(world):
    transport = x402.fiber_transport(
        x402Client(), world.wallet(), max_shannon=10, inner=world.transport
    )
    http = httpx.AsyncClient(transport=transport)
    client = openai.AsyncOpenAI(base_url="https://router.test/v1", api_key="x", http_client=http)
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.code == "offer_refused"
    assert "max_amount_per_payment" in caught.value.message
    assert world.node.calls == []
    assert len(world.seller.requests) == 1


async def test_a_hook_of_the_user_s_that_raises_after_the_payment(world):
    """The framework drops the answer; the payment is shown again and not made again."""
    foreign = x402Client()
    fail = [True]

    def hook(context):
        if fail:
            fail.pop()
            raise RuntimeError("the user's hook")

    foreign.on_after_payment_creation(hook)
    transport = x402.fiber_transport(
        foreign, world.wallet(), max_shannon=CAP, inner=world.transport
    )
    http = httpx.AsyncClient(transport=transport)
    client = openai.AsyncOpenAI(base_url="https://router.test/v1", api_key="x", http_client=http)
    with pytest.raises(Exception, match="the user's hook"):
        await ask(client)
    assert world.states() == ["paid"]
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


async def test_a_hook_of_the_user_s_that_raises_after_the_answer(world):
    """The answer was there and nobody got it: its payment stays redeemable."""
    foreign = x402Client()
    fail = [True]

    async def hook(context):
        if fail:
            fail.pop()
            raise RuntimeError("the user's hook")

    foreign.on_payment_response(hook)
    transport = x402.fiber_transport(
        foreign, world.wallet(), max_shannon=CAP, inner=world.transport
    )
    http = httpx.AsyncClient(transport=transport)
    client = openai.AsyncOpenAI(base_url="https://router.test/v1", api_key="x", http_client=http)
    with pytest.raises(Exception, match="the user's hook"):
        await ask(client)
    assert world.states() == ["unredeemed"]
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


async def test_the_schemes_refuse_without_their_transport(world):
    from x402.http.clients import x402_httpx_transport

    client = x402.register_fiber(x402Client(), max_shannon=CAP)

    class Wire(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            from infern.client.foreign import _incoming, _outgoing

            outgoing = _outgoing(request, await request.aread())
            return _incoming(await world.transport.handle_async_request(outgoing))

    async with httpx.AsyncClient(transport=x402_httpx_transport(client, Wire())) as http:
        with pytest.raises(Exception, match="fiber_transport"):
            await http.post(
                "https://router.test/v1/chat/completions",
                json={"model": "m", "messages": MESSAGES, "max_tokens": 64},
            )
    assert world.node.calls == []


@pytest.mark.parametrize("cap", [0, -1, 2**63])
def test_the_cap_is_an_amount(cap):
    from infern.core.errors import ConfigError

    with pytest.raises(ConfigError):
        x402.fiber_asset(cap)


@pytest.mark.parametrize("package", ["x402", "mpp", "httpx"])
def test_without_the_package_the_error_says_what_to_install(package):
    for name in ("x402", "mpp") if package == "httpx" else (package,):
        code = f"import sys; sys.modules[{package!r}] = None; import infern.client.{name}"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert "pip install" in done.stderr
        assert f"'infern[{name}]'" in done.stderr
