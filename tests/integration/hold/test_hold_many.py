"""Many locks at once: as many as allowed, each to its own end."""

from typing import Any

import anyio
import pytest

from infern.core.ledger.lock import LockState
from infern.testing.scripted_model import Script, Step, answer

pytestmark = pytest.mark.timeout(180)


async def refusal(world: Any, *reasons: str, address: str = "198.51.100.9") -> None:
    got = await world.request(world.body(), f402_mode="hold", address=address)
    assert (got.status, got.error["code"]) == (402, "hold_unavailable")
    assert got.error["f402"]["reason"] in reasons


async def test_abuse_33_sixty_locks_at_once_and_not_one_more(world: Any) -> None:
    assert world.limits.open_locks == 60
    begin = anyio.Event()
    offers: list[Any] = []
    proofs: list[tuple[bytes, str]] = []
    answers: list[Any] = []
    for number in range(60):
        steps = [answer()] if number % 3 else [Step.BREAK]
        world.model.plan.append(Script(before=begin, steps=steps))
    for _ in range(60):
        body = world.body()
        offer, proof = await world.pay(body)
        offers.append(offer)
        proofs.append((body, proof))
    await refusal(world, "locks", "channels")

    async def ask(body: bytes, proof: str) -> None:
        answers.append(await world.request(body, proof=proof))

    async with anyio.create_task_group() as group:
        for body, proof in proofs:
            group.start_soon(ask, body, proof)
        for offer in offers:
            await world.lock_is(offer, LockState.HELD)
        assert (await world.sums()).locked == sum(o.challenge.amount for o in offers)
        await refusal(world, "locks", "channels")
        # Who pays upfront notices nothing.
        assert (await world.request(world.body())).error["f402"]["mode"] == "upfront"
        begin.set()
    assert sorted(got.status for got in answers) == [200] * 40 + [502] * 20
    await world.wait_for(lambda locks: not locks)
    states = [(await world.ledger.lock(o.challenge.payment_hash)).state for o in offers]
    assert states.count(LockState.SETTLED) == 40
    assert states.count(LockState.CANCELLED) == 20
    assert world.parts.locks.counts == {LockState.SETTLED: 40, LockState.CANCELLED: 20}
    for offer, state in zip(offers, states, strict=True):
        ended = world.is_taken if state is LockState.SETTLED else world.is_given_back
        await ended(offer)
    await world.pass_ms(3_000)  # the seller looks at its channels again
    body = world.body()
    offer, proof = await world.pay(body)
    assert (await world.request(body, proof=proof)).status == 200
    await world.is_taken(offer)


async def test_abuse_33_one_address_has_four_offers_it_does_not_use(make_world: Any) -> None:
    world = await make_world(limits={"locks_per_address": 4})
    address = "198.51.100.9"
    bought = [await world.pay(body := world.body(), address=address) + (body,) for _ in range(4)]
    await refusal(world, "address", address=address)
    other, _ = await world.pay(world.body(), address="198.51.100.10")
    offer, proof, body = bought[0]
    assert (await world.request(body, proof=proof, address=address)).status == 200
    await world.is_taken(offer)
    again, _ = await world.pay(world.body(), address=address)
    await refusal(world, "address", address=address)
    await world.pass_ms(6_000)
    await world.pass_ms(31_000)
    for unclaimed in (other, again, *(offer for offer, *_ in bought[1:])):
        await world.is_given_back(unclaimed)
    last = await world.offer(world.body(), address=address)
    await world.pass_ms(200_000)
    await world.is_given_back_unpaid(last)
