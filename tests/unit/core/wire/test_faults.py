import json

import pytest

from infern.core.wire.faults import (
    MAX_SHOWN_CHARS,
    NO_REASON,
    Blame,
    UpstreamFault,
    fault_of,
    is_too_long,
    judge,
    read_fault,
    told,
)


@pytest.mark.parametrize(
    ("body", "message", "code", "kind"),
    [
        ({"error": {"message": "m", "code": 500, "type": "t"}}, "m", "500", "t"),
        ({"error": {"message": "m", "type": "t"}}, "m", "", "t"),
        ({"error": "plain"}, "plain", "", ""),
        ({"error": "plain", "error_type": "validation"}, "plain", "", "validation"),
        ({"object": "error", "message": "m", "code": 40303}, "m", "40303", ""),
        ({"error": {}}, "", "", ""),
        ({"error": {"message": ["m"], "code": {}}}, "", "", ""),
        ({"error": {"message": "a\nb\x00" + "x" * 500}}, "a?b?" + "x" * 296, "", ""),
    ],
)
def test_errors_of_every_dialect(
    body: dict[str, object], message: str, code: str, kind: str
) -> None:
    fault = read_fault(body)  # type: ignore[arg-type] # literal
    assert fault == UpstreamFault(message=message, code=code, kind=kind)


def test_no_error() -> None:
    assert read_fault({"error": None, "object": "chat.completion"}) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"x"}', "x"),
        (b'{"detail":"x"}', "x"),
        (b'{"message":"x"}', "x"),
        (b'{"detail":[{"msg":"x"}],"message":"y"}', "y"),
        (b'{"detail":[{"msg":"x"}]}', NO_REASON),
        (b"{}", NO_REASON),
        (b"", NO_REASON),
        (b"<html>", NO_REASON),
        (b"\xff", NO_REASON),
    ],
)
def test_whatever_stands_in_a_body_is_an_error(body: bytes, message: str) -> None:
    assert fault_of(body).message == message


TOO_LONG = "the request exceeds the available context size"


@pytest.mark.parametrize(
    ("status", "fault", "blame"),
    [
        (429, {"message": TOO_LONG}, Blame.BUSY),
        (503, {"message": "Loading model"}, Blame.BUSY),
        (413, {"message": TOO_LONG}, Blame.TOO_LARGE),
        (400, {"message": TOO_LONG}, Blame.TOO_LONG),
        (422, {"message": TOO_LONG}, Blame.TOO_LONG),
        (500, {"message": TOO_LONG}, Blame.SERVER),
        (500, {"message": "x", "kind": "exceed_context_size_error"}, Blame.TOO_LONG),
        (400, {"message": "x", "code": "context_length_exceeded"}, Blame.TOO_LONG),
        (400, {"message": "temperature must be positive"}, Blame.REQUEST),
        (422, {"message": "bad tool"}, Blame.REQUEST),
        (400, {"message": "x", "code": "model_not_found"}, Blame.SERVER),
        (400, {"message": 'The model "x" does not exist'}, Blame.SERVER),
        (400, {"message": "No models loaded."}, Blame.SERVER),
        (400, {"message": "x does not support tools"}, Blame.REQUEST),
        (400, {"message": "x does not support chat"}, Blame.SERVER),
        (400, {"message": "the model was told of a file. It was not found"}, Blame.REQUEST),
        (401, {"message": "no"}, Blame.SERVER),
        (404, {"message": "no"}, Blame.SERVER),
        (302, {"message": ""}, Blame.SERVER),
        (500, {"message": "CUDA"}, Blame.SERVER),
    ],
)
def test_whose_fault_it_is(status: int, fault: dict[str, str], blame: Blame) -> None:
    assert judge(status, UpstreamFault(**fault)) is blame


@pytest.mark.parametrize(
    "message",
    ["the context was lost", "max_tokens must be at least 1, got 0", "too long a name", ""],
)
def test_what_only_sounds_like_too_long(message: str) -> None:
    assert not is_too_long(UpstreamFault(message=message))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("see http://op.example:8000/x?y=z, please", "see […] please"),
        ("see (https://op.example/x)", "see ([…])"),
        ("registry.ollama.ai/library/x:7b is away", "[…] is away"),
        ("no file /srv/models/a.gguf.", "no file […]"),
        ("no file ~/models/a", "no file […]"),
        ("no file '/a b'", "no file '[…] b'"),
        ("in ggml/src/ggml.c:12", "in […]:12"),
        ("in ./x/y.py", "in […]"),
        (r"in C:\Users\op\x.gguf", "in […]"),
        (r"in \\box\share", "in […]"),
        ("at 10.0.0.7:8000", "at […]"),
        ("at [fe80::1]:80", "at […]"),
        ("at localhost:8000 or box.lan", "at […] or […]"),
        ("at gpu1.example:8000", "at […]"),
        ("a\x1b[31mb\nc", "a?[31mb?c"),
        ("", NO_REASON),
        ("   ", NO_REASON),
    ],
)
def test_places_of_the_operator_are_not_told(message: str, shown: str) -> None:
    assert told(message, renamed={}) == shown


@pytest.mark.parametrize(
    "message",
    [
        "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)",
        "Field 'n': Value must be between 1 <= value <= 2, but got 3",
        "[json.exception.type_error.302] type must be number, but is string",
        "messages[0].content and/or tools: 1/2 of them, 3 > 2 - 1",
        "Value error at line 1, column 2: a < b/c",
    ],
)
def test_reasons_stay_as_they_are(message: str) -> None:
    assert told(message, renamed={}) == message


def test_names_of_the_operator_are_told_as_consumers_know_them() -> None:
    renamed = {"llama3.2:latest": "small", "": "never"}
    assert told("model 'llama3.2:latest' is", renamed=renamed) == "model 'small' is"
    assert told("my-llama3.2:latest", renamed=renamed) == "my-small"
    assert told("xllama3.2:latest3", renamed=renamed) == "xllama3.2:latest3"
    assert told("m is m", renamed={"m": "m"}) == "m is m"


def test_what_is_told_has_an_end() -> None:
    assert len(told("é" * 10_000, renamed={"é" * 10: "x" * 10_000})) <= MAX_SHOWN_CHARS


@pytest.mark.parametrize(
    "message",
    [
        "[{'type': 'extra_forbidden', 'loc': ('body', 'foo'), 'input': 'my PIN is 4711'}]",
        '[{"type": "missing", "input": {"messages": [{"content": "my PIN is 4711"}]}}]',
        "1 validation error for Chat [type=string_type, input_value='my PIN is 4711', input_typ",
        "x" * 280 + "'input': 'my PIN is 4711'",
    ],
)
def test_abuse_29_a_request_that_is_repeated_in_an_error_goes_no_further(message: str) -> None:
    fault = fault_of(json.dumps({"object": "error", "message": message}).encode())
    assert "PIN" not in fault.message
    assert fault.message[:10] == message[:10]


def test_words_about_input_stay() -> None:
    message = "your request has 5123 input tokens: input is too long (parameter=input_tokens)"
    assert fault_of(json.dumps({"error": {"message": message}}).encode()).message == message
