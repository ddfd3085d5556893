"""The MPP rendering: what announces it, challenges and their ids, credentials, header budget."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mpp as pympp
import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import CODES, InfernError, Money, RemoteProtocolError
from infern.core.f402 import mpp
from infern.core.f402.credential import MPP_HEADER, Proof, check_echo, parse_credential
from infern.core.f402.digest import request_digest
from infern.core.f402.offer import PAYMENT_REQUIRED_HEADER, Offer
from infern.core.f402.verify import Evidence, VerifiedProof, open_proof, verify_proof
from infern.core.units import Network
from infern.testing.offers import BODY, CHALLENGE_KEY, KID, NOW_S, REALM, honest_offer

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())
KEYS = {kid: bytes.fromhex(key) for kid, key in VECTORS["challenge_keys"].items()}
NODE = CoincurveSigner(bytes(31) + b"\x01")
OFFER = honest_offer(NODE)


def authenticate(offer: Offer, body: bytes = BODY) -> str:
    return mpp.challenge_header(mpp.challenge_of(offer, body), mpp.mpp_key(CHALLENGE_KEY))


def proof_of(headers: dict[str, str]) -> Proof:
    proof = parse_credential(headers).proof
    assert proof is not None
    return proof


@pytest.mark.parametrize("case", VECTORS["accept_payment"], ids=lambda case: case["name"])
def test_accept_payment_vectors(case: dict[str, Any]) -> None:
    assert mpp.announces_fiber(case["header"]) is case["announced"]


@pytest.mark.parametrize("case", VECTORS["mpp_key"], ids=lambda case: case["name"])
def test_key_vectors(case: dict[str, str]) -> None:
    assert mpp.mpp_key(bytes.fromhex(case["challenge_key"])).decode() == case["mpp_key"]


def _decoded(text: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))


@pytest.mark.parametrize("case", VECTORS["mpp_challenge"], ids=lambda case: case["name"])
def test_challenge_vectors_and_pympp_agree(case: dict[str, Any]) -> None:
    parts, key = case["parts"], bytes.fromhex(case["key"])
    assert mpp.MppChallenge(**parts).identity(key) == case["id"]
    theirs = pympp.generate_challenge_id(
        secret_key=key.decode(),
        realm=parts["realm"],
        method=parts["method"],
        intent=parts["intent"],
        request=_decoded(parts["request"]),
        expires=parts["expires"] or None,
        digest=parts["digest"] or None,
        opaque=_decoded(parts["opaque"]) if parts["opaque"] else None,
        header=parts["header"] or None,
    )
    assert theirs == case["id"]


def test_the_design_s_identifier() -> None:
    found = [case["id"] for case in VECTORS["mpp_challenge"] if case["name"] == "design"]
    assert found == ["6TgZc_85pvBPm25W7XPbUb9GjEggH20sJSLiQ-ek9LE"]


@pytest.mark.parametrize("case", VECTORS["mpp_credential"], ids=lambda case: case["name"])
def test_credential_vectors(case: dict[str, Any]) -> None:
    if "code" in case:
        with pytest.raises(RemoteProtocolError) as caught:
            parse_credential(case["headers"])
        assert (caught.value.code, caught.value.money) == (case["code"], Money.UNMOVED)
        return
    proof = proof_of(case["headers"])
    assert proof.token == case["token"]
    assert (proof.preimage and proof.preimage.hex()) == case["preimage"]
    assert proof.echoed["amount"] == case["amount"]


def verdict(case: dict[str, Any]) -> VerifiedProof:
    return verify_proof(
        proof_of({MPP_HEADER: case["header"]}),
        keys=KEYS,
        issuer=case["issuer"],
        network=Network.from_fiber_id(case["network"]),
        digest=request_digest(case["method"], case["target"], case["body"].encode()),
        now_s=case["now_s"],
    )


@pytest.mark.parametrize("case", VECTORS["mpp_verdict"], ids=lambda case: case["name"])
def test_verdict_vectors(case: dict[str, Any]) -> None:
    if case["result"] in {"ask_node", "preimage"}:
        assert verdict(case).evidence is Evidence(case["result"])
        return
    with pytest.raises(RemoteProtocolError) as caught:
        verdict(case)
    assert (caught.value.code, caught.value.money) == (case["result"], Money.UNMOVED)


def test_pympp_reads_our_challenge_and_we_read_its_credential() -> None:
    theirs = pympp.Challenge.from_www_authenticate(authenticate(OFFER))
    assert theirs.verify(mpp.mpp_key(CHALLENGE_KEY).decode(), REALM)
    assert theirs.credential_header == "Payment-Authorization"
    assert theirs.expires == "2023-11-14T22:15:20Z"
    assert theirs.request == {
        "amount": str(OFFER.challenge.amount),
        "currency": "ckb",
        "recipient": OFFER.challenge.pay_to.hex(),
        "methodDetails": {
            "invoice": OFFER.invoice,
            "network": "testnet",
            "paymentHash": OFFER.challenge.payment_hash.hex(),
        },
    }
    assert theirs.opaque == {"f402": OFFER.token}
    credential = pympp.Credential(challenge=theirs.to_echo(), payload={})
    proof = proof_of({MPP_HEADER: credential.to_authorization()})
    assert open_proof(proof, {KID: CHALLENGE_KEY}) == OFFER.challenge
    check_echo(proof, OFFER.challenge)


def test_the_digest_is_the_body_s() -> None:
    """RFC 9530, which pympp writes without the colons; it does not check ours."""
    parts = mpp.challenge_of(OFFER, BODY)
    assert parts.digest == "sha-256=:XDHj8Ja/FSNk4y/1qMHy/vmseIhH2scKSV49PWYYwfc=:"
    assert mpp.challenge_of(OFFER, b"").digest != parts.digest


def _size(headers: dict[str, str]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers.items())


def test_both_renderings_fit_where_they_can() -> None:
    headers = mpp.announced_headers(OFFER, body=BODY, challenge_key=CHALLENGE_KEY)
    assert headers["WWW-Authenticate"] == authenticate(OFFER)
    assert PAYMENT_REQUIRED_HEADER in headers
    assert _size(headers) < 5_000


def test_an_endless_query_costs_the_rendering_nobody_asked_for() -> None:
    longest = replace(
        OFFER,
        resource=OFFER.resource + "?" + "q" * 2048,
        challenge=replace(OFFER.challenge, issuer="r" * 253 + ":65535"),
    )
    long = replace(longest, invoice="f" * 1400)
    headers = mpp.announced_headers(long, body=BODY, challenge_key=CHALLENGE_KEY)
    assert set(headers) == {"F402-Version", "WWW-Authenticate"}
    assert _size(headers) <= mpp.MAX_402_HEADER_BYTES


def test_a_receipt_as_pympp_reads_it() -> None:
    text = mpp.receipt_header(OFFER.challenge, challenge_id="id", now_ms=NOW_S * 1000 + 999)
    receipt = pympp.Receipt.from_payment_receipt(text)
    assert receipt.status == "success"
    assert receipt.method == "fiber"
    assert receipt.reference == OFFER.challenge.payment_hash.hex()
    assert receipt.timestamp.timestamp() == NOW_S
    assert receipt.extensions == {"challengeId": "id"}


def test_only_a_402_is_a_problem_and_each_code_has_a_type() -> None:
    kinds = {}
    for code, spec in CODES.items():
        members = mpp.problem_members(InfernError("what happened", code=code))
        assert bool(members) == (spec.status == 402)
        if members:
            assert members["status"] == 402
            assert members["detail"] == "what happened"
            kinds[code] = str(members["type"]).removeprefix("https://paymentauth.org/problems/")
    assert kinds["payment_required"] == "payment-required"
    assert kinds["insufficient_balance"] == "payment-insufficient"
    assert kinds["challenge_expired"] == "payment-expired"
    assert kinds["invalid_preimage"] == "verification-failed"
    assert kinds["request_mismatch"] == "invalid-challenge"


def test_secrets_stay_out_of_repr() -> None:
    theirs = pympp.Challenge.from_www_authenticate(authenticate(OFFER))
    payload = {"preimage": "77" * 32}
    credential = pympp.Credential(challenge=theirs.to_echo(), payload=payload)
    shown = repr(parse_credential({MPP_HEADER: credential.to_authorization()}))
    assert "f1.k1" not in shown
    assert "w" * 8 not in shown
    assert "77" * 4 not in shown
