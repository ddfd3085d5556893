"""The invoice's arithmetic coder, against outputs of the crate that defines it."""

import hashlib

import pytest

from infern.core.fiber.arithmetic_coder import (
    CodedDataError,
    ExpandsTooFarError,
    compress,
    decompress,
)

LIMIT = 16 * 1024

# Coded by arcode 0.2.4 with the settings of fiber-types 0.9.1.
CODED = [
    (b"", "ff40"),
    (b"\x00", "00fe80"),
    (b"\xff", "ff0040"),
    (b"aa", "610139"),
    (b"infern", "690582a15e6386"),
]
CODED_DIGESTS = [
    (
        bytes(range(256)) * 4,
        1066,
        "7b4c79a70ee8eff8bc05d274d96306ba44c2130c21f3ab0d132adf5235bb2394",
    ),
    (bytes(LIMIT), 240, "dd88479f9fc726d9fafe5744ff7aadc712b7bf6efbbe391370d027e7aa733e32"),
]


@pytest.mark.parametrize(("data", "coded"), CODED)
def test_codes_like_the_crate(data: bytes, coded: str) -> None:
    assert compress(data).hex() == coded
    assert decompress(bytes.fromhex(coded), max_bytes=LIMIT) == data


@pytest.mark.parametrize(("data", "size", "digest"), CODED_DIGESTS)
def test_codes_long_data_like_the_crate(data: bytes, size: int, digest: str) -> None:
    coded = compress(data)
    assert len(coded) == size
    assert hashlib.sha256(coded).hexdigest() == digest
    assert decompress(coded, max_bytes=LIMIT) == data


def test_expands_to_the_limit_and_not_a_byte_further() -> None:
    coded = compress(b"limit")
    assert decompress(coded, max_bytes=5) == b"limit"
    with pytest.raises(ExpandsTooFarError):
        decompress(coded, max_bytes=4)
    with pytest.raises(ExpandsTooFarError):
        decompress(compress(bytes(LIMIT + 1)), max_bytes=LIMIT)


@pytest.mark.parametrize("coded", ["", "00", "ff", "690582a15e", "690582a15e63", "00" * 40])
def test_refuses_data_that_breaks_off(coded: str) -> None:
    with pytest.raises(CodedDataError):
        decompress(bytes.fromhex(coded), max_bytes=LIMIT)


@pytest.mark.parametrize("data", [data for data, _ in CODED])
def test_refuses_bytes_behind_the_end(data: bytes) -> None:
    coded = compress(data)
    for other in (coded + b"\0", coded + b"\1", coded + bytes(6)):
        with pytest.raises(CodedDataError):
            decompress(other, max_bytes=LIMIT)
