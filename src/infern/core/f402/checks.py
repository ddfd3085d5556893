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
from infern.core.errors import ConfigError, PaymentError, RemoteProtocolError
from infern.core.f402.challenge import Mode, Terms
from infern.core.f402.digest import invoice_description
from infern.core.f402.offer import Offer
from infern.core.fiber.invoice import HashAlgorithm, Invoice, decode_invoice, payee_of
from infern.core.ids import Pubkey, RequestDigest
from infern.core.market.price import Price
from infern.core.units import Asset, Network, format_amount
from infern.core.wire.endpoints import Endpoint, parse_request

MAX_INVOICE_LIFE_S: Final = 600
"""A request invoice that lives longer than this is not one."""
CLOCK_SKEW_S: Final = 60
MIN_REDEEM_S: Final = 600
"""A payment must be usable for this long after the last moment it can be made."""
MAX_FINAL_DELTA_MS: Final = 12_600_000
"""The last TLC of an ordinary payment needs 160 minutes; a payee that asks for much more could lock
the payer's money for days."""
_STANDARD_PORTS: Final = {"https": ":443", "http": ":80"}
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The most tokens the client itself says its request can use.

    Args:
        prompt_tokens_max: With room for a template of any model.
        completion_tokens_max: Per choice, as asked; None when the request names no limit.
        n: Choices of the whole answer.
    """

    prompt_tokens_max: int
    completion_tokens_max: int | None
    n: int


TEMPLATE_ROOM_TOKENS: Final = 4_096
"""What a model's template may add to a prompt before a quote for it looks inflated."""
FRAME_ROOM_TOKENS: Final = 64
"""What it may add for each message, and for each member of a dumped tool or schema."""


def own_ceilings(target: str, body: bytes) -> Ceilings | None:
    """What a request can use at most, read by the client that sends it.

    None when the client cannot know: another path, a body it does not understand, or images and
    audio, whose size in tokens is the listing's.
    """
    endpoint = Endpoint.from_path(target.partition("?")[0])
    if endpoint is None:
        return None
    try:
        request = parse_request(endpoint, body)
    except RemoteProtocolError:
        return None
    if any(size.images or size.audios for size in request.prompts):
        return None
    frames = sum(size.messages + size.entries for size in request.prompts)
    room = TEMPLATE_ROOM_TOKENS * len(request.prompts) + FRAME_ROOM_TOKENS * frames
    return Ceilings(
        prompt_tokens_max=request.prompt_bytes_bound + room,
        completion_tokens_max=request.completion_tokens_asked,
        n=max(request.choices, 1),
    )


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
        ceilings: What the request can use at most; None trusts the quote within `max_amount`.
        refund_to: Where the client asked a remainder to be sent; None for nowhere.
        modes: How it is willing to pay; what it asked for.
    """

    digest: RequestDigest
    origin: str
    network: Network
    asset: Asset
    max_amount: int
    now_s: int
    pay_to: Pubkey | None = None
    price: Price | None = None
    ceilings: Ceilings | None = None
    refund_to: Pubkey | None = None
    modes: frozenset[Mode] = frozenset({Mode.UPFRONT})


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, as requests are bound to; never a password.

    Raises:
        ConfigError: It is not a URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{url[:200]!r} is not a URL") from error
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
        ("mode", lambda: c.mode in e.modes, "the offer's settlement mode was not asked for"),
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
            "ceilings",
            lambda: e.ceilings is None or (terms is not None and _within(terms, e.ceilings)),
            "the quote is for more tokens than the request can use",
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
                and c.redeem_until_s >= c.expires_at_s + MIN_REDEEM_S
            ),
            "the offer has expired, lives too long or leaves no time to use the payment",
        ),
        (
            "payee",
            lambda: e.pay_to is None or c.pay_to == e.pay_to,
            "the offer pays somebody else than the seller's known Fiber node",
        ),
        (
            # A relay could have asked in our name. A seller that sends nothing back is fine: what
            # is left stays to be redeemed.
            "refund",
            lambda: c.refund_to is None or c.refund_to == e.refund_to,
            "the remainder would be sent to somebody else",
        ),
    ]


def _within(terms: Terms, own: Ceilings) -> bool:
    asked = own.completion_tokens_max
    return (
        terms.prompt_tokens_max <= own.prompt_tokens_max
        and (asked is None or terms.completion_tokens_max <= asked)
        and terms.n <= own.n
    )


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
        (
            "lock time",
            lambda: (invoice.final_expiry_delta_ms or 0) <= MAX_FINAL_DELTA_MS,
            "the invoice could lock the payment for longer than an ordinary one",
        ),
    ]


def _refuse(check: str, complaint: str) -> PaymentError:
    return PaymentError(
        f"Refused to pay: {complaint}. Nothing was paid.",
        code="offer_refused",
        details={"check": check},
    )
