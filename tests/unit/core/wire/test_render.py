import json

import pytest

from infern.core.errors import CODES, InfernError, Money, Retry
from infern.core.wire.render import render_error, render_stream_error

REQUEST_ID = "req_0123456789abcdefghjkmnpqrs"


def test_body_has_openai_members_and_what_programs_need() -> None:
    error = InfernError(
        "Pay first.", code="payment_required", param="model", details={"invoice": "fibt1", "n": 1}
    )
    rendered = render_error(error, REQUEST_ID)
    assert rendered.status == 402
    assert json.loads(rendered.body) == {
        "error": {
            "message": "Pay first.",
            "type": "payment_required",
            "param": "model",
            "code": "payment_required",
            "retry": "new_challenge",
            "money": "unmoved",
            "request_id": REQUEST_ID,
            "f402": {"invoice": "fibt1", "n": 1},
        }
    }


def test_no_details_no_member() -> None:
    body = json.loads(render_error(InfernError("x", code="not_found"), REQUEST_ID).body)
    assert "f402" not in body["error"]
    assert body["error"]["param"] is None


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_repetition_that_could_cost_twice_is_forbidden(code: str) -> None:
    spec = CODES[code]
    rendered = render_error(InfernError("x", code=code), REQUEST_ID)
    harmless = (
        spec.money is Money.UNMOVED and spec.retry is Retry.SAME_CREDENTIAL and spec.status != 402
    )
    assert (rendered.headers.get("x-should-retry") != "false") == harmless
    assert rendered.headers["cache-control"] == "no-store"
    assert "x-should-retry" not in rendered.headers or not harmless


def test_a_raiser_that_knows_better_decides() -> None:
    moved = InfernError("x", code="overloaded", money=Money.MOVED)
    assert render_error(moved, REQUEST_ID).headers["x-should-retry"] == "false"
    assert (
        "x-should-retry"
        not in render_error(InfernError("x", code="overloaded"), REQUEST_ID).headers
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_request", "invalid_request_error"),
        ("unpriceable_request", "invalid_request_error"),
        ("request_too_large", "invalid_request_error"),
        ("already_delivered", "invalid_request_error"),
        ("invalid_api_key", "authentication_error"),
        ("insufficient_balance", "payment_required"),
        ("payment_pending", "payment_required"),
        ("forbidden", "permission_error"),
        ("model_not_found", "not_found_error"),
        ("rate_limit_exceeded", "rate_limit_error"),
        ("provider_failed", "server_error"),
        ("internal_error", "server_error"),
    ],
)
def test_types_are_openais(code: str, kind: str) -> None:
    body = json.loads(render_error(InfernError("x", code=code), REQUEST_ID).body)
    assert body["error"]["type"] == kind


def test_retry_after_and_bearer() -> None:
    pending = InfernError("x", code="payment_pending", retry_after_s=2)
    assert render_error(pending, REQUEST_ID).headers["retry-after"] == "2"
    key = render_error(InfernError("x", code="invalid_api_key"), REQUEST_ID)
    assert key.headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in key.headers


def test_headers_hold_nothing_of_the_message() -> None:
    error = InfernError("a\r\nset-cookie: b", code="forbidden", param="c\r\n")
    for value in render_error(error, REQUEST_ID).headers.values():
        assert value.isprintable()


def test_a_stream_error_is_one_event_whatever_it_says() -> None:
    error = InfernError("x\n\ndata: [DONE]\n\n: f402-receipt y", code="stream_interrupted")
    event = render_stream_error(error, REQUEST_ID)
    assert event.startswith(b"data: {")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert b"\r" not in event
    assert json.loads(event[6:])["error"]["message"] == error.message
