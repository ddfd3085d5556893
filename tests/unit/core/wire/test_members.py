from collections.abc import Callable

import pytest

from infern.core.errors import InfernError
from infern.core.wire.endpoints import InferenceRequest
from infern.core.wire.members import (
    CHAT_MEMBERS,
    COMPLETIONS_MEMBERS,
    EMBEDDINGS_MEMBERS,
    MESSAGE_MEMBERS,
    Verdict,
)

Make = Callable[..., InferenceRequest]
ALLOWED = {
    "temperature": 0.7,
    "top_p": 1,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": -2,
    "frequency_penalty": 2.0,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "seed": -1,
    "stop": "x",
    "logit_bias": {"1": -100, "2": 0.5},
    "ignore_eos": True,
    "min_tokens": 3,
    "logprobs": True,
    "top_logprobs": 20,
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": False},
    "tool_choice": "auto",
}
DROPPED = {
    "user": "alice",
    "metadata": {"a": "b"},
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "service_tier": "flex",
    "store": True,
    "usage": {"include": True},
    "cache_prompt": True,
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x" * 1000},
    "provider": {"order": ["x"]},
    "models": ["a", "b"],
    "modalities": ["text"],
    "echo": False,
    "function_call": "auto",
    "include_reasoning": True,
    "skip_special_tokens": True,
}
REFUSED = {
    "echo": True,
    "n_predict": 100_000,
    "max_new_tokens": 100_000,
    "num_predict": 100_000,
    "options": {"num_predict": 100_000},
    "max_output_tokens": 5,
    "prompt_logprobs": 5,
    "logits_processors": ["x"],
    "include_reasoning": False,
    "skip_special_tokens": False,
    "grammar": "root ::= x",
    "guided_regex": "(a+)+",
    "structured_outputs": {"regex": "x"},
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": True, "system": "x"},
    "documents": [{"text": "x"}],
    "add_generation_prompt": False,
    "continue_final_message": True,
    "mm_processor_kwargs": {"max_pixels": 10**9},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x", "format": "wav"},
    "web_search_options": {},
    "plugins": [{"id": "web"}],
    "transforms": ["middle-out"],
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "reasoning": {"max_tokens": 5},
    "thinking": {"type": "enabled"},
    "best_of": 5,
    "use_beam_search": True,
    "id_slot": 0,
    "cache_salt": "x",
    "priority": -1,
    "made_up_tomorrow": 1,
    "": 1,
    "Max_Tokens": 5,
}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_served_members_go_on_as_they_came(chat: Make, name: str) -> None:
    assert chat(**{name: ALLOWED[name]}).body[name] == ALLOWED[name]


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_dropped_members_go_nowhere(chat: Make, name: str) -> None:
    request = chat(**{name: DROPPED[name]})
    assert list(request.body) == ["messages"]
    assert request.prompt_bytes_bound == chat().prompt_bytes_bound


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_members_without_a_price_are_refused_by_name(chat: Make, name: str) -> None:
    with pytest.raises(InfernError) as caught:
        chat(**{name: REFUSED[name]})
    expected = "invalid_request" if name == "chat_template_kwargs" else "unpriceable_request"
    assert caught.value.code == expected
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", True),
        ("temperature", "hot"),
        ("temperature", {"a": 1}),
        ("top_k", 1.5),
        ("seed", "1"),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stop", "x" * 1025),
        ("stop", [1]),
        ("stop", {"a": 1}),
        ("logit_bias", []),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": True}),
        ("logit_bias", {"1": "100"}),
        ("logit_bias", {"\u0661": 1}),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("top_logprobs", True),
        ("ignore_eos", 1),
        ("min_tokens", -1),
        ("parallel_tool_calls", "yes"),
        ("reasoning_effort", "HIGH"),
        ("reasoning_effort", "x" * 33),
        ("reasoning_effort", {}),
        ("chat_template_kwargs", []),
        ("chat_template_kwargs", {"thinking": "x" * 1000}),
    ],
)
def test_served_members_have_a_shape(chat: Make, name: str, value: object) -> None:
    with pytest.raises(InfernError) as caught:
        chat(**{name: value})
    assert (caught.value.code, caught.value.param) == ("invalid_request", name)


def test_zero_is_not_false() -> None:
    # Python says 0 == False; a table that compared so would let one pass for the other.
    rule = CHAT_MEMBERS["echo"]
    assert rule.same_as_absent == (False,)
    assert CHAT_MEMBERS["priority"].same_as_absent == (0,)


def test_off_values_are_compared_with_their_type(chat: Make) -> None:
    with pytest.raises(InfernError):
        chat(echo=0)
    with pytest.raises(InfernError):
        chat(priority=False)


def test_completions_logprobs_are_a_count(completion: Make) -> None:
    assert completion(logprobs=5).body["logprobs"] == 5
    with pytest.raises(InfernError):
        completion(logprobs=True)


def test_messages_name_members_harmlessly(chat: Make) -> None:
    with pytest.raises(InfernError) as caught:
        chat(**{"\u202e\n" + "x" * 500: 1})
    assert caught.value.param is not None
    assert len(caught.value.param) < 200
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "rules", [CHAT_MEMBERS, COMPLETIONS_MEMBERS, EMBEDDINGS_MEMBERS, MESSAGE_MEMBERS]
)
def test_every_rule_says_why(rules: dict[str, object]) -> None:
    for name, rule in rules.items():
        assert name.isascii()
        assert rule.why  # type: ignore[attr-defined] # a MemberRule
        if rule.check is not None:  # type: ignore[attr-defined] # a MemberRule
            assert rule.shape  # type: ignore[attr-defined] # a MemberRule
            assert rule.verdict is Verdict.ALLOW  # type: ignore[attr-defined] # a MemberRule
