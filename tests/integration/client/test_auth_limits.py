"""What `F402Auth` does with strange answers: huge, packed, redirected; and what it leaves alone."""

import httpx2
import pytest

from infern.client.auth import F402Auth
from infern.client.messages import OneHopHeaders
from infern.client.wallet import MAX_ERROR_BYTES
from infern.core.errors import PaymentOutcomeUnknown
from infern.testing.offers import BODY
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import SellerAnswer, Turn

STREAMED = BODY[:-1] + b',"stream":true}'
URL = "https://router.test/v1/chat/completions"


def client_of(world, transport=None, **options):
    auth = F402Auth(world.wallet())
    return httpx2.Client(transport=transport or world.transport, auth=auth, **options)


class Changed(httpx2.BaseTransport):
    """The seller's answers, changed on their way."""

    def __init__(self, world, change):
        self.world = world
        self.change = change

    def handle_request(self, request):
        response = self.world.transport.handle_request(request)
        return self.change(request, response)


class Endless(httpx2.SyncByteStream):
    def __init__(self):
        self.sent = 0
        self.is_closed = False

    def __iter__(self):
        while True:
            self.sent += 1_000
            yield b"x" * 1_000

    def close(self):
        self.is_closed = True


def test_abuse_38_an_endless_402_is_read_up_to_the_limit(world):
    body = Endless()

    def change(_request, response):
        response.stream = body
        return response

    with client_of(world, Changed(world, change)) as client:
        answer = client.post(URL, content=BODY)
    assert answer.json()["error"]["code"] == "offer_refused"
    assert body.sent <= MAX_ERROR_BYTES + 1_000
    assert body.is_closed
    assert world.node.calls == []


def test_a_packed_402_is_not_unpacked(world):
    def change(_request, response):
        response.headers["content-encoding"] = "gzip"
        return response

    with client_of(world, Changed(world, change)) as client, pytest.raises(httpx2.DecodingError):
        client.post(URL, content=BODY)
    assert world.node.calls == []
    assert world.seller.requests[0].headers["accept-encoding"] == "identity"


def test_abuse_37_an_offer_that_came_by_a_redirect_is_refused(world):
    def change(request, response):
        if request.url.host == "router.test":
            return httpx2.Response(307, headers={"location": "https://other.test/v1/chat"})
        return response

    transport = Changed(world, change)
    with client_of(world, transport, follow_redirects=True) as client:
        answer = client.post(URL, content=BODY)
    error = answer.json()["error"]
    assert (error["code"], error["f402"]["check"]) == ("offer_refused", "redirect")
    assert world.node.calls == []


def test_http_off_loopback_is_not_paid(world):
    world.seller.realm = "router.test"
    with client_of(world) as client:
        answer = client.post(URL.replace("https", "http"), content=BODY)
    error = answer.json()["error"]
    assert (error["code"], error["f402"]["check"]) == ("offer_refused", "origin")
    assert world.node.calls == []


def test_the_price_cap_travels_with_the_first_ask_only(world):
    with client_of(world) as client:
        client.post(URL, content=BODY)
    first, second = world.seller.requests
    assert first.headers["f402-max-amount"] == str(world.budget.per_request)
    assert "payment-signature" not in first.headers
    assert second.headers["payment-signature"]
    assert first.body == second.body == BODY


def test_the_bytes_of_a_success_pass_unchanged_and_those_of_a_stream_as_they_come(world):
    for body in (BODY, STREAMED):
        with (
            client_of(world) as client,
            client.stream("POST", URL, content=body) as answer,
        ):
            chunks = list(answer.iter_raw())
        *_, delivered = world.seller.delivered.values()
        assert b"".join(chunks) == b"".join(delivered.chunks)
        assert body is BODY or tuple(chunks) == delivered.chunks


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_has_no_price_is_left_alone(world, method):
    with client_of(world) as client:
        client.request(method, URL)
    assert world.journals[0].attempts(limit=1) == []
    assert "f402-max-amount" not in world.seller.requests[0].headers


def test_the_sellers_own_api_is_never_paid_for(world):
    with client_of(world) as client:
        answer = client.post("https://router.test/v1/f402/keys", content=BODY)
    assert answer.status_code == 402
    assert world.node.calls == []


def test_a_proof_of_somebody_above_us_is_passed_on(world):
    with client_of(world) as client:
        client.post(URL, content=BODY, headers={"payment-signature": "theirs"})
    assert world.seller.requests[0].headers["payment-signature"] == "theirs"
    assert world.node.calls == []


def test_a_quote_without_an_invoice_is_the_callers(world):
    plain = SellerAnswer(
        status=402, chunks=(b'{"error":{"code":"payment_required","f402":{"invoice":null}}}',)
    )
    world.transport.seller = type("Quoting", (), {"respond": lambda _self, _request: plain})()
    with client_of(world) as client:
        answer = client.post(URL, content=BODY)
    assert answer.json()["error"]["f402"] == {"invoice": None}
    assert world.node.calls == []


def test_an_old_payment_that_is_unaccounted_for_is_raised(world):
    world.node.plan.append(Send.STUCK)
    with client_of(world) as client:
        assert client.post(URL, content=BODY).json()["error"]["money"] == "unknown"
        with pytest.raises(PaymentOutcomeUnknown):
            client.post(URL, content=BODY)


def test_a_proof_shows_in_no_listing_of_headers():
    headers = OneHopHeaders(httpx2.Headers({"accept": "*/*"}), "secret-proof")
    assert "secret-proof" not in repr(headers)
    assert "payment-signature" not in httpx2.Headers(headers)
    assert dict(headers.raw)[b"PAYMENT-SIGNATURE"] == b"secret-proof"


def test_an_error_of_any_size_reaches_the_caller_whole(world):
    page = b"<html>" + b"x" * (2 * MAX_ERROR_BYTES)
    away = SellerAnswer(status=503, chunks=(page[:10], page[10:]))
    world.transport.seller = type("Away", (), {"respond": lambda _self, _request: away})()
    with client_of(world) as client:
        assert client.post(URL, content=BODY).content == page


def test_the_last_error_after_a_payment_is_final_for_layers_above(world):
    world.seller.turns.extend([Turn.UNAVAILABLE] * 50)
    with client_of(world) as client:
        answer = client.post(URL, content=BODY)
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
    assert answer.content == b"upstream away"
