import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from infern.core.errors import InfernError
from infern.core.wire.bounds import Bound
from infern.core.wire.chunks import (
    MalformedChunk,
    count_answer,
    estimate_prompt_tokens,
    least_prompt_tokens,
    read_answer,
    read_chunk,
)
from infern.core.wire.endpoints import InferenceRequest
from infern.core.wire.strict_json import loads_object
from infern.core.wire.usage import (
    Counted,
    Usage,
    UsageFlag,
    UsageSource,
    charge_usage,
    read_usage,
)

Make = Callable[..., InferenceRequest]
BOUND = Bound(prompt_tokens_max=100, completion_tokens_max=50, n=1)
COUNTED = Counted(
    deltas=10,
    content_bytes=40,
    is_delivered=True,
    is_complete=True,
    unseen_tokens_max=32,
    prompt_tokens_estimate=20,
)


def report(prompt: int = 30, completion: int = 11) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, source=UsageSource.UPSTREAM)


def test_reads_usage_with_details() -> None:
    body = {
        "usage": {
            "prompt_tokens": 30,
            "completion_tokens": 11,
            "total_tokens": 41,
            "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
    }
    assert read_usage(body) == replace(report(), cached_tokens=16, reasoning_tokens=4)


def test_zero_is_a_report_and_none_is_not() -> None:
    assert read_usage({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}) == report(0, 0)
    assert read_usage({"usage": None}) is None
    assert read_usage({}) is None
    assert read_usage(None) is None


@pytest.mark.parametrize("wrong", [-1, 1.0, 5.5, True, "5", None, 2**31, 10**18, [5], {}])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_half_a_report_is_none(name: str, wrong: object) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, name: wrong}
    assert read_usage({"usage": usage}) is None  # type: ignore[dict-item] # wrong on purpose


@pytest.mark.parametrize("usage", [[], "5", 5, True, {}, {"total_tokens": 5}])
def test_odd_reports_are_none(usage: object) -> None:
    assert read_usage({"usage": usage}) is None  # type: ignore[dict-item] # wrong on purpose


def test_wrong_details_do_not_spoil_the_report() -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 11,
        "prompt_tokens_details": None,
        "completion_tokens_details": {"reasoning_tokens": -4},
    }
    assert read_usage({"usage": usage}) == report()  # type: ignore[dict-item] # literal


def test_embeddings_have_no_completion_tokens() -> None:
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    assert read_usage({"object": "list", "usage": usage}) == report(8, 0)  # type: ignore[dict-item] # literal
    assert read_usage({"object": "chat.completion", "usage": usage}) is None  # type: ignore[dict-item] # literal


def test_an_honest_report_is_billed_as_it_is() -> None:
    billed = charge_usage(report(), COUNTED, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (30, 11)
    assert billed.source is UsageSource.UPSTREAM
    assert billed.flags == frozenset()


def test_never_above_the_bound() -> None:
    counted = replace(COUNTED, content_bytes=100_000)
    billed = charge_usage(report(10**6, 10**6), counted, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (100, 50)
    assert billed.flags == {UsageFlag.PROMPT_ABOVE_BOUND, UsageFlag.COMPLETION_ABOVE_BOUND}
    assert billed.reported == report(10**6, 10**6)


def test_never_above_what_bytes_can_hold() -> None:
    # 100 000 tokens reported for a two-token answer.
    bound = replace(BOUND, completion_tokens_max=200_000)
    counted = replace(COUNTED, deltas=2, content_bytes=9)
    billed = charge_usage(report(30, 100_000), counted, bound)
    assert billed.completion_tokens == 9 + 32
    assert billed.flags == {UsageFlag.COMPLETION_ABOVE_DELIVERED}


def test_bytes_are_no_check_when_the_request_asked_for_tokens_without_bytes() -> None:
    counted = replace(COUNTED, deltas=0, content_bytes=0, unseen_tokens_max=None)
    assert charge_usage(report(30, 50), counted, BOUND).completion_tokens == 50


def test_without_a_report_the_deltas_count() -> None:
    billed = charge_usage(None, COUNTED, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (20, 10)
    assert billed.source is UsageSource.COUNTED
    assert billed.flags == {UsageFlag.MISSING}


def test_a_prompt_told_early_is_billed_without_a_report() -> None:
    told = replace(COUNTED, is_complete=False, prompt_tokens_early=60)
    billed = charge_usage(None, told, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (60, 10)
    assert charge_usage(report(30), told, BOUND).prompt_tokens == 30
    gone = replace(told, is_delivered=False)
    assert charge_usage(None, gone, BOUND).prompt_tokens == 0


def test_a_prompt_told_early_stays_inside_the_bound() -> None:
    told = replace(COUNTED, is_complete=False, prompt_tokens_early=101)
    billed = charge_usage(None, told, BOUND)
    assert billed.prompt_tokens == 100
    assert billed.flags == {UsageFlag.MISSING, UsageFlag.PROMPT_ABOVE_BOUND}


@pytest.mark.parametrize(
    ("timings", "tokens"),
    [
        ({"prompt_n": 3, "cache_n": 40}, 43),
        ({"prompt_n": 3, "cache_n": 0}, 3),
        ({"prompt_n": 0, "cache_n": 0}, None),
        ({"prompt_n": 3}, None),
        ({"prompt_n": -1, "cache_n": 5}, None),
        ({"prompt_n": 3.0, "cache_n": 5}, None),
        ({"prompt_n": True, "cache_n": 5}, None),
        ([3, 5], None),
        (None, None),
    ],
)
def test_timings_tell_the_prompt(timings: object, tokens: int | None) -> None:
    body = {"choices": [], "timings": timings}
    chunk = read_chunk(body, choices=1)  # type: ignore[arg-type] # some wrong on purpose
    assert chunk.prompt_tokens == tokens
    assert chunk.usage is None
    assert not chunk.is_usage_only


def test_without_a_report_one_big_delta_is_not_free() -> None:
    bound = replace(BOUND, completion_tokens_max=10_000)
    counted = replace(COUNTED, deltas=1, content_bytes=6_000)
    assert charge_usage(None, counted, bound).completion_tokens == 1_000


def test_without_a_report_the_estimate_stays_inside_the_bound() -> None:
    counted = replace(COUNTED, deltas=500, content_bytes=9_000, prompt_tokens_estimate=10**6)
    billed = charge_usage(None, counted, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (100, 50)


def test_a_delta_without_bytes_is_no_token() -> None:
    counted = replace(COUNTED, deltas=500, content_bytes=3)
    assert charge_usage(None, counted, BOUND).completion_tokens == 3


def test_zero_with_content_is_counted_instead() -> None:
    billed = charge_usage(report(30, 0), COUNTED, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (30, 10)
    assert billed.flags == {UsageFlag.ZERO_WITH_CONTENT}


def test_zero_without_content_stays_zero() -> None:
    counted = replace(COUNTED, deltas=0, content_bytes=0)
    billed = charge_usage(report(30, 0), counted, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (30, 0)
    assert billed.source is UsageSource.UPSTREAM
    assert billed.flags == frozenset()


@pytest.mark.parametrize("reported", [None, report(), report(0, 0)])
def test_nothing_delivered_is_nothing_billed(reported: Usage | None) -> None:
    counted = replace(COUNTED, deltas=0, content_bytes=0, is_delivered=False)
    billed = charge_usage(reported, counted, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (0, 0)
    assert billed.flags == {UsageFlag.NOTHING_DELIVERED}
    assert counted.is_empty


def test_a_broken_answer_is_billed_for_what_was_delivered() -> None:
    counted = replace(COUNTED, is_complete=False)
    billed = charge_usage(report(30, 45), counted, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (30, 10)
    assert charge_usage(report(30, 4), counted, BOUND).completion_tokens == 4


def test_several_choices_reported_as_one() -> None:
    # llama.cpp reports one choice's tokens for all of them.
    bound = replace(BOUND, n=2)
    counted = replace(COUNTED, deltas=20, content_bytes=80)
    billed = charge_usage(report(30, 10), counted, bound)
    assert billed.completion_tokens == 20
    assert billed.flags == {UsageFlag.CHOICES_UNDERCOUNTED}
    assert charge_usage(report(30, 21), counted, bound).completion_tokens == 21
    one = charge_usage(report(30, 10), counted, BOUND)
    assert (one.completion_tokens, one.flags) == (10, frozenset())


def test_counts_a_whole_answer(chat: Make) -> None:
    request = chat(n=2, stop="xyz")
    answer = {
        "choices": [
            {"index": 0, "message": {"content": "hé", "reasoning": "abc"}, "finish_reason": "stop"},
            {
                "index": 1,
                "message": {
                    "content": None,
                    "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
                },
                "finish_reason": "tool_calls",
            },
        ]
    }
    counted = count_answer(request, answer)  # type: ignore[arg-type] # literal
    assert counted == Counted(
        deltas=0,
        content_bytes=3 + 3 + 3,
        is_delivered=True,
        is_complete=True,
        unseen_tokens_max=2 * (32 + 3) + 64,
        prompt_tokens_estimate=estimate_prompt_tokens(request),
    )


def test_an_answer_with_all_its_candidates_can_be_read() -> None:
    candidate = {"token": "abc", "bytes": [97, 98, 99], "logprob": -0.5}
    token = {**candidate, "top_logprobs": [candidate] * 20}
    body = json.dumps({"choices": [{"logprobs": {"content": [token] * 4096}}]}).encode()
    assert len(read_answer(body)) == 1
    with pytest.raises(InfernError, match="strings"):
        loads_object(body)


@pytest.mark.parametrize(
    ("choice", "delivered"),
    [
        ({"message": {"content": ""}, "finish_reason": "stop"}, True),
        ({"message": {"content": ""}, "finish_reason": "error"}, False),
        ({"message": {"content": ""}, "finish_reason": "abort"}, False),
        ({"message": {"content": ""}, "finish_reason": None}, False),
        ({"message": {"content": "x"}, "finish_reason": "error"}, True),
        ({"text": "x"}, True),
    ],
)
def test_an_empty_answer_counts_only_if_it_ended_well(
    chat: Make, choice: dict[str, object], delivered: bool
) -> None:
    answer = {"choices": [choice]}
    assert count_answer(chat(), answer).is_delivered == delivered  # type: ignore[arg-type] # literal


def test_an_error_in_a_body_is_nothing_delivered(chat: Make, embedding: Make) -> None:
    error = {"error": {"message": "out of memory"}, "data": [1]}
    assert count_answer(chat(), error).is_empty  # type: ignore[arg-type] # literal
    assert count_answer(embedding(), error).is_empty  # type: ignore[arg-type] # literal


def test_vectors_are_a_delivery(embedding: Make) -> None:
    answer = {"object": "list", "data": [{"embedding": [0.5]}]}
    assert count_answer(embedding(), answer).is_delivered  # type: ignore[arg-type] # literal
    assert count_answer(embedding(), {"data": []}).is_empty
    assert count_answer(embedding(), {"data": "x"}).is_empty


def test_an_unverifiable_request_has_no_byte_check(chat: Make) -> None:
    answer = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}
    counted = count_answer(chat(ignore_eos=True), answer)  # type: ignore[arg-type] # literal
    assert counted.unseen_tokens_max is None


@pytest.mark.parametrize("member", ["response_format", "tools"])
def test_trimmed_white_space_around_json_is_allowed_for(chat: Make, member: str) -> None:
    # A server reported 44 tokens for 21 bytes: the rest was white space that it trimmed.
    tool = {"type": "function", "function": {"name": "f"}}
    value = {"type": "json_object"} if member == "response_format" else [tool]
    answer = {"choices": [{"message": {"content": "x" * 21}, "finish_reason": "stop"}]}
    counted = count_answer(chat(**{member: value}), answer)  # type: ignore[arg-type] # literal
    billed = charge_usage(report(9, 44), counted, replace(BOUND, completion_tokens_max=60))
    assert (billed.completion_tokens, billed.flags) == (44, frozenset())
    assert counted.unseen_tokens_max == 32 + 48


@pytest.mark.parametrize(
    "body",
    [
        {"choices": {}},
        {"choices": [1]},
        {"choices": [{"index": 1}]},
        {"choices": [{"index": -1}]},
        {"choices": [{"index": True}]},
        {"choices": [{"index": "0"}]},
    ],
)
def test_answers_that_were_not_asked_for(body: dict[str, object]) -> None:
    with pytest.raises(MalformedChunk):
        read_chunk(body, choices=1)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize("calls", [None, "x", [1], [{}], [{"function": None}], {"a": 1}])
def test_tool_calls_without_function_carry_nothing(calls: object) -> None:
    body = {"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}
    chunk = read_chunk(body, choices=1)  # type: ignore[arg-type] # wrong on purpose
    assert (chunk.pieces[0].content_bytes, chunk.pieces[0].tool_calls) == (0, 0)


def test_two_names_of_the_same_reasoning_count_once() -> None:
    delta = {"reasoning": "abcd", "reasoning_content": "abcd"}
    chunk = read_chunk({"choices": [{"index": 0, "delta": delta}]}, choices=1)  # type: ignore[dict-item] # literal
    assert chunk.pieces[0].content_bytes == 4


@pytest.mark.parametrize(
    ("content", "length"),
    [
        ([{"type": "text", "text": "abc"}, {"type": "text", "text": "dé"}], 6),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "abc"}]}], 3),
        ([{"type": "thinking", "thinking": "abc"}], 3),
        (["abc", 5, None, {}], 3),
        ([{"type": "image", "thinking": {"a": 1}}], 0),
        ({"text": "no list"}, 7),
    ],
)
def test_content_in_parts_counts(content: object, length: int) -> None:
    chunk = read_chunk({"choices": [{"index": 0, "delta": {"content": content}}]}, choices=1)  # type: ignore[dict-item] # some wrong on purpose
    assert chunk.pieces[0].content_bytes == length


def test_a_prompt_of_zero_tokens_is_nothing_told() -> None:
    billed = charge_usage(report(0, 11), COUNTED, BOUND)
    assert (billed.prompt_tokens, billed.completion_tokens) == (20, 11)
    assert billed.flags == {UsageFlag.PROMPT_ZERO}
    early = replace(COUNTED, prompt_tokens_early=27)
    assert charge_usage(report(0, 11), early, BOUND).prompt_tokens == 27


def test_several_prompts_reported_as_one() -> None:
    counted = replace(COUNTED, prompt_tokens_least=40)
    billed = charge_usage(report(30), counted, BOUND)
    assert billed.prompt_tokens == 40
    assert billed.flags == {UsageFlag.PROMPTS_UNDERCOUNTED}
    assert charge_usage(report(41), counted, BOUND).flags == frozenset()
    above = replace(COUNTED, prompt_tokens_least=400)
    assert charge_usage(report(30), above, BOUND).prompt_tokens == 100


def test_several_prompts_have_a_least(completion: Make, embedding: Make) -> None:
    assert least_prompt_tokens(completion(prompt="x" * 1_000)) == 0
    assert least_prompt_tokens(completion(prompt=["x" * 33, "y"])) == 3 + 1
    assert least_prompt_tokens(embedding(input=[[1, 2, 3], [4]])) == 4


def test_a_broken_answer_is_billed_what_was_told_with_what_went_out() -> None:
    counted = replace(COUNTED, is_complete=False, completion_tokens_early=14)
    assert charge_usage(report(30, 45), counted, BOUND).completion_tokens == 14
    assert charge_usage(report(30, 12), counted, BOUND).completion_tokens == 12
