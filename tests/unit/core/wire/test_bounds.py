from collections.abc import Callable
from dataclasses import replace

import pytest

from infern.core.errors import InfernError, Money
from infern.core.wire.bounds import (
    LONGEST_TOKEN_BYTES,
    SEQUENCE_OVERHEAD_TOKENS,
    Bound,
    ModelLimits,
    bound,
)
from infern.core.wire.endpoints import InferenceRequest

Make = Callable[..., InferenceRequest]


def refusal(request: InferenceRequest, limits: ModelLimits, **options: int) -> InfernError:
    with pytest.raises(InfernError) as caught:
        bound(request, limits, **options)
    assert caught.value.money is Money.UNMOVED
    return caught.value


def test_prompt_is_bytes_and_overheads(chat: Make, limits: ModelLimits) -> None:
    messages = [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "x" * 100}]
    request = chat(messages=messages)
    expected = 256 + 2 * 8 + len("user" + "assistant") + 3 + 100
    # é can decompose into three bytes; a tokenizer that normalises may see it so.
    assert bound(request, limits).prompt_tokens_max == expected + 1


def test_images_have_a_price_or_are_refused(chat: Make, limits: ModelLimits) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
    request = chat(messages=[{"role": "user", "content": [image, image]}])
    error = refusal(request, limits)
    assert (error.code, error.param) == ("unpriceable_request", "messages")
    priced = bound(request, replace(limits, image_tokens=1000)).prompt_tokens_max
    assert priced == 256 + 8 + len("user") + 2 * 1000 + 2 * 16


def test_audio_has_a_price_or_is_refused(chat: Make, limits: ModelLimits) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 5000, "format": "wav"}}
    request = chat(messages=[{"role": "user", "content": [audio]}])
    assert refusal(request, replace(limits, image_tokens=9)).code == "unpriceable_request"
    assert bound(request, replace(limits, audio_tokens=700)).prompt_tokens_max >= 700


def test_a_prompt_of_more_bytes_than_the_context_is_not_refused(
    chat: Make, limits: ModelLimits
) -> None:
    request = chat(messages=[{"role": "user", "content": "word " * 6000}], max_tokens=100)
    assert bound(request, limits) == Bound(prompt_tokens_max=8192, completion_tokens_max=100, n=1)


def test_each_sequence_counts_at_most_the_context(
    completion: Make, embedding: Make, limits: ModelLimits
) -> None:
    prompts = ["x" * 10_000, "y" * 10, "z" * 9_000]
    expected = 8192 + 10 + SEQUENCE_OVERHEAD_TOKENS + 8192
    for request in (completion(prompt=prompts), embedding(input=prompts)):
        assert bound(request, limits).prompt_tokens_max == expected


def test_the_consumers_limit_is_taken_as_it_is(chat: Make, limits: ModelLimits) -> None:
    assert bound(chat(max_tokens=1), limits).completion_tokens_max == 1
    assert bound(chat(max_completion_tokens=4096), limits).completion_tokens_max == 4096


def test_a_limit_above_the_listings_is_refused(chat: Make, limits: ModelLimits) -> None:
    error = refusal(chat(max_tokens=4097), limits)
    assert (error.code, error.param) == ("invalid_request", "max_tokens")
    assert "4096" in error.message


def test_without_a_limit_the_listings_default_counts(chat: Make, limits: ModelLimits) -> None:
    assert bound(chat(), limits).completion_tokens_max == 1024
    short = replace(limits, max_completion_tokens=100)
    assert bound(chat(), short).completion_tokens_max == 100


def test_a_counted_prompt_lowers_the_answer_to_what_fits(chat: Make, limits: ModelLimits) -> None:
    exact = bound(chat(max_tokens=4000), limits, prompt_tokens_exact=5000)
    assert exact == Bound(prompt_tokens_max=5000, completion_tokens_max=3192, n=1)
    assert bound(chat(max_tokens=10), limits, prompt_tokens_exact=8191).completion_tokens_max == 1
    error = refusal(chat(max_tokens=10), limits, prompt_tokens_exact=8192)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")


def test_token_ids_are_counted_prompts(completion: Make, limits: ModelLimits) -> None:
    request = completion(prompt=[1] * 5000, max_tokens=4000)
    assert bound(request, limits).completion_tokens_max == 3192
    assert refusal(completion(prompt=[1] * 8192), limits).code == "context_length_exceeded"


def test_the_shortest_prompt_decides_how_long_answers_can_be(
    completion: Make, limits: ModelLimits
) -> None:
    request = completion(prompt=[[1] * 8000, [1] * 10], max_tokens=4000)
    assert bound(request, limits).completion_tokens_max == 4000


def test_choices_multiply(chat: Make, completion: Make, limits: ModelLimits) -> None:
    assert bound(chat(n=3, max_tokens=10), limits).all_completion_tokens_max == 30
    request = completion(prompt=["a", "b"], n=3, max_tokens=10)
    assert bound(request, limits).n == 6
    assert bound(request, limits).all_completion_tokens_max == 60


def test_more_choices_than_sold_are_refused(chat: Make, limits: ModelLimits) -> None:
    assert refusal(chat(n=5), limits).param == "n"
    assert refusal(chat(n=2), replace(limits, max_n=1)).param == "n"


def test_more_inputs_than_sold_are_refused(
    completion: Make, embedding: Make, limits: ModelLimits
) -> None:
    few = replace(limits, max_prompts=2, max_inputs=3)
    assert refusal(completion(prompt=["a"] * 3), few).param == "prompt"
    assert bound(embedding(input=["a"] * 3), few).n == 1
    assert refusal(embedding(input=["a"] * 4), few).param == "input"
    assert bound(completion(prompt=["a"] * 2), few).n == 2


def test_a_prompt_that_cannot_fit_is_refused(
    chat: Make, completion: Make, embedding: Make, limits: ModelLimits
) -> None:
    small = replace(limits, context_tokens=100, max_completion_tokens=50)
    text = "x" * (100 * LONGEST_TOKEN_BYTES)
    for request, param in (
        (completion(prompt=text + "x" * LONGEST_TOKEN_BYTES), "prompt"),
        (completion(prompt=[1] * 101), "prompt"),
        (embedding(input=[[1], [1] * 101]), "input"),
        (chat(messages=[{"role": "user", "content": text + "x" * 124}]), "messages"),
    ):
        error = refusal(request, small)
        assert (error.code, error.param) == ("context_length_exceeded", param)
    assert bound(completion(prompt=text), small).prompt_tokens_max == 100


def test_a_prompt_that_would_be_cut_is_refused(completion: Make, limits: ModelLimits) -> None:
    small = replace(limits, context_tokens=100, max_completion_tokens=50)
    fits, too_long = completion(prompt="x" * 403), completion(prompt="x" * 404)
    assert bound(too_long, small).prompt_tokens_max == 100
    cuts = replace(small, cuts_prompts=True)
    assert bound(fits, cuts).prompt_tokens_max == 100
    assert refusal(too_long, cuts).code == "context_length_exceeded"
    # A count is better than a guess.
    assert bound(too_long, cuts, prompt_tokens_exact=60).completion_tokens_max == 40


def test_embeddings_have_no_completion(embedding: Make, limits: ModelLimits) -> None:
    request = embedding(input=[[1, 2, 3], [4]])
    assert bound(request, limits) == Bound(
        prompt_tokens_max=4 + 2 * SEQUENCE_OVERHEAD_TOKENS, completion_tokens_max=0, n=1
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_tokens": 0},
        {"context_tokens": 2**27},
        {"max_completion_tokens": 0},
        {"max_completion_tokens": 8193},
        {"default_completion_tokens": 0},
        {"template_overhead_tokens": -1},
        {"message_overhead_tokens": 2**21},
        {"entry_overhead_tokens": -1},
        {"image_tokens": -1},
        {"audio_tokens": 2**21},
        {"max_n": 0},
        {"max_n": 129},
        {"max_prompts": 0},
        {"max_prompts": 16_385},
        {"max_inputs": 0},
    ],
)
def test_limits_no_model_has(limits: ModelLimits, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is"):
        replace(limits, **wrong)


@pytest.mark.parametrize("wrong", [(-1, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_bounds_no_request_has(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="bound"):
        Bound(prompt_tokens_max=wrong[0], completion_tokens_max=wrong[1], n=wrong[2])
