"""kill -9 between any two bookings: what is there, what recovery makes of it, how it ends.

The points are not listed: each scene of `infern.testing.ledger_steps` is explored from its start,
and after every step that can be taken in any state the process that booked it is killed. That no
edge of a state table is left out is tested too.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.f402 import server
from infern.core.ledger import hold, lock, payout
from infern.core.ledger.books import violations
from infern.core.ledger.lock import LockEvent, LockState
from infern.core.ledger.payout import PayoutEvent, PayoutState
from infern.core.ledger.records import TOPUP_TRANSITIONS, PaidRequest, TopupState
from infern.core.ledger.tab import Tab
from infern.testing import ledger_rows as rows
from infern.testing import ledger_steps as steps
from infern.testing.ledger_model import LedgerModel
from infern.testing.ledger_steps import NOW_MS, Scene, Step, step

STEPPER = Path(__file__).with_name("stepper.py")
PATIENCE_S = 60
FUNDS = 100_000
AMOUNT = 50_000
CHARGE = 20_000
WITHDRAWN = 5_000
KEY = rows.a_key("k")
UPFRONT = rows.a_payment("upfront", AMOUNT)
LOCK = rows.a_payment("lock", AMOUNT, is_lock=True)
SCENES: dict[str, tuple[int, Scene]] = {
    "upfront": (0, steps.payment(UPFRONT, KEY, CHARGE)),
    "hold mode": (0, steps.payment(LOCK, KEY, CHARGE)),
    "prepaid": (FUNDS, steps.keyed_request(KEY, AMOUNT, CHARGE)),
    "withdraw to an invoice": (FUNDS, steps.withdrawal(KEY, WITHDRAWN, by_invoice=True)),
    "withdraw by keysend": (FUNDS, steps.withdrawal(KEY, WITHDRAWN, by_invoice=False)),
    "top-up": (0, steps.top_up(KEY, FUNDS)),
}


def beginning(funds: int) -> tuple[Step, ...]:
    """A key, with money or without."""
    begin = [step("create_key", KEY)]
    if funds:
        topup = rows.a_topup("funds", KEY, funds)
        begin.append(step("add_topup", topup, open_limit=5))
        begin.append(step("end_topup", topup.payment_hash, TopupState.PAID, now_ms=NOW_MS))
    return tuple(begin)


def points(funds: int, scene: Scene) -> Iterator[tuple[tuple[Step, ...], LedgerModel]]:
    begin, start = beginning(funds), LedgerModel()
    for taken in begin:
        taken.play(start)
    for path, model in steps.explore(start, scene):
        yield (*begin, *path), model


@dataclass
class Stepper:
    """The process whose children book and die."""

    process: "subprocess.Popen[bytes]"

    def book_and_die(self, path: Path, taken: tuple[Step, ...]) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        written = pickle.dumps((path, taken))
        self.process.stdin.write(len(written).to_bytes(4, "big") + written)
        self.process.stdin.flush()
        os.kill(int(self.process.stdout.readline()), signal.SIGKILL)
        assert os.WTERMSIG(int(self.process.stdout.readline())) == signal.SIGKILL


@pytest.fixture
def stepper() -> Iterator[Stepper]:
    command = [sys.executable, str(STEPPER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Stepper(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


@dataclass
class Aftermath:
    """A ledger after a crash, beside the model of what it must be."""

    ledger: SqliteLedger
    model: LedgerModel
    outcomes: list[str] = field(default_factory=list)

    async def both(self, taken: Step) -> None:
        expected = taken.play(self.model)
        assert await taken.play(self.ledger) == expected
        await self.compare()

    async def compare(self) -> None:
        books = await self.ledger.books()
        assert violations(books) == []
        assert rows.in_order(books) == self.model.books()

    async def finish(self, *, sends: bool) -> None:
        """What a seller's background tasks do, when the node does what it was asked for."""
        for pending in await self.ledger.open_locks(limit=10):
            if pending.state is LockState.OFFERED:
                await self.both(
                    step("move_lock", pending.payment_hash, LockEvent.EXPIRE, now_ms=NOW_MS)
                )
        for pending in await self.ledger.open_locks(limit=10):
            ends = {LockState.CANCELLING: LockEvent.GONE, LockState.SETTLING: LockEvent.PAID}
            event = ends[pending.state]
            await self.both(step("move_lock", pending.payment_hash, event, now_ms=NOW_MS))
        for owed in await self.ledger.open_payouts(limit=10):
            if owed.state is PayoutState.OWED:
                await self.both(
                    step("move_payout", owed.payout_id, PayoutEvent.SEND, now_ms=NOW_MS)
                )
            event_ = PayoutEvent.SUCCEED if sends else PayoutEvent.FAIL
            await self.both(step("move_payout", owed.payout_id, event_, now_ms=NOW_MS))
        for topup in await self.ledger.open_topups(limit=10):
            state = TopupState.PAID if sends else TopupState.EXPIRED
            await self.both(step("end_topup", topup.payment_hash, state, now_ms=NOW_MS))
        assert await self.ledger.open_locks(limit=10) == []
        assert await self.ledger.open_payouts(limit=10) == []
        assert (await self.ledger.books()).holds == ()

    async def payer_returns(self, paid: PaidRequest, *, proves: bool) -> None:
        """Who paid presents the proof again, or redeems what is left."""
        again = step("claim", paid, rows.a_hold("again", AMOUNT, paid=paid))
        if proves and not paid.is_lock and steps.after(self.model, again) is not None:
            await self.both(again)
            await self.both(
                step(
                    "capture",
                    rows.a_hold("again", 1).hold_id,
                    rows.a_receipt(CHARGE),
                    request_id=rows.request_id("again"),
                    remainder=rows.RemainderPlan(),
                )
            )
        redeem = step("redeem", paid, KEY, now_ms=NOW_MS)
        if steps.after(self.model, redeem) is not None:
            await self.both(redeem)


async def outcome_of_payment(ledger: SqliteLedger, model: LedgerModel, paid: PaidRequest) -> str:
    """The one thing that became of a payment."""
    held = await ledger.lock(paid.payment_hash)
    given_back = held is not None and held.state in (LockState.CANCELLED, LockState.LOST)
    tab = await ledger.tab(model.runs[paid.payment_hash][0]) if model.runs else None
    credited = (await ledger.tab(KEY.tab_id)).deposited
    sent = 0 if tab is None else tab.refunded - credited
    found = {
        "delivered": tab is not None and tab.spent == CHARGE,
        "credited": tab is not None and tab.spent == 0 and credited == AMOUNT and sent == 0,
        "cancelled": given_back
        and credited == 0
        and (tab is None or (tab.spent, tab.refunded) == (0, AMOUNT)),
    }
    if found["delivered"]:
        assert tab is not None
        assert credited + sent + tab.balance == AMOUNT - CHARGE
    (only,) = [name for name, holds in found.items() if holds]
    return only


def outcome_of_key(tab: Tab, funds: int) -> str:
    """What became of a key's money."""
    moved = (tab.deposited - funds, tab.spent, tab.refunded, tab.held)
    return {
        (0, 0, 0, 0): "nothing",
        (0, CHARGE, 0, 0): "charged",
        (0, 0, WITHDRAWN + steps.FEE, 0): "withdrawn",
        (0, 0, WITHDRAWN, 0): "withdrawn",
        (FUNDS, 0, 0, 0): "topped up",
    }[moved]


EXPECTED = {
    "upfront": {"delivered", "credited"},
    "hold mode": {"delivered", "credited", "cancelled"},
    "prepaid": {"charged", "nothing"},
    "withdraw to an invoice": {"withdrawn", "nothing"},
    "withdraw by keysend": {"withdrawn", "nothing"},
    "top-up": {"topped up", "nothing"},
}


@pytest.mark.parametrize("name", list(SCENES))
async def test_abuse_14_killed_between_any_two_bookings_it_ends_in_exactly_one_way(
    name: str, stepper: Stepper, tmp_path: Path
) -> None:
    funds, scene = SCENES[name]
    paid = {"upfront": UPFRONT, "hold mode": LOCK}.get(name)
    outcomes = set()
    for number, (taken, model) in enumerate(points(funds, scene)):
        path = tmp_path / f"{number}.sqlite3"
        stepper.book_and_die(path, taken)
        async with SqliteLedger(path) as ledger:
            left = Aftermath(ledger, model)
            await left.compare()
            await left.both(step("recover", now_ms=NOW_MS))
            await left.finish(sends=number % 2 == 0)
            if paid is not None:
                await left.payer_returns(paid, proves=number % 3 == 0)
                outcomes.add(await outcome_of_payment(ledger, model, paid))
            else:
                outcomes.add(outcome_of_key(await ledger.tab(KEY.tab_id), funds))
    assert outcomes == EXPECTED[name]


Edge = tuple[str, str]


def edges_of_tables() -> dict[str, set[Edge]]:
    tables: dict[str, Mapping[Any, Mapping[Any, Any]]] = {
        "claim": server.TRANSITIONS,
        "hold": hold.TRANSITIONS,
        "lock": lock.TRANSITIONS,
        "payout": payout.TRANSITIONS,
        "top-up": {s: {t: t for t in targets} for s, targets in TOPUP_TRANSITIONS.items()},
    }
    return {
        name: {(str(s), str(t)) for s, edges in table.items() for t in edges.values()}
        for name, table in tables.items()
    }


STATES: dict[str, Callable[[LedgerModel], dict[Any, str]]] = {
    "claim": lambda m: {payment: state for payment, (_, state) in m.runs.items()},
    "hold": lambda m: {h.hold_id: str(h.state) for h in m.holds.values()},
    "lock": lambda m: {k.payment_hash: str(k.state) for k in m.locks.values()},
    "payout": lambda m: {p.payout_id: str(p.state) for p in m.payouts.values()},
    "top-up": lambda m: {t.payment_hash: str(t.state) for t in m.topups.values()},
}


def test_the_points_are_every_edge_of_every_state_table() -> None:
    found: dict[str, set[Edge]] = {machine: set() for machine in STATES}
    for funds, scene in SCENES.values():
        for taken, after in points(funds, scene):
            before = LedgerModel()
            for earlier in taken[:-1]:
                earlier.play(before)
            for machine, states in STATES.items():
                was, now = states(before), states(after)
                # A claim has no row while it is quoted; every other row begins in its first state.
                first = "quoted" if machine == "claim" else None
                for row, state in now.items():
                    if was.get(row, first) != state or taken[-1].method == "redeem":
                        found[machine].add((str(was.get(row, first)), state))
    for machine, edges in edges_of_tables().items():
        unknown = {edge for edge in found[machine] if edge[0] == "None"}
        assert found[machine] - unknown >= edges, machine


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
