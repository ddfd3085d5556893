"""bech32 and bech32m, with the published texts."""

import pytest

from infern.core.ckb.bech32 import (
    Bech32Error,
    Variant,
    bytes_from_values,
    decode,
    encode,
    values_from_bytes,
)

# The valid texts of BIP-173 and BIP-350.
BECH32 = [
    "A12UEL5L",
    "a12uel5l",
    "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
    "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
    "11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j",
    "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "?1ezyfcl",
]
BECH32M = [
    "A1LQFN3A",
    "a1lqfn3a",
    "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
    "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
    "11llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllludsr8",
    "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
    "?1v759aa",
]


@pytest.mark.parametrize(
    ("text", "variant"),
    [(text, Variant.BECH32) for text in BECH32] + [(text, Variant.BECH32M) for text in BECH32M],
)
def test_reads_and_writes_the_published_texts(text: str, variant: Variant) -> None:
    decoded = decode(text, max_chars=90)
    assert decoded.variant is variant
    assert encode(decoded.hrp, decoded.values, variant) == text.lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'missing human-readable separator, "1"'),
        ("pzry9x0s0muk", 'missing human-readable separator, "1"'),
        ("1pzry9x0s0muk", "invalid length"),
        ("li1dgmt3", "invalid length"),
        ("a1", "invalid length"),
        ("\x201nwldj5", "invalid character (code= )"),
        ("\x7f1axkwrx", "invalid character (code=\\x7f)"),
        ("\x801eym55h", "invalid character (code=Â)"),
        ("de1lg7wt\xff", "invalid character (code=ÿ)"),
        ("x1b4n0q5v", "invalid character (code=b)"),
        ("y1b0jsk6g", "invalid character (code=b)"),
        ("a1lqfn3\ud800", "invalid character (code=\\ud800)"),
        ("a1lqfn3\n", "invalid character (code=\\n)"),
        ("A1lqfn3a", "mixed-case strings not allowed"),
        ("aA1lqfn3a", "mixed-case strings not allowed"),
        ("?1v759aA", "mixed-case strings not allowed"),
        ("a1lqfn3q", "invalid checksum"),
        ("A1G7SGD8", "invalid checksum"),
        ("k" * 84 + "1lqfn3a", "invalid length"),
    ],
)
def test_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Bech32Error) as caught:
        decode(text, max_chars=200)
    assert str(caught.value) == message


def test_refuses_long_texts_before_reading_them() -> None:
    assert decode("a1lqfn3a", max_chars=8).hrp == "a"
    with pytest.raises(Bech32Error, match="at most 7 characters"):
        decode("a1lqfn3a", max_chars=7)


@pytest.mark.parametrize("hrp", ["", "k" * 84, "Ckb", "ck b", "ckß", "a\n"])
def test_refuses_to_write_an_improper_readable_part(hrp: str) -> None:
    with pytest.raises(ValueError, match="human-readable part"):
        encode(hrp, b"\0", Variant.BECH32M)


def test_refuses_to_write_values_of_more_than_five_bits() -> None:
    with pytest.raises(ValueError, match="five bits"):
        encode("ckb", bytes([32]), Variant.BECH32M)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"", []),
        (b"\xff", [31, 28]),
        (b"\x00\xff", [0, 3, 31, 16]),
        (b"\xff" * 5, [31] * 8),
    ],
)
def test_regroups_bits(data: bytes, values: list[int]) -> None:
    assert values_from_bytes(data) == bytes(values)
    assert bytes_from_values(bytes(values)) == data


@pytest.mark.parametrize("values", [[31], [31, 29], [0, 0, 0], [0, 0, 0, 0, 0, 0]])
def test_refuses_bits_that_are_no_padding(values: list[int]) -> None:
    with pytest.raises(Bech32Error, match="invalid padding"):
        bytes_from_values(bytes(values))
