"""Payments in hold mode in the terminal: how much is locked, since when, and until when."""

from dataclasses import dataclass
from typing import Any

from infern.cli.output import say
from infern.client.api import still_held
from infern.client.held import LATE_MS, lock_details, lock_text
from infern.client.journal import Attempt
from infern.client.wallet import Wallet
from infern.core.errors import InfernError
from infern.core.fiber.rpc import ListChannels
from infern.core.fiber.types import Channel

TIMEOUT_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPayments:
    """Payments in hold mode that were neither taken nor given back.

    Args:
        rows: Oldest first.
        channels: Of the payer's node, whose TLCs say how long each is locked at most.
    """

    rows: tuple[Attempt, ...]
    channels: tuple[Channel, ...] = ()

    def late(self, now_ms: int) -> list[Attempt]:
        """Those a seller that does its duty would have ended by now."""
        return [row for row in self.rows if now_ms - row.created_ms >= LATE_MS]

    def to_json(self) -> list[dict[str, Any]]:
        """For programs."""
        return [
            {**lock_details(row, self.channels), "origin": row.origin, "state": row.state.value}
            for row in self.rows
        ]

    def texts(self) -> list[str]:
        """One line each, for people."""
        return [f"{lock_text(row, self.channels)} ({row.state.value})" for row in self.rows]

    def show(self) -> None:
        """Print them, if there are any."""
        for text in self.texts():
            say(f"in hold mode {text}")


async def held_payments(wallet: Wallet) -> HeldPayments:
    """Ask the node about them, then list those that are left. A node that is away is no error."""
    rows = tuple(await still_held(wallet))
    if not rows or wallet.node is None:
        return HeldPayments(rows=rows)
    try:
        channels = await wallet.node.call(ListChannels(), timeout_ms=TIMEOUT_MS)
    except InfernError:
        channels = ()
    return HeldPayments(rows=rows, channels=tuple(channels))
