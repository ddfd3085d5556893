"""A crash between any two steps of an exchange, then a new process: one payment, one answer.

A crash is a driver that stops at an effect, before or after it was performed, and an instance
whose lock on its journal is gone while its rows stay as they were.
"""

from functools import partial

import pytest

from infern.client.drive import SyncDriver
from infern.client.effects import Ask, Record, Reply, WireBroken
from infern.client.exchange import Exchange, Order
from infern.client.held import look_after
from infern.client.paying import moved
from infern.client.wallet import PayMode
from infern.core.errors import PaymentFailed, PaymentOutcomeUnknown
from infern.core.f402.client import ClientEvent
from infern.core.f402.digest import request_digest
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Break, SellerRequest, Turn

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":64}'
TARGET = "/v1/chat/completions"


class Died(Exception):
    """The process is no more."""


def order():
    origin = "https://router.test"
    return Order(
        origin=origin,
        url=origin + TARGET,
        digest=request_digest("POST", TARGET, BODY),
        can_pay=True,
        target=TARGET,
        body=BODY,
    )


def ask_seller(world, todo):
    headers = {} if todo.proof is None else {"payment-signature": todo.proof}
    if todo.is_hold:
        headers["f402-mode"] = "hold"
    request = SellerRequest(method="POST", target=TARGET, headers=headers, body=BODY)
    answer = world.seller.respond(request)
    if answer.breaks in {Break.RESET, Break.HANG}:
        return WireBroken("broken", timed_out=answer.breaks is Break.HANG)
    headers = {k.lower(): v for k, v in answer.headers.items()}
    return Reply(status=answer.status, headers=headers, body=b"".join(answer.chunks))


class DyingDriver(SyncDriver):
    """Dies at the n-th effect: before it is performed, or after and before it is heard of."""

    def __init__(self, steps, wallet, dies_at, *, after):
        super().__init__(steps, wallet, Ask)
        self.left = dies_at
        self.after = after
        self.trace = []

    def count(self, effect, perform):
        self.trace.append(type(effect).__name__)
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Died
        result = perform()
        if self.left == 0:
            raise Died
        return result

    def _perform(self, effect):
        return self.count(effect, lambda: SyncDriver._perform(self, effect))


def run(world, wallet, dies_at=0, *, after=False):
    """One exchange of one process; returns the outcome and the trace, or dies."""
    exchange = Exchange(order(), wallet)
    driver = DyingDriver(exchange.run(), wallet, dies_at, after=after)
    todo = driver.begin()
    while isinstance(todo, Ask):
        todo = driver.answer(driver.count(todo, partial(ask_seller, world, todo)))
    delivered = exchange.held.attempt
    if delivered is not None and todo.reply.is_success:
        final = moved(delivered, ClientEvent.ANSWERED, world.clock.now_ms())
        driver.count(
            Record(before=delivered, after=final),
            lambda: wallet.journal.record(delivered, final),
        )
    return todo, driver.trace


def test_the_order_of_effects(world):
    _, trace = run(world, world.wallet())
    assert trace == [
        "Adopt", "Ask", "Intend", "Record", "MakeCall", "WaitChange", "MakeCall",
        "Record", "Record", "Ask", "Record",
    ]  # fmt: skip
    assert trace.index("Intend") < trace.index("MakeCall")


PLANS = {
    "plain": ([], []),
    "seller fails first": ([], [Turn.UNAVAILABLE, Turn.PENDING]),
    "connection breaks after the work": ([], [Turn.RESET_AFTER]),
    "node does not answer": ([Send.UNHEARD], []),
    "send is lost": ([Send.LOST], []),
}
STEPS = {
    "plain": 11,
    "seller fails first": 17,
    "connection breaks after the work": 14,
    "node does not answer": 13,
    "send is lost": 17,
}
CRASHES = [(plan, dies_at) for plan, steps in STEPS.items() for dies_at in range(1, steps + 1)]


def states(wallet):
    return sorted(a.state.value for a in wallet.journal.attempts(limit=9))


def live_and_die(world, dies_at, *, after, **changes):
    """One process; True when the answer arrived before it died."""
    wallet = world.wallet(**changes)
    try:
        outcome, _ = run(world, wallet, dies_at, after=after)
    except Died:
        delivered = bool({"delivered", "settling"} & set(states(wallet)))
        wallet.journal.drop()
        return delivered
    finally:
        wallet.journal.close()
    assert outcome.reply.is_success
    return True


def finish(world):
    """The last process lives; one payment and one run of the model were made in all."""
    last = world.wallet()
    outcome, _ = run(world, last)
    assert outcome.reply.is_success


def check(world):
    assert len(world.node.paid) == 1
    assert world.seller.runs == 1
    # An intent nothing came of is closed, and what was paid is delivered.
    assert set(states(world.wallet())) <= {"delivered", "refused"}
    assert states(world.wallet()).count("delivered") == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("plan", "dies_at"), CRASHES)
def test_a_crash_anywhere_costs_one_payment_and_gets_the_answer(world, dies_at, after, plan):
    sends, turns = PLANS[plan]
    world.node.plan.extend(sends)
    world.seller.turns.extend(turns)
    if not live_and_die(world, dies_at, after=after):
        finish(world)
    check(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("first", range(1, 12))
@pytest.mark.parametrize("second", [1, 3, 6])
def test_two_crashes_in_a_row(world, first, second, after):
    if not (live_and_die(world, first, after=after) or live_and_die(world, second, after=after)):
        finish(world)
    check(world)


@pytest.mark.parametrize("dies_at", range(3, 12))
def test_a_live_exchange_is_not_robbed_of_its_payment(world, dies_at):
    """It only waits where another would die: an equal request pays for itself."""
    first = world.wallet()
    with pytest.raises(Died):
        run(world, first, dies_at)
    outcome, _ = run(world, world.wallet())
    assert outcome.reply.is_success
    assert len(world.node.paid) == (2 if dies_at > 5 else 1)


def test_a_crash_while_paying_does_not_trust_an_error_of_the_new_run(world):
    """After a restart, `unmoved` of a look-up says nothing of the payment before it."""
    world.node.plan.append(Send.STUCK)
    first = world.wallet()
    with pytest.raises(Died):
        run(world, first, 6)
    first.journal.drop()
    world.node.is_down = True
    second = world.wallet()
    with pytest.raises(PaymentOutcomeUnknown):
        run(world, second)
    assert states(second) == ["paying"]


HELD_PLANS = {
    "plain": (10, [], []),
    "seller fails first": (20, [], [Turn.UNAVAILABLE, Turn.PENDING]),
    "connection breaks after the work": (16, [], [Turn.RESET_AFTER]),
    "node does not answer": (12, [Send.UNHEARD], []),
    "send is lost": (25, [Send.LOST], []),
    "run fails": (12, [], [Turn.FAIL]),
}
HELD_CRASHES = [
    (plan, dies_at) for plan, (steps, _, _) in HELD_PLANS.items() for dies_at in range(1, steps + 1)
]


def test_the_order_of_effects_in_hold_mode(world):
    _, trace = run(world, world.wallet(mode=PayMode.HOLD))
    assert trace == [
        "Adopt", "Ask", "Locking", "Intend", "Record", "MakeCall", "Record", "Record", "Ask",
        "Record",
    ]  # fmt: skip
    assert states(world.wallet()) == ["settling"]


def persist(world):
    """Processes that live, until the answer is there: a run that failed is asked for again."""
    for _ in range(2):
        wallet = world.wallet(mode=PayMode.HOLD)
        try:
            outcome, _ = run(world, wallet)
        except PaymentFailed:
            continue  # the node said so
        finally:
            wallet.journal.close()
        if outcome.reply.is_success:
            return
        assert outcome.attempt.state.value in {"payment_failed", "redeemed_elsewhere", "settling"}


def sweep(world):
    """What the next payment in hold mode does first."""
    wallet = world.wallet()
    SyncDriver(look_after(wallet), wallet, Ask).begin()
    return states(wallet)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("plan", "dies_at"), HELD_CRASHES)
def test_a_crash_anywhere_in_hold_mode_is_taken_once_or_given_back(world, dies_at, after, plan):
    _, sends, turns = HELD_PLANS[plan]
    world.node.plan.extend(sends)
    world.seller.turns.extend(turns)
    if not live_and_die(world, dies_at, after=after, mode=PayMode.HOLD):
        persist(world)
    assert world.seller.runs == 1
    assert len(world.node.paid) == 1
    assert world.seller.held == set()
    ends = sweep(world)
    assert set(ends) <= {"delivered", "refused", "payment_failed"}
    assert ends.count("delivered") == 1
    assert ends.count("payment_failed") == len(world.seller.returned)


@pytest.mark.parametrize("dies_at", range(6, 11))
def test_a_crash_in_hold_mode_with_a_seller_that_vanishes_never_pays_again(world, dies_at):
    world.seller.is_idle = True
    world.seller.turns.extend([Turn.HANG] * 9)
    with pytest.raises((Died, WireBroken)):
        run(world, first := world.wallet(mode=PayMode.HOLD), dies_at)
    first.journal.drop()
    for _ in range(2):
        with pytest.raises(WireBroken):
            run(world, later := world.wallet(mode=PayMode.HOLD))
        later.journal.close()
    assert len(world.node.payments) == 1
    assert sweep(world) == ["held"]
