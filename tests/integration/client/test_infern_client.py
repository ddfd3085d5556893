"""`Infern` and `AsyncInfern`: paying transport, receipts, errors, `copy`."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from infern.client.budget import Budget
from infern.client.openai import AsyncInfern, Infern
from infern.client.receipts import ReceiptStatus
from infern.core.errors import (
    BudgetExceeded,
    InfernError,
    Money,
    NoRoute,
    PaymentError,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RemoteProtocolError,
)
from infern.core.fiber.types import PaymentStatus
from infern.testing.offers import TERMS
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Turn

MESSAGES = [{"role": "user", "content": "hi"}]
URL = "https://router.test/v1"
KEY = "inf_sk_" + "k" * 43


def sync_client(world, *, wallet=None, **options):
    return Infern(
        base_url=URL, wallet=wallet or world.wallet(), transport=world.transport, **options
    )


def async_client(world, *, wallet=None, **options):
    return AsyncInfern(
        base_url=URL, wallet=wallet or world.wallet(), transport=world.transport, **options
    )


def ask(client, **options):
    return client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=64, **options)


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_plain_and_stream(world):
    client = sync_client(world)
    assert ask(client).choices[0].message.content == "Hello"
    assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
    assert client.f402.receipt_of("req_1").receipt.receipt.charged == 2_000
    assert text_of(ask(client, stream=True)) == "Hello"
    assert client.f402.receipt_of("req_2").status is ReceiptStatus.VERIFIED
    assert len(world.node.paid) == 2
    assert world.states() == ["delivered", "delivered"]


async def test_async_plain_and_stream(world):
    client = async_client(world)
    assert (await ask(client)).choices[0].message.content == "Hello"
    chunks = [c.choices[0].delta.content async for c in await ask(client, stream=True)]
    assert "".join(chunks) == "Hello"
    assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
    assert world.states() == ["delivered", "delivered"]


def test_an_openai_account_in_the_environment_stays_there(world, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    ask(sync_client(world))
    sent = str([request.headers for request in world.seller.requests])
    assert "secret" not in sent


REPEATED = [
    [Turn.UNAVAILABLE, Turn.RESET, Turn.RESET_AFTER, Turn.PENDING],
    [Turn.RESET, Turn.RESET, Turn.BROKEN],
]


@pytest.mark.parametrize("turns", REPEATED)
def test_the_transport_repeats_the_proof_by_itself(world, turns):
    world.seller.turns.extend(turns)
    assert ask(sync_client(world)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    proofs = {r.headers.get("payment-signature") for r in world.seller.requests} - {None}
    assert len(proofs) == 1


@pytest.mark.parametrize("turns", REPEATED)
async def test_the_async_transport_repeats_the_proof_by_itself(world, turns):
    world.seller.turns.extend(turns)
    assert (await ask(async_client(world))).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


@pytest.mark.parametrize("turn", [Turn.UNAVAILABLE, Turn.PENDING, Turn.RESET, Turn.IN_PROGRESS])
def test_repeating_has_an_end_in_count_and_time(world, turn):
    world.seller.turns.extend([turn] * 1000)
    client = sync_client(world)
    before_ms = world.clock.ms
    with pytest.raises((openai.APIStatusError, openai.APIConnectionError)):
        ask(client)
    patience = client.wallet.patience
    assert len([r for r in world.seller.requests if "payment-signature" in r.headers]) == (
        patience.proofs
    )
    assert world.clock.ms - before_ms <= patience.prove_ms
    assert len(world.node.paid) == 1
    # What was paid is used by the next call.
    world.seller.turns.clear()
    assert ask(client).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


def test_a_retry_after_over_the_limit_is_not_waited_for(world):
    seconds = 3_600
    answer = world.seller.respond

    def respond(request):
        got = answer(request)
        if got.status == 425:
            return type(got)(
                status=425, headers={**got.headers, "retry-after": str(seconds)}, chunks=got.chunks
            )
        return got

    world.transport.seller = type("S", (), {"respond": staticmethod(respond)})()
    world.seller.turns.append(Turn.PENDING)
    with pytest.raises(openai.APIStatusError):
        ask(sync_client(world))
    assert sum(world.clock.waits) < 1_000


def test_a_timeout_is_the_callers_own_and_the_proof_waits(world):
    world.seller.turns.append(Turn.HANG_AFTER)
    client = sync_client(world)
    with pytest.raises(openai.APITimeoutError):
        ask(client)
    assert world.states() == ["unredeemed"]
    assert ask(client).choices[0].message.content == "Hello"
    assert (len(world.node.paid), world.seller.runs) == (1, 1)


def test_a_broken_stream_is_replayed_by_the_same_proof(world):
    world.seller.turns.append(Turn.CUT_AFTER)
    client = sync_client(world)
    with pytest.raises(openai.APIConnectionError):
        text_of(ask(client, stream=True))
    assert world.states() == ["unredeemed"]
    assert text_of(ask(client, stream=True)) == "Hello"
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


def test_an_error_inside_a_stream_that_charged_nothing_keeps_the_payment(world):
    world.seller.turns.append(Turn.STREAM_ERROR)
    client = sync_client(world)
    with pytest.raises(openai.APIError, match="away"):
        text_of(ask(client, stream=True))
    assert world.states() == ["unredeemed"]
    assert text_of(ask(client, stream=True)) == "Hello"
    assert len(world.node.paid) == 1


def test_a_stream_the_consumer_leaves_is_over(world):
    client = sync_client(world)
    stream = ask(client, stream=True)
    next(iter(stream))
    stream.close()
    assert world.states() == ["delivered"]


async def test_a_cancelled_stream_can_be_had_again(world):
    client = async_client(world)

    async def read():
        async for _ in await ask(client, stream=True):
            await asyncio.sleep(0)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await read()
    assert len(world.node.paid) == 1


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (Turn.FALSE_RECEIPT, "other bytes"),
        (Turn.NO_RECEIPT, "no receipt"),
        (Turn.DEAR_RECEIPT, "more than was agreed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_receipt_is_flagged_and_strict_clients_raise(world, turn, problem, stream, caplog):
    world.seller.turns.extend([turn, turn])
    client = sync_client(world)
    with caplog.at_level(logging.WARNING, logger="infern"):
        answer = ask(client, stream=stream)
        assert not stream or text_of(answer) == "Hello"
    assert problem in " ".join(client.f402.last_receipt.problems)
    assert problem in caplog.text
    strict = sync_client(world, strict_receipts=True)
    with pytest.raises(RemoteProtocolError, match=problem) as caught:
        text_of(ask(strict, stream=stream))
    assert caught.value.code == "receipt_mismatch"


def test_a_receipt_by_a_stranger_is_a_mismatch(world, make_signer):
    world.seller.agent = make_signer(9)
    wallet = world.wallet()
    from infern.client.wallet import Pinned

    pinned = {"https://router.test": Pinned(agents=frozenset({make_signer(8).pubkey}))}
    client = sync_client(world, wallet=world.wallet(pinned=pinned))
    ask(client)
    assert "not signed by this seller" in " ".join(client.f402.last_receipt.problems)
    del wallet


def test_a_prepaid_key_is_used_and_its_receipts_are_checked_against_the_model_list(world):
    world.seller.keys[KEY] = 10**9
    client = sync_client(world, api_key=KEY)
    for _ in range(2):
        ask(client)
        assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
    assert world.node.paid == []
    assert [r.target for r in world.seller.requests].count("/v1/models") == 1


@pytest.mark.parametrize(
    ("send", "error", "money", "state"),
    [
        (Send.NO_ROUTE, NoRoute, Money.UNMOVED, "payment_failed"),
        (Send.FAIL, PaymentFailed, Money.UNMOVED, "payment_failed"),
        (Send.STUCK, PaymentOutcomeUnknown, Money.UNKNOWN, "paying"),
    ],
)
def test_payment_failures_say_what_happened_to_the_money(world, send, error, money, state):
    world.node.plan.append(send)
    with pytest.raises(error) as caught:
        ask(sync_client(world))
    assert caught.value.money is money
    assert world.states() == [state]


@pytest.mark.parametrize("send", [Send.LOST, Send.UNHEARD])
def test_a_send_without_an_answer_is_looked_up(world, send):
    world.node.plan.append(send)
    assert ask(sync_client(world)).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


def test_a_stuck_payment_is_asked_for_and_never_paid_again(world):
    world.node.plan.append(Send.STUCK)
    client = sync_client(world)
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown):
            ask(client)
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.SUCCESS)
    assert ask(client).choices[0].message.content == "Hello"
    assert world.node.calls.count("send_payment") == 1


def test_a_stuck_payment_that_fails_later_makes_room_for_a_new_one(world):
    world.node.plan.append(Send.STUCK)
    client = sync_client(world)
    with pytest.raises(PaymentOutcomeUnknown):
        ask(client)
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.FAILED)
    assert ask(client).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


def test_a_node_that_is_away_pays_nothing_twice(world):
    world.node.is_down = True
    client = sync_client(world)
    with pytest.raises(InfernError) as caught:
        ask(client)
    assert (caught.value.code, caught.value.money) == ("fiber_unavailable", Money.UNMOVED)
    world.node.is_down = False
    assert ask(client).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


@pytest.mark.parametrize(
    "lie",
    ["another invoice", "dearer", "another request", "another payee", "another realm",
     "another refund"],
)  # fmt: skip
def test_abuse_38_a_lying_offer_is_not_paid(world, lie, lies):
    world.seller.lie = lies[lie]
    with pytest.raises(InfernError) as caught:
        ask(sync_client(world))
    assert caught.value.code in {"offer_refused", "invalid_invoice"}
    assert caught.value.money is Money.UNMOVED
    assert world.node.calls == []
    assert world.states() == []


def _asked(world, header="f402-refund-to"):
    """What each request said about remainders."""
    return [request.headers.get(header) for request in world.seller.requests]


def test_a_remainder_goes_where_the_wallet_says(world, make_signer):
    """Named once, in the first request; the token then carries it."""
    home = make_signer(9).pubkey
    client = sync_client(world, wallet=world.wallet(refund_to=home))
    ask(client)
    assert _asked(world) == [home.hex(), None]
    assert world.seller.offers[0].challenge.refund_to == home


def test_the_caller_of_a_request_may_name_another_node(world, make_signer):
    home, other = make_signer(9).pubkey, make_signer(8).pubkey
    client = sync_client(world, wallet=world.wallet(refund_to=home))
    ask(client, extra_headers={"F402-Refund-To": other.hex()})
    assert _asked(world)[0] == other.hex()
    assert len(world.node.paid) == 1


def test_nobody_is_told_of_a_node_unasked(world, make_signer):
    ask(sync_client(world))
    assert _asked(world) == [None, None]
    # A prepaid key gets what is left itself.
    world.seller.requests.clear()
    wallet = world.wallet(refund_to=make_signer(9).pubkey)
    ask(sync_client(world, wallet=wallet, api_key="inf_sk_" + "k" * 43))
    assert set(_asked(world)) == {None}


def test_abuse_27_a_relay_cannot_have_the_remainder_sent_to_itself(world, make_signer, lies):
    """Whether or not the client asked for its own way back."""
    world.seller.lie = lies["another refund"]
    for refund_to in (None, make_signer(9).pubkey):
        with pytest.raises(PaymentError) as caught:
            ask(sync_client(world, wallet=world.wallet(refund_to=refund_to)))
        assert caught.value.details["check"] == "refund"
    assert world.node.calls == []


def test_a_seller_that_sends_nothing_back_is_paid_all_the_same(world, make_signer, lies):
    world.seller.lie = lies["no refund"]
    ask(sync_client(world, wallet=world.wallet(refund_to=make_signer(9).pubkey)))
    assert len(world.node.paid) == 1


def test_budget_per_request(make_world):
    world = make_world(budget=Budget(per_request=TERMS.ceiling - 1))
    with pytest.raises(PaymentError) as caught:
        ask(sync_client(world))
    assert caught.value.details["check"] == "cap"
    assert world.node.calls == []


def test_budget_per_session_and_day(make_world):
    fee = Budget().fee_cap(TERMS.ceiling)
    world = make_world(budget=Budget(per_session=2 * (TERMS.ceiling + fee), per_day=10**18))
    client = sync_client(world)
    for _ in range(2):
        ask(client)
    # The real fee of 1 was less than its cap, which is not enough for a third payment.
    with pytest.raises(BudgetExceeded) as caught:
        ask(client)
    assert caught.value.details["window"] == "session"
    assert ask(sync_client(world)), "another session has its own cap"
    assert len(world.node.paid) == 3


def test_a_day_has_24_hours_and_counts_everybody(make_world):
    need = TERMS.ceiling + Budget().fee_cap(TERMS.ceiling)
    world = make_world(budget=Budget(per_day=need))
    ask(sync_client(world))
    with pytest.raises(BudgetExceeded) as caught:
        ask(sync_client(world))
    assert caught.value.details["window"] == "day"
    world.clock.ms += 24 * 3600 * 1000
    assert ask(sync_client(world))


def test_a_failed_payment_is_given_back_to_the_budget(make_world):
    need = TERMS.ceiling + Budget().fee_cap(TERMS.ceiling)
    world = make_world(budget=Budget(per_session=need))
    client = sync_client(world)
    world.node.plan.append(Send.NO_ROUTE)
    with pytest.raises(NoRoute):
        ask(client)
    assert ask(client)


def test_concurrent_requests_do_not_overspend_together(make_world):
    need = TERMS.ceiling + Budget().fee_cap(TERMS.ceiling)
    world = make_world(budget=Budget(per_day=3 * need))
    clients = [sync_client(world) for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        jobs = [pool.submit(ask, clients[i % 3]) for i in range(12)]
        errors = [job.exception() for job in jobs]
    assert len(world.node.paid) == errors.count(None) == 3
    assert all(isinstance(error, BudgetExceeded) for error in errors if error)


def test_equal_bodies_at_the_same_time_are_separate_requests(world):
    client = sync_client(world)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(client).id, range(8)))
    assert len(set(answers)) == 8
    assert len(world.node.paid) == 8
    assert set(world.states()) == {"delivered"}


async def test_equal_bodies_at_the_same_time_are_separate_requests_async(world):
    client = async_client(world)
    answers = await asyncio.gather(*(ask(client) for _ in range(8)))
    assert len({answer.id for answer in answers}) == 8
    assert len(world.node.paid) == 8


def test_copies_share_wallet_and_receipts(world):
    client = sync_client(world)
    copied = client.with_options(max_retries=1, timeout=5.0)
    assert isinstance(copied, Infern)
    ask(copied)
    assert copied.wallet is client.wallet
    assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED


def test_without_a_node_the_402_is_the_callers(world):
    client = sync_client(world, wallet=world.wallet(sync_node=None))
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert caught.value.code == "payment_required"
    assert caught.value.status_code == 402
