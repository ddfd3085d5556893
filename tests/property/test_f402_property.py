"""F402 under random values and hostile texts: every parser either reads or says InfernError."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.ckb.hashing import ckb_hash
from infern.core.errors import InfernError, Money, RemoteProtocolError
from infern.core.f402.challenge import (
    Challenge,
    Mode,
    Terms,
    mint_token,
    open_token,
    peek_token,
)
from infern.core.f402.checks import Expectation, check_offer
from infern.core.f402.credential import make_key, parse_credential, proof_header
from infern.core.f402.digest import request_digest
from infern.core.f402.offer import decode_header_json, offer_details, parse_offer
from infern.core.f402.receipt import (
    Finish,
    Receipt,
    ResponseRoot,
    SellerIdentity,
    parse_receipt,
    response_root,
    sign_receipt,
)
from infern.core.f402.verify import verify_proof
from infern.core.ids import (
    PaymentHash,
    Preimage,
    Pubkey,
    RequestDigest,
    base32_id,
    parse_payment_hash,
    parse_pubkey,
)
from infern.core.market.price import MAX_TOKENS, Price
from infern.core.units import CKB, Asset, Network, format_amount, parse_amount, parse_ckb
from infern.core.wire import strict_json
from infern.testing.offers import (
    CHALLENGE_KEY,
    NOW_S,
    ORIGIN,
    expectation,
    honest_invoice,
    honest_offer,
    offer_with,
)

VERIFIER = CoincurveVerifier()
NODE = CoincurveSigner(bytes(31) + b"\x01")
HONEST = honest_offer(NODE)
EXPECTED = expectation(NODE.pubkey)
KEYS = {"k1": CHALLENGE_KEY}

U64 = st.integers(0, 2**64 - 1)
HASHES = st.binary(min_size=32, max_size=32)
IDENTITIES = HASHES.filter(any)
TEXT = st.text(st.characters(codec="utf-8"), max_size=100)
ANY_TEXT = st.text(max_size=200)
ASSETS = st.one_of(st.just(CKB), st.builds(Asset, IDENTITIES))
PUBKEYS = st.builds(
    lambda first, rest: Pubkey(bytes([first]) + rest), st.sampled_from([2, 3]), HASHES
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
NEAR_AMOUNTS = st.text("0123456789+-.e_ \u0661\uff11\u00b2x", max_size=12)


@st.composite
def challenges(draw: st.DrawFn) -> Challenge:
    asset = draw(ASSETS)
    times = sorted(draw(st.lists(st.integers(0, 2**53 - 1), min_size=3, max_size=3)))
    n = draw(st.integers(1, 2**20))
    terms = Terms(
        price=Price(
            asset=asset,
            request_fee=draw(U64),
            input_per_mtok=draw(U64),
            output_per_mtok=draw(U64),
        ),
        prompt_tokens_max=draw(st.integers(0, MAX_TOKENS)),
        completion_tokens_max=draw(st.integers(0, MAX_TOKENS // n)),
        n=n,
    )
    return Challenge(
        issuer=draw(TEXT),
        network=draw(st.sampled_from(Network)),
        asset=asset,
        amount=draw(st.integers(0, 2**128 - 1)),
        pay_to=draw(PUBKEYS),
        payment_hash=PaymentHash(draw(HASHES)),
        digest=RequestDigest(draw(HASHES)),
        listing=draw(TEXT),
        mode=draw(st.sampled_from(Mode)),
        issued_at_s=times[0],
        expires_at_s=times[1],
        redeem_until_s=times[2],
        nonce=draw(st.binary(min_size=16, max_size=16)),
        terms=draw(st.sampled_from([terms, None])),
        refund_to=draw(st.none() | PUBKEYS),
    )


@st.composite
def receipts(draw: st.DrawFn) -> Receipt:
    return Receipt(
        seller=SellerIdentity(
            **{name: draw(IDENTITIES) for name in SellerIdentity.__dataclass_fields__}
        ),
        client_key_hash=draw(st.binary(min_size=20, max_size=20)),
        session=draw(st.binary(min_size=16, max_size=16)),
        seq=draw(st.integers(0, 2**32 - 1)),
        prev_digest=draw(HASHES),
        payment_ref=draw(HASHES),
        req_hash=draw(HASHES),
        resp_root=draw(HASHES),
        prompt_tokens=draw(U64),
        completion_tokens=draw(U64),
        asset=draw(HASHES),
        charged=draw(st.integers(0, 2**128 - 1)),
        finish=draw(st.sampled_from(Finish)),
        started_ms=draw(U64),
        finished_ms=draw(U64),
    )


def signed_token(payload: bytes) -> str:
    """A token over any payload, as only a seller gone wrong could write it."""
    text = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    mac = hmac.digest(CHALLENGE_KEY, f"f402/1.k1.{text}".encode(), "sha256")
    return f"f1.k1.{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


# Tokens.


@given(challenges())
def test_tokens_round_trip(challenge: Challenge) -> None:
    token = mint_token(challenge, kid="k1", key=CHALLENGE_KEY)
    assert open_token(token, KEYS) == peek_token(token) == challenge
    # Two different texts are two different challenges: a token has one text.
    assert mint_token(open_token(token, KEYS), kid="k1", key=CHALLENGE_KEY) == token


@given(challenges(), st.data())
def test_no_changed_token_opens(challenge: Challenge, data: st.DataObject) -> None:
    token = mint_token(challenge, kid="k1", key=CHALLENGE_KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = (
        token[:at] + data.draw(st.characters()) + token[at + data.draw(st.sampled_from([0, 1])) :]
    )
    assume(changed != token)
    with pytest.raises(RemoteProtocolError) as caught:
        open_token(changed, KEYS)
    assert (caught.value.code, caught.value.money) == ("invalid_challenge", Money.UNMOVED)


@given(ANY_TEXT | st.from_regex(r"f1\.k1\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_-]*", fullmatch=True))
def test_hostile_tokens(text: str) -> None:
    for read in (peek_token, lambda token: open_token(token, KEYS)):
        with pytest.raises(RemoteProtocolError) as caught:
            read(text)
        assert caught.value.code == "invalid_challenge"


@given(st.binary(max_size=300))
def test_hostile_payloads(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_token(signed_token(payload), KEYS)


CLAIMS = json.loads(base64.urlsafe_b64decode(HONEST.token.split(".")[2] + "=="))


@given(st.sampled_from(sorted([*CLAIMS, "rto", "zzz"])), JSON | NEAR_AMOUNTS)
@example("tok", [2**40, 2**40, 2**40])
@example("amt", str(2**128))
@example("iss", "\x00\x1b[31m")
def test_hostile_claims_are_refused_or_written_the_same_way(name: str, value: object) -> None:
    claims = {**CLAIMS, name: value}
    try:
        challenge = open_token(signed_token(json.dumps(claims).encode()), KEYS)
    except RemoteProtocolError as error:
        assert error.code == "invalid_challenge"  # noqa: PT017 - both outcomes are allowed here
        return
    again = mint_token(challenge, kid="k1", key=CHALLENGE_KEY)
    assert open_token(again, KEYS) == challenge


# Headers and offers.


@given(st.dictionaries(st.sampled_from(["authorization", "payment-signature"]), ANY_TEXT))
def test_hostile_headers(headers: dict[str, str]) -> None:
    try:
        credential = parse_credential(headers)
    except InfernError as error:
        assert error.money is Money.UNMOVED  # noqa: PT017 - both outcomes are allowed here
        return
    # Random text never holds one of our keys or a proof.
    assert credential.is_anonymous


@given(JSON)
def test_hostile_proofs(value: object) -> None:
    proof = {
        "x402Version": 2,
        "accepted": {"scheme": "exact", "extra": {"challenge": value}},
        "payload": value,
    }
    text = base64.b64encode(json.dumps(proof).encode()).decode()
    with pytest.raises(RemoteProtocolError):
        parse_credential({"payment-signature": text})


@given(st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()))
def test_header_json_is_an_object_or_an_error(raw: bytes) -> None:
    text = base64.b64encode(raw).decode()
    try:
        value = decode_header_json(text, limit_chars=1000, code="malformed_proof")
    except RemoteProtocolError as error:
        assert error.code == "malformed_proof"  # noqa: PT017 - both outcomes are allowed here
    else:
        assert value == strict_json.loads_object(raw)


@given(st.none() | HASHES.map(Preimage))
def test_proofs_round_trip(preimage: Preimage | None) -> None:
    header = proof_header(HONEST, preimage=preimage)
    proof = parse_credential({"payment-signature": header}).proof
    assert proof is not None
    assert (proof.token, proof.preimage) == (HONEST.token, preimage)
    digest, challenge = HONEST.challenge.digest, HONEST.challenge
    right = preimage is None or hashlib.sha256(preimage).digest() == challenge.payment_hash

    def verify() -> Challenge:
        return verify_proof(
            proof,
            keys=KEYS,
            issuer=challenge.issuer,
            network=challenge.network,
            digest=digest,
            now_s=NOW_S,
        ).challenge

    if right:
        assert verify() == challenge
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            verify()
        assert caught.value.code == "invalid_preimage"


DETAILS = offer_details(HONEST)


@given(
    st.sampled_from(sorted(DETAILS)),
    JSON | NEAR_AMOUNTS | st.sampled_from(sorted(map(str, DETAILS.values()))),
)
def test_an_offer_with_one_hostile_member_is_not_paid_otherwise(name: str, value: object) -> None:
    body = json.dumps({"error": {"f402": {**DETAILS, name: value}}}).encode()
    try:
        offer = parse_offer(body, ORIGIN)
        if offer is None:
            return
        invoice = check_offer(offer, EXPECTED, VERIFIER)
    except InfernError as error:
        assert error.money is Money.UNMOVED  # noqa: PT017 - both outcomes are allowed here
        return
    # What is paid is what the token says, whatever else was said.
    assert offer.challenge == HONEST.challenge
    assert invoice.amount == HONEST.challenge.amount


@given(st.binary(max_size=300) | JSON.map(lambda v: json.dumps({"error": {"f402": v}}).encode()))
def test_hostile_402_bodies_hold_no_offer(body: bytes) -> None:
    try:
        assert parse_offer(body, ORIGIN) is None
    except InfernError as error:
        assert error.money is Money.UNMOVED  # noqa: PT017 - both outcomes are allowed here


@settings(max_examples=50)
@given(st.integers(0, len(HONEST.invoice) - 1), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_no_changed_invoice_is_paid(at: int, character: str) -> None:
    changed = HONEST.invoice[:at] + character + HONEST.invoice[at + 1 :]
    assume(changed != HONEST.invoice)
    with pytest.raises(InfernError) as caught:
        check_offer(replace(HONEST, invoice=changed), EXPECTED, VERIFIER)
    assert caught.value.code in {"invalid_invoice", "offer_refused"}


@settings(max_examples=50)
@given(challenges(), st.integers(0, 2**128 - 1), st.integers(0, 2**53))
def test_no_random_offer_is_paid_above_the_cap_or_the_quote(
    challenge: Challenge, cap: int, now_s: int
) -> None:
    offer = offer_with(challenge, honest_invoice(replace(challenge, asset=CKB, terms=None)), None)
    expected = Expectation(
        digest=challenge.digest,
        origin="https://" + challenge.issuer if challenge.issuer.isalnum() else ORIGIN,
        network=challenge.network,
        asset=challenge.asset,
        max_amount=cap,
        now_s=now_s,
    )
    with pytest.raises(InfernError) as caught:
        check_offer(offer, expected, VERIFIER)
    assert caught.value.money is Money.UNMOVED


@given(TEXT, TEXT, st.binary(max_size=100), TEXT, st.binary(max_size=100))
def test_digests_tell_requests_apart(
    method: str, target: str, body: bytes, other_target: str, other_body: bytes
) -> None:
    same = (target, body) == (other_target, other_body)
    digests = request_digest(method, target, body), request_digest(method, other_target, other_body)
    assert (digests[0] == digests[1]) == same


# Receipts.


@given(receipts())
def test_receipts_round_trip(receipt: Receipt) -> None:
    assert Receipt.unpack(receipt.pack()) == receipt
    signed = sign_receipt(receipt, NODE)
    assert parse_receipt(signed.to_text()) == signed
    assert signed.is_signed_by(NODE.pubkey, VERIFIER)


@given(receipts(), st.data())
def test_a_receipt_has_one_text(receipt: Receipt, data: st.DataObject) -> None:
    signed = sign_receipt(receipt, NODE)
    text = signed.to_text()
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(ANY_TEXT) + text[at + data.draw(st.integers(0, 4)) :]
    assume(changed != text)
    try:
        found = parse_receipt(changed)
    except RemoteProtocolError:
        return
    assert found != signed
    assert not found.is_signed_by(NODE.pubkey, VERIFIER)


@given(ANY_TEXT | st.text("ABab01_-=+/", min_size=640, max_size=646))
def test_hostile_receipts(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_receipt(text)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962's recursive definition: split at the largest power of two below the length."""
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        return ckb_hash(b"\x00" + leaves[0])
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return ckb_hash(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:]))


@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=20))
def test_streamed_root_is_the_tree_s_for_any_split(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[a:b] for a, b in pairwise(edges)]
    expected = naive_root([data[at : at + 64] for at in range(0, len(data), 64)])
    tree = ResponseRoot()
    for part in parts:
        tree.update(part)
        tree.root()
    assert tree.root() == expected == response_root(parts)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_roots_tell_answers_apart(one: bytes, other: bytes) -> None:
    assert (response_root([one]) == response_root([other])) == (one == other)


# Units, identifiers, prices.


@given(ANY_TEXT | NEAR_AMOUNTS | st.integers(0, 2**130).map(str))
def test_an_amount_has_one_text(text: str) -> None:
    try:
        amount = parse_amount(text)
    except RemoteProtocolError:
        return
    assert str(amount) == text
    assert 0 <= amount < 2**128


@given(st.integers(0, 2**128 - 1))
def test_what_people_read_they_can_type(amount: int) -> None:
    assert parse_ckb(format_amount(amount)) == amount
    assert parse_ckb(f"{amount} shannon") == amount


@given(ANY_TEXT | NEAR_AMOUNTS)
def test_typed_amounts_are_read_or_refused(text: str) -> None:
    try:
        amount = parse_ckb(text)
    except ValueError:
        return
    assert 0 <= amount < 2**128


@given(ANY_TEXT | ASSETS.map(str))
def test_an_asset_has_one_text(text: str) -> None:
    try:
        asset = Asset.parse(text)
    except RemoteProtocolError:
        return
    assert str(asset) == text


@given(ANY_TEXT | HASHES.map(bytes.hex) | PUBKEYS.map(bytes.hex))
def test_hostile_identifiers(text: str) -> None:
    for parse in (parse_payment_hash, parse_pubkey):
        try:
            raw = parse(text)
        except RemoteProtocolError:
            continue
        assert raw.hex() == text.removeprefix("0x")


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
def test_names_keep_their_entropy(one: bytes, other: bytes) -> None:
    assert (make_key(one) == make_key(other)) == (one == other)
    assert parse_credential({"authorization": f"Bearer {make_key(one)}"}).key == make_key(one)
    same = one[:16] == other[:16]
    assert (base32_id("req_", one[:16]) == base32_id("req_", other[:16])) == same


TOKENS = st.integers(0, MAX_TOKENS)


@given(U64, U64, U64, TOKENS, TOKENS)
def test_cost_is_the_exact_sum_rounded_up_once(
    fee: int, into: int, out: int, prompt: int, completion: int
) -> None:
    price = Price(request_fee=fee, input_per_mtok=into, output_per_mtok=out)
    exact = fee + Fraction(prompt * into + completion * out, 1_000_000)
    assert price.cost(prompt, completion) == ceil(exact)
    assert price.cost(prompt, completion) <= 2**128 - 1


@given(U64, U64, U64, st.tuples(TOKENS, TOKENS), st.tuples(TOKENS, TOKENS))
def test_fewer_tokens_never_cost_more(
    fee: int, into: int, out: int, one: tuple[int, int], other: tuple[int, int]
) -> None:
    price = Price(request_fee=fee, input_per_mtok=into, output_per_mtok=out)
    less = min(one[0], other[0]), min(one[1], other[1])
    assert price.cost(*less) <= min(price.cost(*one), price.cost(*other))


@given(challenges())
def test_what_is_delivered_within_the_ceilings_costs_at_most_the_ceiling(c: Challenge) -> None:
    if c.terms is not None:
        terms: Any = c.terms
        used = terms.n * terms.completion_tokens_max
        assert terms.price.cost(terms.prompt_tokens_max // 2, used // 2) <= terms.ceiling
        assert terms.price.cost(terms.prompt_tokens_max, used) == terms.ceiling
