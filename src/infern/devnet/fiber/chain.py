"""A stand-in for the chain: wallets and block heights, no transactions.

Channels are funded here as entries only. Heights are a function of time while blocks come by
themselves, so an idle world has no events to run.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from infern.core.ckb.script import Script
from infern.devnet.fiber.clock import Timer

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network

MAX_MINED_AT_ONCE = 10_000


class ChainStub:
    """Wallets of all nodes, and blocks."""

    def __init__(self, network: "Network") -> None:
        self._network = network
        self._epoch_us = network.clock.now_us
        self._mined = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._timer: Timer | None = None
        self.wallets: defaultdict[tuple[str, Script | None], int] = defaultdict(int)
        self.minted: defaultdict[Script | None, int] = defaultdict(int)
        self.fees_paid = 0

    @property
    def _block_us(self) -> int:
        network = self._network
        return max(network.scaled_us(network.settings.latencies.block_ms), 1)

    @property
    def height(self) -> int:
        """Number of the tip."""
        if not self._network.settings.auto_mine:
            return self._mined
        return self._mined + (self._network.clock.now_us - self._epoch_us) // self._block_us

    def mint(self, name: str, amount: int, asset: Script | None = None) -> None:
        """Give a node money out of nothing."""
        self.wallets[(name, asset)] += amount
        self.minted[asset] += amount

    def debit(self, name: str, amount: int, asset: Script | None = None) -> bool:
        """Take from a wallet; False, and nothing taken, when it holds less."""
        if self.wallets[(name, asset)] < amount:
            return False
        self.wallets[(name, asset)] -= amount
        return True

    def credit(self, name: str, amount: int, asset: Script | None = None) -> None:
        """Pay into a wallet."""
        self.wallets[(name, asset)] += amount

    def burn_fee(self, amount: int) -> None:
        """Note a fee that left a wallet or a channel for the miners."""
        self.fees_paid += amount

    def after_blocks(self, count: int, callback: Callable[[], None]) -> None:
        """Run `callback` once `count` more blocks are there."""
        self._waiting.append((self.height + count, callback))
        self._arm()

    def mine(self, count: int) -> int:
        """Add `count` blocks now; returns the new height.

        Raises:
            ValueError: Nothing, or too much at once.
        """
        if not 0 < count <= MAX_MINED_AT_ONCE:
            raise ValueError(f"mine between 1 and {MAX_MINED_AT_ONCE} blocks at once")
        self._mined += count
        self._run_due()
        return self.height

    def _arm(self) -> None:
        if not self._network.settings.auto_mine or not self._waiting or self._timer is not None:
            return
        blocks = min(target for target, _ in self._waiting) - self._mined
        due_us = self._epoch_us + blocks * self._block_us
        self._timer = self._network.clock.call_at_us(due_us, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._run_due()

    def _run_due(self) -> None:
        height = self.height
        due = [entry for entry in self._waiting if entry[0] <= height]
        self._waiting = [entry for entry in self._waiting if entry[0] > height]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, callback in due:
            callback()
        self._arm()
