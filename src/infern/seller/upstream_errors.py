"""Errors of a model server as the consumer's errors: right code, money unmoved, nothing private.

What the model server said goes to the log whole, and to the consumer only where it says what to
change in the request.
"""

import logging
from typing import Final, assert_never

from infern.core.errors import (
    DeliveryError,
    InfernError,
    ProtocolError,
    StreamInterrupted,
    UpstreamUnavailable,
)
from infern.core.wire.cuts import is_cut_to_nothing
from infern.core.wire.faults import Blame, UpstreamFault, is_too_long, judge, told
from infern.core.wire.usage import Counted, Usage
from infern.seller.backend import Listing
from infern.seller.pricing import Order

BUSY_RETRY_S: Final = 2
_log = logging.getLogger(__name__)


def refused(status: int, fault: UpstreamFault, listing: Listing) -> InfernError:
    """The error for an answer with an error status."""
    blame = judge(status, fault)
    level = logging.WARNING if blame is Blame.SERVER else logging.INFO
    _log.log(level, "the model server answered %s: %s", status, fault.message)
    match blame:
        case Blame.BUSY:
            return DeliveryError(
                "The model server is busy. Nothing was charged; try again.",
                code="overloaded",
                retry_after_s=BUSY_RETRY_S,
            )
        case Blame.TOO_LONG:
            return _too_long(fault, listing)
        case Blame.TOO_LARGE:
            return ProtocolError(
                "The request is too large for the model server. Nothing was charged.",
                code="request_too_large",
            )
        case Blame.REQUEST:
            return ProtocolError(_reason(fault, listing))
        case Blame.SERVER:
            return UpstreamUnavailable("The model server failed. Nothing was charged; try again.")
    assert_never(blame)


def failed(fault: UpstreamFault, listing: Listing) -> InfernError:
    """The error for a fault inside an answer with status 200, of which nothing is to be delivered.

    LM Studio tells so, in a stream, that a prompt is too long.
    """
    if is_too_long(fault):
        return _too_long(fault, listing)
    _log.warning("the model server failed: %s", fault.message)
    return UpstreamUnavailable("The model server failed. Nothing was charged; try again.")


def broke_off(fault: UpstreamFault, listing: Listing, *, is_delivered: bool) -> InfernError:
    """The error for a fault in a stream: what was delivered before is charged."""
    if not is_delivered and is_too_long(fault):
        return _too_long(fault, listing)
    _log.warning("the model server failed in mid-answer: %s", fault.message)
    return StreamInterrupted("The model server failed in mid-answer.")


def empty(order: Order, reported: Usage | None, counted: Counted) -> InfernError | None:
    """Why an answer is none although it came whole; None when it is one."""
    if is_cut_to_nothing(order.request, order.listing.limits, reported, counted):
        return ProtocolError(
            "The prompt fills the model's context and leaves no room for an answer; shorten it. "
            "Nothing was charged.",
            code="context_length_exceeded",
        )
    if counted.is_empty:
        return UpstreamUnavailable("The model server's answer is empty. Nothing was charged.")
    return None


def _too_long(fault: UpstreamFault, listing: Listing) -> ProtocolError:
    return ProtocolError(_reason(fault, listing), code="context_length_exceeded")


def _reason(fault: UpstreamFault, listing: Listing) -> str:
    reason = told(fault.message, renamed={listing.upstream_name: listing.model}).rstrip(".")
    return f"The model server refused the request: {reason}. Nothing was charged."
