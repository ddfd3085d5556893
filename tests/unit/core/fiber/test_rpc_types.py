"""Answers of versions that did not exist when this was written, and broken ones."""

import json
from pathlib import Path

import pytest

from infern.core.errors import RemoteProtocolError
from infern.core.fiber.events import (
    InvoiceChanged,
    OtherChange,
    PaymentChanged,
    PreimageStored,
    notification_from_json,
    store_change_from_json,
)
from infern.core.fiber.types import (
    Channel,
    ChannelState,
    ChannelStateName,
    GraphNode,
    InvoiceStatus,
    NodeInfo,
    PaymentRecord,
    PaymentStatus,
    PendingTlc,
    TlcDirection,
    TlcStage,
)

RECORDED = json.loads(
    (Path(__file__).parents[4] / "vectors" / "fnn_recorded_0_8_0.json").read_text()
)


def _result(method: str) -> dict:
    """The recorded answer to `method`."""
    row = next(row for row in RECORDED if row["method"] == method)
    return json.loads(json.dumps(row["response"]["result"]))


def test_unknown_members_are_ignored() -> None:
    info = _result("node_info") | {"moon_phase": {"deep": [1, 2]}}
    assert NodeInfo.from_json(info) == NodeInfo.from_json(_result("node_info"))
    channel = _result("list_channels")["channels"][0]
    assert Channel.from_json(channel | {"new_in_0_12": 5}) == Channel.from_json(channel)


@pytest.mark.parametrize("kind", [InvoiceStatus, PaymentStatus, ChannelStateName, TlcStage])
def test_an_enum_string_nobody_knew_is_unknown(kind) -> None:
    assert kind.read("Transcended") is kind.UNKNOWN
    for member in kind:
        assert kind.read(member.value) is member


def test_unknown_is_neither_success_nor_failure() -> None:
    assert [s for s in PaymentStatus if s.is_final] == [PaymentStatus.SUCCESS, PaymentStatus.FAILED]


PAYMENT = {
    "payment_hash": "0x" + "11" * 32, "status": "Success", "created_at": "0x1",
    "last_updated_at": "0x2", "failed_error": None, "fee": "0x3",
}  # fmt: skip


def test_the_preimage_of_0_9_is_read_and_hidden() -> None:
    record = PaymentRecord.from_json(PAYMENT | {"payment_preimage": "0x" + "ab" * 32})
    assert record.preimage == b"\xab" * 32
    assert "ab" * 8 not in repr(record)
    assert "xab" not in repr(record)
    assert PaymentRecord.from_json(PAYMENT | {"payment_preimage": None}).preimage is None
    assert PaymentRecord.from_json(PAYMENT).preimage is None


@pytest.mark.parametrize("member", sorted(PAYMENT.keys() - {"failed_error"}))
def test_a_payment_without_a_required_member_is_refused(member: str) -> None:
    with pytest.raises(RemoteProtocolError):
        PaymentRecord.from_json({k: v for k, v in PAYMENT.items() if k != member})


@pytest.mark.parametrize(
    ("version", "release", "reveals"),
    [
        ("0.8.0", (0, 8, 0), False),
        ("0.9.1", (0, 9, 1), True),
        ("0.10.0-rc2", (0, 10, 0), True),
        ("1.0", (1, 0), True),
        ("nightly", (), False),
        ("0.x", (0,), False),
    ],
)
def test_features_are_gated_on_the_version(version: str, release: tuple, reveals: bool) -> None:
    info = NodeInfo.from_json(_result("node_info") | {"version": version})
    assert info.release == release
    assert info.reveals_preimage is reveals


def test_flags_are_a_set_of_names() -> None:
    state = ChannelState.from_json(
        {"state_name": "NegotiatingFunding", "state_flags": "OUR_INIT_SENT | INIT_SENT"}
    )
    assert state.flags == {"OUR_INIT_SENT", "INIT_SENT"}
    assert ChannelState.from_json({"state_name": "ChannelReady"}).flags == frozenset()
    odd = ChannelState.from_json({"state_name": "Quantum", "state_flags": ""})
    assert (odd.name, odd.text, odd.flags) == (ChannelStateName.UNKNOWN, "Quantum", frozenset())


def test_a_channel_is_ready_only_when_enabled() -> None:
    channel = _result("list_channels")["channels"][0]
    assert Channel.from_json(channel).is_ready
    assert not Channel.from_json(channel | {"enabled": False}).is_ready
    assert not Channel.from_json(channel | {"state": {"state_name": "Closed"}}).is_ready


TLC = {
    "id": "0x1", "amount": "0x2", "payment_hash": "0x" + "11" * 32, "expiry": "0x3",
    "forwarding_channel_id": None, "forwarding_tlc_id": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "direction", "stage"),
    [
        ({"Inbound": "AnnounceWaitAck"}, TlcDirection.INBOUND, TlcStage.ANNOUNCE_WAIT_ACK),
        ({"Outbound": "RemoteRemoved"}, TlcDirection.OUTBOUND, TlcStage.REMOTE_REMOVED),
        ({"Sideways": "Committed"}, TlcDirection.UNKNOWN, TlcStage.COMMITTED),
        ({"Inbound": "Vanished"}, TlcDirection.INBOUND, TlcStage.UNKNOWN),
    ],
)
def test_tlc_states(status: dict, direction: TlcDirection, stage: TlcStage) -> None:
    tlc = PendingTlc.from_json(TLC | {"status": status})
    assert (tlc.direction, tlc.stage) == (direction, stage)


@pytest.mark.parametrize("status", [{}, {"Inbound": "Committed", "Outbound": "Committed"}, "x"])
def test_a_tlc_has_one_direction(status: object) -> None:
    with pytest.raises(RemoteProtocolError):
        PendingTlc.from_json(TLC | {"status": status})  # type: ignore[arg-type]


def test_udt_configurations_with_either_kind_of_dep() -> None:
    script = {"code_hash": "0x" + "aa" * 32, "hash_type": "type", "args": "0x.*"}
    type_id = {"code_hash": "0x" + "bb" * 32, "hash_type": "type", "args": "0x00"}
    cell_dep = {"out_point": {"tx_hash": "0x" + "cc" * 32, "index": "0x1"}, "dep_type": "code"}
    node = _result("graph_nodes")["nodes"][0] | {
        "udt_cfg_infos": [
            {"name": "RUSD", "script": script, "auto_accept_amount": "0x5",
             "cell_deps": [{"cell_dep": cell_dep}, {"type_id": type_id}]}
        ]
    }  # fmt: skip
    (config,) = GraphNode.from_json(node).udt_configs
    assert config.args_pattern == "0x.*"
    assert config.auto_accept_amount == 5
    first, second = config.cell_deps
    assert first.out_point is not None
    assert first.out_point.index == 1
    assert (first.dep_type, first.type_id) == ("code", None)
    assert (second.out_point, second.dep_type) == (None, None)
    assert second.type_id is not None


H = "0x" + "11" * 32


def test_store_changes() -> None:
    preimage = store_change_from_json(
        {"PutPreimage": {"payment_hash": H, "payment_preimage": "0x" + "ab" * 32}}
    )
    assert isinstance(preimage, PreimageStored)
    assert preimage.preimage == b"\xab" * 32
    assert "xab" not in repr(preimage)
    assert store_change_from_json(
        {"PutCkbInvoiceStatus": {"payment_hash": H, "invoice_status": "Received"}}
    ) == InvoiceChanged(payment_hash=preimage.payment_hash, status=InvoiceStatus.RECEIVED)
    session = {"request": {"amount": 5, "rate": 0.5}, "status": "Inflight", "try_limit": 5}
    assert store_change_from_json(
        {"PutPaymentSession": {"payment_hash": H, "payment_session": session}}
    ) == PaymentChanged(payment_hash=preimage.payment_hash, status=PaymentStatus.INFLIGHT)


@pytest.mark.parametrize("session", [None, "Success", {}, {"status": 3}, {"status": "Lost"}])
def test_a_payment_event_of_another_shape_still_wakes_up(session: object) -> None:
    change = store_change_from_json(
        {"PutPaymentSession": {"payment_hash": H, "payment_session": session}}  # type: ignore[dict-item]
    )
    assert isinstance(change, PaymentChanged)
    assert change.status is PaymentStatus.UNKNOWN


def test_other_events_and_messages() -> None:
    assert store_change_from_json({"PutMoon": 1}) == OtherChange(name="PutMoon")
    assert notification_from_json({"id": 1, "result": "0xabc"}) is None
    assert notification_from_json([1]) is None
    event = {"PutCkbInvoiceStatus": {"payment_hash": H, "invoice_status": "Paid"}}
    message = {"method": "store_changes", "params": {"subscription": 7, "result": event}}
    assert isinstance(notification_from_json(message), InvoiceChanged)


@pytest.mark.parametrize(
    "event",
    [None, {}, {"PutPreimage": {}}, {"PutPreimage": 1}, {"A": 1, "B": 2},
     {"PutCkbInvoiceStatus": {"payment_hash": "0x11", "invoice_status": "Paid"}}],
)  # fmt: skip
def test_broken_events_are_refused(event: object) -> None:
    with pytest.raises(RemoteProtocolError):
        store_change_from_json(event)  # type: ignore[arg-type]
