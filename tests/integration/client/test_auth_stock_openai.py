"""Stock OpenAI clients with default retries over `F402Auth`: one payment, whatever happens."""

import httpx2
import openai
import pytest

from infern.client.auth import F402Auth
from infern.client.receipts import ReceiptStatus
from infern.testing.scripted_seller import Turn

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)


def sync_client(world, **changes):
    auth = F402Auth(world.wallet(**changes))
    http = httpx2.Client(transport=world.transport, auth=auth, follow_redirects=True)
    return openai.OpenAI(base_url="https://router.test/v1", api_key="none", http_client=http), auth


def async_client(world, **changes):
    auth = F402Auth(world.wallet(**changes))
    http = httpx2.AsyncClient(transport=world.transport, auth=auth, follow_redirects=True)
    client = openai.AsyncOpenAI(base_url="https://router.test/v1", api_key="none", http_client=http)
    return client, auth


def ask(client, **options):
    return client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=64, **options)


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_plain(world):
    client, auth = sync_client(world)
    assert ask(client).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert auth.receipts.last.status is ReceiptStatus.VERIFIED


def test_stream(world):
    client, auth = sync_client(world)
    assert text_of(ask(client, stream=True)) == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert auth.receipts.last.status is ReceiptStatus.VERIFIED


async def test_async_plain(world):
    client, auth = async_client(world)
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert auth.receipts.last.status is ReceiptStatus.VERIFIED


async def test_async_stream(world):
    client, auth = async_client(world)
    text = "".join(
        [chunk.choices[0].delta.content async for chunk in await ask(client, stream=True)]
    )
    assert text == "Hello"
    assert world.states() == ["delivered"]
    assert auth.receipts.last.status is ReceiptStatus.VERIFIED


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
    [Turn.CUT_AFTER],
    [Turn.UNAVAILABLE, Turn.RESET, Turn.PENDING, Turn.HANG_AFTER],
]


@pytest.mark.parametrize("turns", RECOVERS, ids=lambda turns: "+".join(t.name for t in turns))
def test_faults_on_the_paid_leg_cost_one_payment(world, turns):
    world.seller.turns.extend(turns)
    client, _ = sync_client(world)
    assert ask(client).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]
    assert world.seller.runs <= 2 if Turn.CUT in turns else world.seller.runs == 1


@pytest.mark.parametrize("turns", RECOVERS, ids=lambda turns: "+".join(t.name for t in turns))
async def test_faults_on_the_paid_leg_cost_one_payment_async(world, turns):
    world.seller.turns.extend(turns)
    client, _ = async_client(world)
    assert (await ask(client)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


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
def test_abuse_38_a_seller_that_keeps_refusing_is_paid_once(world, turn, code):
    world.seller.turns.extend([turn] * 50)
    client, _ = sync_client(world)
    for _ in range(3):
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        assert caught.value.code == code
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "payment-required" not in caught.value.response.headers
    assert len(world.node.paid) == 1
    assert world.states() == ["unredeemed"]


def test_an_answer_given_before_is_an_error_once_and_then_a_new_request(world):
    world.seller.turns.append(Turn.GONE)
    client, _ = sync_client(world)
    with pytest.raises(openai.ConflictError) as caught:
        ask(client)
    assert caught.value.code == "already_delivered"
    assert len(world.node.paid) == 1
    assert world.states() == ["redeemed_elsewhere"]
    assert ask(client).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 2


def test_abuse_37_a_proof_is_not_sent_to_the_target_of_a_redirect(world):
    world.seller.turns.append(Turn.REDIRECT)
    client, _ = sync_client(world)
    with pytest.raises(openai.APIStatusError):
        ask(client)
    thief = [
        r
        for r, host in zip(world.seller.requests, world.transport.hosts, strict=True)
        if host == "thief.test"
    ]
    assert len(thief) == 1, "the client followed, as it was told to"
    assert all("payment-signature" not in request.headers for request in thief)
