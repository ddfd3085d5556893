"""The keeper's task: woken at once, finding the rest by itself, ending in good order."""

from typing import Any

import anyio

from infern.core.ids import PaymentHash
from infern.core.ledger.lock import LockState
from infern.seller.locks import WAIT_MS


async def test_the_task_settles_at_once_what_it_is_woken_for(running: Any) -> None:
    desk = running
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.settle()
        payment_hash = await desk.charged()
        await desk.keeper.deliver(payment_hash)
        await desk.clock.move(WAIT_MS[0] + WAIT_MS[1])
        assert await desk.state(payment_hash) is LockState.SETTLED
        group.cancel_scope.cancel()


async def test_the_task_finds_by_itself_what_a_dead_process_left(running: Any) -> None:
    desk = running
    wanted = {
        await desk.settling(): LockState.SETTLED,
        await desk.cancelling(): LockState.CANCELLED,
        await desk.expired(): LockState.CANCELLED,
        await desk.held(): LockState.CANCELLED,
        await desk.charged(): LockState.CANCELLED,
    }
    await desk.real.recover(now_ms=desk.clock.now_ms())
    desk.restart()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.move(1_000)
        for payment_hash, state in wanted.items():
            assert await desk.state(payment_hash) is state
        group.cancel_scope.cancel()


async def test_the_task_outlives_a_ledger_that_is_away_and_one_broken_lock(running: Any) -> None:
    desk = running
    broken, good = await desk.settling(), await desk.settling()
    status = desk.keeper._status

    async def fragile(payment_hash: PaymentHash) -> Any:
        if payment_hash == broken and desk.clock.now_ms() < mended_ms:
            raise ValueError("a bug (scripted)")
        return await status(payment_hash)

    mended_ms = desk.clock.now_ms() + 5_000
    desk.keeper._status = fragile  # type: ignore[method-assign] # broken on purpose
    desk.failing["open_locks"] = 2
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.move(4_000)
        assert await desk.state(good) is LockState.SETTLED
        assert await desk.state(broken) is LockState.SETTLING
        await desk.clock.move(30_000)
        assert await desk.state(broken) is LockState.SETTLED
        group.cancel_scope.cancel()


async def test_a_seller_that_stops_gives_back_what_nobody_claimed_and_settles_the_rest(
    running: Any,
) -> None:
    desk = running
    paid, unpaid = await desk.locked(), await desk.offered()
    delivered = await desk.settling()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.keeper.run)
        await desk.clock.settle()
        drained = anyio.Event()

        async def drain() -> None:
            await desk.keeper.drain()
            drained.set()

        group.start_soon(drain)
        await desk.clock.move(1_000)
        assert drained.is_set()
        group.cancel_scope.cancel()
    assert await desk.state(paid) is LockState.CANCELLED
    assert await desk.state(unpaid) is LockState.CANCELLED
    assert await desk.state(delivered) is LockState.SETTLED
    assert desk.payee.tlcs == {}
