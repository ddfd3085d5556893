"""fnn's RPC view of invoices."""

import copy
from typing import Any

import pytest

from infern.core.ckb.script import HashType, Script
from infern.core.errors import Money, RemoteProtocolError
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
    invoice_from_json,
    invoice_to_json,
)
from infern.core.ids import PaymentHash, Pubkey
from infern.core.units import Network

FULL = Invoice(
    network=Network.MAINNET,
    amount=2**128 - 1,
    timestamp_ms=0x1A2052C74EE,
    payment_hash=PaymentHash(b"\x96" * 32),
    attributes=(
        Description(text='é "quoted"'),
        ExpiryTime(expiry_s=600),
        FallbackAddress(text="ckt1qq"),
        Features.of(["BASIC_MPP_OPTIONAL", "TRAMPOLINE_ROUTING_OPTIONAL"]),
        PaymentSecret(secret=b"\x09" * 32),
        FinalExpiryDelta(delta_ms=9_600_000),
        UdtScript(script=Script(code_hash=bytes(32), hash_type=HashType.DATA, args=b"")),
        PaymentHashAlgorithm(algorithm=HashAlgorithm.SHA256),
        PayeePubkey(pubkey=Pubkey(b"\3" * 33)),
        FinalTlcTimeout(timeout_ms=0),
    ),
    signature=bytes(64) + b"\1",
)
JSON: dict[str, Any] = {
    "currency": "Fibb",
    "amount": "0xffffffffffffffffffffffffffffffff",
    "signature": "00" * 102 + "0001",
    "data": {
        "timestamp": "0x1a2052c74ee",
        "payment_hash": "0x" + "96" * 32,
        "attrs": [
            {"description": 'é "quoted"'},
            {"expiry_time": "0x258"},
            {"fallback_addr": "ckt1qq"},
            {"feature": ["BASIC_MPP_OPTIONAL", "TRAMPOLINE_ROUTING_OPTIONAL"]},
            {"payment_secret": "0x" + "09" * 32},
            {"final_htlc_minimum_expiry_delta": "0x927c00"},
            {"udt_script": "0x35000000100000003000000031000000" + "00" * 37},
            {"hash_algorithm": "sha256"},
            {"payee_public_key": "03" * 33},
            {"final_htlc_timeout": "0x0"},
        ],
    },
}


def test_writes_and_reads_every_attribute() -> None:
    assert invoice_to_json(FULL) == JSON
    assert invoice_from_json(JSON) == FULL


def test_absent_and_null_are_nothing() -> None:
    bare = {"currency": "Fibd", "data": {**JSON["data"], "attrs": []}}
    for value in (bare, bare | {"amount": None, "signature": None}):
        invoice = invoice_from_json(value)
        assert invoice.amount is None
        assert invoice.signature is None
        assert invoice.attributes == ()
    assert invoice_to_json(invoice_from_json(bare))["amount"] is None


def test_skips_what_nobody_knew_when_this_was_written() -> None:
    value = copy.deepcopy(JSON)
    value["colour"] = "green"
    value["data"]["nonce"] = 7
    value["data"]["attrs"].insert(0, {"hologram": {"x": [1]}})
    value["data"]["attrs"].append({})
    value["data"]["attrs"][4]["feature"].append("Unknown Feature")
    value["data"]["attrs"][4]["feature"].append("TELEPATHY_OPTIONAL")
    assert invoice_from_json(value) == FULL


def test_hashes_and_keys_are_read_with_and_without_0x() -> None:
    value = copy.deepcopy(JSON)
    value["data"]["payment_hash"] = "96" * 32
    value["data"]["attrs"][4] = {"payment_secret": "09" * 32}
    value["data"]["attrs"][8] = {"payee_public_key": "0x" + "03" * 33}
    assert invoice_from_json(value) == FULL


def changed(path: tuple[Any, ...], to: Any) -> Any:
    value: Any = copy.deepcopy(JSON)
    at = value
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "fibd1",
        {},
        changed(("currency",), "Fibx"),
        changed(("currency",), None),
        changed(("currency",), 1),
        changed(("amount",), 5),
        changed(("amount",), "5"),
        changed(("amount",), "0x05"),
        changed(("amount",), "0x1" + "0" * 32),
        changed(("signature",), "00" * 103),
        changed(("signature",), "20" * 104),
        changed(("signature",), "zz" * 104),
        changed(("signature",), "00" * 101 + "001f1f"),
        changed(("signature",), 3),
        changed(("data",), None),
        changed(("data", "timestamp"), None),
        changed(("data", "timestamp"), 0),
        changed(("data", "payment_hash"), "0x00"),
        changed(("data", "attrs"), None),
        changed(("data", "attrs"), {}),
        changed(("data", "attrs", 0), "description"),
        changed(("data", "attrs", 0), {"description": None}),
        changed(("data", "attrs", 0), {"description": "x" * 640}),
        changed(("data", "attrs", 0), {"description": "\ud800"}),
        changed(("data", "attrs", 0), {"expiry_time": "0x1"}),
        changed(("data", "attrs", 1), {"expiry_time": "0x1" + "0" * 16}),
        changed(("data", "attrs", 3), {"feature": ["BASIC_MPP_OPTIONAL", 3]}),
        changed(("data", "attrs", 6), {"udt_script": "0x00"}),
        changed(("data", "attrs", 7), {"hash_algorithm": "md5"}),
        changed(("data", "attrs", 8), {"payee_public_key": "05" * 33}),
    ],
)
def test_refuses_what_is_known_and_wrong(value: Any) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        invoice_from_json(value)
    assert caught.value.code == "invalid_invoice"
    assert caught.value.money is Money.UNMOVED
