"""`infern channel`: the payment channels of your Fiber node."""

from typing import Any, Final

import anyio
import click

from infern.cli.consumer import Consumer, load_consumer, node_options, run
from infern.cli.output import emit_json, note, say
from infern.core.errors import ConfigError, TransportError
from infern.core.fiber.rpc import (
    ConnectPeer,
    ListChannels,
    ListPeers,
    OpenChannel,
    ShutdownChannel,
)
from infern.core.fiber.types import Channel, ChannelId
from infern.core.ids import parse_hex, parse_pubkey
from infern.core.units import format_amount, parse_ckb

CONNECT_TIMEOUT_S: Final = 20
INIT_PAUSE_S: Final = 1.0
"""A node answers `connect_peer` before the peers have introduced themselves."""
READY_TIMEOUT_S: Final = 600
POLL_S: Final = 0.5


@click.group()
def channel() -> None:
    """Open, list and close payment channels."""


@channel.command(name="list")
@click.option("--all", "include_closed", is_flag=True, help="Closed ones too.")
@node_options
def list_channels(include_closed: bool, as_json: bool, **flags: Any) -> None:
    """Show channels with what can be sent and received.

    Example: infern channel list
    """
    consumer = load_consumer(flags)
    found = run(lambda: _list(consumer, include_closed=include_closed))
    if as_json:
        emit_json([_json(c) for c in found])
        return
    if not found:
        say("no channels; open one with: infern channel open PEER_ADDRESS '500 CKB'")
    for c in found:
        say(
            f"{c.channel_id.hex()}  {c.state.name.value}  peer {c.peer.hex()[:16]}…  "
            f"send {format_amount(c.spendable)}, receive {format_amount(c.receivable)}"
        )


async def _list(consumer: Consumer, *, include_closed: bool) -> tuple[Channel, ...]:
    async with consumer.node() as node:
        return tuple(await node.call(ListChannels(include_closed=include_closed)))


def _json(c: Channel) -> dict[str, Any]:
    return {
        "channel_id": "0x" + c.channel_id.hex(),
        "state": c.state.name.value,
        "peer": c.peer.hex(),
        "public": c.is_public,
        "spendable": str(c.spendable),
        "receivable": str(c.receivable),
        "pending_tlcs": len(c.pending_tlcs),
    }


@channel.command(name="open")
@click.argument("peer")
@click.argument("amount")
@click.option("--private", is_flag=True, help="Do not announce it; nobody can route through it.")
@click.option("--no-wait", is_flag=True, help="Return when the request is accepted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_options
def open_channel(
    peer: str, amount: str, private: bool, no_wait: bool, yes: bool, as_json: bool, **flags: Any
) -> None:
    """Open a channel to PEER, a multiaddress or the public key of a connected peer.

    99 CKB of AMOUNT stay reserved for closing the channel and come back then.

    Example: infern channel open /ip4/203.0.113.7/tcp/8228/p2p/Qm… '500 CKB'
    """
    consumer = load_consumer(flags)
    try:
        shannon = parse_ckb(amount)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    note(f"locks {format_amount(shannon)} in a channel, 99 CKB of it as reserve, plus a chain fee")
    if not yes:
        click.confirm("Open?", abort=True, err=True)
    opened = run(lambda: _open(consumer, peer, shannon, public=not private, wait=not no_wait))
    if as_json:
        emit_json(_json(opened) if opened else {"accepted": True})
    elif opened is None:
        say("accepted; watch it with: infern channel list")
    else:
        say(f"ready: {opened.channel_id.hex()}, {format_amount(opened.spendable)} to spend")


async def _open(
    consumer: Consumer, peer: str, shannon: int, *, public: bool, wait: bool
) -> Channel | None:
    async with consumer.node() as node:
        before = {c.channel_id for c in await node.call(ListChannels())}
        if peer.startswith("/"):
            known = {p.pubkey for p in await node.call(ListPeers())}
            await node.call(ConnectPeer(address=peer))
            pubkey = None
            with anyio.move_on_after(CONNECT_TIMEOUT_S):
                while pubkey is None:
                    await anyio.sleep(POLL_S / 2)
                    for p in await node.call(ListPeers()):
                        if p.address == peer or p.pubkey not in known:
                            pubkey = p.pubkey
            if pubkey is None:
                raise TransportError(f"the peer at {peer} did not answer")
            await anyio.sleep(INIT_PAUSE_S)
        else:
            pubkey = parse_pubkey(peer)
        await node.call(OpenChannel(pubkey=pubkey, funding_amount=shannon, public=public))
        if not wait:
            return None
        with anyio.move_on_after(READY_TIMEOUT_S):
            while True:
                for c in await node.call(ListChannels(pubkey=pubkey)):
                    if c.channel_id not in before and c.is_ready:
                        return c
                await anyio.sleep(POLL_S)
        raise TransportError("the channel is not ready yet; watch it with: infern channel list")


@channel.command(name="close")
@click.argument("channel_id")
@click.option("--force", is_flag=True, help="Without the peer; your part is locked for a while.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_options
def close_channel(channel_id: str, force: bool, yes: bool, as_json: bool, **flags: Any) -> None:
    """Close a channel and get its balance and reserve back on chain.

    Example: infern channel close 0x359b…
    """
    consumer = load_consumer(flags)
    raw = ChannelId(parse_hex(channel_id, 32, "a channel id"))
    if not yes:
        click.confirm("Close by force?" if force else "Close?", abort=True, err=True)
    run(lambda: _close(consumer, raw, force=force))
    if as_json:
        emit_json({"closing": "0x" + raw.hex()})
    else:
        say("closing; the coins are back when the closing transaction is confirmed")


async def _close(consumer: Consumer, channel_id: ChannelId, *, force: bool) -> None:
    async with consumer.node() as node:
        await node.call(ShutdownChannel(channel_id=channel_id, force=force))
