"""Errors as OpenAI clients read them, with what they must not do next.

Clients show people `error.message` and little else, and drop members beside `error`. They repeat
by status unless told otherwise, so every answer after which a repetition could pay or charge
twice says `x-should-retry: false`.

Source: OpenAI API error object; openai-python and openai-node retry rules (408, 409, 429, 5xx,
`x-should-retry`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infern.core.errors import InfernError, JsonValue, Money, Retry
from infern.core.wire.strict_json import dumps

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "payment_required",
    403: "permission_error",
    404: "not_found_error",
    425: "payment_required",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedError:
    """An error as an HTTP answer.

    Args:
        status: HTTP status.
        headers: Lower-case names; without content-length.
        body: One JSON object, UTF-8.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def render_error(
    error: InfernError, request_id: str, beside: Mapping[str, JsonValue] | None = None
) -> RenderedError:
    """Write an error as a whole answer.

    Args:
        error: What happened.
        beside: Members of the body beside `error`, for clients of another protocol.
        request_id: Names the attempt in logs and receipts. It stands in the body, where people
            who ask for help copy it from; the answer's `x-request-id` is set with every answer.
    """
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    if not may_repeat_unasked(error):
        headers["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(0, error.retry_after_s))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return RenderedError(
        status=error.status,
        headers=headers,
        body=dumps({"error": error_object(error, request_id), **(beside or {})}),
    )


def render_stream_error(error: InfernError, request_id: str) -> bytes:
    """Write an error as one event of a stream that has begun."""
    return b"data: " + dumps({"error": error_object(error, request_id)}) + b"\n\n"


def error_object(error: InfernError, request_id: str) -> dict[str, JsonValue]:
    """The `error` member: OpenAI's four, then `retry`, `money` and the details for programs."""
    members: dict[str, JsonValue] = {
        "message": error.message,
        "type": openai_type(error.status),
        "param": error.param,
        "code": error.code,
        "retry": error.retry.value,
        "money": error.money.value,
        "request_id": request_id,
    }
    if error.details:
        members["f402"] = dict(error.details)
    return members


def openai_type(status: int) -> str:
    """OpenAI's `type` of a status: which kind of exception its clients raise."""
    if status >= 500:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")


def may_repeat_unasked(error: InfernError) -> bool:
    """Whether a client may repeat the same bytes by itself, by its own rules for the status.

    Only when the payer's money is where it was and the same credential is good again. A 402 is
    never repeated unasked: something has to be paid first.
    """
    return (
        error.money is Money.UNMOVED
        and error.retry is Retry.SAME_CREDENTIAL
        and error.status != 402
    )
