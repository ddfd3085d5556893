"""Hold mode of every kind of client, against a scripted seller and node."""

import asyncio
import logging
from dataclasses import replace
from types import SimpleNamespace

import httpx2
import openai
import pytest

from infern import sdk
from infern.client.auth import F402Auth
from infern.client.budget import Budget
from infern.client.held import BUSY_MS, LATE_MS
from infern.client.openai import AsyncInfern, Infern
from infern.client.receipts import ReceiptStatus
from infern.client.wallet import Patience, PayMode
from infern.core.errors import (
    BudgetExceeded,
    ConfigError,
    Money,
    NoRoute,
    PaymentError,
    PaymentFailed,
    PaymentOutcomeUnknown,
)
from infern.core.f402.attempt import AttemptKind
from infern.core.f402.challenge import Mode
from infern.core.fiber.types import PaymentStatus
from infern.testing.offers import TERMS
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Turn

MESSAGES = [{"role": "user", "content": "hi"}]
URL = "https://router.test/v1"
KEY = "inf_sk_" + "k" * 43
PATIENT = Patience(proofs=4)


def client_of(world, mode=PayMode.HOLD, **changes):
    wallet = world.wallet(mode=mode, **changes)
    return Infern(base_url=URL, wallet=wallet, transport=world.transport)


def auth_client(world, **options):
    auth = F402Auth(world.wallet(), mode="hold", **options)
    http = httpx2.Client(transport=world.transport, auth=auth, follow_redirects=True)
    return openai.OpenAI(base_url=URL, api_key="none", http_client=http, max_retries=0)


def ask(client, **options):
    return client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=64, **options)


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_plain_and_stream_and_what_the_node_says_afterwards(world):
    client = client_of(world)
    assert ask(client).choices[0].message.content == "Hello"
    assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
    assert world.states() == ["settling"]
    assert text_of(ask(client, stream=True)) == "Hello"
    # The second payment looked after the first.
    assert sorted(world.states()) == ["delivered", "settling"]
    assert client.f402.held() == []
    assert world.states() == ["delivered", "delivered"]
    rows = client.wallet.journal.attempts(limit=9)
    assert {(row.mode, row.fee) for row in rows} == {(Mode.HOLD, 1)}
    assert world.seller.requests[0].headers["f402-mode"] == "hold"
    proofs = [r for r in world.seller.requests if "payment-signature" in r.headers]
    assert len(proofs) == 2
    assert not any("f402-mode" in request.headers for request in proofs)


def test_the_proof_goes_out_before_the_payment_has_succeeded(world):
    world.seller.is_idle = True
    assert ask(client_of(world)).choices[0].message.content == "Hello"
    assert world.node.paid == []
    (record,) = world.node.payments.values()
    assert record.status is PaymentStatus.INFLIGHT


async def test_async(world):
    client = AsyncInfern(
        base_url=URL, wallet=world.wallet(mode=PayMode.HOLD), transport=world.transport
    )
    answers = await asyncio.gather(ask(client), ask(client))
    assert [a.choices[0].message.content for a in answers] == ["Hello", "Hello"]
    assert await client.f402.held() == []
    assert world.states() == ["delivered", "delivered"]
    assert len(world.node.paid) == 2


def test_auth_under_a_stock_client(world):
    client = auth_client(world)
    assert ask(client).choices[0].message.content == "Hello"
    assert text_of(ask(client, stream=True)) == "Hello"
    assert sorted(world.states()) == ["delivered", "settling"]


@pytest.mark.parametrize("kind", ["transport", "auth"])
def test_a_run_that_fails_is_unpaid_and_quoted_anew(world, kind):
    client = client_of(world) if kind == "transport" else auth_client(world)
    world.seller.turns.append(Turn.FAIL)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert caught.value.code == "provider_failed"
    assert caught.value.body["money"] == "unmoved"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert world.states() == ["payment_failed"]
    assert ask(client).choices[0].message.content == "Hello"
    assert sorted(world.states()) == ["payment_failed", "settling"]
    assert len(world.node.paid) == 1


@pytest.mark.parametrize(
    "turns",
    [[Turn.UNAVAILABLE], [Turn.PENDING] * 3, [Turn.RESET], [Turn.IN_PROGRESS], [Turn.BROKEN]],
)
def test_troubles_on_the_way_repeat_the_same_proof(world, turns):
    world.seller.turns.extend(turns)
    assert ask(client_of(world)).choices[0].message.content == "Hello"
    assert world.states() == ["settling"]
    assert len(world.node.payments) == 1


@pytest.mark.parametrize("turn", [Turn.BAD_REQUEST, Turn.REFUSE, Turn.ASK_AGAIN, Turn.REDIRECT])
def test_a_refused_proof_is_at_stake_until_the_payment_is_back(world, turn):
    world.seller.turns.append(turn)
    client = client_of(world)
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown) as caught:
            ask(client)
        assert caught.value.money is Money.UNKNOWN
        assert caught.value.details["amount"] == str(TERMS.ceiling)
        assert caught.value.details["since"] == "2023-11-14 22:13 UTC"
        assert caught.value.details["until"] == "2023-11-28 22:13 UTC"
    assert world.states() == ["returning"]
    assert len(world.node.sends) == 1
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.FAILED)
    assert ask(client).choices[0].message.content == "Hello"
    assert sorted(world.states()) == ["payment_failed", "settling"]


def test_a_seller_that_refuses_and_takes_it_owes_it(world):
    world.seller.turns.append(Turn.BAD_REQUEST)
    client = client_of(world)
    with pytest.raises(PaymentOutcomeUnknown):
        ask(client)
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.SUCCESS)
    # Paid and unanswered: the same request presents the proof, as with upfront payment.
    assert ask(client).choices[0].message.content == "Hello"
    assert world.states() == ["delivered"]
    assert len(world.node.sends) == 1


def test_a_seller_that_takes_it_at_once_and_refuses_is_named(world):
    world.node.plan.append(Send.STUCK)
    client = client_of(world)
    settle = world.node.settle

    def take(request):
        for payment_hash in world.node.payments:
            settle(payment_hash, PaymentStatus.SUCCESS)
        return respond(request)

    respond = world.seller.respond
    world.seller.turns.append(Turn.BAD_REQUEST)
    world.transport.seller = SimpleNamespace(respond=take)
    with pytest.raises(PaymentError, match="took the payment") as caught:
        ask(client)
    assert caught.value.money is Money.MOVED
    assert world.states() == ["unredeemed"]


def test_an_answer_that_was_lost_is_not_paid_for_again_until_the_caller_knows(world):
    world.seller.turns.extend([Turn.RESET_AFTER])
    client = client_of(world)
    assert ask(client).choices[0].message.content == "Hello"  # the scripted seller replays
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


def test_what_was_answered_and_given_back_costs_nothing(world):
    world.seller.is_idle = True
    client = client_of(world)
    ask(client)
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.FAILED)
    assert client.f402.held() == []
    assert world.states() == ["payment_failed"]
    spent = client.wallet.journal.spent(session=client.wallet.session, now_ms=world.clock.ms)
    assert (spent.session, spent.day, spent.locked, spent.locks) == (0, 0, 0, 0)


@pytest.mark.parametrize("how", [Send.NO_ROUTE, Send.REFUSED])
def test_a_payment_that_was_never_sent_is_no_lock(world, how):
    world.node.plan.append(how)
    client = client_of(world)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the code says which
        ask(client)
    assert caught.value.money is Money.UNMOVED
    assert world.states() == ["payment_failed"]
    assert ask(client).choices[0].message.content == "Hello"


def test_a_payment_that_fails_on_its_way_ends_the_exchange_unpaid(world):
    world.node.plan.append(Send.FAIL)
    client = client_of(world)
    with pytest.raises((PaymentFailed, NoRoute)) as caught:
        ask(client)
    assert caught.value.money is Money.UNMOVED
    assert world.states() == ["payment_failed"]


# Whether and how.


def test_hold_mode_that_is_not_to_be_had_never_falls_back_by_itself(world):
    world.seller.has_hold_mode = False
    with pytest.raises(PaymentError, match="mode='upfront'") as caught:
        ask(client_of(world))
    assert (caught.value.code, caught.value.money) == ("hold_unavailable", Money.UNMOVED)
    assert caught.value.details["reason"] == "channels"
    assert world.node.sends == []
    with pytest.raises(openai.APIStatusError) as rendered:
        ask(auth_client(world))
    assert rendered.value.code == "hold_unavailable"
    assert ask(client_of(world, PayMode.HOLD_OR_UPFRONT)).choices[0].message.content == "Hello"
    assert world.states() == ["delivered"]


@pytest.mark.parametrize("asked", [PayMode.HOLD, PayMode.UPFRONT])
def test_an_offer_in_another_mode_than_asked_for_is_refused(world, asked):
    other = Mode.UPFRONT if asked is PayMode.HOLD else Mode.HOLD

    def swap(offer):
        world.seller.lie = None
        digest = offer.challenge.digest
        headers = {"f402-mode": other.value}
        request = replace(world.seller.requests[-1], headers=headers)
        world.seller._quote(request, digest)
        return world.seller.offers.pop()

    world.seller.lie = swap
    with pytest.raises(PaymentError) as caught:
        ask(client_of(world, asked))
    assert caught.value.details["check"] == "mode"
    assert world.node.sends == []


def test_an_upfront_offer_will_do_for_who_said_so(world):
    client = client_of(world, PayMode.HOLD_OR_UPFRONT)
    respond = world.seller.respond

    def deaf(request):
        kept = {k: v for k, v in request.headers.items() if k != "f402-mode"}
        return respond(replace(request, headers=kept))

    world.transport.seller = SimpleNamespace(respond=deaf)
    assert ask(client).choices[0].message.content == "Hello"
    assert world.states() == ["delivered"]


def test_a_key_pays_whatever_the_mode(world):
    world.seller.keys[KEY] = 10**9
    client = client_of(world, budget=Budget(per_lock=1))
    client.api_key = KEY
    assert ask(client).choices[0].message.content == "Hello"
    # What one payment in hold mode may be is no cap for a key.
    assert world.seller.requests[-1].headers["f402-max-amount"] == str(Budget().per_request)
    assert world.node.sends == []


def test_the_caller_s_own_header_decides(world):
    client = client_of(world, PayMode.UPFRONT)
    ask(client, extra_headers={"F402-Mode": "hold"})
    assert world.states() == ["settling"]
    ask(client_of(world), extra_headers={"F402-Mode": "upfront"})
    assert sorted(world.states()) == ["delivered", "settling"]


def test_the_sdk_takes_the_mode_by_name(world, monkeypatch):
    client = sdk.Infern(base_url=URL, wallet=world.wallet(), mode="hold", transport=world.transport)
    ask(client)
    assert world.states() == ["settling"]
    assert client.copy().wallet.mode is PayMode.HOLD
    with pytest.raises(ConfigError, match="upfront, hold, hold_or_upfront"):
        sdk.Infern(base_url=URL, wallet=world.wallet(), mode="escrow")
    monkeypatch.setenv("INFERN_MODE", "hold_or_upfront")
    wallet = sdk.open_wallet()
    assert wallet.mode is PayMode.HOLD_OR_UPFRONT
    sdk.close_wallet(wallet)


# Limits.


@pytest.mark.parametrize(
    ("budget", "window"),
    [(Budget(locks=1), "locks"), (Budget(locked=2 * TERMS.ceiling), "locked")],
)
def test_what_is_held_at_once_is_capped_over_all_processes(world, budget, window):
    world.seller.is_idle = True
    ask(client_of(world, budget=budget))
    second = client_of(world, budget=budget)
    with pytest.raises(BudgetExceeded) as caught:
        ask(second)
    assert (caught.value.money, caught.value.details["window"]) == (Money.UNMOVED, window)
    assert len(world.node.sends) == 1
    lenient = client_of(world, PayMode.HOLD_OR_UPFRONT, budget=budget)
    assert ask(lenient).choices[0].message.content == "Hello"
    (payment_hash, *_) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.SUCCESS)
    assert ask(second).choices[0].message.content == "Hello"


def test_a_single_lock_is_capped_before_anything_is_offered(world):
    ask(client_of(world, budget=Budget(per_lock=TERMS.ceiling)))
    (asked, _) = world.seller.requests
    assert asked.headers["f402-max-amount"] == str(TERMS.ceiling)
    lenient = client_of(world, PayMode.HOLD_OR_UPFRONT, budget=Budget(per_lock=1))
    ask(lenient)
    assert sorted(world.states()) == ["delivered", "delivered"]


def test_no_budget_comes_near_what_a_channel_has_slots_for():
    with pytest.raises(ValueError, match="60"):
        Budget(locks=61)


def test_top_ups_are_never_in_hold_mode(world):
    rule = Budget(locks=0).admit(1_000, AttemptKind.TOPUP)
    client = client_of(world)
    rule(client.wallet.journal.spent(session="s", now_ms=world.clock.ms))


# Sellers that vanish.


def test_a_lock_without_an_end_is_shown_and_warned_of_once(world, caplog):
    world.seller.turns.extend([Turn.HANG] * 9)
    client = client_of(world)
    caplog.set_level(logging.WARNING, "infern.client")
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert "not answered" in caplog.text
    assert "until 2023-11-28" in caplog.text
    assert world.states() == ["held"]
    world.clock.ms += LATE_MS
    caplog.clear()
    for _ in range(3):
        (row,) = client.f402.held()
    assert (row.amount, row.origin) == (TERMS.ceiling, "https://router.test")
    assert caplog.text.count("does not end") == 1


def test_a_node_that_is_away_leaves_what_is_known(world, caplog):
    world.seller.is_idle = True
    client = client_of(world)
    ask(client)
    world.node.is_down = True
    with caplog.at_level(logging.WARNING, "infern.client"):
        (row,) = client.f402.held()
    assert row.state.value == "settling"
    assert "could not be looked up" in caplog.text


def test_a_row_of_a_process_that_died_while_paying_is_looked_after(world):
    world.node.plan.append(Send.STUCK)
    wallet = world.wallet(mode=PayMode.HOLD)
    client = Infern(base_url=URL, wallet=wallet, transport=world.transport)
    world.seller.turns.extend([Turn.HANG] * 9)
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    wallet.journal.drop()
    (payment_hash,) = world.node.payments
    world.node.settle(payment_hash, PaymentStatus.FAILED)
    other = client_of(world)
    assert len(other.f402.held()) == 1  # perhaps somebody's, so soon
    world.clock.ms += BUSY_MS
    assert other.f402.held() == []
    assert world.states() == ["payment_failed"]
