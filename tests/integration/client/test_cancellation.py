"""Tasks cancelled at any moment: a payment is never lost in a thread nobody waits for."""

import asyncio
import threading

import pytest

from infern.client.openai import AsyncInfern
from infern.core.errors import PaymentOutcomeUnknown
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Turn

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64}


class SlowJournal:
    """Holds one method up after its write, until the test lets it return."""

    def __init__(self, inner, slow, *, skip=0):
        self.inner = inner
        self.slow = slow
        self.skip = skip
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        if name != self.slow or self.go_on.is_set():
            return method

        def held_up(*args, **named):
            result = method(*args, **named)
            if self.skip > 0:
                self.skip -= 1
                return result
            self.reached.set()
            assert self.go_on.wait(20)
            return result

        return held_up


def client_of(world, wallet):
    return AsyncInfern(base_url="https://router.test/v1", wallet=wallet, transport=world.transport)


async def cancelled_at(world, wallet, slow, *, skip=0):
    """One request cancelled while its thread has written and not returned."""
    journal = SlowJournal(wallet.journal, slow, skip=skip)
    client = client_of(world, type(wallet)(**{**fields(wallet), "journal": journal}))
    task = asyncio.create_task(client.chat.completions.create(**ASK))
    await asyncio.to_thread(journal.reached.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    journal.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The thread may still be writing its last words.
    for _ in range(1_000):
        if not wallet.journal._mine:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a row is still taken by nobody")


def fields(wallet):
    return {name: getattr(wallet, name) for name in wallet.__dataclass_fields__}


@pytest.mark.parametrize(("slow", "skip"), [("intend", 0)] + [("record", n) for n in range(3)])
async def test_a_cancelled_payment_is_taken_up_again(world, slow, skip):
    wallet = world.wallet()
    await cancelled_at(world, wallet, slow, skip=skip)
    answer = await client_of(world, wallet).chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1
    assert world.states().count("delivered") == 1
    assert set(world.states()) <= {"delivered", "refused"}


async def test_a_cancelled_search_gives_back_what_it_found(world):
    wallet = world.wallet()
    world.seller.turns.extend([Turn.REFUSE] * 2)
    with pytest.raises(Exception, match="not our token"):
        await client_of(world, wallet).chat.completions.create(**ASK)
    await cancelled_at(world, wallet, "adopt")
    assert world.states() == ["unredeemed"]
    world.seller.turns.clear()
    await client_of(world, wallet).chat.completions.create(**ASK)
    assert len(world.node.paid) == 1


async def test_a_client_without_a_node_cannot_settle_an_old_payment_and_pays_nothing(world):
    world.node.plan.append(Send.STUCK)
    with pytest.raises(PaymentOutcomeUnknown):
        await client_of(world, world.wallet()).chat.completions.create(**ASK)
    with pytest.raises(PaymentOutcomeUnknown, match="no Fiber node"):
        await client_of(world, world.wallet(node=None)).chat.completions.create(**ASK)
    assert world.states() == ["paying"]
