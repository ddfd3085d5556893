"""Leases on a real ledger under a clock that only the test moves."""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import LedgerError, ProtocolError
from infern.core.ids import HoldId
from infern.core.ledger.books import violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import LockState
from infern.core.ledger.records import RemainderPlan, TopupState
from infern.seller.leases import LEASE_MS, RENEW_MS, LeaseKeeper
from infern.testing import ledger_rows as rows

FUNDS = 1_000
HOUR_MS = 3_600_000


@dataclass
class House:
    """One ledger, the process that is tested, and another one that only sweeps."""

    ledger: SqliteLedger
    clock: Any
    waiting: set[HoldId] = field(default_factory=set)
    names: int = 0

    def __post_init__(self) -> None:
        self.key = rows.a_key("k")
        self.keeper = self.process("seller_here", self.waiting)
        self.other = self.process("seller_other", set())

    def process(self, owner: str, waiting: set[HoldId]) -> LeaseKeeper:
        return LeaseKeeper(
            ledger=self.ledger, clock=self.clock, owner=owner, waiting=lambda: waiting
        )

    async def fund(self) -> None:
        await self.ledger.create_key(self.key)
        topup = rows.a_topup("t", self.key, FUNDS)
        await self.ledger.add_topup(topup, open_limit=1)
        await self.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=1)

    async def hold(self, keeper: LeaseKeeper, amount: int = 100) -> Hold:
        """A hold of a live request of this process, placed as a settlement does."""
        self.names += 1
        name = HoldId(f"hold_{self.names}")
        hold = Hold(
            hold_id=name,
            tab_id=self.key.tab_id,
            amount=amount,
            digest=rows.DIGEST,
            owner=keeper.owner,
            lease_until_ms=keeper.begin(name),
            opened_ms=self.clock.now_ms(),
        )
        await self.ledger.hold(hold)
        return hold

    async def capture(self, hold: Hold, charged: int = 10) -> None:
        await self.ledger.capture(
            hold.hold_id,
            rows.a_receipt(charged),
            request_id=rows.request_id(hold.hold_id),
            remainder=RemainderPlan(),
        )

    async def sums(self) -> tuple[int, int]:
        """What is held of the key, and what it spent."""
        tab = await self.ledger.tab(self.key.tab_id)
        return tab.held, tab.spent


@pytest.fixture
async def house(tmp_path: Path, clock: Any) -> AsyncIterator[House]:
    async with SqliteLedger(tmp_path / "ledger.sqlite3") as ledger:
        made = House(ledger, clock)
        await made.fund()
        yield made
        assert violations(await ledger.books()) == []


async def test_a_request_longer_than_its_lease_keeps_its_hold(house: House) -> None:
    hold = await house.hold(house.keeper)
    for _ in range(20):
        house.clock.ms += RENEW_MS
        await house.keeper.look()
        await house.other.look()
    assert await house.sums() == (100, 0)
    await house.capture(hold)
    house.keeper.end(hold.hold_id)
    assert await house.sums() == (0, 10)


async def test_a_lease_outlives_two_renewals_that_were_not_made(house: House) -> None:
    await house.hold(house.keeper)
    house.clock.ms += 3 * RENEW_MS
    await house.other.look()
    assert await house.sums() == (100, 0)


async def test_the_hold_of_a_process_that_is_gone_is_released_after_its_lease(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.hold(house.process("seller_dead", set()))
    house.clock.ms += LEASE_MS
    await house.keeper.look()
    assert await house.sums() == (100, 0)
    house.clock.ms += 1
    await house.keeper.look()
    assert await house.sums() == (0, 0)
    (line,) = caplog.records
    assert (line.levelno, "seller_dead" in line.getMessage()) == (logging.WARNING, True)


async def test_a_process_that_slept_for_hours_sweeps_nothing_of_its_own(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    mine = [await house.hold(house.keeper) for _ in range(3)]
    await house.hold(house.process("seller_dead", set()))
    house.clock.ms += 5 * HOUR_MS
    await house.keeper.look()
    assert await house.sums() == (300, 0)
    assert {hold.hold_id for hold in (await house.ledger.books()).holds} == {
        hold.hold_id for hold in mine
    }
    # They are renewed by now, so nobody else sweeps them either.
    await house.other.look()
    for hold in mine:
        await house.capture(hold)
    assert await house.sums() == (0, 30)
    assert len(caplog.records) == 1


async def test_a_hold_that_ends_or_is_renewed_while_the_sweeper_looks_is_left_alone(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """What was true when the sweeper asked need not be when it acts: the ledger decides."""

    class Slow:
        """A ledger in which other things happen between two bookings of the sweeper."""

        def __getattr__(self, name: str) -> Any:
            return getattr(house.ledger, name)

        async def expired_holds(self, *, now_ms: int, limit: int) -> Any:
            found = await house.ledger.expired_holds(now_ms=now_ms, limit=limit)
            await house.capture(captured)
            await house.keeper.look()
            return found

    captured, renewed = await house.hold(house.keeper), await house.hold(house.keeper)
    house.clock.ms += HOUR_MS
    house.other._ledger = Slow()  # type: ignore[assignment]  # stands in for the ledger
    await house.other.look()
    assert await house.sums() == (100, 10)
    assert caplog.records == []
    await house.capture(renewed)


async def test_a_hold_placed_while_the_clock_is_set_back_is_not_swept(house: House) -> None:
    class Slow:
        """A ledger before which a request comes in, just when the clock is corrected."""

        def __getattr__(self, name: str) -> Any:
            return getattr(house.ledger, name)

        async def expired_holds(self, *, now_ms: int, limit: int) -> Any:
            house.clock.ms -= HOUR_MS
            placed.append(await house.hold(house.keeper))
            return await house.ledger.expired_holds(now_ms=now_ms, limit=limit)

    placed: list[Hold] = []
    house.keeper._ledger = Slow()  # type: ignore[assignment]  # stands in for the ledger
    await house.keeper.look()
    await house.capture(placed[0])


async def test_a_charge_after_a_sweep_is_a_conflict_and_charges_nothing(house: House) -> None:
    hold = await house.hold(house.keeper)
    house.clock.ms += HOUR_MS
    await house.other.look()
    with pytest.raises(LedgerError) as conflict:
        await house.capture(hold)
    assert conflict.value.code == "ledger_conflict"
    await house.ledger.release(hold.hold_id, now_ms=house.clock.now_ms())
    assert await house.sums() == (0, 0)
    assert (await house.ledger.tab(house.key.tab_id)).balance == FUNDS


async def test_a_hold_that_this_process_forgot_is_released_and_called_a_mistake(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    leaked, live = await house.hold(house.keeper), await house.hold(house.keeper)
    house.keeper.end(leaked.hold_id)
    house.clock.ms += LEASE_MS + 1
    await house.keeper.look()
    assert await house.sums() == (100, 0)
    (line,) = caplog.records
    assert (line.levelno, leaked.hold_id in line.getMessage()) == (logging.ERROR, True)
    await house.capture(live)


async def test_a_hold_whose_end_waits_for_the_ledger_is_kept(house: House) -> None:
    hold = await house.hold(house.keeper)
    house.waiting.add(hold.hold_id)
    house.keeper.end(hold.hold_id)
    for _ in range(5):
        house.clock.ms += LEASE_MS
        await house.keeper.look()
    await house.capture(hold)
    assert await house.sums() == (0, 10)


async def test_a_swept_proof_runs_again_and_the_late_first_run_ends_nothing(house: House) -> None:
    paid = rows.a_payment("p", 100)
    hold = rows.a_hold("first", 100, paid=paid, lease_until_ms=house.clock.now_ms())
    await house.ledger.claim(paid, hold)
    house.clock.ms += 1
    await house.other.look()
    again = rows.a_hold("second", 100, paid=paid, lease_until_ms=house.clock.ms + LEASE_MS)
    await house.ledger.claim(paid, again)
    await house.ledger.release(hold.hold_id, now_ms=house.clock.now_ms())
    with pytest.raises(LedgerError):
        await house.capture(hold)
    with pytest.raises(ProtocolError):
        await house.ledger.claim(paid, rows.a_hold("third", 100, paid=paid))
    await house.capture(again)


async def test_the_lock_of_a_swept_hold_is_to_be_given_back(house: House) -> None:
    paid = rows.a_payment("p", 100, is_lock=True)
    await house.ledger.offer_lock(rows.a_lock(paid), open_limit=1)
    await house.ledger.claim(paid, rows.a_hold("first", 100, paid=paid))
    await house.keeper.look()
    lock = await house.ledger.lock(paid.payment_hash)
    assert lock is not None
    assert lock.state is LockState.CANCELLING


async def test_the_task_renews_while_it_runs_and_outlives_a_ledger_that_is_away(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    away = 2

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(house.ledger, name)

        async def renew(self, hold_ids: Any, *, lease_until_ms: int) -> None:
            nonlocal away
            if away:
                away -= 1
                raise LedgerError("away")
            await house.ledger.renew(hold_ids, lease_until_ms=lease_until_ms)

    hold = await house.hold(house.keeper)
    house.keeper._ledger = Away()  # type: ignore[assignment]  # stands in for the ledger
    began_ms = house.clock.now_ms()
    async with anyio.create_task_group() as group:
        group.start_soon(house.keeper.run)
        while house.clock.now_ms() < began_ms + 10 * LEASE_MS:
            await anyio.lowlevel.checkpoint()
            # The other process looks at every moment, and never finds it unrenewed.
            await house.other.look()
        group.cancel_scope.cancel()
    assert sum("leases" in line.getMessage() for line in caplog.records) == 2
    await house.capture(hold)
    assert await house.sums() == (0, 10)
