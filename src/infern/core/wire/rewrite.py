"""The body sent to one's own model server: what was priced, and nothing else.

Written anew from the parsed request, so that the model server's parser cannot find anything in it
that ours did not. A router never does this: it forwards the consumer's bytes, because their
digest is what was paid for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from infern.core.errors import ConfigError
from infern.core.wire.bounds import Bound
from infern.core.wire.endpoints import Endpoint, InferenceRequest
from infern.core.wire.strict_json import Json, JsonObject, dumps


class TokenLimit(Enum):
    """Which members tell a model server where to stop; it must obey at least one."""

    MAX_TOKENS = ("max_tokens",)
    """llama.cpp, Ollama, LM Studio and older servers of any kind."""
    MAX_COMPLETION_TOKENS = ("max_completion_tokens",)
    """Servers that refuse the old name."""
    BOTH = ("max_tokens", "max_completion_tokens")
    """vLLM and llama.cpp take both when they agree."""


class EarlyUsage(Enum):
    """How a model server tells the prompt's tokens before a stream ends.

    Without it, a consumer who leaves just before the end is billed an estimate of the prompt, which
    is low on purpose. What the server adds to the chunks for it is passed on with them: the bytes
    of an answer are not changed on the way, and clients skip members they do not know.
    """

    NONE = "none"
    """It cannot, or it is not known whether it can."""
    VLLM = "vllm"
    """`stream_options.continuous_usage_stats`: a `usage` in every chunk. Servers that do not know
    it may refuse it."""
    LLAMA_CPP = "llama_cpp"
    """`timings_per_token`: `timings` with `prompt_n` and `cache_n` in every chunk with a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one model server wants its requests, and what to know of its answers.

    Those with a name are in `dialects`.

    Args:
        token_limit: Members for the limit of a chat request; completions know only `max_tokens`.
        pinned: Members the operator sets on every generation, e.g. `{"cache_prompt": false}`;
            they win over the consumer's.
        early_usage: How it tells the prompt's tokens before a stream ends.
        cuts_prompts: Whether it answers a part of a prompt that is longer than its context.
        counts_one: Whether one usage covers one choice of one prompt, whatever was asked for; then
            no more than that is sold.

    Raises:
        ConfigError: A pinned member that would change what was priced.
    """

    token_limit: TokenLimit = TokenLimit.MAX_TOKENS
    pinned: Mapping[str, Json] = field(default_factory=dict)
    early_usage: EarlyUsage = EarlyUsage.NONE
    cuts_prompts: bool = False
    counts_one: bool = False

    def __post_init__(self) -> None:
        """Refuse to pin what `to_upstream` decides."""
        for name in self.pinned:
            if name in _DECIDED:
                raise ConfigError(f"{name} is set from the quote and cannot be pinned")


_DECIDED: Final = frozenset(
    {"model", "messages", "prompt", "input", "stream", "stream_options", "max_tokens"}
    | {"max_completion_tokens", "n", "best_of", "n_predict"}
)
_DEFAULT_DIALECT: Final = Dialect()


def to_upstream(
    request: InferenceRequest,
    bound: Bound,
    *,
    upstream_model: str,
    force_usage: bool = True,
    dialect: Dialect = _DEFAULT_DIALECT,
) -> bytes:
    """Write the body for a model server.

    Args:
        request: What was priced.
        bound: Its ceiling; the token limit is always sent, asked for or not.
        upstream_model: The model server's name of the model.
        force_usage: Ask for usage in a stream even if the consumer did not: the usage chunk, which
            the meter then hides, and what the dialect tells early.
        dialect: How this server wants it.
    """
    body: JsonObject = {"model": upstream_model, **request.body}
    if request.endpoint is Endpoint.EMBEDDINGS:
        return dumps(body)
    names = dialect.token_limit.value
    if request.endpoint is Endpoint.COMPLETIONS:
        names = TokenLimit.MAX_TOKENS.value
    for name in names:
        body[name] = bound.completion_tokens_max
    if request.n > 1:
        body["n"] = request.n
    body["stream"] = request.stream
    if request.stream and (force_usage or request.include_usage_asked):
        body["stream_options"] = {"include_usage": True}
        match dialect.early_usage:
            case EarlyUsage.NONE:
                pass
            case EarlyUsage.VLLM:
                body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
            case EarlyUsage.LLAMA_CPP:
                body["timings_per_token"] = True
            case _:
                assert_never(dialect.early_usage)
    body.update(dialect.pinned)
    return dumps(body)
