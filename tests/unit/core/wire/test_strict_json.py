import json

import pytest

from infern.core.errors import InfernError, Money, RemoteProtocolError
from infern.core.wire.strict_json import MAX_CONTAINERS, MAX_STRINGS, dumps, loads_object


def refusal(body: bytes, **options: int) -> RemoteProtocolError:
    with pytest.raises(InfernError) as caught:
        loads_object(body, **options)
    error = caught.value
    assert isinstance(error, RemoteProtocolError)
    assert (error.code, error.status, error.money) == ("invalid_request", 400, Money.UNMOVED)
    return error


def test_reads_what_json_reads() -> None:
    body = b' {"a": [1, -2.5e3, true, null, "\\u00e9\\n", {}], "b": {"c": ""}}\r\n'
    assert loads_object(body) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"max_tokens":1,"max_tokens":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":[{"b":{"c":1,"d":2,"c":3}}]}',
        b'{"a":1,"\\u0061":2}',
    ],
)
def test_refuses_duplicate_members_at_every_level(body: bytes) -> None:
    assert "twice" in refusal(body).message


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_refuses_numbers_json_does_not_have(number: bytes) -> None:
    refusal(b'{"temperature":' + number + b"}")


@pytest.mark.parametrize(
    "number", [b"18446744073709551616", b"-9223372036854775809", b"9" * 5000, b"1." + b"1" * 5000]
)
def test_refuses_huge_numbers(number: bytes) -> None:
    refusal(b'{"seed":' + number + b"}")


def test_reads_the_widest_integers_exactly() -> None:
    assert loads_object(b'{"a":18446744073709551615,"b":-9223372036854775808}') == {
        "a": 2**64 - 1,
        "b": -(2**63),
    }


@pytest.mark.parametrize(
    "text", ["\\ud800", "\\udc00", "x\\uD83Dy", "\\ude00\\ud83d", "\\ud83d\\u0041"]
)
def test_refuses_half_a_surrogate_pair_in_values_and_names(text: str) -> None:
    refusal(f'{{"a":["{text}"]}}'.encode())
    refusal(f'{{"{text}":1}}'.encode())


def test_reads_a_whole_surrogate_pair() -> None:
    assert loads_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"a"',
        b"{",
        b"{}{}",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":"\x01"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":1}\x00',
        b'{"a":/**/1}',
        b'{"a":"\\x"}',
        b'{"a":"\\"}',
        "{\u00a0}".encode(),
        '{"a":\u0661}'.encode(),
    ],
)
def test_refuses_what_is_not_one_strict_object(body: bytes) -> None:
    refusal(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_refuses_depth_before_the_parser_meets_it(opening: bytes) -> None:
    refusal(b'{"a":' + opening * 1_000_000)
    refusal(b'{"a":"' + opening * 100 + b'","b":' + opening * 2_000)


def test_depth_limit_is_exact() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)

    assert loads_object(nested(64))
    refusal(nested(65))
    assert loads_object(nested(3), max_depth=3)
    refusal(nested(4), max_depth=3)


def test_a_depth_limit_beyond_the_stack_is_still_a_refusal() -> None:
    refusal(b'{"a":' + b"[" * 60_000, max_depth=10**6)


def test_brackets_in_text_are_not_depth() -> None:
    text = '[{"\\' * 500 + "]}"
    body = json.dumps({"a": text, text: [text]}).encode()
    assert loads_object(body) == {"a": text, text: [text]}


@pytest.mark.parametrize("backslashes", range(5))
def test_backslashes_before_a_quote_are_read_in_pairs(backslashes: int) -> None:
    value = {"a": "x" + "\\" * backslashes, "b": "[" * 100, "c": '"' + "]" * 100, "d": "\\" * 3}
    body = json.dumps(value).encode()
    assert loads_object(body) == value
    assert "deeper" in refusal(body[:-1] + b',"e":' + b"[" * 100 + b"]" * 100 + b"}").message


def test_many_objects_side_by_side_are_not_depth() -> None:
    body = json.dumps({"a": [{"b": [1]}] * 1000}).encode()
    assert loads_object(body) == json.loads(body)


def test_refuses_more_values_than_memory_should_hold() -> None:
    assert "arrays" in refusal(b'{"a":[' + b"[]," * MAX_CONTAINERS + b"[]]}").message
    assert "strings" in refusal(b'{"a":[' + b'"",' * MAX_STRINGS + b'""]}').message


def test_an_error_message_shows_names_harmlessly() -> None:
    message = refusal('{"\u202e\\n":1,"\u202e\\n":2}'.encode()).message
    assert message.isascii()
    assert message.isprintable()


def test_writes_compact_utf8_in_the_order_given() -> None:
    assert (
        dumps({"b": 1, "a": ["é", 0.7, None, True]}) == '{"b":1,"a":["é",0.7,null,true]}'.encode()
    )


def test_never_writes_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps({"a": float("nan")})
