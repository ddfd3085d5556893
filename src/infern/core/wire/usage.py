"""What an answer used, who says so, and what of it may be billed.

Two witnesses: the model server reports tokens, and the meter counts what went by. The bill
follows the report as far as it is possible, and never further:

* never above the bound: that is what was quoted and held;
* never above what was delivered: a token that a consumer can see has at least one byte, so an
  answer of B bytes had at most B tokens plus those that leave no bytes (end of text, channel and
  tool-call markers, a stop sequence that was matched);
* when the answer broke off, what was delivered of it and not what was made: what the server told
  with the last chunk that went out, if it tells as it goes;
* without a report, what went by: the deltas, or an estimate from the bytes that stays low where
  one delta holds several tokens. `None` is no report; 0 is a report. The prompt is then what the
  model server told of it before the answer broke off, and an estimate if it told nothing. A prompt
  of 0 tokens is nothing told: there is none, but servers that had it in a cache say so.

Whatever was corrected is flagged, as evidence about the provider or its model server, and so is
what a model server shows of a prompt that it cut (`cuts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from infern.core.units import div_ceil
from infern.core.wire.bounds import Bound
from infern.core.wire.prompt_size import TYPICAL_BYTES_PER_TOKEN
from infern.core.wire.strict_json import Json

MAX_REPORTED_TOKENS: Final = 2**31 - 1
UNSEEN_TOKENS_PER_CHOICE: Final = 32
"""End of text, begin and end of reasoning, channel markers, trimmed white space."""
UNSEEN_TOKENS_AROUND_JSON: Final = 48
"""White space before and after constrained output, which servers trim: llama.cpp's grammars allow
about twenty characters on each side, and a model that was not asked nicely uses them."""
UNSEEN_TOKENS_PER_TOOL_CALL: Final = 64
"""The markup around one call, which the server's parser removes."""
LONGEST_MEAN_TOKEN_BYTES: Final = 16
"""No text has tokens this long on average; an answer with more bytes per token was undercounted."""


class UsageSource(StrEnum):
    """Whose numbers a usage has."""

    UPSTREAM = "upstream"
    """The model server's."""
    COUNTED = "counted"
    """Ours, from what went by; the prompt is then what was told early, or estimated low."""


class UsageFlag(StrEnum):
    """What was odd about a usage."""

    MISSING = "usage_missing"
    """No usable report; counted instead."""
    NOTHING_DELIVERED = "nothing_delivered"
    """Nothing reached the consumer; nothing is billed."""
    PROMPT_ABOVE_BOUND = "prompt_above_bound"
    PROMPT_ZERO = "prompt_zero"
    """No prompt tokens reported; what was told early or an estimate instead."""
    PROMPTS_UNDERCOUNTED = "prompts_undercounted"
    """Several prompts, and the report covers only some of them."""
    PROMPT_FILLS_CONTEXT = "prompt_fills_context"
    """The prompt left no room for an answer; a server that answers all the same has cut it."""
    PROMPT_BELOW_SENT = "prompt_below_sent"
    """Fewer prompt tokens than what was sent has: the server left a part of it out."""
    COMPLETION_ABOVE_BOUND = "completion_above_bound"
    COMPLETION_ABOVE_DELIVERED = "completion_above_delivered"
    """More tokens reported than the delivered bytes can hold."""
    ZERO_WITH_CONTENT = "zero_with_content"
    """No completion tokens reported, yet there was an answer; counted instead."""
    CHOICES_UNDERCOUNTED = "choices_undercounted"
    """Several choices, and the report covers only some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer.

    Args:
        prompt_tokens: Tokens read, cached ones included.
        completion_tokens: Tokens made, reasoning included, over all choices.
        source: Whose numbers these are.
        cached_tokens: Prompt tokens that came from a cache; None when not reported.
        reasoning_tokens: Completion tokens that were reasoning; None when not reported.
    """

    prompt_tokens: int
    completion_tokens: int
    source: UsageSource
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What went by, and what may have been there unseen.

    Args:
        deltas: Pieces of a stream that carried text; 0 for an answer in one body.
        content_bytes: UTF-8 bytes of text, reasoning and tool calls delivered.
        is_delivered: Whether the consumer got an answer or a part of one; an empty answer that
            ended normally counts.
        is_complete: Whether all of the answer reached the consumer.
        unseen_tokens_max: Tokens that may have been made without leaving bytes; None when the
            request asked for such tokens, so that bytes are no check.
        prompt_tokens_estimate: What the prompt probably has, for want of a report.
        prompt_tokens_early: What the model server told of the prompt before its report; None when
            it told nothing.
        completion_tokens_early: What it told of the answer up to what was delivered; 0 when it
            told nothing.
        prompt_tokens_least: What several prompts have together at least; 0 when it is not checked.
    """

    deltas: int
    content_bytes: int
    is_delivered: bool
    is_complete: bool
    unseen_tokens_max: int | None
    prompt_tokens_estimate: int
    prompt_tokens_early: int | None = None
    completion_tokens_early: int = 0
    prompt_tokens_least: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was delivered that could be billed."""
        return not self.is_delivered


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledUsage:
    """Tokens to charge for, and why they differ from the report if they do.

    Args:
        prompt_tokens: At most the bound's.
        completion_tokens: All choices; at most the bound's.
        source: Whose numbers the completion tokens are.
        flags: Oddities, for evidence and metrics.
        reported: The report as it came.
        counted: What went by.
    """

    prompt_tokens: int
    completion_tokens: int
    source: UsageSource
    flags: frozenset[UsageFlag]
    reported: Usage | None
    counted: Counted


def read_usage(body: Mapping[str, Json] | None) -> Usage | None:
    """Find the usage in an answer or a chunk of one.

    Accepts the names of chat, completions and embeddings (`prompt_tokens`, `completion_tokens`)
    and of responses (`input_tokens`, `output_tokens`). An embeddings answer has no completion.

    Returns:
        None when there is none or when its counts are not plain integers in range. Wrong counts
        are no report: taking half of one would mix two witnesses.
    """
    usage = body.get("usage") if body is not None else None
    if body is None or not isinstance(usage, dict):
        return None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    if body.get("object") == "list" and usage.get("completion_tokens") is None:
        completion = 0
    if prompt is None or completion is None:
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        source=UsageSource.UPSTREAM,
        cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
    )


def read_prompt_tokens(members: Mapping[str, Json], usage: Usage | None) -> int | None:
    """The prompt's tokens as a chunk tells them before the answer ends.

    Args:
        members: The chunk.
        usage: What `read_usage` found in it: vLLM's `continuous_usage_stats` puts one in each.

    Returns:
        None when it tells nothing; also for 0, which servers write that do not know yet.

    Source: llama.cpp's `timings_per_token`: `prompt_n` were read now, `cache_n` came from a cache.
    Old versions lack `cache_n`; then the sum is not known.
    """
    if usage is not None:
        return usage.prompt_tokens or None
    timings = members.get("timings")
    if not isinstance(timings, dict):
        return None
    read, cached = _count(timings.get("prompt_n")), _count(timings.get("cache_n"))
    if read is None or cached is None:
        return None
    return read + cached or None


def charge_usage(reported: Usage | None, counted: Counted, bound: Bound) -> BilledUsage:
    """Decide what to bill. Never above the bound, never above what was delivered.

    Args:
        reported: The model server's usage; None when there was none, or the answer broke off.
        counted: What was delivered to the consumer.
        bound: What was quoted.
    """
    flags: set[UsageFlag] = set()
    if not counted.is_delivered:
        prompt, completion = 0, 0
        flags.add(UsageFlag.NOTHING_DELIVERED)
        source = UsageSource.COUNTED
    else:
        prompt = _billed_prompt(reported, counted, bound, flags)
        completion, source = _billed_completion(reported, counted, bound, flags)
    return BilledUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        source=source,
        flags=frozenset(flags),
        reported=reported,
        counted=counted,
    )


def told_prompt_tokens(reported: Usage | None, counted: Counted) -> int | None:
    """The prompt's tokens as the model server told them, in its report or before it."""
    return counted.prompt_tokens_early if reported is None else reported.prompt_tokens


def _billed_prompt(
    reported: Usage | None, counted: Counted, bound: Bound, flags: set[UsageFlag]
) -> int:
    told = told_prompt_tokens(reported, counted)
    if told == 0:
        flags.add(UsageFlag.PROMPT_ZERO)
        told = counted.prompt_tokens_early
    if told is None:
        return min(counted.prompt_tokens_estimate, bound.prompt_tokens_max)
    if told < counted.prompt_tokens_least:
        flags.add(UsageFlag.PROMPTS_UNDERCOUNTED)
        told = counted.prompt_tokens_least
    if told > bound.prompt_tokens_max:
        flags.add(UsageFlag.PROMPT_ABOVE_BOUND)
    return min(told, bound.prompt_tokens_max)


def _billed_completion(
    reported: Usage | None, counted: Counted, bound: Bound, flags: set[UsageFlag]
) -> tuple[int, UsageSource]:
    deltas = min(counted.deltas, counted.content_bytes)
    estimate = max(deltas, counted.content_bytes // TYPICAL_BYTES_PER_TOKEN)
    certain = max(deltas, div_ceil(counted.content_bytes, LONGEST_MEAN_TOKEN_BYTES))
    source = UsageSource.COUNTED
    if reported is None:
        flags.add(UsageFlag.MISSING)
        tokens = max(estimate, certain)
    elif reported.completion_tokens == 0 and counted.content_bytes > 0:
        flags.add(UsageFlag.ZERO_WITH_CONTENT)
        tokens = max(estimate, certain)
    elif not counted.is_complete:
        went_out = max(estimate, certain, counted.completion_tokens_early)
        tokens = min(reported.completion_tokens, went_out)
    elif bound.n > 1 and reported.completion_tokens < certain:
        flags.add(UsageFlag.CHOICES_UNDERCOUNTED)
        tokens = certain
    else:
        tokens, source = reported.completion_tokens, UsageSource.UPSTREAM
    if tokens > bound.all_completion_tokens_max:
        flags.add(UsageFlag.COMPLETION_ABOVE_BOUND)
        tokens = bound.all_completion_tokens_max
    if counted.unseen_tokens_max is not None:
        delivered = counted.content_bytes + counted.unseen_tokens_max
        if tokens > delivered:
            flags.add(UsageFlag.COMPLETION_ABOVE_DELIVERED)
            tokens = delivered
    return tokens, source


def _count(value: Json) -> int | None:
    """A token count as it must be: an integer, not a bool, not negative, not absurd."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_REPORTED_TOKENS else None


def _detail(usage: Mapping[str, Json], group: str, name: str) -> int | None:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else None
