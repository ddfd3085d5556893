"""The JSON that nodes show: field names and order as fnn 0.8.0 was recorded to answer."""

from infern.core.ckb.script import Script
from infern.core.errors import JsonValue
from infern.devnet.fiber.channel import Channel, Side, Tlc
from infern.devnet.fiber.identity import CHAIN_HASH
from infern.devnet.fiber.node import NODE_FEATURES, Node, StoredInvoice, hex0x
from infern.devnet.fiber.routing import visible_channels
from infern.devnet.fiber.session import PaymentStatus, Session
from infern.devnet.fiber.settings import UdtInfo, Version

Json = dict[str, JsonValue]


def script_view(script: Script | None) -> JsonValue:
    """CKB JSON of a script, or null."""
    return None if script is None else script.to_json()


def udt_view(info: UdtInfo) -> Json:
    """One entry of `udt_cfg_infos`. There are no cells here, so `cell_deps` is empty."""
    amount = info.auto_accept_amount
    script: Json = {
        "code_hash": hex0x(info.code_hash),
        "hash_type": info.hash_type.json_name,
        "args": info.args_pattern,
    }
    return {
        "name": info.name,
        "script": script,
        "auto_accept_amount": None if amount is None else hex(amount),
        "cell_deps": [],
    }


def node_info_view(node: Node) -> Json:
    """Result of `node_info`."""
    settings, network = node.settings, node.network
    states = [
        (channel.side_of(node).state, channel.accepted or channel.sides[0].node is node)
        for channel in network.channels_of(node)
    ]
    live = [state for state, known in states if known and not state.is_closed]
    udts: list[JsonValue] = [udt_view(info) for info in settings.udt_whitelist]
    return {
        "version": settings.version.value,
        "commit_hash": "embedded",
        "pubkey": node.pubkey.hex(),
        "features": list(NODE_FEATURES),
        "node_name": settings.node_name,
        "addresses": list(node.addresses),
        "chain_hash": hex0x(CHAIN_HASH),
        "open_channel_auto_accept_min_ckb_funding_amount": hex(settings.auto_accept_min),
        "auto_accept_channel_ckb_funding_amount": hex(settings.auto_accept_contribution),
        "default_funding_lock_script": script_view(node.lock_script),
        "tlc_expiry_delta": hex(settings.tlc_expiry_delta_ms),
        "tlc_min_value": hex(settings.tlc_min_value),
        "tlc_fee_proportional_millionths": hex(settings.fee_ppm),
        "channel_count": hex(len(live)),
        "pending_channel_count": hex(sum(state.is_pending for state in live)),
        "peers_count": hex(len(network.links.of(node))),
        "udt_cfg_infos": udts,
    }


def tlc_view(tlc: Tlc, node: Node) -> Json:
    """One of `pending_tlcs`."""
    other = tlc.incoming or tlc.outgoing
    return {
        "id": hex(tlc.tlc_id),
        "amount": hex(tlc.amount),
        "payment_hash": hex0x(tlc.payment_hash),
        "expiry": hex(tlc.expiry_ms),
        "forwarding_channel_id": hex0x(other.channel.channel_id)
        if other and _forwards(tlc, node)
        else None,
        "forwarding_tlc_id": hex(other.tlc_id) if other and _forwards(tlc, node) else None,
        "status": dict(tlc.phase.status(outbound=tlc.sender is node)),
    }


def _forwards(tlc: Tlc, node: Node) -> bool:
    """Whether `node` is the one that passes this TLC on; its peer on the channel is not."""
    return (tlc.incoming is not None and tlc.sender is node) or (
        tlc.outgoing is not None and tlc.receiver is node
    )


def channel_view(channel: Channel, node: Node) -> Json:
    """One row of `list_channels` as `node` sees it."""
    index = channel.index_of(node)
    mine, theirs = channel.sides[index], channel.sides[1 - index]
    shown = channel.channel_id if channel.accepted else channel.temporary_id
    tlcs: list[JsonValue] = [tlc_view(tlc, node) for tlc in channel.tlcs.values()]
    commitment = channel.commitment_hash(index)
    closing = channel.shutdown_tx_hash
    return {
        "channel_id": hex0x(shown),
        "is_public": channel.public,
        "is_acceptor": index == 1,
        "is_one_way": channel.one_way,
        "channel_outpoint": None if channel.outpoint is None else hex0x(channel.outpoint),
        "pubkey": theirs.node.pubkey.hex(),
        "funding_udt_type_script": script_view(channel.udt),
        "state": dict(mine.state.to_json()),
        "local_balance": hex(mine.balance),
        "offered_tlc_balance": hex(channel.offered_balance(index)),
        "remote_balance": hex(theirs.balance),
        "received_tlc_balance": hex(channel.offered_balance(1 - index)),
        "pending_tlcs": tlcs,
        "latest_commitment_transaction_hash": None if commitment is None else hex0x(commitment),
        "created_at": hex(mine.created_at_ms),
        "enabled": mine.enabled,
        "tlc_expiry_delta": hex(mine.tlc_expiry_delta_ms),
        "tlc_fee_proportional_millionths": hex(mine.fee_ppm),
        "shutdown_transaction_hash": None if closing is None else hex0x(closing),
        "failure_detail": mine.failure_detail,
    }


def payment_view(node: Node, session: Session) -> Json:
    """Result of `send_payment` and `get_payment`, and each of `list_payments`."""
    records = session.request.custom_records
    view: Json = {"payment_hash": hex0x(session.request.payment_hash)}
    if node.settings.version is Version.V0_9_1:
        known = session.preimage if session.status is PaymentStatus.SUCCESS else None
        view["payment_preimage"] = None if known is None else hex0x(known)
    view |= {
        "status": session.status.value,
        "created_at": hex(session.created_at_ms),
        "last_updated_at": hex(session.last_updated_at_ms),
        "failed_error": session.failed_error,
        "fee": hex(session.fee),
        "custom_records": None
        if records is None
        else {hex(key): hex0x(value) for key, value in records.items()},
    }
    return view


def invoice_view(node: Node, invoice: StoredInvoice) -> Json:
    """Result of `get_invoice` and `cancel_invoice`."""
    return {
        "invoice_address": invoice.text,
        "invoice": invoice.view,
        "status": invoice.status_at(node.network.clock.now_ms).value,
    }


def graph_node_view(node: Node) -> tuple[bytes, Json]:
    """A node in the graph and its cursor."""
    stamp = node.started_at_ms
    udts: list[JsonValue] = [udt_view(info) for info in node.settings.udt_whitelist]
    cursor = stamp.to_bytes(8, "big") + b"\x02" + node.pubkey + bytes(3)
    return cursor, {
        "node_name": node.settings.node_name or "",
        "version": node.settings.version.value,
        "addresses": list(node.addresses),
        "features": list(NODE_FEATURES),
        "pubkey": node.pubkey.hex(),
        "timestamp": hex(stamp),
        "chain_hash": hex0x(CHAIN_HASH),
        "auto_accept_min_ckb_funding_amount": hex(node.settings.auto_accept_min),
        "udt_cfg_infos": udts,
    }


def graph_channel_views(node: Node) -> list[tuple[bytes, Json]]:
    """Announced channels in a node's graph with their cursors, in cursor order."""
    rows = []
    for channel, linked in visible_channels(node.network, node):
        if channel.announced_at_ms is None or channel.outpoint is None:
            continue
        sides = sorted(channel.sides, key=lambda side: side.node.pubkey)
        updates = [_update_view(side, enabled=linked and side.enabled) for side in sides]
        if not any(update["enabled"] for update in updates):
            continue
        cursor = channel.funded_at_ms.to_bytes(8, "big") + b"\x00" + channel.outpoint
        view: Json = {
            "channel_outpoint": hex0x(channel.outpoint),
            "node1": sides[0].node.pubkey.hex(),
            "node2": sides[1].node.pubkey.hex(),
            "created_timestamp": hex(channel.funded_at_ms),
            "update_info_of_node1": updates[0],
            "update_info_of_node2": updates[1],
            "capacity": hex(channel.capacity),
            "chain_hash": hex0x(CHAIN_HASH),
            "udt_type_script": script_view(channel.udt),
        }
        rows.append((cursor, view))
    return sorted(rows, key=lambda row: row[0])


def _update_view(side: Side, *, enabled: bool) -> Json:
    return {
        "timestamp": hex(side.updated_at_ms),
        "enabled": enabled,
        "outbound_liquidity": None,
        "tlc_expiry_delta": hex(side.tlc_expiry_delta_ms),
        "tlc_minimum_value": hex(side.tlc_min_value),
        "fee_rate": hex(side.fee_ppm),
    }
