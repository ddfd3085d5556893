import pytest

from infern.core.errors import LocalProtocolError
from infern.core.wire.jcs import canonicalize
from infern.core.wire.strict_json import loads_object


def test_sorts_members_by_utf16_code_units_as_the_rfc_shows() -> None:
    # RFC 8785 section 3.2.3: the order of code points would put the smiley last.
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    names = ["\\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    text = canonicalize(value).decode()
    positions = [text.index(f'"{name}":') for name in names]
    assert positions == sorted(positions)


def test_writes_strings_as_the_rfc_shows() -> None:
    # RFC 8785 section 3.2.2, without its numbers.
    body = rb'{"string":"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/"}'
    assert (
        canonicalize(loads_object(body)) == '{"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'.encode()
    )


def test_writes_literals_as_the_rfc_shows() -> None:
    assert canonicalize({"literals": [None, True, False]}) == b'{"literals":[null,true,false]}'


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ({}, b"{}"),
        ([], b"[]"),
        ([[], {}], b"[[],{}]"),
        (0, b"0"),
        (-1, b"-1"),
        (2**53 - 1, b"9007199254740991"),
        ("", b'""'),
        ("\x08\x09\x0a\x0c\x0d\x00\x1f\x7f", b'"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f"'),
        ("\u2028/<>&", '"\u2028/<>&"'.encode()),
        ({"b": 1, "a": {"d": [1, "x"], "c": None}}, b'{"a":{"c":null,"d":[1,"x"]},"b":1}'),
        ({"aa": 1, "a": 2, "": 3, "B": 4}, b'{"":3,"B":4,"a":2,"aa":1}'),
    ],
)
def test_canonical_forms(value: object, canonical: bytes) -> None:
    assert canonicalize(value) == canonical  # type: ignore[arg-type] # parametrized values


@pytest.mark.parametrize(
    "value",
    [1.0, {"a": 0.5}, 2**53, -(2**53), "\ud800", {"\udc00": 1}, {1: 2}, (1,), b"x", {"a": {1}}],
)
def test_refuses_what_has_no_canonical_form_here(value: object) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        canonicalize(value)  # type: ignore[arg-type] # wrong on purpose
    assert caught.value.code == "invalid_request"


def test_refuses_depth() -> None:
    value: list[object] = []
    for _ in range(64):
        value = [value]
    with pytest.raises(LocalProtocolError, match="levels"):
        canonicalize(value)  # type: ignore[arg-type] # nested lists
    assert canonicalize(value[0]).startswith(b"[[")  # type: ignore[arg-type] # nested lists
