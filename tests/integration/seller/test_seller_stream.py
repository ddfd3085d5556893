"""Streamed answers: bytes passed on, tokens charged, receipts, and everything that breaks them."""

from typing import Any

import anyio
import pytest

from infern.core.f402.receipt import Finish
from infern.core.wire.strict_json import loads_object
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import (
    DONE,
    USAGE,
    WORDS,
    Script,
    Step,
    chunk,
    event,
    stream,
    streaming,
    usage_chunk,
)

BALANCE = 10_000_000


def events(raw: bytes) -> list[bytes]:
    return [part + b"\n\n" for part in raw.split(b"\n\n")[:-1]]


def last_error(raw: bytes) -> Any:
    """The error event that ends a stream."""
    data = events(raw)[-1]
    assert data.startswith(b"data: {")
    return loads_object(data[6:])["error"]


async def test_a_stream_passes_byte_for_byte_with_the_receipt_before_the_end(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    got = await world.chat(body, key=key)
    assert got.status == 200
    assert got.is_complete
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.headers["f402-reserved"] == str(await world.quote(body))
    assert "f402-cost" not in got.headers
    before, _, rest = got.body.partition(b": f402-receipt ")
    assert before == b"".join(stream(usage=None, done=False))
    assert rest.endswith(b"\n\n" + DONE)
    receipt = world.stream_receipt(got, body)
    assert receipt.charged == world.cost(7, 5)
    assert receipt.finish is Finish.STOP
    assert await world.stored_receipt(got) == receipt
    assert (await world.tab(key)).spent == receipt.charged
    upstream = loads_object(world.model.requests[0].body)
    assert upstream["stream_options"] == {"include_usage": True}


async def test_the_usage_chunk_comes_with_the_bill_to_those_who_asked(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True, stream_options={"include_usage": True})
    got = await world.chat(body, key=key)
    receipt = world.stream_receipt(got, body)
    usage = loads_object(events(got.body.partition(b": f402-receipt")[0])[-1][6:])
    assert usage["usage"] == USAGE
    assert usage["f402"]["charged"] == str(receipt.charged)
    assert usage["f402"]["request_id"] == got.headers["x-request-id"]


async def test_a_proof_that_streams_says_so_in_its_headers(world: Any) -> None:
    body = world.body(stream=True)
    got = await world.chat(body, proof=await world.proof(body))
    assert world.payment_response(got)["success"] is True
    assert world.stream_receipt(got, body).charged == world.cost(7, 5)


async def test_abuse_41_text_that_looks_like_our_marks_does_not_end_or_pay_a_stream(
    world: Any,
) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    nasty = ("\n\ndata: [DONE]\n\n", ": f402-receipt AAAA", '"}]}\n\n', 'data: {"error":1}')
    world.model.plan.append(streaming(stream(nasty)))
    got = await world.chat(body, key=key)
    receipt = world.stream_receipt(got, body)
    assert receipt.charged == world.cost(7, 5)
    texts = [
        loads_object(e[6:])["choices"][0]["delta"].get("content")
        for e in events(got.body)
        if e.startswith(b"data: {") and b"choices" in e
    ]
    assert [text for text in texts if text] == list(nasty)
    assert got.body.count(b"\ndata: [DONE]\n\n") == 1


async def test_however_the_bytes_are_cut_the_answer_is_the_same(world: Any) -> None:
    key = await world.key(BALANCE)
    raw = b"".join(stream())
    whole = None
    for size in (1, 7, 64, len(raw)):
        body = world.body(stream=True)
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        world.model.plan.append(streaming(pieces))
        got = await world.chat(body, key=key)
        assert world.stream_receipt(got, body).charged == world.cost(7, 5)
        before = got.body.partition(b": f402-receipt ")[0]
        assert whole in (None, before)
        whole = before


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([e.replace(b"\n\n", b"\r\n\r\n") for e in stream()], id="CRLF"),
        pytest.param([e.replace(b"data: ", b"data:") for e in stream()], id="no space"),
        pytest.param([b": ping\n\n", *stream()], id="comments"),
        pytest.param([b"event: message\n" + e for e in stream()], id="event names"),
        pytest.param([*stream(done=False), b"data: [DONE]"], id="no blank line at the end"),
        pytest.param(
            [*stream(usage=None, done=False)[:-1], chunk(finish="stop", delta={}), usage_chunk()],
            id="finished, no [DONE]",
        ),
        pytest.param([*stream(), Step.HANG], id="[DONE] and then silence"),
        pytest.param([*stream(), chunk("late"), DONE, b"junk"], id="bytes behind [DONE]"),
    ],
)
async def test_dialects_of_streams_are_charged_alike(world: Any, steps: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    world.model.plan.append(streaming(steps))
    got = await world.chat(body, key=key)
    receipt = world.stream_receipt(got, body)
    assert receipt.charged == world.cost(7, 5)
    assert got.body.endswith(DONE)
    assert b"late" not in got.body
    assert await world.spent() == receipt.charged


async def test_usage_in_the_last_content_chunk_counts(world: Any) -> None:
    """Ollama and llama.cpp put usage beside choices."""
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    members = loads_object(chunk(finish="stop")[6:])
    members["usage"] = dict(USAGE)
    world.model.plan.append(streaming([*stream(usage=None, done=False)[:-1], event(members), DONE]))
    assert world.stream_receipt(await world.chat(body, key=key), body).charged == world.cost(7, 5)


@pytest.mark.parametrize(
    "usage", [None, {"prompt_tokens": 7, "completion_tokens": 0}, {"completion_tokens": "many"}]
)
async def test_abuse_22_a_stream_without_usable_usage_is_counted(world: Any, usage: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    world.model.plan.append(streaming(stream(usage=usage)))
    receipt = world.stream_receipt(await world.chat(body, key=key), body)
    assert receipt.completion_tokens == len(WORDS)
    assert world.cost(1, len(WORDS)) < receipt.charged <= await world.quote(body)


async def test_abuse_22_a_stream_with_usage_above_the_quote_is_capped(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    absurd = {"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1}
    world.model.plan.append(streaming(stream(usage=absurd)))
    ceiling = await world.quote(body)
    receipt = world.stream_receipt(await world.chat(body, key=key), body)
    assert receipt.charged <= ceiling
    assert receipt.completion_tokens <= 16


@pytest.mark.parametrize(
    "words", [["w "] * 500, ["x" * 100_000]], ids=["too many tokens", "too many bytes"]
)
async def test_abuse_23_a_model_server_that_ignores_max_tokens_is_cut_off(
    world: Any, words: list[str]
) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    world.model.plan.append(streaming([*(chunk(word) for word in words), Step.HANG]))
    got = await world.chat(body, key=key)
    receipt = world.stream_receipt(got, body)
    assert receipt.charged <= await world.quote(body)
    assert receipt.finish is Finish.INTERRUPTED
    assert last_error(got.body)["code"] == "stream_interrupted"
    assert len(got.body) < 200_000


TAILS: Any = {
    "breaks off": [Step.BREAK],
    "just ends": [],
    "falls silent": [Step.HANG],
    "error event": [event({"error": {"message": "CUDA /srv/secret", "code": 500}})],
    "vllm error": [event({"object": "error", "message": "/srv/secret"})],
    "llama.cpp error field": [b'error: {"message":"/srv/secret"}\n\n'],
    "error event type": [b"event: error\ndata: {}\n\n"],
    "not json": [b"data: {oops\n\n"],
    "another choice": [chunk("x", index=7)],
    "not an object": [b"data: 5\n\n"],
    "an event without end": [b"data: " + b"x" * 1_100_000],
    "not utf-8": [b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'],
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
async def test_a_stream_that_breaks_off_is_charged_for_what_was_delivered(
    make_world: Any, tail: Any
) -> None:
    world = await make_world(limits={"idle_timeout_ms": 100, "keepalive_ms": 50})
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    world.model.plan.append(streaming([chunk("one"), chunk(" two"), *tail]))
    got = await world.chat(body, key=key)
    assert got.status == 200
    assert got.is_complete
    receipt = world.stream_receipt(got, body)
    assert receipt.completion_tokens == 2
    assert world.cost(1, 2) <= receipt.charged <= world.cost(40, 2)
    assert receipt.finish is Finish.INTERRUPTED
    error = last_error(got.body)
    assert (error["code"], error["money"]) == ("stream_interrupted", "moved")
    assert error["retry"] == "never"
    assert b"secret" not in got.body
    assert DONE not in got.body
    assert (await world.tab(key)).spent == receipt.charged


EMPTY: Any = {
    **TAILS,
    "aborted": [chunk(finish="abort")],
    "done at once": [DONE],
    "usage and done": [usage_chunk(), DONE],
}


@pytest.mark.parametrize("tail", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("role", [True, False])
async def test_a_stream_that_breaks_off_before_any_text_is_free_and_may_run_again(
    make_world: Any, tail: Any, role: bool
) -> None:
    world = await make_world(limits={"idle_timeout_ms": 100, "keepalive_ms": 50})
    body = world.body(stream=True)
    proof = await world.proof(body)
    start = [chunk(delta={"role": "assistant"})] if role else []
    world.model.plan.append(streaming([*start, *tail]))
    got = await world.chat(body, proof=proof)
    assert got.status == 200
    assert b"f402-receipt" not in got.body
    error = last_error(got.body)
    assert error["money"] == "unmoved"
    assert error["code"] in ("provider_failed", "provider_timeout")
    assert error["retry"] == "same_credential"
    assert await world.spent() == 0
    again = await world.chat(body, proof=proof)
    assert world.stream_receipt(again, body).charged == world.cost(7, 5)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_before_the_stream_is_an_ordinary_error(world: Any, status: int) -> None:
    key = await world.key(BALANCE)
    world.model.plan.append(Script(status=status, steps=[b"{}"]))
    got = await world.chat(world.body(stream=True), key=key)
    assert got.status == {400: 400, 429: 503, 500: 502}[status]
    assert got.error["money"] == "unmoved"
    assert await world.spent() == 0


async def test_a_plain_answer_to_a_stream_is_a_failure_and_free(world: Any) -> None:
    key = await world.key(BALANCE)
    world.model.plan.append(Script(steps=[b'{"choices":[]}']))
    got = await world.chat(world.body(stream=True), key=key)
    assert last_error(got.body)["money"] == "unmoved"
    assert await world.spent() == 0


async def test_a_waiting_client_hears_keepalives_which_the_receipt_covers(make_world: Any) -> None:
    world = await make_world(limits={"keepalive_ms": 20, "first_byte_timeout_ms": 5_000})
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    headers_may_come, text_may_come = anyio.Event(), anyio.Event()
    world.model.plan.append(
        Script(
            before=headers_may_come,
            steps=[text_may_come, *stream()],
            content_type="text/event-stream",
        )
    )
    client = HttpClient()
    got: list[Any] = []

    async def run() -> None:
        got.append(await world.chat(body, key=key, client=client))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await client.has_pieces(2)
        headers_may_come.set()
        await client.has_pieces(4)
        text_may_come.set()
    assert got[0].pieces[:4] == (b": keepalive\n\n",) * 4
    assert world.stream_receipt(got[0], body).charged == world.cost(7, 5)


@pytest.mark.parametrize(
    "script",
    [
        Script(before=Step.BREAK),
        Script(status=400, steps=[b'{"error":{"message":"no"}}']),
        Script(before=Step.HANG),
    ],
)
async def test_a_failure_behind_a_keepalive_is_told_in_the_stream_and_free(
    make_world: Any, script: Any
) -> None:
    world = await make_world(limits={"keepalive_ms": 20, "first_byte_timeout_ms": 200})
    body = world.body(stream=True)
    proof = await world.proof(body)
    gate = anyio.Event()
    if script.before is not Step.HANG:
        world.model.plan.append(
            Script(before=gate, status=script.status, steps=script.steps or [Step.BREAK])
        )
    else:
        world.model.plan.append(script)
    client = HttpClient()
    got: list[Any] = []

    async def run() -> None:
        got.append(await world.chat(body, proof=proof, client=client))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await client.has_pieces(1)
        gate.set()
    assert got[0].status == 200
    error = last_error(got[0].body)
    assert error["money"] == "unmoved"
    assert await world.spent() == 0
    again = await world.chat(body, proof=proof)
    assert world.stream_receipt(again, body).charged == world.cost(7, 5)


@pytest.mark.parametrize("pieces", [1, 3, 5])
async def test_abuse_20_who_leaves_is_charged_for_what_was_delivered(
    world: Any, pieces: int
) -> None:
    """By key; what a payment or an Idempotency-Key names is made to its end: `test_replays`."""
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    words = [chunk(f"w{number}") for number in range(40)]
    world.model.plan.append(streaming([*words[: pieces + 1], Step.HANG]))
    got = await world.chat(body, key=key, client=HttpClient(leave_after=pieces))
    assert not got.is_complete
    await world.quiet()
    receipt = await world.stored_receipt(got)
    assert receipt.finish is Finish.CLIENT_LEFT
    assert pieces <= receipt.completion_tokens <= pieces + 1
    assert await world.spent() == receipt.charged
    assert world.model.running == 0


@pytest.mark.parametrize("stage", ["before headers", "before text", "keepalive"])
@pytest.mark.parametrize("stream_it", [True, False])
@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_abuse_20_who_leaves_before_anything_came_pays_nothing_and_may_return(
    make_world: Any, stage: str, stream_it: bool, payer: str
) -> None:
    """By key the model server is left soon, by proof when it was silent for too long."""
    world = await make_world(
        limits={
            "keepalive_ms": 20 if stage == "keepalive" else 1_000,
            "linger_ms": 20,
            "first_byte_timeout_ms": 200,
            "idle_timeout_ms": 200,
        }
    )
    body = world.body(stream=stream_it)
    key = await world.key(BALANCE)
    paying = {"key": key} if payer == "key" else {"proof": await world.proof(body)}
    hang = Step.HANG
    world.model.plan.append(Script(before=hang) if stage == "before headers" else streaming([hang]))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, client=client, **paying))
        while not world.model.requests:
            await anyio.sleep(0.001)
        if stage == "keepalive" and stream_it:
            await client.has_pieces(1)
        client.leave.set()
    await world.quiet()
    assert await world.spent() == 0
    assert await world.open_holds() == 0
    assert world.model.running == 0
    again = await world.chat(body, **paying)
    assert again.status == 200
    assert await world.spent() == world.cost(7, 5)


async def test_abuse_20_who_leaves_at_the_usage_chunk_is_charged_once(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True, stream_options={"include_usage": True})
    client = HttpClient(leave_after=len(WORDS) + 3)
    got = await world.chat(body, key=key, client=client)
    await world.quiet()
    receipt = await world.stored_receipt(got)
    assert receipt.charged == world.cost(7, 5)
    assert await world.spent() == receipt.charged


@pytest.mark.parametrize("taken", [0, 2])
async def test_abuse_21_a_reader_that_stalls_is_cut_off_and_charged_for_what_it_took(
    make_world: Any, taken: int
) -> None:
    world = await make_world(limits={"stall_timeout_ms": 50})
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    got = await world.chat(body, key=key, client=HttpClient(stall_after=taken))
    assert not got.is_complete
    await world.quiet()
    receipt = await world.stored_receipt(got)
    if taken == 0:
        assert receipt is None
    else:
        assert receipt.finish is Finish.CLIENT_LEFT
        # What stalled had been handed over; more than that is not charged.
        assert receipt.completion_tokens == taken
    assert await world.spent() == (receipt.charged if receipt else 0)


async def test_an_answer_longer_than_the_seller_allows_ends_in_time(make_world: Any) -> None:
    world = await make_world(limits={"total_timeout_ms": 100, "keepalive_ms": 20})
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    world.model.plan.append(streaming([chunk("one"), Step.HANG]))
    got = await world.chat(body, key=key)
    assert last_error(got.body)["code"] == "stream_interrupted"
    assert world.stream_receipt(got, body).completion_tokens == 1
    world.model.plan.append(Script(steps=[Step.HANG]))
    got = await world.chat(world.body(), key=key)
    assert (got.status, got.error["code"]) == (504, "provider_timeout")


async def test_choices_tools_and_reasoning_stream_through(world: Any) -> None:
    key = await world.key(BALANCE)
    call = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}
    for steps, members in (
        ([chunk("a", index=0), chunk("b", index=1), chunk(index=0, finish="stop"),
          chunk(index=1, finish="stop"), usage_chunk(), DONE], {"n": 2}),
        ([chunk(delta={"reasoning_content": "why"}), chunk("x"), chunk(finish="stop"),
          usage_chunk(), DONE], {}),
        ([chunk(delta=call), chunk(finish="tool_calls"), usage_chunk(), DONE], {}),
    ):  # fmt: skip
        body = world.fresh_body(stream=True, **members)
        world.model.plan.append(streaming(steps))
        got = await world.chat(body, key=key)
        assert world.stream_receipt(got, body).charged == world.cost(7, 5)
        assert got.body.partition(b": f402-receipt ")[0] == b"".join(steps[:-2])


async def test_an_empty_stream_that_ended_well_is_charged_as_reported(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    world.model.plan.append(streaming([chunk(finish="stop"), usage_chunk(), DONE]))
    charged = world.stream_receipt(await world.chat(body, key=key), body).charged
    assert charged == world.cost(7, 5)
