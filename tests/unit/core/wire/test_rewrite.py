import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from infern.core.errors import ConfigError
from infern.core.wire.bounds import ModelLimits, bound
from infern.core.wire.endpoints import Endpoint, InferenceRequest, parse_request
from infern.core.wire.rewrite import Dialect, EarlyUsage, TokenLimit, to_upstream

Make = Callable[..., InferenceRequest]


def sent(request: InferenceRequest, limits: ModelLimits, **options: object) -> dict[str, object]:
    raw = to_upstream(
        request,
        bound(request, limits),
        upstream_model="up",
        **options,  # type: ignore[arg-type] # keywords under test
    )
    body = json.loads(raw)
    assert isinstance(body, dict)
    return body


def test_a_request_is_written_anew(chat: Make, limits: ModelLimits) -> None:
    request = chat(temperature=0.7, user="alice", max_tokens=64, store=False, provider={"a": 1})
    assert sent(request, limits) == {
        "model": "up",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.7,
        "max_tokens": 64,
        "stream": False,
    }


def test_the_limit_is_always_sent(chat: Make, completion: Make, limits: ModelLimits) -> None:
    assert sent(chat(), limits)["max_tokens"] == 1024
    assert sent(completion(), limits)["max_tokens"] == 1024


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (TokenLimit.MAX_TOKENS, {"max_tokens"}),
        (TokenLimit.MAX_COMPLETION_TOKENS, {"max_completion_tokens"}),
        (TokenLimit.BOTH, {"max_tokens", "max_completion_tokens"}),
    ],
)
@pytest.mark.parametrize("asked", ["max_tokens", "max_completion_tokens"])
def test_the_limit_has_the_names_the_server_knows(
    chat: Make, limits: ModelLimits, limit: TokenLimit, names: set[str], asked: str
) -> None:
    body = sent(chat(**{asked: 77}), limits, dialect=Dialect(token_limit=limit))
    assert {name for name in body if name.startswith("max_")} == names
    assert all(body[name] == 77 for name in names)


def test_completions_know_one_name(completion: Make, limits: ModelLimits) -> None:
    body = sent(completion(), limits, dialect=Dialect(token_limit=TokenLimit.MAX_COMPLETION_TOKENS))
    assert "max_completion_tokens" not in body
    assert body["max_tokens"] == 1024


def test_the_lowered_limit_is_sent(chat: Make, limits: ModelLimits) -> None:
    request = chat(max_tokens=4000)
    lowered = bound(request, limits, prompt_tokens_exact=8000)
    body = json.loads(to_upstream(request, lowered, upstream_model="up"))
    assert body["max_tokens"] == 192


def test_usage_is_forced_for_streams_only(chat: Make, limits: ModelLimits) -> None:
    assert sent(chat(stream=True), limits)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent(chat(), limits)
    assert "stream_options" not in sent(chat(stream=True), limits, force_usage=False)
    asked = chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": True})
    assert sent(asked, limits, force_usage=False)["stream_options"] == {"include_usage": True}


VLLM = Dialect(early_usage=EarlyUsage.VLLM)
LLAMA_CPP = Dialect(early_usage=EarlyUsage.LLAMA_CPP)


def test_streams_ask_for_early_usage_as_the_server_knows_it(
    chat: Make, completion: Make, limits: ModelLimits
) -> None:
    for make in (chat, completion):
        vllm = sent(make(stream=True), limits, dialect=VLLM)
        assert vllm["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        assert "timings_per_token" not in vllm
        llama = sent(make(stream=True), limits, dialect=LLAMA_CPP)
        assert llama["stream_options"] == {"include_usage": True}
        assert llama["timings_per_token"] is True
        assert "timings_per_token" not in sent(make(stream=True), limits)


@pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP])
def test_early_usage_is_for_streams_that_are_metered(
    chat: Make, embedding: Make, limits: ModelLimits, dialect: Dialect
) -> None:
    unmetered = sent(chat(stream=True), limits, dialect=dialect, force_usage=False)
    for body in (
        sent(chat(), limits, dialect=dialect),
        sent(embedding(input=["a"]), limits, dialect=dialect),
        unmetered,
    ):
        assert not {"stream_options", "timings_per_token"} & body.keys()


def test_choices_are_per_prompt(completion: Make, limits: ModelLimits) -> None:
    body = sent(completion(prompt=["a", "b"], n=3), limits)
    assert body["n"] == 3
    assert "n" not in sent(completion(), limits)


def test_pinned_members_win(chat: Make, limits: ModelLimits) -> None:
    dialect = Dialect(pinned={"cache_prompt": False, "temperature": 0})
    body = sent(chat(temperature=1), limits, dialect=dialect)
    assert body["cache_prompt"] is False
    assert body["temperature"] == 0


@pytest.mark.parametrize("name", ["max_tokens", "n", "model", "stream", "n_predict", "messages"])
def test_what_was_priced_cannot_be_pinned(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Dialect(pinned={name: 1})


def test_embeddings_carry_nothing_of_generation(embedding: Make, limits: ModelLimits) -> None:
    body = sent(
        embedding(input=["a"], dimensions=8),
        limits,
        dialect=Dialect(pinned={"cache_prompt": False}),
    )
    assert body == {"model": "up", "input": ["a"], "dimensions": 8}


def test_text_arrives_as_it_was_meant(limits: ModelLimits) -> None:
    raw = (
        b'{"model":"m","messages":[{"role":"user","content":"\\u0022,\\"n\\":9,\\ud83d\\ude00\\u2028"}],'
        b'"tools":[{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}]}'
    )
    request = parse_request(Endpoint.CHAT_COMPLETIONS, raw)
    body = sent(request, replace(limits))
    assert body["messages"] == [{"role": "user", "content": '","n":9,😀\u2028'}]
    assert "n" not in body
    tools = body["tools"]
    assert list(tools[0]["function"]["parameters"]) == ["b", "a"]  # type: ignore[index] # known shape
