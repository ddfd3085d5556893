"""Automatic retries, answers nobody received, dead and slow connections, restarts, memory."""

from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.core.f402.receipt import Finish
from infern.seller.recordings import BATCH_BYTES
from infern.seller.replays import OVERHEAD_BYTES
from infern.seller.streaming import WINDOW_BYTES
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Script, Step, answer, chunk, stream, streaming

BALANCE = 10_000_000
FIRST = {"x_stainless_retry_count": "0"}
SECOND = {"x_stainless_retry_count": "1"}


def whole(*, is_stream: bool, before: Any = None) -> Script:
    kind = "text/event-stream" if is_stream else "application/json"
    steps = stream() if is_stream else [answer()]
    return Script(before=before, steps=steps, content_type=kind)


async def leave_at(world: Any, body: bytes, headers: Any, pieces: int = 0) -> HttpClient:
    """A client that leaves when it has so many pieces, at the latest when the model was asked."""
    client = HttpClient()
    asked = len(world.model.requests)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        while len(world.model.requests) == asked:
            await anyio.sleep(0.001)
        await client.has_pieces(pieces)
        client.leave.set()
    return client


@pytest.mark.parametrize("is_stream", [False, True])
async def test_abuse_18_an_automatic_retry_joins_the_attempt_its_client_gave_up(
    world: Any, is_stream: bool
) -> None:
    body = world.body(stream=is_stream)
    key = await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(whole(is_stream=is_stream, before=gate))
    await leave_at(world, body, {"key": key, **FIRST})
    got: list[Any] = []

    async def retry() -> None:
        got.append(await world.chat(body, key=key, **SECOND))

    async with anyio.create_task_group() as group:
        group.start_soon(retry)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    check = world.stream_receipt if is_stream else world.plain_receipt
    assert check(got[0], body).charged == await world.spent() == world.cost(7, 5)
    assert got[0].headers["f402-replayed"] == "true"
    assert len(world.model.requests) == 1


async def test_abuse_18_a_retry_in_mid_stream_gets_what_was_sent_before_too(world: Any) -> None:
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    gate = anyio.Event()
    steps: list[Any] = stream()
    steps.insert(3, gate)
    world.model.plan.append(streaming(steps))
    client = await leave_at(world, body, {"key": key, **FIRST}, 3)
    got: list[Any] = []

    async def retry() -> None:
        got.append(await world.chat(body, key=key, **SECOND))

    async with anyio.create_task_group() as group:
        group.start_soon(retry)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert got[0].body.startswith(b"".join(client.pieces))
    assert world.stream_receipt(got[0], body).charged == await world.spent() == world.cost(7, 5)


async def test_abuse_20_a_keyed_stream_nobody_comes_back_to_ends_soon_and_costs_what_was_sent(
    make_world: Any,
) -> None:
    world = await make_world(limits={"linger_ms": 30})
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    world.model.plan.append(streaming([*stream()[:4], Step.HANG]))
    client = await leave_at(world, body, {"key": key, **FIRST}, 3)
    await world.quiet()
    receipt = await world.stored_receipt(client.answer())
    assert receipt.finish is Finish.CLIENT_LEFT
    assert receipt.completion_tokens in (2, 3)
    assert receipt.charged == await world.spent()
    late = await world.chat(body, key=key, **SECOND)
    assert "f402-replayed" not in late.headers
    assert len(world.model.requests) == 2


async def test_a_keyed_stream_that_ended_with_nobody_there_costs_what_was_sent(
    make_world: Any,
) -> None:
    """The model went on and was done before the connection was given up."""
    world = await make_world(limits={"linger_ms": 30})
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    gate = anyio.Event()
    steps: list[Any] = stream()
    steps.insert(3, gate)
    world.model.plan.append(streaming(steps))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, key=key, **FIRST))
        await client.has_pieces(3)
        client.leave.set()
        await anyio.wait_all_tasks_blocked()
        gate.set()
    await world.quiet()
    receipt = await world.stored_receipt(client.answer())
    assert (receipt.finish, receipt.completion_tokens) == (Finish.CLIENT_LEFT, 2)
    assert receipt.charged == await world.spent()


@pytest.mark.parametrize("headers", [{}, FIRST], ids=["curl", "sdk"])
async def test_a_plain_answer_whose_connection_broke_after_the_charge_goes_to_who_asks_next(
    make_world: Any, headers: Any
) -> None:
    world = await make_world(limits={"stall_timeout_ms": 20})
    body = world.body()
    key = await world.key(BALANCE)
    got = await world.chat(body, key=key, client=HttpClient(stall_after=0), **headers)
    assert not got.is_complete
    await world.quiet()
    assert await world.spent() == world.cost(7, 5)
    strangers = await world.key(BALANCE)
    assert "f402-replayed" not in (await world.chat(body, key=strangers)).headers
    again = await world.chat(body, key=key, **headers)
    assert again.headers["f402-replayed"] == "true"
    assert world.plain_receipt(again, body).charged == (await world.tab(key)).spent
    third = await world.chat(body, key=key, **headers)
    assert "f402-replayed" not in third.headers
    assert (await world.tab(key)).spent == 2 * world.cost(7, 5)


async def test_a_plain_request_given_up_early_is_taken_over_by_the_next_one(world: Any) -> None:
    body = world.body()
    key = await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(whole(is_stream=False, before=gate))
    await leave_at(world, body, {"key": key})
    gate.set()
    again = await world.chat(body, key=key)
    assert again.headers["f402-replayed"] == "true"
    assert world.plain_receipt(again, body).charged == await world.spent() == world.cost(7, 5)


@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_abuse_21_a_dead_connection_does_not_keep_a_live_one_waiting(
    make_world: Any, payer: str
) -> None:
    """The first reader takes nothing more, and only its own patience ends much later."""
    world = await make_world(limits={"stall_timeout_ms": 60_000})
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    headers = {"key": key, "idempotency_key": "n" * 16}
    if payer == "proof":
        headers = {"proof": await world.proof(body)}
    stuck = HttpClient(stall_after=2)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=stuck, **headers))
        await stuck.has_pieces(2)
        again = await world.chat(body, **headers)
        assert world.stream_receipt(again, body).charged == await world.spent()
        group.cancel_scope.cancel()
    assert len(stuck.pieces) == 2


async def test_abuse_21_a_keyed_answer_is_made_no_further_than_its_slow_reader_takes(
    make_world: Any,
) -> None:
    """Otherwise tokens were made, and who leaves would not pay for them."""
    world = await make_world(limits={"stall_timeout_ms": 60_000})
    limits = replace(world.models[0].limits, max_completion_tokens=1_000)
    world.models = (replace(world.models[0], limits=limits),)
    world.reassemble()
    body = world.body(stream=True, max_tokens=900)
    key = await world.key(BALANCE)
    world.model.plan.append(streaming([chunk(f"w{number}") for number in range(900)]))
    client = HttpClient(stall_after=3)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, key=key))
        await client.has_pieces(3)
        (reply,) = world.model.replies
        made = -1
        while len(reply.sent) > made:
            made = len(reply.sent)
            await anyio.sleep(0.02)
        taken = len(client.answer().body) + BATCH_BYTES
        assert sum(map(len, reply.sent)) < taken + WINDOW_BYTES + 1_000
        group.cancel_scope.cancel()
    await world.quiet()
    receipt = await world.stored_receipt(client.answer())
    assert receipt.finish is Finish.CLIENT_LEFT
    assert 0 < receipt.completion_tokens < made
    assert receipt.charged == await world.spent()


class StopsAfterCapture:
    """A ledger whose process dies between the charge and the answer."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.captured = anyio.Event()
        self.is_dying = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def capture(self, *args: Any, **kwargs: Any) -> Any:
        captured = await self._ledger.capture(*args, **kwargs)
        if self.is_dying:
            self.captured.set()
            await anyio.sleep_forever()
        return captured


@pytest.mark.parametrize("when", ["before the capture", "after the capture"])
@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_a_seller_killed_around_the_charge_charges_once_and_never_twice(
    make_world: Any, when: str, payer: str
) -> None:
    world = await make_world(wrap=StopsAfterCapture)
    body = world.body()
    headers = {"key": await world.key(BALANCE), "idempotency_key": "n" * 16}
    if payer == "proof":
        headers = {"proof": await world.proof(body)}
    world.parts.ledger.is_dying = True
    if when == "before the capture":
        world.model.plan.append(Script(before=Step.HANG))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, **headers))
        while not world.model.requests:
            await anyio.sleep(0.001)
        if when == "after the capture":
            await world.parts.ledger.captured.wait()
        world.ledger.close()  # nothing that happens in the old process is booked any more
        group.cancel_scope.cancel()
    await world.start()
    again = await world.chat(body, **headers)
    if when == "before the capture":
        assert world.plain_receipt(again, body).charged == await world.spent()
        assert len(world.model.requests) == 2
        return
    assert (again.status, again.error["code"]) == (409, "already_delivered")
    assert again.error["f402"]["charged"] == str(world.cost(7, 5)) == str(await world.spent())
    assert "receipt" in again.error["f402"]
    assert again.headers["x-should-retry"] == "false"
    assert len(world.model.requests) == 1


async def test_many_abandoned_answers_take_no_more_memory_than_they_may(make_world: Any) -> None:
    world = await make_world(limits={"replay_bytes": 6_000, "replay_total_bytes": 60_000})
    key = await world.key(10**12)
    text = "x" * 700
    gate = anyio.Event()
    kept: list[int] = []
    for number in range(100):
        world.model.plan.append(streaming([chunk(text), gate, chunk(text), *stream()[-3:]]))
        body = world.fresh_body(stream=True)
        await leave_at(world, body, {"key": key, "idempotency_key": f"need-{number:012}"}, 1)
        kept.append(world.app.answers.replays.bytes_left)
    assert min(kept) >= 0
    gate.set()
    await world.quiet()
    replays = world.app.answers.replays
    assert replays.bytes_left >= 0
    assert 0 < len(replays) < 60_000 // (1_400 + OVERHEAD_BYTES)
    for recording in list(replays._entries):
        replays.forget(recording)
    assert replays.bytes_left == 60_000


async def test_an_abandoned_answer_keeps_its_place_until_it_has_ended(make_world: Any) -> None:
    world = await make_world(limits={"open_requests": 1})
    key = await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(whole(is_stream=True, before=gate))
    body = world.body(stream=True)
    await leave_at(world, body, {"key": key, "idempotency_key": "n" * 16})
    got = await world.chat(world.fresh_body(), key=key)
    assert (got.status, got.error["code"]) == (503, "overloaded")
    gate.set()
    await world.quiet()
    assert (await world.chat(world.fresh_body(), key=key)).status == 200


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("who", ["the connection", "the seller"])
async def test_whatever_is_cancelled_at_whichever_step_nothing_stays_behind(
    world: Any, who: str, is_stream: bool
) -> None:
    """Holds, memory, places: the fixture looks at the first, this at the others."""
    key = await world.key(10**12)
    replays = world.app.answers.replays
    steps, charged = 0, 0
    while True:
        body = world.fresh_body(stream=is_stream)
        client = HttpClient()
        async with anyio.create_task_group() as seller:
            world.app.answers.begin(seller)
            async with anyio.create_task_group() as connection:
                connection.start_soon(
                    partial(world.chat, body, client=client, key=key, idempotency_key=f"n{steps}")
                )
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                (connection if who == "the connection" else seller).cancel_scope.cancel()
            if who == "the connection":
                await world.quiet()
            seller.cancel_scope.cancel()
        spent = await world.spent()
        assert spent - charged in (0, world.cost(7, 5))
        charged = spent
        assert world.app.answers.under_way == 0
        for recording in list(replays._entries):
            assert not recording.has_readers
            replays.forget(recording)
        assert replays.bytes_left == world.limits.replay_total_bytes
        assert world.app._pipeline._paid.used == 0
        assert world.app._pipeline._buffered._left == world.limits.buffered_bytes
        if client.is_complete:
            break
        steps += 7
    assert steps > 7
