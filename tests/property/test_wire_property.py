import contextlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infern.core.errors import InfernError, RemoteProtocolError
from infern.core.wire.bounds import Bound, ModelLimits, bound
from infern.core.wire.endpoints import Endpoint, parse_request
from infern.core.wire.jcs import canonicalize
from infern.core.wire.members import CHAT_MEMBERS
from infern.core.wire.rewrite import to_upstream
from infern.core.wire.sse import EventKind, SseMeter
from infern.core.wire.sse_parser import SseBlock, SseParser
from infern.core.wire.strict_json import dumps, loads_object
from infern.core.wire.usage import Counted, Usage, UsageSource, charge_usage

LIMITS = ModelLimits(context_tokens=2**20, max_completion_tokens=4096, max_n=8)
BARE = replace(
    LIMITS, template_overhead_tokens=0, message_overhead_tokens=0, entry_overhead_tokens=0
)
"""Without the listing's figures: what is left is the bound of the consumer's own text."""
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ODD_TEXT = st.one_of(
    TEXT,
    st.sampled_from(
        [
            "\n\ndata: [DONE]\n\n",
            "\r\n: f402-receipt x\r\n",
            '"usage":{"prompt_tokens":0}',
            "\u0958\ufdfa\u1d160",
            "é\u0325",
            "<a href='&'>",
            "\\u003c",
            '{"a":[1,1e15,"b"]}',
            "[DONE]",
        ]
    ),
)
INTS = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=12,
    )


SCALARS = st.none() | st.booleans() | INTS | TEXT
JSON_OBJECTS = st.dictionaries(TEXT, values(SCALARS | FLOATS), max_size=5)
EXACT_OBJECTS = st.dictionaries(TEXT, values(SCALARS), max_size=5)


# --- strict JSON


@settings(deadline=None)
@given(JSON_OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_reads_like_json_loads(value: dict[str, Any], ascii_only: bool, indent: Any) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert loads_object(body) == json.loads(body) == value
    assert loads_object(dumps(value)) == value


def read_or_refused(body: bytes, max_depth: int = 64) -> dict[str, Any] | None:
    try:
        return loads_object(body, max_depth=max_depth)
    except InfernError as error:
        if error.code != "invalid_request":
            raise
        return None


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    value = read_or_refused(body)
    assert value is None or value == json.loads(body)


@settings(deadline=None)
@given(JSON_OBJECTS, st.data())
def test_damaged_json_is_read_or_refused(value: dict[str, Any], data: st.DataObject) -> None:
    body = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        piece = data.draw(
            st.sampled_from([b"", b'"', b"\\", b"{", b"[", b"]", b"\xff", b",", b"9"])
        )
        body[at : at + 1] = piece or body[at : at + 2]
    read = read_or_refused(bytes(body))
    assert read is None or read == json.loads(bytes(body))


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b'":', b"1,"]), max_size=400))
def test_brackets_and_quotes_never_reach_the_stack(parts: list[bytes]) -> None:
    value = read_or_refused(b'{"a":' + b"".join(parts), max_depth=5)
    assert value is None or depth(value) <= 5


@settings(deadline=None)
@given(values(SCALARS), st.integers(1, 8))
def test_the_depth_limit_is_exact(value: Any, limit: int) -> None:
    body = json.dumps({"a": value, '"[{\\': "]}[["}).encode()
    if depth({"a": value}) <= limit:
        assert loads_object(body, max_depth=limit)["a"] == value
    else:
        with pytest.raises(RemoteProtocolError):
            loads_object(body, max_depth=limit)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


# --- canonical JSON


@settings(deadline=None)
@given(EXACT_OBJECTS)
def test_canonical_json_is_one_form_of_the_same_value(value: dict[str, Any]) -> None:
    canonical = canonicalize(value)
    assert json.loads(canonical) == value
    assert canonicalize(loads_object(canonical)) == canonical  # type: ignore[arg-type] # no floats
    shuffled = dict(sorted(value.items(), key=lambda item: item[0][::-1]))
    assert canonicalize(shuffled) == canonical


# --- bounds


MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": ODD_TEXT},
            optional={"name": TEXT, "reasoning_content": ODD_TEXT},
        ),
        st.fixed_dictionaries({"role": st.just("tool"), "content": ODD_TEXT, "tool_call_id": TEXT}),
        st.fixed_dictionaries(
            {
                "role": st.just("assistant"),
                "tool_calls": st.lists(
                    st.fixed_dictionaries(
                        {
                            "id": TEXT,
                            "type": st.just("function"),
                            "function": st.fixed_dictionaries(
                                {"name": TEXT, "arguments": JSON_OBJECTS.map(json.dumps) | ODD_TEXT}
                            ),
                        }
                    ),
                    max_size=3,
                ),
            }
        ),
    ),
    min_size=1,
    max_size=5,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": TEXT, "parameters": JSON_OBJECTS}, optional={"description": ODD_TEXT}
            ),
        }
    ),
    max_size=3,
)


def html_safe(value: Any) -> str:
    text = json.dumps(value)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


DUMPS: list[Callable[[Any], str]] = [
    json.dumps,
    html_safe,
    lambda value: json.dumps(value, ensure_ascii=False),
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    repr,
    lambda value: json.dumps(value).replace("e+20", "00000000000000000000"),
]
FORMS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFKC", text),
]


def consumers_part(body: dict[str, Any], dump: Callable[[Any], str]) -> str:
    """What of a prompt the consumer wrote, as a template with this way of dumping inserts it."""
    parts = [dump(body["tools"])] if body.get("tools") else []
    for message in body["messages"]:
        parts += [message["role"], message.get("name", ""), message.get("reasoning_content", "")]
        parts.append(message.get("tool_call_id", ""))
        content = message.get("content", "")
        parts.append(dump(content) if message["role"] == "tool" else content)
        for call in message.get("tool_calls", []):
            arguments = call["function"]["arguments"]
            with contextlib.suppress(ValueError):
                arguments = dump(json.loads(arguments))
            parts += [call["id"], call["function"]["name"], arguments]
    return "".join(parts)


@settings(max_examples=200, deadline=None)
@given(MESSAGES, TOOLS, st.sampled_from(DUMPS), st.sampled_from(FORMS))
def test_no_byte_level_tokenizer_exceeds_the_bound(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    dump: Callable[[Any], str],
    form: Callable[[str], str],
) -> None:
    body = {"model": "m", "messages": messages, "tools": tools}
    raw = json.dumps(body).encode()
    limit = bound(parse_request(Endpoint.CHAT_COMPLETIONS, raw), BARE).prompt_tokens_max
    # The worst tokenizer there is: one token per byte.
    assert limit >= len(form(consumers_part(json.loads(raw), dump)).encode())


@settings(deadline=None)
@given(st.lists(ODD_TEXT, min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 500))
def test_completions_bounds_cover_every_prompt_and_choice(
    prompts: list[str], n: int, max_tokens: int
) -> None:
    body = {"model": "m", "prompt": prompts, "n": n, "max_tokens": max_tokens}
    request = parse_request(Endpoint.COMPLETIONS, json.dumps(body).encode())
    limit = bound(request, LIMITS)
    assert limit.prompt_tokens_max >= sum(len(prompt.encode()) for prompt in prompts)
    assert limit.all_completion_tokens_max == n * max_tokens * len(prompts)


REFUSALS = {"invalid_request", "unpriceable_request", "context_length_exceeded"}
NAMED = st.dictionaries(
    st.sampled_from([*CHAT_MEMBERS, "made_up"]).filter(lambda name: name != "model"),
    values(SCALARS | FLOATS),
    max_size=4,
)


@settings(deadline=None)
@given(JSON_OBJECTS | NAMED)
def test_any_object_is_priced_whole_or_refused(members: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **members}
    try:
        request = parse_request(Endpoint.CHAT_COMPLETIONS, json.dumps(body).encode())
        limit = bound(request, LIMITS)
    except InfernError as error:
        if error.code not in REFUSALS:
            raise
        return
    sent = json.loads(to_upstream(request, limit, upstream_model="u"))
    assert sent["max_tokens"] == limit.completion_tokens_max


# --- usage

COUNTS = st.integers(0, 10**7)
REPORTS = st.none() | st.builds(
    Usage, prompt_tokens=COUNTS, completion_tokens=COUNTS, source=st.just(UsageSource.UPSTREAM)
)
COUNTED = st.builds(
    Counted,
    deltas=COUNTS,
    content_bytes=COUNTS,
    is_delivered=st.booleans(),
    is_complete=st.booleans(),
    unseen_tokens_max=st.none() | st.integers(0, 500),
    prompt_tokens_estimate=COUNTS,
    prompt_tokens_early=st.none() | COUNTS,
    completion_tokens_early=COUNTS,
    prompt_tokens_least=st.just(0) | COUNTS,
)
BOUNDS = st.builds(
    Bound,
    prompt_tokens_max=st.integers(0, 10**6),
    completion_tokens_max=st.integers(0, 10**5),
    n=st.integers(1, 8),
)


@settings(deadline=None)
@given(REPORTS, COUNTED, BOUNDS)
def test_a_bill_is_never_above_bound_delivery_or_report(
    reported: Usage | None, counted: Counted, limit: Bound
) -> None:
    billed = charge_usage(reported, counted, limit)
    assert 0 <= billed.prompt_tokens <= limit.prompt_tokens_max
    assert 0 <= billed.completion_tokens <= limit.completion_tokens_max * limit.n
    if counted.unseen_tokens_max is not None:
        assert billed.completion_tokens <= counted.content_bytes + counted.unseen_tokens_max
    if not counted.is_delivered:
        assert billed.prompt_tokens == billed.completion_tokens == 0
    elif reported is not None:
        told = reported.prompt_tokens or max(
            counted.prompt_tokens_early or 0, counted.prompt_tokens_estimate
        )
        assert billed.prompt_tokens <= max(told, counted.prompt_tokens_least)
        if limit.n == 1 and reported.completion_tokens:
            assert billed.completion_tokens <= reported.completion_tokens
    differs = reported is None or (reported.prompt_tokens, reported.completion_tokens) != (
        billed.prompt_tokens,
        billed.completion_tokens,
    )
    assert bool(billed.flags) or not differs or not counted.is_complete


# --- server-sent events

LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.one_of(
    TEXT.map(lambda text: "data: " + " ".join(text.splitlines())),
    st.sampled_from(
        [
            *("data:x", "data", "data:", ": ping", ":", "event: error", "id: 7", "id", "retry: 5"),
            *("", "", "", "data: [DONE]", "nonsense", "error: x"),
        ]
    ),
)
STREAMS = st.lists(st.tuples(LINES, LINE_ENDS), max_size=14).map(
    lambda pairs: "".join(line + end for line, end in pairs).encode()
)


def reference(stream: bytes) -> list[bytes]:
    """Data of each event, read line by line as the standard says."""
    text = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found: list[bytes] = []
    data: list[str] = []
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        if name in ("data", "error"):
            data.append(value.removeprefix(" "))
        elif line == "" and data:
            found.append("\n".join(data).encode())
            data = []
    return found + (["\n".join(data).encode()] if data else [])


def parse_in(pieces: list[bytes]) -> list[SseBlock]:
    parser = SseParser()
    blocks = [block for piece in pieces for block in parser.feed(piece)]
    rest = parser.finish()
    return [*blocks, *([rest] if rest else [])]


def cut(stream: bytes, at: set[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@settings(deadline=None)
@given(STREAMS, st.data())
def test_splits_change_nothing(stream: bytes, data: st.DataObject) -> None:
    whole = parse_in([stream])
    assert b"".join(block.raw for block in whole) == stream
    assert [block.data for block in whole if block.data is not None] == reference(stream)
    at = data.draw(st.sets(st.integers(0, len(stream)), max_size=8))
    assert parse_in(cut(stream, at)) == whole
    assert parse_in([bytes([byte]) for byte in stream]) == whole
    for edge in range(len(stream)):
        assert parse_in(cut(stream, {edge})) == whole


REQUEST = parse_request(
    Endpoint.CHAT_COMPLETIONS,
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"n":2}',
)
BOUND = bound(REQUEST, LIMITS)
CHUNKS = st.tuples(
    st.sampled_from(["content", "reasoning_content", "reasoning", "refusal"]),
    ODD_TEXT | st.sampled_from(["a", " b", "支", ""]),
    st.integers(0, 1),
    st.sampled_from([None, None, None, "stop"]),
    st.booleans(),
)


def written(key: str, text: str, index: int, finish: str | None, ascii_only: bool) -> bytes:
    choice = {"index": index, "delta": {key: text}, "finish_reason": finish}
    body = json.dumps({"id": "c", "choices": [choice]}, ensure_ascii=ascii_only)
    return f"data: {body}\n\n".encode()


@settings(deadline=None)
@given(st.lists(CHUNKS, max_size=25), st.data())
def test_the_meter_counts_like_a_plain_reader(
    chunks: list[tuple[str, str, int, str | None, bool]], data: st.DataObject
) -> None:
    stream = b"".join(written(*chunk) for chunk in chunks) + b"data: [DONE]\n\n"
    meter = SseMeter(REQUEST, BOUND)
    at = data.draw(st.sets(st.integers(0, len(stream)), max_size=10))
    events = [event for piece in cut(stream, at) for event in meter.feed(piece)]
    assert meter.finish() == []
    for event in events:
        meter.mark_sent(event)
    assert b"".join(event.raw for event in events) == stream
    assert [event.content_bytes for event in events[:-1]] == [len(c[1].encode()) for c in chunks]
    counted = meter.counted()
    assert counted.content_bytes == sum(len(chunk[1].encode()) for chunk in chunks)
    assert counted.deltas == sum(1 for chunk in chunks if chunk[1])
    assert events[-1].kind is EventKind.DONE
    assert meter.usage is None
    assert meter.fault is None


PIECES = st.binary(max_size=30) | st.sampled_from(
    [written("content", "abc", 0, None, ascii_only=True), b"data: [DONE]\n\n"]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_no_stream_breaks_the_meter(pieces: list[bytes]) -> None:
    meter = SseMeter(REQUEST, BOUND)
    events = [event for piece in pieces for event in meter.feed(piece)] + meter.finish()
    for event in events:
        meter.mark_sent(event)
    billed = charge_usage(meter.usage, meter.counted(), BOUND)
    assert billed.completion_tokens <= sum(len(piece) for piece in pieces) + 64
