"""Who may say where a remainder goes."""

from dataclasses import replace

import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import RemoteProtocolError
from infern.core.f402.credential import Proof
from infern.core.f402.refund import refund_asked, refund_of
from infern.core.ids import Preimage, Pubkey
from infern.testing.offers import honest_challenge

OWN, MINE, OTHER = (CoincurveSigner(bytes([n]) * 32).pubkey for n in (1, 2, 3))
TOKEN = honest_challenge(OWN)
PREIMAGE = Preimage(b"\x09" * 32)


def _proof(refund_to: Pubkey | None, preimage: Preimage | None) -> Proof:
    return Proof(token="", preimage=preimage, refund_to=refund_to, echoed={})


@pytest.mark.parametrize(
    ("in_token", "in_proof", "preimage", "goes_to"),
    [
        (None, None, None, None),
        (None, None, PREIMAGE, None),
        (None, OTHER, None, None),
        (None, MINE, PREIMAGE, MINE),
        (MINE, None, None, MINE),
        (MINE, OTHER, None, MINE),
        (MINE, OTHER, PREIMAGE, MINE),
        (OWN, None, None, None),
        (None, OWN, PREIMAGE, None),
        (OWN, MINE, PREIMAGE, None),
    ],
)
def test_the_token_s_wins_and_a_late_one_needs_the_preimage(
    in_token: Pubkey | None,
    in_proof: Pubkey | None,
    preimage: Preimage | None,
    goes_to: Pubkey | None,
) -> None:
    challenge = replace(TOKEN, refund_to=in_token)
    assert refund_of(challenge, _proof(in_proof, preimage), own=OWN) == goes_to


def test_the_first_request_names_it_in_a_header() -> None:
    assert refund_asked({}, own=OWN) is None
    assert refund_asked({"f402-refund-to": MINE.hex()}, own=OWN) == MINE
    assert refund_asked({"f402-refund-to": "0x" + MINE.hex()}, own=OWN) == MINE


@pytest.mark.parametrize("text", ["", "02", MINE.hex().upper(), MINE.hex() + "00", OWN.hex()])
def test_headers_that_name_no_node_to_send_to(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        refund_asked({"f402-refund-to": text}, own=OWN)
    assert caught.value.code == "invalid_request"
