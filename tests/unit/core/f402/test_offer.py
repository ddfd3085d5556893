"""Renderings of an offer, and reading one that somebody else rendered."""

import base64
import json
from dataclasses import replace

import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.f402.challenge import Mode
from infern.core.f402.offer import (
    MAX_OFFER_BYTES,
    WORST_LOCK_S,
    Offer,
    decode_header_json,
    offer_details,
    offer_headers,
    offer_message,
    parse_offer,
    settlement_header,
    x402_object,
)
from infern.testing.offers import (
    ORIGIN,
    TARGET,
    honest_challenge,
    honest_invoice,
    honest_offer,
    offer_with,
)

NODE = CoincurveSigner(bytes(31) + b"\x01")
HONEST = honest_offer(NODE)


def body_of(details: JsonValue) -> bytes:
    return json.dumps({"error": {"message": "pay", "f402": details}}).encode()


def test_a_client_reads_what_a_seller_writes() -> None:
    assert parse_offer(body_of(offer_details(HONEST)), ORIGIN + TARGET) == HONEST


def held(locked_s: int = 930) -> Offer:
    challenge = honest_challenge(NODE.pubkey, mode=Mode.HOLD)
    return replace(offer_with(challenge, honest_invoice(challenge), NODE), locked_s=locked_s)


def test_an_offer_in_hold_mode_says_for_how_long_it_may_lock_the_payment() -> None:
    offer = held()
    details = offer_details(offer)
    amount = str(offer.challenge.amount)
    assert details["hold"] == {
        "amount": amount, "locked_s": 930, "locked_at_worst_s": WORST_LOCK_S,
    }  # fmt: skip
    assert parse_offer(body_of(details), offer.resource) == offer
    message = offer_message(offer, "m")
    for words in ("0.0018432 CKB", "hold mode", "16 minutes", "14 days", "model m"):
        assert words in message
    assert "hold" not in offer_details(HONEST)
    assert "hold mode" not in offer_message(HONEST, "m")


@pytest.mark.parametrize(
    "hold", [7, None, {}, {"locked_s": True}, {"locked_s": -1}, {"locked_s": WORST_LOCK_S + 1}]
)
def test_a_time_to_be_locked_that_cannot_be_read_is_unknown(hold: JsonValue) -> None:
    offer = parse_offer(body_of({**offer_details(held()), "hold": hold}), "")
    assert offer is not None
    assert offer.locked_s == 0


def test_an_offer_without_terms_is_read_too() -> None:
    challenge = replace(honest_challenge(NODE.pubkey), terms=None)
    bare = offer_with(challenge, honest_invoice(challenge), NODE)
    assert "quote" not in offer_details(bare)
    assert parse_offer(body_of(offer_details(bare)), bare.resource) == bare


def test_a_quote_beside_a_token_without_terms_is_refused() -> None:
    challenge = replace(honest_challenge(NODE.pubkey), terms=None)
    details = offer_details(offer_with(challenge, honest_invoice(challenge), NODE))
    details["quote"] = offer_details(HONEST)["quote"]
    with pytest.raises(RemoteProtocolError, match="quote") as caught:
        parse_offer(body_of(details), "")
    assert caught.value.code == "offer_refused"


def test_optional_members_of_the_wrong_kind_are_absent() -> None:
    details = {**offer_details(HONEST), "provider": 7, "links": "x"}
    offer = parse_offer(body_of(details), "")
    assert offer is not None
    assert (offer.provider, offer.links) == ("", {})
    details["links"] = {"keys": "/k", "topups": 7, "pay_uri": "fiber:elsewhere"}
    offer = parse_offer(body_of(details), "")
    assert offer is not None
    assert offer.links == {"keys": "/k"}


def test_a_body_over_the_limit_is_not_parsed() -> None:
    body = body_of(offer_details(HONEST))
    at_limit = body + b" " * (MAX_OFFER_BYTES - len(body))
    assert parse_offer(at_limit, HONEST.resource) == HONEST
    with pytest.raises(RemoteProtocolError, match="too large"):
        parse_offer(at_limit + b" ", HONEST.resource)


@pytest.mark.parametrize(("member", "limit"), [("invoice", 2048), ("challenge", 4096)])
def test_long_parts_are_refused(member: str, limit: int) -> None:
    details = {**offer_details(HONEST), member: "f" * (limit + 1)}
    with pytest.raises(RemoteProtocolError, match="too long"):
        parse_offer(body_of(details), "")


def test_hostile_terms_do_not_crash_a_client() -> None:
    # n * completion tokens overflowed `cost` once, as a bare ValueError in the client.
    claims = {"prc": ["0", "0", "1"], "tok": [0, 2**40, 2**40]}
    token = HONEST.token.split(".")
    payload = json.loads(base64.urlsafe_b64decode(token[2] + "=="))
    token[2] = base64.urlsafe_b64encode(json.dumps(payload | claims).encode()).decode().rstrip("=")
    details = {**offer_details(HONEST), "challenge": ".".join(token)}
    with pytest.raises(RemoteProtocolError) as caught:
        parse_offer(body_of(details), "")
    assert caught.value.code == "invalid_challenge"


def test_x402_object_is_what_its_clients_expect() -> None:
    entry = x402_object(HONEST)["accepts"]
    c = HONEST.challenge
    assert x402_object(HONEST) == {
        "x402Version": 2,
        "error": "payment_required",
        "resource": {"url": ORIGIN + TARGET, "mimeType": "application/json"},
        "accepts": entry,
    }
    assert entry == [
        {
            "scheme": "exact",
            "network": "fiber:testnet",
            "amount": "184320",
            "asset": "ckb",
            "payTo": c.pay_to.hex(),
            "maxTimeoutSeconds": 120,
            "extra": {
                "paymentFlow": "upfront",
                "assetTransferMethod": "fiber-invoice",
                "invoice": HONEST.invoice,
                "challenge": HONEST.token,
                "requestHash": c.digest.hex(),
            },
        }
    ]


def test_hold_mode_is_an_escrow_to_x402() -> None:
    challenge = honest_challenge(NODE.pubkey, mode=Mode.HOLD)
    held = offer_with(challenge, honest_invoice(challenge), NODE)
    accepts = x402_object(held)["accepts"]
    assert isinstance(accepts, list)
    assert isinstance(accepts[0], dict)
    extra = accepts[0]["extra"]
    assert isinstance(extra, dict)
    assert extra["paymentFlow"] == "escrow"


def test_headers_fit_a_proxy_s_buffer() -> None:
    headers = offer_headers(HONEST)
    assert headers["F402-Version"] == "1"
    assert sum(len(name) + len(value) + 4 for name, value in headers.items()) <= 3500
    decoded = decode_header_json(
        headers["PAYMENT-REQUIRED"], limit_chars=4096, code="malformed_proof"
    )
    assert decoded == x402_object(HONEST)


@pytest.mark.parametrize(
    ("links", "says"),
    [
        ({"keys": "/v1/f402/keys"}, "Easiest: create a prepaid key (POST /v1/f402/keys)"),
        ({}, "tokens). Pay error.f402.invoice over Fiber"),
    ],
)
def test_message_makes_sense_alone(links: dict[str, str], says: str) -> None:
    message = offer_message(replace(HONEST, links=links), "m")
    assert "at most 0.0018432 CKB" in message
    assert "(model m, at most 64 output tokens)" in message
    assert says in message
    assert "POST )" not in message


def test_message_without_terms_claims_no_limit() -> None:
    bare = replace(HONEST, challenge=replace(HONEST.challenge, terms=None))
    assert "(model m)" in offer_message(bare, "m")


@pytest.mark.parametrize("success", [True, False])
def test_settlement_header(success: bool) -> None:
    reason = "" if success else "request_mismatch"
    text = settlement_header(HONEST.challenge, success=success, reason=reason)
    expected = {
        "success": success,
        "transaction": HONEST.challenge.payment_hash.hex(),
        "network": "fiber:testnet",
        "amount": "184320",
    }
    if reason:
        expected["errorReason"] = reason
    assert json.loads(base64.b64decode(text)) == expected


def test_an_offer_shows_nothing_of_the_preimage() -> None:
    assert isinstance(HONEST, Offer)
    assert set(offer_details(HONEST)) == {
        "version",
        "network",
        "asset",
        "amount",
        "mode",
        "invoice",
        "payment_hash",
        "pay_to",
        "expires_at",
        "redeem_until",
        "challenge",
        "request_hash",
        "listing",
        "provider",
        "links",
        "quote",
    }
