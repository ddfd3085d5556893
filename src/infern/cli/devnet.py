"""`infern devnet`: the embedded Fiber network alone, long-running, for trying things out."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
from pathlib import Path
from typing import Any, Final

import click

from infern.adapters.home import infern_home
from infern.cli.control import ControlClient
from infern.cli.output import emit_json, say
from infern.core.errors import ConfigError
from infern.core.units import format_amount, parse_ckb

FIRST_PORT: Final = 8227
"""fnn's own default; the embedded nodes take this one and the next ones unless told otherwise."""


@click.group()
def devnet() -> None:
    """Run an embedded Fiber network: consumer, hub and provider, with channels between them.

    It speaks the JSON-RPC of real nodes, but its channels are entries, not transactions.
    """


def _state_file() -> Path:
    return infern_home() / "devnet.json"


@devnet.command()
@click.option("--seed", help="Hex; the same seed makes the same keys. Random by default.")
@click.option(
    "--port",
    "first_port",
    type=click.IntRange(0, 65_500),
    default=FIRST_PORT,
    show_default=True,
    help="The first of four ports in a row; 0 takes any free ones.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the endpoints as JSON.")
def up(seed: str | None, first_port: int, as_json: bool) -> None:
    """Start the network and keep it until stopped.

    Example: infern devnet up --json > endpoints.json
    """
    try:
        raw_seed = bytes.fromhex(seed) if seed else secrets.token_bytes(32)
    except ValueError:
        raise ConfigError("--seed takes hex digits") from None
    state_file = _state_file()
    if _running(state_file) is not None:
        raise ConfigError("a devnet is up already; stop it with: infern devnet down")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(raw_seed, state_file, first_port, as_json=as_json))
    finally:
        state_file.unlink(missing_ok=True)


async def _serve(seed: bytes, state_file: Path, first_port: int, *, as_json: bool) -> None:
    from infern.cli.compose import embedded_fiber

    async with embedded_fiber(seed, first_port=first_port) as endpoints:
        state = {
            "pid": os.getpid(),
            "rpc_urls": dict(endpoints.rpc_urls),
            "control_url": endpoints.control_url,
        }
        state_file.write_text(json.dumps(state, indent=2), "utf-8")
        if as_json:
            emit_json(state)
        else:
            say("embedded Fiber network (an accounting twin of real nodes):")
            for name, url in endpoints.rpc_urls.items():
                say(f"  {name:<9} {url}")
            say(f"  control   {endpoints.control_url}")
            say("stop with Ctrl-C or: infern devnet down")
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await stopped.wait()


def _running(state_file: Path) -> dict[str, Any] | None:
    """The state of a devnet whose process is alive."""
    try:
        state: dict[str, Any] = json.loads(state_file.read_text("utf-8"))
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return None
    return state


def _state() -> dict[str, Any]:
    state = _running(_state_file())
    if state is None:
        raise ConfigError("no devnet is up; start one with: infern devnet up")
    return state


def _control() -> ControlClient:
    return ControlClient(_state()["control_url"])


@devnet.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show nodes, balances and whether the books of the network add up."""
    control = _control()
    nodes = control.call("devnet_nodes")["nodes"]
    snapshot = control.call("devnet_snapshot")
    if as_json:
        emit_json({"nodes": nodes, "snapshot": snapshot})
        return
    for node in nodes:
        shown = ", ".join(
            f"{name.removesuffix('_shannon').replace('_', ' ')} {format_amount(amount)}"
            for name, amount in snapshot["balances_shannon"].get(node["name"], {}).items()
        )
        say(f"{node['name']:<9} {node['rpc_url']}  {'up' if node['online'] else 'down'}  {shown}")
    broken = snapshot["violations"]
    say("books: " + ("; ".join(broken) if broken else "every shannon accounted for"))


@devnet.command()
@click.argument("node")
@click.argument("amount")
def fund(node: str, amount: str) -> None:
    """Put coins into a node's wallet, e.g.: infern devnet fund consumer '1000 CKB'."""
    try:
        shannon = parse_ckb(amount)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    result = _control().call("devnet_fund", {"node": node, "amount_shannon": shannon})
    say(f"{node} has {format_amount(result['wallet_shannon'])} in its wallet")


@devnet.command()
@click.argument("blocks", type=click.IntRange(1, 10_000), default=1)
def mine(blocks: int) -> None:
    """Make blocks at once."""
    say(f"height {_control().call('devnet_mine', {'blocks': blocks})['height']}")


@devnet.command()
def down() -> None:
    """Stop the running network."""
    os.kill(int(_state()["pid"]), signal.SIGTERM)
    say("stopping")
