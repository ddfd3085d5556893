"""Prompts that a model server cuts without saying so.

Ollama drops messages and tokens of a prompt that is longer than its context, LM Studio may; both
then answer what is left, and report only that. The bill follows the report, so nobody pays for what
was left out. But nobody asked for that answer either. So a prompt that seems too long is refused
before it is sold (`bounds`), and what a cut leaves to be seen in the report is flagged here.
"""

from infern.core.wire.bounds import ModelLimits
from infern.core.wire.endpoints import Endpoint, InferenceRequest
from infern.core.wire.prompt_size import TYPICAL_BYTES_PER_TOKEN
from infern.core.wire.usage import (
    LONGEST_MEAN_TOKEN_BYTES,
    Counted,
    Usage,
    UsageFlag,
    told_prompt_tokens,
)


def prompt_flags(
    request: InferenceRequest, limits: ModelLimits, reported: Usage | None, counted: Counted
) -> frozenset[UsageFlag]:
    """What the report shows of a cut. It changes nothing in the bill."""
    told = told_prompt_tokens(reported, counted)
    if not told:
        return frozenset()
    flags: set[UsageFlag] = set()
    if told >= limits.context_tokens * len(request.prompts):
        flags.add(UsageFlag.PROMPT_FILLS_CONTEXT)
    per_token = TYPICAL_BYTES_PER_TOKEN if limits.cuts_prompts else LONGEST_MEAN_TOKEN_BYTES
    if told < sum(size.token_ids + size.text_bytes // per_token for size in request.prompts):
        flags.add(UsageFlag.PROMPT_BELOW_SENT)
    return frozenset(flags)


def is_cut_to_nothing(
    request: InferenceRequest, limits: ModelLimits, reported: Usage | None, counted: Counted
) -> bool:
    """Whether an answer is empty because its prompt left no room for it.

    LM Studio ends such an answer as if it were one. It is none: nothing is charged for it.
    """
    if request.endpoint is Endpoint.EMBEDDINGS or counted.content_bytes:
        return False
    told = told_prompt_tokens(reported, counted)
    return told is not None and told >= limits.context_tokens * len(request.prompts)
