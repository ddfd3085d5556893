"""A seller's verdict on a proof, in the order that burns nobody's payment."""

import json
from pathlib import Path

import pytest

from infern.core.errors import Money, RemoteProtocolError
from infern.core.f402.challenge import open_token
from infern.core.f402.credential import parse_credential
from infern.core.f402.digest import request_digest
from infern.core.f402.verify import Evidence, VerifiedProof, verify_proof
from infern.core.units import Network

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
    if case["result"] in {"ask_node", "preimage"}:
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
