"""What must be true of the embedded network at every moment, whatever has happened."""

from collections import defaultdict
from typing import TYPE_CHECKING

from infern.core.ckb.script import Script
from infern.devnet.fiber.channel import Channel

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network


def violations(network: "Network") -> list[str]:
    """Every broken rule as a sentence; empty when the accounts are sound.

    Checked: per channel, balances sum to what was funded and nobody offers more than it has;
    a forwarded TLC never exceeds the one it forwards; per asset, wallets, channels and fees add up
    to what was ever minted; per payee, a payment hash was settled at most once.
    """
    found: list[str] = []
    for channel in network.channels.values():
        found += _channel_violations(channel)
    found += _asset_violations(network)
    for (name, payment_hash), count in network.receiver.settlements.items():
        if count > 1:
            found.append(f"{name} was paid {count} times for 0x{payment_hash.hex()}")
    return found


def _channel_violations(channel: Channel) -> list[str]:
    found = []
    label = f"channel 0x{channel.channel_id.hex()[:16]}"
    funded = sum(side.funding for side in channel.sides)
    if channel.udt is None:
        funded -= sum(side.reserve for side in channel.sides)
    if channel.funded and channel.capacity != funded:
        found.append(f"{label} holds {channel.capacity}, funded with {funded}")
    for index, side in enumerate(channel.sides):
        if channel.spendable(index) < 0:
            found.append(f"{label}: {side.node.name} offers more than its {side.balance}")
    for tlc in channel.tlcs.values():
        ahead = tlc.outgoing
        if ahead is not None and (
            ahead.payment_hash != tlc.payment_hash or ahead.amount > tlc.amount
        ):
            found.append(f"{label}: TLC {tlc.tlc_id} is forwarded for more than it brings")
    return found


def _asset_violations(network: "Network") -> list[str]:
    held: defaultdict[Script | None, int] = defaultdict(int)
    for (_, asset), amount in network.chain.wallets.items():
        held[asset] += amount
        if amount < 0:
            return ["a wallet is overdrawn"]
    for channel in network.channels.values():
        if not channel.funded:
            continue
        held[channel.udt] += channel.capacity
        held[None] += sum(side.reserve for side in channel.sides)
    held[None] += network.chain.fees_paid
    return [
        f"{held[asset]} of an asset are accounted for, {network.chain.minted[asset]} were minted"
        for asset in set(held) | set(network.chain.minted)
        if held[asset] != network.chain.minted[asset]
    ]
