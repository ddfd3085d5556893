import json
from collections.abc import Callable

import pytest

from infern.core.errors import InfernError, Money
from infern.core.wire.endpoints import Endpoint, InferenceRequest, parse_request

Make = Callable[..., InferenceRequest]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def refusal(make: Make, **members: object) -> InfernError:
    with pytest.raises(InfernError) as caught:
        make(**members)
    assert caught.value.money is Money.UNMOVED
    assert caught.value.status == 400
    return caught.value


def test_paths() -> None:
    assert Endpoint.from_path("/v1/chat/completions") is Endpoint.CHAT_COMPLETIONS
    assert Endpoint.from_path("/v1/chat/completions/") is None
    assert Endpoint.from_path("/v1/models") is None
    assert [e.upstream_path for e in Endpoint] == [
        "/chat/completions",
        "/completions",
        "/embeddings",
    ]
    assert Endpoint.EMBEDDINGS.path == "/v1/embeddings"


def test_reads_a_chat_request() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hé"}],
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "stop": ["\n\n", "END…"],
        "provider": {"order": ["a"]},
        "user": "alice",
    }
    request = parse_request(Endpoint.CHAT_COMPLETIONS, json.dumps(body).encode())
    assert request.model == "m"
    assert request.stream
    assert request.include_usage_asked
    assert request.completion_tokens_asked == 64
    assert request.n == request.choices == 1
    assert request.longest_stop_bytes == len("END…".encode())
    assert request.is_verifiable
    assert list(request.body) == ["messages", "temperature", "stop"]
    assert request.routing == {"provider": {"order": ["a"]}}
    assert request.prompts[0].messages == 2
    assert request.prompt_bytes_bound >= len("systemsuserhé".encode())


def test_repr_does_not_show_the_prompt(chat: Make) -> None:
    assert "secret" not in repr(chat(messages=[{"role": "user", "content": "secret"}]))


def test_null_is_the_same_as_absent(chat: Make) -> None:
    request = chat(stop=None, n=None, max_tokens=None, echo=None, audio=None, made_up=None)
    assert list(request.body) == ["messages"]
    assert request.completion_tokens_asked is None


@pytest.mark.parametrize("model", [None, "", 1, True, ["m"], "a\nb", "a\u202eb", "x" * 257])
def test_refuses_models_that_are_no_names(chat: Make, model: object) -> None:
    assert refusal(chat, model=model).param == "model"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.0, 64.5, True, "64", [64], {}])
def test_refuses_limits_that_are_no_counts(chat: Make, name: str, value: object) -> None:
    error = refusal(chat, **{name: value})
    assert (error.code, error.param) == ("invalid_request", name)


def test_two_limits_must_agree(chat: Make) -> None:
    assert chat(max_tokens=5, max_completion_tokens=5).completion_tokens_asked == 5
    for old, new in ((5, 6), (6, 5)):
        error = refusal(chat, max_tokens=old, max_completion_tokens=new)
        assert (error.code, error.param) == ("invalid_request", "max_tokens")


def test_completions_know_only_the_old_limit(completion: Make) -> None:
    assert completion(max_tokens=5).completion_tokens_asked == 5
    assert refusal(completion, max_completion_tokens=5).code == "unpriceable_request"


def test_duplicate_limits_are_refused() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":1,"max_tokens":9}'
    with pytest.raises(InfernError, match="twice"):
        parse_request(Endpoint.CHAT_COMPLETIONS, body)


@pytest.mark.parametrize("value", [0, -1, 129, 1.0, True, "2"])
def test_refuses_choices_that_are_no_counts(chat: Make, value: object) -> None:
    assert refusal(chat, n=value).param == "n"


def test_best_of_must_be_what_is_delivered(completion: Make) -> None:
    assert completion(best_of=1).choices == 1
    assert completion(best_of=3, n=3).choices == 3
    error = refusal(completion, best_of=3)
    assert (error.code, error.param) == ("unpriceable_request", "best_of")


def test_each_prompt_of_a_list_has_choices_of_its_own(completion: Make) -> None:
    assert completion(prompt=["a", "b", "c"], n=2).choices == 6


def test_usage_is_asked_only_of_streams(chat: Make) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert not chat(stream_options=options).include_usage_asked
    request = chat(stream=True, stream_options=options)
    assert request.include_usage_asked
    assert "stream_options" not in request.body
    assert not chat(stream=True, stream_options={"include_usage": False}).include_usage_asked
    assert refusal(chat, stream=True, stream_options=[]).param == "stream_options"
    assert refusal(chat, stream=True, stream_options={"include_usage": 1}).code == "invalid_request"


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_stream_is_true_or_false(chat: Make, value: object) -> None:
    assert refusal(chat, stream=value).param == "stream"


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        ("hey", [3]),
        (["a", "bc"], [1, 2]),
        ("", [0]),
        ([1, 2, 3], [3]),
        ([[1, 2], [3]], [2, 1]),
    ],
)
def test_prompts_and_inputs(
    completion: Make, embedding: Make, value: object, sizes: list[int]
) -> None:
    for request in (completion(prompt=value), embedding(input=value)):
        assert [p.text_bytes + p.token_ids for p in request.prompts] == sizes
        assert request.prompt_bytes_bound == sum(sizes)


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], [[]], 5, True, {}, [True], [1, "a"], ["a", 1], ["a", [1]], [[1], "a"]),
        *([[1], [True]], [-1], [2**31], [1.0], [[1], []], [["a"]], [None]),
    ],
)
def test_refuses_prompts_of_no_kind(completion: Make, embedding: Make, value: object) -> None:
    assert refusal(completion, prompt=value).param == "prompt"
    assert refusal(embedding, input=value).param == "input"


def test_refuses_more_prompts_than_any_server_takes(completion: Make) -> None:
    assert refusal(completion, prompt=["a"] * 16_385).param == "prompt"


def test_a_suffix_is_read_with_every_prompt(completion: Make) -> None:
    assert completion(prompt=["a", "b"], suffix="xyz").prompt_bytes_bound == 8
    assert refusal(completion, suffix=["x"]).param == "suffix"


@pytest.mark.parametrize(
    "messages", [None, [], {}, "hi", ["hi"], [{}], [{"role": "user"}, None], [{"content": "x"}]]
)
def test_refuses_what_are_no_messages(chat: Make, messages: object) -> None:
    assert (refusal(chat, messages=messages).param or "").startswith("messages")


@pytest.mark.parametrize("role", ["root", "", None, 1, "User", ["user"]])
def test_refuses_unknown_roles(chat: Make, role: object) -> None:
    error = refusal(chat, messages=[{"role": role, "content": "x"}])
    assert error.param == "messages[0].role"


@pytest.mark.parametrize("content", [1, True, {}, [1], [None], [[]], [{"type": "text"}]])
def test_refuses_contents_of_no_kind(chat: Make, content: object) -> None:
    error = refusal(chat, messages=[{"role": "user", "content": content}])
    assert (error.param or "").startswith("messages[0].content")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
        {"type": "text", "text": "x", "repeat": 100},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "max_pixels": 9}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}, "uuid": "x"},
        {"type": "thinking", "thinking": "x"},
        {"text": "x"},
    ],
)
def test_refuses_parts_without_a_price(chat: Make, part: object) -> None:
    error = refusal(chat, messages=[{"role": "user", "content": [part]}])
    assert error.code == "unpriceable_request"
    assert (error.param or "").startswith("messages[0].content[0]")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "data:image/png;base64,AA"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "huge"}},
        {"type": "input_audio", "input_audio": {"data": 1, "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "flac"}},
        {"type": "input_audio"},
        {"type": "text", "text": ["x"]},
    ],
)
def test_refuses_parts_of_the_wrong_shape(chat: Make, part: object) -> None:
    refusal(chat, messages=[{"role": "user", "content": [part]}])


def test_counts_parts(chat: Make) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    text = {"type": "text", "text": "abc", "cache_control": {"type": "ephemeral"}}
    request = chat(messages=[{"role": "user", "content": [text, IMAGE, audio, IMAGE]}])
    size = request.prompts[0]
    assert (size.images, size.audios) == (2, 1)
    assert size.text_bytes == len("user" + "abc")
    assert "cache_control" not in json.dumps(request.body["messages"])


def test_an_answer_can_be_sent_back_as_history(chat: Make) -> None:
    answer = {
        "role": "assistant",
        "content": "text",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": "thought",
        "tool_calls": [
            {
                "id": "call_1",
                "index": 0,
                "type": "function",
                "function": {"name": "f", "arguments": '{"a": 1}'},
            }
        ],
    }
    result = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
    request = chat(messages=[answer, result])
    kept = request.body["messages"]
    assert isinstance(kept, list)
    assert isinstance(kept[0], dict)
    assert set(kept[0]) == {"role", "content", "reasoning_content", "tool_calls"}
    assert "index" not in json.dumps(kept)
    assert request.prompts[0].text_bytes >= len('assistanttextthoughtcall_1f{"a": 1}toolcall_142')


def test_names_and_ids_of_calls_count(chat: Make) -> None:
    call = {"id": "i" * 100, "function": {"name": "n" * 1000, "arguments": ""}}
    request = chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert request.prompts[0].text_bytes >= 1100


@pytest.mark.parametrize("value", [[1] * 500, ["é"] * 500, [1e20] * 50, ["<'&>"] * 100])
def test_arguments_count_as_any_template_dumps_them(chat: Make, value: list[object]) -> None:
    compact = json.dumps({"a": value}, ensure_ascii=False, separators=(",", ":"))
    call = {"type": "function", "function": {"name": "f", "arguments": compact}}
    request = chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    dumped = json.dumps({"a": value}).replace("1e+20", "100000000000000000000")
    for character in "<>&'":
        dumped = dumped.replace(character, f"\\u{ord(character):04x}")
    assert request.prompts[0].text_bytes >= len(dumped)
    assert request.prompts[0].entries >= 2


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("audio", {"id": "a"}),
        ("function_call", {"name": "f", "arguments": "{}"}),
        ("prefix", True),
        ("partial", True),
    ],
)
def test_refuses_message_members_nobody_counted(chat: Make, member: str, value: object) -> None:
    error = refusal(chat, messages=[{"role": "assistant", "content": "x", member: value}])
    assert (error.code, error.param) == ("unpriceable_request", f"messages[0].{member}")


@pytest.mark.parametrize(
    "calls",
    [
        "x",
        [1],
        [{"type": "function"}],
        [{"type": "custom", "custom": {"name": "f", "input": "x"}}],
        [{"function": {"name": "f", "arguments": {"a": 1}}}],
        [{"function": {"name": 1, "arguments": "{}"}}],
        [{"function": {"name": "f", "arguments": "{}", "result": "x"}}],
        [{"function": {"name": "f", "arguments": "{}"}, "extra": "x"}],
    ],
)
def test_refuses_odd_tool_calls(chat: Make, calls: object) -> None:
    error = refusal(chat, messages=[{"role": "assistant", "tool_calls": calls}])
    assert (error.param or "").startswith("messages[0].tool_calls")


@pytest.mark.parametrize(
    "tool",
    [
        1,
        {},
        {"type": "web_search"},
        {"type": "mcp", "server_url": "http://x"},
        {"type": "custom", "custom": {"name": "f"}},
        {"type": "function"},
        {"type": "function", "function": {"description": "no name"}},
        {"type": "function", "function": {"name": "f", "code": "x"}},
        {"type": "function", "function": {"name": "f"}, "x": 1},
    ],
)
def test_refuses_tools_that_are_no_functions(chat: Make, tool: object) -> None:
    assert (refusal(chat, tools=[tool]).param or "").startswith("tools[0]")


def test_refuses_more_tools_than_any_model_reads(chat: Make) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert refusal(chat, tools=[tool] * 1025).param == "tools"
    assert refusal(chat, tools="f").param == "tools"


def test_one_function_can_be_chosen(chat: Make) -> None:
    choice = {"type": "function", "function": {"name": "f" * 50}, "extra": None}
    request = chat(tool_choice=choice)
    assert request.body["tool_choice"] == {"type": "function", "function": {"name": "f" * 50}}
    assert request.prompt_bytes_bound >= chat().prompt_bytes_bound + 50


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_tool_choice_words(chat: Make, choice: str) -> None:
    assert chat(tool_choice=choice).body["tool_choice"] == choice


@pytest.mark.parametrize(
    "choice",
    [
        *("any", 1, [], {}, {"type": "allowed_tools"}),
        {"type": "function", "function": {"name": 1}},
        {"type": "function", "function": {"name": "f", "x": 1}},
    ],
)
def test_refuses_other_tool_choices(chat: Make, choice: object) -> None:
    assert (refusal(chat, tool_choice=choice).param or "").startswith("tool_choice")


@pytest.mark.parametrize(
    "wanted",
    [
        "json",
        {},
        {"type": "grammar", "grammar": "root ::= x"},
        {"type": "structural_tag"},
        {"type": "json_object", "strategy": "x"},
        {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 70_000]}}},
    ],
)
def test_refuses_other_response_formats(chat: Make, wanted: object) -> None:
    assert (refusal(chat, response_format=wanted).param or "").startswith("response_format")


def _wide(properties: int) -> dict[str, object]:
    """A schema that costs a grammar compiler the more, the more may be left out."""
    inner = {"type": "object", "properties": {f"p{n}": {} for n in range(properties)}}
    return {"type": "object", "anyOf": [{"items": inner}]}


def test_abuse_a_schema_bomb_is_refused_wherever_it_stands(chat: Make) -> None:
    formatted = {"type": "json_schema", "json_schema": {"name": "n", "schema": _wide(257)}}
    assert refusal(chat, response_format=formatted).param == "response_format"
    tool = {"type": "function", "function": {"name": "f", "parameters": _wide(257)}}
    assert refusal(chat, tools=[tool]).param == "tools[0].function.parameters"
    large = {"type": "function", "function": {"name": "f", "parameters": {"enum": ["x" * 70_000]}}}
    assert refusal(chat, tools=[large]).param == "tools[0].function.parameters"
    assert chat(tools=[{"type": "function", "function": {"name": "f", "parameters": _wide(256)}}])


def test_a_schema_counts_as_prompt(chat: Make) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    more = chat(response_format=schema).prompt_bytes_bound - chat().prompt_bytes_bound
    assert more >= len(json.dumps(schema))


@pytest.mark.parametrize(
    ("member", "value"), [("logit_bias", {"50256": 100}), ("ignore_eos", True), ("min_tokens", 5)]
)
def test_requests_that_can_make_tokens_without_bytes_are_marked(
    chat: Make, member: str, value: object
) -> None:
    assert not chat(**{member: value}).is_verifiable
    assert chat(**{member: type(value)()}).is_verifiable


def test_embeddings_have_no_choices(embedding: Make) -> None:
    request = embedding(input=["a", "b"], encoding_format="base64", dimensions=256, user="x")
    assert request.choices == 0
    assert list(request.body) == ["input", "encoding_format", "dimensions"]
    assert not request.stream
    assert refusal(embedding, stream=True).param == "stream"
    assert refusal(embedding, max_tokens=1).param == "max_tokens"
