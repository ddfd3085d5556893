"""The body sent to one's own model server: what was priced, and nothing else.

Written anew from the parsed request, so that the model server's parser cannot find anything in it
that ours did not. A router never does this: it forwards the consumer's bytes, because their
digest is what was paid for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one model server wants its requests.

    Args:
        token_limit: Members for the limit of a chat request; completions know only `max_tokens`.
        pinned: Members the operator sets on every generation, e.g. `{"cache_prompt": false}`;
            they win over the consumer's.

    Raises:
        ConfigError: A pinned member that would change what was priced.
    """

    token_limit: TokenLimit = TokenLimit.MAX_TOKENS
    pinned: Mapping[str, Json] = field(default_factory=dict)

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
        force_usage: Ask for the usage chunk of a stream even if the consumer did not; the meter
            then hides it.
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
    body.update(dialect.pinned)
    return dumps(body)
