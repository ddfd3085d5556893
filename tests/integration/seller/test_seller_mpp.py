"""MPP at the seller's door: who is shown a challenge, how a credential pays, what it never does."""

import base64
import json
from typing import Any

import mpp as pympp
import pytest

from infern.core.f402.offer import parse_offer
from infern.testing.scripted_model import Script

ACCEPT = {"accept_payment": "tempo/charge, fiber/charge;q=0.8"}
BALANCE = 10_000_000


def challenge_in(got: Any) -> pympp.Challenge:
    return pympp.Challenge.from_www_authenticate(got.headers["www-authenticate"])


def credential(challenge: pympp.Challenge, **payload: str) -> str:
    return pympp.Credential(challenge=challenge.to_echo(), payload=payload).to_authorization()


async def paid(world: Any, body: bytes) -> pympp.Challenge:
    """A challenge whose invoice was paid at the scripted node."""
    challenge = challenge_in(await world.chat(body, **ACCEPT))
    payment_hash = challenge.request["methodDetails"]["paymentHash"]
    world.payee.pay(bytes.fromhex(payment_hash))
    return challenge


async def test_a_challenge_only_for_who_announced_it(world: Any) -> None:
    plain = await world.chat(world.body())
    assert "www-authenticate" not in plain.headers
    assert set(plain.json()) == {"error"}
    for header in ("tempo/charge", "fiber/charge;q=0", "*/*;q=0"):
        got = await world.chat(world.body(), accept_payment=header)
        assert "www-authenticate" not in got.headers
        assert set(got.json()) == {"error"}


async def test_one_offer_in_all_its_renderings(world: Any) -> None:
    body = world.body()
    got = await world.chat(body, **ACCEPT)
    assert got.status == 402
    assert got.headers["x-should-retry"] == "false"
    assert got.headers["cache-control"] == "no-store"
    offer = parse_offer(got.body, world.public_url)
    challenge = challenge_in(got)
    assert challenge.realm == "seller.test"
    assert (challenge.method, challenge.intent) == ("fiber", "charge")
    assert challenge.opaque == {"f402": offer.token}
    assert challenge.request["amount"] == str(offer.challenge.amount)
    assert challenge.request["methodDetails"]["invoice"] == offer.invoice
    assert challenge.header == "Payment-Authorization"
    x402 = json.loads(base64.b64decode(got.headers["payment-required"]))
    assert x402["accepts"][0]["extra"]["invoice"] == offer.invoice
    problem = got.json()
    assert problem["type"] == "https://paymentauth.org/problems/payment-required"
    assert (problem["title"], problem["status"]) == ("Payment Required", 402)
    assert problem["detail"] == problem["error"]["message"]


async def test_a_whole_402_fits_into_8_kib_of_headers(world: Any) -> None:
    for query in ("", "?x=1", "?" + "q" * 2_000):
        target = "/v1/chat/completions" + query
        got = await world.chat(world.body(), target=target, **ACCEPT)
        assert got.status == 402
        assert "www-authenticate" in got.headers
        size = sum(len(name) + len(value) + 4 for name, value in got.headers.items())
        assert size <= 8 * 1024


@pytest.mark.parametrize("header", ["payment_authorization", "authorization"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_credential_buys_the_answer_and_a_receipt(
    world: Any, header: str, stream: bool
) -> None:
    body = world.body(stream=stream)
    challenge = await paid(world, body)
    got = await world.chat(body, **{header: credential(challenge)})
    receipt = (world.stream_receipt if stream else world.plain_receipt)(got, body)
    assert receipt.payment_ref.hex() == challenge.request["methodDetails"]["paymentHash"]
    settled = pympp.Receipt.from_payment_receipt(got.headers["payment-receipt"])
    assert settled.method == "fiber"
    assert settled.reference == receipt.payment_ref.hex()
    assert settled.extensions == {"challengeId": challenge.id}
    assert "private" in got.headers["cache-control"]
    assert world.payment_response(got)["success"] is True


async def test_a_preimage_needs_no_question_to_the_node(make_world: Any) -> None:
    world = await make_world(require_preimage=True)
    body = world.body()
    challenge = await paid(world, body)
    got = await world.chat(body, payment_authorization=credential(challenge))
    assert (got.status, got.json()["error"]["code"]) == (425, "payment_pending")
    payment_hash = bytes.fromhex(challenge.request["methodDetails"]["paymentHash"])
    preimage = world.payee.preimages[payment_hash].hex()
    got = await world.chat(body, payment_authorization=credential(challenge, preimage=preimage))
    assert got.status == 200


async def test_the_remainder_goes_to_the_key_beside_it(world: Any) -> None:
    body = world.body()
    key = await world.key(BALANCE)
    challenge = await paid(world, body)
    got = await world.chat(body, key=key, payment_authorization=credential(challenge))
    receipt = world.plain_receipt(got, body)
    remainder = int(challenge.request["amount"]) - receipt.charged
    assert remainder > 0
    assert (await world.tab(key)).balance == BALANCE + remainder


async def test_both_forms_of_one_payment_are_one_payment(world: Any) -> None:
    body = world.body()
    challenge = await paid(world, body)
    first = await world.chat(body, payment_authorization=credential(challenge))
    assert first.status == 200
    spent = await world.spent()
    got = await world.chat(body, payment_authorization=credential(challenge), **ACCEPT)
    assert (got.status, got.body) == (200, first.body)
    world.reassemble()  # the kept answer is gone
    got = await world.chat(body, payment_authorization=credential(challenge), **ACCEPT)
    assert (got.status, got.json()["error"]["code"]) == (409, "already_delivered")
    assert await world.spent() == spent


async def test_two_proofs_at_once_are_refused(world: Any) -> None:
    body = world.body()
    challenge = await paid(world, body)
    text = credential(challenge)
    proof = await world.proof(body)
    for headers in (
        {"proof": proof, "payment_authorization": text},
        {"proof": proof, "authorization": text},
        {"authorization": text, "payment_authorization": text},
    ):
        got = await world.chat(body, **headers)
        assert (got.status, got.json()["error"]["code"]) == (400, "ambiguous_payment")
    assert await world.spent() == 0


def altered(challenge: pympp.Challenge, **changes: str) -> str:
    """A credential whose echo was tampered with."""
    text = credential(challenge).removeprefix("Payment ")
    value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    value["challenge"].update(changes)
    raw = json.dumps(value).encode()
    return "Payment " + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_an_answer_to_a_proof_has_nothing_to_pay(world: Any) -> None:
    body = world.body()
    challenge = await paid(world, body)
    other = await paid(world, world.body("another"))
    for text, code in (
        (altered(challenge, id="A" * 43), "invalid_challenge"),
        (altered(challenge, realm="evil.test"), "invalid_challenge"),
        (altered(challenge, expires="2099-01-01T00:00:00Z"), "invalid_challenge"),
        (credential(other), "request_mismatch"),
        (credential(challenge, preimage="00" * 32), "invalid_preimage"),
    ):
        got = await world.chat(body, payment_authorization=text, **ACCEPT)
        assert (got.status, got.json()["error"]["code"]) == (402, code)
        assert got.headers["x-should-retry"] == "false"
        for name in ("www-authenticate", "payment-required", "payment-receipt"):
            assert name not in got.headers
        assert b"fibd" not in got.body
        assert got.json()["status"] == 402
    # Nothing of it was consumed.
    got = await world.chat(body, payment_authorization=credential(challenge))
    assert got.status == 200


async def test_a_failed_run_has_no_receipt_and_may_run_again(world: Any) -> None:
    body = world.body()
    challenge = await paid(world, body)
    world.model.plan.append(Script(status=500))
    got = await world.chat(body, payment_authorization=credential(challenge), **ACCEPT)
    assert got.status == 502
    assert "payment-receipt" not in got.headers
    assert "www-authenticate" not in got.headers
    got = await world.chat(body, payment_authorization=credential(challenge))
    assert got.status == 200


async def test_another_method_is_not_offered_here(world: Any) -> None:
    text = altered(await paid(world, world.body()), method="tempo")
    got = await world.chat(world.body(), payment_authorization=text)
    assert (got.status, got.json()["error"]["code"]) == (400, "unsupported_scheme")


async def test_a_hold_offer_has_no_challenge(world: Any) -> None:
    """Its payer waits for the answer; an MPP client would wait for its payment first."""
    got = await world.chat(world.body(), f402_mode="hold", **ACCEPT)
    assert got.status == 402
    assert "www-authenticate" not in got.headers
