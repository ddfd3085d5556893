"""A consumer who leaves a stream before its usage report pays for the prompt it really had."""

import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from infern.core.f402.receipt import Finish
from infern.core.wire.bounds import ModelLimits, bound
from infern.core.wire.endpoints import Endpoint, parse_request
from infern.core.wire.rewrite import Dialect, EarlyUsage, to_upstream
from infern.core.wire.sse import SseMeter
from infern.core.wire.strict_json import loads_object
from infern.core.wire.usage import charge_usage
from infern.devnet.model import MODEL_NAME, EmbeddedModel
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Step, chunk, event, streaming

BALANCE = 10_000_000

TELLS_EARLY: dict[EarlyUsage, Any] = {
    EarlyUsage.VLLM: {"usage": {"prompt_tokens": 27, "completion_tokens": 3, "total_tokens": 30}},
    EarlyUsage.LLAMA_CPP: {"timings": {"prompt_n": 7, "cache_n": 20, "predicted_n": 3}},
}
ASKS_EARLY: dict[EarlyUsage, Any] = {
    EarlyUsage.VLLM: {
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    },
    EarlyUsage.LLAMA_CPP: {"stream_options": {"include_usage": True}, "timings_per_token": True},
}


def telling(raw: bytes, members: Any) -> bytes:
    """The same chunk with more members."""
    known: Any = loads_object(raw[6:])
    return event({**known, **members})


@pytest.mark.parametrize("early_usage", list(TELLS_EARLY))
@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_abuse_20_who_leaves_early_is_charged_the_real_prompt(
    make_world: Any, early_usage: EarlyUsage, payer: str
) -> None:
    """By proof the model goes on, and is given up when it has been silent for too long."""
    world = await make_world(limits={"idle_timeout_ms": 200})
    world.models = (replace(world.models[0], dialect=Dialect(early_usage=early_usage)),)
    world.reassemble()
    # Many short words: an estimate from the bytes is far below what they are.
    body = world.body(" ".join("abcdefghijklmnopqrstuvwxyz"), stream=True)
    key = await world.key(BALANCE)
    paying = {"key": key} if payer == "key" else {"proof": await world.proof(body)}
    plain = [chunk(delta={"role": "assistant"}), chunk("a"), chunk("b"), chunk("c")]
    told = [telling(raw, TELLS_EARLY[early_usage]) for raw in plain]
    world.model.plan.append(streaming([*told, Step.HANG]))
    got = await world.chat(body, client=HttpClient(leave_after=len(told)), **paying)
    assert got.body == b"".join(told)
    await world.quiet()
    receipt = await world.stored_receipt(got)
    assert receipt.finish is (Finish.CLIENT_LEFT if payer == "key" else Finish.INTERRUPTED)
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (27, 3)
    assert receipt.charged == world.cost(27, 3) == await world.spent()
    asked = loads_object(world.model.requests[0].body)
    assert asked.items() >= ASKS_EARLY[early_usage].items()


async def test_abuse_20_a_prompt_told_early_is_charged_up_to_the_ceiling(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body(stream=True)
    told = telling(chunk("a"), {"timings": {"prompt_n": 10**6, "cache_n": 0}})
    world.model.plan.append(streaming([told, Step.HANG]))
    got = await world.chat(body, key=key, client=HttpClient(leave_after=1))
    await world.quiet()
    receipt = await world.stored_receipt(got)
    assert 0 < receipt.charged < await world.quote(body)
    assert receipt.charged == await world.spent()


@pytest.mark.parametrize(
    ("endpoint", "asks"),
    [
        (Endpoint.CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "a b c d " * 20}]}),
        (Endpoint.COMPLETIONS, {"prompt": "a b c d " * 20}),
    ],
)
def test_llama_cpp_tells_the_prompt_with_the_first_token(
    endpoint: Endpoint, asks: dict[str, Any]
) -> None:
    pytest.importorskip("xllamacpp", reason="the infern[demo] extra is not installed")
    raw = json.dumps({"model": "m", "stream": True, "max_tokens": 4, **asks}).encode()
    request = parse_request(endpoint, raw)
    quoted = bound(request, ModelLimits(context_tokens=1024, max_completion_tokens=64))
    dialect = Dialect(early_usage=EarlyUsage.LLAMA_CPP)
    body = to_upstream(request, quoted, upstream_model=MODEL_NAME, dialect=dialect)
    path = endpoint.path.removeprefix("/v1")
    with EmbeddedModel() as model:
        headers = {"Authorization": f"Bearer {model.api_key}", "Content-Type": "application/json"}
        answers = [
            httpx2.post(model.base_url + path, content=body, headers=headers, timeout=60).content
            for _ in range(2)  # once read, and once from a cache if there is one
        ]
    for answer in answers:
        meter = SseMeter(request, quoted)
        meter.feed(answer)
        assert meter.is_finished
        assert meter.usage is not None
        left = SseMeter(request, quoted)
        for found in left.feed(_up_to_the_first_text(answer)):
            left.mark_sent(found)
        assert left.usage is None
        billed = charge_usage(left.usage, left.counted(), quoted)
        assert billed.prompt_tokens == meter.usage.prompt_tokens
        assert billed.prompt_tokens > left.counted().prompt_tokens_estimate


def _up_to_the_first_text(answer: bytes) -> bytes:
    events = answer.split(b"\n\n")
    first = next(i for i, raw in enumerate(events) if b'"timings"' in raw)
    return b"\n\n".join(events[: first + 1]) + b"\n\n"
