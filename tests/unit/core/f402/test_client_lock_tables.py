"""Hold mode from both ends: the client's table against the seller's lock and claim.

As `test_client_server_tables`, with a payment that the seller takes or gives back: every state
the payer, the seller's ledger and the network can reach together.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import pytest

from infern.core.f402.client import LOCKING, MONEY_AT_STAKE, TERMINAL, ClientEvent, ClientState
from infern.core.f402.client import TRANSITIONS as CLIENT
from infern.core.f402.client import advance as client_advance
from infern.core.f402.server import TRANSITIONS as SERVER
from infern.core.f402.server import ServerEvent, ServerState, refusal
from infern.core.f402.server import advance as server_advance
from infern.core.ledger.lock import GIVEN_BACK, LockEvent, LockState
from infern.core.ledger.lock import TRANSITIONS as LOCKS

C, CE, S, SE = ClientState, ClientEvent, ServerState, ServerEvent
L, LE = LockState, LockEvent


class Fiber(Enum):
    NONE = "none"
    UNDER_WAY = "under way"
    RECEIVED = "received"
    TAKEN = "taken"
    BACK = "back"


@dataclass(frozen=True)
class World:
    client: ClientState = C.INTENDED
    server: ServerState = S.QUOTED
    lock: LockState = L.OFFERED
    fiber: Fiber = Fiber.NONE
    sends: int = 0
    answers: int = 0


def after(w: World, event: ClientEvent, **changes: object) -> World:
    return replace(w, client=client_advance(w.client, event), **changes)  # type: ignore[arg-type] # fields by name


def locked(w: World, event: LockEvent, *events: ServerEvent, **changes: object) -> World:
    server = w.server
    for one in events:
        server = server_advance(server, one)
    return replace(w, lock=LOCKS[w.lock][event], server=server, **changes)  # type: ignore[arg-type] # fields by name


def steps(w: World) -> Iterator[World]:
    yield from pays(w)
    yield from looks(w)
    yield from network(w)
    yield from seller(w)
    yield from proves(w)


def pays(w: World) -> Iterator[World]:
    if w.client is C.INTENDED:
        yield after(w, CE.OFFER_DECLINED)
        yield after(w, CE.PAY_SENT, sends=w.sends + 1, fiber=Fiber.UNDER_WAY)
        yield after(w, CE.PAY_SENT, sends=w.sends + 1)
    if w.client is not C.PAYING:
        return
    yield after(w, CE.PAY_UNKNOWN)
    if w.fiber is Fiber.NONE:
        yield replace(w, fiber=Fiber.UNDER_WAY)  # the same invoice once more
        yield after(w, CE.PAY_FAILED, fiber=Fiber.BACK)
    elif w.fiber not in {Fiber.TAKEN, Fiber.BACK}:
        yield after(w, CE.PAY_HELD)


def looks(w: World) -> Iterator[World]:
    """Our own node says how it ended."""
    if w.fiber is Fiber.TAKEN and CE.PAY_SUCCEEDED in CLIENT[w.client]:
        yield after(w, CE.PAY_SUCCEEDED)
    if w.fiber is Fiber.BACK and CE.PAY_FAILED in CLIENT[w.client]:
        yield after(w, CE.PAY_FAILED)


def network(w: World) -> Iterator[World]:
    if w.fiber is Fiber.UNDER_WAY:
        yield replace(w, fiber=Fiber.BACK)
        if w.lock is L.OFFERED:
            yield replace(w, fiber=Fiber.RECEIVED)
    if w.fiber is Fiber.RECEIVED:
        yield replace(w, fiber=Fiber.BACK)  # its time is over


def seller(w: World) -> Iterator[World]:
    """What the seller does by itself, or after a restart."""
    if LE.EXPIRE in LOCKS[w.lock]:
        yield locked(w, LE.EXPIRE)
    if w.lock is L.HELD:
        yield locked(w, LE.CAPTURE, SE.DELIVER)
        yield locked(w, LE.RELEASE, SE.FAIL)
    if w.lock is L.CHARGED:
        yield locked(w, LE.DELIVER)
        yield locked(w, LE.ABANDON)
    if w.lock is L.SETTLING and w.fiber is Fiber.RECEIVED:
        yield locked(w, LE.PAID, fiber=Fiber.TAKEN)
    if w.lock is L.SETTLING and w.fiber is Fiber.BACK:
        yield locked(w, LE.GONE, SE.CANCEL)
    if w.lock is L.CANCELLING and w.fiber is not Fiber.TAKEN:
        cancels = (SE.CANCEL,) if SE.CANCEL in SERVER[w.server] else ()
        yield locked(w, LE.GONE, *cancels, fiber=Fiber.BACK)
    if w.lock is L.SETTLED and w.server is S.FAILED:
        yield replace(w, server=server_advance(w.server, SE.CREDIT))


def proves(w: World) -> Iterator[World]:
    if CE.PROOF_SENT in CLIENT[w.client]:
        yield after(w, CE.PROOF_SENT)
    if w.client not in {C.CLAIMING, C.PROVING}:
        return
    yield after(w, CE.SELLER_FAILED)
    if w.lock is L.OFFERED and w.fiber is Fiber.RECEIVED:
        yield locked(w, LE.CLAIM, SE.CLAIM)
    elif w.lock is L.OFFERED or w.server is S.RUNNING:
        yield after(w, CE.PROOF_PENDING)
    elif w.lock in GIVEN_BACK:
        yield after(w, CE.PROOF_REFUSED)
    elif w.server is S.DELIVERED:
        assert refusal(w.server).code == "already_delivered"
        yield after(w, CE.ALREADY_DELIVERED)
        if w.lock in {L.CHARGED, L.SETTLING, L.SETTLED}:
            yield after(w, CE.ANSWERED, answers=w.answers + 1)


def reachable() -> dict[World, list[World]]:
    seen: dict[World, list[World]] = {}
    todo = deque([World()])
    while todo:
        world = todo.popleft()
        if world not in seen:
            seen[world] = list(steps(world))
            todo.extend(seen[world])
    return seen


WORLDS = reachable()


def can_reach(start: World, goal: Callable[[World], bool]) -> bool:
    seen, todo = set(), [start]
    while todo:
        world = todo.pop()
        if goal(world):
            return True
        if world not in seen:
            seen.add(world)
            todo.extend(WORLDS[world])
    return False


def test_the_search_visits_what_there_is_to_visit() -> None:
    assert {w.client for w in WORLDS} == set(ClientState) - {C.ASKING}
    assert {w.lock for w in WORLDS} == set(LockState)
    assert len(WORLDS) > 100


def test_no_path_pays_twice_or_is_answered_twice() -> None:
    assert max(w.sends for w in WORLDS) == 1
    assert max(w.answers for w in WORLDS) == 1


def test_nobody_counts_as_unpaid_whose_payment_may_still_be_taken() -> None:
    for world in WORLDS:
        if world.client is C.PAYMENT_FAILED:
            assert world.fiber is Fiber.BACK, world
        if world.client is C.REFUSED:
            assert world.sends == 0, world


def test_a_payment_that_is_locked_is_on_record_and_counts() -> None:
    for world in WORLDS:
        if world.fiber in {Fiber.UNDER_WAY, Fiber.RECEIVED}:
            assert world.client in LOCKING, world


def test_until_it_is_answered_or_back_nobody_pays_anew() -> None:
    for world in WORLDS:
        if world.fiber in {Fiber.UNDER_WAY, Fiber.RECEIVED, Fiber.TAKEN}:
            ended = {C.SETTLING, C.DELIVERED, C.REDEEMED_ELSEWHERE}
            assert world.client in MONEY_AT_STAKE | ended, world


def test_what_was_taken_was_answered_or_stays_to_be_claimed() -> None:
    for world in WORLDS:
        if world.fiber is Fiber.TAKEN:
            assert world.lock is L.SETTLED
            assert world.client is not C.PAYMENT_FAILED


def test_an_answer_is_never_given_for_a_payment_that_the_payer_has_back_by_the_seller() -> None:
    for world in WORLDS:
        if world.answers and world.lock in {L.CANCELLING, L.CANCELLED}:
            # Only when the seller's process died between writing and booking that it had written.
            assert world.server in {S.DELIVERED, S.CANCELLED}, world


@pytest.mark.parametrize("goal", [TERMINAL])
def test_the_payer_always_learns_the_end_once_the_network_knows_it(
    goal: frozenset[ClientState],
) -> None:
    for world in WORLDS:
        assert can_reach(world, lambda w: w.client in goal), world
