"""What one chunk of an answer holds: how much text, whether usage, whether an error.

Reads chat and completions alike. Everything the consumer can see as model output counts: content,
reasoning, refusals, tool names and arguments.

Source: the OpenAI API reference for streaming; vLLM and OpenRouter for `reasoning_content` and
`reasoning` (some servers send both names with the same text, so the longer one counts); Mistral for
`content` as a list of parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infern.core.units import div_ceil
from infern.core.wire.endpoints import Endpoint, InferenceRequest
from infern.core.wire.faults import UpstreamFault, read_fault
from infern.core.wire.prompt_size import TYPICAL_BYTES_PER_TOKEN
from infern.core.wire.strict_json import Json, JsonObject, loads_object
from infern.core.wire.usage import (
    LONGEST_MEAN_TOKEN_BYTES,
    UNSEEN_TOKENS_AROUND_JSON,
    UNSEEN_TOKENS_PER_CHOICE,
    UNSEEN_TOKENS_PER_TOOL_CALL,
    Counted,
    Usage,
    read_prompt_tokens,
    read_usage,
)

MAX_FINISH_CHARS: Final = 64
MAX_ANSWER_CONTAINERS: Final = 1_000_000
MAX_ANSWER_STRINGS: Final = 4_000_000
MAX_TYPICAL_IMAGE_TOKENS: Final = 64
"""What an image counts in an estimate of a prompt: few, because estimates stay low."""
_FAILED_FINISHES: Final = frozenset({"error", "abort"})
"""vLLM's and OpenRouter's reasons of a choice that the server gave up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a chunk adds to one choice.

    Args:
        choice: Its index.
        content_bytes: UTF-8 bytes of output; 0 for a role or a finish alone.
        tool_calls: Tool calls that begin here.
        finish_reason: Why the choice ended; empty while it goes on.
    """

    choice: int
    content_bytes: int
    tool_calls: int = 0
    finish_reason: str = ""

    @property
    def has_ended_well(self) -> bool:
        """Whether the choice ended here and not by a failure of the model server."""
        return bool(self.finish_reason) and self.finish_reason not in _FAILED_FINISHES


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One chunk, or one whole answer, as far as metering cares.

    Args:
        pieces: One per choice that it speaks of.
        usage: The report, when it has a usable one.
        fault: The error, when it is one.
        prompt_tokens: The prompt's, when it tells them, in its usage or otherwise.
        is_usage_only: It has usage and no choices: the chunk that `include_usage` adds.
        text: The one text it adds, when it adds exactly one and tells nothing else.
    """

    pieces: tuple[Piece, ...] = ()
    usage: Usage | None = None
    fault: UpstreamFault | None = None
    prompt_tokens: int | None = None
    is_usage_only: bool = False
    text: str = ""


class MalformedChunk(Exception):
    """A chunk that is JSON but not an answer of this endpoint. Caught by the meter."""


def read_chunk(members: Mapping[str, Json], *, choices: int) -> Chunk:
    """Read one parsed chunk or answer.

    Args:
        members: The JSON object.
        choices: How many choices were asked for; an index beyond is malformed.

    Raises:
        MalformedChunk: Not a chunk of a chat or completions answer with so many choices.
    """
    fault = read_fault(members)
    if fault is not None:
        return Chunk(fault=fault)
    listed = members.get("choices")
    if listed is None:
        listed = []
    if not isinstance(listed, list):
        raise MalformedChunk("choices is not a list")
    usage = read_usage(members)
    prompt_tokens = read_prompt_tokens(members, usage)
    texts: list[str] = []
    pieces = tuple(_read_choice(choice, choices, texts) for choice in listed)
    only = len(pieces) == 1 and len(texts) == 1 and pieces[0].tool_calls == 0
    only = only and usage is None and prompt_tokens is None
    return Chunk(
        pieces=pieces,
        usage=usage,
        prompt_tokens=prompt_tokens,
        is_usage_only=not listed and isinstance(members.get("usage"), dict),
        text=texts[0] if only and not pieces[0].finish_reason else "",
    )


def read_answer(body: bytes) -> JsonObject:
    """Read an answer that came in one body; its length is already limited.

    Allows for what answers have and requests never need: twenty candidates with their bytes for
    each token of a long answer.

    Raises:
        RemoteProtocolError: It is not one strict JSON object.
    """
    return loads_object(body, max_containers=MAX_ANSWER_CONTAINERS, max_strings=MAX_ANSWER_STRINGS)


def count_answer(request: InferenceRequest, members: Mapping[str, Json]) -> Counted:
    """Count an answer that came in one body, delivered whole.

    Args:
        request: What was asked.
        members: The parsed body of a successful answer.

    Raises:
        MalformedChunk: It is not an answer to this request.
    """
    if request.endpoint is Endpoint.EMBEDDINGS:
        data = members.get("data")
        return Counted(
            deltas=0,
            content_bytes=0,
            is_delivered=isinstance(data, list) and len(data) > 0 and read_fault(members) is None,
            is_complete=True,
            unseen_tokens_max=0,
            prompt_tokens_estimate=estimate_prompt_tokens(request),
            prompt_tokens_least=least_prompt_tokens(request),
        )
    chunk = read_chunk(members, choices=request.choices)
    content_bytes = sum(piece.content_bytes for piece in chunk.pieces)
    finished = any(piece.has_ended_well for piece in chunk.pieces)
    return Counted(
        deltas=0,
        content_bytes=content_bytes,
        is_delivered=chunk.fault is None and (content_bytes > 0 or finished),
        is_complete=True,
        unseen_tokens_max=unseen_tokens_max(
            request, sum(piece.tool_calls for piece in chunk.pieces)
        ),
        prompt_tokens_estimate=estimate_prompt_tokens(request),
        prompt_tokens_least=least_prompt_tokens(request),
    )


def unseen_tokens_max(request: InferenceRequest, tool_calls: int) -> int | None:
    """Tokens that may have been made without bytes; None when bytes are no check."""
    if not request.is_verifiable:
        return None
    per_choice = UNSEEN_TOKENS_PER_CHOICE + request.longest_stop_bytes
    if "response_format" in request.body or "tools" in request.body:
        per_choice += UNSEEN_TOKENS_AROUND_JSON
    return per_choice * request.choices + UNSEEN_TOKENS_PER_TOOL_CALL * tool_calls


def estimate_prompt_tokens(request: InferenceRequest) -> int:
    """Tokens the prompts probably have, on the low side; billed when nobody counted them."""
    return sum(
        size.token_ids
        + size.text_bytes // TYPICAL_BYTES_PER_TOKEN
        + size.messages
        + MAX_TYPICAL_IMAGE_TOKENS * (size.images + size.audios)
        for size in request.prompts
    )


def least_prompt_tokens(request: InferenceRequest) -> int:
    """Tokens that several prompts have together at least; 0 for one prompt, which needs no check.

    llama.cpp reports the first of several prompts alone.
    """
    if len(request.prompts) == 1:
        return 0
    return sum(
        size.token_ids + div_ceil(size.text_bytes, LONGEST_MEAN_TOKEN_BYTES)
        for size in request.prompts
    )


def _read_choice(choice: Json, choices: int, texts: list[str]) -> Piece:
    if not isinstance(choice, dict):
        raise MalformedChunk("a choice is not an object")
    index = choice.get("index", 0)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < choices:
        raise MalformedChunk("a choice has an index that was not asked for")
    found: list[str] = []
    tool_calls = 0
    message = choice.get("delta")
    if message is None:
        message = choice.get("message")
    if isinstance(message, dict):
        tool_calls = _read_message(message, found)
    _add(found, choice.get("text"))
    texts += found
    finish = choice.get("finish_reason")
    return Piece(
        choice=index,
        content_bytes=sum(_utf8_length(text) for text in found),
        tool_calls=tool_calls,
        finish_reason=finish[:MAX_FINISH_CHARS] if isinstance(finish, str) else "",
    )


def _read_message(message: Mapping[str, Json], found: list[str]) -> int:
    """Collect a delta's or message's texts; returns how many tool calls begin in it."""
    content = message.get("content")
    for part in content if isinstance(content, list) else (content,):
        _add_part(found, part)
    reasoning: list[str] = []
    _add(reasoning, message.get("reasoning_content"))
    _add(reasoning, message.get("reasoning"))
    if reasoning:
        found.append(max(reasoning, key=_utf8_length))
    _add(found, message.get("refusal"))
    begun = 0
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            begun += 1 if function.get("name") else 0
            _add(found, function.get("name"))
            _add(found, function.get("arguments"))
    return begun


def _add_part(found: list[str], part: Json) -> None:
    """Collect one part of a content: a text, `{"text": …}`, or thoughts that are parts again."""
    if not isinstance(part, dict):
        _add(found, part)
        return
    _add(found, part.get("text"))
    thoughts = part.get("thinking")
    for thought in thoughts if isinstance(thoughts, list) else (thoughts,):
        _add(found, thought.get("text") if isinstance(thought, dict) else thought)


def _add(found: list[str], text: Json) -> None:
    if isinstance(text, str) and text:
        found.append(text)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))
