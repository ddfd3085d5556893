"""What can be set about an embedded network and each of its nodes, with real nodes' defaults."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from infern.core.ckb.script import HashType, Script
from infern.core.units import SHANNON_PER_CKB, Network

MIN_TLC_EXPIRY_DELTA_MS: Final = 9_600_000
"""160 minutes: the least final delta, and the margin before an expiry at which nodes act."""
TLC_EXPIRY_DELTA_MS: Final = 14_400_000
MAX_TLC_EXPIRY_MS: Final = 1_209_600_000
"""14 days: no TLC may be locked for longer."""
DEFAULT_FINAL_TLC_EXPIRY_DELTA_MS: Final = 86_400_000
FEE_PPM: Final = 1_000
MAX_TLC_NUMBER: Final = 125
SYSTEM_MAX_TLC_NUMBER: Final = 253
UDT_RESERVE_SHANNON: Final = 180 * SHANNON_PER_CKB
CKB_RESERVE_SHANNON: Final = 99 * SHANNON_PER_CKB
MAX_U128: Final = 2**128 - 1
MAX_U64: Final = 2**64 - 1
FUNDING_CONFIRMATIONS: Final = 4
WATCHDOG_INTERVAL_MS: Final = 60_000
PAYMENT_TRY_LIMIT: Final = 5


class Version(StrEnum):
    """The fnn release whose answers a node gives."""

    V0_8_0 = "0.8.0"
    """No preimage in payment results, errors echo the parameters, unknown methods -32999."""
    V0_9_1 = "0.9.1"
    """`payment_preimage` in payment results, no echo, -32601, unsigned invoices refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UdtInfo:
    """One entry of `ckb.udt_whitelist`.

    Args:
        args_pattern: Regular expression that the `0x…` args must match in full.
        auto_accept_amount: Least amount of an opener that is accepted unasked; None never is.
    """

    name: str
    code_hash: bytes
    hash_type: HashType
    args_pattern: str = "0x.*"
    auto_accept_amount: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long each step takes, before the network's speed factor divides it.

    The defaults reproduce medians measured on three fnn 0.8.0 nodes on one machine.

    Args:
        start_ms: From `send_payment` to the first `AddTlc`.
        add_ms: Until a TLC is committed on a channel, once the previous hop has it.
        ordinary_ms: Extra time before a payee that knows the preimage marks `Received`.
        settle_ms: From `settle_invoice` to the `RemoveTlc`.
        cancel_ms: From `cancel_invoice` to the `RemoveTlc`.
        final_remove_ms: Until the payee has the acknowledgement of its removal.
        upstream_remove_ms: The same for a forwarding node.
        ack_ms: From the remover's acknowledgement to the offerer's.
        message_ms: One message one way.
        exchange_ms: How long one commitment exchange keeps a channel from starting the next.
        retry_ms: Unit of the growing pause between attempts.
        open_step_ms: Each of the four steps of opening before the funding transaction.
        ready_ms: From the last confirmation to `ChannelReady`.
        close_step_ms: Negotiating a cooperative close.
        block_ms: Interval of automatic blocks.
        gossip_ms: Until nodes that are no party to a channel learn of it or of its change.
        init_ms: From a connection to the peer's Init message.
    """

    start_ms: int = 5
    add_ms: int = 55
    forward_add_ms: int = 57
    ordinary_ms: int = 41
    settle_ms: int = 16
    cancel_ms: int = 14
    final_remove_ms: int = 92
    upstream_remove_ms: int = 49
    ack_ms: int = 3
    message_ms: int = 4
    exchange_ms: int = 11
    retry_ms: int = 20
    open_step_ms: int = 350
    ready_ms: int = 900
    close_step_ms: int = 200
    block_ms: int = 450
    gossip_ms: int = 1_500
    init_ms: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Configuration of one node.

    Args:
        version: Whose answers it gives.
        auto_accept_min: Least CKB funding of an opener that is accepted unasked, shannon.
        auto_accept_contribution: What this node adds then, shannon; 0 turns auto accept off.
        tokens: When given, every call needs `Authorization: Bearer TOKEN` with one of these
            tokens, each mapped to its facts, e.g. `{'write("payments")'}`. They stand in for
            biscuits: opaque here, no signature, no expiry, no attenuation.
        pubsub: Whether `subscribe_store_changes` is served.
        slot_limit_penalty_ms: After a payment of this node failed for want of a TLC slot, how long
            it avoids that channel altogether, as 0.8.0 was seen to do. 0 turns it off.
        initial_wallet: On-chain shannon at the start.
    """

    version: Version = Version.V0_8_0
    node_name: str | None = None
    auto_accept_min: int = 100 * SHANNON_PER_CKB
    auto_accept_contribution: int = CKB_RESERVE_SHANNON
    tlc_expiry_delta_ms: int = TLC_EXPIRY_DELTA_MS
    tlc_min_value: int = 0
    fee_ppm: int = FEE_PPM
    udt_whitelist: tuple[UdtInfo, ...] = ()
    tokens: Mapping[str, Collection[str]] | None = None
    pubsub: bool = True
    slot_limit_penalty_ms: int = 300_000
    initial_wallet: int = 100_000 * SHANNON_PER_CKB


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Configuration of the whole network.

    Args:
        speed: Divides every latency; 1 is real nodes' pace, 100 is for tests.
        auto_mine: Blocks appear by themselves; otherwise only `mine` makes them.
        udt_balances: On-chain UDT amounts at the start, per node name and type script.
        forced_close_delay_blocks: From a forced close's confirmation to its settlement.
    """

    network: Network = Network.DEV
    speed: int = 1
    auto_mine: bool = True
    forced_close_delay_blocks: int = 10
    latencies: Latencies = field(default_factory=Latencies)
    udt_balances: Mapping[str, Mapping[Script, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a network that could not move."""
        if self.speed < 1 or self.forced_close_delay_blocks < 1:
            raise ValueError("speed and forced_close_delay_blocks are at least 1")

    def scaled_us(self, duration_ms: int) -> int:
        """A latency as this network runs it, in microseconds."""
        return duration_ms * 1_000 // self.speed
