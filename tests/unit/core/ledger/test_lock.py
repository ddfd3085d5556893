"""Locks: the table by itself, and together with its hold and its claim in every order."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from infern.core.errors import InvariantViolation, LedgerError, Money
from infern.core.f402.server import TRANSITIONS as CLAIMS
from infern.core.f402.server import ServerEvent, ServerState, advance
from infern.core.ids import HoldId, PaymentHash, RequestDigest, TabId
from infern.core.ledger.hold import TRANSITIONS as HOLDS
from infern.core.ledger.hold import HoldEvent, HoldState
from infern.core.ledger.lock import (
    GIVEN_BACK,
    OPEN,
    PENDING,
    TRANSITIONS,
    Lock,
    LockEvent,
    LockState,
    move_lock,
)
from infern.core.units import CKB, MAX_LEDGER_AMOUNT

S, E = LockState, LockEvent
OFFERED = Lock(
    payment_hash=PaymentHash(b"\x01" * 32),
    nonce=bytes(16),
    amount=100,
    asset=CKB,
    digest=RequestDigest(bytes(32)),
    offered_ms=1,
    expires_ms=9,
)
CLAIMED = replace(OFFERED, tab_id=TabId("t"), hold_id=HoldId("h"))


def at(state: LockState) -> Lock:
    return replace(CLAIMED, state=state, ended_ms=None if state in OPEN else 5)


def reachable(start: LockState) -> set[LockState]:
    seen, todo = {start}, [start]
    while todo:
        for target in TRANSITIONS[todo.pop()].values():
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_the_table_is_total_and_every_state_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(LockState)
    assert reachable(S.OFFERED) == set(LockState)
    assert {event for edges in TRANSITIONS.values() for event in edges} == set(LockEvent)


def test_the_ends_are_three_and_none_is_left() -> None:
    ends = set(LockState) - OPEN
    assert ends == {S.SETTLED, S.CANCELLED, S.LOST}
    for state in LockState:
        assert reachable(state) & ends
    for end in ends:
        assert reachable(end) == {end}


def test_the_groups_of_states_are_what_they_say() -> None:
    assert {S.HELD, S.CHARGED, S.SETTLING, S.CANCELLING} == PENDING
    assert {S.CANCELLING, S.CANCELLED, S.LOST} == GIVEN_BACK


@pytest.mark.parametrize("state", list(LockState))
@pytest.mark.parametrize("event", list(LockEvent))
def test_edges(state: LockState, event: LockEvent) -> None:
    target = TRANSITIONS[state].get(event)
    if target is None:
        with pytest.raises(LedgerError, match=f"{state} cannot {event}") as caught:
            move_lock(at(state), event, 7)
        assert (caught.value.code, caught.value.money) == ("ledger_conflict", Money.UNMOVED)
    else:
        moved = move_lock(at(state), event, 7)
        assert moved == replace(at(state), state=target, ended_ms=None if target in OPEN else 7)


def test_the_preimage_is_told_only_after_the_charge_and_the_writing() -> None:
    """Every way to `SETTLING` passes a claim, a capture and a delivery."""
    ways = {(s, e) for s, edges in TRANSITIONS.items() for e, t in edges.items() if t is S.SETTLING}
    assert ways == {(S.CHARGED, E.DELIVER)}
    ways = {(s, e) for s, edges in TRANSITIONS.items() for e, t in edges.items() if t is S.CHARGED}
    assert ways == {(S.HELD, E.CAPTURE)}
    ways = {(s, e) for s, edges in TRANSITIONS.items() for e, t in edges.items() if t is S.HELD}
    assert ways == {(S.OFFERED, E.CLAIM)}


def test_a_payment_that_goes_back_is_never_settled_by_us() -> None:
    assert S.SETTLING not in reachable(S.CANCELLING)
    assert S.CANCELLING not in reachable(S.SETTLING)


def test_only_the_nodes_word_ends_a_lock() -> None:
    endings = {e for edges in TRANSITIONS.values() for e, t in edges.items() if t not in OPEN}
    assert endings == {E.PAID, E.GONE}


def test_a_lock_is_pending_from_its_claim_to_its_end() -> None:
    assert not OFFERED.is_pending
    assert not move_lock(OFFERED, E.EXPIRE, 2).is_pending
    for state in LockState:
        if state is not S.OFFERED:
            assert at(state).is_pending == (state in OPEN)


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": bytes(15)},
        {"amount": -1},
        {"amount": MAX_LEDGER_AMOUNT + 1},
        {"state": S.SETTLED},
        {"state": S.HELD, "ended_ms": 5},
        {"tab_id": None},
        {"hold_id": None},
        {"tab_id": None, "hold_id": None, "state": S.HELD},
        {"tab_id": None, "hold_id": None, "state": S.CHARGED},
        {"tab_id": None, "hold_id": None, "state": S.SETTLING},
        {"tab_id": None, "hold_id": None, "state": S.LOST, "ended_ms": 5},
    ],
)
def test_rows_that_say_two_things_cannot_exist(change: dict[str, object]) -> None:
    with pytest.raises((InvariantViolation, ValueError)):
        replace(CLAIMED, **change)


@dataclass(frozen=True)
class World:
    """One payment in hold mode: what the seller wrote, and what the node has.

    `told` is that the node knows the preimage; `tlc` is where the payer's money is.
    """

    lock: LockState = S.OFFERED
    hold: HoldState | None = None
    claim: ServerState = ServerState.QUOTED
    tlc: str = "none"
    told: bool = False
    written: bool = False


def steps(w: World) -> Iterator[World]:
    """Everything that may happen next, a crash and a node with a will of its own included."""
    if w.tlc == "none" and w.lock in (S.OFFERED, S.CANCELLING):
        yield replace(w, tlc="pending")
    if w.tlc == "pending" and not w.told:
        # Fiber gives it back by itself after days, or the operator cancels by hand.
        yield replace(w, tlc="back")
    if w.lock is S.OFFERED:
        if w.tlc == "pending" and ServerEvent.CLAIM in CLAIMS[w.claim]:
            claim = advance(w.claim, ServerEvent.CLAIM)
            yield replace(w, lock=TRANSITIONS[w.lock][E.CLAIM], hold=HoldState.OPEN, claim=claim)
        yield replace(w, lock=TRANSITIONS[w.lock][E.EXPIRE])
    if w.hold is HoldState.OPEN:
        yield replace(
            w,
            lock=TRANSITIONS[w.lock][E.CAPTURE],
            hold=HOLDS[w.hold][HoldEvent.CAPTURE],
            claim=advance(w.claim, ServerEvent.DELIVER),
        )
        # A failed run, a swept lease and the next start after a crash are one and the same.
        yield replace(
            w,
            lock=TRANSITIONS[w.lock][E.RELEASE],
            hold=HOLDS[w.hold][HoldEvent.RELEASE],
            claim=advance(w.claim, ServerEvent.FAIL),
        )
    if w.lock is S.CHARGED:
        if w.written:
            yield replace(w, lock=TRANSITIONS[w.lock][E.DELIVER])
        else:
            yield replace(w, written=True)
        yield replace(w, lock=TRANSITIONS[w.lock][E.ABANDON])
    yield from node(w)


def node(w: World) -> Iterator[World]:
    """What the seller tells its node and hears from it."""
    if w.lock is S.SETTLING and w.tlc == "pending":
        yield replace(w, told=True, tlc="taken")
    if w.lock is S.CANCELLING and w.tlc in ("pending", "none"):
        yield replace(w, tlc="back")
    if w.tlc == "taken" and E.PAID in TRANSITIONS[w.lock]:
        yield replace(w, lock=TRANSITIONS[w.lock][E.PAID])
    if w.tlc == "back" and w.lock in (S.SETTLING, S.CANCELLING):
        gone = replace(w, lock=TRANSITIONS[w.lock][E.GONE])
        if w.hold is not None:
            gone = replace(gone, claim=advance(w.claim, ServerEvent.CANCEL))
        if w.hold is HoldState.CAPTURED:
            gone = replace(gone, hold=HOLDS[w.hold][HoldEvent.VOID])
        yield gone


def explore() -> dict[World, list[World]]:
    seen: dict[World, list[World]] = {}
    todo = deque([World()])
    while todo:
        world = todo.popleft()
        if world not in seen:
            seen[world] = list(steps(world))
            todo.extend(seen[world])
    return seen


WORLDS = explore()


def test_the_search_visits_every_state() -> None:
    assert {w.lock for w in WORLDS} == set(LockState)
    assert {w.hold for w in WORLDS} == {None, *HoldState}
    assert {w.claim for w in WORLDS} == {
        ServerState.QUOTED,
        ServerState.RUNNING,
        ServerState.DELIVERED,
        ServerState.FAILED,
        ServerState.CANCELLED,
    }


def test_nothing_is_taken_that_was_not_written_and_charged() -> None:
    for w in WORLDS:
        if w.tlc == "taken" or w.told:
            assert w.written, w
            assert (w.hold, w.claim) == (HoldState.CAPTURED, ServerState.DELIVERED), w


def test_every_end_is_one_of_delivered_or_given_back() -> None:
    ends = [w for w, after in WORLDS.items() if not after]
    assert ends
    for w in ends:
        delivered = (w.lock, w.hold, w.claim, w.tlc) == (
            S.SETTLED,
            HoldState.CAPTURED,
            ServerState.DELIVERED,
            "taken",
        )
        never_claimed = (w.lock, w.hold, w.claim) == (S.CANCELLED, None, ServerState.QUOTED)
        given_back = w.claim is ServerState.CANCELLED and w.hold in (
            HoldState.RELEASED,
            HoldState.VOIDED,
        )
        assert delivered + never_claimed + given_back == 1, w
        if not delivered:
            assert w.tlc == "back", w
            assert w.lock in (S.CANCELLED, S.LOST), w


def test_nothing_that_was_given_back_is_charged() -> None:
    for w in WORLDS:
        if w.lock in (S.CANCELLED, S.LOST):
            assert w.hold is not HoldState.CAPTURED, w


def test_every_state_comes_to_an_end() -> None:
    # A node that answers: then no state can be stayed in, and none can be come back to.
    depth: dict[World, int] = {}

    def steps_left(world: World, path: tuple[World, ...] = ()) -> int:
        assert world not in path, world
        if world not in depth:
            after = WORLDS[world]
            depth[world] = 1 + max((steps_left(n, (*path, world)) for n in after), default=0)
        return depth[world]

    assert steps_left(World()) > 5
