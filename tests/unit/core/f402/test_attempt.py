"""A journal's row: what it may hold, when money is at stake, the proof it gives a right to."""

from dataclasses import replace

import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import RemoteProtocolError
from infern.core.f402.attempt import RETURNED, Attempt, AttemptKind
from infern.core.f402.client import MONEY_AT_STAKE, ClientState
from infern.core.f402.credential import parse_credential, proof_header
from infern.core.ids import Preimage
from infern.core.units import MAX_LEDGER_AMOUNT
from infern.testing.offers import DIGEST, NOW_S, ORIGIN, honest_offer

NODE = CoincurveSigner(bytes(31) + b"\x01")
OFFER = honest_offer(NODE)
ROW = Attempt(
    payment_hash=OFFER.challenge.payment_hash,
    kind=AttemptKind.REQUEST,
    digest=DIGEST,
    origin=ORIGIN,
    resource=OFFER.resource,
    pay_to=NODE.pubkey,
    provider=OFFER.provider,
    amount=OFFER.challenge.amount,
    fee_cap=100,
    asset=OFFER.challenge.asset,
    token=OFFER.token,
    invoice=OFFER.invoice,
    redeem_until_s=OFFER.challenge.redeem_until_s,
    state=ClientState.INTENDED,
    session="s",
    created_ms=NOW_S * 1000,
    updated_ms=NOW_S * 1000,
)


def test_the_row_writes_the_proof_again() -> None:
    again = ROW.offer()
    assert again == replace(OFFER, links={})
    preimage = Preimage(bytes(32))
    header = proof_header(again, preimage=preimage)
    assert header == proof_header(OFFER, preimage=preimage)
    assert parse_credential({"payment-signature": header}).proof is not None


def test_a_top_up_s_row_has_no_proof() -> None:
    with pytest.raises(RemoteProtocolError):
        replace(ROW, kind=AttemptKind.TOPUP, token="").offer()


@pytest.mark.parametrize("state", list(ClientState))
def test_money_at_stake_follows_the_state(state: ClientState) -> None:
    assert replace(ROW, state=state).is_at_stake == (state in MONEY_AT_STAKE)


def test_what_came_back_is_not_at_stake() -> None:
    assert not RETURNED & MONEY_AT_STAKE


@pytest.mark.parametrize("name", ["amount", "fee_cap", "fee"])
@pytest.mark.parametrize("value", [-1, MAX_LEDGER_AMOUNT + 1])
def test_sums_fit_a_ledger_column(name: str, value: int) -> None:
    with pytest.raises(ValueError, match="an amount"):
        replace(ROW, **{name: value})


def test_nothing_is_no_payment() -> None:
    with pytest.raises(ValueError, match="more than nothing"):
        replace(ROW, amount=0)
    assert replace(ROW, fee=0, fee_cap=0).amount == ROW.amount


def test_repr_holds_no_proof() -> None:
    shown = repr(replace(ROW, preimage=Preimage(b"\x77" * 32)))
    assert OFFER.token not in shown
    assert "wwww" not in shown
