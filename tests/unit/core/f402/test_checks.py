"""What a client checks before it pays: for each check an offer in which only that check fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.errors import ConfigError, InfernError, Money, PaymentError
from infern.core.f402 import checks
from infern.core.f402.challenge import Challenge, Mode
from infern.core.f402.checks import (
    Ceilings,
    Expectation,
    check_offer,
    origin_of,
    own_ceilings,
    realm_of,
)
from infern.core.f402.digest import request_digest
from infern.core.f402.offer import Offer, parse_offer
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    FinalExpiryDelta,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    UdtScript,
    decode_invoice,
    payee_of,
)
from infern.core.ids import PaymentHash, RequestDigest, parse_pubkey
from infern.core.market.price import Price
from infern.core.units import Asset, Network
from infern.testing.offers import (
    DIGEST,
    NOW_S,
    TERMS,
    UDT,
    expectation,
    honest_challenge,
    honest_invoice,
    honest_offer,
    offer_with,
    with_attribute,
    without_attribute,
)

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())
NODE = CoincurveSigner(bytes(31) + b"\x01")
OTHER = CoincurveSigner(bytes(31) + b"\x02")
VERIFIER = CoincurveVerifier()
EXPECTED = expectation(NODE.pubkey)
HONEST = honest_challenge(NODE.pubkey)
OTHER_DIGEST = request_digest("POST", "/v1/completions", b"{}")
UDT_ASSET = Asset(UDT.hash())
IMAGE_BODY = (
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url",'
    b'"image_url":{"url":"https://x.example/a.png"}}]}]}'
)
OWN = Ceilings(prompt_tokens_max=724, completion_tokens_max=64, n=1)

ChangeChallenge = Callable[[Challenge], Challenge]
ChangeInvoice = Callable[[Invoice], Invoice]
ChangeExpectation = Callable[[Expectation], Expectation]


def failing(offer: Offer, expected: Expectation) -> set[str]:
    """Every check that fails, not only the first."""
    invoice = decode_invoice(offer.invoice, VERIFIER)
    both = (
        *checks._challenge_checks(offer, expected),
        *checks._invoice_checks(offer, invoice, expected, payee_of(invoice, VERIFIER)),
    )
    return {name for name, holds, _ in both if not holds()}


def refused_for(offer: Offer, expected: Expectation) -> str:
    with pytest.raises(PaymentError) as caught:
        check_offer(offer, expected, VERIFIER)
    assert (caught.value.code, caught.value.money) == ("offer_refused", Money.UNMOVED)
    assert "Nothing was paid" in caught.value.message
    return str(caught.value.details["check"])


def dearer(name: str) -> ChangeExpectation:
    """Expect one price a unit lower than it is quoted."""
    known = replace(TERMS.price, **{name: getattr(TERMS.price, name) - 1})
    return lambda e: replace(e, price=known)


# Claims changed together with the invoice, which agrees with them.
CLAIMS: list[tuple[str, ChangeChallenge, ChangeExpectation]] = [
    ("cap", lambda c: c, lambda e: replace(e, max_amount=TERMS.ceiling - 1)),
    ("quote", lambda c: replace(c, amount=c.amount + 1), lambda e: e),
    ("quote", lambda c: replace(c, amount=c.amount - 1), lambda e: e),
    ("quote", lambda c: replace(c, terms=None), lambda e: replace(e, price=None)),
    ("price", lambda c: c, dearer("request_fee")),
    ("price", lambda c: c, dearer("input_per_mtok")),
    ("price", lambda c: c, dearer("output_per_mtok")),
    ("price", lambda c: c, lambda e: replace(e, price=replace(TERMS.price, asset=UDT_ASSET))),
    ("payee", lambda c: c, lambda e: replace(e, pay_to=OTHER.pubkey)),
    ("mode", lambda c: replace(c, mode=Mode.HOLD), lambda e: e),
    ("mode", lambda c: c, lambda e: replace(e, modes=frozenset({Mode.HOLD}))),
    ("refund", lambda c: replace(c, refund_to=OTHER.pubkey), lambda e: e),
    (
        "refund",
        lambda c: replace(c, refund_to=OTHER.pubkey),
        lambda e: replace(e, refund_to=NODE.pubkey),
    ),
    # Expired by the token alone: the invoice still runs.
    ("expiry", lambda c: replace(c, issued_at_s=NOW_S - 120, expires_at_s=NOW_S - 61), lambda e: e),
    ("expiry", lambda c: replace(c, expires_at_s=NOW_S + 601), lambda e: e),
    # Paid in the last second, it could not be used any more.
    ("expiry", lambda c: replace(c, redeem_until_s=c.expires_at_s + 599), lambda e: e),
    # A relay asks for the ceiling of a longer answer, prompt or list than was ordered.
    (
        "ceilings",
        lambda c: c,
        lambda e: replace(e, ceilings=replace(OWN, completion_tokens_max=63)),
    ),
    ("ceilings", lambda c: c, lambda e: replace(e, ceilings=replace(OWN, prompt_tokens_max=723))),
    ("ceilings", lambda c: c, lambda e: replace(e, ceilings=replace(OWN, n=0))),
    (
        "amount",
        lambda c: replace(
            c,
            amount=0,
            terms=replace(TERMS, price=Price(request_fee=0, input_per_mtok=0, output_per_mtok=0)),
        ),
        lambda e: e,
    ),
]


@pytest.mark.parametrize(("check", "change", "know"), CLAIMS)
def test_claims_that_only_one_check_refuses(
    check: str, change: ChangeChallenge, know: ChangeExpectation
) -> None:
    challenge = change(HONEST)
    invoice = honest_invoice(HONEST)
    if challenge.amount != HONEST.amount:
        invoice = replace(invoice, amount=challenge.amount)
    offer = offer_with(challenge, invoice, NODE)
    expected = know(EXPECTED)
    assert failing(offer, expected) == {check}
    assert refused_for(offer, expected) == check


# Claims changed, invoice as the client expects it.
FOREIGN: list[tuple[str, ChangeChallenge]] = [
    ("network", lambda c: replace(c, network=Network.MAINNET)),
    ("request", lambda c: replace(c, digest=OTHER_DIGEST)),
]


@pytest.mark.parametrize(("check", "change"), FOREIGN)
def test_foreign_claims_beside_a_good_invoice(check: str, change: ChangeChallenge) -> None:
    offer = offer_with(change(HONEST), honest_invoice(HONEST), NODE)
    assert failing(offer, EXPECTED) == {check}
    assert refused_for(offer, EXPECTED) == check


def test_an_offer_in_another_asset() -> None:
    terms = replace(TERMS, price=replace(TERMS.price, asset=UDT_ASSET))
    offer = honest_offer(NODE, terms=terms)
    assert failing(offer, replace(EXPECTED, price=None)) == {"asset"}
    assert refused_for(offer, replace(EXPECTED, price=None)) == "asset"


INVOICES: list[tuple[str, ChangeInvoice]] = [
    ("invoice network", lambda i: replace(i, network=Network.DEV)),
    ("invoice network", lambda i: replace(i, network=Network.MAINNET)),
    ("invoice amount", lambda i: replace(i, amount=TERMS.ceiling + 1)),
    ("invoice amount", lambda i: replace(i, amount=TERMS.ceiling - 1)),
    ("invoice amount", lambda i: replace(i, amount=None)),
    ("invoice asset", lambda i: with_attribute(i, UdtScript(script=UDT))),
    ("payment hash", lambda i: replace(i, payment_hash=PaymentHash(bytes(32)))),
    (
        "hash algorithm",
        lambda i: with_attribute(i, PaymentHashAlgorithm(algorithm=HashAlgorithm.CKB_HASH)),
    ),
    ("hash algorithm", lambda i: without_attribute(i, PaymentHashAlgorithm)),
    ("description", lambda i: without_attribute(i, Description)),
    ("description", lambda i: with_attribute(i, Description(text="f402:1:" + OTHER_DIGEST.hex()))),
    ("description", lambda i: with_attribute(i, Description(text=DIGEST.hex()))),
    (
        "description",
        lambda i: with_attribute(i, Description(text="f402:1:" + DIGEST.hex().upper())),
    ),
    ("lock time", lambda i: with_attribute(i, FinalExpiryDelta(delta_ms=12_600_001))),
    ("invoice expiry", lambda i: without_attribute(i, ExpiryTime)),
    ("invoice expiry", lambda i: with_attribute(i, ExpiryTime(expiry_s=601))),
    ("invoice expiry", lambda i: with_attribute(i, ExpiryTime(expiry_s=2**64 - 1))),
    ("invoice expiry", lambda i: replace(i, timestamp_ms=(NOW_S - 120) * 1000 - 1)),
    ("invoice expiry", lambda i: replace(i, timestamp_ms=(NOW_S + 60) * 1000 + 1)),
]


@pytest.mark.parametrize(("check", "change"), INVOICES)
def test_invoices_that_only_one_check_refuses(check: str, change: ChangeInvoice) -> None:
    offer = offer_with(HONEST, change(honest_invoice(HONEST)), NODE)
    assert failing(offer, EXPECTED) == {check}
    assert refused_for(offer, EXPECTED) == check


def test_an_invoice_nobody_signed() -> None:
    offer = offer_with(HONEST, honest_invoice(HONEST), None)
    assert failing(offer, EXPECTED) == {"signed", "signer"}
    assert refused_for(offer, EXPECTED) == "signed"


def test_an_invoice_another_node_signed() -> None:
    anonymous = without_attribute(honest_invoice(HONEST), PayeePubkey)
    offer = offer_with(HONEST, anonymous, OTHER)
    assert failing(offer, EXPECTED) == {"signer"}
    assert refused_for(offer, EXPECTED) == "signer"


@pytest.mark.parametrize(
    ("origin", "issuer", "check"),
    [
        ("http://router.test", "router.test", "origin"),
        ("ftp://router.test", "router.test", "origin"),
        ("router.test", "router.test", "origin"),
        ("", "", "origin"),
        ("http://localhost.evil.test", "localhost.evil.test", "origin"),
        ("http://127.0.0.1@evil.test", "evil.test", "origin"),
        ("https://router.test", "other.test", "realm"),
        ("https://router.test", "", "realm"),
        ("https://router.test", "Router.test", "realm"),
        ("https://router.test:8443", "router.test", "realm"),
        ("http://127.0.0.1:8402", "127.0.0.1", "realm"),
    ],
)
def test_origins_that_get_no_payment(origin: str, issuer: str, check: str) -> None:
    challenge = replace(HONEST, issuer=issuer)
    offer = offer_with(challenge, honest_invoice(challenge), NODE)
    assert failing(offer, EXPECTED) == set()
    assert refused_for(offer, replace(EXPECTED, origin=origin)) == check


@pytest.mark.parametrize(
    ("origin", "realm"),
    [
        ("https://router.test", "router.test"),
        ("https://Router.Test:443", "router.test"),
        ("https://router.test:8443", "router.test:8443"),
        ("http://localhost", "localhost"),
        ("http://localhost:80", "localhost"),
        ("http://localhost:443", "localhost:443"),
        ("http://127.0.0.1:8402", "127.0.0.1:8402"),
        ("http://[::1]:8402", "[::1]:8402"),
        ("https://user:secret@router.test", "router.test"),
    ],
)
def test_realm_is_host_and_unusual_port(origin: str, realm: str) -> None:
    assert realm_of(origin) == realm
    challenge = replace(HONEST, issuer=realm)
    offer = offer_with(challenge, honest_invoice(challenge), NODE)
    assert check_offer(offer, replace(EXPECTED, origin=origin), VERIFIER)


def test_realm_of_another_scheme_keeps_its_port() -> None:
    assert realm_of("ws://localhost:80") == "localhost:80"


def test_origin_leaves_path_and_password_out() -> None:
    assert origin_of("https://u:p@Router.Test:8443/v1/chat?x=1#y") == "https://router.test:8443"


def test_a_refused_realm_cannot_write_to_the_terminal() -> None:
    challenge = replace(HONEST, issuer="\x1b[2J" + "x" * 1000)
    offer = offer_with(challenge, honest_invoice(challenge), NODE)
    with pytest.raises(PaymentError) as caught:
        check_offer(offer, EXPECTED, VERIFIER)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_a_cap_in_a_token_is_not_shown_as_ckb() -> None:
    terms = replace(TERMS, price=replace(TERMS.price, asset=UDT_ASSET))
    expected = expectation(NODE.pubkey, asset=UDT_ASSET, max_amount=5)
    with pytest.raises(PaymentError) as caught:
        check_offer(honest_offer(NODE, terms=terms), expected, VERIFIER)
    assert f"over 5 base units of {UDT_ASSET}" in caught.value.message
    assert "CKB" not in caught.value.message


@pytest.mark.parametrize("now_s", [NOW_S - 60, NOW_S, NOW_S + 120])
def test_honest_offers_are_paid_within_the_clocks_tolerance(now_s: int) -> None:
    invoice = check_offer(honest_offer(NODE), replace(EXPECTED, now_s=now_s), VERIFIER)
    assert invoice.amount == TERMS.ceiling
    assert invoice.payment_hash == HONEST.payment_hash


@pytest.mark.parametrize("expires_at_s", [NOW_S - 60, NOW_S + 600])
def test_tokens_at_the_edge_of_their_time(expires_at_s: int) -> None:
    challenge = replace(HONEST, issued_at_s=NOW_S - 120, expires_at_s=expires_at_s)
    assert failing(offer_with(challenge, honest_invoice(HONEST), NODE), EXPECTED) == set()


@pytest.mark.parametrize(
    "change",
    [
        {"expiry_s": 600, "timestamp_ms": NOW_S * 1000},
        {"expiry_s": 600, "timestamp_ms": (NOW_S - 600) * 1000},
        {"expiry_s": 0, "timestamp_ms": NOW_S * 1000},
        {"expiry_s": 120, "timestamp_ms": (NOW_S + 60) * 1000},
    ],
)
def test_invoices_at_the_edge_of_their_time(change: dict[str, int]) -> None:
    invoice = replace(honest_invoice(HONEST), timestamp_ms=change["timestamp_ms"])
    invoice = with_attribute(invoice, ExpiryTime(expiry_s=change["expiry_s"]))
    assert failing(offer_with(HONEST, invoice, NODE), EXPECTED) == set()


def test_unpinned_clients_trust_the_origin_within_their_cap() -> None:
    assert check_offer(honest_offer(NODE), replace(EXPECTED, pay_to=None, price=None), VERIFIER)


def expectation_of(case: dict[str, str]) -> Expectation:
    price = [int(text) for text in case["price"] or ()]
    asset = Asset.parse(case["asset"])
    return Expectation(
        digest=RequestDigest(request_digest(case["method"], case["target"], case["body"].encode())),
        origin=case["origin"],
        network=Network.from_fiber_id(case["network"]),
        asset=asset,
        max_amount=int(case["max_amount"]),
        now_s=int(case["now_s"]),
        pay_to=parse_pubkey(case["pay_to"]) if case["pay_to"] else None,
        price=Price(
            asset=asset, request_fee=price[0], input_per_mtok=price[1], output_per_mtok=price[2]
        )
        if price
        else None,
        refund_to=parse_pubkey(case["refund_to"]) if case["refund_to"] else None,
    )


@pytest.mark.parametrize("case", VECTORS["offer"], ids=lambda case: case["name"])
def test_offer_vectors(case: dict[str, dict[str, str]]) -> None:
    expected = expectation_of(case["expectation"])
    result = case["result"]
    if "code" in result:
        with pytest.raises(InfernError) as caught:
            _read_and_check(str(case["body"]), expected)
        assert (caught.value.code, caught.value.money) == (result["code"], Money.UNMOVED)
        assert caught.value.details.get("check") == result.get("check")
    else:
        assert _read_and_check(str(case["body"]), expected) == result.get("pay", False)


def _read_and_check(body: str, expected: Expectation) -> bool:
    offer = parse_offer(body.encode(), expected.origin + "/v1/chat/completions")
    return offer is not None and check_offer(offer, expected, VERIFIER) is not None


def test_what_a_request_can_use_is_read_from_its_own_bytes() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":64,"n":2}'
    own = own_ceilings("/v1/chat/completions?x=1", body)
    assert own is not None
    assert (own.completion_tokens_max, own.n) == (64, 2)
    # Two bytes of text, and room for any model's template around one message.
    assert 2 <= own.prompt_tokens_max <= 2 + 16 + 4_096 + 64


def test_without_a_limit_of_its_own_a_request_trusts_the_quote_for_the_answer() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    own = own_ceilings("/v1/chat/completions", body)
    assert own is not None
    assert own.completion_tokens_max is None
    offer = honest_offer(NODE)
    assert check_offer(offer, replace(EXPECTED, ceilings=own), VERIFIER)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/images", b"{}"),
        ("/v1/chat/completions", b"not json"),
        (
            "/v1/chat/completions",
            IMAGE_BODY,
        ),
    ],
)
def test_what_a_client_cannot_know_it_does_not_check(target: str, body: bytes) -> None:
    assert own_ceilings(target, body) is None


def test_a_text_that_is_no_url_is_our_own_mistake() -> None:
    with pytest.raises(ConfigError):
        origin_of("http://[::1")
