"""Our calls and readers against what three real fnn 0.8.0 nodes were asked and answered."""

import json
from collections import Counter
from pathlib import Path

import pytest

from infern.core.errors import InfernError, JsonValue, LocalProtocolError, Money, NoRoute
from infern.core.fiber import jsonrpc, rpc
from infern.core.fiber.errors import (
    FiberUnauthorized,
    InvoiceNotFound,
    InvoiceStateConflict,
    PaymentAlreadyExists,
    PaymentNotFound,
)
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.fiber.types import (
    ChannelStateName,
    InvoiceStatus,
    PaymentStatus,
    TlcDirection,
    TlcStage,
)
from infern.core.ids import PaymentHash, Preimage, Pubkey
from infern.core.units import Network

VECTORS = Path(__file__).parents[4] / "vectors" / "fnn_recorded_0_8_0.json"
RECORDED = json.loads(VECTORS.read_text())

NOT_EXPRESSIBLE = {
    "nosuch": "no such method",
    "1000": "a decimal amount",
}


def _int(members: dict, name: str) -> int | None:
    return int(members[name], 16) if name in members else None


def _bytes(members: dict, name: str) -> bytes | None:
    return bytes.fromhex(members[name].removeprefix("0x")) if name in members else None


def _new_invoice(p: dict) -> rpc.NewInvoice:
    preimage, payment_hash = _bytes(p, "payment_preimage"), _bytes(p, "payment_hash")
    algorithms = {algorithm.rpc_name: algorithm for algorithm in HashAlgorithm}
    return rpc.NewInvoice(
        amount=_int(p, "amount") or 0,
        network={n.currency: n for n in Network}[p["currency"]],
        description=p.get("description"),
        preimage=None if preimage is None else Preimage(preimage),
        payment_hash=None if payment_hash is None else PaymentHash(payment_hash),
        expiry_s=_int(p, "expiry"),
        final_expiry_delta_ms=_int(p, "final_expiry_delta"),
        hash_algorithm=algorithms.get(p.get("hash_algorithm", "")),
    )


def _send_payment(p: dict) -> rpc.SendPayment:
    target = _bytes(p, "target_pubkey")
    return rpc.SendPayment(
        invoice=p.get("invoice"),
        target=None if target is None else Pubkey(target),
        amount=_int(p, "amount"),
        keysend=p.get("keysend", False),
        dry_run=p.get("dry_run", False),
        max_fee_amount=_int(p, "max_fee_amount"),
        max_fee_rate_per_thousand=_int(p, "max_fee_rate"),
    )


def _hash(p: dict) -> PaymentHash:
    return PaymentHash(_bytes(p, "payment_hash") or b"")


BUILDERS = {
    "node_info": lambda _: rpc.GetNodeInfo(),
    "connect_peer": lambda p: rpc.ConnectPeer(address=p["address"]),
    "open_channel": lambda p: rpc.OpenChannel(
        pubkey=Pubkey(_bytes(p, "pubkey") or b""),
        funding_amount=_int(p, "funding_amount") or 0,
        public=p["public"],
    ),
    "list_channels": lambda _: rpc.ListChannels(),
    "graph_channels": lambda _: rpc.GraphChannels(),
    "graph_nodes": lambda _: rpc.GraphNodes(),
    "new_invoice": _new_invoice,
    "get_invoice": lambda p: rpc.GetInvoice(payment_hash=_hash(p)),
    "cancel_invoice": lambda p: rpc.CancelInvoice(payment_hash=_hash(p)),
    "settle_invoice": lambda p: rpc.SettleInvoice(
        payment_hash=_hash(p), preimage=Preimage(_bytes(p, "payment_preimage") or b"")
    ),
    "parse_invoice": lambda p: rpc.ParseInvoice(invoice_text=p["invoice"]),
    "send_payment": _send_payment,
    "get_payment": lambda p: rpc.GetPayment(payment_hash=_hash(p)),
}


def _expressible(row: dict) -> bool:
    members = row["params"][0] if row["params"] else {}
    return row["method"] not in NOT_EXPRESSIBLE and members.get("amount") not in NOT_EXPRESSIBLE


def _call(row: dict):
    return BUILDERS[row["method"]](row["params"][0] if row["params"] else {})


def _rows(*, failed: bool) -> list:
    rows = [(at, row) for at, row in enumerate(RECORDED) if _expressible(row)]
    return [
        pytest.param(row, id=f"{at}-{row['method']}")
        for at, row in rows
        if ("error" in row["response"]) is failed
    ]


def test_only_the_two_deliberate_mistakes_cannot_be_expressed() -> None:
    assert [row["method"] for row in RECORDED if not _expressible(row)] == ["new_invoice", "nosuch"]
    with pytest.raises(ValueError, match="amount"):
        rpc.NewInvoice(amount="1000", network=Network.DEV)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", _rows(failed=False) + _rows(failed=True))
def test_a_recorded_request_is_what_the_typed_call_builds(row: dict) -> None:
    call = _call(row)
    assert call.method == row["method"]
    assert call.params() == row["params"]


@pytest.mark.parametrize("row", _rows(failed=False))
def test_a_recorded_answer_parses(row: dict) -> None:
    result = row["response"]["result"]
    parsed = jsonrpc.read_message(_call(row), row["response"])
    match row["method"]:
        case "node_info":
            assert parsed.release == (0, 8, 0)
            assert not parsed.reveals_preimage
            assert parsed.pubkey.hex() == result["pubkey"]
            assert parsed.tlc_expiry_delta_ms == 14_400_000
            assert parsed.auto_accept_min_funding_shannon == 100 * 10**8
        case "list_channels":
            assert [c.channel_id.hex() for c in parsed] == [
                c["channel_id"].removeprefix("0x") for c in result["channels"]
            ]
        case "graph_nodes":
            assert [n.pubkey.hex() for n in parsed.nodes] == [n["pubkey"] for n in result["nodes"]]
        case "graph_channels":
            assert [c.capacity for c in parsed.channels] == [190_100_000_000] * 2
        case "new_invoice":
            assert parsed.status is None
            assert parsed.invoice_text == result["invoice_address"]
        case "get_invoice" | "cancel_invoice":
            assert parsed.status.value == result["status"]
            assert f"0x{parsed.invoice.payment_hash.hex()}" == row["params"][0]["payment_hash"]
        case "send_payment" | "get_payment":
            assert parsed.status.value == result["status"]
            assert parsed.fee == int(result["fee"], 16)
            assert parsed.preimage is None
        case "open_channel":
            assert f"0x{parsed.hex()}" == result["temporary_channel_id"]
        case "connect_peer" | "settle_invoice":
            assert parsed is None
        case unexpected:
            pytest.fail(f"no expectation for {unexpected}")


EXPECTED_ERRORS = {
    "Invoice is already cancelled": (InvoiceStateConflict, Money.UNMOVED),
    "InvalidParameter: Payment session already exists": (PaymentAlreadyExists, Money.MOVED),
    "InvalidParameter: Payment session not found": (PaymentNotFound, Money.UNMOVED),
    "invoice not found": (InvoiceNotFound, Money.UNMOVED),
    "Currency must be Fibd": (LocalProtocolError, Money.UNMOVED),
    "Bech32 error": (InfernError, Money.UNMOVED),
    "Send payment error: Failed to build route, Insufficient": (NoRoute, Money.UNMOVED),
}


@pytest.mark.parametrize("row", _rows(failed=True))
def test_a_recorded_error_is_classified(row: dict) -> None:
    message = row["response"]["error"]["message"]
    (prefix,) = [prefix for prefix in EXPECTED_ERRORS if message.startswith(prefix)]
    kind, money = EXPECTED_ERRORS[prefix]
    with pytest.raises(kind) as caught:
        jsonrpc.read_message(_call(row), row["response"])
    assert caught.value.money is money
    if isinstance(caught.value, PaymentAlreadyExists):
        assert caught.value.payment_status is PaymentStatus.SUCCESS
    if isinstance(caught.value, InvoiceStateConflict):
        assert caught.value.invoice_status is InvoiceStatus.CANCELLED
    if isinstance(caught.value, NoRoute):
        assert caught.value.details["max_outbound_liquidity"] == "189566483000"
        assert caught.value.details["required"] == "500000000000"


def test_every_expected_error_was_recorded() -> None:
    messages = [row["response"]["error"]["message"] for row in RECORDED if _is_error(row)]
    for prefix in EXPECTED_ERRORS:
        assert any(message.startswith(prefix) for message in messages), prefix


def _is_error(row: dict) -> bool:
    return "error" in row["response"]


def test_the_wrong_requests_are_refused_as_recorded() -> None:
    decimal, unknown = (row for row in RECORDED if not _expressible(row))
    any_invoice = rpc.NewInvoice(amount=1000, network=Network.DEV)
    with pytest.raises(LocalProtocolError, match="does not start with 0x: 1000"):
        jsonrpc.read_message(any_invoice, decimal["response"])
    with pytest.raises(FiberUnauthorized):
        jsonrpc.read_message(any_invoice, unknown["response"])


def test_a_hold_shows_in_the_channels_of_all_three_nodes() -> None:
    held = [row for row in RECORDED if row["method"] == "list_channels"][-3:]
    payer, hub, payee = (jsonrpc.read_message(_call(row), row["response"]) for row in held)
    amount, fee = 500_000_000, 500_000
    assert payer[0].offered_tlc_balance == amount + fee
    assert payer[0].spendable == payer[0].local_balance - amount - fee
    assert payee[0].received_tlc_balance == amount
    assert payee[0].receivable == payee[0].remote_balance - amount
    outgoing, incoming = hub[0].pending_tlcs[0], hub[1].pending_tlcs[0]
    assert (outgoing.direction, incoming.direction) == (TlcDirection.OUTBOUND, TlcDirection.INBOUND)
    assert outgoing.stage is incoming.stage is TlcStage.COMMITTED
    assert outgoing.forwarding_channel_id == hub[1].channel_id
    assert incoming.forwarding_tlc_id == outgoing.id
    assert {c.state.name for c in (*payer, *hub, *payee)} == {ChannelStateName.CHANNEL_READY}
    for channel in (*payer, *hub, *payee):
        assert channel.local_balance + channel.remote_balance == 190_100_000_000


def test_the_recording_covers_the_methods_it_should() -> None:
    methods: Counter[JsonValue] = Counter(row["method"] for row in RECORDED)
    assert set(methods) == {*BUILDERS, "nosuch"}
