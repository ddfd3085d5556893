"""Parameters every typed call builds, what it refuses, and what it checks in an answer."""

import dataclasses
import hashlib

import pytest

from infern.core.ckb.out_point import OutPoint
from infern.core.ckb.script import HashType, Script
from infern.core.errors import RemoteProtocolError
from infern.core.fiber import rpc
from infern.core.fiber.invoice import HashAlgorithm, Invoice, invoice_to_json
from infern.core.fiber.types import ChannelId, PaymentStatus, TemporaryChannelId
from infern.core.ids import PaymentHash, Preimage, Pubkey
from infern.core.units import Network

KEY = Pubkey(b"\x02" + b"\x11" * 32)
HASH = PaymentHash(b"\x22" * 32)
PREIMAGE = Preimage(b"\x33" * 32)
CHANNEL = ChannelId(b"\x44" * 32)
TEMPORARY = TemporaryChannelId(b"\x55" * 32)
OUTPOINT = OutPoint(tx_hash=b"\x66" * 32, index=1)
SCRIPT = Script(code_hash=b"\x77" * 32, hash_type=HashType.TYPE, args=b"\x01")
SCRIPT_JSON = {"code_hash": "0x" + "77" * 32, "hash_type": "type", "args": "0x01"}
H = "0x" + "22" * 32
CALLS = [
    (rpc.GetNodeInfo(), "node_info", None),
    (rpc.ListPeers(), "list_peers", None),
    (rpc.ConnectPeer(address="/ip4/127.0.0.1/tcp/8228"), "connect_peer",
     {"address": "/ip4/127.0.0.1/tcp/8228"}),
    (rpc.ConnectPeer(pubkey=KEY, save=False), "connect_peer", {"pubkey": KEY.hex(), "save": False}),
    (rpc.DisconnectPeer(pubkey=KEY), "disconnect_peer", {"pubkey": KEY.hex()}),
    (rpc.OpenChannel(pubkey=KEY, funding_amount=10**10), "open_channel",
     {"pubkey": KEY.hex(), "funding_amount": "0x2540be400", "public": True}),
    (
        rpc.OpenChannel(
            pubkey=KEY, funding_amount=1, public=False, one_way=True, udt_type_script=SCRIPT,
            shutdown_script=SCRIPT, commitment_delay_epoch=1, commitment_fee_rate=2,
            funding_fee_rate=3,
            terms=rpc.ChannelTerms(
                tlc_min_value=4, tlc_fee_ppm=5, tlc_expiry_delta_ms=9_600_000,
                max_tlc_value_in_flight=2**128 - 1, max_tlc_number_in_flight=100,
            ),
        ),
        "open_channel",
        {"pubkey": KEY.hex(), "funding_amount": "0x1", "public": False, "one_way": True,
         "funding_udt_type_script": SCRIPT_JSON, "shutdown_script": SCRIPT_JSON,
         "commitment_delay_epoch": "0x1", "commitment_fee_rate": "0x2", "funding_fee_rate": "0x3",
         "tlc_min_value": "0x4", "tlc_fee_proportional_millionths": "0x5",
         "tlc_expiry_delta": "0x927c00", "max_tlc_value_in_flight": "0x" + "f" * 32,
         "max_tlc_number_in_flight": "0x64"},
    ),
    (rpc.AcceptChannel(temporary_channel_id=TEMPORARY, funding_amount=99 * 10**8),
     "accept_channel", {"temporary_channel_id": "0x" + "55" * 32, "funding_amount": "0x24e160300"}),
    (rpc.ListChannels(), "list_channels", {}),
    (rpc.ListChannels(pubkey=KEY, include_closed=True), "list_channels",
     {"pubkey": KEY.hex(), "include_closed": True}),
    (rpc.ListChannels(only_pending=True), "list_channels", {"only_pending": True}),
    (rpc.ShutdownChannel(channel_id=CHANNEL, close_script=SCRIPT, fee_rate=1000),
     "shutdown_channel",
     {"channel_id": "0x" + "44" * 32, "close_script": SCRIPT_JSON, "fee_rate": "0x3e8"}),
    (rpc.ShutdownChannel(channel_id=CHANNEL, force=True), "shutdown_channel",
     {"channel_id": "0x" + "44" * 32, "force": True}),
    (
        rpc.UpdateChannel(channel_id=CHANNEL, enabled=False, tlc_expiry_delta_ms=1,
                          tlc_min_value=0, tlc_fee_ppm=0),
        "update_channel",
        {"channel_id": "0x" + "44" * 32, "enabled": False, "tlc_expiry_delta": "0x1",
         "tlc_minimum_value": "0x0", "tlc_fee_proportional_millionths": "0x0"},
    ),
    (rpc.AbandonChannel(channel_id=TEMPORARY), "abandon_channel", {"channel_id": "0x" + "55" * 32}),
    (rpc.GraphNodes(limit=10, after=b"\x01\x02"), "graph_nodes",
     {"limit": "0xa", "after": "0x0102"}),
    (rpc.GraphChannels(after=b""), "graph_channels", {"after": "0x"}),
    (rpc.NewInvoice(amount=1, network=Network.TESTNET), "new_invoice",
     {"amount": "0x1", "currency": "Fibt"}),
    (
        rpc.NewInvoice(amount=1, network=Network.DEV, description="", payment_hash=HASH, expiry_s=0,
                       final_expiry_delta_ms=9_600_000, hash_algorithm=HashAlgorithm.CKB_HASH,
                       udt_type_script=SCRIPT, allow_mpp=False),
        "new_invoice",
        {"amount": "0x1", "currency": "Fibd", "description": "", "payment_hash": H,
         "expiry": "0x0", "final_expiry_delta": "0x927c00", "hash_algorithm": "ckb_hash",
         "udt_type_script": SCRIPT_JSON, "allow_mpp": False},
    ),
    (rpc.ParseInvoice(invoice_text="fibd1x"), "parse_invoice", {"invoice": "fibd1x"}),
    (rpc.GetInvoice(payment_hash=HASH), "get_invoice", {"payment_hash": H}),
    (rpc.CancelInvoice(payment_hash=HASH), "cancel_invoice", {"payment_hash": H}),
    (rpc.SettleInvoice(payment_hash=HASH, preimage=PREIMAGE), "settle_invoice",
     {"payment_hash": H, "payment_preimage": "0x" + "33" * 32}),
    (rpc.SendPayment(invoice="fibd1x"), "send_payment", {"invoice": "fibd1x"}),
    (
        rpc.SendPayment(
            target=KEY, amount=7, payment_hash=HASH, max_fee_amount=0,
            max_fee_rate_per_thousand=5, final_tlc_expiry_delta_ms=9_600_000,
            tlc_expiry_limit_ms=86_400_000, timeout_s=60, max_parts=2, trampoline_hops=(KEY,),
            udt_type_script=SCRIPT, allow_self_payment=True,
            custom_records={1: b"\x01", 65535: b""},
            hop_hints=(
                rpc.HopHint(pubkey=KEY, outpoint=OUTPOINT, fee_ppm=1000, tlc_expiry_delta_ms=1),
            ),
        ),
        "send_payment",
        {"target_pubkey": KEY.hex(), "amount": "0x7", "payment_hash": H, "max_fee_amount": "0x0",
         "max_fee_rate": "0x5", "final_tlc_expiry_delta": "0x927c00",
         "tlc_expiry_limit": "0x5265c00", "timeout": "0x3c", "max_parts": "0x2",
         "trampoline_hops": [KEY.hex()], "udt_type_script": SCRIPT_JSON,
         "allow_self_payment": True, "custom_records": {"0x1": "0x01", "0xffff": "0x"},
         "hop_hints": [{"pubkey": KEY.hex(), "channel_outpoint": "0x" + "66" * 32 + "01000000",
                        "fee_rate": "0x3e8", "tlc_expiry_delta": "0x1"}]},
    ),
    (rpc.GetPayment(payment_hash=HASH), "get_payment", {"payment_hash": H}),
    (rpc.ListPayments(status=PaymentStatus.INFLIGHT, limit=500, after=HASH), "list_payments",
     {"status": "Inflight", "limit": "0x1f4", "after": H}),
    (
        rpc.BuildRouter(hops=(rpc.HopRequirement(pubkey=KEY, outpoint=OUTPOINT),
                              rpc.HopRequirement(pubkey=KEY)), amount=5),
        "build_router",
        {"amount": "0x5", "hops_info": [
            {"pubkey": KEY.hex(), "channel_outpoint": "0x" + "66" * 32 + "01000000"},
            {"pubkey": KEY.hex()}]},
    ),
    (
        rpc.SendPaymentWithRouter(
            router=(rpc.RouterHop(target=KEY, outpoint=OUTPOINT, amount_received=5,
                                  incoming_tlc_expiry_ms=9),),
            keysend=True, dry_run=True),
        "send_payment_with_router",
        {"router": [{"target": KEY.hex(), "channel_outpoint": "0x" + "66" * 32 + "01000000",
                     "amount_received": "0x5", "incoming_tlc_expiry": "0x9"}],
         "keysend": True, "dry_run": True},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "method", "members"), CALLS)
def test_a_call_builds_these_parameters(call, method: str, members: dict | None) -> None:
    assert call.method == method
    assert call.params() == ([] if members is None else [members])


def test_every_call_is_in_the_table() -> None:
    kinds = {getattr(rpc, name) for name in rpc.__all__}
    calls = {kind for kind in kinds if hasattr(kind, "method")}
    assert {type(call) for call, _, _ in CALLS} == calls


QUERIES = {
    "node_info", "list_peers", "list_channels", "graph_nodes", "graph_channels", "parse_invoice",
    "get_invoice", "get_payment", "list_payments", "build_router",
}  # fmt: skip
HARMLESS = {"connect_peer", "disconnect_peer"}


@pytest.mark.parametrize(("call", "method", "members"), CALLS)
def test_only_queries_harmless_calls_and_dry_runs_may_be_repeated(call, method, members) -> None:
    dry = bool(members and members.get("dry_run"))
    assert call.idempotent is (dry or method in QUERIES | HARMLESS)


@pytest.mark.parametrize(("call", "method", "members"), CALLS)
def test_no_repr_shows_a_preimage(call, method, members) -> None:
    assert PREIMAGE.hex() not in repr(call)
    assert repr(bytes(PREIMAGE)) not in repr(call)


REFUSED = [
    (rpc.ConnectPeer, {}),
    (rpc.ConnectPeer, {"pubkey": b"\x02" * 32}),
    (rpc.DisconnectPeer, {"pubkey": b""}),
    (rpc.OpenChannel, {"pubkey": KEY, "funding_amount": -1}),
    (rpc.OpenChannel, {"pubkey": KEY, "funding_amount": 1, "one_way": True}),
    (rpc.ChannelTerms, {"tlc_expiry_delta_ms": 2**64}),
    (rpc.AcceptChannel, {"temporary_channel_id": b"", "funding_amount": 1}),
    (rpc.ListChannels, {"include_closed": True, "only_pending": True}),
    (rpc.ShutdownChannel, {"channel_id": CHANNEL, "force": True, "fee_rate": 1}),
    (rpc.ShutdownChannel, {"channel_id": CHANNEL, "force": True, "close_script": SCRIPT}),
    (rpc.UpdateChannel, {"channel_id": CHANNEL, "tlc_fee_ppm": 1.5}),
    (rpc.AbandonChannel, {"channel_id": b"short"}),
    (rpc.GraphNodes, {"limit": -1}),
    (rpc.NewInvoice, {"amount": 2**128, "network": Network.DEV}),
    (rpc.NewInvoice, {"amount": True, "network": Network.DEV}),
    (rpc.NewInvoice, {"amount": 1, "network": Network.DEV, "preimage": PREIMAGE,
                      "payment_hash": HASH}),
    (rpc.NewInvoice, {"amount": 1, "network": Network.DEV, "description": "é" * 320}),
    (rpc.NewInvoice, {"amount": 1, "network": Network.DEV, "final_expiry_delta_ms": 9_599_999}),
    (rpc.NewInvoice, {"amount": 1, "network": Network.DEV, "final_expiry_delta_ms": 1_209_600_001}),
    (rpc.GetInvoice, {"payment_hash": b""}),
    (rpc.SettleInvoice, {"payment_hash": HASH, "preimage": b"\x01" * 31}),
    (rpc.SendPayment, {}),
    (rpc.SendPayment, {"target": KEY, "amount": 1}),
    (rpc.SendPayment, {"target": KEY, "keysend": True}),
    (rpc.SendPayment, {"target": KEY, "amount": 0, "keysend": True}),
    (rpc.SendPayment, {"invoice": "fibd1x", "keysend": True}),
    (rpc.SendPayment, {"target": KEY, "amount": 1, "keysend": True, "payment_hash": HASH}),
    (rpc.SendPayment, {"invoice": "fibd1x", "max_parts": 25}),
    (rpc.SendPayment, {"invoice": "fibd1x", "trampoline_hops": (KEY,) * 6}),
    (rpc.SendPayment, {"invoice": "fibd1x", "custom_records": {65536: b""}}),
    (rpc.SendPayment, {"invoice": "fibd1x", "custom_records": {1: bytes(2049)}}),
    (rpc.GetPayment, {"payment_hash": b"\x00" * 33}),
    (rpc.ListPayments, {"status": PaymentStatus.UNKNOWN}),
    (rpc.BuildRouter, {"hops": ()}),
    (rpc.SendPaymentWithRouter, {"router": (), "invoice": "fibd1x"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments"), REFUSED)
def test_what_no_node_would_accept_is_refused_before_it_is_sent(kind, arguments: dict) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each constructor has its own words
        kind(**arguments)


def _answer(invoice: Invoice, **more: str) -> dict:
    return {"invoice_address": "fibd1x", "invoice": invoice_to_json(invoice), **more}


INVOICE = Invoice(network=Network.DEV, amount=5, timestamp_ms=1, payment_hash=HASH)


def test_an_invoice_of_another_hash_or_amount_than_asked_for_is_refused() -> None:
    other = dataclasses.replace(INVOICE, payment_hash=PaymentHash(b"\x23" * 32))
    hold = rpc.NewInvoice(amount=5, network=Network.DEV, payment_hash=HASH)
    assert hold.parse(_answer(INVOICE)).invoice == INVOICE
    with pytest.raises(RemoteProtocolError, match="another invoice"):
        hold.parse(_answer(other))
    with pytest.raises(RemoteProtocolError, match="another amount"):
        hold.parse(_answer(dataclasses.replace(INVOICE, amount=6)))
    with pytest.raises(RemoteProtocolError, match="another invoice"):
        rpc.GetInvoice(payment_hash=HASH).parse(_answer(other, status="Paid"))


def test_an_invoice_with_a_given_preimage_must_have_its_hash() -> None:
    payment_hash = PaymentHash(hashlib.sha256(PREIMAGE).digest())
    call = rpc.NewInvoice(
        amount=5, network=Network.DEV, preimage=PREIMAGE, hash_algorithm=HashAlgorithm.SHA256
    )
    good = dataclasses.replace(INVOICE, payment_hash=payment_hash)
    assert call.parse(_answer(good)).invoice.payment_hash == payment_hash
    with pytest.raises(RemoteProtocolError, match="another invoice"):
        call.parse(_answer(INVOICE))
    with pytest.raises(RemoteProtocolError, match="another invoice"):
        dataclasses.replace(call, hash_algorithm=None).parse(_answer(good))


@pytest.mark.parametrize("kind", [rpc.GetInvoice, rpc.CancelInvoice])
def test_an_invoice_answer_without_status_is_refused(kind) -> None:
    with pytest.raises(RemoteProtocolError, match="status"):
        kind(payment_hash=HASH).parse(_answer(INVOICE))


PAYMENT = {
    "payment_hash": H, "status": "Created", "created_at": "0x1", "last_updated_at": "0x2",
    "failed_error": None, "fee": "0x0",
}  # fmt: skip


def test_a_payment_of_another_hash_than_asked_for_is_refused() -> None:
    other = {**PAYMENT, "payment_hash": "0x" + "99" * 32}
    for call in (
        rpc.GetPayment(payment_hash=HASH),
        rpc.SendPayment(target=KEY, amount=1, payment_hash=HASH),
    ):
        assert call.parse(PAYMENT).payment_hash == HASH
        with pytest.raises(RemoteProtocolError, match="another payment"):
            call.parse(other)


def test_pages_carry_their_cursor() -> None:
    page = rpc.ListPayments().parse({"payments": [PAYMENT], "last_cursor": H})
    assert page.last_cursor == HASH
    assert rpc.ListPayments().parse({"payments": [], "last_cursor": None}).last_cursor is None
    nodes = rpc.GraphNodes().parse({"nodes": [], "last_cursor": "0x"})
    assert nodes.last_cursor == b""


def test_a_route_can_be_sent_as_it_was_built() -> None:
    hop = {"target": KEY.hex(), "channel_outpoint": "0x" + "66" * 32 + "01000000",
           "amount_received": "0x5", "incoming_tlc_expiry": "0x9"}  # fmt: skip
    route = rpc.BuildRouter(hops=(rpc.HopRequirement(pubkey=KEY),)).parse({"router_hops": [hop]})
    (members,) = rpc.SendPaymentWithRouter(router=route, invoice="fibd1x").params()
    assert isinstance(members, dict)
    assert members["router"] == [hop]
