"""What every consumer command needs: the seller, the Fiber node, the network, the wallet."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import anyio
import click
import openai

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.home import infern_home
from infern.cli.settings import Settings
from infern.client.budget import Budget
from infern.client.wallet import PayMode, Wallet
from infern.core.errors import CODES, ConfigError, ProtocolError, TransportError
from infern.core.units import Network
from infern.sdk import AsyncInfern, close_wallet, open_wallet, pay_mode

KINDS: Final[dict[str, dict[str, type]]] = {
    "consumer": {
        "base_url": str,
        "api_key": str,
        "network": str,
        "refund_to": str,
        "mode": str,
    },
    "fiber": {"rpc_url": str, "rpc_token": str},
    "budget": dict.fromkeys(
        ("per_request", "per_session", "per_day", "per_lock", "locked", "locks"), int
    ),
}
DEFAULT_RPC_URL: Final = "http://127.0.0.1:8227"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A consumer's set-up, from `consumer.toml`, variables and flags.

    Args:
        settings: For `--print-config`.
        base_url: The seller's API; empty when none is set.
        api_key: A prepaid key; empty for none.
        network: The CKB and Fiber network.
        rpc_url: The Fiber node.
        rpc_token: Its biscuit; None for none.
        budget: What may be paid unasked.
        refund_to: Where sellers send what a paid request did not cost: a node's public key, `node`
            for the one above, or empty for nowhere.
        mode: How requests are paid for.
    """

    settings: Settings
    base_url: str
    api_key: str
    network: Network
    rpc_url: str
    rpc_token: str | None
    budget: Budget
    refund_to: str = ""
    mode: PayMode = PayMode.UPFRONT

    def seller(self) -> str:
        """The seller's API.

        Raises:
            ConfigError: None is set.
        """
        if not self.base_url:
            raise ConfigError(
                "which seller? Name one with --base-url https://…/v1, INFERN_BASE_URL, "
                f"or base_url under [consumer] in {infern_home() / 'consumer.toml'}"
            )
        return self.base_url

    def node(self) -> FiberRpcClient:
        """A client of the Fiber node, to be opened and closed."""
        return FiberRpcClient(self.rpc_url, token=self.rpc_token)

    @asynccontextmanager
    async def wallet(self, *, pays: bool = False) -> AsyncIterator[Wallet]:
        """The wallet with its journal, closed again with its nodes.

        Args:
            pays: It pays for requests, so that it matters how, and where remainders go.
        """
        opened = open_wallet(
            fiber_rpc_url=self.rpc_url,
            fiber_rpc_token=self.rpc_token,
            network=self.network,
            budget=self.budget,
            refund_to=self.refund_to if pays else "",
        )
        wallet = replace(opened, mode=self.mode)
        try:
            yield wallet
        finally:
            if isinstance(wallet.node, FiberRpcClient):
                await wallet.node.aclose()
            close_wallet(wallet)

    @asynccontextmanager
    async def client(self, *, pays: bool = False) -> AsyncIterator[AsyncInfern]:
        """A client of the seller, closed again with its node and journal; `pays` as for `wallet`.

        Raises:
            InfernError: What the seller refused or the wire broke, in our own words.
        """
        base_url, api_key = self.seller(), self.api_key or None
        try:
            async with (
                self.wallet(pays=pays) as wallet,
                AsyncInfern(base_url=base_url, api_key=api_key, wallet=wallet) as client,
            ):
                yield client
        except openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            code = body.get("code")
            raise ProtocolError(
                str(body.get("message") or error.message), code=code if code in CODES else None
            ) from error
        except openai.APIConnectionError as error:
            raise TransportError(
                f"the seller at {base_url} does not answer; is the address right?"
            ) from error


def load_consumer(flags: dict[str, Any]) -> Consumer:
    """Read the set-up; `flags` come from `consumer_options`."""
    settings = Settings(KINDS, unnamed="consumer")
    settings.add_file(infern_home() / "consumer.toml", required=False)
    settings.add_environment()
    settings.set_flags("consumer", {name: flags.get(name) for name in KINDS["consumer"]})
    settings.set_flags("fiber", {"rpc_url": flags.get("rpc_url")})
    document = settings.document
    consumer, fiber = document.get("consumer", {}), document.get("fiber", {})
    try:
        network = Network(consumer.get("network", Network.TESTNET.value))
        budget = Budget(**document.get("budget", {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the consumer's configuration cannot be used: {error}") from error
    return Consumer(
        settings=settings,
        base_url=str(consumer.get("base_url", "")).rstrip("/"),
        api_key=str(consumer.get("api_key", "")),
        network=network,
        rpc_url=str(fiber.get("rpc_url", DEFAULT_RPC_URL)),
        rpc_token=fiber.get("rpc_token") or None,
        budget=budget,
        refund_to=str(consumer.get("refund_to", "")),
        mode=pay_mode(str(consumer.get("mode", PayMode.UPFRONT.value))),
    )


def seller_options(command: Callable[..., None]) -> Callable[..., None]:
    """Flags of commands that talk to a seller."""
    for option in (
        click.option("--base-url", help="The seller's API, e.g. http://127.0.0.1:9402/v1."),
        click.option("--api-key", help="A prepaid key (inf_sk_…)."),
    ):
        command = option(command)
    return node_options(command)


def paying_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of commands that pay for requests."""
    for option in (
        click.option(
            "--refund-to",
            metavar="KEY",
            help="Have what a paid request did not cost sent to this Fiber node, or yours: node.",
        ),
        click.option(
            "--mode",
            type=click.Choice([mode.value for mode in PayMode]),
            help="Pay before the answer, or in hold mode: taken when the seller has delivered.",
        ),
    ):
        command = option(command)
    return command


def node_options(command: Callable[..., None]) -> Callable[..., None]:
    """Flags of commands that use the Fiber node."""
    for option in (
        click.option("--fiber-rpc", "rpc_url", help="Your Fiber node's JSON-RPC."),
        click.option("--network", type=click.Choice([n.value for n in Network])),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ):
        command = option(command)
    return command


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's coroutine."""
    return anyio.run(work)
