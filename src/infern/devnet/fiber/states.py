"""Channel states and TLC statuses with the names and flag bits fnn shows.

Source: fiber-json-types 0.8.0, `channel.rs`.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final


class StateName(StrEnum):
    """`state_name` of a channel."""

    NEGOTIATING_FUNDING = "NegotiatingFunding"
    COLLABORATING_FUNDING_TX = "CollaboratingFundingTx"
    SIGNING_COMMITMENT = "SigningCommitment"
    AWAITING_TX_SIGNATURES = "AwaitingTxSignatures"
    AWAITING_CHANNEL_READY = "AwaitingChannelReady"
    CHANNEL_READY = "ChannelReady"
    SHUTTING_DOWN = "ShuttingDown"
    CLOSED = "Closed"


OUR: Final = 1
"""Our half of a step is done (`OUR_…`); bit 0 wherever a state has two halves."""
THEIR: Final = 2
BOTH: Final = OUR | THEIR
COLLABORATION_COMPLETED: Final = 4 | 8
SHUTDOWN_WAITING_COMMITMENT: Final = 8
CLOSED_COOPERATIVE: Final = 1
CLOSED_UNCOOPERATIVE_LOCAL: Final = 2
CLOSED_ABANDONED: Final = 4
CLOSED_FUNDING_ABORTED: Final = 8
CLOSED_UNCOOPERATIVE_REMOTE: Final = 16
CLOSED_WAITING_SETTLEMENT: Final = 32

_FLAG_NAMES: Final[dict[StateName, tuple[tuple[str, int], ...]]] = {
    StateName.NEGOTIATING_FUNDING: (
        ("OUR_INIT_SENT", 1),
        ("THEIR_INIT_SENT", 2),
        ("INIT_SENT", 3),
        ("AWAITING_EXTERNAL_FUNDING", 4),
    ),
    StateName.COLLABORATING_FUNDING_TX: (
        ("AWAITING_REMOTE_TX_COLLABORATION_MSG", 1),
        ("PREPARING_LOCAL_TX_COLLABORATION_MSG", 2),
        ("OUR_TX_COMPLETE_SENT", 4),
        ("THEIR_TX_COMPLETE_SENT", 8),
        ("COLLABORATION_COMPLETED", 12),
    ),
    StateName.SIGNING_COMMITMENT: (
        ("OUR_COMMITMENT_SIGNED_SENT", 1),
        ("THEIR_COMMITMENT_SIGNED_SENT", 2),
        ("COMMITMENT_SIGNED_SENT", 3),
    ),
    StateName.AWAITING_TX_SIGNATURES: (
        ("OUR_TX_SIGNATURES_SENT", 1),
        ("THEIR_TX_SIGNATURES_SENT", 2),
        ("TX_SIGNATURES_SENT", 3),
    ),
    StateName.AWAITING_CHANNEL_READY: (
        ("OUR_CHANNEL_READY", 1),
        ("THEIR_CHANNEL_READY", 2),
        ("CHANNEL_READY", 3),
    ),
    StateName.SHUTTING_DOWN: (
        ("OUR_SHUTDOWN_SENT", 1),
        ("THEIR_SHUTDOWN_SENT", 2),
        ("AWAITING_PENDING_TLCS", 3),
        ("DROPPING_PENDING", 4),
        ("WAITING_COMMITMENT_CONFIRMATION", 8),
    ),
    StateName.CLOSED: (
        ("COOPERATIVE", 1),
        ("UNCOOPERATIVE_LOCAL", 2),
        ("ABANDONED", 4),
        ("FUNDING_ABORTED", 8),
        ("UNCOOPERATIVE_REMOTE", 16),
        ("WAITING_ONCHAIN_SETTLEMENT", 32),
    ),
}


@dataclass(frozen=True, slots=True)
class ChannelState:
    """One side's view of the state."""

    name: StateName
    flags: int = 0

    def to_json(self) -> dict[str, str]:
        """`{state_name, state_flags?}`; a composite flag shows as soon as one bit is set."""
        if self.name is StateName.CHANNEL_READY:
            return {"state_name": self.name.value}
        return {"state_name": self.name.value, "state_flags": self.flag_text}

    @property
    def flag_text(self) -> str:
        """Names of the flags joined by `|`, with fnn's quirk for composites."""
        return "|".join(name for name, bit in _FLAG_NAMES[self.name] if self.flags & bit)

    def debug(self) -> str:
        """The way error texts print the state, e.g. `ShuttingDown(OUR_SHUTDOWN_SENT)`."""
        if self.name is StateName.CHANNEL_READY:
            return self.name.value
        return f"{self.name.value}({self.name.value}Flags({self.flag_text}))"

    @property
    def is_pending(self) -> bool:
        """Still opening, or failed to open."""
        if self.name is StateName.CLOSED:
            return bool(self.flags & (CLOSED_ABANDONED | CLOSED_FUNDING_ABORTED))
        return self.name not in (StateName.CHANNEL_READY, StateName.SHUTTING_DOWN)

    @property
    def is_closed(self) -> bool:
        """Left out of `list_channels` unless closed ones are asked for."""
        return self.name is StateName.CLOSED and not self.flags & CLOSED_WAITING_SETTLEMENT


NEGOTIATING: Final = ChannelState(StateName.NEGOTIATING_FUNDING)
READY: Final = ChannelState(StateName.CHANNEL_READY)


class TlcPhase(Enum):
    """How far a TLC is; each side has its own name for it."""

    ANNOUNCED = ("LocalAnnounced", "RemoteAnnounced")
    COMMITTED = ("Committed", "Committed")
    REMOVING = ("RemoteRemoved", "LocalRemoved")
    GONE = ("RemoveAckConfirmed", "RemoveAckConfirmed")

    def status(self, *, outbound: bool) -> dict[str, str]:
        """`{"Outbound": …}` for the offerer, `{"Inbound": …}` for the receiver."""
        return {"Outbound": self.value[0]} if outbound else {"Inbound": self.value[1]}


class TlcErrorCode(StrEnum):
    """Why a TLC was failed back; shown as `failed_error`."""

    TEMPORARY_NODE_FAILURE = "TemporaryNodeFailure"
    TEMPORARY_CHANNEL_FAILURE = "TemporaryChannelFailure"
    PERMANENT_CHANNEL_FAILURE = "PermanentChannelFailure"
    UNKNOWN_NEXT_PEER = "UnknownNextPeer"
    AMOUNT_BELOW_MINIMUM = "AmountBelowMinimum"
    FEE_INSUFFICIENT = "FeeInsufficient"
    INCORRECT_TLC_EXPIRY = "IncorrectTlcExpiry"
    EXPIRY_TOO_SOON = "ExpiryTooSoon"
    EXPIRY_TOO_FAR = "ExpiryTooFar"
    INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS = "IncorrectOrUnknownPaymentDetails"
    INVOICE_EXPIRED = "InvoiceExpired"
    INVOICE_CANCELLED = "InvoiceCancelled"
    FINAL_INCORRECT_EXPIRY_DELTA = "FinalIncorrectExpiryDelta"
    FINAL_INCORRECT_TLC_AMOUNT = "FinalIncorrectTlcAmount"
    CHANNEL_DISABLED = "ChannelDisabled"
    HOLD_TLC_TIMEOUT = "HoldTlcTimeout"
    INCORRECT_TLC_DIRECTION = "IncorrectTlcDirection"
