"""What an invoice and its attributes say, and what neither can be."""

import hashlib
from typing import Any

import pytest

from infern.core.ckb.hashing import ckb_hash
from infern.core.ckb.script import HashType, Script
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    FallbackAddress,
    Features,
    FinalExpiryDelta,
    FinalTlcTimeout,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    PaymentSecret,
    UdtScript,
)
from infern.core.ids import PaymentHash, Pubkey
from infern.core.units import CKB, Asset, Network

PREIMAGE = bytes(range(32))
PUBKEY = Pubkey(b"\2" + bytes(32))
UDT = Script(code_hash=b"\7" * 32, hash_type=HashType.TYPE, args=b"\1" * 32)


def invoice(*attributes: Any, **changes: Any) -> Invoice:
    values = {
        "network": Network.DEV,
        "amount": 1000,
        "timestamp_ms": 1_700_000_000_000,
        "payment_hash": PaymentHash(bytes(32)),
        "attributes": attributes,
    }
    return Invoice(**(values | changes))


def test_a_bare_invoice_has_fnns_defaults() -> None:
    bare = invoice()
    assert bare.description is None
    assert bare.expiry_s is None
    assert bare.final_expiry_delta_ms is None
    assert bare.hash_algorithm is HashAlgorithm.CKB_HASH
    assert bare.payee_pubkey is None
    assert bare.udt_script is None
    assert bare.asset == CKB
    assert bare.fallback_address is None
    assert bare.payment_secret is None
    assert bare.features == frozenset()
    assert bare.signature is None
    assert bare.expires_at_ms is None
    assert not bare.is_expired(2**70)


def test_every_attribute_has_its_property() -> None:
    full = invoice(
        ExpiryTime(expiry_s=60),
        Description(text="x"),
        FinalTlcTimeout(timeout_ms=5),
        FinalExpiryDelta(delta_ms=9_600_000),
        FallbackAddress(text="ckt1qq"),
        Features.of(["BASIC_MPP_OPTIONAL", "TRAMPOLINE_ROUTING_OPTIONAL"]),
        UdtScript(script=UDT),
        PayeePubkey(pubkey=PUBKEY),
        PaymentHashAlgorithm(algorithm=HashAlgorithm.SHA256),
        PaymentSecret(secret=bytes(32)),
    )
    assert full.expiry_s == 60
    assert full.description == "x"
    assert full.final_expiry_delta_ms == 9_600_000
    assert full.fallback_address == "ckt1qq"
    assert full.features == {"BASIC_MPP_OPTIONAL", "TRAMPOLINE_ROUTING_OPTIONAL"}
    assert full.udt_script == UDT
    assert full.asset == Asset(udt_type_hash=UDT.hash())
    assert full.payee_pubkey == PUBKEY
    assert full.hash_algorithm is HashAlgorithm.SHA256
    assert full.payment_secret == bytes(32)


def test_expires_after_its_last_millisecond() -> None:
    expiring = invoice(ExpiryTime(expiry_s=120))
    assert expiring.expires_at_ms == 1_700_000_120_000
    assert not expiring.is_expired(1_700_000_120_000)
    assert expiring.is_expired(1_700_000_120_001)


def test_hash_algorithms() -> None:
    assert HashAlgorithm.CKB_HASH.digest(PREIMAGE) == ckb_hash(PREIMAGE)
    assert HashAlgorithm.SHA256.digest(PREIMAGE) == hashlib.sha256(PREIMAGE).digest()
    assert [a.value for a in (HashAlgorithm.CKB_HASH, HashAlgorithm.SHA256)] == [0, 1]


@pytest.mark.parametrize(
    ("names", "bits"),
    [
        ([], "00"),
        (["BASIC_MPP_OPTIONAL"], "08"),
        (["TRAMPOLINE_ROUTING_OPTIONAL"], "20"),
        (["TRAMPOLINE_ROUTING_OPTIONAL", "BASIC_MPP_OPTIONAL"], "28"),
        (["GOSSIP_QUERIES_REQUIRED", "BASIC_MPP_REQUIRED", "TRAMPOLINE_ROUTING_REQUIRED"], "15"),
    ],
)
def test_features_by_name(names: list[str], bits: str) -> None:
    features = Features.of(names)
    assert features.bits.hex() == bits
    assert set(features.names()) == set(names)


def test_unknown_feature_bits_are_counted_and_kept() -> None:
    features = Features(bits=bytes([0x48, 0x01]))
    assert features.names() == ("BASIC_MPP_OPTIONAL", "Unknown Feature", "Unknown Feature")
    assert Features(bits=b"").names() == ()
    with pytest.raises(ValueError, match="not a feature"):
        Features.of(["Unknown Feature"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": 2**128}, "amount"),
        ({"amount": True}, "amount"),
        ({"timestamp_ms": -1}, "timestamp"),
        ({"timestamp_ms": 2**128}, "timestamp"),
        ({"payment_hash": bytes(31)}, "32 bytes"),
        ({"signature": bytes(64)}, "Invalid signature"),
        ({"signature": bytes(64) + b"\4"}, "Invalid signature"),
        ({"attributes": (ExpiryTime(expiry_s=1), ExpiryTime(expiry_s=2))}, "Duplicated attribute"),
    ],
)
def test_impossible_invoices_cannot_be_made(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        invoice(**changes)


def test_descriptions_are_limited_in_bytes_not_characters() -> None:
    Description(text="é" * 319 + "x")
    message = "^Description with length of 640 is too long, max length is 639$"
    with pytest.raises(ValueError, match=message):
        Description(text="é" * 320)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Description(text="\ud800"), "Invalid UTF-8 in invoice description attribute"),
        (lambda: FallbackAddress(text="\udfff"), "Invalid UTF-8 in invoice fallback_addr"),
        (lambda: ExpiryTime(expiry_s=2**64), "unsigned 64-bit"),
        (lambda: ExpiryTime(expiry_s=-1), "unsigned 64-bit"),
        (lambda: FinalExpiryDelta(delta_ms=2**64), "unsigned 64-bit"),
        (lambda: FinalTlcTimeout(timeout_ms=True), "unsigned 64-bit"),
        (lambda: PayeePubkey(pubkey=Pubkey(bytes(33))), "Invalid payee public key"),
        (lambda: PayeePubkey(pubkey=Pubkey(b"\2" * 32)), "Invalid payee public key"),
        (lambda: PaymentSecret(secret=bytes(33)), "32 bytes"),
    ],
)
def test_impossible_attributes_cannot_be_made(make: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()
