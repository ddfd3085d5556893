"""Channels: opening, changing, closing. All but the refusals run on the embedded network only."""

import pytest

from infern.core.errors import LocalProtocolError, Money, NoRoute
from infern.core.fiber import rpc
from infern.core.fiber.errors import FiberNotReady
from infern.core.fiber.types import ChannelStateName, InvoiceStatus, PaymentStatus
from infern.core.ids import Pubkey

pytestmark = pytest.mark.timeout(120)

CKB = 100_000_000
RESERVE = 99 * CKB


async def test_a_ready_channel(fiber_trio) -> None:
    rows = await fiber_trio.idle_channels()
    assert rows["payer"].channel_id == rows["hub_in"].channel_id
    assert rows["hub_out"].channel_id == rows["payee"].channel_id
    for name, row in rows.items():
        assert row.is_ready
        assert row.state.name is ChannelStateName.CHANNEL_READY
        assert row.state.flags == frozenset()
        assert row.is_public
        assert not row.is_one_way
        assert row.is_acceptor is (name in {"hub_in", "payee"})
        assert row.outpoint is not None
        assert row.udt_type_script is None
        assert row.failure_detail is None
        assert row.tlc_fee_ppm == 1_000
    assert rows["payer"].local_balance == rows["hub_in"].remote_balance
    assert rows["payer"].remote_balance == rows["hub_in"].local_balance


async def test_lists_are_filtered(fiber_trio) -> None:
    whole = await fiber_trio.hub.call(rpc.ListChannels())
    created = [row.created_at_ms for row in whole]
    assert created == sorted(created, reverse=True)
    for name in ("payer", "payee"):
        some = await fiber_trio.hub.call(rpc.ListChannels(pubkey=fiber_trio.key(name)))
        assert some
        assert {row.peer for row in some} == {fiber_trio.key(name)}
    assert await fiber_trio.payer.call(rpc.ListChannels(pubkey=fiber_trio.key("payee"))) == ()
    assert await fiber_trio.hub.call(rpc.ListChannels(only_pending=True)) == ()


@pytest.mark.parametrize(
    ("method", "members", "text"),
    [
        ("list_channels", {"include_closed": True, "only_pending": True}, "mutually exclusive"),
        ("open_channel", {"pubkey": "HUB", "funding_amount": hex(RESERVE - 1)},
         "should be greater than or equal to 9900000000"),
        ("open_channel", {"pubkey": "HUB", "funding_amount": hex(500 * CKB), "one_way": True,
                          "public": True}, "An one-way channel cannot be public"),
        ("shutdown_channel", {"channel_id": "0x" + "11" * 32, "force": True, "fee_rate": "0x3e8"},
         "close_script and fee_rate should not be set when force is true"),
        ("shutdown_channel", {"channel_id": "0x" + "11" * 32}, "not found"),
        ("accept_channel", {"temporary_channel_id": "0x" + "11" * 32, "funding_amount": "0x1"},
         "No channel with temp id"),
        ("abandon_channel", {"channel_id": "0x" + "11" * 32}, "not found"),
    ],
)  # fmt: skip
async def test_what_the_node_refuses(fiber_trio, refused, method, members, text) -> None:
    hub = fiber_trio.key("hub").hex()
    sent = {k: hub if v == "HUB" else v for k, v in members.items()}
    error = await refused(fiber_trio.raw(fiber_trio.payer, method, sent), LocalProtocolError)
    assert text in error.message
    assert error.money is Money.UNMOVED


async def test_a_peer_that_is_not_connected_is_waited_for(fiber_trio, refused) -> None:
    call = rpc.OpenChannel(pubkey=fiber_trio.key("payee"), funding_amount=500 * CKB)
    error = await refused(fiber_trio.payer.call(call), FiberNotReady)
    assert error.money is Money.UNMOVED


async def _opened(fiber_trio, wait_until, peer: Pubkey, known: set[bytes]):
    """The new channel with a peer once it is ready."""

    async def new_rows():
        rows = await fiber_trio.payer.call(rpc.ListChannels(pubkey=peer))
        return [row for row in rows if row.channel_id not in known]

    rows = await wait_until(
        new_rows, lambda rows: any(row.state.name is ChannelStateName.CHANNEL_READY for row in rows)
    )
    return rows[0]


async def test_opening_a_channel(fiber_trio, wait_until) -> None:
    fiber_trio.embedded()
    hub = fiber_trio.key("hub")
    known = {row.channel_id for row in await fiber_trio.payer.call(rpc.ListChannels())}
    temporary = await fiber_trio.payer.call(
        rpc.OpenChannel(
            pubkey=hub, funding_amount=500 * CKB, terms=rpc.ChannelTerms(tlc_fee_ppm=2_000)
        )
    )
    row = await _opened(fiber_trio, wait_until, hub, known)
    assert row.channel_id != temporary
    assert (row.local_balance, row.remote_balance) == (500 * CKB - RESERVE, 0)
    assert row.tlc_fee_ppm == 2_000
    assert not row.is_acceptor
    graph = await wait_until(
        lambda: fiber_trio.payee.call(rpc.GraphChannels()),
        lambda page: row.outpoint in {channel.outpoint for channel in page.channels},
    )
    (seen,) = [channel for channel in graph.channels if channel.outpoint == row.outpoint]
    assert seen.capacity == 401 * CKB


async def test_states_follow_one_another(fiber_trio) -> None:
    fiber_trio.embedded()
    known = {row.channel_id for row in await fiber_trio.payer.call(rpc.ListChannels())}
    await fiber_trio.payer.call(
        rpc.OpenChannel(pubkey=fiber_trio.key("hub"), funding_amount=200 * CKB)
    )
    seen: list[ChannelStateName] = []
    while ChannelStateName.CHANNEL_READY not in seen:
        for row in await fiber_trio.payer.call(rpc.ListChannels()):
            if row.channel_id not in known and row.state.name not in seen:
                seen.append(row.state.name)
    order = list(ChannelStateName)
    assert seen == sorted(seen, key=order.index)
    assert ChannelStateName.AWAITING_CHANNEL_READY in seen


async def test_a_changed_fee_is_charged(fiber_trio, wait_until) -> None:
    fiber_trio.embedded()
    rows = await fiber_trio.channels()
    update = rpc.UpdateChannel(channel_id=rows["hub_out"].channel_id, tlc_fee_ppm=3_000)
    await fiber_trio.hub.call(update)
    assert (await fiber_trio.channels())["hub_out"].tlc_fee_ppm == 3_000
    record, _ = await fiber_trio.invoice(1_000_000)
    dry = rpc.SendPayment(
        invoice=record.invoice_text, dry_run=True, max_fee_amount=10_000,
        max_fee_rate_per_thousand=1_000,
    )  # fmt: skip
    await wait_until(lambda: fiber_trio.payer.call(dry), lambda found: found.fee == 3_000)


async def test_a_disabled_channel_carries_nothing(fiber_trio, wait_until) -> None:
    fiber_trio.embedded()
    rows = await fiber_trio.channels()
    await fiber_trio.hub.call(
        rpc.UpdateChannel(channel_id=rows["hub_out"].channel_id, enabled=False)
    )
    record, _ = await fiber_trio.invoice()

    async def has_route() -> bool:
        try:
            await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text, dry_run=True))
        except NoRoute:
            return False
        return True

    await wait_until(has_route, lambda found: not found)
    assert not (await fiber_trio.channels())["hub_out"].is_ready


async def test_closing_by_agreement(fiber_trio, wait_until) -> None:
    world = fiber_trio.embedded()
    rows = await fiber_trio.idle_channels()
    wallet = world.network.balances()["consumer"]["wallet"]
    channel_id = rows["payer"].channel_id
    await fiber_trio.payer.call(rpc.ShutdownChannel(channel_id=channel_id))
    closed = await _closed(fiber_trio, wait_until, channel_id)
    assert closed.state.flags == {"COOPERATIVE"}
    assert closed.shutdown_tx_hash is not None
    assert await fiber_trio.payer.call(rpc.ListChannels()) == ()
    back = world.network.balances()["consumer"]["wallet"] - wallet
    assert rows["payer"].local_balance + RESERVE - CKB < back
    assert back < rows["payer"].local_balance + RESERVE


async def _closed(fiber_trio, wait_until, channel_id):
    call = rpc.ListChannels(include_closed=True)

    async def found():
        rows = await fiber_trio.payer.call(call)
        return next(row for row in rows if row.channel_id == channel_id)

    return await wait_until(found, lambda row: row.state.name is ChannelStateName.CLOSED)


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "cancelled"])
async def test_closing_waits_for_a_held_payment(
    fiber_trio, wait_until, refused, settled: bool
) -> None:
    fiber_trio.embedded()
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    channel_id = (await fiber_trio.channels())["payer"].channel_id
    await fiber_trio.payer.call(rpc.ShutdownChannel(channel_id=channel_id))

    async def row():
        rows = await fiber_trio.payer.call(rpc.ListChannels())
        return next(row for row in rows if row.channel_id == channel_id)

    shutting = await wait_until(row, lambda row: "AWAITING_PENDING_TLCS" in row.state.flags)
    assert shutting.state.name is ChannelStateName.SHUTTING_DOWN
    assert len(shutting.pending_tlcs) == 1
    other, _ = await fiber_trio.invoice()
    await refused(fiber_trio.payer.call(rpc.SendPayment(invoice=other.invoice_text)), NoRoute)
    if settled:
        await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
        await fiber_trio.until_payment(payment_hash)
    else:
        await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
        await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
    closed = await _closed(fiber_trio, wait_until, channel_id)
    assert closed.state.flags == {"COOPERATIVE"}
    assert closed.pending_tlcs == ()


async def test_closing_without_the_peer(fiber_trio, wait_until) -> None:
    fiber_trio.embedded()
    channel_id = (await fiber_trio.idle_channels())["payer"].channel_id
    await fiber_trio.payer.call(rpc.ShutdownChannel(channel_id=channel_id, force=True))
    closed = await _closed(fiber_trio, wait_until, channel_id)
    assert "UNCOOPERATIVE_LOCAL" in closed.state.flags
    at_hub = await fiber_trio.hub.call(rpc.ListChannels(include_closed=True))
    (seen,) = [row for row in at_hub if row.channel_id == channel_id]
    assert "UNCOOPERATIVE_REMOTE" in seen.state.flags


async def test_a_forced_close_does_not_take_back_a_settled_hold(fiber_trio, wait_until) -> None:
    """The payer closes by force while it is held; the preimage still pays the payee."""
    fiber_trio.embedded()
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    channel_id = (await fiber_trio.channels())["payer"].channel_id
    await fiber_trio.payer.call(rpc.ShutdownChannel(channel_id=channel_id, force=True))
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    paid = await fiber_trio.until_payment(payment_hash)
    assert paid.status is PaymentStatus.SUCCESS


async def test_a_channel_that_never_became_ready_can_be_given_up(fiber_trio, wait_until) -> None:
    fiber_trio.embedded()
    known = {row.channel_id for row in await fiber_trio.payer.call(rpc.ListChannels())}
    temporary = await fiber_trio.payer.call(
        rpc.OpenChannel(pubkey=fiber_trio.key("hub"), funding_amount=200 * CKB)
    )
    await fiber_trio.payer.call(rpc.AbandonChannel(channel_id=temporary))
    rows = await fiber_trio.payer.call(rpc.ListChannels())
    assert {row.channel_id for row in rows} == known
