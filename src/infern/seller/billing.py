"""What an answer is billed for, and what is said about a report that was odd."""

import logging
from dataclasses import replace
from typing import Final

from infern.core.wire.cuts import prompt_flags
from infern.core.wire.strict_json import JsonObject
from infern.core.wire.usage import BilledUsage, Counted, Usage, UsageFlag, charge_usage
from infern.seller.pricing import Order

_ADVICE: Final = {
    UsageFlag.MISSING: "its usage is not told; set dialect in [provider]",
    UsageFlag.PROMPT_ABOVE_BOUND: "the prompt is not paid whole; raise template_overhead_tokens",
    UsageFlag.PROMPT_FILLS_CONTEXT: "the prompt was probably cut; check context_tokens",
    UsageFlag.PROMPT_BELOW_SENT: "the prompt was probably cut; check context_tokens",
    UsageFlag.COMPLETION_ABOVE_BOUND: "it wrote more than was ordered; see token_limit",
}
_SERIOUS: Final = frozenset(
    {
        UsageFlag.PROMPT_ABOVE_BOUND,
        UsageFlag.PROMPT_FILLS_CONTEXT,
        UsageFlag.PROMPT_BELOW_SENT,
        UsageFlag.PROMPTS_UNDERCOUNTED,
        UsageFlag.COMPLETION_ABOVE_BOUND,
        UsageFlag.COMPLETION_ABOVE_DELIVERED,
    }
)
"""Either side loses something every time; the others are a server's habits."""
_log = logging.getLogger(__name__)


def bill(order: Order, reported: Usage | None, counted: Counted) -> BilledUsage:
    """Decide what to bill for an answer, and log what was odd about the report.

    An answer that broke off has no report, which is not odd.

    Args:
        order: What was priced.
        reported: The model server's usage; None when there was none.
        counted: What was delivered.
    """
    usage = charge_usage(reported, counted, order.bound)
    cut = prompt_flags(order.request, order.listing.limits, reported, counted)
    usage = replace(usage, flags=usage.flags | cut)
    if usage.flags and (counted.is_complete or reported is not None):
        advice = "; ".join(text for flag, text in _ADVICE.items() if flag in usage.flags)
        _log.log(
            logging.WARNING if usage.flags & _SERIOUS else logging.INFO,
            "%s: %s; reported %s, billed %d and %d%s",
            order.listing.model,
            ", ".join(sorted(usage.flags)),
            "nothing"
            if reported is None
            else f"{reported.prompt_tokens} and {reported.completion_tokens} tokens",
            usage.prompt_tokens,
            usage.completion_tokens,
            f" ({advice})" if advice else "",
        )
    return usage


def odd_members(usage: BilledUsage) -> JsonObject:
    """What to add to the `f402` member of an answer whose usage was odd: `flags`, or nothing."""
    return {"flags": [*sorted(usage.flags)]} if usage.flags else {}
