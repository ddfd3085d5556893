"""Tokens: vectors, mutations, and claims that no token may carry."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from infern.core.errors import Money, RemoteProtocolError
from infern.core.f402.challenge import (
    MAX_TOKEN_CHARS,
    Challenge,
    Mode,
    Terms,
    derive_preimage,
    mint_token,
    open_token,
    peek_token,
)
from infern.core.ids import Pubkey
from infern.core.market.price import MAX_TOKENS, Price
from infern.core.units import MAX_AMOUNT, Asset, Network
from infern.testing.offers import CHALLENGE_KEY, TERMS, honest_challenge

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())
KEYS = {kid: bytes.fromhex(key) for kid, key in VECTORS["challenge_keys"].items()}
TOKENS = {case["name"]: case for case in VECTORS["token"]}
LONGEST_LISTING = 2566
"""Characters of a listing that make a token of exactly 4096 characters."""
PAYEE = Pubkey(bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"))


@pytest.mark.parametrize("case", VECTORS["token"], ids=lambda case: case["name"])
def test_token_vectors_open_and_mint_to_the_same_text(case: dict[str, str]) -> None:
    challenge = open_token(case["token"], KEYS)
    assert mint_token(challenge, kid=case["kid"], key=KEYS[case["kid"]]) == case["token"]
    assert peek_token(case["token"]) == challenge
    assert hashlib.sha256(case["token"].encode()).hexdigest() == case["sha256"]
    assert len(case["token"]) == case["length"]


def test_the_design_s_own_token() -> None:
    assert TOKENS["design"]["length"] == 688
    assert TOKENS["design"]["token"].endswith(".pxh3RKjCPcNJ56IxuvZ7nhl55MlXIUmGH5AAhh6odsk")
    assert TOKENS["design"]["sha256"] == (
        "dc72456e3340fd793dc1c9cb6acfb737d47cf285a97eec2aa31a47956fa6d9c8"
    )


def test_claims_are_read_as_they_were_written() -> None:
    challenge = open_token(TOKENS["refund to"]["token"], KEYS)
    assert challenge == Challenge(
        issuer="router.test",
        network=Network.TESTNET,
        asset=Asset(),
        amount=184_320,
        pay_to=PAYEE,
        payment_hash=challenge.payment_hash,
        digest=challenge.digest,
        listing="0x" + "11" * 32,
        mode=Mode.UPFRONT,
        issued_at_s=1_700_000_000,
        expires_at_s=1_700_000_120,
        redeem_until_s=1_700_086_400,
        nonce=bytes(range(16)),
        terms=TERMS,
        refund_to=challenge.refund_to,
    )
    assert challenge.refund_to is not None
    assert challenge.payment_hash.hex().startswith("630dcd29")
    assert challenge.digest.hex().startswith("e90e8883")


@pytest.mark.parametrize("case", VECTORS["token_refused"], ids=lambda case: case["name"])
def test_refused_token_vectors(case: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        open_token(case["token"], KEYS)
    assert caught.value.code == "invalid_challenge"
    assert caught.value.money is Money.UNMOVED


def test_every_character_of_a_token_counts() -> None:
    token = TOKENS["with terms"]["token"]
    for at, character in enumerate(token):
        other = "A" if character != "A" else "B"
        with pytest.raises(RemoteProtocolError):
            open_token(token[:at] + other + token[at + 1 :], KEYS)


def test_a_key_that_is_gone_opens_nothing() -> None:
    token = TOKENS["old key"]["token"]
    assert open_token(token, KEYS).terms == TERMS
    with pytest.raises(RemoteProtocolError, match="does not have any more"):
        open_token(token, {"k1": KEYS["k1"]})


@pytest.mark.parametrize("token", ["", "f1.k1.e30", "f2.k1.e30.AA", "f1.k1.e\u00e9.AA", "x" * 5000])
def test_peek_refuses_what_is_no_token(token: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        peek_token(token)
    assert caught.value.code == "invalid_challenge"


@pytest.mark.parametrize("case", VECTORS["quote"], ids=lambda case: case["name"])
def test_quote_vectors(case: dict[str, object]) -> None:
    assert str(_terms(case).ceiling) == case["max"]


def _terms(case: dict[str, object]) -> Terms:
    prices, tokens = case["prc"], case["tok"]
    assert isinstance(prices, list)
    assert isinstance(tokens, list)
    fee, into, out = (int(text) for text in prices)
    return Terms(
        price=Price(request_fee=fee, input_per_mtok=into, output_per_mtok=out),
        prompt_tokens_max=tokens[0],
        completion_tokens_max=tokens[1],
        n=tokens[2],
    )


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_tokens_max": -1},
        {"prompt_tokens_max": MAX_TOKENS + 1},
        {"completion_tokens_max": -1},
        {"completion_tokens_max": MAX_TOKENS + 1},
        {"completion_tokens_max": True},
        {"n": 0},
        {"n": -1},
        {"n": 2, "completion_tokens_max": MAX_TOKENS // 2 + 1},
    ],
)
def test_terms_always_have_a_ceiling(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"an amount|1 choice"):
        replace(TERMS, **change)


def test_the_widest_terms_have_a_ceiling() -> None:
    price = Price(request_fee=2**64 - 1, input_per_mtok=2**64 - 1, output_per_mtok=2**64 - 1)
    widest = Terms(price=price, prompt_tokens_max=MAX_TOKENS, completion_tokens_max=2**20, n=2**20)
    assert 0 < widest.ceiling <= MAX_AMOUNT


@pytest.mark.parametrize(
    "change",
    [
        {"amount": -1},
        {"amount": MAX_AMOUNT + 1},
        {"amount": True},
        {"pay_to": bytes(32)},
        {"payment_hash": bytes(31)},
        {"digest": bytes(33)},
        {"nonce": bytes(15)},
        {"nonce": b""},
        {"refund_to": b""},
        {"issued_at_s": -1},
        {"issued_at_s": 1_700_000_121},
        {"expires_at_s": 1_700_086_401},
        {"redeem_until_s": 1_700_000_119},
        {"redeem_until_s": 2**53},
        {"asset": Asset(bytes([0xAB]) * 32)},
    ],
)
def test_a_seller_cannot_write_what_it_could_not_read_again(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"challenge|remainder|an amount"):
        replace(honest_challenge(PAYEE), **change)


@pytest.mark.parametrize("kid", ["", "k" * 33, "k.1", "k 1", "k\n", "\u00e9"])
def test_kids_are_short_and_plain(kid: str) -> None:
    with pytest.raises(ValueError, match="short plain name"):
        mint_token(honest_challenge(PAYEE), kid=kid, key=CHALLENGE_KEY)


def test_short_keys_make_no_tokens() -> None:
    with pytest.raises(ValueError, match="32 bytes or more"):
        mint_token(honest_challenge(PAYEE), kid="k1", key=bytes(31))


def test_tokens_nobody_would_read_are_not_made() -> None:
    longest = replace(honest_challenge(PAYEE), listing="1" * LONGEST_LISTING)
    token = mint_token(longest, kid="k1", key=CHALLENGE_KEY)
    assert MAX_TOKEN_CHARS - 2 <= len(token) <= MAX_TOKEN_CHARS
    assert open_token(token, {"k1": CHALLENGE_KEY}) == longest
    with pytest.raises(ValueError, match="at most 4096"):
        mint_token(replace(longest, listing="1" * (LONGEST_LISTING + 1)), kid="k1", key=KEYS["k1"])


@pytest.mark.parametrize("case", VECTORS["derived_preimage"], ids=lambda case: case["name"])
def test_derived_preimage_vectors(case: dict[str, str]) -> None:
    preimage = derive_preimage(bytes.fromhex(case["key"]), bytes.fromhex(case["nonce"]))
    assert preimage.hex() == case["preimage"]
    assert hashlib.sha256(preimage).hexdigest() == case["payment_hash"]


@pytest.mark.parametrize(("key", "nonce"), [(bytes(31), bytes(16)), (bytes(32), bytes(15))])
def test_preimages_take_a_long_key_and_the_whole_nonce(key: bytes, nonce: bytes) -> None:
    with pytest.raises(ValueError, match="32-byte key"):
        derive_preimage(key, nonce)


def test_a_request_asks_for_a_mode_by_name_or_pays_upfront() -> None:
    assert Mode.asked(None) is Mode.UPFRONT
    for mode in Mode:
        assert Mode.asked(mode.value) is mode
    for unknown in ("", "HOLD", "escrow", " hold", "hold,hold"):
        with pytest.raises(RemoteProtocolError) as caught:
            Mode.asked(unknown)
        assert (caught.value.code, caught.value.money) == ("invalid_request", Money.UNMOVED)
