import json
import unicodedata

import pytest

from infern.core.wire.prompt_size import (
    PromptTally,
    _growing_characters,
    dumped_bytes,
    dumped_text_bytes,
    json_text_bytes,
    text_bytes,
)

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def test_plain_text_counts_its_utf8_bytes() -> None:
    assert text_bytes("hello") == 5
    assert text_bytes("支付") == 6
    assert text_bytes("한국어") == 9
    assert text_bytes("😀") == 4


@pytest.mark.parametrize(
    "text", ["\u0958", "\u1d160", "\ufdfa", "\ufb2c", "é", "Å\u0325", "\u0344"]
)
def test_text_that_normalising_makes_longer_counts_so(text: str) -> None:
    longest = max(len(unicodedata.normalize(form, text).encode()) for form in FORMS)
    assert text_bytes(text * 40) >= 40 * longest


def test_no_character_can_be_longer_than_counted() -> None:
    _, growth = _growing_characters()
    for code in range(0x110000):
        character = chr(code)
        if 0xD800 <= code < 0xE000 or not unicodedata.decomposition(character):
            continue
        own = len(character.encode())
        longest = max(len(unicodedata.normalize(f, character).encode()) for f in FORMS)
        assert own + growth.get(character, 0) >= longest, hex(code)


def test_composing_two_characters_never_lengthens() -> None:
    # What the bound rests on: any normal form is reached from the full decomposition by such steps.
    steps = 0
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        is_canonical_pair = len(parts) == 2 and not parts[0].startswith("<")
        if is_canonical_pair and unicodedata.is_normalized("NFC", chr(code)):
            apart = "".join(chr(int(part, 16)) for part in parts)
            assert len(chr(code).encode()) <= len(apart.encode()), hex(code)
            steps += 1
    assert steps > 900


def test_runs_of_combining_marks_take_linear_time() -> None:
    # Normalising this text whole takes minutes, because it sorts the marks by insertion.
    marks = "a" + "\u0316\u0300" * 200_000
    assert text_bytes(marks) >= len(marks.encode())


def test_many_different_growing_characters() -> None:
    _, growth = _growing_characters()
    text = "".join(growth) * 3
    assert text_bytes(text) == len(text.encode()) + 3 * sum(growth.values())


@pytest.mark.parametrize("text", ["", "plain", 'q"\\\n\t\x00', "<a href='x'>&", "é支😀", "\u200b"])
def test_dumped_text_covers_every_way_to_dump_it(text: str) -> None:
    escaped = json.dumps(text)
    html = escaped
    for character in "<>&'":
        html = html.replace(character, f"\\u{ord(character):04x}")
    for written in (json.dumps(text, ensure_ascii=False), escaped, html, repr(text)):
        assert dumped_text_bytes(text) >= len(written.encode())


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":1,"b":[1,2,3,4,5,6,7,8],"c":{"d":null}}',
        '{"a":1e15,"b":[1E20,1e-7,-2.5e+3]}',
        '{"é":"<\\u003c&\'>","x":"\\"y\\\\"}',
        "not json at all, with commas, and: colons",
    ],
)
def test_json_text_covers_every_way_to_dump_it_again(text: str) -> None:
    writings = [text]
    try:
        value = json.loads(text)
    except ValueError:
        pass
    else:
        writings += [json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)]
        writings.append(json.dumps(value).replace("1e+20", "100000000000000000000"))
    for written in writings:
        assert json_text_bytes(text) >= len(written.encode())


def test_dumped_values_cover_every_way_to_dump_them() -> None:
    value = {"type": "é<b>", "n": [1, 2.5, 1e20, None, True], "ﷺ": {"x": "'&'"}}
    written = json.dumps(value).replace("1e+20", "100000000000000000000")
    for character in "<>&'":
        written = written.replace(character, f"\\u{ord(character):04x}")
    assert dumped_bytes(value) >= len(written)
    normal = unicodedata.normalize("NFKC", json.dumps(value, ensure_ascii=False))
    assert dumped_bytes(value) >= len(normal.encode())


def test_dumped_text_covers_normal_forms_of_itself() -> None:
    for text in ("\ufdfa" * 50, "\u0958" * 50):
        normal = unicodedata.normalize("NFKC", json.dumps({"a": text}, ensure_ascii=False))
        assert dumped_bytes({"a": text}) >= len(normal.encode())
        assert dumped_text_bytes(text) >= len(unicodedata.normalize("NFKC", text).encode())


def test_entries_count_members_and_items_at_every_level() -> None:
    tally = PromptTally()
    tally.dumped({"a": [1, 2, {"b": {}}], "c": "x"})
    assert tally.size().entries == 1 + 2 + 3 + 1
