"""The endpoints that have a price, and their requests as values.

`parse_request` is the only door from a body to anything that is quoted, held or forwarded. What
comes out holds nothing that `members` does not serve, so a quote made from it covers it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from infern.core.errors import RemoteProtocolError
from infern.core.wire.chat_prompt import chat_prompt_size
from infern.core.wire.members import (
    CHAT_MEMBERS,
    COMPLETIONS_MEMBERS,
    EMBEDDINGS_MEMBERS,
    ROUTING_MEMBERS,
    UNVERIFIABLE_MEMBERS,
    is_int,
    keep_members,
    unpriceable,
    wrong_shape,
)
from infern.core.wire.prompt_size import PromptSize, text_bytes
from infern.core.wire.strict_json import Json, JsonObject, loads_object

MAX_MODEL_CHARS: Final = 256
MAX_CHOICES: Final = 128
"""More choices than any server makes at once; `ModelLimits.max_n` is the listing's own limit."""
MAX_SEQUENCES: Final = 16_384
MAX_TOKEN_ID: Final = 2**31 - 1


class Endpoint(Enum):
    """An endpoint of the OpenAI API that can be paid for; the value is its path."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"

    @property
    def path(self) -> str:
        """Path on a seller, e.g. `/v1/chat/completions`."""
        return self.value

    @property
    def upstream_path(self) -> str:
        """Path below a model server's base URL, e.g. `/chat/completions`."""
        return self.value.removeprefix("/v1")

    @classmethod
    def from_path(cls, path: str) -> "Endpoint | None":
        """The endpoint of a path without query; None when it is not one that is paid for."""
        return _BY_PATH.get(path)


_BY_PATH: Final = {endpoint.value: endpoint for endpoint in Endpoint}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A request that was read, checked and counted.

    Args:
        endpoint: Where it was sent.
        model: The name the consumer asked for.
        stream: Whether the answer is to be server-sent events.
        include_usage_asked: Whether the consumer wants the usage chunk of a stream.
        prompts: One size per sequence: one for chat, one per prompt or input otherwise.
        completion_tokens_asked: The consumer's own limit per choice; None when there is none.
        n: Choices per prompt.
        longest_stop_bytes: The longest stop sequence; as many bytes may be generated unseen.
        is_verifiable: False when the consumer asked for something that makes tokens without
            bytes possible, so that delivered bytes are no check on reported usage.
        body: The served members except those above that are set anew upstream (`model`, `stream`,
            `stream_options`, limits, `n`), in the order they came.
        routing: Members for routers (`provider`, `models`), unread.
    """

    endpoint: Endpoint
    model: str
    stream: bool
    include_usage_asked: bool
    prompts: tuple[PromptSize, ...]
    completion_tokens_asked: int | None
    n: int
    longest_stop_bytes: int
    is_verifiable: bool
    body: Mapping[str, Json] = field(repr=False)
    routing: Mapping[str, Json] = field(repr=False)

    @property
    def prompt_bytes_bound(self) -> int:
        """Bytes and token ids of all prompts: tokens the consumer's part can have at most."""
        return sum(p.text_bytes + p.token_ids for p in self.prompts)

    @property
    def choices(self) -> int:
        """Choices of the whole answer: each prompt of a completions request gets `n` of its own."""
        return 0 if self.endpoint is Endpoint.EMBEDDINGS else self.n * len(self.prompts)


def parse_request(endpoint: Endpoint, body: bytes) -> InferenceRequest:
    """Read the body of a request.

    Args:
        endpoint: Where it was sent.
        body: The raw body; its length is already limited.

    Raises:
        RemoteProtocolError: `invalid_request` when it cannot be read, `unpriceable_request` when
            it asks for something without a price; `param` names the member. Money unmoved.
    """
    members = loads_object(body)
    match endpoint:
        case Endpoint.CHAT_COMPLETIONS:
            kept = keep_members(members, CHAT_MEMBERS)
            prompts: tuple[PromptSize, ...] = (chat_prompt_size(kept),)
        case Endpoint.COMPLETIONS:
            kept = keep_members(members, COMPLETIONS_MEMBERS)
            prompts = _prompts(kept, "prompt", _suffix_bytes(kept))
        case Endpoint.EMBEDDINGS:
            kept = keep_members(members, EMBEDDINGS_MEMBERS)
            prompts = _prompts(kept, "input", 0)
        case _:
            assert_never(endpoint)
    stream = _flag(kept, "stream")
    n = _count(kept, "n", least=1, most=MAX_CHOICES) or 1
    best_of = _count(kept, "best_of", least=1, most=MAX_CHOICES) or n
    if best_of != n:
        raise unpriceable("best_of", "candidates that are not delivered cannot be checked by you")
    return InferenceRequest(
        endpoint=endpoint,
        model=_model(kept),
        stream=stream,
        include_usage_asked=stream and _usage_asked(kept),
        prompts=prompts,
        completion_tokens_asked=_limit_asked(kept),
        n=n,
        longest_stop_bytes=_longest_stop(kept.get("stop")),
        is_verifiable=not any(kept.get(name) for name in UNVERIFIABLE_MEMBERS),
        body={name: value for name, value in kept.items() if name not in _SET_ANEW},
        routing={name: members[name] for name in ROUTING_MEMBERS if name in members},
    )


_SET_ANEW: Final = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of"}
)


def _model(members: JsonObject) -> str:
    model = members.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARS:
        raise wrong_shape("model", f"a text of 1 to {MAX_MODEL_CHARS} characters")
    if not model.isprintable():
        raise wrong_shape("model", "a printable name")
    return model


def _flag(members: JsonObject, name: str) -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise wrong_shape(name, "true or false")
    return value


def _count(members: JsonObject, name: str, *, least: int, most: int | None = None) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or not is_int(value) or value < least:
        raise wrong_shape(name, f"an integer of {least} or more")
    if most is not None and value > most:
        raise wrong_shape(name, f"an integer from {least} to {most}")
    return value


def _limit_asked(members: JsonObject) -> int | None:
    """The consumer's token limit. Two different ones are refused: servers pick differently."""
    new = _count(members, "max_completion_tokens", least=1)
    old = _count(members, "max_tokens", least=1)
    if new is not None and old is not None and new != old:
        raise RemoteProtocolError(
            "max_tokens and max_completion_tokens differ; send one of them.",
            param="max_tokens",
        )
    return old if new is None else new


def _usage_asked(members: JsonObject) -> bool:
    options = members.get("stream_options", {})
    if not isinstance(options, dict):
        raise wrong_shape("stream_options", "an object")
    asked = options.get("include_usage")
    if asked is not None and not isinstance(asked, bool):
        raise wrong_shape("stream_options.include_usage", "true or false")
    return asked is True


def _longest_stop(stop: Json) -> int:
    if isinstance(stop, str):
        return len(stop.encode("utf-8"))
    if isinstance(stop, list):
        return max((len(s.encode("utf-8")) for s in stop if isinstance(s, str)), default=0)
    return 0


def _suffix_bytes(members: JsonObject) -> int:
    suffix = members.get("suffix", "")
    if not isinstance(suffix, str):
        raise wrong_shape("suffix", "a text")
    return text_bytes(suffix)


def _prompts(members: JsonObject, name: str, extra_bytes: int) -> tuple[PromptSize, ...]:
    """Sizes of `prompt` or `input`: a text, texts, token ids, or lists of token ids."""
    value = members.get(name)
    shape = "a text, a list of texts, a list of token ids, or a list of such lists"
    if isinstance(value, str):
        return (PromptSize(text_bytes=text_bytes(value) + extra_bytes),)
    if not isinstance(value, list) or not value:
        raise wrong_shape(name, shape + ", not empty")
    if is_int(value[0]):
        return (PromptSize(token_ids=_token_ids(value, name), text_bytes=extra_bytes),)
    if len(value) > MAX_SEQUENCES:
        raise wrong_shape(name, f"a list of at most {MAX_SEQUENCES} prompts")
    sizes: list[PromptSize] = []
    for item in value:
        if isinstance(item, str) and isinstance(value[0], str):
            sizes.append(PromptSize(text_bytes=text_bytes(item) + extra_bytes))
        elif isinstance(item, list) and item and isinstance(value[0], list):
            sizes.append(PromptSize(token_ids=_token_ids(item, name), text_bytes=extra_bytes))
        else:
            raise wrong_shape(name, shape + ", all of one kind")
    return tuple(sizes)


def _token_ids(items: list[Json], name: str) -> int:
    for item in items:
        if not isinstance(item, int) or not is_int(item) or not 0 <= item <= MAX_TOKEN_ID:
            raise wrong_shape(name, "token ids from 0 to 2147483647 only, when it has any")
    return len(items)
