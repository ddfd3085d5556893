"""Payments between embedded nodes: the worked numbers, texts and statuses."""

from typing import Any

import pytest

CKB = 100_000_000
PREIMAGE = b"\x07" * 32


def times(world: Any, payer: str, payee: str, invoice: dict[str, Any]) -> dict[str, int]:
    """First millisecond at which each status is seen, polling every millisecond."""
    seen: dict[str, int] = {}
    for elapsed_ms in range(500):
        seen.setdefault(world.status(payee, invoice), elapsed_ms)
        seen.setdefault(world.payment(payer, invoice)["status"], elapsed_ms)
        world.clock.advance_us(1_000)
    return seen


def test_one_hop_has_the_measured_pace(world: Any) -> None:
    world.line("a", "b")
    invoice = world.invoice("b", 1_000_000)
    assert world.pay("a", invoice)["status"] == "Created"
    seen = times(world, "a", "b", invoice)
    assert (seen["Received"], seen["Paid"], seen["Success"]) == (101, 193, 196)


def test_two_hops_have_the_measured_pace(world: Any) -> None:
    world.line("a", "b", "c")
    invoice = world.invoice("c", 1_000_000)
    assert world.pay("a", invoice)["fee"] == hex(1_000)
    seen = times(world, "a", "c", invoice)
    assert (seen["Received"], seen["Paid"], seen["Success"]) == (158, 250, 305)


def test_speed_divides_latencies_and_nothing_else(make_world: Any) -> None:
    from infern.devnet.fiber import NetworkSettings

    world = make_world(NetworkSettings(speed=100))
    world.line("a", "b")
    invoice = world.invoice("b", 1, expiry="0x3c")
    before_ms = world.clock.now_ms
    world.pay("a", invoice)
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"
    assert world.clock.now_ms - before_ms <= 2
    world.clock.advance_ms(59_000)
    assert world.status("b", world.invoice("b", 1, expiry="0x3c")) == "Open"


def test_fees_of_the_worked_example(world: Any) -> None:
    first, second, third = world.line("a", "b", "c", "d")
    invoice = world.invoice("d", 1_000_000)
    assert world.pay("a", invoice)["fee"] == hex(2_001)
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"
    assert world.row("a", first)["local_balance"] == hex(1_901 * CKB - 1_002_001)
    assert world.row("b", first)["local_balance"] == hex(1_002_001)
    assert world.row("b", second)["local_balance"] == hex(1_901 * CKB - 1_001_000)
    assert world.row("c", third)["local_balance"] == hex(1_901 * CKB - 1_000_000)
    assert world.row("d", third)["local_balance"] == hex(1_000_000)


@pytest.mark.parametrize("amount", [1, 100, 200, 1_000])
def test_tiny_amounts_pass_one_intermediary(world: Any, amount: int) -> None:
    world.line("a", "b", "c")
    invoice = world.invoice("c", amount)
    assert world.pay("a", invoice)["fee"] == "0x1"
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"


def test_the_fee_budget_of_a_tiny_amount_stops_a_second_intermediary(
    world: Any, refused: Any
) -> None:
    world.line("a", "b", "c", "d")
    invoice = world.invoice("d", 100)
    with pytest.raises(refused) as caught:
        world.pay("a", invoice)
    no_path = "Send payment error: Failed to build route, PathFind error: no path found"
    assert caught.value.message == no_path
    failed = world.payment("a", invoice)
    assert (failed["status"], failed["failed_error"]) == ("Failed", no_path)
    assert world.pay("a", invoice, max_fee_rate=hex(20))["fee"] == "0x2"
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"


def test_a_fee_cap_below_the_fee_finds_no_path(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    invoice = world.invoice("c", 1_000_000)
    with pytest.raises(refused, match="no path found"):
        world.pay("a", invoice, max_fee_amount=hex(999), max_fee_rate=hex(1_000))


def test_a_hold_locks_along_the_path_and_settles(world: Any) -> None:
    first, second = world.line("a", "b", "c")
    invoice = world.hold("c", 10 * CKB, PREIMAGE)
    assert world.pay("a", invoice)["status"] == "Created"
    world.clock.advance_ms(116)
    assert world.status("c", invoice) == "Open"
    world.clock.advance_ms(1)
    assert world.status("c", invoice) == "Received"
    assert world.payment("a", invoice)["status"] == "Inflight"
    fee = 10 * CKB // 1_000
    payer, hub_in = world.row("a", first), world.row("b", first)
    hub_out, payee = world.row("b", second), world.row("c", second)
    assert payer["local_balance"] == hex(1_901 * CKB)
    assert payer["offered_tlc_balance"] == hex(10 * CKB + fee) == hub_in["received_tlc_balance"]
    assert hub_out["offered_tlc_balance"] == hex(10 * CKB) == payee["received_tlc_balance"]
    assert payer["pending_tlcs"][0]["status"] == {"Outbound": "Committed"}
    assert payer["pending_tlcs"][0]["forwarding_channel_id"] is None
    assert hub_in["pending_tlcs"][0]["forwarding_channel_id"] == hub_out["channel_id"]
    assert hub_out["pending_tlcs"][0]["forwarding_channel_id"] == hub_in["channel_id"]
    assert payee["pending_tlcs"][0]["status"] == {"Inbound": "Committed"}
    assert payee["pending_tlcs"][0]["forwarding_tlc_id"] is None
    gap_ms = int(payer["pending_tlcs"][0]["expiry"], 16) - int(
        payee["pending_tlcs"][0]["expiry"], 16
    )
    assert gap_ms == 14_400_000

    settled = world.call(
        "c",
        "settle_invoice",
        payment_hash=invoice["hash"],
        payment_preimage="0x" + PREIMAGE.hex(),
    )
    assert settled == {}
    assert world.status("c", invoice) == "Received"
    world.clock.advance_ms(163)
    assert world.payment("a", invoice)["status"] == "Success"
    assert world.status("c", invoice) == "Paid"
    assert world.row("a", first)["local_balance"] == hex(1_891 * CKB - fee)
    assert world.row("c", second)["local_balance"] == hex(10 * CKB)
    assert world.row("c", second)["pending_tlcs"] == []


def test_a_cancelled_hold_moves_nothing(world: Any, refused: Any) -> None:
    first, second = world.line("a", "b", "c")
    invoice = world.hold("c", 10 * CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    cancelled = world.call("c", "cancel_invoice", payment_hash=invoice["hash"])
    assert cancelled["status"] == "Cancelled"
    world.clock.advance_ms(161)
    failed = world.payment("a", invoice)
    assert (failed["status"], failed["failed_error"]) == ("Failed", "InvoiceCancelled")
    assert failed["fee"] == "0x0"
    assert world.row("a", first)["local_balance"] == hex(1_901 * CKB)
    assert world.row("a", first)["offered_tlc_balance"] == "0x0"
    assert world.row("b", second)["local_balance"] == hex(1_901 * CKB)
    with pytest.raises(refused, match=r"^Invoice is already cancelled$"):
        world.call(
            "c",
            "settle_invoice",
            payment_hash=invoice["hash"],
            payment_preimage="0x" + PREIMAGE.hex(),
        )
    with pytest.raises(refused, match=r"current status: Cancelled$"):
        world.call("c", "cancel_invoice", payment_hash=invoice["hash"])
    assert world.pay("a", invoice)["status"] == "Created"
    world.quiet()
    assert world.payment("a", invoice)["failed_error"] == "InvoiceCancelled"


def test_settle_refuses_what_it_must(world: Any, refused: Any) -> None:
    world.line("a", "b")
    invoice = world.hold("b", CKB, PREIMAGE, expiry="0x3c")

    def settle(preimage: bytes, payment_hash: str = invoice["hash"]) -> Any:
        return world.call(
            "b",
            "settle_invoice",
            payment_hash=payment_hash,
            payment_preimage="0x" + preimage.hex(),
        )

    with pytest.raises(refused, match=r"^Invoice not found$"):
        settle(PREIMAGE, "0x" + "11" * 32)
    with pytest.raises(refused, match=r"^Hash mismatch$"):
        settle(b"\x08" * 32)
    with pytest.raises(refused, match=r"^Invoice is still open$"):
        settle(PREIMAGE)
    world.clock.advance_ms(60_001)
    assert world.status("b", invoice) == "Expired"
    with pytest.raises(refused, match=r"^Invoice is already expired$"):
        settle(PREIMAGE)


def test_a_received_hold_settles_after_its_invoice_expired(world: Any, refused: Any) -> None:
    world.line("a", "b")
    invoice = world.hold("b", CKB, PREIMAGE, expiry="0x3c")
    world.pay("a", invoice)
    world.clock.advance_ms(120_000)
    assert world.status("b", invoice) == "Received"
    arguments = {"payment_hash": invoice["hash"], "payment_preimage": "0x" + PREIMAGE.hex()}
    assert world.call("b", "settle_invoice", **arguments) == {}
    world.quiet()
    assert world.status("b", invoice) == "Paid"
    with pytest.raises(refused, match=r"^Invoice is already paid$"):
        world.call("b", "settle_invoice", **arguments)


def test_a_second_payer_is_refused_while_received_and_after(world: Any) -> None:
    world.line("a", "b")
    world.node("x")
    world.network.open_ready_channel(world.network.nodes["x"], world.network.nodes["b"], 500 * CKB)
    invoice = world.hold("b", CKB, PREIMAGE)
    world.pay("a", invoice)
    world.quiet()
    world.pay("x", invoice)
    world.quiet()
    assert world.payment("x", invoice)["failed_error"] == "IncorrectOrUnknownPaymentDetails"
    assert world.payment("a", invoice)["status"] == "Inflight"
    assert world.status("b", invoice) == "Received"


def test_two_payers_racing_for_an_ordinary_invoice_pay_it_once(world: Any) -> None:
    world.line("a", "b")
    world.node("x")
    world.network.open_ready_channel(world.network.nodes["x"], world.network.nodes["b"], 500 * CKB)
    invoice = world.invoice("b", CKB)
    world.pay("a", invoice)
    world.pay("x", invoice)
    world.quiet()
    ends = {name: world.payment(name, invoice) for name in ("a", "x")}
    assert sorted(end["status"] for end in ends.values()) == ["Failed", "Success"]
    loser = next(end for end in ends.values() if end["status"] == "Failed")
    assert loser["failed_error"] == "HoldTlcTimeout"


def test_sending_again_is_refused_unless_it_failed(world: Any, refused: Any) -> None:
    world.line("a", "b")
    invoice = world.invoice("b", CKB)
    world.pay("a", invoice)
    shown = f"Hash256({invoice['hash']})"
    text = f"InvalidParameter: Payment session already exists: {shown} with payment session status"
    with pytest.raises(refused) as caught:
        world.pay("a", invoice)
    assert caught.value.message == f"{text}: Created"
    world.quiet()
    with pytest.raises(refused) as caught:
        world.pay("a", invoice)
    assert caught.value.message == f"{text}: Success"


def test_insufficient_balance_names_both_amounts(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    held = world.hold("c", 10 * CKB, PREIMAGE)
    world.pay("a", held)
    world.quiet()
    invoice = world.invoice("c", 5_000 * CKB)
    with pytest.raises(refused) as caught:
        world.pay("a", invoice)
    left = 1_891 * CKB - CKB // 100
    assert caught.value.message == (
        "Send payment error: Failed to build route, Insufficient balance: max outbound liquidity "
        f"{left} is insufficient, required amount: {5_000 * CKB}"
    )


def test_a_dry_run_prices_and_stores_nothing(world: Any, refused: Any) -> None:
    world.line("a", "b", "c", "d")
    for payee, fee in (("b", 0), ("c", 1_000), ("d", 2_001)):
        invoice = world.invoice(payee, 1_000_000)
        assert world.pay("a", invoice, dry_run=True)["fee"] == hex(fee)
        with pytest.raises(refused, match="Payment session not found"):
            world.payment("a", invoice)


def test_keysend_both_ways(world: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    sent = world.call(
        "a", "send_payment", target_pubkey=nodes["c"].pubkey.hex(), amount=hex(5_000), keysend=True
    )
    world.quiet()
    back = world.call(
        "c", "send_payment", target_pubkey=nodes["a"].pubkey.hex(), amount=hex(4_000), keysend=True
    )
    assert (sent["fee"], back["fee"]) == (hex(5), hex(4))
    world.quiet()
    for name, payment in (("a", sent), ("c", back)):
        found = world.call(name, "get_payment", payment_hash=payment["payment_hash"])
        assert found["status"] == "Success"


def test_a_remote_channel_without_balance_is_learned_and_avoided(world: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    world.network.open_ready_channel(nodes["c"], nodes["b"], 2_000 * CKB)
    drain = world.invoice("c", 1_900 * CKB)
    world.pay("b", drain)
    world.quiet()
    assert world.payment("b", drain)["status"] == "Success"
    invoice = world.invoice("c", 1_000 * CKB)
    assert world.pay("a", invoice)["status"] == "Created"
    world.quiet()
    failed = world.payment("a", invoice)
    assert failed["status"] == "Failed"
    assert failed["failed_error"] == (
        "Build payment route error: Failed to build route, PathFind error: no path found"
    )
    again = world.invoice("c", 5 * CKB)
    assert world.pay("a", again)["status"] == "Created"
    world.quiet()
    failed_small = world.payment("a", again)
    assert failed_small["status"] == "Failed"


def test_a_second_channel_is_tried_when_the_first_fails(world: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    spare = world.network.open_ready_channel(nodes["b"], nodes["c"], 2_000 * CKB)
    invoice = world.invoice("c", 1_500 * CKB)
    world.pay("b", invoice)
    world.quiet()
    other = world.invoice("c", 1_500 * CKB)
    world.pay("a", other)
    world.quiet()
    assert world.payment("a", other)["status"] == "Success"
    used = [row for row in world.call("b", "list_channels")["channels"] if not row["is_acceptor"]]
    assert {row["remote_balance"] for row in used} == {hex(1_500 * CKB)}
    assert spare.capacity == 1_901 * CKB


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"amount": "0x1"}, "target_pubkey is missing"),
        ({"target_pubkey": "02" * 33, "payment_hash": "11" * 32}, "amount is missing"),
        ({"target_pubkey": "02" * 33, "amount": "0x1"}, "payment_hash is missing"),
        (
            {"target_pubkey": "02" * 33, "amount": "0x0", "keysend": True},
            "amount must be greater than 0",
        ),
        (
            {"target_pubkey": "02" * 33, "amount": "0x1", "keysend": True, "max_parts": "0x2"},
            "payment invoice is not allow MPP",
        ),
        (
            {
                "target_pubkey": "02" * 33,
                "amount": "0x1",
                "keysend": True,
                "payment_hash": "11" * 32,
            },
            "keysend payment should not have payment_hash",
        ),
        (
            {
                "target_pubkey": "02" * 33,
                "amount": "0x1",
                "keysend": True,
                "final_tlc_expiry_delta": "0x1",
            },
            "invalid final_tlc_expiry_delta, expect between 9600000 and 1209600000",
        ),
        ({"invoice": "fibd1nonsense"}, "invoice is invalid"),
    ],
)
def test_send_payment_validation(
    world: Any, refused: Any, params: dict[str, Any], reason: str
) -> None:
    world.line("a", "b")
    with pytest.raises(refused) as caught:
        world.call("a", "send_payment", **params)
    assert caught.value.message == (
        f'InvalidParameter: Failed to validate payment request: "{reason}"'
    )


def test_an_expired_invoice_and_a_contradiction_are_refused(world: Any, refused: Any) -> None:
    world.line("a", "b")
    invoice = world.invoice("b", CKB, expiry="0x3c")
    with pytest.raises(refused, match="amount does not match the invoice"):
        world.pay("a", invoice, amount="0x1")
    world.clock.advance_ms(61_000)
    with pytest.raises(refused, match="invoice is expired"):
        world.pay("a", invoice)


def test_paying_oneself(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    nodes = world.network.nodes
    world.network.open_ready_channel(nodes["c"], nodes["a"], 2_000 * CKB)
    me = nodes["a"].pubkey.hex()
    with pytest.raises(refused) as caught:
        world.call("a", "send_payment", target_pubkey=me, amount=hex(CKB), keysend=True)
    assert caught.value.message == (
        "Send payment error: Failed to build route, Feature not enabled: "
        "allow_self_payment is not enabled, can not pay to self"
    )
    sent = world.call(
        "a",
        "send_payment",
        target_pubkey=me,
        amount=hex(CKB),
        keysend=True,
        allow_self_payment=True,
    )
    assert sent["fee"] == hex(200_100)
    world.quiet()
    found = world.call("a", "get_payment", payment_hash=sent["payment_hash"])
    assert found["status"] == "Success"


def test_mpp_and_trampoline_are_refused_like_a_node_without_them(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    assert world.raw("a", "node_info", [])["features"] == ["GOSSIP_QUERIES_REQUIRED"]
    with pytest.raises(refused, match=r"^Node does not support MPP, please enable MPP feature$"):
        world.invoice("b", 1, allow_mpp=True)
    with pytest.raises(refused, match=r"^Node does not support trampoline routing"):
        world.invoice("b", 1, allow_trampoline_routing=True)
    invoice = world.invoice("c", 1_000, allow_mpp=False)
    assert {"feature": []} in invoice["view"]["data"]["attrs"]
    hub = world.network.nodes["b"].pubkey.hex()
    with pytest.raises(refused, match="does not support trampoline routing"):
        world.pay("a", invoice, trampoline_hops=[hub])


def test_a_named_route_is_built_and_paid(world: Any, refused: Any) -> None:
    world.line("a", "b", "c")
    hops = [{"pubkey": world.network.nodes[name].pubkey.hex()} for name in ("b", "c")]
    route = world.call("a", "build_router", hops_info=hops, amount=hex(1_000_000))["router_hops"]
    assert [hop["amount_received"] for hop in route] == [hex(1_001_000), hex(1_000_000)]
    invoice = world.invoice("c", 1_000_000)
    sent = world.call("a", "send_payment_with_router", router=route, invoice=invoice["text"])
    assert sent["fee"] == hex(1_000)
    world.quiet()
    assert world.payment("a", invoice)["status"] == "Success"
    with pytest.raises(refused, match=r"^Network Graph error: PathFind error: no path found$"):
        world.call("a", "build_router", hops_info=hops[1:], amount="0x1")
    with pytest.raises(refused, match=r"^InvalidParameter: No hop requirements provided$"):
        world.call("a", "build_router", hops_info=[])


def test_a_private_channel_is_found_by_a_hop_hint_only(world: Any, refused: Any) -> None:
    world.line("a", "b")
    nodes = world.network.nodes
    world.node("c")
    private = world.network.open_ready_channel(nodes["b"], nodes["c"], 500 * CKB, public=False)
    keysend = {"target_pubkey": nodes["c"].pubkey.hex(), "amount": hex(1_000), "keysend": True}
    with pytest.raises(refused, match="no path found"):
        world.call("a", "send_payment", **keysend)
    hint = {
        "pubkey": nodes["b"].pubkey.hex(),
        "channel_outpoint": "0x" + private.outpoint.hex(),
        "fee_rate": hex(1_000),
        "tlc_expiry_delta": hex(14_400_000),
    }
    sent = world.call("a", "send_payment", **keysend, hop_hints=[hint])
    world.quiet()
    found = world.call("a", "get_payment", payment_hash=sent["payment_hash"])
    assert found["status"] == "Success"


def test_payments_are_listed_by_hash_in_pages(world: Any) -> None:
    world.line("a", "b")
    hashes = []
    for _ in range(5):
        invoice = world.invoice("b", 1_000)
        world.pay("a", invoice)
        hashes.append(invoice["hash"])
    world.quiet()
    first = world.call("a", "list_payments", limit="0x2")
    assert [row["payment_hash"] for row in first["payments"]] == sorted(hashes)[:2]
    rest = world.call("a", "list_payments", after=first["last_cursor"], status="Success")
    assert [row["payment_hash"] for row in rest["payments"]] == sorted(hashes)[2:]
    assert world.call("a", "list_payments", status="Failed") == {
        "payments": [],
        "last_cursor": None,
    }


def test_events_carry_the_preimage_to_everybody_on_the_path(world: Any) -> None:
    world.line("a", "b", "c")
    seen = {name: world.events(name) for name in ("a", "b", "c")}
    preimage = "0x" + PREIMAGE.hex()
    invoice = world.invoice("c", CKB, payment_preimage=preimage, hash_algorithm="sha256")
    world.pay("a", invoice)
    world.quiet()
    put = {"PutPreimage": {"payment_hash": invoice["hash"], "payment_preimage": preimage}}
    for name, events in seen.items():
        assert events.count(put) == 1, name
    statuses = [
        event["PutCkbInvoiceStatus"]["invoice_status"]
        for event in seen["c"]
        if "PutCkbInvoiceStatus" in event
    ]
    assert statuses == ["Open", "Received", "Paid"]
    sessions = [
        event["PutPaymentSession"]["payment_session"]["status"]
        for event in seen["a"]
        if "PutPaymentSession" in event
    ]
    assert sessions == ["Created", "Success"]
