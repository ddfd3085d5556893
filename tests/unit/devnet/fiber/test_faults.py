"""What goes wrong between nodes, and that no money is lost by it."""

import json
from typing import Any

import pytest

from infern.devnet.fiber import NodeSettings
from infern.devnet.fiber.control import Control

CKB = 100_000_000
PREIMAGE = b"\x07" * 32
DAY_MS = 86_400_000


def settle(world: Any, name: str, invoice: dict[str, Any]) -> None:
    world.call(
        name,
        "settle_invoice",
        payment_hash=invoice["hash"],
        payment_preimage="0x" + PREIMAGE.hex(),
    )


@pytest.mark.parametrize("victim", ["a", "b", "c"])
def test_a_hold_survives_the_restart_of_any_node(world: Any, victim: str) -> None:
    world.line("a", "b", "c")
    invoice = world.hold("c", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    nodes = world.network.nodes
    world.network.faults.restart(nodes[victim], downtime_ms=2_000)
    world.clock.advance_ms(1_000)
    assert not nodes[victim].online
    world.clock.advance_ms(2_000)
    assert world.status("c", invoice) == "Received"
    assert world.payment("a", invoice)["status"] == "Inflight"
    settle(world, "c", invoice)
    world.clock.advance_ms(300)
    assert world.payment("a", invoice)["status"] == "Success"


@pytest.mark.parametrize("victim", ["a", "b", "c"])
@pytest.mark.parametrize("after_ms", [3, 40, 80, 130, 200, 255, 290])
def test_a_payment_survives_a_restart_at_any_moment(world: Any, victim: str, after_ms: int) -> None:
    world.line("a", "b", "c")
    invoice = world.invoice("c", CKB)
    world.pay("a", invoice)
    world.clock.advance_ms(after_ms)
    world.network.faults.restart(world.network.nodes[victim], downtime_ms=5_000)
    world.quiet()
    paid = world.status("c", invoice) == "Paid"
    assert world.payment("a", invoice)["status"] == ("Success" if paid else "Failed")


def test_a_dropped_link_freezes_tlcs_and_resumes(world: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    invoice = world.invoice("c", CKB)
    world.pay("a", invoice)
    world.clock.advance_ms(70)
    world.network.faults.drop_link(nodes["b"], nodes["c"], duration_ms=30_000)
    world.clock.advance_ms(20_000)
    assert world.payment("a", invoice)["status"] == "Inflight"
    assert world.status("c", invoice) == "Open"
    assert {row["pubkey"] for row in world.raw("c", "list_peers", [])["peers"]} == set()
    world.clock.advance_ms(11_000)
    assert world.payment("a", invoice)["status"] == "Success"


def test_an_unreachable_payee_has_no_path_or_an_unknown_next_peer(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    world.clock.advance_ms(10_000)
    world.network.faults.drop_link(nodes["b"], nodes["c"])
    early = world.invoice("c", CKB)
    assert world.pay("a", early)["status"] == "Created"
    world.quiet()
    assert world.payment("a", early)["status"] == "Failed"
    world.clock.advance_ms(2_000)
    with pytest.raises(refused, match="no path found"):
        world.pay("a", world.invoice("c", CKB))
    with pytest.raises(refused, match="max outbound liquidity 0"):
        world.pay("c", world.invoice("a", CKB))
    world.network.faults.restore_link(nodes["b"], nodes["c"])
    world.clock.advance_ms(2_000)
    late = world.invoice("c", CKB)
    world.pay("a", late)
    world.quiet()
    assert world.payment("a", late)["status"] == "Success"


def test_a_delay_slows_exchanges(world: Any) -> None:
    world.line("a", "b")
    nodes = world.network.nodes
    world.network.faults.set_delay(nodes["a"], nodes["b"], 1_000)
    invoice = world.hold("b", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.clock.advance_ms(1_050)
    assert world.status("b", invoice) == "Open"
    world.clock.advance_ms(20)
    assert world.status("b", invoice) == "Received"


def test_a_stuck_tlc_stays_in_flight_until_released(world: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    world.network.faults.set_stuck(nodes["b"], count=1)
    stuck, free = world.invoice("c", CKB), world.invoice("c", CKB)
    world.pay("a", stuck)
    world.quiet()
    world.pay("a", free)
    world.quiet()
    assert world.payment("a", stuck)["status"] == "Inflight"
    assert world.payment("a", free)["status"] == "Success"
    assert world.network.faults.clear_stuck(nodes["b"]) == 1
    world.quiet()
    assert world.payment("a", stuck)["status"] == "Success"


def test_the_watchdog_fails_a_hold_back_before_its_safety_limit(world: Any) -> None:
    first, second = world.line("a", "b", "c")
    invoice = world.hold("c", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    expiry_ms = int(world.row("c", second)["pending_tlcs"][0]["expiry"], 16)
    assert expiry_ms <= world.clock.now_ms + 14 * DAY_MS
    world.clock.advance_ms(expiry_ms - world.clock.now_ms - 165 * 60_000)
    assert world.payment("a", invoice)["status"] == "Inflight"
    world.clock.advance_ms(5 * 60_000 + 1_000)
    failed = world.payment("a", invoice)
    assert (failed["status"], failed["failed_error"]) == ("Failed", "ExpiryTooSoon")
    assert world.row("a", first)["state"] == {"state_name": "ChannelReady"}
    assert world.row("a", first)["local_balance"] == hex(1_901 * CKB)


def test_a_vanished_payee_ends_in_a_forced_close(world: Any) -> None:
    first, second = world.line("a", "b", "c")
    invoice = world.hold("c", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    world.network.stop_node(world.network.nodes["c"])
    world.clock.advance_ms(15 * DAY_MS)
    world.quiet()
    state = world.row("b", second, include_closed=True)["state"]
    assert state["state_flags"] == "UNCOOPERATIVE_LOCAL"
    assert world.payment("a", invoice)["status"] == "Failed"
    assert world.row("a", first)["state"] == {"state_name": "ChannelReady"}
    assert world.row("a", first)["local_balance"] == hex(1_901 * CKB)


def test_a_preimage_on_its_way_is_not_lost_when_the_channel_goes_to_chain(world: Any) -> None:
    _, second = world.line("a", "b", "c")
    nodes = world.network.nodes
    invoice = world.invoice("c", CKB)
    world.pay("a", invoice)
    world.clock.advance_ms(251)
    assert world.status("c", invoice) == "Paid"
    world.network.faults.drop_link(nodes["b"], nodes["c"])
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Inflight"
    world.call("b", "shutdown_channel", channel_id="0x" + second.channel_id.hex(), force=True)
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"


def test_payer_and_payee_agree_after_the_hub_was_away_for_weeks(world: Any) -> None:
    world.line("a", "b", "c")
    invoice = world.hold("c", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    world.network.stop_node(world.network.nodes["b"])
    settle(world, "c", invoice)
    world.clock.advance_ms(15 * DAY_MS)
    world.network.start_node(world.network.nodes["b"])
    world.clock.advance_ms(DAY_MS)
    world.quiet()
    paid = world.status("c", invoice) == "Paid"
    assert world.payment("a", invoice)["status"] == ("Success" if paid else "Failed")


def overrun(world: Any) -> dict[str, Any]:
    """Fill the 125 slots of a channel, fail the next payment, cancel everything."""
    held = [world.hold("c", CKB, number.to_bytes(32, "big")) for number in range(1, 127)]
    for invoice in held:
        world.pay("a", invoice)
        world.clock.advance_ms(15)
    world.quiet()
    statuses = [world.payment("a", invoice)["status"] for invoice in held]
    assert statuses == ["Inflight"] * 125 + ["Failed"]
    for invoice in held[:125]:
        world.call("c", "cancel_invoice", payment_hash=invoice["hash"])
    world.quiet()
    fresh: dict[str, Any] = world.invoice("c", 1_000)
    return fresh


def test_after_the_slot_limit_the_payer_finds_no_path_for_minutes(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    fresh = overrun(world)
    with pytest.raises(refused, match="no path found"):
        world.pay("a", fresh)
    from_hub = world.invoice("c", 1_000)
    world.pay("b", from_hub)
    world.quiet()
    assert world.payment("b", from_hub)["status"] == "Success"
    world.clock.advance_ms(300_000)
    assert world.pay("a", fresh)["status"] == "Created"


def test_a_restart_of_the_payer_forgets_the_slot_limit(world: Any) -> None:
    world.line("a", "b", "c")
    fresh = overrun(world)
    world.network.faults.restart(world.network.nodes["a"], downtime_ms=10)
    world.clock.advance_ms(20)
    assert world.pay("a", fresh)["status"] == "Created"


def test_the_slot_limit_penalty_can_be_turned_off(world: Any) -> None:
    world.line("a", "b", "c", settings=NodeSettings(slot_limit_penalty_ms=0))
    fresh = overrun(world)
    assert world.pay("a", fresh)["status"] == "Created"


def test_too_many_messages_disconnect_the_peer_for_a_moment(world: Any) -> None:
    world.line("a", "b")
    nodes = world.network.nodes
    world.network.faults.set_message_limit(nodes["b"], 20)
    invoices = [world.invoice("b", 1_000) for _ in range(10)]
    for invoice in invoices:
        world.pay("a", invoice)
    world.clock.advance_ms(200)
    assert world.network.links.get(nodes["a"], nodes["b"]) is None
    world.network.faults.set_message_limit(nodes["b"], None)
    world.quiet()
    assert {world.payment("a", invoice)["status"] for invoice in invoices} == {"Success"}


def control(world: Any) -> Any:
    served = Control(world.network, {"a": "http://a"})

    def call(method: str, **params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": [params]}
        answer = json.loads(served.answer_text(json.dumps(request).encode()))
        assert answer["id"] == 7
        return answer

    return call


def test_every_fault_is_reachable_through_the_control_rpc(world: Any) -> None:
    world.line("a", "b")
    nodes, call = world.network.nodes, control(world)
    assert call("devnet_nodes")["result"]["nodes"][0]["rpc_url"] == "http://a"
    before = world.network.chain.wallets[("a", None)]
    funded = call("devnet_fund", node="a", amount_shannon=5)["result"]
    assert funded == {"wallet_shannon": before + 5}
    height = world.network.chain.height
    assert call("devnet_mine", blocks=3)["result"] == {"height": height + 3}
    call("devnet_set_fault", kind="drop_link", a="a", b="b")
    assert world.network.links.get(nodes["a"], nodes["b"]) is None
    call("devnet_clear_fault", kind="drop_link", a="a", b="b")
    assert world.network.links.get(nodes["a"], nodes["b"]) is not None
    call("devnet_set_fault", kind="delay", a="a", b="b", delay_ms=500)
    assert world.network.faults.delay_ms(next(iter(world.network.channels.values()))) == 500
    call("devnet_clear_fault", kind="delay", a="a", b="b")
    call("devnet_set_fault", kind="stuck", node="b", count=1)
    invoice = world.invoice("b", 1_000)
    world.pay("a", invoice)
    now_ms = call("devnet_advance_clock", duration_ms=60_000)["result"]["now_ms"]
    assert now_ms == world.clock.now_ms
    assert world.payment("a", invoice)["status"] == "Inflight"
    call("devnet_clear_fault", kind="stuck", node="b")
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"
    call("devnet_set_fault", kind="message_limit", node="b", messages_per_s=5)
    call("devnet_clear_fault", kind="message_limit", node="b")
    call("devnet_restart", node="b", downtime_ms=100)
    assert not nodes["b"].online
    world.clock.advance_ms(200)
    assert nodes["b"].online
    call("devnet_stop", node="b")
    assert not nodes["b"].online
    call("devnet_start", node="b")
    assert call("devnet_connect", a="a", b="b")["result"] is None
    snapshot = call("devnet_snapshot")["result"]
    assert snapshot["violations"] == []
    assert snapshot["balances_shannon"]["b"]["channels"] == 1_000


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("devnet_nosuch", {}, -32601),
        ("devnet_fund", {"node": "nobody", "amount_shannon": 1}, -32602),
        ("devnet_fund", {"node": "a", "amount_shannon": -1}, -32602),
        ("devnet_fund", {"node": "a", "amount_shannon": True}, -32602),
        ("devnet_set_fault", {"kind": "nosuch"}, -32602),
    ],
)
def test_the_control_rpc_refuses(
    world: Any, method: str, params: dict[str, Any], code: int
) -> None:
    world.line("a", "b")
    assert control(world)(method, **params)["error"]["code"] == code


def test_a_broken_account_is_noticed(make_world: Any) -> None:
    from infern.devnet.fiber import violations

    world = make_world()
    (channel,) = world.line("a", "b")
    assert violations(world.network) == []
    channel.sides[0].balance += 1
    found = violations(world.network)
    assert len(found) == 2
    assert "funded with" in found[0]
