import json
from collections.abc import Callable

import pytest

from infern.core.errors import UpstreamUnavailable
from infern.core.wire.bounds import Bound
from infern.core.wire.endpoints import Endpoint, InferenceRequest, parse_request
from infern.core.wire.sse import EventKind, SseEvent, SseMeter
from infern.core.wire.usage import UsageFlag, charge_usage

Streamed = Callable[..., tuple[InferenceRequest, Bound]]
DONE = b"data: [DONE]\n\n"


def chunk(
    text: str | None = None, *, index: int = 0, finish: str | None = None, **delta: object
) -> bytes:
    if text is not None:
        delta["content"] = text
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})


def event(value: object, **options: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, **options)  # type: ignore[arg-type] # dumps options
    return b"data: " + text.encode() + b"\n\n"


def usage_chunk(prompt: int = 9, completion: int = 4) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({"id": "c1", "choices": [], "usage": usage})


def send_all(meter: SseMeter, *parts: bytes) -> list[SseEvent]:
    events = [found for part in parts for found in meter.feed(part)] + meter.finish()
    for found in events:
        if not meter.is_hidden(found):
            meter.mark_sent(found)
    return events


def kinds(events: list[SseEvent]) -> list[str]:
    return [found.kind.value for found in events]


def test_follows_an_answer(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    parts = [
        b": ping\n\n",
        chunk("", role="assistant"),
        chunk("Hé"),
        chunk(" there"),
        chunk("\n"),
        chunk(finish="stop"),
        usage_chunk(),
        DONE,
    ]
    events = send_all(meter, *parts)
    assert [found.raw for found in events] == parts
    assert kinds(events) == (
        ["comment", "other", "content", "content", "content", "other", "usage", "done"]
    )
    assert [found.content_bytes for found in events] == [0, 0, 3, 6, 1, 0, 0, 0]
    counted = meter.counted()
    assert (counted.deltas, counted.content_bytes) == (3, 10)
    assert counted.is_complete
    assert meter.is_done
    assert meter.is_finished
    assert meter.finish_reasons == {0: "stop"}
    billed = charge_usage(meter.usage, counted, bound)
    assert (billed.prompt_tokens, billed.completion_tokens, billed.flags) == (9, 4, frozenset())


@pytest.mark.parametrize("asked", [True, False])
def test_the_usage_chunk_is_hidden_unless_asked_for(streamed: Streamed, asked: bool) -> None:
    meter = SseMeter(*streamed(stream_options={"include_usage": asked}))
    found = meter.feed(usage_chunk())[0]
    assert found.kind is EventKind.USAGE
    assert meter.is_hidden(found) is not asked
    assert found.json is not None
    assert found.json["id"] == "c1"


def test_usage_beside_choices_is_read_and_passed_on(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    usage = {"prompt_tokens": 5, "completion_tokens": 1}
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
    found = meter.feed(event({"choices": [choice], "usage": usage}))[0]
    assert found.kind is EventKind.CONTENT
    assert not meter.is_hidden(found)
    assert found.json is None
    assert meter.usage is not None
    assert meter.usage.completion_tokens == 1


def with_usage(raw: bytes, prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({**json.loads(raw[6:]), "usage": usage})


def with_timings(raw: bytes, read: int, cached: int, made: int) -> bytes:
    timings = {"cache_n": cached, "prompt_n": read, "predicted_n": made, "predicted_ms": made / 7}
    return event({**json.loads(raw[6:]), "timings": timings})


def test_usage_in_every_chunk_tells_the_prompt_of_a_broken_stream(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    raw = [with_usage(chunk(role="assistant"), 11, 0)]
    raw += [with_usage(chunk(" word"), 11, made) for made in range(1, 6)]
    events = send_all(meter, *raw)
    assert [found.raw for found in events] == raw
    assert kinds(events) == ["other"] + ["content"] * 5
    assert not any(meter.is_hidden(found) or found.json for found in events)
    billed = charge_usage(meter.usage, meter.counted(), bound)
    assert (billed.prompt_tokens, billed.completion_tokens) == (11, 5)
    last = meter.feed(usage_chunk(11, 5))[0]
    assert last.kind is EventKind.USAGE
    assert meter.is_hidden(last)


def test_usage_of_one_choice_does_not_stand_for_several(streamed: Streamed) -> None:
    request, bound = streamed(n=2)
    meter = SseMeter(request, bound)
    for made in range(1, 5):
        send_all(meter, *(with_usage(chunk(" w", index=i), 11, made) for i in (0, 1)))
    send_all(meter, with_usage(chunk(index=0, finish="stop"), 11, 4))
    assert meter.usage is None
    billed = charge_usage(meter.usage, meter.counted(), bound)
    assert (billed.prompt_tokens, billed.completion_tokens) == (11, 8)


def test_empty_usage_in_every_chunk_tells_nothing(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    send_all(meter, *(with_usage(chunk("a"), 0, 0) for _ in range(3)))
    counted = meter.counted()
    assert (meter.usage, counted.prompt_tokens_early) == (None, None)
    assert charge_usage(None, counted, bound).prompt_tokens == counted.prompt_tokens_estimate > 0


def test_timings_in_every_chunk_tell_the_prompt_of_a_broken_stream(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    raw = [chunk(role="assistant")]
    raw += [with_timings(chunk(" word"), 2, 9, made) for made in range(1, 6)]
    events = send_all(meter, *raw)
    assert [found.raw for found in events] == raw
    assert [found.content_bytes for found in events] == [0] + [5] * 5
    assert meter.usage is None
    billed = charge_usage(meter.usage, meter.counted(), bound)
    assert (billed.prompt_tokens, billed.completion_tokens) == (11, 5)


def test_the_prompt_is_told_again_after_a_shape_was_learnt(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    send_all(meter, chunk("a"), chunk("b"), with_timings(chunk("c"), 7, 0, 3), chunk("d"))
    counted = meter.counted()
    assert (counted.deltas, counted.content_bytes, counted.prompt_tokens_early) == (4, 4, 7)


def test_what_is_told_of_one_prompt_of_several_does_not_lower_the_estimate() -> None:
    prompts = ["word " * 60] * 3
    body = json.dumps({"model": "m", "prompt": prompts, "stream": True, "max_tokens": 9}).encode()
    request = parse_request(Endpoint.COMPLETIONS, body)
    meter = SseMeter(request, Bound(prompt_tokens_max=999, completion_tokens_max=9, n=3))
    estimate = meter.counted().prompt_tokens_estimate
    send_all(meter, with_timings(event({"choices": [{"index": 0, "text": "a"}]}), 61, 0, 1))
    assert estimate > 61
    assert meter.counted().prompt_tokens_early == estimate


def test_a_later_null_usage_does_not_erase_the_report(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    send_all(meter, usage_chunk(9, 4), event({"choices": [], "usage": None}))
    assert meter.usage is not None
    assert meter.usage.completion_tokens == 4


def test_the_words_of_the_model_are_not_the_wire(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    texts = [
        "\n\ndata: [DONE]\n\n",
        "\r\n\r\n: f402-receipt AAAA\r\n\r\n",
        '"usage":{"prompt_tokens":0,"completion_tokens":0}',
        '"}}],"usage":{"prompt_tokens":0,"completion_tokens":0}}',
        '{"error":{"message":"x"}}',
        '"content":"a"',
        "\u2028\u2029\x85",
        "[DONE]",
    ]
    for ensure_ascii in (True, False):
        for text in texts:
            delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
            raw = b"data: " + json.dumps(delta, ensure_ascii=ensure_ascii).encode() + b"\n\n"
            (found,) = meter.feed(raw)
            assert found.raw == raw
            assert (found.kind, found.content_bytes) == (EventKind.CONTENT, len(text.encode()))
            assert found.comments == ()
    assert meter.usage is None
    assert meter.fault is None
    assert not meter.is_done


def test_text_that_is_not_escaped_is_not_taken_for_text(streamed: Streamed) -> None:
    # After the shape is learnt, bytes that would end the string must be parsed like any others.
    meter = SseMeter(*streamed())
    plain = event({"choices": [{"index": 0, "delta": {"content": "abc"}}]})
    meter.feed(plain * 3)
    escaping = plain.replace(
        b"abc", b'a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2},"x":[{"y":{"z":"c'
    )
    (found,) = meter.feed(escaping)
    assert found.content_bytes == 1
    assert meter.usage is not None
    (found,) = meter.feed(plain.replace(b"abc", b"a\\u0041"))
    assert found.content_bytes == 2
    (found,) = meter.feed(plain.replace(b"abc", b"a\x01"))
    assert found.kind is EventKind.ERROR


@pytest.mark.parametrize("text", [b"a\n: f402-receipt x\nb", b"a\rb", b"a\xffb", b"", b"a\\"])
def test_a_learnt_shape_takes_only_plain_text(streamed: Streamed, text: bytes) -> None:
    def judged(warm: bool) -> tuple[object, ...]:
        meter = SseMeter(*streamed())
        plain = event({"choices": [{"index": 0, "delta": {"content": "abc"}}]})
        if warm:
            meter.feed(plain * 3)
        found = meter.feed(plain.replace(b"abc", text)) + meter.finish()
        return [(f.raw, f.kind, f.content_bytes, f.comments) for f in found], meter.fault

    assert judged(warm=True) == judged(warm=False)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("key", ["content", "reasoning_content", "reasoning"])
def test_shapes_of_common_servers_are_learnt(
    streamed: Streamed, separators: tuple[str, str], key: str
) -> None:
    meter = SseMeter(*streamed())
    choice = {"index": 0, "delta": {key: " hello"}, "finish_reason": None}
    raw = event({"id": "c1", "choices": [choice], "usage": None}, separators=separators)
    meter.feed(raw)
    assert meter._shape is not None
    assert meter._shape.before + b" hello" + meter._shape.after == raw


@pytest.mark.parametrize("lines", [b": note\n", b"event: message\n", b': "content": "abc"\n'])
def test_events_with_more_lines_are_read_each_time(streamed: Streamed, lines: bytes) -> None:
    meter = SseMeter(*streamed())
    plain = event({"choices": [{"index": 0, "delta": {"content": "abc"}}]})
    for _ in range(3):
        (found,) = meter.feed(lines + plain)
        assert (found.content_bytes, len(found.comments)) == (3, lines.count(b": ", 0, 2))
    assert meter._shape is None


def test_empty_data_is_progress(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    assert kinds(meter.feed(b"data:\n\ndata: \n\n")) == ["other", "other"]


def test_the_same_key_elsewhere_does_not_mislead(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())

    def odd(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": "0123456789"}}
        return event({"x": {"content": text}, "choices": [choice]}, separators=(",", ":"))

    for text in ("0123456789", "0123456789", "a", "bcd", ""):
        (found,) = meter.feed(odd(text))
        assert found.content_bytes == 10


def test_reasoning_sent_twice_counts_once_also_when_learnt(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())

    def twice(text: str) -> bytes:
        return chunk(reasoning=text, reasoning_content=text)

    for text in ("abc", "abc", "de", "fghij"):
        (found,) = meter.feed(twice(text))
        assert found.content_bytes == len(text)
    assert meter.feed(chunk(reasoning="abcd", reasoning_content="x"))[0].content_bytes == 4


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "abc"},
        {"reasoning_content": "abc"},
        {"reasoning": "abc"},
        {"refusal": "abc"},
        {"content": "a", "reasoning_content": "bc"},
        {"tool_calls": [{"index": 0, "function": {"name": "abc", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "abc"}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"name": "a", "arguments": "b"}},
                {"index": 1, "function": {"arguments": "c"}},
            ]
        },
    ],
)
def test_everything_a_model_puts_out_counts(streamed: Streamed, delta: dict[str, object]) -> None:
    meter = SseMeter(*streamed())
    for _ in range(3):
        (found,) = meter.feed(chunk(**delta))
        assert (found.kind, found.deltas, found.content_bytes) == (EventKind.CONTENT, 1, 3)


def test_tool_calls_allow_for_their_markup(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    before = meter.counted().unseen_tokens_max
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": "{}"}}
    send_all(meter, chunk(tool_calls=[call]), chunk(tool_calls=[more]))
    after = meter.counted().unseen_tokens_max
    assert before is not None
    assert after == before + 64


def test_completions_stream() -> None:
    body = b'{"model":"m","prompt":"x","stream":true,"max_tokens":9}'
    request = parse_request(Endpoint.COMPLETIONS, body)
    meter = SseMeter(request, Bound(prompt_tokens_max=9, completion_tokens_max=9, n=1))
    for text in ("ab", "cd", "支"):
        (found,) = meter.feed(event({"choices": [{"index": 0, "text": text}]}))
        assert found.content_bytes == len(text.encode())


def test_choices_are_followed_one_by_one(streamed: Streamed) -> None:
    meter = SseMeter(*streamed(n=2))
    send_all(meter, chunk("a"), chunk("b", index=1), chunk("c", index=1, finish="length"))
    assert not meter.is_finished
    assert meter.finish_reasons == {1: "length"}
    assert meter.counted().deltas == 3
    both = [{"index": i, "delta": {"content": "xy"}, "finish_reason": "stop"} for i in (0, 1)]
    (found,) = meter.feed(event({"choices": both}))
    assert (found.deltas, found.content_bytes, found.endings) == (2, 4, 2)
    assert meter.is_finished


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (event({"error": {"message": "boom", "code": 500}}), "boom"),
        (event({"object": "error", "message": "boom", "code": 400}), "boom"),
        (event({"error": "boom"}), "boom"),
        (b'error: {"code":500,"message":"x"}\n\n', "an error event without a message"),
        (b'event: error\ndata: {"x":1}\n\n', "an error event without a message"),
        (b'event: error\ndata: {"error":{"message":"boom"}}\n\n', "boom"),
    ],
)
def test_errors_in_a_stream_end_the_answer(streamed: Streamed, raw: bytes, message: str) -> None:
    meter = SseMeter(*streamed())
    events = send_all(meter, chunk("abc"), raw, chunk("def"), DONE)
    assert kinds(events) == ["content", "error"]
    assert meter.is_hidden(events[1])
    assert meter.fault is not None
    assert meter.fault.message == message
    assert not meter.is_finished
    counted = meter.counted()
    assert counted.content_bytes == 3
    assert not counted.is_complete


@pytest.mark.parametrize(
    "raw",
    [
        b"data: hello\n\n",
        b"data: [DONE] \xff\n\n",
        b"data: []\n\n",
        b'data: {"choices":[{"index":0,"delta":{"content":"a","content":"bbbb"}}]}\n\n',
        b'data: {"choices":[{"index":5,"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n',
        b'data: {"choices":' + b"[" * 5000 + b"\n\n",
        b'data: {"choices":[],"n":NaN}\n\n',
    ],
)
def test_what_is_no_chunk_ends_the_answer(streamed: Streamed, raw: bytes) -> None:
    meter = SseMeter(*streamed())
    (found,) = meter.feed(raw)
    assert found.kind is EventKind.ERROR
    assert meter.fault is not None
    assert meter.fault.code == "malformed_event"
    assert meter.counted().is_empty


def test_nothing_follows_the_end(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    events = send_all(meter, chunk("a") + DONE + chunk("b"), chunk("c"), b": late\n\n", b"data: x")
    assert kinds(events) == ["content", "done"]
    assert meter.counted().content_bytes == 1


def test_done_without_its_blank_line(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    events = send_all(meter, chunk("a"), b"data: [DONE]\n")
    assert events[-1].kind is EventKind.DONE
    assert events[-1].raw == DONE
    assert meter.is_done


def test_a_torn_last_event_is_no_answer(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    events = send_all(meter, chunk("a"), chunk("b")[:-20])
    assert kinds(events) == ["content", "error"]
    assert not meter.is_finished


def test_blank_lines_at_the_end_are_nothing(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    assert kinds(send_all(meter, chunk("a", finish="stop"), b"\n")) == ["content"]
    assert meter.is_finished
    assert not meter.is_done


def test_only_what_was_sent_is_delivered(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    events = meter.feed(b"".join(chunk("ab") for _ in range(10)))
    for found in events[:3]:
        meter.mark_sent(found)
    meter.feed(chunk(finish="stop") + usage_chunk(9, 10) + DONE)
    counted = meter.counted()
    assert (counted.deltas, counted.content_bytes, counted.is_complete) == (3, 6, False)
    assert charge_usage(meter.usage, counted, bound).completion_tokens == 3


def test_nothing_sent_is_nothing_delivered(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound)
    assert meter.counted().is_empty
    meter.feed(chunk("ab") + chunk(finish="stop") + DONE)
    billed = charge_usage(meter.usage, meter.counted(), bound)
    assert billed.flags == {UsageFlag.NOTHING_DELIVERED}


@pytest.mark.parametrize(("reason", "empty"), [("stop", False), ("error", True), ("abort", True)])
def test_an_empty_stream_counts_only_if_it_ended_well(
    streamed: Streamed, reason: str, empty: bool
) -> None:
    meter = SseMeter(*streamed())
    send_all(meter, chunk(finish=reason), DONE)
    assert meter.counted().is_empty is empty


def test_an_empty_answer_that_ends_and_then_fails_is_nothing(streamed: Streamed) -> None:
    meter = SseMeter(*streamed())
    send_all(meter, chunk(finish="stop"), event({"error": "boom"}))
    assert meter.counted().is_empty


def test_a_server_that_ignores_the_limit_is_noticed(streamed: Streamed) -> None:
    meter = SseMeter(*streamed(max_tokens=10))
    meter.feed(b"".join(chunk("ab") for _ in range(42)))
    assert not meter.is_over_limit
    meter.feed(chunk("ab"))
    assert meter.is_over_limit


def test_a_server_that_ignores_the_limit_in_big_pieces_is_noticed(streamed: Streamed) -> None:
    meter = SseMeter(*streamed(max_tokens=10))
    meter.feed(chunk("a" * 42 * 128))
    assert not meter.is_over_limit
    meter.feed(chunk("a"))
    assert meter.is_over_limit


def test_each_choice_has_the_limit_for_itself(streamed: Streamed) -> None:
    meter = SseMeter(*streamed(max_tokens=10, n=2))
    meter.feed(b"".join(chunk("ab", index=i % 2) for i in range(84)))
    assert not meter.is_over_limit
    meter.feed(chunk("ab", index=1))
    assert meter.is_over_limit


def test_changing_stamps_are_followed(streamed: Streamed) -> None:
    # Servers that write the time into each chunk never repeat a shape for long.
    meter = SseMeter(*streamed())
    for second in range(30):
        for text in ("a", "bc"):
            choice = {"index": 0, "delta": {"content": text}}
            (found,) = meter.feed(event({"created": second, "choices": [choice]}))
            assert found.content_bytes == len(text)


def test_too_large_an_event_is_an_upstream_failure(streamed: Streamed) -> None:
    request, bound = streamed()
    meter = SseMeter(request, bound, max_event_bytes=1000)
    with pytest.raises(UpstreamUnavailable):
        meter.feed(chunk("a" * 1000))
