"""The ceiling of a request: tokens it can use at most, whatever happens.

A quote is made from this and nothing billed may be above it. So each figure errs upwards, the
upstream request carries the same limit (`rewrite`), and usage is cut to it (`usage`).

**Prompt, P.** With a tokenizer's count, exactly that. Otherwise the bytes of the consumer's text
(see `prompt_size`) plus the listing's figures for what the template adds. A model server never
reads more than its context, so each sequence counts at most that. A byte bound above the context
therefore refuses nothing: real text has a quarter as many tokens as bytes, and only the model
server knows whether it fits. When it does not, the server refuses and nothing is charged. Two
prompts are refused here: one with more tokens than the context however they are counted, and, where
the model server would cut a prompt instead of refusing it, one that seems longer than the context.

**Answer, C, per choice.** The consumer's own limit, else the listing's default. A limit above the
listing's is refused rather than lowered: the consumer asked for an answer that is not sold here.
C is lowered to what the context leaves, but only where the prompt's tokens are really known
(counted or sent as ids): lowered by an overestimate, it would cut answers that fit.

**Choices.** `n` per prompt: a completions request with three prompts and `n` 2 makes six answers.
Each prompt is read once however many choices it has.
"""

from dataclasses import dataclass
from typing import Final

from infern.core.errors import RemoteProtocolError
from infern.core.wire.endpoints import Endpoint, InferenceRequest
from infern.core.wire.members import unpriceable
from infern.core.wire.prompt_size import PromptSize

MAX_CONTEXT_TOKENS: Final = 2**26
"""Wider than any context; keeps every sum far inside what a price can multiply."""
MAX_ITEM_TOKENS: Final = 2**20
LONGEST_TOKEN_BYTES: Final = 128
"""The longest token in vocabularies is 128 spaces: no text has fewer tokens than a 128th."""
CUT_BYTES_PER_TOKEN: Final = 4
"""English has four to five. Where a prompt would be cut, it is rather refused."""
SEQUENCE_OVERHEAD_TOKENS: Final = 8
"""Around a prompt without a template: begin and end of text, the marks around a suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a listing promises and allows.

    Args:
        context_tokens: Tokens of prompt and answer together, per sequence.
        max_completion_tokens: Longest answer on sale.
        default_completion_tokens: The answer's limit when the consumer gives none.
        template_overhead_tokens: What the chat template adds once: begin of text, default
            system prompt, tool instructions, begin of the answer.
        message_overhead_tokens: What the template puts around each message.
        entry_overhead_tokens: What the template puts around each member or item of a dumped
            tool, schema or call: indentation or tags.
        image_tokens: The most tokens one image can have; None refuses images.
        audio_tokens: The most tokens one audio clip can have; None refuses audio.
        max_n: Choices per prompt.
        max_prompts: Prompts of a completions request.
        max_inputs: Inputs of an embeddings request.
        cuts_prompts: Whether the model server answers a part of a prompt that is longer than its
            context; otherwise it refuses.

    Raises:
        ValueError: A limit that no model has, or limits that contradict one another.
    """

    context_tokens: int
    max_completion_tokens: int
    default_completion_tokens: int = 1024
    template_overhead_tokens: int = 256
    message_overhead_tokens: int = 8
    entry_overhead_tokens: int = 16
    image_tokens: int | None = None
    audio_tokens: int | None = None
    max_n: int = 1
    max_prompts: int = 64
    max_inputs: int = 64
    cuts_prompts: bool = False

    def __post_init__(self) -> None:
        """Refuse limits out of range."""
        if not 1 <= self.max_completion_tokens <= self.context_tokens <= MAX_CONTEXT_TOKENS:
            raise ValueError("an answer is 1 to context_tokens long, and a context at most 2^26")
        if self.default_completion_tokens < 1:
            raise ValueError("the default answer limit is at least 1 token")
        overheads = (
            self.template_overhead_tokens,
            self.message_overhead_tokens,
            self.entry_overhead_tokens,
            self.image_tokens or 0,
            self.audio_tokens or 0,
        )
        if not all(0 <= tokens <= MAX_ITEM_TOKENS for tokens in overheads):
            raise ValueError(f"an overhead is 0 to {MAX_ITEM_TOKENS} tokens")
        if not 1 <= self.max_n <= 128:
            raise ValueError("max_n is 1 to 128")
        if not (1 <= self.max_prompts <= 16_384 and 1 <= self.max_inputs <= 16_384):
            raise ValueError("max_prompts is 1 to 16384, and so is max_inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Tokens a request can use at most.

    Args:
        prompt_tokens_max: All prompts together.
        completion_tokens_max: Per choice; 0 for embeddings.
        n: Choices of the whole answer, at least 1.
    """

    prompt_tokens_max: int
    completion_tokens_max: int
    n: int

    def __post_init__(self) -> None:
        """Refuse what no request can have."""
        if self.prompt_tokens_max < 0 or self.completion_tokens_max < 0 or self.n < 1:
            raise ValueError("a bound has 0 or more tokens and 1 or more choices")

    @property
    def all_completion_tokens_max(self) -> int:
        """Completion tokens of all choices together."""
        return self.completion_tokens_max * self.n


def bound(
    request: InferenceRequest, limits: ModelLimits, *, prompt_tokens_exact: int | None = None
) -> Bound:
    """Compute a request's ceiling.

    Args:
        request: From `parse_request`.
        limits: Of the listing that would serve it.
        prompt_tokens_exact: The model server's own count of the whole prompt, when it has one.

    Raises:
        RemoteProtocolError: `unpriceable_request` for images or audio without a price,
            `invalid_request` for more choices, prompts or tokens than are sold,
            `context_length_exceeded` when a prompt leaves no room. Money unmoved.
    """
    _refuse_unsold(request, limits)
    if prompt_tokens_exact is None:
        _refuse_too_long(request, limits)
        prompt = sum(_prompt_tokens(size, limits) for size in request.prompts)
    else:
        prompt = prompt_tokens_exact
    if request.endpoint is Endpoint.EMBEDDINGS:
        return Bound(prompt_tokens_max=prompt, completion_tokens_max=0, n=1)
    asked = request.completion_tokens_asked
    if asked is not None and asked > limits.max_completion_tokens:
        raise RemoteProtocolError(
            f"An answer of {asked} tokens is not sold here; ask for at most "
            f"{limits.max_completion_tokens}.",
            param="max_tokens",
        )
    wanted = asked or min(limits.default_completion_tokens, limits.max_completion_tokens)
    room = limits.context_tokens - _prompt_tokens_known(request, prompt_tokens_exact)
    if room < 1:
        raise RemoteProtocolError(
            f"The prompt fills the context of {limits.context_tokens} tokens; shorten it.",
            code="context_length_exceeded",
            param=_PROMPT_MEMBER[request.endpoint],
        )
    return Bound(
        prompt_tokens_max=prompt, completion_tokens_max=min(wanted, room), n=request.choices
    )


_PROMPT_MEMBER: Final = {
    Endpoint.CHAT_COMPLETIONS: "messages",
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.EMBEDDINGS: "input",
}


def _refuse_unsold(request: InferenceRequest, limits: ModelLimits) -> None:
    param = _PROMPT_MEMBER[request.endpoint]
    if request.n > limits.max_n:
        raise RemoteProtocolError(f"n is at most {limits.max_n} here.", param="n")
    is_embedding = request.endpoint is Endpoint.EMBEDDINGS
    most = limits.max_inputs if is_embedding else limits.max_prompts
    if len(request.prompts) > most:
        raise RemoteProtocolError(f"{param} has at most {most} items here.", param=param)
    for size in request.prompts:
        if size.images and limits.image_tokens is None:
            raise unpriceable(param, "this model takes no images")
        if size.audios and limits.audio_tokens is None:
            raise unpriceable(param, "this model takes no audio")


def _refuse_too_long(request: InferenceRequest, limits: ModelLimits) -> None:
    for size in request.prompts:
        least = size.token_ids + size.text_bytes // LONGEST_TOKEN_BYTES
        probably = size.token_ids + size.text_bytes // CUT_BYTES_PER_TOKEN
        if least > limits.context_tokens:
            raise _too_long(request, f"has more than the {limits.context_tokens} tokens")
        if limits.cuts_prompts and probably > limits.context_tokens:
            raise _too_long(request, f"seems to have more than the {limits.context_tokens} tokens")


def _too_long(request: InferenceRequest, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"The prompt {what} of this model's context; shorten it.",
        code="context_length_exceeded",
        param=_PROMPT_MEMBER[request.endpoint],
    )


def _prompt_tokens(size: PromptSize, limits: ModelLimits) -> int:
    tokens = (
        size.text_bytes
        + size.token_ids
        + (limits.template_overhead_tokens if size.messages else SEQUENCE_OVERHEAD_TOKENS)
        + limits.message_overhead_tokens * size.messages
        + limits.entry_overhead_tokens * size.entries
        + (limits.image_tokens or 0) * size.images
        + (limits.audio_tokens or 0) * size.audios
    )
    return min(tokens, limits.context_tokens)


def _prompt_tokens_known(request: InferenceRequest, exact: int | None) -> int:
    """Tokens the shortest prompt certainly has; every choice shares one limit."""
    if exact is not None and len(request.prompts) == 1:
        return exact
    return min(max(size.token_ids, 1) for size in request.prompts)
