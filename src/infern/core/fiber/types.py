"""What fnn answers, as values: nodes, peers, channels, invoices, payments and store changes.

Typed after fiber-json-types 0.9.1 and tolerant of 0.8: members that 0.8 does not send are
optional, unknown members are ignored, and an enum string nobody knew when this was written
becomes `UNKNOWN`, which no rule treats as good news.

Amounts are base units of the channel's asset (shannon for CKB).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from infern.core.ckb.out_point import OutPoint
from infern.core.ckb.script import Script
from infern.core.errors import JsonValue
from infern.core.fiber.channel_types import (
    Channel,
    ChannelId,
    ChannelState,
    ChannelStateName,
    ChannelUpdate,
    GraphChannel,
    PendingTlc,
    TemporaryChannelId,
    TlcDirection,
    TlcStage,
)
from infern.core.fiber.fields import Fields
from infern.core.fiber.invoice import Invoice
from infern.core.fiber.wire_enum import WireEnum
from infern.core.ids import PaymentHash, Preimage, Pubkey

__all__ = [
    "Channel",
    "ChannelId",
    "ChannelState",
    "ChannelStateName",
    "ChannelUpdate",
    "GraphChannel",
    "GraphNode",
    "InvoiceRecord",
    "InvoiceStatus",
    "NodeInfo",
    "PaymentRecord",
    "PaymentStatus",
    "Peer",
    "PendingTlc",
    "TemporaryChannelId",
    "TlcDirection",
    "TlcStage",
    "UdtConfig",
    "UdtDep",
]


class InvoiceStatus(WireEnum):
    """State of an invoice at its own node."""

    OPEN = "Open"
    """Nothing has arrived."""
    RECEIVED = "Received"
    """The payer's money is locked towards us. It is not ours before `PAID`."""
    PAID = "Paid"
    CANCELLED = "Cancelled"
    EXPIRED = "Expired"
    """Past its expiry with nothing received."""
    UNKNOWN = "Unknown"
    """A status this version does not know."""


class PaymentStatus(WireEnum):
    """State of a payment at the payer's node."""

    CREATED = "Created"
    INFLIGHT = "Inflight"
    SUCCESS = "Success"
    FAILED = "Failed"
    UNKNOWN = "Unknown"
    """A status this version does not know: neither success nor failure."""

    @property
    def is_final(self) -> bool:
        """True when the money has moved for good or is back for good."""
        return self in {PaymentStatus.SUCCESS, PaymentStatus.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class UdtDep:
    """A cell dependency of a UDT: an out point with its dep type, or a type id script."""

    out_point: OutPoint | None
    dep_type: str | None
    type_id: Script | None

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `cell_deps`."""
        row = Fields(value, "a UDT cell dep")
        type_id = row.opt_script("type_id")
        if row.raw("cell_dep") is None:
            return cls(out_point=None, dep_type=None, type_id=type_id)
        dep = Fields(row.raw("cell_dep"), "a cell dep")
        return cls(
            out_point=OutPoint.from_json(dep.raw("out_point")),
            dep_type=dep.text("dep_type"),
            type_id=type_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UdtConfig:
    """A UDT a node accepts channels in.

    Args:
        args_pattern: A regular expression over the script's args, not the args themselves.
        auto_accept_amount: Smallest funding, in UDT base units, accepted unasked.
    """

    name: str
    code_hash: bytes
    hash_type: str
    args_pattern: str
    auto_accept_amount: int | None
    cell_deps: tuple[UdtDep, ...]

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `udt_cfg_infos`."""
        row = Fields(value, "a UDT configuration")
        script = Fields(row.raw("script"), "a UDT script pattern")
        return cls(
            name=row.text("name"),
            code_hash=script.hash32("code_hash"),
            hash_type=script.text("hash_type"),
            args_pattern=script.text("args"),
            auto_accept_amount=row.opt_u128("auto_accept_amount"),
            cell_deps=tuple(UdtDep.from_json(item) for item in row.items("cell_deps")),
        )


def _udt_configs(row: Fields) -> tuple[UdtConfig, ...]:
    return tuple(UdtConfig.from_json(item) for item in row.items("udt_cfg_infos"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Who a node is and how it is set up.

    Args:
        auto_accept_min_funding_shannon: Smallest CKB funding of a peer it accepts unasked.
        auto_accept_funding_shannon: What it adds itself when it accepts unasked; 0 means never.
        tlc_fee_ppm: Forwarding fee, millionths of the amount.
    """

    version: str
    commit_hash: str
    pubkey: Pubkey
    features: tuple[str, ...]
    node_name: str | None
    addresses: tuple[str, ...]
    chain_hash: bytes
    auto_accept_min_funding_shannon: int
    auto_accept_funding_shannon: int
    default_funding_lock_script: Script
    tlc_expiry_delta_ms: int
    tlc_min_value: int
    tlc_fee_ppm: int
    channel_count: int
    pending_channel_count: int
    peer_count: int
    udt_configs: tuple[UdtConfig, ...]

    @property
    def release(self) -> tuple[int, ...]:
        """Version numbers for comparison, e.g. `(0, 8, 0)`; a suffix like `-rc1` is dropped."""
        numbers = []
        for part in self.version.split("-", 1)[0].split(".")[:3]:
            if not (part.isascii() and part.isdigit() and len(part) <= 6):
                break
            numbers.append(int(part))
        return tuple(numbers)

    @property
    def reveals_preimage(self) -> bool:
        """True when `get_payment` shows the payer the preimage (0.9 and later)."""
        return self.release >= (0, 9)

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read the result of `node_info`."""
        row = Fields(value, "node info")
        return cls(
            version=row.text("version"),
            commit_hash=row.text("commit_hash"),
            pubkey=row.pubkey(),
            features=row.texts("features"),
            node_name=row.opt_text("node_name"),
            addresses=row.texts("addresses"),
            chain_hash=row.hash32("chain_hash"),
            auto_accept_min_funding_shannon=row.u64(
                "open_channel_auto_accept_min_ckb_funding_amount"
            ),
            auto_accept_funding_shannon=row.u64("auto_accept_channel_ckb_funding_amount"),
            default_funding_lock_script=row.script("default_funding_lock_script"),
            tlc_expiry_delta_ms=row.u64("tlc_expiry_delta"),
            tlc_min_value=row.u128("tlc_min_value"),
            tlc_fee_ppm=row.u128("tlc_fee_proportional_millionths"),
            channel_count=row.u32("channel_count"),
            pending_channel_count=row.u32("pending_channel_count"),
            peer_count=row.u32("peers_count"),
            udt_configs=_udt_configs(row),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node we are connected to."""

    pubkey: Pubkey
    address: str

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `list_peers`."""
        row = Fields(value, "a peer")
        return cls(pubkey=row.pubkey(), address=row.text("address"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A node that announced itself to the network."""

    node_name: str
    version: str
    addresses: tuple[str, ...]
    features: tuple[str, ...]
    pubkey: Pubkey
    timestamp_ms: int
    chain_hash: bytes
    auto_accept_min_funding_shannon: int
    udt_configs: tuple[UdtConfig, ...]

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `graph_nodes`."""
        row = Fields(value, "a graph node")
        return cls(
            node_name=row.text("node_name"),
            version=row.text("version"),
            addresses=row.texts("addresses"),
            features=row.texts("features"),
            pubkey=row.pubkey(),
            timestamp_ms=row.u64("timestamp"),
            chain_hash=row.hash32("chain_hash"),
            auto_accept_min_funding_shannon=row.u64("auto_accept_min_ckb_funding_amount"),
            udt_configs=_udt_configs(row),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceRecord:
    """An invoice as its own node keeps it.

    Args:
        invoice_text: What a payer pays.
        invoice: Its parts as the node told them. No signature was checked: who pays decodes the
            text with a verifier instead.
        status: None right after creation, where fnn tells none.
    """

    invoice_text: str
    invoice: Invoice
    status: InvoiceStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """A payment as the payer's node keeps it.

    Args:
        preimage: Known after success from 0.9 on; None with 0.8.
        fee: Base units paid to forwarders on top of the amount.
        failed_error: fnn's words, while `status` is `FAILED`.
        custom_records: What its sender attached, by number; the payee's node shows it to nobody.
    """

    payment_hash: PaymentHash
    status: PaymentStatus
    preimage: Preimage | None = field(repr=False)
    fee: int
    failed_error: str | None
    created_at_ms: int
    last_updated_at_ms: int
    custom_records: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read the payment object of `send_payment`, `get_payment` and `list_payments`."""
        row = Fields(value, "a payment")
        return cls(
            payment_hash=row.payment_hash(),
            status=PaymentStatus.read(row.text("status")),
            preimage=row.opt_preimage(),
            fee=row.u128("fee"),
            failed_error=row.opt_text("failed_error"),
            created_at_ms=row.u64("created_at"),
            last_updated_at_ms=row.u64("last_updated_at"),
            custom_records=row.records("custom_records"),
        )
