"""Calls that open, list, change and close channels."""

from dataclasses import dataclass

from infern.core.ckb.script import Script
from infern.core.errors import JsonValue
from infern.core.fiber.fields import Fields
from infern.core.fiber.hexnum import U64_BITS, U128_BITS
from infern.core.fiber.params import (
    bytes32,
    key,
    one_object,
    require_length,
    require_uint,
    script,
    true_only,
    u64,
    u128,
)
from infern.core.fiber.types import Channel, ChannelId, TemporaryChannelId
from infern.core.ids import Pubkey


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTerms:
    """What one side of a channel asks for; None leaves fnn's default.

    Args:
        tlc_min_value: Smallest TLC we send, base units.
        tlc_fee_ppm: What we charge to forward out of the channel.
        tlc_expiry_delta_ms: At least 9,600,000.
        max_tlc_value_in_flight: Base units; fixed once open.
        max_tlc_number_in_flight: fnn's default is 125; fixed once open.
    """

    tlc_min_value: int | None = None
    tlc_fee_ppm: int | None = None
    tlc_expiry_delta_ms: int | None = None
    max_tlc_value_in_flight: int | None = None
    max_tlc_number_in_flight: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers with no wire form."""
        require_uint(self.tlc_min_value, U128_BITS, "tlc_min_value")
        require_uint(self.tlc_fee_ppm, U128_BITS, "tlc_fee_ppm")
        require_uint(self.tlc_expiry_delta_ms, U64_BITS, "tlc_expiry_delta_ms")
        require_uint(self.max_tlc_value_in_flight, U128_BITS, "max_tlc_value_in_flight")
        require_uint(self.max_tlc_number_in_flight, U64_BITS, "max_tlc_number_in_flight")

    def members(self) -> dict[str, JsonValue]:
        """The members `open_channel` and `accept_channel` share."""
        return {
            "tlc_min_value": u128(self.tlc_min_value),
            "tlc_fee_proportional_millionths": u128(self.tlc_fee_ppm),
            "tlc_expiry_delta": u64(self.tlc_expiry_delta_ms),
            "max_tlc_value_in_flight": u128(self.max_tlc_value_in_flight),
            "max_tlc_number_in_flight": u64(self.max_tlc_number_in_flight),
        }


DEFAULT_TERMS = ChannelTerms()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenChannel:
    """Open a channel to a connected peer. Spends from the node's wallet; never sent twice.

    The answer only says that the request was accepted here: poll `ListChannels` for the channel,
    whose final id is another one.

    Args:
        funding_amount: Base units of the channel's asset; CKB needs 99 CKB of reserve in it.
        udt_type_script: The asset; None is CKB.
        commitment_delay_epoch: Packed epoch number with fraction.
        commitment_fee_rate: Shannon per KB.
        funding_fee_rate: Shannon per KB.
    """

    method = "open_channel"
    idempotent = False

    pubkey: Pubkey
    funding_amount: int
    public: bool = True
    one_way: bool = False
    udt_type_script: Script | None = None
    shutdown_script: Script | None = None
    commitment_delay_epoch: int | None = None
    commitment_fee_rate: int | None = None
    funding_fee_rate: int | None = None
    terms: ChannelTerms = DEFAULT_TERMS

    def __post_init__(self) -> None:
        """Refuse what no node would accept."""
        require_length(self.pubkey, 33, "a public key")
        require_uint(self.funding_amount, U128_BITS, "funding_amount")
        require_uint(self.commitment_delay_epoch, U64_BITS, "commitment_delay_epoch")
        require_uint(self.commitment_fee_rate, U64_BITS, "commitment_fee_rate")
        require_uint(self.funding_fee_rate, U64_BITS, "funding_fee_rate")
        if self.public and self.one_way:
            raise ValueError("a one-way channel cannot be public")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "pubkey": key(self.pubkey),
                "funding_amount": u128(self.funding_amount),
                "public": self.public,
                "one_way": true_only(value=self.one_way),
                "funding_udt_type_script": script(self.udt_type_script),
                "shutdown_script": script(self.shutdown_script),
                "commitment_delay_epoch": u64(self.commitment_delay_epoch),
                "commitment_fee_rate": u64(self.commitment_fee_rate),
                "funding_fee_rate": u64(self.funding_fee_rate),
                **self.terms.members(),
            }
        )

    def parse(self, result: JsonValue) -> TemporaryChannelId:
        """Read the temporary id."""
        return TemporaryChannelId(Fields(result, "open_channel").hash32("temporary_channel_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptChannel:
    """Accept a channel the node did not accept by itself. Spends from its wallet."""

    method = "accept_channel"
    idempotent = False

    temporary_channel_id: TemporaryChannelId
    funding_amount: int
    shutdown_script: Script | None = None
    terms: ChannelTerms = DEFAULT_TERMS

    def __post_init__(self) -> None:
        """Refuse what has no wire form."""
        require_length(self.temporary_channel_id, 32, "a temporary channel id")
        require_uint(self.funding_amount, U128_BITS, "funding_amount")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "temporary_channel_id": bytes32(self.temporary_channel_id),
                "funding_amount": u128(self.funding_amount),
                "shutdown_script": script(self.shutdown_script),
                **self.terms.members(),
            }
        )

    def parse(self, result: JsonValue) -> ChannelId:
        """Read the final id."""
        return ChannelId(Fields(result, "accept_channel").hash32("channel_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChannels:
    """The node's own channels, newest first. Moves no money.

    Args:
        pubkey: Only those with this peer.
        include_closed: Closed ones too.
        only_pending: Only those still opening or whose opening failed.
    """

    method = "list_channels"
    idempotent = True

    pubkey: Pubkey | None = None
    include_closed: bool = False
    only_pending: bool = False

    def __post_init__(self) -> None:
        """Refuse filters that exclude each other."""
        require_length(self.pubkey, 33, "a public key")
        if self.include_closed and self.only_pending:
            raise ValueError("include_closed and only_pending exclude each other")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "pubkey": key(self.pubkey),
                "include_closed": true_only(value=self.include_closed),
                "only_pending": true_only(value=self.only_pending),
            }
        )

    def parse(self, result: JsonValue) -> tuple[Channel, ...]:
        """Read the channels."""
        rows = Fields(result, "list_channels").items("channels")
        return tuple(Channel.from_json(row) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownChannel:
    """Close a channel. Cooperative unless forced; pending TLCs are waited for.

    Args:
        close_script: Who gets our part; None is the script of the opening.
        fee_rate: Shannon per KB.
        force: Close without the peer; our part is locked for the commitment delay.
    """

    method = "shutdown_channel"
    idempotent = False

    channel_id: ChannelId
    close_script: Script | None = None
    fee_rate: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what no node would accept."""
        require_length(self.channel_id, 32, "a channel id")
        require_uint(self.fee_rate, U64_BITS, "fee_rate")
        if self.force and (self.close_script is not None or self.fee_rate is not None):
            raise ValueError("a forced close takes neither close_script nor fee_rate")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "channel_id": bytes32(self.channel_id),
                "close_script": script(self.close_script),
                "fee_rate": u64(self.fee_rate),
                "force": true_only(value=self.force),
            }
        )

    def parse(self, result: JsonValue) -> None:
        """The result is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateChannel:
    """Change our side's terms of an open channel. Moves no money; None leaves a term as it is."""

    method = "update_channel"
    idempotent = False

    channel_id: ChannelId
    enabled: bool | None = None
    tlc_expiry_delta_ms: int | None = None
    tlc_min_value: int | None = None
    tlc_fee_ppm: int | None = None

    def __post_init__(self) -> None:
        """Refuse what has no wire form."""
        require_length(self.channel_id, 32, "a channel id")
        require_uint(self.tlc_expiry_delta_ms, U64_BITS, "tlc_expiry_delta_ms")
        require_uint(self.tlc_min_value, U128_BITS, "tlc_min_value")
        require_uint(self.tlc_fee_ppm, U128_BITS, "tlc_fee_ppm")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "channel_id": bytes32(self.channel_id),
                "enabled": self.enabled,
                "tlc_expiry_delta": u64(self.tlc_expiry_delta_ms),
                "tlc_minimum_value": u128(self.tlc_min_value),
                "tlc_fee_proportional_millionths": u128(self.tlc_fee_ppm),
            }
        )

    def parse(self, result: JsonValue) -> None:
        """The result is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonChannel:
    """Give up a channel that never became ready."""

    method = "abandon_channel"
    idempotent = False

    channel_id: ChannelId | TemporaryChannelId

    def __post_init__(self) -> None:
        """Refuse what has no wire form."""
        require_length(self.channel_id, 32, "a channel id")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object({"channel_id": bytes32(self.channel_id)})

    def parse(self, result: JsonValue) -> None:
        """The result is null."""
