"""Named answers that everybody left: made to their end, or stopped for who asked for that."""

from typing import Any

import anyio
import pytest

from infern.core.f402.receipt import Finish
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Script, Step, answer, stream, streaming

BALANCE = 10_000_000
NAME = {"idempotency_key": "n" * 16}


async def left(world: Any, body: bytes, headers: Any, pieces: int = 0) -> HttpClient:
    """A client that leaves when it has so many pieces and the model was asked."""
    client = HttpClient()
    asked = len(world.model.requests)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        while len(world.model.requests) == asked:
            await anyio.sleep(0.001)
        await client.has_pieces(pieces)
        client.leave.set()
    return client


async def test_a_named_stream_that_stops_costs_what_was_sent(make_world: Any) -> None:
    world = await make_world(limits={"linger_ms": 30})
    body, key = world.body(stream=True), await world.key(BALANCE)
    world.model.plan.append(streaming([*stream()[:4], Step.HANG]))
    headers = {"key": key, "f402_on_leave": "stop", **NAME}
    client = await left(world, body, headers, 3)
    await world.quiet()
    receipt = await world.stored_receipt(client.answer())
    assert receipt.finish is Finish.CLIENT_LEFT
    assert receipt.charged == await world.spent() < world.cost(7, 5)
    again = await world.chat(body, **headers)
    assert (again.status, again.error["code"]) == (409, "already_delivered")
    assert len(world.model.requests) == 1


async def test_a_named_answer_that_stops_before_its_first_byte_costs_nothing(
    make_world: Any,
) -> None:
    world = await make_world(limits={"linger_ms": 30})
    body, key = world.body(), await world.key(BALANCE)
    never = anyio.Event()
    world.model.plan.append(Script(before=never, steps=[answer()]))
    headers = {"key": key, "f402_on_leave": "stop", **NAME}
    await left(world, body, headers)
    await world.quiet()
    assert await world.spent() == 0
    again = await world.chat(body, **headers)
    assert again.status == 200
    assert "f402-replayed" not in again.headers
    assert await world.spent() == world.cost(7, 5)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_who_comes_back_at_once_is_given_the_answer_that_would_have_stopped(
    make_world: Any, is_stream: bool
) -> None:
    world = await make_world(limits={"linger_ms": 60_000})
    body, key = world.body(stream=is_stream), await world.key(BALANCE)
    gate = anyio.Event()
    steps = stream() if is_stream else [answer()]
    kind = "text/event-stream" if is_stream else "application/json"
    world.model.plan.append(Script(before=gate, steps=steps, content_type=kind))
    headers = {"key": key, "f402_on_leave": "stop", **NAME}
    await left(world, body, headers)
    gate.set()
    again = await world.chat(body, **headers)
    assert (again.status, again.headers["f402-replayed"]) == (200, "true")
    assert await world.spent() == world.cost(7, 5)
    assert len(world.model.requests) == 1


@pytest.mark.parametrize("wish", [{}, {"f402_on_leave": "finish"}], ids=["no wish", "finish"])
async def test_without_the_wish_to_stop_it_is_made_to_its_end(make_world: Any, wish: Any) -> None:
    world = await make_world(limits={"linger_ms": 30})
    body, key = world.body(stream=True), await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(Script(before=gate, steps=stream(), content_type="text/event-stream"))
    await left(world, body, {"key": key, **NAME, **wish})
    await anyio.sleep(0.1)
    gate.set()
    await world.quiet()
    assert await world.spent() == world.cost(7, 5)
    again = await world.chat(body, key=key, **NAME, **wish)
    assert again.headers["f402-replayed"] == "true"


@pytest.mark.parametrize("wish", ["", "Stop", "stop, finish", "no"])
async def test_any_other_wish_is_refused_before_anything_is_held(world: Any, wish: str) -> None:
    key = await world.key(BALANCE)
    got = await world.chat(world.body(), key=key, f402_on_leave=wish, **NAME)
    assert (got.status, got.error["code"], got.error["money"]) == (
        400,
        "invalid_request",
        "unmoved",
    )
    assert world.model.requests == []
