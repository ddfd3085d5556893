"""Methods that open, show, change and close channels."""

from typing import Final

from infern.core.ckb.script import Script
from infern.core.errors import JsonValue
from infern.devnet.fiber.channel import Channel
from infern.devnet.fiber.errors import NodeError, invalid_parameter, invalid_state
from infern.devnet.fiber.node import Node, hex0x
from infern.devnet.fiber.opening import SideTerms
from infern.devnet.fiber.params import (
    BOOL,
    HASH256,
    PUBKEY,
    SCRIPT,
    U64,
    U128,
    Field,
    Params,
)
from infern.devnet.fiber.settings import MIN_TLC_EXPIRY_DELTA_MS
from infern.devnet.fiber.table import Method
from infern.devnet.fiber.views import Json, channel_view


def _terms(params: Params) -> SideTerms:
    return SideTerms(
        funding_amount=params.need("funding_amount", int),
        shutdown_script=params.maybe("shutdown_script", Script),
        tlc_expiry_delta_ms=params.maybe("tlc_expiry_delta", int),
        tlc_min_value=params.maybe("tlc_min_value", int),
        fee_ppm=params.maybe("tlc_fee_proportional_millionths", int),
        max_tlc_value=params.maybe("max_tlc_value_in_flight", int),
        max_tlc_number=params.maybe("max_tlc_number_in_flight", int),
    )


def _open_channel(node: Node, params: Params) -> JsonValue:
    pubkey = params.need("pubkey", bytes)
    peer = node.network.node_by_pubkey(pubkey)
    if peer is None:
        raise invalid_parameter(
            f"Peer Pubkey({pubkey.hex()})'s feature not found, waiting for peer to send "
            "Init message"
        )
    channel = node.network.opening.open(
        node,
        peer,
        _terms(params),
        public=params.maybe("public", bool) is not False,
        one_way=params.flag("one_way"),
        udt=params.maybe("funding_udt_type_script", Script),
    )
    node.network.opening.begin(channel)
    return {"temporary_channel_id": hex0x(channel.temporary_id)}


def _accept_channel(node: Node, params: Params) -> JsonValue:
    temporary_id = params.need("temporary_channel_id", bytes)
    for channel in node.network.opening.waiting_for(node):
        if channel.temporary_id == temporary_id:
            node.network.opening.accept(channel, _terms(params))
            return {"channel_id": hex0x(channel.channel_id)}
    raise invalid_parameter(f"No channel with temp id Hash256({hex0x(temporary_id)}) found")


def _find(node: Node, params: Params) -> Channel:
    channel_id = params.need("channel_id", bytes)
    for channel in node.network.channels_of(node):
        if channel_id in (channel.channel_id, channel.temporary_id):
            return channel
    raise NodeError(f"Channel not found error: Hash256({hex0x(channel_id)})")


def _list_channels(node: Node, params: Params) -> JsonValue:
    only_pending, closed = params.flag("only_pending"), params.flag("include_closed")
    if only_pending and closed:
        raise NodeError("only_pending and include_closed are mutually exclusive")
    pubkey = params.maybe("pubkey", bytes)
    rows: list[tuple[int, Json]] = []
    for channel in node.network.channels_of(node):
        side = channel.side_of(node)
        if pubkey not in (None, channel.peer_of(node).pubkey):
            continue
        if only_pending:
            shown = side.state.is_pending
        else:
            # A node stores a channel when the peer's first answer comes: not listed before.
            shown = channel.accepted and (closed or not side.state.is_closed)
        if shown:
            rows.append((side.created_at_ms, channel_view(channel, node)))
    rows.sort(key=lambda row: row[0], reverse=True)
    channels: list[JsonValue] = [view for _, view in rows]
    return {"channels": channels}


def _shutdown_channel(node: Node, params: Params) -> JsonValue:
    script, rate = params.maybe("close_script", Script), params.maybe("fee_rate", int)
    if params.flag("force") and (script is not None or rate is not None):
        raise NodeError("close_script and fee_rate should not be set when force is true")
    channel = _find(node, params)
    closing = node.network.closing
    if params.flag("force"):
        closing.force_close(channel, channel.index_of(node))
    else:
        closing.shutdown(channel, node, script, rate)
    return None


def _update_channel(node: Node, params: Params) -> JsonValue:
    channel = _find(node, params)
    if not channel.public:
        raise invalid_state("Only public channel can be updated")
    side = channel.side_of(node)
    delta = params.maybe("tlc_expiry_delta", int)
    if delta is not None and delta < MIN_TLC_EXPIRY_DELTA_MS:
        raise invalid_parameter(
            f"TLC expiry delta is too small, expect larger than {MIN_TLC_EXPIRY_DELTA_MS}, "
            f"got {delta}"
        )
    enabled = params.maybe("enabled", bool)
    minimum = params.maybe("tlc_minimum_value", int)
    fee = params.maybe("tlc_fee_proportional_millionths", int)
    side.enabled = side.enabled if enabled is None else enabled
    side.tlc_expiry_delta_ms = side.tlc_expiry_delta_ms if delta is None else delta
    side.tlc_min_value = side.tlc_min_value if minimum is None else minimum
    side.fee_ppm = side.fee_ppm if fee is None else fee
    side.updated_at_ms = node.network.clock.now_ms
    return None


def _abandon_channel(node: Node, params: Params) -> JsonValue:
    channel_id = params.need("channel_id", bytes)
    for channel in node.network.channels_of(node):
        if channel_id in (channel.channel_id, channel.temporary_id):
            node.network.opening.abandon(channel, node)
            return None
    raise invalid_parameter(f"Channel {hex0x(channel_id)} not found")


_CHANNEL_ID: Final = Field("channel_id", HASH256, required=True)
_FUNDING: Final = Field("funding_amount", U128, required=True)

METHODS: Final = (
    Method(
        "open_channel",
        (
            Field("pubkey", PUBKEY, required=True),
            _FUNDING,
            Field("public", BOOL, default=True),
            Field("one_way", BOOL),
            Field("funding_udt_type_script", SCRIPT),
            Field("shutdown_script", SCRIPT),
            Field("commitment_delay_epoch", U64),
            Field("commitment_fee_rate", U64),
            Field("funding_fee_rate", U64),
            Field("tlc_expiry_delta", U64),
            Field("tlc_min_value", U128),
            Field("tlc_fee_proportional_millionths", U128),
            Field("max_tlc_value_in_flight", U128),
            Field("max_tlc_number_in_flight", U64),
        ),
        _open_channel,
        'write("channels")',
    ),
    Method(
        "accept_channel",
        (
            Field("temporary_channel_id", HASH256, required=True),
            _FUNDING,
            Field("shutdown_script", SCRIPT),
            Field("max_tlc_value_in_flight", U128),
            Field("max_tlc_number_in_flight", U64),
            Field("tlc_min_value", U128),
            Field("tlc_fee_proportional_millionths", U128),
            Field("tlc_expiry_delta", U64),
        ),
        _accept_channel,
        'write("channels")',
    ),
    Method(
        "list_channels",
        (Field("pubkey", PUBKEY), Field("include_closed", BOOL), Field("only_pending", BOOL)),
        _list_channels,
        'read("channels")',
    ),
    Method(
        "shutdown_channel",
        (
            _CHANNEL_ID,
            Field("close_script", SCRIPT),
            Field("fee_rate", U64),
            Field("force", BOOL),
        ),
        _shutdown_channel,
        'write("channels")',
    ),
    Method(
        "update_channel",
        (
            _CHANNEL_ID,
            Field("enabled", BOOL, default=True),
            Field("tlc_expiry_delta", U64),
            Field("tlc_minimum_value", U128),
            Field("tlc_fee_proportional_millionths", U128),
        ),
        _update_channel,
        'write("channels")',
    ),
    Method("abandon_channel", (_CHANNEL_ID,), _abandon_channel, 'write("channels")'),
)
