"""A keysend that can be found again: it carries a name, and its errors say what may have happened.

fnn draws the hash of a keysend itself. If its answer is lost nobody knows the hash, and sending
again would pay twice. So each carries a custom record with the sender's own name for it; fnn lists
its payments with their records (`list_payments`), by which the lost one is found, or found missing.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from infern.core.errors import InfernError, Money, TransportError
from infern.core.fiber.channel_types import Channel, ChannelStateName, TlcDirection, TlcStage
from infern.core.fiber.errors import FiberNodeError, PaymentAlreadyExists
from infern.core.fiber.pay import fee_rate_per_thousand
from infern.core.fiber.rpc_payments import SendPayment
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash, Pubkey

NAME_RECORD: Final = 0x4632
"""Number of the custom record that names a payment; it travels to the payee's node."""
MAX_NAME_BYTES: Final = 64


def keysend(
    *, target: Pubkey, amount: int, max_fee_amount: int, name: str, dry_run: bool = False
) -> SendPayment:
    """The call that pushes money to a node.

    Args:
        target: Who gets it.
        amount: Base units.
        max_fee_amount: The most that routing may take on top, base units.
        name: The sender's name for it, ASCII, unique.
        dry_run: Only find a route; nothing is stored or moved.
    """
    record = name.encode("ascii")
    if not 0 < len(record) <= MAX_NAME_BYTES:
        raise ValueError(f"a payment's name has 1 to {MAX_NAME_BYTES} characters")
    return SendPayment(
        keysend=True,
        target=target,
        amount=amount,
        max_fee_amount=max_fee_amount,
        max_fee_rate_per_thousand=fee_rate_per_thousand(amount, max_fee_amount),
        custom_records={NAME_RECORD: record},
        dry_run=dry_run,
    )


class Sent(Enum):
    """What an error of a call that sends money says about the money."""

    NEVER = "never"
    """The call never reached the node: it may be made again."""
    REFUSED = "refused"
    """The node refused it before anything moved."""
    PERHAPS = "perhaps"
    """Nobody knows yet: the node has to be asked, and the call is not made again."""


def sent_by(error: InfernError) -> Sent:
    """Read the error of a `SendPayment`."""
    if isinstance(error, FiberNodeError | PaymentAlreadyExists):
        return Sent.PERHAPS
    if error.money is not Money.UNMOVED:
        return Sent.PERHAPS
    return Sent.NEVER if isinstance(error, TransportError) else Sent.REFUSED


def by_name(payments: Iterable[PaymentRecord]) -> Mapping[str, PaymentRecord]:
    """The named payments of a page; of two with one name the one that may have moved money."""
    found: dict[str, PaymentRecord] = {}
    for payment in payments:
        record = payment.custom_records.get(NAME_RECORD, b"")
        if not record or not record.isascii():
            continue
        name = record.decode("ascii")
        if name not in found or found[name].status is PaymentStatus.FAILED:
            found[name] = payment
    return found


def is_on_its_way(channels: Iterable[Channel], payment_hash: PaymentHash) -> bool:
    """Whether a TLC that this node offered under the hash is still in one of its channels.

    While it is, the money may still be taken, whatever the payment's own status says. fnn lists a
    TLC whose removal both sides confirmed for some time yet; such a one is over. So is what a
    closed channel had when all of it has been paid out on chain.

    Args:
        channels: All of the node's channels, closed ones too.
        payment_hash: The payment.
    """
    return any(
        tlc.payment_hash == payment_hash
        and tlc.direction is not TlcDirection.INBOUND
        and tlc.stage is not TlcStage.REMOVE_ACK_CONFIRMED
        for channel in channels
        if not _is_settled(channel)
        for tlc in channel.pending_tlcs
    )


def _is_settled(channel: Channel) -> bool:
    closed = channel.state.name is ChannelStateName.CLOSED
    return closed and "WAITING_ONCHAIN_SETTLEMENT" not in channel.state.flags
