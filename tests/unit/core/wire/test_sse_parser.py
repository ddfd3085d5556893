import pytest

from infern.core.errors import UpstreamUnavailable
from infern.core.wire.sse_parser import SseBlock, SseParser


def parse(data: bytes) -> list[SseBlock]:
    parser = SseParser()
    blocks = parser.feed(data)
    rest = parser.finish()
    return blocks if rest is None else [*blocks, rest]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end(end: bytes) -> None:
    raw = b"data: a" + end + end + b"data: b" + end + b"data: c" + end + end
    blocks = parse(raw)
    assert [block.data for block in blocks] == [b"a", b"b\nc"]
    assert b"".join(block.raw for block in blocks) == raw


def test_line_ends_may_be_mixed() -> None:
    raw = b"data: a\r\n\ndata: b\n\r\ndata: c\r\rdata: d\n\r"
    assert [block.data for block in parse(raw)] == [b"a", b"b", b"c", b"d"]


def test_a_line_feed_after_a_late_carriage_return_belongs_to_it() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == []
    assert [block.raw for block in parser.feed(b"\ndata")] == [b"data: a\r\n\r\n"]


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"data:\ndata:\n\n", b"\n"),
        (b"data: a: b\n\n", b"a: b"),
        (b"DATA: a\n\n", None),
        (b" data: a\n\n", None),
        (b"dataset: a\n\n", None),
        (b": data: a\n\n", None),
        (b"\n\n", None),
        (b"retry: 5\n\n", None),
        (b"\ndata: a\n\n", b"a"),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
    ],
)
def test_data_lines(raw: bytes, data: bytes | None) -> None:
    assert [(block.raw, block.data) for block in parse(raw)] == [(raw, data)]


def test_a_bom_counts_only_at_the_beginning() -> None:
    assert [b.data for b in parse(b"data: a\n\n\xef\xbb\xbfdata: b\n\n")] == [b"a", None]


def test_fields_and_comments() -> None:
    raw = b": one\nid: 7\n:two\nevent: error\ndata: x\nretry: 10\nid: bad\x00\n\n"
    assert parse(raw) == [
        SseBlock(raw=raw, data=b"x", event=b"error", id=b"7", comments=(b"one", b"two"))
    ]


def test_the_error_field_of_old_llama_servers() -> None:
    block = parse(b'error: {"message":"x"}\n\n')[0]
    assert (block.event, block.data) == (b"error", b'{"message":"x"}')


def test_a_rest_without_blank_line_is_read_at_the_end() -> None:
    for raw in (b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]\r\n\r"):
        assert [(b.raw, b.data) for b in parse(raw)] == [(raw, b"[DONE]")]
    assert SseParser().finish() is None


def test_every_split_gives_the_same() -> None:
    raw = (
        b'\xef\xbb\xbf: hi\r\n\r\ndata: {"a":"\xe6\x94\xaf"}\n\n\ndata:b\rdata:c\r\r\n'
        b"id: 1\r\nevent: x\r\ndata: d\r\n\r\n\r\n\n\ndata: [DONE]"
    )
    whole = parse(raw)
    for cut in range(len(raw) + 1):
        parser = SseParser()
        blocks = parser.feed(raw[:cut]) + parser.feed(raw[cut:])
        rest = parser.finish()
        assert [*blocks, *([rest] if rest else [])] == whole, cut
    parser = SseParser()
    blocks = [block for byte in raw for block in parser.feed(bytes([byte]))]
    rest = parser.finish()
    assert [*blocks, *([rest] if rest else [])] == whole


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_event_size_is_limited_however_it_comes(step: int, end: bytes) -> None:
    def feed(size: int) -> int:
        parser = SseParser(max_event_bytes=100)
        raw = b"data: " + b"x" * (size - 6 - 2 * len(end)) + end + end
        return sum(len(parser.feed(raw[i : i + step])) for i in range(0, len(raw), step))

    assert feed(100) == 1
    with pytest.raises(UpstreamUnavailable):
        feed(101)


def test_small_pieces_of_a_large_event_take_linear_time() -> None:
    parser = SseParser()
    for _ in range(200_000):
        assert parser.feed(b"data") == []
    assert len(parser.feed(b"\n\n")) == 1
