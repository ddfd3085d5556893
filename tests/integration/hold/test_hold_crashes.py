"""A seller killed at any step of a payment in hold mode, found by running each scenario once.

Before and after each booking and each call to the node the process dies: nothing it would have done
later happens, and a new one opens the same ledger against the same nodes. Whatever the moment, the
payment ends in one of two ways, and both sides agree on which: it was taken and its answer was
delivered, or the payer has it back and nothing was charged.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from infern.core.f402.offer import Offer, parse_offer
from infern.core.fiber.types import InvoiceStatus
from infern.core.ledger.hold import HoldState
from infern.core.ledger.lock import LockEvent, LockState
from infern.testing.asgi import HttpAnswer, HttpClient
from infern.testing.scripted_model import Script, Step, stream, streaming

pytestmark = pytest.mark.timeout(300)

BOOKINGS = {"offer_lock", "claim", "capture", "release"}


class Killed(BaseException):
    """The process ends here."""


class Process:
    """What one process does, step after step, until it is killed before or after one of them."""

    def __init__(self, step: str = "", when: str = "") -> None:
        self.killed_at = (step, when)
        self.steps: list[str] = []
        self.last_booking = "nothing"
        self.is_dead = False

    def check(self) -> None:
        if self.is_dead:
            raise Killed

    async def do(self, step: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self.check()
        self.steps.append(step)
        self._die((step, "before"))
        result = await work()
        self.check()
        self._die((step, "after"))
        return result

    def _die(self, at: tuple[str, str]) -> None:
        if at == self.killed_at:
            self.is_dead = True
            raise Killed


class MortalLedger:
    def __init__(self, process: Process, ledger: Any) -> None:
        self._process, self._ledger = process, ledger

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            step = f"{name} {args[1]}" if name == "move_lock" else name
            if name != "move_lock" and name not in BOOKINGS:
                self._process.check()
                return await method(*args, **kwargs)
            done = await self._process.do(step, lambda: method(*args, **kwargs))
            self._process.last_booking = step
            return done

        return call


class MortalNode:
    def __init__(self, process: Process, fiber: Any) -> None:
        self._process, self._fiber = process, fiber

    async def call(self, call: Any, *, timeout_ms: int | None = None) -> Any:
        step = f"{call.method} after {self._process.last_booking}"
        return await self._process.do(step, lambda: self._fiber.call(call, timeout_ms=timeout_ms))

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        await self._fiber.wait_change(payment_hash, timeout_ms=timeout_ms)
        self._process.check()


@dataclass
class Life:
    """What a consumer saw of one process."""

    body: bytes
    offer: Offer | None = None
    proof: str = ""
    answer: HttpAnswer | None = None


async def ask(world: Any, body: bytes, client: HttpClient | None = None, **headers: str) -> Any:
    """A request to a process that may die under it; the connection breaks then."""
    client = client or HttpClient()
    try:
        await world.request(body, client=client, **headers)
    except Killed:
        pass
    except BaseExceptionGroup as group:
        if group.split(Killed)[1] is not None:
            raise
    return client.answer()


async def buy(
    world: Any, body: bytes, client: HttpClient | None = None, *, claims: bool = True
) -> Life:
    """An offer, its payment, and the proof; as far as the process comes."""
    life = Life(body)
    got = await ask(world, body, f402_mode="hold")
    life.offer = parse_offer(got.body, "http://seller.test") if got.is_complete else None
    if life.offer is None:
        return life
    life.proof = await world.send(life.offer)
    await world.arrived(life.offer)
    if claims:
        life.answer = await ask(world, body, client, proof=life.proof)
    return life


async def plain(world: Any) -> Life:
    return await buy(world, world.body())


async def streamed(world: Any) -> Life:
    return await buy(world, world.body(stream=True))


async def failing(world: Any) -> Life:
    world.model.plan.append(Script(status=500, steps=[b"{}"]))
    return await buy(world, world.body())


async def left(world: Any) -> Life:
    world.model.plan.append(streaming([*stream()[:4], Step.HANG]))
    return await buy(world, world.body(stream=True), HttpClient(leave_after=3))


async def unclaimed(world: Any) -> Life:
    life = await buy(world, world.body(), claims=False)
    try:
        await world.pass_ms(6_000)
        await world.pass_ms(40_000)
    except Killed:
        pass
    return life


SCENARIOS = {run.__name__: run for run in (plain, streamed, failing, left, unclaimed)}


async def run_process(world: Any, scenario: Any, process: Process) -> Life:
    """One process from its start until it is dead, or has nothing more to do."""
    world.wrap_ledger = lambda ledger: MortalLedger(process, ledger)
    world.wrap_fiber = lambda fiber: MortalNode(process, fiber)
    await world.restart()
    life: Life = await scenario(world)
    await world.wait_for(lambda locks: process.is_dead or not locks)
    return life


async def go_on(world: Any, life: Life) -> HttpAnswer | None:
    """A new process; the consumer repeats its proof, and time does the rest."""
    world.wrap_ledger, world.wrap_fiber = (lambda ledger: ledger), (lambda fiber: fiber)
    world.model.plan.clear()
    await world.restart()
    again = await world.request(life.body, proof=life.proof) if life.proof else None
    for _ in range(8):
        await world.pass_ms(120_000)
    await world.wait_for(lambda locks: not locks)
    return again


def is_delivered(answer: HttpAnswer | None) -> bool:
    """Whether the consumer has text of an answer."""
    return answer is not None and answer.status == 200 and b"Hello" in answer.body


async def verdict(world: Any, life: Life, again: HttpAnswer | None, spent_before: int) -> str:
    """How it ended; what contradicts itself fails."""
    spent = (await world.sums()).spent - spent_before
    if life.offer is None:
        assert spent == 0
        return "nobody saw an invoice"
    payment_hash = life.offer.challenge.payment_hash
    lock = await world.ledger.lock(payment_hash)
    if lock.state is LockState.SETTLED:
        await world.is_taken(life.offer)
        assert is_delivered(life.answer) or is_delivered(again), "paid for nothing"
        assert spent > 0
        stored = await world.ledger.receipt_of_payment(payment_hash)
        assert stored.charged == spent
        return "taken"
    await world.is_given_back(life.offer)
    assert spent == 0
    if lock.hold_id is not None:
        assert await world.hold_state(lock.hold_id) in (HoldState.RELEASED, HoldState.VOIDED)
    assert not is_delivered(again)
    assert again is None or again.status == 402
    return "given back"


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_killed_at_any_step_the_payment_is_taken_for_its_answer_or_given_back(
    make_world: Any, scenario: str
) -> None:
    world = await make_world()
    rehearsal = Process()
    life = await run_process(world, SCENARIOS[scenario], rehearsal)
    await verdict(world, life, None, 0)
    assert f"move_lock {LockEvent.PAID}" in rehearsal.steps or scenario in {"failing", "unclaimed"}
    ends: dict[tuple[str, str], str] = {}
    for step in dict.fromkeys(rehearsal.steps):
        for when in ("before", "after"):
            process = Process(step, when)
            spent = (await world.sums()).spent
            try:
                life = await run_process(world, SCENARIOS[scenario], process)
                assert process.is_dead, "this step did not come"
                again = await go_on(world, life)
                ends[step, when] = await verdict(world, life, again, spent)
            except BaseException as error:
                error.add_note(f"{scenario}, killed {when} {step}; steps were {process.steps}")
                raise
    expect(scenario, ends)


def expect(scenario: str, ends: dict[tuple[str, str], str]) -> None:
    """Nothing is taken before the answer was delivered, and nothing given back afterwards."""
    if scenario in {"failing", "unclaimed"}:
        # A proof repeated in time is answered by the next process.
        assert "given back" in ends.values()
        return
    order = list(ends)
    delivered = order.index((f"move_lock {LockEvent.DELIVER}", "after"))
    claimed = order.index(("claim", "after"))
    assert {ends[at] for at in order[delivered:]} == {"taken"}
    assert {ends[at] for at in order[claimed:delivered]} == {"given back"}
    first = ("new_invoice after offer_lock", "after")
    assert {ends[at] for at in order[: order.index(first) + 1]} == {"nobody saw an invoice"}
    assert {ends[at] for at in order[order.index(first) + 1 : claimed]} == {"taken"}


async def test_an_invoice_made_by_a_process_that_died_is_not_left_open(make_world: Any) -> None:
    """Nobody has its text, but the node would keep it: the next process cancels it."""
    world = await make_world()
    process = Process("new_invoice after offer_lock", "after")
    await run_process(world, plain, process)
    (made,) = world.nodes.provider.invoices.values()
    assert made.status.value == InvoiceStatus.OPEN.value
    await go_on(world, Life(b""))
    assert made.status.value == InvoiceStatus.CANCELLED.value
