"""Invoices a seller is willing to pay, and how a withdrawal is named."""

from dataclasses import replace
from typing import Any

import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.ckb.script import HashType, Script
from infern.core.errors import Money, RemoteProtocolError
from infern.core.f402.withdraw import (
    MAX_FINAL_DELTA_MS,
    MIN_LIFE_MS,
    PayableInvoice,
    payable_invoice,
    withdrawal_key,
)
from infern.core.fiber.invoice import (
    ExpiryTime,
    Features,
    FinalExpiryDelta,
    Invoice,
    PayeePubkey,
    UdtScript,
    encode_invoice,
    sign_invoice,
)
from infern.core.ids import PaymentHash
from infern.core.units import CKB, Asset, Network

NOW_MS = 1_700_000_000_000
PAYEE, OWN = CoincurveSigner(b"\x01" * 32), CoincurveSigner(b"\x02" * 32)
UDT = Script(code_hash=b"\x01" * 32, hash_type=HashType.TYPE, args=b"\x02")
GOOD = Invoice(
    network=Network.TESTNET,
    amount=50_000,
    timestamp_ms=NOW_MS,
    payment_hash=PaymentHash(b"\x07" * 32),
    attributes=(ExpiryTime(expiry_s=3_600), PayeePubkey(pubkey=PAYEE.pubkey)),
)


def check(invoice: Invoice, *, signer: CoincurveSigner = PAYEE, **changes: Any) -> PayableInvoice:
    known: dict[str, Any] = {
        "network": Network.TESTNET,
        "asset": CKB,
        "own": OWN.pubkey,
        "now_ms": NOW_MS,
        "verifier": CoincurveVerifier(),
    }
    text = encode_invoice(sign_invoice(invoice, signer))
    return payable_invoice(text, **{**known, **changes})


def refused(invoice: Invoice, **changes: Any) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        check(invoice, **changes)
    error = caught.value
    assert (error.code, error.money, error.param) == ("invalid_invoice", Money.UNMOVED, "invoice")
    return error.message


def test_a_good_one() -> None:
    found = check(GOOD)
    assert (found.amount, found.payment_hash) == (50_000, GOOD.payment_hash)
    assert found.payee == PAYEE.pubkey
    # One that never expires can be paid at any time.
    check(replace(GOOD, attributes=(PayeePubkey(pubkey=PAYEE.pubkey),)))


def test_one_of_a_udt_is_for_a_tab_of_that_udt() -> None:
    udt = replace(GOOD, attributes=(*GOOD.attributes, UdtScript(script=UDT)))
    assert "asks for" in refused(udt)
    check(udt, asset=Asset(UDT.hash()))
    assert "asks for" in refused(GOOD, asset=Asset(UDT.hash()))


@pytest.mark.parametrize(
    ("invoice", "complaint"),
    [
        (replace(GOOD, network=Network.MAINNET), "is of mainnet"),
        (replace(GOOD, amount=None), "names no amount"),
        (replace(GOOD, amount=0), "names no amount"),
        (replace(GOOD, timestamp_ms=NOW_MS - 3_600_000), "has expired"),
        (replace(GOOD, timestamp_ms=NOW_MS - 3_600_000 + MIN_LIFE_MS - 1), "has expired"),
        (
            replace(GOOD, attributes=(FinalExpiryDelta(delta_ms=MAX_FINAL_DELTA_MS + 1),)),
            "for days",
        ),
        (replace(GOOD, attributes=(Features.of(["BASIC_MPP_OPTIONAL"]),)), "several parts"),
        (replace(GOOD, attributes=(Features.of(["BASIC_MPP_REQUIRED"]),)), "several parts"),
    ],
)
def test_what_is_refused(invoice: Invoice, complaint: str) -> None:
    assert complaint in refused(invoice)


def test_the_last_moment_and_the_longest_lock_that_are_good() -> None:
    check(replace(GOOD, timestamp_ms=NOW_MS - 3_600_000 + MIN_LIFE_MS))
    check(replace(GOOD, attributes=(FinalExpiryDelta(delta_ms=MAX_FINAL_DELTA_MS),)))


def test_the_seller_s_own() -> None:
    own = replace(GOOD, attributes=(ExpiryTime(expiry_s=3_600), PayeePubkey(pubkey=OWN.pubkey)))
    assert "own node" in refused(own, signer=OWN)
    # Also one that does not name its payee.
    assert "own node" in refused(replace(GOOD, attributes=()), signer=OWN)


@pytest.mark.parametrize("text", ["", "fibt1", "x" * 10_000, encode_invoice(GOOD)])
def test_what_is_no_signed_invoice(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        payable_invoice(
            text, network=Network.TESTNET, asset=CKB, own=OWN.pubkey, now_ms=NOW_MS,
            verifier=CoincurveVerifier(),
        )  # fmt: skip
    assert (caught.value.code, caught.value.money) == ("invalid_invoice", Money.UNMOVED)


def test_a_name_is_of_its_id_alone() -> None:
    names = {withdrawal_key(text) for text in ("a" * 16, "a" * 17, "A" * 16, "-_" * 8, "0" * 128)}
    assert {len(name) for name in names} == {32}
    assert len(names) == 5


@pytest.mark.parametrize(
    "text", ["", "a" * 15, "a" * 129, "a" * 15 + "é", "a" * 15 + " ", "a/" * 9]
)
def test_ids_that_are_none(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        withdrawal_key(text)
    assert caught.value.param == "id"
