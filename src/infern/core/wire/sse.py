r"""Streamed answers, passed on byte for byte and metered on the way.

`SseMeter` looks into the events of a chat or completions answer: how much was delivered, whether
usage came, whether it ended, failed or runs past its limit.

Text of the model cannot leave its JSON string: a line break in it is two characters, `\n`, on the
wire. So nothing a model writes can look like an event, a `[DONE]` or a receipt comment.

Source: the OpenAI API reference for streaming; openai-python's reading of `data: [DONE]`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from infern.core.errors import InfernError
from infern.core.wire.bounds import Bound
from infern.core.wire.chunks import (
    Chunk,
    MalformedChunk,
    estimate_prompt_tokens,
    least_prompt_tokens,
    read_chunk,
    unseen_tokens_max,
)
from infern.core.wire.endpoints import InferenceRequest
from infern.core.wire.faults import UpstreamFault, read_fault
from infern.core.wire.sse_parser import MAX_EVENT_BYTES, SseBlock, SseParser
from infern.core.wire.strict_json import Json, JsonObject, loads_object
from infern.core.wire.usage import (
    UNSEEN_TOKENS_PER_CHOICE,
    UNSEEN_TOKENS_PER_TOOL_CALL,
    Counted,
    Usage,
)

__all__ = ["EventKind", "SseBlock", "SseEvent", "SseMeter", "SseParser"]

MAX_TOKEN_BYTES: Final = 128
"""No answer has longer tokens than this on average; the longest in vocabularies is 128 spaces."""

_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]+')
_TEXT_KEYS: Final = (b"content", b"reasoning_content", b"reasoning", b"text")
_PROBES: Final = (b"~", b"~infern~" * 8)
_MAX_FRUITLESS_SHAPES: Final = 4


class EventKind(Enum):
    """What an event of an answer is."""

    CONTENT = "content"
    """Carries output that is paid for."""
    OTHER = "other"
    """A chunk without output: a role, a finish, progress."""
    USAGE = "usage"
    """The chunk that only has usage; to be hidden unless the consumer asked."""
    COMMENT = "comment"
    """No data at all."""
    DONE = "done"
    """`[DONE]`: the answer is whole."""
    ERROR = "error"
    """A failure of the model server, or what is no chunk of this answer. The answer ends here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SseEvent:
    """An event to pass on or not, and what it is worth.

    Args:
        raw: The bytes to pass on; only a last event without its blank line gets one.
        kind: What it is.
        deltas: Choices it adds text to.
        content_bytes: Bytes of output it carries.
        tool_calls: Tool calls that begin in it.
        endings: Choices that end well with it.
        completion_tokens: Tokens made so far, when it tells them beside the only choice; else 0.
        comments: Its comment lines; a router finds receipts in them.
        json: The usage chunk itself, to send with something added; None for other kinds.
    """

    raw: bytes
    kind: EventKind
    deltas: int = 0
    content_bytes: int = 0
    tool_calls: int = 0
    endings: int = 0
    completion_tokens: int = 0
    comments: tuple[bytes, ...] = ()
    json: Mapping[str, Json] | None = None


@dataclass(slots=True)
class _Totals:
    """Sums over events: of all that came, or of all that the consumer got."""

    deltas: int = 0
    content_bytes: int = 0
    tool_calls: int = 0
    endings: int = 0
    completion_tokens: int = 0

    def add(self, event: SseEvent) -> None:
        self.deltas += event.deltas
        self.content_bytes += event.content_bytes
        self.tool_calls += event.tool_calls
        self.endings += event.endings
        self.completion_tokens = max(self.completion_tokens, event.completion_tokens)


@dataclass(slots=True)
class _Choice:
    """What one choice has said so far, for its own limit."""

    deltas: int = 0
    content_bytes: int = 0

    def note(self, size: int) -> None:
        self.deltas += 1
        self.content_bytes += size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Bytes before and after the text of a chunk, proven to be those of a chunk with one text."""

    before: bytes
    after: bytes
    choice: _Choice


class SseMeter:
    """Follows one streamed answer.

    Every chunk is parsed, except that a chunk may differ from the one before only in its text.
    Then the text is all that stands between the same bytes, and its length is the result. That a
    shape may be used so is proven by parsing it twice with other texts in the place.

    Feed it what the model server sends, pass on what it returns, and tell it with `mark_sent` what
    the consumer's connection took: only that counts as delivered.

    Args:
        request: What was asked.
        bound: What was quoted.
        max_event_bytes: Longest event.
    """

    def __init__(
        self, request: InferenceRequest, bound: Bound, *, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self._request = request
        self._bound = bound
        self._parser = SseParser(max_event_bytes=max_event_bytes)
        self._choices: dict[int, _Choice] = {}
        self._finish_of: dict[int, str] = {}
        self._seen = _Totals()
        self._sent = _Totals()
        self._prompt_estimate = estimate_prompt_tokens(request)
        self._shape: _Shape | None = None
        self._fruitless_shapes = 0
        self._usage: Usage | None = None
        self._prompt_tokens: int | None = None
        self._fault: UpstreamFault | None = None
        self._is_done = False

    @property
    def usage(self) -> Usage | None:
        """The last report that could be used.

        One that came before all of several choices had ended covers one of them and is none, nor is
        one of no tokens while the answer goes on: these only tell the prompt, see `counted`.
        """
        return self._usage

    @property
    def fault(self) -> UpstreamFault | None:
        """The error the model server sent, or what was wrong with what it sent."""
        return self._fault

    @property
    def is_done(self) -> bool:
        """Whether `[DONE]` came."""
        return self._is_done

    @property
    def is_finished(self) -> bool:
        """Whether the answer is whole: every choice ended or `[DONE]` came, and nothing failed."""
        whole = self._is_done or len(self._finish_of) >= self._request.choices
        return whole and self._fault is None

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Why each choice ended, by its index."""
        return dict(self._finish_of)

    @property
    def is_over_limit(self) -> bool:
        """Whether a choice certainly has more tokens than its limit; then cut it off."""
        limit = self._bound.completion_tokens_max + UNSEEN_TOKENS_PER_CHOICE
        limit += UNSEEN_TOKENS_PER_TOOL_CALL * self._seen.tool_calls
        return any(
            choice.deltas > limit or choice.content_bytes > limit * MAX_TOKEN_BYTES
            for choice in self._choices.values()
        )

    def is_hidden(self, event: SseEvent) -> bool:
        """Whether the consumer must not get this event.

        That is the usage chunk if it was not asked for, and errors: the seller sends its own,
        which says what happened to the money and nothing about the model server's inside.
        """
        if event.kind is EventKind.USAGE:
            return not self._request.include_usage_asked
        return event.kind is EventKind.ERROR

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take the next bytes of the body; return the events that are now complete.

        Whatever comes after `[DONE]` or an error is dropped: it is part of no answer.

        Raises:
            UpstreamUnavailable: An event is longer than the limit.
        """
        events: list[SseEvent] = []
        for raw in self._parser.blocks(data):
            if self._is_done or self._fault is not None:
                break
            events.append(self._meter(raw))
        return events

    def finish(self) -> list[SseEvent]:
        """Take the end of the body; return what stood there without its blank line."""
        rest = self._parser.finish()
        if rest is None or self._is_done or self._fault is not None:
            return []
        event = self._judge(rest)
        if event.kind is EventKind.COMMENT and not event.comments:
            return []
        self._seen.add(event)
        return [replace(event, raw=rest.raw.rstrip(b"\r\n") + b"\n\n")]

    def mark_sent(self, event: SseEvent) -> None:
        """Say that the consumer's connection took this event."""
        self._sent.add(event)

    def counted(self) -> Counted:
        """What was delivered so far, for `charge_usage`.

        With several prompts in one request, a chunk speaks of one of them; then what was told of
        the prompt early counts only where it is more than the estimate of all.
        """
        sent = self._sent
        early = self._prompt_tokens
        if early is not None and len(self._request.prompts) > 1:
            early = max(early, self._prompt_estimate)
        ended_well = sent.endings > 0 and self._fault is None
        return Counted(
            deltas=sent.deltas,
            content_bytes=sent.content_bytes,
            is_delivered=sent.content_bytes > 0 or ended_well,
            is_complete=self.is_finished and sent == self._seen,
            unseen_tokens_max=unseen_tokens_max(self._request, sent.tool_calls),
            prompt_tokens_estimate=self._prompt_estimate,
            prompt_tokens_early=early,
            completion_tokens_early=sent.completion_tokens,
            prompt_tokens_least=least_prompt_tokens(self._request),
        )

    def _meter(self, raw: bytes) -> SseEvent:
        shape = self._shape
        if (
            shape is not None
            and raw.startswith(shape.before)
            and raw.endswith(shape.after)
            and _is_plain(raw, len(shape.before), len(raw) - len(shape.after))
        ):
            self._fruitless_shapes = 0
            size = len(raw) - len(shape.before) - len(shape.after)
            shape.choice.note(size)
            event = SseEvent(raw=raw, kind=EventKind.CONTENT, deltas=1, content_bytes=size)
        else:
            event = self._judge(self._parser.read(raw))
        self._seen.add(event)
        return event

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    def _judge(self, block: SseBlock) -> SseEvent:
        if block.data is None:
            fault = _bare_fault(block.raw)
            if fault is not None:
                return self._fail(block, fault)
            return SseEvent(raw=block.raw, kind=EventKind.COMMENT, comments=block.comments)
        data = block.data.strip()
        if data == b"[DONE]":
            self._is_done = True
            return SseEvent(raw=block.raw, kind=EventKind.DONE, comments=block.comments)
        if not data:
            return SseEvent(raw=block.raw, kind=EventKind.OTHER, comments=block.comments)
        members, chunk = self._read(data)
        if chunk.fault is not None:
            return self._fail(block, chunk.fault)
        if block.event == b"error":
            return self._fail(block, UpstreamFault(message="an error event without a message"))
        if chunk.text:
            self._learn(block.raw, chunk)
        event = self._add_up(block, chunk, members)
        self._note_usage(chunk)
        return event

    def _read(self, data: bytes) -> tuple[JsonObject, Chunk]:
        """Read a chunk; what is none becomes a fault of the model server."""
        try:
            members = loads_object(data)
            return members, read_chunk(members, choices=self._request.choices)
        except (InfernError, MalformedChunk) as error:
            return {}, Chunk(fault=UpstreamFault(message=str(error), code="malformed_event"))

    def _fail(self, block: SseBlock, fault: UpstreamFault) -> SseEvent:
        self._fault = fault
        return SseEvent(raw=block.raw, kind=EventKind.ERROR, comments=block.comments)

    def _note_usage(self, chunk: Chunk) -> None:
        """Keep what a chunk tells of tokens; its own choices are already added up."""
        if chunk.prompt_tokens is not None:
            self._prompt_tokens = max(self._prompt_tokens or 0, chunk.prompt_tokens)
        if chunk.usage is None:
            return
        covers_all = self._request.choices == 1 and chunk.usage.completion_tokens > 0
        if covers_all or not chunk.pieces or len(self._finish_of) >= self._request.choices:
            self._usage = chunk.usage

    def _add_up(self, block: SseBlock, chunk: Chunk, members: JsonObject) -> SseEvent:
        deltas = content_bytes = tool_calls = endings = 0
        for piece in chunk.pieces:
            if piece.content_bytes:
                deltas += 1
                content_bytes += piece.content_bytes
                self._choice(piece.choice).note(piece.content_bytes)
            tool_calls += piece.tool_calls
            if piece.finish_reason:
                endings += piece.has_ended_well
                self._finish_of[piece.choice] = piece.finish_reason
        kind = EventKind.USAGE if chunk.is_usage_only else EventKind.OTHER
        usage = chunk.usage if chunk.pieces and self._request.choices == 1 else None
        return SseEvent(
            raw=block.raw,
            kind=EventKind.CONTENT if deltas else kind,
            deltas=deltas,
            content_bytes=content_bytes,
            tool_calls=tool_calls,
            endings=endings,
            completion_tokens=0 if usage is None else usage.completion_tokens,
            comments=block.comments,
            json=members if chunk.is_usage_only else None,
        )

    def _learn(self, raw: bytes, chunk: Chunk) -> None:
        """Remember the bytes around this chunk's text, if they are proven to be just that."""
        text = chunk.text.encode("utf-8")
        if not _PLAIN.fullmatch(text):
            return
        if self._shape is not None:
            self._shape = None
            self._fruitless_shapes += 1
        if self._fruitless_shapes > _MAX_FRUITLESS_SHAPES:
            return
        for key in _TEXT_KEYS:
            for gap in (b"", b" "):
                head, found, _ = raw.partition(b'"' + key + b'":' + gap + b'"' + text + b'"')
                if found:
                    start = len(head) + len(found) - len(text) - 1
                    before, after = raw[:start], raw[start + len(text) :]
                    if self._is_proven(before, after, chunk.pieces[0].choice):
                        choice = self._choice(chunk.pieces[0].choice)
                        self._shape = _Shape(before=before, after=after, choice=choice)
                    return

    def _is_proven(self, before: bytes, after: bytes, choice: int) -> bool:
        """Whether any plain text between these bytes is the one text of one choice."""
        for probe in _PROBES:
            event = self._parser.read(before + probe + after)
            if event.data is None or event.comments or event.event:
                return False
            _, chunk = self._read(event.data)
            if chunk.text.encode("utf-8") != probe or chunk.pieces[0].choice != choice:
                return False
        return True


def _bare_fault(raw: bytes) -> UpstreamFault | None:
    """The error that a server wrote as a line of JSON, without the form of an event.

    LM Studio does so for what it cannot route, with status 200; servers that stream JSON lines do.
    """
    if not raw.lstrip().startswith(b"{"):
        return None
    try:
        return read_fault(loads_object(raw))
    except InfernError:
        return None


def _is_plain(raw: bytes, start: int, end: int) -> bool:
    """Whether these bytes are a text that stands in JSON as it is."""
    if _PLAIN.fullmatch(raw, start, end) is None:
        return False
    if raw.isascii():
        return True
    try:
        raw[start:end].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
