"""The same request again: one run, one charge, the same bytes."""

from typing import Any

import anyio
import pytest

from infern.core.f402.receipt import Finish
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Script, Step, answer, chunk, stream, streaming

BALANCE = 10_000_000
ATTEMPT = "need-0123456789abcdef"


async def paying(world: Any, payer: str, body: bytes) -> dict[str, str]:
    """Headers that name the answer for good."""
    if payer == "proof":
        return {"proof": await world.proof(body)}
    return {"key": await world.key(BALANCE), "idempotency_key": ATTEMPT}


def whole(*, is_stream: bool, before: Any = None) -> Script:
    kind = "text/event-stream" if is_stream else "application/json"
    steps = stream() if is_stream else [answer()]
    return Script(before=before, steps=steps, content_type=kind)


def checked(world: Any, got: Any, body: bytes, *, is_stream: bool) -> Any:
    """The receipt of a whole answer."""
    return (world.stream_receipt if is_stream else world.plain_receipt)(got, body)


async def asked(world: Any) -> None:
    while not world.model.requests:
        await anyio.sleep(0.001)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_the_same_request_again_gets_the_same_answer_for_nothing(
    world: Any, payer: str, is_stream: bool
) -> None:
    body = world.body(stream=is_stream)
    headers = await paying(world, payer, body)
    first = await world.chat(body, **headers)
    receipt = checked(world, first, body, is_stream=is_stream)
    for _ in range(3):
        again = await world.chat(body, **headers)
        assert (again.status, again.body) == (200, first.body)
        assert again.headers == {**first.headers, "f402-replayed": "true"}
    assert await world.spent() == receipt.charged == world.cost(7, 5)
    assert len(world.model.requests) == 1


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_the_same_request_under_way_is_joined_from_its_first_byte(
    world: Any, payer: str, is_stream: bool
) -> None:
    body = world.body(stream=is_stream)
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    script = whole(is_stream=is_stream)
    world.model.plan.append(Script(steps=[*script.steps[:2], gate, *script.steps[2:]],
                                   content_type=script.content_type))  # fmt: skip
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(body, **headers))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await asked(world)
        for _ in range(3):
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert len({(answer.status, answer.body) for answer in got}) == 1
    assert sorted("f402-replayed" in answer.headers for answer in got) == [False] + [True] * 3
    assert checked(world, got[0], body, is_stream=is_stream).charged == await world.spent()
    assert len(world.model.requests) == 1


@pytest.mark.parametrize("pieces", [0, 1, 4, 7])
@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_abuse_20_who_leaves_a_named_stream_finds_it_whole(
    world: Any, payer: str, pieces: int
) -> None:
    """Left at the head, at the first token, in the middle, and before the end."""
    body = world.body(stream=True)
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    steps: list[Any] = stream()
    steps.insert(pieces, gate)
    world.model.plan.append(streaming(steps))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        await asked(world)
        await client.has_pieces(pieces)
        client.leave.set()
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert len(client.pieces) == pieces
    await world.quiet()
    again = await world.chat(body, **headers)
    receipt = world.stream_receipt(again, body)
    assert receipt.finish is Finish.STOP
    assert receipt.charged == await world.spent() == world.cost(7, 5)
    assert again.body.startswith(b"".join(client.pieces))
    assert len(world.model.requests) == 1


@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_abuse_20_who_leaves_a_named_plain_answer_finds_it(world: Any, payer: str) -> None:
    body = world.body()
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    world.model.plan.append(whole(is_stream=False, before=gate))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        await asked(world)
        client.leave.set()
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert client.status == 0
    await world.quiet()
    again = await world.chat(body, **headers)
    assert world.plain_receipt(again, body).charged == await world.spent()
    assert len(world.model.requests) == 1


@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_a_named_stream_that_breaks_off_with_nobody_there_is_charged_for_what_was_seen(
    world: Any, payer: str
) -> None:
    """What no connection was given is not charged, nor given later."""
    body = world.body(stream=True)
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    seen, unseen = [chunk("one"), chunk(" two")], [chunk(" three"), chunk(" four")]
    world.model.plan.append(streaming([*seen, gate, *unseen, Step.BREAK]))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        await client.has_pieces(2)
        client.leave.set()
        await anyio.wait_all_tasks_blocked()
        gate.set()
    await world.quiet()
    again = await world.chat(body, **headers)
    assert again.body.startswith(b"".join(seen))
    assert b"three" not in again.body
    receipt = world.stream_receipt(again, body)
    assert (receipt.finish, receipt.completion_tokens) == (Finish.INTERRUPTED, 2)
    assert b'"stream_interrupted"' in again.body
    assert receipt.charged == await world.spent()


@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_a_named_stream_nobody_saw_anything_of_is_free_and_runs_again(
    world: Any, payer: str
) -> None:
    body = world.body(stream=True)
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    world.model.plan.append(streaming([gate, chunk("one"), Step.BREAK]))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        await asked(world)
        client.leave.set()
        await anyio.wait_all_tasks_blocked()
        gate.set()
    await world.quiet()
    assert await world.spent() == 0
    again = await world.chat(body, **headers)
    assert world.stream_receipt(again, body).charged == world.cost(7, 5)
    assert "f402-replayed" not in again.headers


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_a_failure_is_told_to_all_who_wait_and_the_next_request_runs_again(
    world: Any, payer: str, is_stream: bool
) -> None:
    body = world.body(stream=is_stream)
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    world.model.plan.append(Script(before=gate, status=500, steps=[b"{}"]))
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(body, **headers))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
        await asked(world)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert {(failed.status, failed.error["code"]) for failed in got} == {(502, "provider_failed")}
    assert len({failed.headers["x-request-id"] for failed in got}) == 5
    assert all("x-should-retry" not in failed.headers for failed in got)
    assert await world.spent() == 0
    assert len(world.model.requests) == 1
    again = await world.chat(body, **headers)
    assert checked(world, again, body, is_stream=is_stream).charged == world.cost(7, 5)


async def test_abuse_19_an_idempotency_key_is_for_one_request_and_one_key(world: Any) -> None:
    body, other = world.body("one"), world.body("two")
    key, strangers = await world.key(BALANCE), await world.key(BALANCE)
    first = await world.chat(body, key=key, idempotency_key=ATTEMPT)
    for _ in range(2):
        got = await world.chat(other, key=key, idempotency_key=ATTEMPT)
        assert (got.status, got.error["code"]) == (409, "idempotency_conflict")
        assert (got.error["money"], got.error["retry"]) == ("unmoved", "never")
        assert got.headers["x-should-retry"] == "false"
        world.reassemble()  # and so it stays when only the ledger knows
    theirs = await world.chat(body, key=strangers, idempotency_key=ATTEMPT)
    assert "f402-replayed" not in theirs.headers
    assert world.plain_receipt(theirs, body).charged == world.plain_receipt(first, body).charged
    assert (await world.tab(key)).spent == (await world.tab(strangers)).spent == world.cost(7, 5)
    assert len(world.model.requests) == 2


async def test_an_idempotency_key_may_name_another_request_after_a_failure(world: Any) -> None:
    key = await world.key(BALANCE)
    world.model.plan.append(Script(status=500, steps=[b"{}"]))
    failed = await world.chat(world.body("one"), key=key, idempotency_key=ATTEMPT)
    assert failed.error["money"] == "unmoved"
    assert (await world.chat(world.body("two"), key=key, idempotency_key=ATTEMPT)).status == 200


@pytest.mark.parametrize("name", ["", "x" * 256, "tab\there", "caf\xe9"])
async def test_an_idempotency_key_that_cannot_be_one_is_refused_before_anything_is_held(
    world: Any, name: str
) -> None:
    key = await world.key(BALANCE)
    got = await world.chat(world.body(), key=key, idempotency_key=name)
    assert (got.status, got.error["code"]) == (400, "invalid_request")
    assert world.model.requests == []
    assert (await world.chat(world.body(), key=key, idempotency_key="x" * 255)).status == 200


async def test_an_idempotency_key_beside_a_proof_names_nothing(world: Any) -> None:
    """The payment is the name; two payments are two answers."""
    body = world.body()
    proofs = [await world.proof(body), await world.proof(body)]
    got = [await world.chat(body, proof=proof, idempotency_key=ATTEMPT) for proof in proofs]
    assert ["f402-replayed" in answer.headers for answer in got] == [False, False]
    assert await world.spent() == 2 * world.cost(7, 5)


async def test_equal_requests_without_a_name_are_separate(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body()
    for headers in ({}, {"x_stainless_retry_count": "0"}):
        got: list[Any] = []

        async def ask(headers: Any = headers, got: Any = got) -> None:
            got.append(await world.chat(body, key=key, **headers))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
        got.append(await world.chat(body, key=key, **headers))
        assert len({answer.headers["x-request-id"] for answer in got}) == 4
    assert await world.spent() == 8 * world.cost(7, 5)
    assert len(world.model.requests) == 8


@pytest.mark.parametrize("limits", [{"replay_bytes": 300}, {"replay_total_bytes": 2_400}])
@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_a_named_stream_that_cannot_be_kept_ends_with_its_reader(
    make_world: Any, payer: str, limits: Any
) -> None:
    world = await make_world(limits=limits)
    body = world.body(stream=True)
    headers = await paying(world, payer, body)
    words = [chunk(f"w{number}") for number in range(10)]
    world.model.plan.append(streaming([*words, Step.HANG]))
    client = HttpClient()
    joined: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        await client.has_pieces(10)
        joined.append(await world.chat(body, **headers))
        client.leave.set()
    assert joined[0].error["code"] == "request_in_progress"
    await world.quiet()
    receipt = await world.stored_receipt(client.answer())
    assert (receipt.finish, receipt.completion_tokens) == (Finish.CLIENT_LEFT, 10)
    again = await world.chat(body, **headers)
    assert (again.status, again.error["code"]) == (409, "already_delivered")
    assert again.error["f402"]["charged"] == str(receipt.charged) == str(await world.spent())


@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_a_plain_answer_that_cannot_be_kept_and_nobody_waits_for_is_free(
    make_world: Any, payer: str
) -> None:
    world = await make_world(limits={"replay_bytes": 100, "linger_ms": 20})
    body = world.body()
    headers = await paying(world, payer, body)
    gate = anyio.Event()
    world.model.plan.append(whole(is_stream=False, before=gate))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **headers))
        await asked(world)
        client.leave.set()
        gate.set()
    await world.quiet()
    assert await world.spent() == 0
    got = await world.chat(body, **headers)  # and whoever waits has it, however large
    assert world.plain_receipt(got, body).charged == await world.spent()


@pytest.mark.parametrize("payer", ["proof", "attempt"])
async def test_with_keeping_switched_off_the_ledger_alone_remembers(
    make_world: Any, payer: str
) -> None:
    world = await make_world(limits={"replay_s": 0})
    body = world.body()
    headers = await paying(world, payer, body)
    first = await world.chat(body, **headers)
    await world.quiet()
    again = await world.chat(body, **headers)
    assert (again.status, again.error["code"]) == (409, "already_delivered")
    assert again.error["f402"]["receipt"] == first.headers["f402-receipt"]
    assert again.headers["x-should-retry"] == "false"
    assert await world.spent() == world.cost(7, 5)
