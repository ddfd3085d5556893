"""The two transition tables by themselves: complete, no dead ends, no second payment."""

from collections.abc import Mapping
from typing import TypeVar

import pytest

from infern.core.errors import InvariantViolation, LocalProtocolError, Money
from infern.core.f402 import client, server
from infern.core.f402.client import LOCKING, MONEY_AT_STAKE, TERMINAL, ClientEvent, ClientState
from infern.core.f402.server import ServerEvent, ServerState

S = TypeVar("S")
E = TypeVar("E")


def reachable(table: Mapping[S, Mapping[E, S]], start: S) -> set[S]:
    seen, todo = {start}, [start]
    while todo:
        for target in table[todo.pop()].values():
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_every_state_is_in_its_table_and_can_be_reached() -> None:
    assert reachable(client.TRANSITIONS, ClientState.ASKING) == set(ClientState)
    assert reachable(server.TRANSITIONS, ServerState.QUOTED) == set(ServerState)


def test_every_event_happens_somewhere() -> None:
    assert {e for edges in client.TRANSITIONS.values() for e in edges} == set(ClientEvent)
    assert {e for edges in server.TRANSITIONS.values() for e in edges} == set(ServerEvent)


@pytest.mark.parametrize("state", list(ClientState))
def test_a_client_can_always_come_to_an_end(state: ClientState) -> None:
    assert reachable(client.TRANSITIONS, state) & TERMINAL


@pytest.mark.parametrize("state", list(ServerState))
def test_a_payment_can_always_be_answered_credited_or_given_back(state: ServerState) -> None:
    ends = {ServerState.DELIVERED, ServerState.CREDITED, ServerState.CANCELLED}
    assert reachable(server.TRANSITIONS, state) & ends


@pytest.mark.parametrize("state", sorted(MONEY_AT_STAKE))
def test_who_began_to_pay_never_begins_again(state: ClientState) -> None:
    later = reachable(client.TRANSITIONS, state)
    assert not later & {ClientState.ASKING, ClientState.INTENDED}
    assert all(ClientEvent.PAY_SENT not in client.TRANSITIONS[s] for s in later)


def test_money_is_at_stake_from_the_payment_to_its_end() -> None:
    after = reachable(client.TRANSITIONS, ClientState.PAYING)
    # What was answered in hold mode is the seller's to take; the need is met.
    assert after - TERMINAL == MONEY_AT_STAKE | {ClientState.SETTLING}


def test_only_the_node_s_word_ends_a_payment_unpaid() -> None:
    into_failed = {
        (state, event)
        for state, edges in client.TRANSITIONS.items()
        for event, target in edges.items()
        if target is ClientState.PAYMENT_FAILED
    }
    assert {event for _, event in into_failed} == {ClientEvent.PAY_FAILED}
    assert {state for state, _ in into_failed} == LOCKING


def test_a_paid_request_runs_again_only_after_a_failure() -> None:
    claimable = {s for s, edges in server.TRANSITIONS.items() if ServerEvent.CLAIM in edges}
    assert claimable == {ServerState.QUOTED, ServerState.PAID, ServerState.FAILED}
    for done in (ServerState.CREDITED, ServerState.CANCELLED):
        assert reachable(server.TRANSITIONS, done) == {done}
    # What was answered can only be given back, which undoes the charge.
    given_back = {ServerState.DELIVERED, ServerState.CANCELLED}
    assert reachable(server.TRANSITIONS, ServerState.DELIVERED) == given_back


def test_what_was_credited_is_never_given_back_and_what_was_given_back_never_credited() -> None:
    into = {
        (state, event)
        for state, edges in server.TRANSITIONS.items()
        for event, target in edges.items()
        if target is ServerState.CANCELLED
    }
    assert into == {
        (ServerState.FAILED, ServerEvent.CANCEL),
        (ServerState.DELIVERED, ServerEvent.CANCEL),
    }


@pytest.mark.parametrize("state", list(ClientState))
@pytest.mark.parametrize("event", list(ClientEvent))
def test_client_edges(state: ClientState, event: ClientEvent) -> None:
    target = client.TRANSITIONS[state].get(event)
    if target is None:
        with pytest.raises(LocalProtocolError, match=state.value):
            client.advance(state, event)
    else:
        assert client.advance(state, event) is target


@pytest.mark.parametrize("state", list(ServerState))
@pytest.mark.parametrize("event", list(ServerEvent))
def test_server_edges(state: ServerState, event: ServerEvent) -> None:
    target = server.TRANSITIONS[state].get(event)
    if target is None:
        with pytest.raises(LocalProtocolError, match=state.value):
            server.advance(state, event)
    else:
        assert server.advance(state, event) is target


@pytest.mark.parametrize(
    ("state", "code", "money"),
    [
        # A run that fails charges nothing, so nobody knows yet.
        (ServerState.RUNNING, "request_in_progress", Money.UNKNOWN),
        (ServerState.DELIVERED, "already_delivered", Money.MOVED),
        (ServerState.CREDITED, "already_delivered", Money.MOVED),
        (ServerState.CANCELLED, "payment_not_received", Money.UNMOVED),
    ],
)
def test_a_proof_that_cannot_run_is_told_why(state: ServerState, code: str, money: Money) -> None:
    error = server.refusal(state)
    assert (error.code, error.money) == (code, money)


@pytest.mark.parametrize("state", [ServerState.QUOTED, ServerState.PAID, ServerState.FAILED])
def test_nobody_is_told_of_a_charge_that_was_not_made(state: ServerState) -> None:
    with pytest.raises(InvariantViolation):
        server.refusal(state)
