"""The seller dies at each step of a payout: before and after each booking and each call.

The points are found by running: the n-th run is killed at the n-th step, until a run comes through.
After each the next process takes over. The node's own list of payments shows at most one for each
payout, and the books and the channels agree to the shannon.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.f402.credential import key_digest
from infern.core.fiber.types import PaymentStatus
from infern.core.ids import HoldId, PayoutId, RequestDigest, RequestId, TabId
from infern.core.ledger.hold import Hold
from infern.core.ledger.payout import Payout, PayoutPurpose, PayoutState, fee_cap_of
from infern.core.ledger.records import PaidRequest, RemainderPlan
from infern.core.units import CKB
from infern.ports import Clock
from infern.seller.payouts import Pace, PayoutDesk
from infern.seller.sending import Sender
from infern.testing.ledger_rows import a_receipt

AMOUNT = 50_000
MAX_POINTS = 200
PACE = replace(Pace(), sweep_ms=20, later_ms=(20, 50), search_ms=30)


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts steps and dies at one of them; afterwards nothing more may be done."""

    def __init__(self, deadly: int) -> None:
        self._deadly = deadly
        self.count = 0
        self.died_at = ""

    def step(self, what: str) -> None:
        if self.died_at:
            raise Killed(self.died_at)
        self.count += 1
        if self.count == self._deadly:
            self.died_at = what
            raise Killed(what)


class Deadly:
    """An object whose coroutines are steps: one before each call and one after."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **more: Any) -> Any:
            what = f"{name}({type(args[0]).__name__ if args else ''})"
            self._steps.step(f"before {what}")
            result = await method(*args, **more)
            self._steps.step(f"after {what}")
            return result

        return call


def _desk(ledger: Any, fiber: Any, clock: Clock) -> PayoutDesk:
    return PayoutDesk(
        ledger=ledger,
        sender=Sender(fiber=fiber, clock=clock, verifier=CoincurveVerifier()),
        clock=clock,
        in_flight=10,
        pace=PACE,
    )


async def _until_ended(desk: PayoutDesk, ledger: Any) -> None:
    """Run a desk until no payout is open."""
    async with anyio.create_task_group() as group:
        group.start_soon(desk.run)
        with anyio.fail_after(30):
            while await ledger.open_payouts(limit=1):
                await asyncio.sleep(0.005)
        group.cancel_scope.cancel()


@dataclass(slots=True, kw_only=True)
class Case:
    """A seller, a key with money, and the payout of the current run."""

    live: Any
    key: str
    wish: tuple[TabId, bytes] | None = None


Begin = Callable[[Case, Any], Awaitable[None]]


async def _keysend(case: Case, ledger: Any) -> None:
    await _withdrawal(case, ledger, target=case.live.keys["consumer"])


async def _invoice(case: Case, ledger: Any) -> None:
    record = await case.live.invoice(AMOUNT)
    await _withdrawal(
        case, ledger, invoice=record.invoice_text, payment_hash=record.invoice.payment_hash
    )


async def _withdrawal(case: Case, ledger: Any, **changes: Any) -> None:
    live = case.live
    key = await live.world.ledger.find_key(key_digest(case.key))
    payout = Payout(
        payout_id=PayoutId(f"out_{secrets.token_hex(8)}"),
        tab_id=key.tab_id,
        purpose=PayoutPurpose.WITHDRAW,
        request_key=secrets.token_bytes(32),
        asset=CKB,
        amount=AMOUNT,
        fee_cap=fee_cap_of(AMOUNT),
        created_ms=live.world.clock.now_ms(),
        **changes,
    )
    case.wish = (payout.tab_id, payout.request_key)
    await ledger.add_payout(payout)


async def _remainder(case: Case, ledger: Any) -> None:
    """A request that was really paid, whose answer is charged in the step that can die."""
    live = case.live
    record = await live.invoice(AMOUNT + 1_000, node="provider")
    payment_hash = record.invoice.payment_hash
    await live.pay(record.invoice_text, payment_hash, AMOUNT + 1_000)
    await live.local()
    tab_id, hold_id = TabId(f"tab_{secrets.token_hex(8)}"), HoldId(secrets.token_hex(8))
    paid = PaidRequest(
        payment_hash=payment_hash,
        amount=AMOUNT + 1_000,
        asset=CKB,
        digest=RequestDigest(bytes(32)),
        tab_id=tab_id,
        session=secrets.token_bytes(16),
    )
    hold = Hold(
        hold_id=hold_id,
        tab_id=TabId(""),
        amount=paid.amount,
        digest=paid.digest,
        payment_hash=payment_hash,
        opened_ms=1,
    )
    await live.world.ledger.claim(paid, hold)
    case.wish = (tab_id, payment_hash)
    await ledger.capture(
        hold_id,
        a_receipt(charged=1_000),
        request_id=RequestId(secrets.token_hex(8)),
        remainder=RemainderPlan(
            refund_to=live.keys["consumer"], payout_id=PayoutId(f"out_{secrets.token_hex(8)}")
        ),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("begin", [_keysend, _invoice, _remainder])
async def test_at_each_step(make_live: Any, begin: Begin) -> None:
    live = await make_live(runs=False)
    case = Case(live=live, key=await _funded(live))
    died: list[str] = []
    for deadly in range(1, MAX_POINTS):
        steps = Steps(deadly)
        await _one_life(case, steps, begin)
        await _the_next(live)
        await _check(case, steps)
        if not steps.died_at:
            break
        died.append(steps.died_at)
    else:
        pytest.fail("no run came through")
    print(f"{len(died)} points: {', '.join(dict.fromkeys(died))}")
    assert {"after move_payout(str)", "after call(SendPayment)"} <= set(died)
    assert len(died) > 15


async def _funded(live: Any) -> str:
    """A key with money that really arrived; without a running seller somebody has to look."""
    async with anyio.create_task_group() as group:
        group.start_soon(live.world.parts.topups.run)
        key: str = await live.key(100 * AMOUNT)
        group.cancel_scope.cancel()
    return key


async def _one_life(case: Case, steps: Steps, begin: Begin) -> None:
    """A process that begins a payout and dies at its step."""
    live = case.live
    ledger, case.wish = Deadly(live.world.ledger, steps), None
    try:
        await begin(case, ledger)
        desk = _desk(ledger, Deadly(live.node, steps), live.world.clock)
        await _until_ended(desk, live.world.ledger)
    except Killed:
        pass
    except BaseExceptionGroup as group:
        _, others = group.split(Killed)
        assert others is None, others


async def _the_next(live: Any) -> None:
    """The books are opened again and whatever was left is brought to its end."""
    world = live.world
    world.ledger.close()
    world.ledger = SqliteLedger(world.path / "ledger.sqlite3")
    await world.ledger.recover(now_ms=world.clock.now_ms())
    await _until_ended(_desk(world.ledger, live.node, world.clock), world.ledger)


async def _check(case: Case, steps: Steps) -> None:
    where, live = f"killed {steps.died_at}", case.live
    await live.adds_up()
    if case.wish is None:
        return
    payout = await live.world.ledger.payout(*case.wish)
    if payout is None:
        return  # it died before anything was recorded
    named = await live.payments_of(payout.payout_id)
    if payout.invoice is not None:
        named = [p for p in await live.payments() if p.payment_hash == payout.payment_hash]
    assert len(named) <= 1, where
    is_paid = [payment.status for payment in named] == [PaymentStatus.SUCCESS]
    assert is_paid == (payout.state is PayoutState.SETTLED), where
    assert not payout.is_open, where
    tab = await live.world.ledger.tab(payout.tab_id)
    assert tab.held == 0, where
    if not steps.died_at:
        assert is_paid
