"""A seller's verdict on a proof, in the order that burns nobody's payment."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import Money, RemoteProtocolError
from infern.core.f402.challenge import open_token
from infern.core.f402.credential import parse_credential, proof_header
from infern.core.f402.digest import request_digest
from infern.core.f402.verify import Evidence, VerifiedProof, verify_proof
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.ids import PaymentHash, Preimage
from infern.core.units import Network
from infern.testing.offers import (
    BODY,
    NOW_S,
    REALM,
    TARGET,
    honest_challenge,
    honest_invoice,
    offer_with,
)

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())
KEYS = {kid: bytes.fromhex(key) for kid, key in VECTORS["challenge_keys"].items()}


def verify(case: dict[str, object]) -> VerifiedProof:
    proof = parse_credential({"payment-signature": str(case["header"])}).proof
    assert proof is not None
    return verify_proof(
        proof,
        keys=KEYS,
        issuer=str(case["issuer"]),
        network=Network.from_fiber_id(str(case["network"])),
        digest=request_digest(str(case["method"]), str(case["target"]), str(case["body"]).encode()),
        now_s=int(str(case["now_s"])),
    )


@pytest.mark.parametrize("case", VECTORS["verdict"], ids=lambda case: case["name"])
def test_verdict_vectors(case: dict[str, object]) -> None:
    if case["result"] in {kind.value for kind in Evidence}:
        verified = verify(case)
        assert verified.evidence is Evidence(case["result"])
        proof = parse_credential({"payment-signature": str(case["header"])}).proof
        assert proof is not None
        assert verified.challenge == open_token(proof.token, KEYS)
        return
    with pytest.raises(RemoteProtocolError) as caught:
        verify(case)
    # Nothing is consumed by a refusal: the payment stays where it is.
    assert (caught.value.code, caught.value.money) == (case["result"], Money.UNMOVED)


@pytest.mark.parametrize("case", VECTORS["payment_hash"], ids=lambda case: case["name"])
def test_a_preimage_opens_by_sha256_and_never_by_the_ckb_hash(case: dict[str, str]) -> None:
    preimage = bytes.fromhex(case["preimage"])
    assert HashAlgorithm.SHA256.digest(preimage).hex() == case["sha256"]
    assert HashAlgorithm.CKB_HASH.digest(preimage).hex() == case["ckb_hash"]
    node = CoincurveSigner(bytes(31) + b"\x01")
    for algorithm in HashAlgorithm:
        payment_hash = PaymentHash(algorithm.digest(preimage))
        challenge = replace(honest_challenge(node.pubkey), payment_hash=payment_hash)
        offer = offer_with(challenge, honest_invoice(challenge), node)
        header = proof_header(offer, preimage=Preimage(preimage))
        verdict = {
            "header": header,
            "issuer": REALM,
            "network": "fiber:testnet",
            "method": "POST",
            "target": TARGET,
            "body": BODY.decode(),
            "now_s": NOW_S,
        }
        if algorithm is HashAlgorithm.SHA256:
            assert verify(verdict).evidence is Evidence.PREIMAGE
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                verify(verdict)
            assert caught.value.code == "invalid_preimage"
