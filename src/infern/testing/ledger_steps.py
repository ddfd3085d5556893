"""Steps a ledger can take, as values: for the model, an engine, or a process to be killed.

A scene has one thing in it (a payment, a lock, a key) and offers every step that could be tried
with it now. `explore` follows all of them and finds every state a ledger can be in.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from infern.core.ids import PayoutId
from infern.core.ledger.hold import Hold, HoldState
from infern.core.ledger.lock import LockEvent
from infern.core.ledger.payout import PayoutEvent
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan, TopupState
from infern.testing import ledger_rows as rows
from infern.testing.ledger_model import LedgerModel
from infern.testing.ledger_payouts import Refused

NOW_MS: Final = 2_000
"""After every lease of `ledger_rows`."""
FEE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of the ledger's port.

    Args:
        method: Its name.
        args: Positional arguments.
        named: Keyword arguments.
    """

    method: str
    args: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def play(self, ledger: Any) -> Any:
        """Make the call; a coroutine when the ledger is an engine."""
        return getattr(ledger, self.method)(*self.args, **self.named)


Scene = Callable[[LedgerModel], Iterator[Step]]
"""The steps that could be tried now; some of them are refused."""


def step(method: str, *args: Any, **named: Any) -> Step:
    """A step, written like the call."""
    return Step(method=method, args=args, named=named)


def payment(paid: PaidRequest, key: KeyRecord, charged: int) -> Scene:
    """A paid request, upfront or in hold mode.

    Args:
        paid: The payment.
        key: Takes its remainder, or what is redeemed.
        charged: Base units an answer costs, at most what is held.
    """

    def scene(model: LedgerModel) -> Iterator[Step]:
        name = paid.payment_hash.hex()[:8]
        if paid.is_lock:
            yield step("offer_lock", rows.a_lock(paid), open_limit=60)
            for event in _LOCK_STEPS:
                yield step("move_lock", paid.payment_hash, event, now_ms=NOW_MS)
        yield step("credit_unclaimed", paid, now_ms=NOW_MS)
        tried = sum(h.payment_hash == paid.payment_hash for h in model.holds.values())
        hold = rows.a_hold(f"{name}_{tried}", paid.amount, paid=paid)
        yield step("claim", paid, hold)
        for held in model.holds.values():
            if held.payment_hash == paid.payment_hash and held.state is HoldState.OPEN:
                plans = (RemainderPlan(), RemainderPlan(key=key), rows.refund(name))
                yield from _ends(held, charged, plans)
        yield step("redeem", paid, key, now_ms=NOW_MS)
        yield from _payout_steps(model, PayoutId(f"payout_refund_{name}"))

    return scene


_LOCK_STEPS: Final = (
    LockEvent.DELIVER,
    LockEvent.ABANDON,
    LockEvent.EXPIRE,
    LockEvent.PAID,
    LockEvent.GONE,
)


def _ends(hold: Hold, charged: int, plans: tuple[RemainderPlan, ...]) -> Iterator[Step]:
    for plan in plans:
        yield step(
            "capture",
            hold.hold_id,
            rows.a_receipt(min(charged, hold.amount)),
            request_id=rows.request_id(hold.hold_id),
            remainder=plan,
        )
    yield step("release", hold.hold_id, now_ms=NOW_MS)
    yield step("release_expired", hold.hold_id, now_ms=NOW_MS)


def _payout_steps(model: LedgerModel, payout_id: PayoutId) -> Iterator[Step]:
    payout = model.payouts.get(payout_id)
    if payout is None:
        return
    if payout.target is not None and payout.payment_hash is None:
        yield step("note_payment", payout_id, rows.payment_hash(f"sent {payout_id}"))
    for event in PayoutEvent:
        fee = FEE if event is PayoutEvent.SUCCEED else 0
        failure = "no_route" if event is PayoutEvent.FAIL else ""
        yield step("move_payout", payout_id, event, now_ms=NOW_MS, fee=fee, failure=failure)


def keyed_request(key: KeyRecord, amount: int, charged: int) -> Scene:
    """Requests on a prepaid key, one after another."""

    def scene(model: LedgerModel) -> Iterator[Step]:
        of_key = [hold for hold in model.holds.values() if hold.tab_id == key.tab_id]
        attempt = rows.named("attempt", key.key_id)
        hold = rows.a_hold(f"{key.key_id}_{len(of_key)}", amount, key=key, attempt=attempt)
        yield step("hold", hold)
        for held in of_key:
            if held.state is HoldState.OPEN:
                yield from _ends(held, charged, (RemainderPlan(),))

    return scene


def withdrawal(key: KeyRecord, amount: int, *, by_invoice: bool) -> Scene:
    """Balance of a key on its way out."""

    def scene(model: LedgerModel) -> Iterator[Step]:
        payout = rows.a_withdrawal(key.key_id, key, amount, by_invoice=by_invoice)
        yield step("add_payout", payout)
        yield from _payout_steps(model, payout.payout_id)

    return scene


def top_up(key: KeyRecord, amount: int) -> Scene:
    """An invoice of a key."""

    def scene(model: LedgerModel) -> Iterator[Step]:
        topup = rows.a_topup(f"for {key.key_id}", key, amount)
        if topup.payment_hash not in model.topups:
            yield step("add_topup", topup, open_limit=5)
        for state in TopupState:
            yield step("end_topup", topup.payment_hash, state, now_ms=NOW_MS)

    return scene


def after(model: LedgerModel, taken: Step) -> LedgerModel | None:
    """The model after a step, or None when it is refused or changes nothing."""
    changed = copy.deepcopy(model)
    try:
        taken.play(changed)
    except Refused:
        return None
    return None if fingerprint(changed) == fingerprint(model) else changed


def fingerprint(model: LedgerModel) -> str:
    """Equal for two states between which nothing differs that a later step could notice."""
    holds = [
        (hold.tab_id, hold.amount, hold.state, hold.charged)
        for hold in model.holds.values()
        if hold.state is not HoldState.RELEASED
    ]
    facts = (
        sorted((t.tab_id, t.deposited, t.held, t.spent, t.refunded) for t in model.tabs.values()),
        sorted((h.hex(), run) for h, run in model.runs.items()),
        sorted(
            (k.payment_hash.hex(), k.state, k.remainder_tab or "", bool(k.refund_to))
            for k in model.locks.values()
        ),
        sorted((p.payout_id, p.state, bool(p.payment_hash)) for p in model.payouts.values()),
        sorted((t.payment_hash.hex(), t.state) for t in model.topups.values()),
        sorted(holds),
    )
    return repr(facts)


def explore(start: LedgerModel, scene: Scene) -> Iterator[tuple[tuple[Step, ...], LedgerModel]]:
    """Every way a scene can go on, once for each state and step.

    Every state is reached by a shortest path; then each step that changes something follows, and
    what a start-up does. What is given is the steps, and the model after them for the caller alone.
    """
    recover = step("recover", now_ms=NOW_MS)
    seen = {fingerprint(start)}
    todo: deque[tuple[tuple[Step, ...], LedgerModel]] = deque([((), start)])
    while todo:
        path, model = todo.popleft()
        for taken in (*scene(model), recover):
            changed = after(model, taken)
            if changed is None:
                continue
            longer = (*path, taken)
            yield longer, copy.deepcopy(changed)
            if fingerprint(changed) not in seen:
                seen.add(fingerprint(changed))
                todo.append((longer, changed))
