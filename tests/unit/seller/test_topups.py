"""Top-ups are credited by the seller itself, once, whatever happens in between."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import LedgerError
from infern.core.f402.credential import key_digest
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import TabId
from infern.core.ledger.books import violations
from infern.core.ledger.records import KeyRecord, Topup, TopupState
from infern.core.units import CKB
from infern.seller import topups as topups_module
from infern.seller.keys import KeyRing
from infern.seller.minting import Minter
from infern.seller.topups import GRACE_MS, SWEEP_MS, TopupWatch


class Desk:
    """A ledger, a node and a watch over both; the clock stands still until it is moved."""

    def __init__(self, ledger: Any, payee: Any, clock: Any, minter: Minter) -> None:
        self.real, self.payee, self.clock, self.minter = ledger, payee, clock, minter
        self.ledger = self
        self.failing: dict[Any, int] = {}
        self.restart()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def end_topup(self, payment_hash: Any, state: Any, *, now_ms: int) -> None:
        for what in (payment_hash, "all"):
            if self.failing.get(what, 0):
                self.failing[what] -= 1
                raise LedgerError("away (scripted)")
        await self.real.end_topup(payment_hash, state, now_ms=now_ms)

    def restart(self) -> None:
        self.keys = KeyRing(self, self.clock)  # type: ignore[arg-type] # passes on what it lacks
        self.watch = TopupWatch(
            ledger=self,  # type: ignore[arg-type] # passes on what it lacks
            fiber=self.payee,
            clock=self.clock,
            keys=self.keys,
            empty_key_s=3_600,
        )

    async def key(self, number: int = 1) -> KeyRecord:
        record = KeyRecord(
            key_digest=key_digest(f"key{number}"),
            key_id=f"key{number}",
            tab_id=TabId(f"tab{number}"),
            session=bytes(16),
            asset=CKB,
            created_ms=self.clock.now_ms(),
        )
        await self.real.create_key(record)
        return record

    async def topup(self, key: KeyRecord, amount: int = 50) -> Topup:
        topup = await self.minter.topup(amount=amount, key_id=key.key_id, tab_id=key.tab_id)
        await self.real.add_topup(topup, open_limit=100)
        return topup

    async def balance(self, key: KeyRecord) -> int:
        return int((await self.real.tab(key.tab_id)).balance)

    async def state(self, topup: Topup) -> TopupState:
        found = await self.real.topup(topup.payment_hash)
        assert found is not None
        return TopupState(found.state)


@pytest.fixture
async def desk(
    tmp_path: Path, make_config: Any, payee: Any, clock: Any, entropy: Any, make_stepped_clock: Any
) -> AsyncIterator[Desk]:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    stepped = payee.clock = make_stepped_clock(clock.now_ms(), ledger)
    minter = Minter(make_config(), fiber=payee, clock=stepped, entropy=entropy)
    made = Desk(ledger, payee, stepped, minter)
    yield made
    books = await ledger.books()
    ledger.close()
    assert violations(books) == []


async def test_a_paid_topup_is_credited_without_any_action_of_the_payer(desk: Desk) -> None:
    key = await desk.key()
    topup = await desk.topup(key)
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        desk.watch.watch(topup)
        await desk.clock.move(100)
        assert await desk.balance(key) == 0
        desk.payee.pay(topup.payment_hash)
        await desk.clock.move(2_000)
        assert await desk.balance(key) == 50
        await desk.clock.move(20_000)
        assert await desk.balance(key) == 50
        group.cancel_scope.cancel()


async def test_a_restart_between_payment_and_credit_loses_nothing(desk: Desk) -> None:
    key = await desk.key()
    topup = await desk.topup(key)
    desk.payee.pay(topup.payment_hash)
    desk.restart()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        assert await desk.balance(key) == 50
        group.cancel_scope.cancel()


async def test_a_ledger_that_is_away_for_a_moment_ends_neither_watch_nor_sweep(desk: Desk) -> None:
    key = await desk.key()
    watched, swept = await desk.topup(key), await desk.topup(key)
    desk.failing["all"] = 4
    for topup in (watched, swept):
        desk.payee.pay(topup.payment_hash)
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        desk.watch.watch(watched)
        await desk.clock.move(3 * SWEEP_MS)
        assert await desk.balance(key) == 100
        late = await desk.topup(key)
        desk.watch.watch(late)
        desk.payee.pay(late.payment_hash)
        await desk.clock.move(2_000)
        assert await desk.balance(key) == 150
        group.cancel_scope.cancel()


async def test_a_node_that_is_away_is_logged_once_however_many_topups_wait(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="infern.seller.away")
    key = await desk.key()
    topups = [await desk.topup(key) for _ in range(3)]
    desk.payee.is_down = True
    for _ in range(4):
        for topup in topups:
            assert not await desk.watch.look(topup)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    desk.payee.is_down = False
    for topup in topups:
        await desk.watch.look(topup)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_one_topup_that_can_never_be_booked_does_not_keep_others_waiting(desk: Desk) -> None:
    key = await desk.key()
    cursed, good = await desk.topup(key), await desk.topup(key)
    desk.failing[cursed.payment_hash] = 10**6
    for topup in (cursed, good):
        desk.payee.pay(topup.payment_hash)
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        assert await desk.balance(key) == 50
        group.cancel_scope.cancel()
    assert await desk.state(cursed) is TopupState.OPEN


async def test_a_node_that_is_down_only_delays(desk: Desk) -> None:
    key = await desk.key()
    topup = await desk.topup(key)
    desk.payee.pay(topup.payment_hash)
    desk.payee.is_down = True
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        desk.watch.watch(topup)
        await desk.clock.move(3 * SWEEP_MS)
        assert await desk.balance(key) == 0
        desk.payee.is_down = False
        await desk.clock.move(SWEEP_MS)
        assert await desk.balance(key) == 50
        group.cancel_scope.cancel()


async def test_received_is_not_paid_and_expired_waits_for_stragglers(desk: Desk) -> None:
    key = await desk.key()
    topup = await desk.topup(key)
    for status in (InvoiceStatus.OPEN, InvoiceStatus.RECEIVED, InvoiceStatus.UNKNOWN):
        desk.payee.set_status(topup.payment_hash, status)
        assert not await desk.watch.settle(topup)
    desk.clock.ms = topup.expires_ms + GRACE_MS
    desk.payee.set_status(topup.payment_hash, InvoiceStatus.EXPIRED)
    assert not await desk.watch.settle(topup)
    desk.payee.set_status(topup.payment_hash, InvoiceStatus.RECEIVED)
    desk.clock.ms += 1
    assert not await desk.watch.settle(topup)
    desk.payee.pay(topup.payment_hash)
    assert await desk.watch.settle(topup)
    assert await desk.balance(key) == 50


@pytest.mark.parametrize("status", [InvoiceStatus.EXPIRED, InvoiceStatus.CANCELLED])
async def test_a_topup_that_was_never_paid_expires(desk: Desk, status: InvoiceStatus) -> None:
    key = await desk.key()
    topup, funding = await desk.topup(key), await desk.topup(key)
    desk.payee.pay(funding.payment_hash)
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        desk.payee.set_status(topup.payment_hash, status)
        desk.clock.ms = topup.expires_ms + GRACE_MS + 1
        await desk.clock.move(SWEEP_MS)
        group.cancel_scope.cancel()
    assert await desk.state(topup) is TopupState.EXPIRED
    assert await desk.balance(key) == 50


async def test_forgotten_keys_leave_the_cache_too(desk: Desk) -> None:
    key = await desk.key()
    desk.keys._known[key.key_digest] = key
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.move(SWEEP_MS)
        assert desk.keys._known
        desk.clock.ms += 3_600_000
        await desk.clock.move(SWEEP_MS)
        group.cancel_scope.cancel()
    assert not desk.keys._known
    assert await desk.real.find_key(key.key_digest) is None


async def test_the_close_watch_is_bounded_and_the_sweep_sees_the_rest(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topups_module, "WATCHED", 1)
    key = await desk.key()
    topups = [await desk.topup(key) for _ in range(3)]
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        for topup in topups:
            desk.watch.watch(topup)
            desk.payee.pay(topup.payment_hash)
        await desk.clock.settle()
        assert await desk.balance(key) == 50
        await desk.clock.move(SWEEP_MS)
        assert await desk.balance(key) == 150
        group.cancel_scope.cancel()


async def test_a_sweep_that_finds_no_ledger_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await desk.key()
    topup = await desk.topup(key)
    desk.payee.pay(topup.payment_hash)
    away = 1
    real = desk.real.open_topups

    async def open_topups(*, limit: int, skip: int = 0) -> Any:
        nonlocal away
        away -= 1
        if away >= 0:
            raise LedgerError("away (scripted)")
        return await real(limit=limit, skip=skip)

    monkeypatch.setattr(desk.real, "open_topups", open_topups)
    async with anyio.create_task_group() as group:
        group.start_soon(desk.watch.run)
        await desk.clock.settle()
        assert await desk.balance(key) == 0
        await desk.clock.move(SWEEP_MS)
        assert await desk.balance(key) == 50
        group.cancel_scope.cancel()
