from collections.abc import Callable
from dataclasses import replace

import pytest

from infern.core.wire.bounds import ModelLimits
from infern.core.wire.cuts import is_cut_to_nothing, prompt_flags
from infern.core.wire.endpoints import InferenceRequest
from infern.core.wire.usage import Counted, Usage, UsageFlag, UsageSource

Make = Callable[..., InferenceRequest]
COUNTED = Counted(
    deltas=1,
    content_bytes=9,
    is_delivered=True,
    is_complete=True,
    unseen_tokens_max=32,
    prompt_tokens_estimate=20,
)
FILLS, BELOW = UsageFlag.PROMPT_FILLS_CONTEXT, UsageFlag.PROMPT_BELOW_SENT


def report(prompt: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=3, source=UsageSource.UPSTREAM)


@pytest.mark.parametrize(
    ("told", "cuts", "flags"),
    [
        (8192, False, {FILLS}),
        (8191, False, set()),
        (9000, True, {FILLS}),
        (100, False, set()),
        (99, False, {BELOW}),
        (266, True, set()),
        (265, True, {BELOW}),
        (0, True, set()),
        (None, True, set()),
    ],
)
def test_what_a_cut_leaves_to_be_seen(
    completion: Make, limits: ModelLimits, told: int | None, cuts: bool, flags: set[UsageFlag]
) -> None:
    request = completion(prompt="x" * 1_600)
    limits = replace(limits, cuts_prompts=cuts)
    reported = None if told is None else report(told)
    assert prompt_flags(request, limits, reported, COUNTED) == flags
    early = replace(COUNTED, prompt_tokens_early=told)
    assert prompt_flags(request, limits, None, early) == flags


def test_several_prompts_have_a_context_each(completion: Make, limits: ModelLimits) -> None:
    request = completion(prompt=["a", "b"])
    assert prompt_flags(request, limits, report(8192), COUNTED) == frozenset()
    assert prompt_flags(request, limits, report(16384), COUNTED) == {FILLS}
    ids = completion(prompt=[[1] * 5, [2] * 5])
    assert prompt_flags(ids, limits, report(9), COUNTED) == {BELOW}
    assert prompt_flags(ids, limits, report(10), COUNTED) == frozenset()


def test_an_answer_is_none_when_the_prompt_took_all(
    chat: Make, embedding: Make, limits: ModelLimits
) -> None:
    nothing = replace(COUNTED, deltas=0, content_bytes=0)
    assert is_cut_to_nothing(chat(), limits, report(8192), nothing)
    assert not is_cut_to_nothing(chat(), limits, report(8191), nothing)
    assert not is_cut_to_nothing(chat(), limits, report(8192), COUNTED)
    assert not is_cut_to_nothing(chat(), limits, None, nothing)
    assert not is_cut_to_nothing(embedding(), limits, report(8192), nothing)
