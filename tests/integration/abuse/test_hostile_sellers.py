"""Sellers that lie, take and do not give, or ask without end, against our client.

Numbers are those of `docs/abuse-cases.md`.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.client.auth import F402Auth
from infern.client.budget import Budget
from infern.client.wallet import PayMode
from infern.core.f402.challenge import Mode, peek_token
from infern.core.f402.digest import invoice_description, request_digest
from infern.core.f402.offer import Offer
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    FinalExpiryDelta,
    HashAlgorithm,
    PaymentHashAlgorithm,
    decode_invoice,
    payee_of,
)
from infern.core.fiber.types import PaymentStatus
from infern.core.market.price import Price
from infern.core.units import Network
from infern.testing.offers import BODY, TARGET, TERMS, honest_invoice, offer_with, with_attribute
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Turn

YEAR_S = 366 * 86_400
VERIFIER = CoincurveVerifier()
PROOFS = {"payment-signature", "payment-authorization"}


def client_of(world: Any, **changes: Any) -> httpx2.Client:
    auth = F402Auth(world.wallet(**changes))
    return httpx2.Client(transport=world.transport, base_url="https://router.test", auth=auth)


def ask(world: Any, **changes: Any) -> httpx2.Response:
    with client_of(world, **changes) as client:
        return client.post(TARGET, content=BODY)


def remade(world: Any, **claims: Any) -> Callable[[Offer], Offer]:
    """Offers with other claims, and an invoice and a token that agree with them."""

    def lie(offer: Offer) -> Offer:
        challenge = replace(offer.challenge, **claims)
        return offer_with(challenge, honest_invoice(challenge), world.seller.node)

    return lie


def with_invoice(world: Any, *attributes: Any) -> Callable[[Offer], Offer]:
    """Offers whose claims are good and whose invoice says something else."""

    def lie(offer: Offer) -> Offer:
        invoice = honest_invoice(offer.challenge)
        for attribute in attributes:
            invoice = with_attribute(invoice, attribute)
        return offer_with(offer.challenge, invoice, world.seller.node)

    return lie


DEAR = replace(TERMS, price=Price(request_fee=10**9, input_per_mtok=1, output_per_mtok=1))
LIES: dict[str, tuple[str, Callable[[Any], Callable[[Offer], Offer]]]] = {
    "over the cap": ("cap", lambda w: remade(w, terms=DEAR, amount=DEAR.ceiling)),
    "dearer than its quote": ("quote", lambda w: remade(w, amount=TERMS.ceiling + 1)),
    "more tokens than asked for": (
        "ceilings",
        lambda w: remade(w, terms=(terms := replace(TERMS, completion_tokens_max=65)),
                         amount=terms.ceiling),
    ),
    "an offer for a year": (
        "expiry", lambda w: remade(w, expires_at_s=w.clock.ms // 1000 + YEAR_S,
                                   redeem_until_s=w.clock.ms // 1000 + 2 * YEAR_S)),
    "an invoice for a year": (
        "invoice expiry", lambda w: with_invoice(w, ExpiryTime(expiry_s=YEAR_S))),
    "an invoice of another request": (
        "description",
        lambda w: with_invoice(w, Description(text=invoice_description(b"\x09" * 32)))),
    "a lock of two weeks": (
        "lock time", lambda w: with_invoice(w, FinalExpiryDelta(delta_ms=14 * 86_400_000))),
    "the other hash function": (
        "hash algorithm",
        lambda w: with_invoice(w, PaymentHashAlgorithm(algorithm=HashAlgorithm.CKB_HASH))),
    "hold mode that nobody asked for": ("mode", lambda w: remade(w, mode=Mode.HOLD)),
    "another network": ("network", lambda w: remade(w, network=Network.MAINNET)),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_abuse_38_an_offer_that_lies_is_not_paid(client_world: Any, lie: str) -> None:
    check, change = LIES[lie]
    client_world.seller.lie = change(client_world)
    got = ask(client_world, budget=Budget(per_request=10_000_000))
    error = got.json()["error"]
    assert (error["code"], error["money"]) == ("offer_refused", "unmoved"), error
    assert error["f402"]["check"] == check
    assert got.headers["x-should-retry"] == "false"
    assert "payment-required" not in got.headers
    assert client_world.node.calls == []
    assert client_world.states() == []


def test_abuse_38_an_offer_that_pays_somebody_else_is_not_paid(
    client_world: Any, make_signer: Any
) -> None:
    """Pinned or not, the invoice must be signed by the payee of the token."""
    thief = make_signer(b"\x07" * 32)

    def lie(offer: Offer) -> Offer:
        return offer_with(offer.challenge, honest_invoice(offer.challenge), thief)

    client_world.seller.lie = lie
    error = ask(client_world).json()["error"]
    assert error["code"] in {"offer_refused", "invalid_invoice"}
    assert error["money"] == "unmoved"
    assert client_world.node.calls == []


def test_abuse_38_a_402_for_a_payment_is_answered_with_the_same_proof(client_world: Any) -> None:
    client_world.seller.turns.extend([Turn.ASK_AGAIN] * 3)
    for _ in range(3):
        error = ask(client_world).json()["error"]
        assert error["code"] == "offer_refused", error
        assert error["money"] != "unmoved"
    got = ask(client_world)
    assert got.status_code == 200, got.text
    assert len(client_world.node.paid) == 1
    proofs = {
        value
        for request in client_world.seller.requests
        for name, value in request.headers.items()
        if name in PROOFS
    }
    assert len(proofs) == 1
    assert client_world.states() == ["delivered"]


@pytest.mark.parametrize("turn", [Turn.ASK_AGAIN, Turn.REFUSE, Turn.REFUSE_ANEW, Turn.PENDING])
def test_abuse_38_402s_without_end_are_paid_once(client_world: Any, turn: Turn) -> None:
    client_world.seller.turns.extend([turn] * 1_000)
    for _ in range(5):
        assert ask(client_world).status_code >= 400
    assert len(client_world.node.paid) == 1
    # Bounded by the client's patience, not by the seller's.
    assert len(client_world.seller.requests) <= 5 * (client_world.wallet().patience.proofs + 1)


@pytest.mark.parametrize("turn", [Turn.BROKEN, Turn.REFUSE, Turn.BAD_REQUEST])
def test_abuse_35_who_takes_and_does_not_deliver_leaves_what_it_signed(
    client_world: Any, turn: Turn
) -> None:
    """One payment, and on the payer's disk what shows a third party what was taken for what.

    The invoice is signed by the payee's node and names the request by its digest; the preimage,
    where the payer's node tells it, can only come from who took the payment; no receipt exists.
    """
    client_world.seller.turns.extend([turn] * 1_000)
    for _ in range(3):
        assert ask(client_world).status_code >= 400
    assert_signed_evidence(client_world)


def test_abuse_35_who_takes_a_held_payment_and_does_not_deliver_leaves_it_too(
    client_world: Any,
) -> None:
    """In hold mode the payee settles first and refuses then."""
    world, respond = client_world, client_world.seller.respond
    world.node.plan.append(Send.STUCK)

    def take(request: Any) -> Any:
        for payment_hash, record in list(world.node.payments.items()):
            if record.status is PaymentStatus.INFLIGHT:
                world.node.settle(payment_hash, PaymentStatus.SUCCESS)
        return respond(request)

    world.transport.seller = SimpleNamespace(respond=take)
    world.seller.turns.extend([Turn.BAD_REQUEST] * 1_000)
    for _ in range(3):
        assert ask(world, mode=PayMode.HOLD).status_code >= 400
    assert len(world.node.sends) == 1
    assert_signed_evidence(world)


def assert_signed_evidence(client_world: Any) -> None:
    """What the journal still has after the program has ended."""
    client_world.close()
    assert len(client_world.node.paid) == 1
    client_world.wallet()  # a new process reads the same file
    (kept,) = client_world.journals[-1].attempts(limit=10)
    assert kept.state.value == "unredeemed"
    invoice = decode_invoice(kept.invoice, VERIFIER)
    assert payee_of(invoice, VERIFIER) == client_world.seller.node.pubkey == kept.pay_to
    assert invoice.amount == kept.amount
    assert invoice.payment_hash == kept.payment_hash
    assert invoice.description == invoice_description(request_digest("POST", TARGET, BODY))
    claims = peek_token(kept.token)
    assert (claims.payment_hash, claims.amount) == (kept.payment_hash, kept.amount)
    preimage = client_world.seller.preimage_of(kept.payment_hash)
    assert kept.preimage in (None, preimage)
    assert HashAlgorithm.SHA256.digest(preimage) == kept.payment_hash
