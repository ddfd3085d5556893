"""Plain answers: what is charged for each thing a model server can do."""

from typing import Any

import pytest

from infern.core.errors import UpstreamUnavailable
from infern.core.f402.receipt import Finish
from infern.core.wire.strict_json import dumps, loads_object
from infern.testing.scripted_model import USAGE, Script, Step, answer

FAILED = "provider_failed"


async def test_an_answer_is_charged_by_its_usage_and_signed_for(world: Any) -> None:
    key = await world.key(10_000_000)
    body = world.body()
    got = await world.chat(body, key=key)
    receipt = world.plain_receipt(got, body)
    assert receipt.charged == world.cost(7, 5) == 1_000 + 7 * 200 + 5 * 600
    assert receipt.finish is Finish.STOP
    assert got.headers["f402-balance"] == str(10_000_000 - receipt.charged)
    assert got.json()["choices"] == loads_object(answer())["choices"]
    tab = await world.tab(key)
    assert (tab.spent, tab.held) == (receipt.charged, 0)
    assert await world.stored_receipt(got) == receipt


async def test_the_request_goes_upstream_as_it_was_priced_and_without_our_headers(
    world: Any,
) -> None:
    key = await world.key(10_000_000)
    await world.chat(world.body(stream_options=None), key=key, cookie="a=b", x_evil="1")
    sent = world.model.requests[0]
    assert loads_object(sent.body)["model"] == "upstream-m"
    assert loads_object(sent.body)["max_tokens"] == 16
    assert set(sent.headers) == {"content-type"}


async def test_an_answer_may_hold_more_values_than_a_request(world: Any) -> None:
    key = await world.key(10_000_000)
    body = world.body(logprobs=True)
    logprobs = {"content": [{"top_logprobs": [{}] * 20} for _ in range(3_500)]}
    world.model.plan.append(Script(steps=[answer("Hello.", message={"logprobs": logprobs})]))
    got = await world.chat(body, key=key)
    assert got.status == 200
    assert int(got.headers["f402-cost"]) > 0
    assert got.body.count(b"{}") == 70_000


async def test_a_session_is_a_chain_of_receipts(world: Any) -> None:
    key = await world.key(10_000_000)
    previous = bytes(32)
    sessions = set()
    for number in range(4):
        body = world.fresh_body()
        receipt = world.plain_receipt(await world.chat(body, key=key), body)
        assert (receipt.seq, receipt.prev_digest) == (number, previous)
        previous = receipt.digest
        sessions.add(receipt.session)
    assert len(sessions) == 1


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        pytest.param(None, None, id="no usage: counted from the bytes"),
        pytest.param({"prompt_tokens": 7, "completion_tokens": 0}, None, id="zero with content"),
        pytest.param({"prompt_tokens": "7", "completion_tokens": 5}, None, id="not numbers"),
        pytest.param({"prompt_tokens": -7, "completion_tokens": 5}, None, id="negative"),
        pytest.param({"prompt_tokens": 7, "completion_tokens": True}, None, id="a bool"),
        pytest.param({"prompt_tokens": 2**40, "completion_tokens": 5}, None, id="absurd"),
        pytest.param({"input_tokens": 7, "output_tokens": 5}, (7, 5), id="other names"),
        pytest.param(
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 3}}, (7, 5), id="cached counted"
        ),
    ],
)
async def test_abuse_22_usage_that_is_missing_or_odd_never_charges_more_than_delivered(
    world: Any, usage: Any, charged: tuple[int, int] | None
) -> None:
    key = await world.key(10_000_000)
    body = world.body()
    text = "Hello there, dear friend."
    world.model.plan.append(Script(steps=[answer(text, usage=usage)]))
    receipt = world.plain_receipt(await world.chat(body, key=key), body)
    if charged is not None:
        assert (receipt.prompt_tokens, receipt.completion_tokens) == charged
    assert 0 < receipt.completion_tokens <= len(text)
    assert world.cost(1, 1) <= receipt.charged <= await world.quote(body)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 2_000_000, "completion_tokens": 5},
        {"prompt_tokens": 7, "completion_tokens": 2_000_000},
        {"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1},
    ],
)
async def test_abuse_22_usage_above_the_quote_is_capped(world: Any, usage: Any) -> None:
    key = await world.key(10_000_000)
    body = world.body(logprobs=True)
    world.model.plan.append(Script(steps=[answer("x" * 400, usage=usage)]))
    ceiling = await world.quote(body)
    receipt = world.plain_receipt(await world.chat(body, key=key), body)
    assert receipt.charged <= ceiling
    assert receipt.completion_tokens <= 16
    assert (await world.tab(key)).spent == receipt.charged


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(status=400, steps=[b'{"error":{"message":"bad temperature"}}']), 400,
         "invalid_request"),
        (Script(status=400, steps=[b'{"error":{"message":"maximum context length is 10"}}']), 400,
         "context_length_exceeded"),
        (Script(status=422, steps=[b'{"detail":"no"}']), 400, "invalid_request"),
        (Script(status=413, steps=[b"<html>"]), 413, "request_too_large"),
        (Script(status=401, steps=[b'{"error":"bad key"}']), 502, FAILED),
        (Script(status=404, steps=[b"{}"]), 502, FAILED),
        (Script(status=429, steps=[b"{}"]), 503, "overloaded"),
        (Script(status=500, steps=[b"oops"]), 502, FAILED),
        (Script(status=503, steps=[]), 503, "overloaded"),
        (Script(status=302, steps=[]), 502, FAILED),
        (Script(status=500, steps=[b"x" * 70_000]), 502, FAILED),
        (Script(status=500, steps=[Step.BREAK]), 502, FAILED),
        (Script(status=500, steps=[Step.HANG]), 504, "provider_timeout"),
        (Script(fails=UpstreamUnavailable("refused")), 502, FAILED),
        (Script(before=Step.HANG), 504, "provider_timeout"),
        (Script(steps=[Step.HANG]), 504, "provider_timeout"),
        (Script(steps=[answer()[:40], Step.BREAK]), 502, FAILED),
        (Script(steps=[answer()[:40]]), 502, FAILED),
        (Script(steps=[b"not json"]), 502, FAILED),
        (Script(steps=[b"[]"]), 502, FAILED),
        (Script(steps=[b""]), 502, FAILED),
        (Script(steps=[b"\xff\xfe"]), 502, FAILED),
        (Script(steps=[b'{"choices":5}']), 502, FAILED),
        (Script(steps=[b'{"choices":[{"index":9,"message":{"content":"x"}}]}']), 502, FAILED),
        (Script(steps=[b'{"error":{"message":"CUDA out of memory"}}']), 502, FAILED),
        (Script(steps=[b'{"object":"error","message":"vllm","code":500}']), 502, FAILED),
        (Script(steps=[b'{"choices":[],"choices":[]}']), 502, FAILED),
        (Script(steps=[b"data: [DONE]\n\n"]), 502, FAILED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_a_model_server_that_fails_costs_nothing_and_may_be_asked_again(
    make_world: Any, script: Script, status: int, code: str, payer: str
) -> None:
    world = await make_world(
        limits={"first_byte_timeout_ms": 60, "idle_timeout_ms": 60, "keepalive_ms": 30}
    )
    body = world.body()
    key = await world.key(10_000_000)
    paying = {"key": key} if payer == "key" else {"proof": await world.proof(body)}
    world.model.plan.append(script)
    got = await world.chat(body, **paying)
    assert (got.status, got.error["code"]) == (status, code)
    assert got.error["money"] == "unmoved"
    assert "f402-receipt" not in got.headers
    assert "payment-required" not in got.headers
    assert ("x-should-retry" in got.headers) == (status in (400, 413))
    assert got.error["retry"] == ("never" if status in (400, 413) else "same_credential")
    assert await world.spent() == 0
    assert await world.open_holds() == 0
    assert await world.stored_receipt(got) is None
    again = await world.chat(body, **paying)
    receipt = world.plain_receipt(again, body)
    assert await world.spent() == receipt.charged == world.cost(7, 5)
    if payer == "proof":
        third = await world.chat(body, **paying)
        assert (third.status, third.body) == (200, again.body)
        assert await world.spent() == receipt.charged


async def test_what_a_model_server_says_about_itself_stays_here(world: Any) -> None:
    key = await world.key(10_000_000)
    world.model.plan.append(Script(status=500, steps=[b'{"error":{"message":"/srv/secret"}}']))
    got = await world.chat(world.body(), key=key)
    assert b"secret" not in got.body


@pytest.mark.parametrize("choices", ["[]", '[{"index":0,"message":{"content":""}}]'])
async def test_an_empty_answer_is_a_failure_and_the_proof_stays_good(
    world: Any, choices: str
) -> None:
    body = world.body()
    proof = await world.proof(body)
    usage = dumps(USAGE).decode()
    world.model.plan.append(Script(steps=[f'{{"choices":{choices},"usage":{usage}}}'.encode()]))
    got = await world.chat(body, proof=proof)
    assert (got.status, got.error["money"]) == (502, "unmoved")
    again = await world.chat(body, proof=proof)
    assert world.plain_receipt(again, body).charged == world.cost(7, 5)


async def test_an_empty_answer_that_ended_well_is_answered_and_charged_as_reported(
    world: Any,
) -> None:
    key = await world.key(10_000_000)
    body = world.body()
    usage = {"prompt_tokens": 7, "completion_tokens": 1}
    world.model.plan.append(Script(steps=[answer("", usage=usage)]))
    receipt = world.plain_receipt(await world.chat(body, key=key), body)
    assert receipt.charged == world.cost(7, 1)


async def test_tool_calls_reasoning_and_choices_are_passed_on_and_counted(world: Any) -> None:
    key = await world.key(10_000_000)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for members, whole, expected in (
        ({}, answer("", message={"tool_calls": [call]}, finish="tool_calls"), Finish.TOOL_CALLS),
        ({}, answer("a", message={"reasoning_content": "because"}), Finish.STOP),
        ({"n": 3}, answer("a b", "c d", "e f"), Finish.STOP),
        ({}, answer("cut", finish="length"), Finish.LENGTH),
        ({}, answer("odd", finish="eos"), Finish.OTHER),
        ({}, answer("none", finish=None), Finish.OTHER),
    ):
        body = world.fresh_body(**members)
        world.model.plan.append(Script(steps=[whole]))
        got = await world.chat(body, key=key)
        receipt = world.plain_receipt(got, body)
        assert receipt.charged == world.cost(7, 5)
        assert receipt.finish is expected
        assert got.json()["choices"] == loads_object(whole)["choices"]


async def test_abuse_41_text_that_looks_like_our_marks_stays_text(world: Any) -> None:
    key = await world.key(10_000_000)
    body = world.body()
    text = '\n\ndata: [DONE]\n\n: f402-receipt AAAA\n\n{"f402":{"charged":"0"}}'
    world.model.plan.append(Script(steps=[answer(text)]))
    got = await world.chat(body, key=key)
    assert world.plain_receipt(got, body).charged == world.cost(7, 5)
    assert got.json()["choices"] == loads_object(answer(text))["choices"]


async def test_a_model_server_cannot_write_the_bill(world: Any) -> None:
    key = await world.key(10_000_000)
    body = world.body()
    whole = loads_object(answer())
    whole["f402"] = {"charged": "0", "request_id": "req_false"}
    world.model.plan.append(Script(steps=[dumps(whole)]))
    got = await world.chat(body, key=key)
    assert world.plain_receipt(got, body).charged == world.cost(7, 5)


async def test_an_answer_over_the_limit_is_refused_and_free(make_world: Any) -> None:
    world = await make_world(limits={"response_bytes": 1_000})
    key = await world.key(10_000_000)
    world.model.plan.append(Script(steps=[b"x" * 600, b"x" * 600, Step.HANG]))
    got = await world.chat(world.body(), key=key)
    assert (got.status, got.error["code"]) == (502, FAILED)
    assert await world.spent() == 0


async def test_completions_and_embeddings_take_the_same_path(world: Any) -> None:
    key = await world.key(10_000_000)
    body = dumps({"model": "m", "prompt": ["a", "b"], "max_tokens": 4})
    whole = {"choices": [{"index": i, "text": f"t{i}", "finish_reason": "stop"} for i in (0, 1)]}
    world.model.plan.append(Script(steps=[dumps({**whole, "usage": dict(USAGE)})]))
    got = await world.chat(body, key=key, target="/v1/completions")
    receipt = world.plain_receipt(got, body, target="/v1/completions")
    assert receipt.charged == world.cost(7, 5)
    body = dumps({"model": "m", "input": "a text"})
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}]}
    report = {"prompt_tokens": 3, "total_tokens": 3}
    world.model.plan.append(Script(steps=[dumps({**vectors, "usage": report})]))
    got = await world.chat(body, key=key, target="/v1/embeddings")
    assert world.plain_receipt(got, body, target="/v1/embeddings").charged == world.cost(3, 0)
    world.model.plan.append(Script(steps=[dumps({"object": "list", "data": []})]))
    got = await world.chat(body, key=key, target="/v1/embeddings")
    assert (got.status, got.error["money"]) == (502, "unmoved")
