"""The challenge token: a seller's own note to itself, carried by the client.

`f1.<kid>.<b64url(JCS claims)>.<b64url(HMAC-SHA256)>`. Nothing is stored for an unpaid quote: all a
seller needs to honour it comes back inside the token, and the MAC says that the seller wrote it.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self, TypeGuard

from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.ids import (
    PaymentHash,
    Preimage,
    Pubkey,
    RequestDigest,
    parse_payment_hash,
    parse_pubkey,
    parse_request_digest,
)
from infern.core.market.price import MAX_TOKENS, Price
from infern.core.units import Asset, Network, checked_amount, parse_amount
from infern.core.wire import base64url
from infern.core.wire.jcs import MAX_SAFE_INT, canonicalize
from infern.core.wire.strict_json import Json, JsonObject, loads_object

MAX_TOKEN_CHARS: Final = 4096
MIN_KEY_BYTES: Final = 32
_MAC_PREFIX: Final = b"f402/1."
_PREIMAGE_PREFIX: Final = b"f402/pre."
_KID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_JTI = re.compile(r"[0-9a-f]{32}")


class Mode(StrEnum):
    """How a request is settled."""

    UPFRONT = "upfront"
    """An ordinary invoice, paid before the work."""
    HOLD = "hold"
    """A hold invoice, settled on delivery."""

    @classmethod
    def asked(cls, header: str | None) -> Self:
        """The mode a request asks for in its `F402-Mode` header; upfront without one.

        Raises:
            RemoteProtocolError: No mode (`invalid_request`): guessing would spend money otherwise
                than the payer meant. Nothing moved.
        """
        try:
            return cls(header) if header is not None else cls.UPFRONT
        except ValueError:
            raise RemoteProtocolError("F402-Mode is upfront or hold") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The price and token ceilings a quote was made with, so that it is honoured as quoted.

    Args:
        price: The price at quoting time.
        prompt_tokens_max: Prompt tokens the ceiling covers.
        completion_tokens_max: Completion tokens per choice the ceiling covers.
        n: Number of choices.
    """

    price: Price
    prompt_tokens_max: int
    completion_tokens_max: int
    n: int = 1

    def __post_init__(self) -> None:
        """Refuse counts no request can have, so that `ceiling` always exists."""
        for count in (self.prompt_tokens_max, self.completion_tokens_max, self.n):
            checked_amount(count, limit=MAX_TOKENS)
        if self.n < 1 or self.n * self.completion_tokens_max > MAX_TOKENS:
            raise ValueError(f"a request has 1 choice or more and at most {MAX_TOKENS} tokens")

    @property
    def ceiling(self) -> int:
        """The most the request can cost, in base units of the price's asset."""
        return self.price.cost(self.prompt_tokens_max, self.n * self.completion_tokens_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """The claims of a token.

    Args:
        issuer: The seller's realm, e.g. `router.example`.
        network: Where the invoice lives.
        asset: What `amount` counts.
        amount: Base units to pay; the ceiling of the request.
        pay_to: The payee's Fiber node, 33 bytes.
        payment_hash: 32 bytes; identity of the paid request.
        digest: The request it is for, 32 bytes.
        listing: The listing it was priced by; hex text, opaque here.
        mode: How it settles.
        issued_at_s: Unix seconds.
        expires_at_s: Pay until, Unix seconds.
        redeem_until_s: A payment is honoured until then, Unix seconds.
        nonce: 16 bytes, unique per token; also seeds the preimage.
        terms: Price and ceilings at quoting time; absent only in foreign vectors.
        refund_to: Where the first request asked a remainder to be sent.
    """

    issuer: str
    network: Network
    asset: Asset
    amount: int
    pay_to: Pubkey
    payment_hash: PaymentHash
    digest: RequestDigest
    listing: str
    mode: Mode
    issued_at_s: int
    expires_at_s: int
    redeem_until_s: int
    nonce: bytes
    terms: Terms | None = None
    refund_to: Pubkey | None = None

    def __post_init__(self) -> None:
        """Refuse claims that a token could not carry back: a paid one must always open."""
        checked_amount(self.amount)
        lengths = (self.pay_to, 33), (self.payment_hash, 32), (self.digest, 32), (self.nonce, 16)
        if any(len(value) != length for value, length in lengths):
            raise ValueError(
                "a challenge names a 33-byte payee, two 32-byte hashes, 16 bytes nonce"
            )
        if self.refund_to is not None and len(self.refund_to) != 33:
            raise ValueError("a remainder goes to a 33-byte public key")
        if not 0 <= self.issued_at_s <= self.expires_at_s <= self.redeem_until_s <= MAX_SAFE_INT:
            raise ValueError("a challenge is issued, then expires, then ends")
        if self.terms is not None and self.terms.price.asset != self.asset:
            raise ValueError("a challenge is priced in the asset it is paid in")


def _unb64url(text: str) -> bytes:
    try:
        return base64url.decode(text)
    except ValueError as error:
        raise _invalid(f"the token cannot be read: {error}") from error


def _invalid(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code="invalid_challenge")


def _mac(key: bytes, kid: str, payload: str) -> bytes:
    message = _MAC_PREFIX + f"{kid}.{payload}".encode("ascii")
    return hmac.new(key, message, hashlib.sha256).digest()


def _claims(challenge: Challenge) -> dict[str, JsonValue]:
    claims: dict[str, JsonValue] = {
        "v": 1,
        "iss": challenge.issuer,
        "net": challenge.network.fiber_id,
        "ast": str(challenge.asset),
        "amt": str(challenge.amount),
        "pay": challenge.pay_to.hex(),
        "ph": challenge.payment_hash.hex(),
        "rd": challenge.digest.hex(),
        "lst": challenge.listing,
        "mod": challenge.mode.value,
        "iat": challenge.issued_at_s,
        "exp": challenge.expires_at_s,
        "rdm": challenge.redeem_until_s,
        "jti": challenge.nonce.hex(),
    }
    if challenge.terms is not None:
        terms = challenge.terms
        price = terms.price
        claims["prc"] = [
            str(n) for n in (price.request_fee, price.input_per_mtok, price.output_per_mtok)
        ]
        claims["tok"] = [terms.prompt_tokens_max, terms.completion_tokens_max, terms.n]
    if challenge.refund_to is not None:
        claims["rto"] = challenge.refund_to.hex()
    return claims


def mint_token(challenge: Challenge, *, kid: str, key: bytes) -> str:
    """Write a challenge as a token.

    Args:
        challenge: The claims.
        kid: Name of the key, 1..32 of `[A-Za-z0-9_-]`.
        key: At least 32 secret bytes, used for nothing else.

    Raises:
        ValueError: A key or kid that must not be used, or names so long that nobody would read
            the token; the seller's configuration is wrong.
    """
    if len(key) < MIN_KEY_BYTES or not _KID.fullmatch(kid):
        raise ValueError("a challenge key has 32 bytes or more and a short plain name")
    payload = base64url.encode(canonicalize(_claims(challenge)))
    token = f"f1.{kid}.{payload}.{base64url.encode(_mac(key, kid, payload))}"
    if len(token) > MAX_TOKEN_CHARS:
        raise ValueError(f"a token has at most {MAX_TOKEN_CHARS} characters")
    return token


def open_token(token: str, keys: Mapping[str, bytes]) -> Challenge:
    """Check a token's MAC and read its claims.

    Nothing of the token is believed before its MAC is found equal, in constant time.

    Raises:
        RemoteProtocolError: Not ours, altered or unreadable (`invalid_challenge`, unmoved).
    """
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARS and token.isascii() else []
    if len(parts) != 4 or parts[0] != "f1" or not _KID.fullmatch(parts[1]):
        raise _invalid("the challenge is not an F402 token")
    _, kid, payload, mac_text = parts
    key = keys.get(kid)
    if key is None:
        raise _invalid("the challenge was made with a key this seller does not have any more")
    if not hmac.compare_digest(_unb64url(mac_text), _mac(key, kid, payload)):
        raise _invalid("the challenge was not made by this seller, or was altered")
    return _parse_claims(_unb64url(payload))


def key_of_token(token: str, keys: Mapping[str, bytes]) -> bytes:
    """The key a token that was opened is made with; other things are derived from it."""
    return keys[token.split(".")[1]]


def peek_token(token: str) -> Challenge:
    """Read the claims of somebody else's token without being able to check its MAC.

    For clients, which compare what they read with the invoice and the quote.

    Raises:
        RemoteProtocolError: Unreadable (`invalid_challenge`, unmoved).
    """
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARS and token.isascii() else []
    if len(parts) != 4 or parts[0] != "f1":
        raise _invalid("the challenge is not an F402 token")
    return _parse_claims(_unb64url(parts[2]))


def _parse_claims(payload: bytes) -> Challenge:
    try:
        claims = loads_object(payload)
        if _count(claims, "v") != 1:
            raise _invalid("the challenge has an unknown version")
        nonce = _text(claims, "jti")
        if not _JTI.fullmatch(nonce):
            raise _invalid("the challenge has a malformed nonce")
        asset = Asset.parse(_text(claims, "ast"))
        return Challenge(
            issuer=_text(claims, "iss"),
            network=Network.from_fiber_id(_text(claims, "net")),
            asset=asset,
            amount=parse_amount(_text(claims, "amt")),
            pay_to=parse_pubkey(_text(claims, "pay")),
            payment_hash=parse_payment_hash(_text(claims, "ph")),
            digest=parse_request_digest(_text(claims, "rd")),
            listing=_text(claims, "lst"),
            mode=Mode(_text(claims, "mod")),
            issued_at_s=_count(claims, "iat"),
            expires_at_s=_count(claims, "exp"),
            redeem_until_s=_count(claims, "rdm"),
            nonce=bytes.fromhex(nonce),
            terms=_parse_terms(claims, asset),
            refund_to=parse_pubkey(_text(claims, "rto")) if "rto" in claims else None,
        )
    except (RemoteProtocolError, ValueError) as error:
        raise _invalid(f"the challenge cannot be read: {error}") from error


def _parse_terms(claims: JsonObject, asset: Asset) -> Terms | None:
    if "prc" not in claims and "tok" not in claims:
        return None
    prices, tokens = claims.get("prc"), claims.get("tok")
    if not isinstance(prices, list) or not isinstance(tokens, list):
        raise _invalid("the challenge has malformed terms")
    amounts = [parse_amount(p) for p in prices if isinstance(p, str)]
    counts = [t for t in tokens if _is_count(t)]
    if len(amounts) != 3 or len(counts) != 3 or len(prices) != 3 or len(tokens) != 3:
        raise _invalid("the challenge has malformed terms")
    price = Price(
        asset=asset, request_fee=amounts[0], input_per_mtok=amounts[1], output_per_mtok=amounts[2]
    )
    return Terms(
        price=price, prompt_tokens_max=counts[0], completion_tokens_max=counts[1], n=counts[2]
    )


def _text(claims: JsonObject, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise _invalid(f"the challenge lacks {name}")
    return value


def _count(claims: JsonObject, name: str) -> int:
    value = claims.get(name)
    if not _is_count(value):
        raise _invalid(f"the challenge lacks {name}")
    return value


def _is_count(value: Json) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_SAFE_INT


def derive_preimage(key: bytes, nonce: bytes) -> Preimage:
    """The preimage of a token's invoice, derived so that a restarted seller still knows it.

    Args:
        key: At least 32 secret bytes that never leave the payee and make nothing else.
        nonce: The token's 16 bytes.
    """
    if len(key) < MIN_KEY_BYTES or len(nonce) != 16:
        raise ValueError("a preimage is derived from a 32-byte key and a 16-byte nonce")
    message = _PREIMAGE_PREFIX + nonce.hex().encode("ascii")
    return Preimage(hmac.new(key, message, hashlib.sha256).digest())
