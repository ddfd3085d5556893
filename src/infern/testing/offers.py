"""Offers as an honest seller makes them, in parts that a test may turn dishonest one at a time.

The parts are made from one another in the order `honest_challenge`, `honest_invoice`,
`offer_with`; `replace` one part and everything else still agrees, so that a client's refusal can
only be for the one thing that was changed. Invoices and tokens are real: encoded, signed, MAC'd.
"""

from dataclasses import replace
from typing import Final

from infern.core.ckb.script import HashType, Script
from infern.core.crypto import Signer
from infern.core.f402.challenge import Challenge, Mode, Terms, derive_preimage, mint_token
from infern.core.f402.checks import Expectation
from infern.core.f402.digest import invoice_description, request_digest
from infern.core.f402.offer import Offer
from infern.core.fiber.invoice import (
    Attribute,
    Description,
    ExpiryTime,
    FinalExpiryDelta,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    UdtScript,
    encode_invoice,
    sign_invoice,
)
from infern.core.ids import PaymentHash, Pubkey, RequestDigest
from infern.core.market.price import Price
from infern.core.units import CKB, Asset, Network

NOW_S: Final = 1_700_000_000
ORIGIN: Final = "https://router.test"
REALM: Final = "router.test"
TARGET: Final = "/v1/chat/completions"
BODY: Final = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":64}'
DIGEST: Final[RequestDigest] = request_digest("POST", TARGET, BODY)
KID: Final = "k1"
CHALLENGE_KEY: Final = bytes([0x0B]) * 32
PREIMAGE_KEY: Final = bytes([0x0C]) * 32
INVOICE_LIFE_S: Final = 120
REDEEM_S: Final = 86_400
FINAL_EXPIRY_DELTA_MS: Final = 9_600_000
UDT: Final = Script(code_hash=bytes([0xAB]) * 32, hash_type=HashType.TYPE, args=b"usd")
"""Type script of the token that UDT offers are priced in."""
TERMS: Final = Terms(
    price=Price(request_fee=1_120, input_per_mtok=200_000_000, output_per_mtok=600_000_000),
    prompt_tokens_max=724,
    completion_tokens_max=64,
)
"""Terms with a ceiling of 184,320 shannon."""


def honest_challenge(
    payee: Pubkey,
    *,
    terms: Terms = TERMS,
    digest: RequestDigest = DIGEST,
    now_s: int = NOW_S,
    nonce: bytes = bytes(range(16)),
    mode: Mode = Mode.UPFRONT,
) -> Challenge:
    """The claims of a fresh quote by the seller at `ORIGIN` on testnet.

    Args:
        payee: The seller's Fiber node.
        terms: Price and ceilings; the amount is what they add up to.
        digest: The request.
        now_s: Unix seconds.
        nonce: 16 bytes; decides the preimage, so use another for a second payment.
        mode: How it settles.
    """
    preimage = derive_preimage(PREIMAGE_KEY, nonce)
    return Challenge(
        issuer=REALM,
        network=Network.TESTNET,
        asset=terms.price.asset,
        amount=terms.ceiling,
        pay_to=payee,
        payment_hash=PaymentHash(HashAlgorithm.SHA256.digest(preimage)),
        digest=digest,
        listing="0x" + "11" * 32,
        mode=mode,
        issued_at_s=now_s,
        expires_at_s=now_s + INVOICE_LIFE_S,
        redeem_until_s=now_s + REDEEM_S,
        nonce=nonce,
        terms=terms,
    )


def honest_invoice(challenge: Challenge) -> Invoice:
    """The invoice, not signed yet, that the payee's node makes for a challenge."""
    attributes: tuple[Attribute, ...] = (
        ExpiryTime(expiry_s=challenge.expires_at_s - challenge.issued_at_s),
        Description(text=invoice_description(challenge.digest)),
        FinalExpiryDelta(delta_ms=FINAL_EXPIRY_DELTA_MS),
        PayeePubkey(pubkey=challenge.pay_to),
        PaymentHashAlgorithm(algorithm=HashAlgorithm.SHA256),
    )
    if not challenge.asset.is_ckb:
        attributes = (*attributes, UdtScript(script=UDT))
    return Invoice(
        network=challenge.network,
        amount=challenge.amount,
        timestamp_ms=challenge.issued_at_s * 1000,
        payment_hash=challenge.payment_hash,
        attributes=attributes,
    )


def with_attribute(invoice: Invoice, attribute: Attribute) -> Invoice:
    """The invoice with one attribute added, or put in the place of its kind."""
    rest = without_attribute(invoice, type(attribute))
    return replace(rest, attributes=(*rest.attributes, attribute))


def without_attribute(invoice: Invoice, kind: type[Attribute]) -> Invoice:
    """The invoice without its attribute of this kind."""
    kept = tuple(a for a in invoice.attributes if not isinstance(a, kind))
    return replace(invoice, attributes=kept)


def offer_with(challenge: Challenge, invoice: Invoice, signer: Signer | None) -> Offer:
    """The offer of these parts, whether they agree or not.

    Args:
        challenge: Written as a token by `CHALLENGE_KEY`.
        invoice: Encoded; signed first when there is a signer.
        signer: A Fiber node's key; None leaves the invoice as it is.
    """
    return Offer(
        challenge=challenge,
        token=mint_token(challenge, kid=KID, key=CHALLENGE_KEY),
        invoice=encode_invoice(sign_invoice(invoice, signer) if signer else invoice),
        resource=ORIGIN + TARGET,
        provider="02" + "ab" * 32,
        links={"keys": "/v1/f402/keys"},
    )


def honest_offer(node: Signer, *, terms: Terms = TERMS) -> Offer:
    """An offer that every check accepts, by the seller whose Fiber node this is."""
    challenge = honest_challenge(node.pubkey, terms=terms)
    return offer_with(challenge, honest_invoice(challenge), node)


def expectation(
    payee: Pubkey, *, asset: Asset = CKB, max_amount: int = 10 * TERMS.ceiling
) -> Expectation:
    """What a careful client knows when it asked `ORIGIN` for `BODY` at `NOW_S`."""
    return Expectation(
        digest=DIGEST,
        origin=ORIGIN,
        network=Network.TESTNET,
        asset=asset,
        max_amount=max_amount,
        now_s=NOW_S,
        pay_to=payee,
        price=replace(TERMS.price, asset=asset),
    )
