"""Reading answers as they pass: the root and the receipt, however the bytes are split."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infern.client.receipts import MAX_RECEIPT_CHARS, AnswerReader
from infern.core.f402.receipt import response_root

EVENTS = b'data: {"a":1}\n\n: keepalive\n\ndata: {"text":": f402-receipt x\\n\\ndata: [DONE]"}\n\n'
RECEIPT = b": f402-receipt QUJD\n\n"
DONE = b"data: [DONE]\n\n"


def read(data, cuts, *, is_stream=True):
    reader = AnswerReader(is_stream=is_stream)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        reader.update(data[start:end])
    return reader


CUTS = st.lists(st.integers(min_value=0, max_value=200), max_size=30)


@given(CUTS)
def test_a_stream_is_covered_up_to_its_receipt(cuts):
    reader = read(EVENTS + RECEIPT + DONE, cuts)
    assert reader.receipt_text == "QUJD"
    assert reader.root() == response_root([EVENTS])
    assert reader.saw_done
    assert not reader.saw_error


@given(CUTS)
def test_a_stream_without_a_receipt_is_covered_whole(cuts):
    reader = read(EVENTS + DONE, cuts)
    assert reader.receipt_text is None
    assert reader.root() == response_root([EVENTS + DONE])
    assert reader.saw_done


@given(CUTS)
def test_what_a_model_writes_is_no_mark(cuts):
    reader = read(EVENTS, cuts)
    assert reader.receipt_text is None
    assert not reader.saw_done
    assert reader.root() == response_root([EVENTS])


@given(CUTS, st.booleans())
def test_an_error_event_is_seen(cuts, receipt):
    data = b'data: {"error":{"code":"x"}}\n\n' + (RECEIPT if receipt else b"")
    reader = read(data, cuts)
    assert reader.saw_error
    assert (reader.receipt_text is not None) is receipt


@given(st.binary(max_size=300), CUTS)
def test_a_plain_body_is_covered_whole(data, cuts):
    reader = read(data, cuts, is_stream=False)
    assert reader.root() == response_root([data])
    assert reader.receipt_text is None


@given(st.binary(max_size=300), CUTS)
def test_any_stream_has_the_root_of_its_bytes(data, cuts):
    if b": f402-receipt" not in data:
        assert read(data, cuts).root() == response_root([data])


def test_a_receipt_at_the_very_beginning():
    reader = read(RECEIPT + DONE, [3])
    assert reader.receipt_text == "QUJD"
    assert reader.root() == response_root([])


def test_a_receipt_line_without_end_is_not_kept():
    reader = AnswerReader(is_stream=True)
    reader.update(b": f402-receipt ")
    for _ in range(100):
        reader.update(b"A" * 1_000)
    assert len(reader.receipt_text) == MAX_RECEIPT_CHARS + 1


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n"])
def test_line_ends(end):
    reader = read(b"data: 1\n\n: f402-receipt QUJD" + end, [])
    assert reader.receipt_text == "QUJD"
