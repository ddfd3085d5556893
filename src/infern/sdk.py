"""The consumer's composition root: builds wallets and clients from arguments and environment.

    from infern import Infern
    client = Infern(base_url="https://router.example/v1")

The Fiber node is named by `fiber_rpc_url` or `INFERN_FIBER_RPC_URL` (token:
`INFERN_FIBER_RPC_TOKEN`); without one nothing is paid per request and a prepaid key is needed.
The payment journal lives in `INFERN_HOME`.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.fiber_rpc_sync import FiberRpcSyncClient
from infern.adapters.home import infern_home
from infern.adapters.secp256k1 import CoincurveVerifier
from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.system import SystemClock
from infern.client import openai as clients
from infern.client.budget import Budget
from infern.client.wallet import Patience, PayMode, Pinned, Wallet
from infern.core.errors import ConfigError, RemoteProtocolError
from infern.core.fiber.rpc import GetNodeInfo
from infern.core.ids import Pubkey, parse_pubkey
from infern.core.units import Network

__all__ = ["AsyncInfern", "Infern", "close_wallet", "open_wallet", "pay_mode"]

RPC_URL_VARIABLE: Final = "INFERN_FIBER_RPC_URL"
RPC_TOKEN_VARIABLE: Final = "INFERN_FIBER_RPC_TOKEN"  # noqa: S105 - a variable's name
NETWORK_VARIABLE: Final = "INFERN_NETWORK"
BASE_URL_VARIABLE: Final = "INFERN_BASE_URL"
API_KEY_VARIABLE: Final = "INFERN_API_KEY"
REFUND_TO_VARIABLE: Final = "INFERN_REFUND_TO"
MODE_VARIABLE: Final = "INFERN_MODE"
OWN_NODE: Final = "node"


def open_wallet(
    *,
    fiber_rpc_url: str | None = None,
    fiber_rpc_token: str | None = None,
    network: Network | str | None = None,
    budget: Budget | None = None,
    home: Path | None = None,
    patience: Patience | None = None,
    pinned: Mapping[str, Pinned] | None = None,
    refund_to: str | None = None,
) -> Wallet:
    """Open a wallet: a Fiber node, the journal and a budget.

    It pays upfront unless `INFERN_MODE` says otherwise; see `Infern`.

    Args:
        fiber_rpc_url: The node's JSON-RPC; default `INFERN_FIBER_RPC_URL`, else no node.
        fiber_rpc_token: Its biscuit; default `INFERN_FIBER_RPC_TOKEN`.
        network: `mainnet`, `testnet` or `dev`; default `INFERN_NETWORK`, else testnet.
        budget: How much may be paid unasked.
        home: Where the journal lives; default `INFERN_HOME`, else the platform's data directory.
        patience: Limits of waiting.
        pinned: What is known of sellers beforehand, by origin.
        refund_to: Where sellers send what a paid request did not cost: a Fiber node's public key,
            or `node` for the one above, which is asked for its key. Default `INFERN_REFUND_TO`,
            else nowhere, as with an empty text: it stays with the seller, to be redeemed. Sellers
            learn which node it is.

    Raises:
        ConfigError: Something of it cannot be used.
        TransportError: `refund_to` is `node`, and the node does not answer.
    """
    url = fiber_rpc_url or os.environ.get(RPC_URL_VARIABLE)
    token = fiber_rpc_token or os.environ.get(RPC_TOKEN_VARIABLE)
    sync_node = FiberRpcSyncClient(url, token=token) if url else None
    return Wallet(
        refund_to=_refund_to(
            os.environ.get(REFUND_TO_VARIABLE) if refund_to is None else refund_to, sync_node
        ),
        journal=SqliteJournal((home or infern_home()) / "client"),
        budget=budget or Budget(),
        verifier=CoincurveVerifier(),
        clock=SystemClock(),
        network=_network(network or os.environ.get(NETWORK_VARIABLE) or Network.TESTNET),
        session=secrets.token_hex(16),
        node=FiberRpcClient(url, token=token) if url else None,
        sync_node=sync_node,
        patience=patience or Patience(),
        pinned=pinned or {},
        mode=pay_mode(os.environ.get(MODE_VARIABLE) or PayMode.UPFRONT),
    )


def _refund_to(text: str | None, node: FiberRpcSyncClient | None) -> Pubkey | None:
    if not text:
        return None
    if text == OWN_NODE:
        if node is None:
            raise ConfigError("remainders cannot go to your node: none is set")
        return node.call(GetNodeInfo()).pubkey
    try:
        return parse_pubkey(text)
    except RemoteProtocolError as error:
        raise ConfigError(
            f"refund_to is a Fiber node's public key in hex, or {OWN_NODE!r}: {error.message}"
        ) from error


def close_wallet(wallet: Wallet) -> None:
    """Close what a wallet holds open in this process; payments on record stay there.

    An async node that was used is closed first by `await wallet.node.aclose()`.
    """
    if isinstance(wallet.sync_node, FiberRpcSyncClient):
        wallet.sync_node.close()
    wallet.journal.close()


def _network(name: Network | str) -> Network:
    try:
        return Network(name)
    except ValueError:
        known = ", ".join(network.value for network in Network)
        raise ConfigError(f"{name!r} is not a network; it is one of {known}") from None


def pay_mode(name: PayMode | str) -> PayMode:
    """How to pay, by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    try:
        return PayMode(name)
    except ValueError:
        known = ", ".join(mode.value for mode in PayMode)
        raise ConfigError(f"{name!r} is no way to pay; it is one of {known}") from None


def _adjusted(wallet: Wallet | None, budget: Budget | None, mode: PayMode | str | None) -> Wallet:
    if wallet is None:
        wallet = open_wallet(budget=budget)
    elif budget is not None:
        wallet = replace(wallet, budget=budget)
    return wallet if mode is None else replace(wallet, mode=pay_mode(mode))


def _base_url(base_url: str | httpx2.URL | None) -> str | httpx2.URL:
    found = base_url or os.environ.get(BASE_URL_VARIABLE)
    if not found:
        raise ConfigError(f"no seller: pass base_url or set {BASE_URL_VARIABLE}")
    return found


class Infern(clients.Infern):
    """The synchronous client with a wallet of its own when none is passed.

    Args:
        base_url: The seller's API; default `INFERN_BASE_URL`.
        api_key: A prepaid key of that seller; default `INFERN_API_KEY`, else pay per request.
        wallet: What to pay with; default `open_wallet()`.
        budget: Replaces the wallet's.
        mode: Replaces the wallet's way to pay for requests: `upfront`; `hold`, where the seller
            takes the payment when it has delivered and gives it back otherwise; or
            `hold_or_upfront`.
        options: As `infern.client.openai.Infern`.
    """

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL | None = None,
        api_key: str | None = None,
        wallet: Wallet | None = None,
        budget: Budget | None = None,
        mode: PayMode | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            base_url=_base_url(base_url),
            api_key=api_key or os.environ.get(API_KEY_VARIABLE),
            wallet=_adjusted(wallet, budget, mode),
            **options,
        )
        self._owns_wallet = wallet is None

    def close(self) -> None:
        """Close the connections, and the wallet when it was made here."""
        super().close()
        if self._owns_wallet:
            close_wallet(self.wallet)


class AsyncInfern(clients.AsyncInfern):
    """The asynchronous client; as `Infern`."""

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL | None = None,
        api_key: str | None = None,
        wallet: Wallet | None = None,
        budget: Budget | None = None,
        mode: PayMode | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            base_url=_base_url(base_url),
            api_key=api_key or os.environ.get(API_KEY_VARIABLE),
            wallet=_adjusted(wallet, budget, mode),
            **options,
        )
        self._owns_wallet = wallet is None

    async def close(self) -> None:
        """Close the connections, and the wallet when it was made here."""
        await super().close()
        if not self._owns_wallet:
            return
        if isinstance(self.wallet.node, FiberRpcClient):
            await self.wallet.node.aclose()
        close_wallet(self.wallet)
