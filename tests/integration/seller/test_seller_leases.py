"""Long answers, a machine that slept, and a second process at the same ledger."""

from typing import Any

import anyio
import pytest

from infern.adapters.system import SystemClock
from infern.seller.leases import LEASE_MS, RENEW_MS, LeaseKeeper
from infern.testing.scripted_model import DONE, chunk, streaming, usage_chunk

BALANCE = 10_000_000
HOUR_MS = 3_600_000


class JumpingClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


def sweeper(world: Any) -> LeaseKeeper:
    """Another process at the same ledger."""
    return LeaseKeeper(ledger=world.ledger, clock=world.clock, owner="other", waiting=tuple)


async def paying_by(world: Any, payer: str) -> dict[str, str]:
    if payer == "key":
        return {"key": await world.key(BALANCE)}
    return {"proof": await world.proof(world.body(stream=True))}


async def interrupted(world: Any, meanwhile: Any, **paying: str) -> Any:
    """The answer to a stream in the middle of which something happens."""
    gate, answers = anyio.Event(), []
    end = [chunk(" there", finish="stop"), usage_chunk(), DONE]
    world.model.plan.append(streaming([chunk("Hello"), gate, *end]))

    async def ask() -> None:
        answers.append(await world.chat(world.body(stream=True), **paying))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not await world.open_holds():
            await anyio.sleep(0.001)
        await meanwhile()
        gate.set()
    return answers[0]


@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_a_stream_longer_than_its_lease_is_charged_as_ever(
    make_world: Any, payer: str
) -> None:
    world = await make_world(clock=JumpingClock())

    async def an_hour_passes() -> None:
        for _ in range(HOUR_MS // RENEW_MS):
            world.clock.ahead_ms += RENEW_MS
            await world.parts.leases.look()
            await sweeper(world).look()
        assert await world.open_holds() == 1

    got = await interrupted(world, an_hour_passes, **await paying_by(world, payer))
    receipt = world.stream_receipt(got, world.body(stream=True))
    assert await world.spent() == receipt.charged == world.cost(7, 5)


@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_a_stream_goes_on_after_its_machine_slept(make_world: Any, payer: str) -> None:
    world = await make_world(clock=JumpingClock())

    async def sleep() -> None:
        world.clock.ahead_ms += 5 * HOUR_MS
        await world.parts.leases.look()
        await sweeper(world).look()

    got = await interrupted(world, sleep, **await paying_by(world, payer))
    receipt = world.stream_receipt(got, world.body(stream=True))
    assert await world.spent() == receipt.charged == world.cost(7, 5)


@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_a_stream_whose_hold_another_process_swept_is_not_charged(
    make_world: Any, payer: str
) -> None:
    """The other process could not know better; what was delivered is the seller's loss."""
    world = await make_world(clock=JumpingClock())

    async def sleep() -> None:
        world.clock.ahead_ms += 5 * HOUR_MS
        await sweeper(world).look()
        assert await world.open_holds() == 0

    paying = await paying_by(world, payer)
    got = await interrupted(world, sleep, **paying)
    assert b"f402-receipt" not in got.body
    assert await world.spent() == 0
    await world.parts.endings.try_all()
    assert len(world.parts.endings) == 0
    assert await world.spent() == 0
    if payer == "key":
        assert (await world.tab(paying["key"])).balance == BALANCE
    else:
        again = await world.chat(world.body(stream=True), **paying)
        assert (again.status, again.body) == (200, got.body)
        world.reassemble()  # the kept answer is gone, and the payment is as good as before
        again = await world.chat(world.body(stream=True), **paying)
        assert world.stream_receipt(again, world.body(stream=True)).charged == world.cost(7, 5)


async def test_holds_carry_their_process_and_end_with_their_request(make_world: Any) -> None:
    world = await make_world(clock=JumpingClock())
    found: list[Any] = []

    async def look() -> None:
        found.extend((await world.ledger.books()).holds)

    await interrupted(world, look, **await paying_by(world, "key"))
    (hold,) = found
    assert hold.owner == world.parts.leases.owner
    assert 0 < hold.lease_until_ms - hold.opened_ms <= LEASE_MS + 1_000
    assert world.parts.leases._live() == set()
