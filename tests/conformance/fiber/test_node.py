"""Node info, peers, graph, and what a node says to calls it does not understand."""

import secrets

import pytest

from infern.core.errors import InfernError, LocalProtocolError, Money, NoRoute
from infern.core.fiber import rpc
from infern.core.fiber.errors import FiberMethodUnknown, FiberUnauthorized

pytestmark = pytest.mark.timeout(120)


async def test_nodes_tell_who_they_are(fiber_trio) -> None:
    for info in fiber_trio.infos.values():
        assert info.release >= (0, 8, 0)
        assert len(info.chain_hash) == 32
        assert "GOSSIP_QUERIES_REQUIRED" in info.features
        assert info.tlc_expiry_delta_ms >= 9_600_000
        assert info.channel_count >= 1
        assert info.peer_count >= 1
        assert info.addresses
    assert len({info.pubkey for info in fiber_trio.infos.values()}) == 3
    assert len({info.chain_hash for info in fiber_trio.infos.values()}) == 1


async def test_neighbours_are_peers(fiber_trio) -> None:
    at_hub = {peer.pubkey for peer in await fiber_trio.hub.call(rpc.ListPeers())}
    at_payer = {peer.pubkey for peer in await fiber_trio.payer.call(rpc.ListPeers())}
    assert {fiber_trio.key("payer"), fiber_trio.key("payee")} <= at_hub
    assert fiber_trio.key("hub") in at_payer


async def test_connecting_to_a_peer_again_is_harmless(fiber_trio) -> None:
    address = fiber_trio.infos["hub"].addresses[0]
    await fiber_trio.payer.call(rpc.ConnectPeer(address=address))
    peers = [peer.pubkey for peer in await fiber_trio.payer.call(rpc.ListPeers())]
    assert peers.count(fiber_trio.key("hub")) == 1


async def test_connecting_needs_somebody_to_connect_to(fiber_trio, refused) -> None:
    await refused(fiber_trio.raw(fiber_trio.payer, "connect_peer", {}), LocalProtocolError)
    error = await refused(
        fiber_trio.raw(fiber_trio.payer, "connect_peer", {"address": ""}), LocalProtocolError
    )
    assert "address must not be empty" in error.message


async def test_a_peer_can_be_hung_up_on_and_dialled_again(fiber_trio, wait_until) -> None:
    fiber_trio.embedded()
    payer, hub = fiber_trio.payer, fiber_trio.key("hub")
    await payer.call(rpc.DisconnectPeer(pubkey=hub))
    await payer.call(rpc.ConnectPeer(pubkey=hub))
    await wait_until(
        lambda: payer.call(rpc.ListPeers()), lambda peers: hub in {peer.pubkey for peer in peers}
    )


async def test_the_graph_shows_both_public_channels(fiber_trio, wait_until) -> None:
    rows = await fiber_trio.channels()
    wanted = {rows["payer"].outpoint: rows["payer"], rows["hub_out"].outpoint: rows["hub_out"]}
    page = await wait_until(
        lambda: fiber_trio.payer.call(rpc.GraphChannels()),
        lambda page: wanted.keys() <= {channel.outpoint for channel in page.channels},
    )
    for channel in page.channels:
        own = wanted.get(channel.outpoint)
        if own is None:
            continue
        assert channel.capacity == own.local_balance + own.remote_balance
        assert channel.chain_hash == fiber_trio.infos["payer"].chain_hash
        assert channel.udt_type_script is None
        updates = [channel.update_of_node1, channel.update_of_node2]
        assert any(update is not None and update.enabled for update in updates)


async def test_the_graph_shows_announced_nodes(fiber_trio, wait_until) -> None:
    wanted = {info.pubkey for info in fiber_trio.infos.values()}
    page = await wait_until(
        lambda: fiber_trio.payer.call(rpc.GraphNodes()),
        lambda page: wanted <= {node.pubkey for node in page.nodes},
    )
    versions = {node.pubkey: node.version for node in page.nodes}
    for info in fiber_trio.infos.values():
        assert versions[info.pubkey] == info.version


async def test_the_graph_comes_in_pages(fiber_trio, wait_until) -> None:
    whole = await wait_until(
        lambda: fiber_trio.payer.call(rpc.GraphChannels()), lambda page: len(page.channels) >= 2
    )
    seen = []
    after = None
    for _ in range(len(whole.channels) + 1):
        page = await fiber_trio.payer.call(rpc.GraphChannels(limit=1, after=after))
        seen += page.channels
        after = page.last_cursor
        if len(page.channels) < 1:
            break
    assert [channel.outpoint for channel in seen] == [c.outpoint for c in whole.channels]


async def test_a_bad_cursor_is_our_fault(fiber_trio, refused) -> None:
    error = await refused(
        fiber_trio.payer.call(rpc.GraphChannels(after=b"\x01")), LocalProtocolError
    )
    assert error.money is Money.UNMOVED


async def test_a_method_nobody_has(fiber_trio) -> None:
    old = fiber_trio.infos["payer"].release < (0, 8, 1)
    with pytest.raises(FiberUnauthorized if old else FiberMethodUnknown) as caught:
        await fiber_trio.raw(fiber_trio.payer, "no_such_method", {})
    assert caught.value.money is Money.UNMOVED


@pytest.mark.parametrize(
    ("method", "members"),
    [
        ("get_payment", {}),
        ("get_payment", {"payment_hash": "0x11"}),
        ("new_invoice", {"amount": "1000", "currency": "Fibd"}),
        ("new_invoice", {"amount": "0x01", "currency": "Fibd"}),
        ("new_invoice", {"amount": 1000, "currency": "Fibd"}),
        ("new_invoice", {"amount": "0x1", "currency": "Fibx"}),
        ("list_channels", {"pubkey": "0x00"}),
        ("send_payment", {"target_pubkey": 5}),
    ],
)
async def test_parameters_of_another_shape_are_refused(fiber_trio, refused, method, members):
    error = await refused(fiber_trio.raw(fiber_trio.payer, method, members), LocalProtocolError)
    assert "Invalid params" in error.message


async def test_unknown_members_of_parameters_are_ignored(fiber_trio) -> None:
    await fiber_trio.raw(fiber_trio.payer, "list_channels", {"final_cltv": 5, "x": None})


async def test_a_route_through_named_nodes(fiber_trio) -> None:
    hops = tuple(rpc.HopRequirement(pubkey=fiber_trio.key(name)) for name in ("hub", "payee"))
    route = await fiber_trio.payer.call(rpc.BuildRouter(hops=hops, amount=1_000_000))
    assert [hop.target for hop in route] == [fiber_trio.key("hub"), fiber_trio.key("payee")]
    assert [hop.amount_received for hop in route] == [1_001_000, 1_000_000]
    rows = await fiber_trio.channels()
    assert [hop.outpoint for hop in route] == [rows["payer"].outpoint, rows["hub_out"].outpoint]


async def test_a_route_that_does_not_exist(fiber_trio, refused) -> None:
    stranger = rpc.HopRequirement(pubkey=fiber_trio.key("payee"))
    error = await refused(fiber_trio.payer.call(rpc.BuildRouter(hops=(stranger,))), NoRoute)
    assert error.money is Money.UNMOVED


async def test_an_invoice_nobody_has(fiber_trio, refused) -> None:
    call = rpc.GetInvoice(payment_hash=secrets.token_bytes(32))
    error = await refused(fiber_trio.payee.call(call), InfernError)
    assert error.code == "not_found"
