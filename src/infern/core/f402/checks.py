"""What a client checks before it pays. Every check is mandatory; one failure and nothing is sent.

A router can lie in a 402: swap the invoice, mark the price up, reuse a provider's invoice for
another request. The payee's node signed the invoice with the request digest in its description,
so a checking client notices all three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from infern.core.crypto import SignatureVerifier
from infern.core.errors import PaymentError
from infern.core.f402.challenge import Mode
from infern.core.f402.digest import invoice_description
from infern.core.f402.offer import Offer
from infern.core.fiber.invoice import HashAlgorithm, Invoice, decode_invoice, payee_of
from infern.core.ids import Pubkey, RequestDigest
from infern.core.market.price import Price
from infern.core.units import Asset, Network, format_amount

MAX_INVOICE_LIFE_S: Final = 600
"""A request invoice that lives longer than this is not one."""
CLOCK_SKEW_S: Final = 60
_STANDARD_PORTS: Final = {"https": ":443", "http": ":80"}
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the client itself knows about the request it is about to pay for.

    Args:
        digest: Computed by the client from the bytes it sent.
        origin: Scheme, host and port it sent them to, e.g. `https://router.example`.
        network: The network of the client's Fiber node.
        asset: What it is willing to pay in.
        max_amount: Base units; the caller's cap for this request.
        now_s: Unix seconds.
        pay_to: The payee pinned beforehand (listing cell, router's key); None trusts the origin.
        price: The price known beforehand; None trusts the quote within `max_amount`.
    """

    digest: RequestDigest
    origin: str
    network: Network
    asset: Asset
    max_amount: int
    now_s: int
    pay_to: Pubkey | None = None
    price: Price | None = None


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, as requests are bound to; never a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def realm_of(origin: str) -> str:
    """The realm a seller at this origin must use: host, with the port when it is not standard."""
    parts = urlsplit(origin)
    realm = parts.netloc.rpartition("@")[2].lower()
    standard = _STANDARD_PORTS.get(parts.scheme)
    return realm if standard is None else realm.removesuffix(standard)


def check_offer(offer: Offer, expected: Expectation, verifier: SignatureVerifier) -> Invoice:
    """Check an offer completely; returns the decoded invoice to pay.

    Raises:
        PaymentError: `offer_refused` with the failed check in `details.check`; nothing was paid.
        RemoteProtocolError: `invalid_invoice`; nothing was paid.
    """
    _check_origin(offer, expected)
    invoice = decode_invoice(offer.invoice, verifier)
    for name, holds, complaint in (
        *_challenge_checks(offer, expected),
        *_invoice_checks(offer, invoice, expected, payee_of(invoice, verifier)),
    ):
        if not holds():
            raise _refuse(name, complaint)
    return invoice


Check = tuple[str, Callable[[], bool], str]


def _check_origin(offer: Offer, expected: Expectation) -> None:
    parts = urlsplit(expected.origin)
    if parts.scheme != "https" and (parts.hostname or "") not in LOOPBACK_HOSTS:
        raise _refuse("origin", "payments need https, or a loopback address")
    if offer.challenge.issuer != realm_of(expected.origin):
        raise _refuse(
            "realm", f"the offer is of {offer.challenge.issuer[:80]!a}, not of this origin"
        )


def _challenge_checks(offer: Offer, e: Expectation) -> list[Check]:
    c = offer.challenge
    terms = c.terms
    return [
        ("network", lambda: c.network is e.network, "the offer is for another network"),
        ("asset", lambda: c.asset == e.asset, "the offer is in another asset"),
        ("request", lambda: c.digest == e.digest, "the offer is for another request"),
        ("mode", lambda: c.mode is Mode.UPFRONT, "the offer's settlement mode was not asked for"),
        ("amount", lambda: c.amount > 0, "the offer is for nothing"),
        (
            "cap",
            lambda: c.amount <= e.max_amount,
            f"{format_amount(c.amount, c.asset)} is over {format_amount(e.max_amount, e.asset)}",
        ),
        (
            "quote",
            lambda: terms is not None and terms.ceiling == c.amount,
            "the amount is not what the quote adds up to",
        ),
        (
            "price",
            lambda: e.price is None or (terms is not None and _price_within(terms.price, e.price)),
            "the quote is above the price known for this seller",
        ),
        (
            "expiry",
            lambda: (
                e.now_s - CLOCK_SKEW_S <= c.expires_at_s <= e.now_s + MAX_INVOICE_LIFE_S
                and c.redeem_until_s >= c.expires_at_s
            ),
            "the offer has expired or lives too long",
        ),
        (
            "payee",
            lambda: e.pay_to is None or c.pay_to == e.pay_to,
            "the offer pays somebody else than the seller's known Fiber node",
        ),
    ]


def _price_within(quoted: Price, known: Price) -> bool:
    return (
        quoted.asset == known.asset
        and quoted.request_fee <= known.request_fee
        and quoted.input_per_mtok <= known.input_per_mtok
        and quoted.output_per_mtok <= known.output_per_mtok
    )


def _invoice_checks(
    offer: Offer, invoice: Invoice, e: Expectation, payee: Pubkey | None
) -> list[Check]:
    c = offer.challenge
    return [
        ("signed", lambda: payee is not None, "the invoice is not signed"),
        ("signer", lambda: payee == c.pay_to, "the invoice is signed by another node"),
        ("invoice network", lambda: invoice.network is e.network, "the invoice's network differs"),
        ("invoice amount", lambda: invoice.amount == c.amount, "the invoice's amount differs"),
        ("invoice asset", lambda: invoice.asset == c.asset, "the invoice's asset differs"),
        (
            "payment hash",
            lambda: invoice.payment_hash == c.payment_hash,
            "the invoice's payment hash differs",
        ),
        (
            "hash algorithm",
            lambda: invoice.hash_algorithm is HashAlgorithm.SHA256,
            "the invoice does not use sha256",
        ),
        (
            "description",
            lambda: invoice.description == invoice_description(e.digest),
            "the invoice was made for another request",
        ),
        (
            "invoice expiry",
            lambda: (
                invoice.expiry_s is not None
                and invoice.expiry_s <= MAX_INVOICE_LIFE_S
                and not invoice.is_expired(e.now_s * 1000)
                and invoice.timestamp_ms <= (e.now_s + CLOCK_SKEW_S) * 1000
            ),
            "the invoice has expired, lives too long or is from the future",
        ),
    ]


def _refuse(check: str, complaint: str) -> PaymentError:
    return PaymentError(
        f"Refused to pay: {complaint}. Nothing was paid.",
        code="offer_refused",
        details={"check": check},
    )
