"""The client's table against the seller's: every reachable pair of states.

A model of one request: the client follows `client.TRANSITIONS`, the seller `server.TRANSITIONS`,
and between them is everything a network may do. A proof may arrive or not, its answer may arrive
or not, either side may stop and start again from what it wrote down. The search visits every
state the two can reach together and checks what must hold in all of them. Payment is upfront here;
hold mode has searches of its own, `test_client_lock_tables.py` beside this one and
`tests/unit/core/ledger/test_lock.py`.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import pytest

from infern.core.errors import LocalProtocolError
from infern.core.f402.client import MONEY_AT_STAKE, TERMINAL, ClientEvent, ClientState
from infern.core.f402.client import TRANSITIONS as CLIENT
from infern.core.f402.client import advance as client_advance
from infern.core.f402.server import TRANSITIONS as SERVER
from infern.core.f402.server import ServerEvent, ServerState, refusal
from infern.core.f402.server import advance as server_advance

C, CE, S, SE = ClientState, ClientEvent, ServerState, ServerEvent


class Fiber(Enum):
    """What the payment does on the network."""

    NONE = "none"
    UNDER_WAY = "under way"
    SETTLED = "settled"
    FAILED = "failed"


@dataclass(frozen=True)
class World:
    """Both sides and the money between them."""

    client: ClientState = C.ASKING
    server: ServerState = S.QUOTED
    fiber: Fiber = Fiber.NONE
    sends: int = 0
    charges: int = 0
    credits: int = 0


def steps(w: World) -> Iterator[tuple[str, World]]:
    """Everything that may happen next."""
    yield from client_pays(w)
    yield from network(w)
    yield from seller(w)
    yield from proof(w)


def after(w: World, event: ClientEvent, **changes: object) -> World:
    return replace(w, client=client_advance(w.client, event), **changes)  # type: ignore[arg-type]  # fields by name


def client_pays(w: World) -> Iterator[tuple[str, World]]:
    if w.client is C.ASKING:
        yield "offer", after(w, CE.OFFER_ACCEPTED)
        yield "declined", after(w, CE.OFFER_DECLINED)
        yield "free", after(w, CE.ANSWERED)
    if w.client is C.INTENDED:
        yield "send", after(w, CE.PAY_SENT, sends=w.sends + 1, fiber=Fiber.UNDER_WAY)
        yield "send lost", after(w, CE.PAY_SENT, sends=w.sends + 1)
        yield "gave up", after(w, CE.OFFER_DECLINED)
    if w.client is C.PAYING:
        yield "restart or deadline", after(w, CE.PAY_UNKNOWN)
        if w.fiber is Fiber.NONE:
            # Looked up, nothing there: the same invoice goes out again, which is one payment.
            yield "send same invoice", replace(w, fiber=Fiber.UNDER_WAY)
            yield "invoice expired unsent", after(w, CE.PAY_FAILED, fiber=Fiber.FAILED)
        if w.fiber is Fiber.SETTLED:
            yield "paid", after(w, CE.PAY_SUCCEEDED)
        if w.fiber is Fiber.FAILED:
            yield "failed", after(w, CE.PAY_FAILED)


def network(w: World) -> Iterator[tuple[str, World]]:
    if w.fiber is Fiber.UNDER_WAY:
        yield "settles", replace(w, fiber=Fiber.SETTLED)
        yield "fails", replace(w, fiber=Fiber.FAILED)


def seller(w: World) -> Iterator[tuple[str, World]]:
    """What the seller does by itself, whoever listens."""
    if w.server is S.RUNNING:
        delivered = server_advance(w.server, SE.DELIVER)
        yield "delivers", replace(w, server=delivered, charges=w.charges + 1)
        yield "fails", replace(w, server=server_advance(w.server, SE.FAIL))
    if w.fiber is Fiber.SETTLED and SE.ARRIVE in SERVER[w.server]:
        yield (
            "looks for payments without proofs",
            replace(w, server=server_advance(w.server, SE.ARRIVE)),
        )
    if w.fiber is Fiber.SETTLED and SE.CREDIT in SERVER[w.server] and w.credits == 0:
        # The payer redeems, at any time the table allows.
        credited = server_advance(w.server, SE.CREDIT)
        yield "credits", replace(w, server=credited, credits=1)


def proof(w: World) -> Iterator[tuple[str, World]]:
    if CE.PROOF_SENT in CLIENT[w.client]:
        yield "prove", after(w, CE.PROOF_SENT)
    if w.client is not C.PROVING:
        return
    yield "answer lost", after(w, CE.SELLER_FAILED)
    if w.fiber is not Fiber.SETTLED:
        yield "425", after(w, CE.PROOF_PENDING)
        return
    if SE.CLAIM in SERVER[w.server]:
        yield "claimed", replace(w, server=server_advance(w.server, SE.CLAIM))
        return
    if w.server is S.RUNNING:
        assert refusal(w.server).code == "request_in_progress"
        yield "409 running", after(w, CE.PROOF_PENDING)
        return
    if w.server is S.DELIVERED:
        yield "answer or replay", after(w, CE.ANSWERED)
    assert refusal(w.server).code == "already_delivered"
    yield "409 delivered", after(w, CE.ALREADY_DELIVERED)


def reachable() -> dict[World, list[tuple[str, World]]]:
    seen: dict[World, list[tuple[str, World]]] = {}
    todo = deque([World()])
    while todo:
        world = todo.popleft()
        if world in seen:
            continue
        seen[world] = list(steps(world))
        todo.extend(next_world for _, next_world in seen[world])
    return seen


WORLDS = reachable()


def can_reach(start: World, goal: object) -> bool:
    seen, todo = set(), [start]
    while todo:
        world = todo.pop()
        if goal(world):  # type: ignore[operator]  # a predicate
            return True
        if world not in seen:
            seen.add(world)
            todo.extend(next_world for _, next_world in WORLDS[world])
    return False


def test_the_search_visits_every_state_of_both_sides():
    in_hold_mode = {C.HELD, C.CLAIMING, C.SETTLING, C.RETURNING}
    assert {w.client for w in WORLDS} == set(ClientState) - in_hold_mode
    assert {w.server for w in WORLDS} == set(ServerState) - {S.CANCELLED}
    assert len(WORLDS) > 30


def test_no_path_pays_twice():
    assert max(w.sends for w in WORLDS) == 1


def test_no_path_charges_twice_or_charges_what_was_not_paid():
    assert max(w.charges for w in WORLDS) == 1
    assert all(w.fiber is Fiber.SETTLED for w in WORLDS if w.charges)


def test_a_run_needs_a_settled_payment():
    ran = {S.PAID, S.RUNNING, S.DELIVERED, S.FAILED, S.CREDITED}
    assert all(w.fiber is Fiber.SETTLED for w in WORLDS if w.server in ran)


def test_a_delivered_answer_is_a_charge_and_nothing_else_is():
    for world in WORLDS:
        assert (world.server is S.DELIVERED) == (world.charges == 1)


def test_what_was_credited_unanswered_is_never_charged():
    for world in WORLDS:
        if world.server is S.CREDITED:
            assert world.charges == 0


def test_money_that_moved_is_on_the_clients_record_or_accounted_for():
    for world in WORLDS:
        if world.fiber is not Fiber.SETTLED:
            continue
        accounted = {C.DELIVERED, C.REDEEMED_ELSEWHERE}
        assert world.client in MONEY_AT_STAKE | accounted, world


def test_every_settled_payment_can_still_end_as_an_answer_or_as_credit():
    for world in WORLDS:
        if world.fiber is Fiber.SETTLED:
            assert can_reach(world, lambda w: w.charges == 1 or w.credits == 1), world


def test_the_payer_can_always_learn_what_became_of_its_money():
    for world in WORLDS:
        assert can_reach(world, lambda w: w.client in TERMINAL), world


@pytest.mark.parametrize("state", list(ServerState))
def test_every_server_state_has_an_exit_to_the_payer_or_is_a_charge_for_delivery(state):
    seen, todo = set(), [state]
    ends = set()
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        ends |= {at} & {S.CREDITED, S.DELIVERED, S.CANCELLED}
        todo.extend(SERVER[at].values())
    assert ends


@pytest.mark.parametrize("state", sorted(MONEY_AT_STAKE))
def test_no_edge_leads_from_money_at_stake_to_another_payment(state):
    seen, todo = set(), [state]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        assert CE.PAY_SENT not in CLIENT[at]
        assert CE.OFFER_ACCEPTED not in CLIENT[at]
        todo.extend(CLIENT[at].values())


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("event", list(ClientEvent))
def test_nothing_leaves_a_terminal_state(state, event):
    with pytest.raises(LocalProtocolError):
        client_advance(state, event)
