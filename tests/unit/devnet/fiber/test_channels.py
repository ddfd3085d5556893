"""Opening, showing, changing and closing channels."""

from typing import Any

import pytest

from infern.core.ckb.script import HashType, Script
from infern.devnet.fiber import NetworkSettings, NodeSettings, UdtInfo, violations

CKB = 100_000_000
XUDT = Script(code_hash=b"\x50" * 32, hash_type=HashType.TYPE, args=b"\x51" * 32)
TOO_SMALL = (
    "Invalid parameter: "
    "The funding amount (9800000000) should be greater than or equal to 9900000000"
)
PREIMAGE = b"\x07" * 32


def pair(world: Any, settings: NodeSettings | None = None) -> None:
    for name in ("a", "b"):
        world.node(name, settings)
    world.network.connect_at_once(world.network.nodes["a"], world.network.nodes["b"])


def open_channel(world: Any, amount: int, **more: Any) -> Any:
    peer = world.network.nodes["b"].pubkey.hex()
    return world.call("a", "open_channel", pubkey=peer, funding_amount=hex(amount), **more)


def only(world: Any, name: str, **more: Any) -> Any:
    rows = world.call(name, "list_channels", **more)["channels"]
    assert len(rows) == 1
    return rows[0]


def test_opening_takes_the_measured_time_and_the_normal_states(world: Any) -> None:
    pair(world)
    opened = open_channel(world, 500 * CKB)
    pending = only(world, "a", only_pending=True)
    assert pending["channel_id"] == opened["temporary_channel_id"]
    assert pending["state"]["state_flags"] == "OUR_INIT_SENT|INIT_SENT"
    assert world.call("a", "list_channels") == {"channels": []}
    assert world.call("b", "list_channels") == {"channels": []}
    world.clock.advance_ms(350)
    states, elapsed_ms = [], 350
    while only(world, "a")["state"] != {"state_name": "ChannelReady"}:
        state = only(world, "a")["state"]
        if not states or states[-1] != state:
            states.append(state)
        world.clock.advance_ms(10)
        elapsed_ms += 10
    assert [state["state_name"] for state in states] == [
        "NegotiatingFunding",
        "CollaboratingFundingTx",
        "SigningCommitment",
        "AwaitingTxSignatures",
        "AwaitingChannelReady",
        "AwaitingChannelReady",
    ]
    assert 4_000 <= elapsed_ms <= 5_000
    mine, theirs = only(world, "a"), only(world, "b")
    assert mine["channel_id"] == theirs["channel_id"] != opened["temporary_channel_id"]
    assert mine["local_balance"] == theirs["remote_balance"] == hex(401 * CKB)
    assert mine["remote_balance"] == theirs["local_balance"] == "0x0"
    assert theirs["is_acceptor"] is True
    listed = world.call("a", "graph_channels")["channels"]
    assert [row["capacity"] for row in listed] == [hex(401 * CKB)]
    wallets = world.network.chain.wallets
    assert wallets[("b", None)] == (100_000 - 99) * CKB


def test_blocks_come_only_when_mined_without_auto_mining(make_world: Any) -> None:
    world = make_world(NetworkSettings(auto_mine=False))
    pair(world)
    open_channel(world, 500 * CKB)
    world.clock.advance_ms(60_000)
    assert only(world, "a")["state"]["state_name"] == "AwaitingTxSignatures"
    world.network.chain.mine(4)
    world.quiet()
    assert only(world, "a")["state"]["state_name"] == "AwaitingChannelReady"
    world.network.chain.mine(1)
    world.network.chain.mine(4)
    world.quiet()
    assert only(world, "a")["state"]["state_name"] == "ChannelReady"
    assert violations(world.network) == []


def test_gossip_takes_its_time_to_third_parties(world: Any) -> None:
    world.line("c", "a")
    world.node("b")
    world.network.connect_at_once(world.network.nodes["a"], world.network.nodes["b"])
    open_channel(world, 500 * CKB)
    world.quiet()
    assert len(world.call("a", "graph_channels")["channels"]) == 2
    assert len(world.call("c", "graph_channels")["channels"]) == 1
    world.clock.advance_ms(1_500)
    assert len(world.call("c", "graph_channels")["channels"]) == 2


@pytest.mark.parametrize(
    ("amount", "more", "text"),
    [
        (
            98 * CKB,
            {},
            TOO_SMALL,
        ),
        (
            500 * CKB,
            {"one_way": True},
            "Invalid parameter: An one-way channel cannot be public",
        ),
        (
            500 * CKB,
            {"funding_udt_type_script": XUDT.to_json()},
            "Invalid parameter: Invalid UDT type script",
        ),
        (
            500 * CKB,
            {"tlc_expiry_delta": "0x1"},
            "Invalid parameter: TLC expiry delta is too small, expect larger than 9600000, got 1",
        ),
    ],
)
def test_open_channel_refuses(
    world: Any, refused: Any, amount: int, more: dict[str, Any], text: str
) -> None:
    pair(world)
    with pytest.raises(refused) as caught:
        open_channel(world, amount, **more)
    assert caught.value.message == text
    assert world.call("a", "list_channels") == {"channels": []}


def test_open_channel_waits_for_the_init_message(world: Any, refused: Any) -> None:
    for name in ("a", "b"):
        world.node(name)
    nodes = world.network.nodes
    world.call("a", "connect_peer", address=nodes["b"].address)
    text = f"Peer Pubkey({nodes['b'].pubkey.hex()})'s feature not found, waiting for peer"
    with pytest.raises(refused) as caught:
        open_channel(world, 500 * CKB)
    assert text in caught.value.message
    world.clock.advance_ms(1_000)
    open_channel(world, 500 * CKB)
    world.quiet()
    assert only(world, "b")["state"] == {"state_name": "ChannelReady"}


def test_a_small_request_waits_for_accept_channel(world: Any, refused: Any) -> None:
    pair(world, NodeSettings(auto_accept_min=1_000 * CKB))
    opened = open_channel(world, 500 * CKB)
    world.quiet()
    assert only(world, "a", only_pending=True)["state"]["state_name"] == "NegotiatingFunding"
    temporary_id = opened["temporary_channel_id"]
    assert only(world, "b", only_pending=True)["channel_id"] == temporary_id
    with pytest.raises(refused, match="No channel with temp id"):
        world.call(
            "b", "accept_channel", temporary_channel_id="11" * 32, funding_amount=hex(100 * CKB)
        )
    accepted = world.call(
        "b", "accept_channel", temporary_channel_id=temporary_id, funding_amount=hex(199 * CKB)
    )
    world.quiet()
    row = only(world, "b")
    assert row["channel_id"] == accepted["channel_id"]
    assert (row["local_balance"], row["remote_balance"]) == (hex(100 * CKB), hex(401 * CKB))


def test_abandoning(world: Any, refused: Any) -> None:
    pair(world)
    opened = open_channel(world, 500 * CKB)
    world.call("a", "abandon_channel", channel_id=opened["temporary_channel_id"])
    world.quiet()
    assert world.call("a", "list_channels") == {"channels": []}
    flags = only(world, "a", only_pending=True)["state"]
    assert flags == {"state_name": "Closed", "state_flags": "ABANDONED"}
    open_channel(world, 500 * CKB)
    world.quiet()
    with pytest.raises(refused, match="cannot be abandoned, please shutdown the channel instead"):
        world.call("a", "abandon_channel", channel_id=only(world, "a")["channel_id"])


def test_a_short_wallet_aborts_the_funding(world: Any) -> None:
    pair(world, NodeSettings(initial_wallet=400 * CKB))
    open_channel(world, 500 * CKB)
    world.quiet()
    row = only(world, "a", include_closed=True)
    assert row["state"] == {"state_name": "Closed", "state_flags": "FUNDING_ABORTED"}
    assert row["failure_detail"]
    assert world.network.chain.wallets[("a", None)] == 400 * CKB
    assert world.network.chain.wallets[("b", None)] == 400 * CKB


def test_cooperative_close_waits_for_tlcs_and_pays_out(world: Any, refused: Any) -> None:
    (channel,) = world.line("a", "b")
    paid = world.invoice("b", 100 * CKB)
    world.pay("a", paid)
    world.quiet()
    invoice = world.hold("b", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    channel_id = "0x" + channel.channel_id.hex()
    with pytest.raises(refused, match="should not be set when force is true"):
        world.call("a", "shutdown_channel", channel_id=channel_id, force=True, fee_rate="0x3e8")
    assert world.call("a", "shutdown_channel", channel_id=channel_id) is None
    world.quiet()
    assert "AWAITING_PENDING_TLCS" in only(world, "b")["state"]["state_flags"]
    late = world.invoice("b", CKB)
    with pytest.raises(refused, match="max outbound liquidity 0"):
        world.pay("a", late)
    with pytest.raises(refused, match="Trying to send shutdown message while in invalid state"):
        world.call("a", "shutdown_channel", channel_id=channel_id)
    world.call("b", "cancel_invoice", payment_hash=invoice["hash"])
    world.quiet()
    assert world.call("a", "list_channels") == {"channels": []}
    state = only(world, "a", include_closed=True)["state"]
    assert state == {"state_name": "Closed", "state_flags": "COOPERATIVE"}
    wallets = world.network.chain.wallets
    assert wallets[("b", None)] == 100_100 * CKB - 455
    assert wallets[("a", None)] == 99_900 * CKB - 1_000 - 455


def test_forced_close_returns_a_held_tlc_after_its_expiry(world: Any) -> None:
    first, second = world.line("a", "b", "c")
    invoice = world.hold("c", 10 * CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    world.call("c", "shutdown_channel", channel_id="0x" + second.channel_id.hex(), force=True)
    world.quiet()
    waiting = "WAITING_ONCHAIN_SETTLEMENT"
    assert world.row("c", second)["state"]["state_flags"] == f"UNCOOPERATIVE_LOCAL|{waiting}"
    assert world.row("b", second)["state"]["state_flags"] == f"UNCOOPERATIVE_REMOTE|{waiting}"
    assert world.payment("a", invoice)["status"] == "Inflight"
    world.clock.advance_ms(14 * 86_400_000)
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Failed"
    closed = world.row("c", second, include_closed=True)["state"]
    assert closed["state_flags"] == "UNCOOPERATIVE_LOCAL"
    assert world.row("a", first)["local_balance"] == hex(1_901 * CKB)
    assert world.network.chain.wallets[("c", None)] == 100_000 * CKB


def test_forced_close_pays_who_has_the_preimage(world: Any) -> None:
    first, second = world.line("a", "b", "c")
    invoice = world.hold("c", 10 * CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    world.call("b", "shutdown_channel", channel_id="0x" + second.channel_id.hex(), force=True)
    world.call(
        "c",
        "settle_invoice",
        payment_hash=invoice["hash"],
        payment_preimage="0x" + PREIMAGE.hex(),
    )
    world.clock.advance_ms(120_000)
    world.quiet()
    assert world.status("c", invoice) == "Paid"
    assert world.payment("a", invoice)["status"] == "Success"
    assert world.network.chain.wallets[("c", None)] == 100_010 * CKB
    assert world.row("a", first)["local_balance"] == hex(1_891 * CKB - CKB // 100)


def test_update_channel_changes_price_and_openness(world: Any, refused: Any) -> None:
    _, second = world.line("a", "b", "c")
    channel_id = "0x" + second.channel_id.hex()
    world.call(
        "b", "update_channel", channel_id=channel_id, tlc_fee_proportional_millionths=hex(2_000)
    )
    assert world.pay("a", world.invoice("c", 1_000_000), dry_run=True)["fee"] == hex(2_000)
    world.call("b", "update_channel", channel_id=channel_id, tlc_minimum_value=hex(5_000))
    with pytest.raises(refused, match="no path found"):
        world.pay("a", world.invoice("c", 4_000))
    world.call("b", "update_channel", channel_id=channel_id, enabled=False)
    with pytest.raises(refused, match="no path found"):
        world.pay("a", world.invoice("c", 1_000_000))
    assert world.row("b", second)["enabled"] is False


def test_slots_and_value_in_flight_are_limited(world: Any) -> None:
    pair(world)
    open_channel(world, 500 * CKB, max_tlc_number_in_flight="0x2", public=False)
    world.quiet()
    held = [world.hold("b", CKB, bytes([byte]) * 32) for byte in (1, 2, 3)]
    for invoice in held:
        world.pay("a", invoice)
        world.quiet()
    assert [world.status("b", invoice) for invoice in held] == ["Received", "Received", "Open"]
    assert world.payment("a", held[2])["status"] == "Failed"
    other = world.node("x")
    nodes = world.network.nodes
    world.network.connect_at_once(other, nodes["b"])
    world.call(
        "x",
        "open_channel",
        pubkey=nodes["b"].pubkey.hex(),
        funding_amount=hex(500 * CKB),
        max_tlc_value_in_flight=hex(5 * CKB),
    )
    world.quiet()
    big = world.invoice("b", 6 * CKB)
    world.pay("x", big)
    world.quiet()
    assert world.payment("x", big)["status"] == "Failed"


def test_a_one_way_channel_carries_nothing_back(world: Any, refused: Any) -> None:
    for name in ("a", "b"):
        world.node(name)
    nodes = world.network.nodes
    world.network.open_ready_channel(nodes["a"], nodes["b"], 500 * CKB, public=False, one_way=True)
    world.pay("a", world.invoice("b", 100 * CKB))
    world.quiet()
    with pytest.raises(refused, match="max outbound liquidity 0"):
        world.pay("b", world.invoice("a", CKB))


def test_udt_channels_lock_180_ckb_and_move_the_udt(make_world: Any) -> None:
    world = make_world(NetworkSettings(udt_balances={"a": {XUDT: 10_000}}))
    info = UdtInfo(
        name="XUDT",
        code_hash=XUDT.code_hash,
        hash_type=XUDT.hash_type,
        auto_accept_amount=1_000,
    )
    pair(world, NodeSettings(udt_whitelist=(info,)))
    script = XUDT.to_json()
    open_channel(world, 9_000, funding_udt_type_script=script)
    world.quiet()
    row = only(world, "a")
    assert (row["local_balance"], row["funding_udt_type_script"]) == (hex(9_000), script)
    assert world.network.chain.wallets[("b", None)] == (100_000 - 180) * CKB
    invoice = world.invoice("b", 4_000, udt_type_script=script)
    assert "udt_script" in {key for attr in invoice["view"]["data"]["attrs"] for key in attr}
    world.pay("a", invoice)
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"
    assert only(world, "b")["local_balance"] == hex(4_000)
    world.call("a", "shutdown_channel", channel_id=row["channel_id"])
    world.quiet()
    assert world.network.chain.wallets[("b", XUDT)] == 4_000
    assert world.network.chain.wallets[("a", XUDT)] == 6_000
    assert world.raw("a", "node_info", [])["udt_cfg_infos"][0]["auto_accept_amount"] == "0x3e8"
    assert violations(world.network) == []


def test_peers(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    key = {name: node.pubkey.hex() for name, node in nodes.items()}
    assert {row["pubkey"] for row in world.raw("b", "list_peers", [])["peers"]} == {
        key["a"],
        key["c"],
    }
    assert world.call("a", "connect_peer", pubkey=key["c"]) is None
    assert len(world.raw("a", "list_peers", [{}])["peers"]) == 2
    assert world.call("a", "disconnect_peer", pubkey=key["c"]) is None
    with pytest.raises(refused) as caught:
        world.call("a", "disconnect_peer", pubkey=key["c"])
    assert caught.value.message == f"peer Pubkey({key['c']}) is not connected"
    with pytest.raises(refused, match="address must not be empty"):
        world.call("a", "connect_peer", address="")
    with pytest.raises(refused, match="either `address` or `pubkey` is required"):
        world.call("a", "connect_peer")


def test_graph_pages_by_cursor(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    for method, name, count in (("graph_nodes", "nodes", 3), ("graph_channels", "channels", 2)):
        rows, after = [], "0x"
        for _ in range(count):
            more = {} if after == "0x" else {"after": after}
            page = world.call("a", method, limit="0x1", **more)
            rows += page[name]
            after = page["last_cursor"]
            assert len(after) == 2 + 2 * 45
        assert world.call("a", method, after=after) == {name: [], "last_cursor": "0x"}
        assert rows == world.call("a", method)[name]
        with pytest.raises(refused) as caught:
            world.call("a", method, after="0x00")
        assert (caught.value.code, caught.value.message) == (
            -32602,
            "Invalid cursor size: 1, want 45",
        )
