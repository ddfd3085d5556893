"""Channels as fnn shows them: one's own, and public ones as gossip announces them.

Typed after fiber-json-types 0.9.1 and tolerant of 0.8, as `infern.core.fiber.types`.
"""

from dataclasses import dataclass
from typing import NewType, Self

from infern.core.ckb.out_point import OutPoint
from infern.core.ckb.script import Script
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.fields import Fields
from infern.core.fiber.wire_enum import WireEnum
from infern.core.ids import PaymentHash, Pubkey

ChannelId = NewType("ChannelId", bytes)
"""32 bytes; a channel's final id."""
TemporaryChannelId = NewType("TemporaryChannelId", bytes)
"""32 bytes; names a channel only until both sides agreed on its funding."""


class ChannelStateName(WireEnum):
    """Where a channel is in its life."""

    NEGOTIATING_FUNDING = "NegotiatingFunding"
    COLLABORATING_FUNDING_TX = "CollaboratingFundingTx"
    SIGNING_COMMITMENT = "SigningCommitment"
    AWAITING_TX_SIGNATURES = "AwaitingTxSignatures"
    AWAITING_CHANNEL_READY = "AwaitingChannelReady"
    CHANNEL_READY = "ChannelReady"
    SHUTTING_DOWN = "ShuttingDown"
    CLOSED = "Closed"
    STALE = "Stale"
    UNKNOWN = "Unknown"


class TlcDirection(WireEnum):
    """Who offered a pending TLC: the peer (`INBOUND`) or this node (`OUTBOUND`)."""

    INBOUND = "Inbound"
    OUTBOUND = "Outbound"
    UNKNOWN = "Unknown"


class TlcStage(WireEnum):
    """How far a pending TLC has come on its way in or out of the commitment."""

    LOCAL_ANNOUNCED = "LocalAnnounced"
    REMOTE_ANNOUNCED = "RemoteAnnounced"
    ANNOUNCE_WAIT_PREV_ACK = "AnnounceWaitPrevAck"
    ANNOUNCE_WAIT_ACK = "AnnounceWaitAck"
    COMMITTED = "Committed"
    LOCAL_REMOVED = "LocalRemoved"
    REMOTE_REMOVED = "RemoteRemoved"
    REMOVE_WAIT_PREV_ACK = "RemoveWaitPrevAck"
    REMOVE_WAIT_ACK = "RemoveWaitAck"
    REMOVE_ACK_CONFIRMED = "RemoveAckConfirmed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTlc:
    """A TLC that is in a channel's commitment or on its way in or out.

    Args:
        expiry_ms: Unix time; an offered TLC that comes near it makes the node force-close.
        forwarding_channel_id: The other channel, when this node forwards the payment.
    """

    id: int
    amount: int
    payment_hash: PaymentHash
    expiry_ms: int
    forwarding_channel_id: ChannelId | None
    forwarding_tlc_id: int | None
    direction: TlcDirection
    stage: TlcStage

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `pending_tlcs`."""
        row = Fields(value, "a pending TLC")
        status = Fields(row.raw("status"), "a TLC status")
        directions = status.names()
        if len(directions) != 1:
            raise RemoteProtocolError("a TLC status has exactly one direction")
        forwarding = row.opt_hash32("forwarding_channel_id")
        return cls(
            id=row.u64("id"),
            amount=row.u128("amount"),
            payment_hash=row.payment_hash(),
            expiry_ms=row.u64("expiry"),
            forwarding_channel_id=None if forwarding is None else ChannelId(forwarding),
            forwarding_tlc_id=row.opt_u64("forwarding_tlc_id"),
            direction=TlcDirection.read(directions[0]),
            stage=TlcStage.read(status.text(directions[0])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """A channel's state.

    Args:
        name: What rules look at.
        text: The name as the node wrote it, for people.
        flags: Screaming-snake names. fnn also lists a composite flag as soon as one of its bits
            is set, so test for single flags, never for the exact set.
    """

    name: ChannelStateName
    text: str
    flags: frozenset[str]

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read `state` of a channel."""
        row = Fields(value, "a channel state")
        text = row.text("state_name")
        flags = (row.opt_text("state_flags") or "").split("|")
        return cls(
            name=ChannelStateName.read(text),
            text=text,
            flags=frozenset(flag.strip() for flag in flags if flag.strip()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One channel as its own node sees it.

    Args:
        peer: The other side.
        udt_type_script: The asset; None is CKB.
        local_balance: Ours, with TLCs we offered still in it; see `spendable`.
        received_tlc_balance: Locked towards us, in neither balance yet ours.
        tlc_fee_ppm: What this side charges to forward out of the channel.
    """

    channel_id: ChannelId
    is_public: bool
    is_acceptor: bool
    is_one_way: bool
    outpoint: OutPoint | None
    peer: Pubkey
    udt_type_script: Script | None
    state: ChannelState
    local_balance: int
    remote_balance: int
    offered_tlc_balance: int
    received_tlc_balance: int
    pending_tlcs: tuple[PendingTlc, ...]
    latest_commitment_tx_hash: bytes | None
    created_at_ms: int
    enabled: bool
    tlc_expiry_delta_ms: int
    tlc_fee_ppm: int
    shutdown_tx_hash: bytes | None
    failure_detail: str | None

    @property
    def is_ready(self) -> bool:
        """True when it can carry payments; the peer may still be away (see `ListPeers`)."""
        return self.state.name is ChannelStateName.CHANNEL_READY and self.enabled

    @property
    def spendable(self) -> int:
        """What can still be offered to the peer: local balance without pending offers."""
        return max(0, self.local_balance - self.offered_tlc_balance)

    @property
    def receivable(self) -> int:
        """What the peer can still offer to us."""
        return max(0, self.remote_balance - self.received_tlc_balance)

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `list_channels`."""
        row = Fields(value, "a channel")
        return cls(
            channel_id=ChannelId(row.hash32("channel_id")),
            is_public=row.flag("is_public"),
            is_acceptor=row.flag("is_acceptor", absent=False),
            is_one_way=row.flag("is_one_way", absent=False),
            outpoint=row.opt_outpoint("channel_outpoint"),
            peer=row.pubkey(),
            udt_type_script=row.opt_script("funding_udt_type_script"),
            state=ChannelState.from_json(row.raw("state")),
            local_balance=row.u128("local_balance"),
            remote_balance=row.u128("remote_balance"),
            offered_tlc_balance=row.u128("offered_tlc_balance"),
            received_tlc_balance=row.u128("received_tlc_balance"),
            pending_tlcs=tuple(PendingTlc.from_json(item) for item in row.items("pending_tlcs")),
            latest_commitment_tx_hash=row.opt_hash32("latest_commitment_transaction_hash"),
            created_at_ms=row.u64("created_at"),
            enabled=row.flag("enabled"),
            tlc_expiry_delta_ms=row.u64("tlc_expiry_delta"),
            tlc_fee_ppm=row.u128("tlc_fee_proportional_millionths"),
            shutdown_tx_hash=row.opt_hash32("shutdown_transaction_hash"),
            failure_detail=row.opt_text("failure_detail"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelUpdate:
    """One direction of a channel as gossip announces it.

    Args:
        outbound_liquidity: Usually None; gossip carries none.
        fee_ppm: Millionths of the forwarded amount.
    """

    timestamp_ms: int
    enabled: bool
    outbound_liquidity: int | None
    tlc_expiry_delta_ms: int
    tlc_min_value: int
    fee_ppm: int

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read `update_info_of_node1` or `…2`."""
        row = Fields(value, "a channel update")
        return cls(
            timestamp_ms=row.u64("timestamp"),
            enabled=row.flag("enabled"),
            outbound_liquidity=row.opt_u128("outbound_liquidity"),
            tlc_expiry_delta_ms=row.u64("tlc_expiry_delta"),
            tlc_min_value=row.u128("tlc_minimum_value"),
            fee_ppm=row.u64("fee_rate"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChannel:
    """A public channel.

    Args:
        capacity: Both balances together, without the reserves.
        created_at_ms: Time of the block that holds the funding transaction.
    """

    outpoint: OutPoint
    node1: Pubkey
    node2: Pubkey
    created_at_ms: int
    update_of_node1: ChannelUpdate | None
    update_of_node2: ChannelUpdate | None
    capacity: int
    chain_hash: bytes
    udt_type_script: Script | None

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `graph_channels`."""
        row = Fields(value, "a graph channel")
        updates = []
        for name in ("update_info_of_node1", "update_info_of_node2"):
            raw = row.raw(name)
            updates.append(None if raw is None else ChannelUpdate.from_json(raw))
        return cls(
            outpoint=row.outpoint("channel_outpoint"),
            node1=row.pubkey("node1"),
            node2=row.pubkey("node2"),
            created_at_ms=row.u64("created_timestamp"),
            update_of_node1=updates[0],
            update_of_node2=updates[1],
            capacity=row.u128("capacity"),
            chain_hash=row.hash32("chain_hash"),
            udt_type_script=row.opt_script("udt_type_script"),
        )
