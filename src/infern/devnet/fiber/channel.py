"""One payment channel as an account shared by two nodes, and the TLCs pending on it.

There is one truth for both sides: `sides[0]` opened, `sides[1]` accepted. Balances move only when
a fulfilled TLC is removed, so their sum never changes; pending TLCs are not subtracted from a
balance (as in fnn's `list_channels`) and what a side can still offer is `spendable`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infern.core.ckb.hashing import ckb_hash
from infern.core.ckb.script import Script
from infern.core.errors import InvariantViolation
from infern.core.fiber.invoice import HashAlgorithm
from infern.devnet.fiber.settings import MAX_TLC_NUMBER, MAX_U128
from infern.devnet.fiber.states import (
    NEGOTIATING,
    ChannelState,
    StateName,
    TlcErrorCode,
    TlcPhase,
)

if TYPE_CHECKING:
    from infern.devnet.fiber.node import Node
    from infern.devnet.fiber.session import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class OnionHop:
    """What one forwarding node is told: where to, how much and until when."""

    channel_outpoint: bytes
    target: bytes
    amount: int
    expiry_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fulfil:
    """A TLC is removed because its preimage is known."""

    preimage: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A TLC is removed without payment.

    Args:
        origin: Public key of the node that refused.
        slots: True when a TLC slot or value limit was the reason.
    """

    code: TlcErrorCode
    origin: bytes
    detail: str = ""
    slots: bool = False


Removal = Fulfil | Failure


@dataclass(slots=True, kw_only=True, eq=False)
class Tlc:
    """A time-locked contract offered by `sides[offerer]`.

    Args:
        algorithm: how the preimage hashes to `payment_hash`.
        onion: Hops after the receiver of this TLC; empty when the receiver is the payee.
        keysend_preimage: Carried to the payee of a spontaneous payment.
        incoming: The TLC this one forwards, at a hub.
        attempt: The payment attempt this one starts, at the payer.
    """

    channel: "Channel"
    tlc_id: int
    offerer: int
    amount: int
    payment_hash: bytes
    expiry_ms: int
    algorithm: HashAlgorithm
    onion: tuple[OnionHop, ...]
    keysend_preimage: bytes | None = None
    incoming: "Tlc | None" = None
    outgoing: "Tlc | None" = None
    attempt: "Attempt | None" = None
    phase: TlcPhase = TlcPhase.ANNOUNCED
    removal: Removal | None = None
    stuck: bool = False

    @property
    def receiver(self) -> "Node":
        """The node this TLC pays."""
        return self.channel.sides[1 - self.offerer].node

    @property
    def sender(self) -> "Node":
        """The node that offered it."""
        return self.channel.sides[self.offerer].node


@dataclass(slots=True, kw_only=True, eq=False)
class Side:
    """One party's half of a channel.

    Args:
        funding: Base units this side put in, reserve included for CKB.
        reserve: Shannon kept for its own cell; outside of `balance`.
        balance: Base units that are this side's, pending TLCs not subtracted.
    """

    node: "Node"
    funding: int
    reserve: int
    balance: int
    shutdown_script: Script
    fee_ppm: int
    tlc_expiry_delta_ms: int
    tlc_min_value: int
    max_tlc_value: int = MAX_U128
    max_tlc_number: int = MAX_TLC_NUMBER
    enabled: bool = True
    state: ChannelState = NEGOTIATING
    created_at_ms: int = 0
    updated_at_ms: int = 0
    next_tlc_id: int = 0
    commitment_number: int = 0
    failure_detail: str | None = None


@dataclass(frozen=True, slots=True)
class LimitHit:
    """Why a side may not offer a TLC: fnn's text, the code sent back, whether slots were short."""

    code: TlcErrorCode
    text: str
    slots: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Channel:
    """A channel from its first message to its settlement on chain."""

    temporary_id: bytes
    channel_id: bytes
    sides: tuple[Side, Side]
    public: bool
    one_way: bool
    udt: Script | None
    funding_fee: int
    outpoint: bytes | None = None
    funded_at_ms: int = 0
    announced_at_ms: int | None = None
    link_up: bool = True
    link_changed_at_ms: int = 0
    accepted: bool = False
    funded: bool = False
    shutdown_tx_hash: bytes | None = None
    force_closed_by: int | None = None
    settled: bool = False
    close_fees: tuple[int, int] = (0, 0)
    busy_until_us: int = 0
    extra_delay_ms: int = 0
    tlcs: dict[tuple[int, int], Tlc] = field(default_factory=dict)
    parked: deque[Callable[[], None]] = field(default_factory=deque)

    @property
    def capacity(self) -> int:
        """Base units that can flow, reserves excluded; constant."""
        return self.sides[0].balance + self.sides[1].balance

    def index_of(self, node: "Node") -> int:
        """0 when `node` opened the channel, 1 when it accepted."""
        return 0 if self.sides[0].node is node else 1

    def side_of(self, node: "Node") -> Side:
        """The half that belongs to `node`."""
        return self.sides[self.index_of(node)]

    def peer_of(self, node: "Node") -> "Node":
        """The other party."""
        return self.sides[1 - self.index_of(node)].node

    def has_party(self, node: "Node") -> bool:
        """Whether `node` is one of the two."""
        return node in (self.sides[0].node, self.sides[1].node)

    def offered_by(self, index: int) -> Iterator[Tlc]:
        """TLCs pending that `sides[index]` offered, oldest first."""
        return (tlc for tlc in self.tlcs.values() if tlc.offerer == index)

    def offered_balance(self, index: int) -> int:
        """Their sum."""
        return sum(tlc.amount for tlc in self.offered_by(index))

    def spendable(self, index: int) -> int:
        """What `sides[index]` can still offer."""
        return self.sides[index].balance - self.offered_balance(index)

    @property
    def on_chain(self) -> bool:
        """No message moves this channel any more: it is settled or somebody went to chain."""
        return self.settled or self.force_closed

    @property
    def force_closed(self) -> bool:
        """On its way to the chain, or there: TLCs resolve by time and preimage only."""
        return self.force_closed_by is not None

    @property
    def is_ready(self) -> bool:
        """Both sides have exchanged ChannelReady and neither is closing."""
        return all(side.state.name is StateName.CHANNEL_READY for side in self.sides)

    def commitment_hash(self, index: int) -> bytes | None:
        """A stand-in for the hash of the side's latest commitment transaction."""
        side = self.sides[index]
        if self.outpoint is None:
            return None
        return ckb_hash(
            self.channel_id + bytes([index]) + side.commitment_number.to_bytes(8, "big")
        )

    def check_offer(self, index: int, amount: int) -> LimitHit | None:
        """Whether `sides[index]` may offer a TLC of `amount`; None when it may.

        Source: fnn 0.8.0 `check_for_tlc_update` and `check_tlc_limits`.
        """
        side = self.sides[index]
        if self.one_way and index == 1:
            return LimitHit(
                TlcErrorCode.INCORRECT_TLC_DIRECTION,
                "One way channel cannot forward tlc in reverse direction",
            )
        if side.state.name is not StateName.CHANNEL_READY:
            closing = side.state.name in (StateName.SHUTTING_DOWN, StateName.CLOSED)
            return LimitHit(
                TlcErrorCode.PERMANENT_CHANNEL_FAILURE
                if closing
                else TlcErrorCode.TEMPORARY_CHANNEL_FAILURE,
                f"Invalid state: Invalid state {side.state.debug()} for adding tlc",
            )
        if not side.enabled:
            return LimitHit(
                TlcErrorCode.CHANNEL_DISABLED,
                "Invalid state: TLC forwarding is not enabled for channel "
                f"Hash256(0x{self.channel_id.hex()})",
            )
        if amount < max(side.tlc_min_value, 1):
            return LimitHit(TlcErrorCode.AMOUNT_BELOW_MINIMUM, "The tlc amount below minimal")
        temporary = TlcErrorCode.TEMPORARY_CHANNEL_FAILURE
        if amount > self.spendable(index):
            return LimitHit(temporary, "The tlc amount exceed maximal")
        pending = list(self.offered_by(index))
        if len(pending) + 1 > side.max_tlc_number:
            text = "The tlc number exceed limit of this channel"
            return LimitHit(temporary, text, slots=True)
        if sum(tlc.amount for tlc in pending) + amount > side.max_tlc_value:
            return LimitHit(temporary, "The tlc flight value exceed limit of this channel")
        return None

    def insert(self, tlc: Tlc) -> None:
        """Take a TLC in. `check_offer` must have allowed it."""
        if self.check_offer(tlc.offerer, tlc.amount) is not None:
            raise InvariantViolation("a TLC was added over the channel's limits")
        side = self.sides[tlc.offerer]
        if tlc.tlc_id != side.next_tlc_id:
            raise InvariantViolation("TLC ids are consecutive per direction")
        side.next_tlc_id += 1
        self.tlcs[(tlc.offerer, tlc.tlc_id)] = tlc

    def remove(self, tlc: Tlc) -> None:
        """Take a TLC out by its `removal`: a fulfilled one moves its amount, a failed one nothing.

        Raises:
            InvariantViolation: It is not pending here, has no removal, or would overdraw.
        """
        if self.tlcs.pop((tlc.offerer, tlc.tlc_id), None) is not tlc or tlc.removal is None:
            raise InvariantViolation("only a pending TLC with a reason can be removed")
        tlc.phase = TlcPhase.GONE
        if isinstance(tlc.removal, Failure):
            return
        if tlc.algorithm.digest(tlc.removal.preimage) != tlc.payment_hash:
            raise InvariantViolation("a TLC was settled without its preimage")
        payer, payee = self.sides[tlc.offerer], self.sides[1 - tlc.offerer]
        if payer.balance < tlc.amount:
            raise InvariantViolation("a TLC was settled over the payer's balance")
        payer.balance -= tlc.amount
        payee.balance += tlc.amount

    def set_states(self, name: StateName, opener_flags: int, acceptor_flags: int) -> None:
        """Put both sides into a state."""
        self.sides[0].state = ChannelState(name, opener_flags)
        self.sides[1].state = ChannelState(name, acceptor_flags)

    def bump_commitments(self) -> None:
        """A commitment exchange has run: both sides have a new latest transaction."""
        for side in self.sides:
            side.commitment_number += 1
