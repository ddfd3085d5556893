r"""How many tokens a prompt can have at most, from bytes and without a tokenizer.

A byte-level tokenizer never makes more tokens than its input has UTF-8 bytes. So a bound needs
the bytes that reach the tokenizer, which are not the bytes of the request:

* **Text** (message contents, prompts, names) is inserted decoded: its UTF-8 bytes count, not its
  JSON escapes. Tokenizers that normalise (Qwen NFC, XLM-R NFKC) can make it longer: every code
  point counts as the longest of its own bytes and its canonical and compatibility decomposition.
  Composition only shortens again, so this covers NFC and NFKC of any concatenation.
* **Dumped text** (tool definitions, schemas, tool-call arguments, tool results) is written by the
  template as JSON again, each server in its own way: with or without spaces after separators,
  non-ASCII as itself or as `\uXXXX`, and, from Go and Jinja, `< > & '` as `\u003c`. The longest
  of all counts: ASCII escapes, default separators, five more bytes for each of those characters.
* **Template text** is the listing's to know, not the consumer's to choose. It is counted in units
  with a price of their own: once per request, per message, and per entry of a dumped object or
  list (indentation and XML tags grow with those).
* Token ids count one each; images and audio by the listing's fixed figures.

Source: jinja2 `htmlsafe_json_dumps`, transformers' `tojson`, Go `encoding/json` (HTML escapes);
Unicode Standard Annex 15 on normal forms.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import Final

from infern.core.wire.strict_json import Json

TYPICAL_BYTES_PER_TOKEN: Final = 6
"""Rather more than real text has (English 4 to 5), so that an estimate with it stays low."""
_MAX_NUMBER_GROWTH: Final = 20
"""`1e+20` is five bytes in Python and 21 digits in Go and JavaScript."""
_MAX_COUNTED_CHARACTERS: Final = 32
"""Up to here one pass per character is faster than one pass that looks at each."""
_DECOMPOSABLE: Final = (
    range(0xA0, 0x3400),
    range(0xA640, 0xAC00),
    range(0xF900, 0x10000),
    range(0x10000, 0x20000),
    range(0x2F800, 0x2FA20),
)
"""Where Unicode has decompositions. Hangul syllables are left out: their parts stand side by side,
so NFC and NFKC always compose them again, and byte-level tokenizers that leave text decomposed do
not exist; counting for one would triple the price of Korean."""

_EXPONENT: Final = re.compile(r"[0-9][eE]")
_KEY: Final = re.compile(r'"\s*:')
_DUMP_ASCII: Final = json.JSONEncoder(allow_nan=False, check_circular=False)
_DUMP_UNICODE: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSize:
    """What one sequence sends through the tokenizer.

    Args:
        text_bytes: Bytes of the consumer's text, counted as above; never fewer than its tokens.
        token_ids: Tokens the consumer sent as numbers.
        messages: Messages, each of which the template frames.
        entries: Members and items of dumped JSON, each of which the template may decorate.
        images: Images, each with the listing's fixed number of tokens.
        audios: Audio clips, likewise.
    """

    text_bytes: int = 0
    token_ids: int = 0
    messages: int = 0
    entries: int = 0
    images: int = 0
    audios: int = 0


class PromptTally:
    """Adds up one prompt while it is read."""

    def __init__(self) -> None:
        self._text_bytes = 0
        self._entries = 0
        self.messages = 0
        self.images = 0
        self.audios = 0

    def text(self, value: str) -> None:
        """Count text that the template inserts as it is."""
        self._text_bytes += text_bytes(value)

    def dumped_text(self, value: str) -> None:
        """Count text that the template may insert as a JSON string."""
        self._text_bytes += dumped_text_bytes(value)

    def json_text(self, value: str) -> None:
        """Count text that is JSON itself and may be parsed and dumped again."""
        self._text_bytes += json_text_bytes(value)
        self._entries += len(_KEY.findall(value)) + 1

    def dumped(self, value: Json) -> None:
        """Count a value that the template may insert as JSON."""
        self._text_bytes += dumped_bytes(value)
        self._entries += sum(_entries(value)) + 1

    def part(self) -> None:
        """Count what joins one part of a message to the next."""
        self._entries += 1

    def size(self) -> PromptSize:
        """The sum so far."""
        return PromptSize(
            text_bytes=self._text_bytes,
            messages=self.messages,
            entries=self._entries,
            images=self.images,
            audios=self.audios,
        )


def text_bytes(text: str) -> int:
    """Bytes of text as a tokenizer may see it, whatever normal form it applies."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8")) + _growth(text)


def dumped_text_bytes(text: str) -> int:
    """Bytes of text inside any server's JSON, with its two quotes."""
    size = len(encode_basestring_ascii(text)) + 5 * _html_characters(text)
    return size if text.isascii() else size + _growth(text)


def json_text_bytes(text: str) -> int:
    r"""Bytes of JSON text after any server has parsed and dumped it again.

    Counting it as a dumped string pays for everything inside its strings and two bytes more for
    each of their quotes, which covers the space that may follow a colon. Spaces after commas and
    exponents written out are added.
    """
    exponents = len(_EXPONENT.findall(text))
    return dumped_text_bytes(text) + text.count(",") + _MAX_NUMBER_GROWTH * exponents


def dumped_bytes(value: Json) -> int:
    """Bytes of a value in any server's JSON on one line."""
    ascii_text = _DUMP_ASCII.encode(value)
    exponents = len(_EXPONENT.findall(ascii_text))
    size = len(ascii_text) + 5 * _html_characters(ascii_text) + _MAX_NUMBER_GROWTH * exponents
    return size + _growth(_DUMP_UNICODE.encode(value)) if "\\u" in ascii_text else size


def _html_characters(text: str) -> int:
    return text.count("<") + text.count(">") + text.count("&") + text.count("'")


def _entries(value: Json) -> Iterator[int]:
    """Numbers of members and items, level by level; depth was limited when it was parsed."""
    if isinstance(value, dict):
        yield len(value)
        for member in value.values():
            if isinstance(member, dict | list):
                yield from _entries(member)
    elif isinstance(value, list):
        yield len(value)
        for item in value:
            if isinstance(item, dict | list):
                yield from _entries(item)


def _growth(text: str) -> int:
    """Bytes that decomposition can add to text, character by character.

    Never by normalising the text itself: that takes time quadratic in a run of combining marks.
    """
    growing, growth = _growing_characters()
    found = growth.keys() & set(text)
    if len(found) > _MAX_COUNTED_CHARACTERS:
        return sum(map(growth.__getitem__, growing.findall(text)))
    return sum(growth[character] * text.count(character) for character in found)


@cache
def _growing_characters() -> tuple[re.Pattern[str], dict[str, int]]:
    """The characters whose decomposition has more UTF-8 bytes than they have, and how many more."""
    growth: dict[str, int] = {}
    for block in _DECOMPOSABLE:
        for code in block:
            character = chr(code)
            if unicodedata.decomposition(character):
                own = len(character.encode("utf-8"))
                forms = (unicodedata.normalize(form, character) for form in ("NFD", "NFKD"))
                longest = max(len(form.encode("utf-8")) for form in forms)
                if longest > own:
                    growth[character] = longest - own
    return re.compile(f"[{''.join(map(re.escape, growth))}]"), growth
