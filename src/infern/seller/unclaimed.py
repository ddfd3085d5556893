"""Crediting payments whose proof never came.

An offer lives two minutes. When its time is over the node is asked once what became of its invoice:
a payment that arrived and that nobody presented is booked, so that it counts as the payer's money.
Its token buys the answer or is redeemed as before. Offers are remembered in memory alone: what a
restart forgets is booked when its token comes.
"""

import logging
from typing import Final

from infern.core.errors import InfernError, LedgerError
from infern.core.f402.challenge import Challenge
from infern.core.fiber.errors import InvoiceNotFound
from infern.core.fiber.rpc import GetInvoice
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash
from infern.ports import Clock, Entropy, FiberNode, Ledger
from infern.seller.away import AwayNotice
from infern.seller.settlement import paid_request

ASK_TIMEOUT_MS: Final = 5_000
SWEEP_MS: Final = 5_000
SWEEP_BATCH: Final = 100
"""Questions of one sweep: four times what the limits on minting let through meanwhile."""
REMEMBERED: Final = 4_096
"""Offers waiting for their end; above it new ones are left to whoever has their token."""
GRACE_MS: Final = 30_000
"""How long after the expiry the question is asked: a payment may be on its way at that moment."""
LATE_MS: Final = 600_000
"""An invoice that is still open or arriving is asked about until then; the clocks may differ."""
LATER_MS: Final = 60_000
_OVER: Final = frozenset({InvoiceStatus.EXPIRED, InvoiceStatus.CANCELLED})
_log = logging.getLogger(__name__)


class UnclaimedWatch:
    """Books payments that nobody claimed. `run` must be running for anything to happen."""

    def __init__(self, *, ledger: Ledger, fiber: FiberNode, clock: Clock, entropy: Entropy) -> None:
        self._ledger = ledger
        self._fiber = fiber
        self._clock = clock
        self._entropy = entropy
        self._out: dict[PaymentHash, tuple[int, Challenge]] = {}
        self._away = AwayNotice("unclaimed payments")

    def __len__(self) -> int:
        return len(self._out)

    def remember(self, challenge: Challenge) -> None:
        """An upfront offer was made; one that is made again is remembered once."""
        if len(self._out) < REMEMBERED:
            due_ms = challenge.expires_at_s * 1000 + GRACE_MS
            self._out.setdefault(challenge.payment_hash, (due_ms, challenge))

    async def run(self) -> None:
        """Ask about offers whose time is over until cancelled."""
        while True:
            await self._clock.sleep_ms(SWEEP_MS)
            try:
                await self.sweep()
            except LedgerError as error:
                _log.warning("an unclaimed payment is not booked yet: %s", error.message)

    async def sweep(self) -> None:
        """Ask once about each offer that is due, some of them at a time.

        Raises:
            LedgerError: One could not be booked; it stays remembered.
        """
        now_ms = self._clock.now_ms()
        due = [challenge for due_ms, challenge in self._out.values() if due_ms <= now_ms]
        for challenge in due[:SWEEP_BATCH]:
            try:
                is_over = await self._settle(challenge, now_ms)
            except LedgerError:
                raise
            except InfernError as error:
                self._away.note(away=error)
                return  # the node is away for all of them
            if is_over:
                del self._out[challenge.payment_hash]
            else:
                self._out[challenge.payment_hash] = (now_ms + LATER_MS, challenge)

    async def _settle(self, challenge: Challenge, now_ms: int) -> bool:
        """Ask the node; True when there is nothing more to ask."""
        call = GetInvoice(payment_hash=challenge.payment_hash)
        try:
            record = await self._fiber.call(call, timeout_ms=ASK_TIMEOUT_MS)
        except InvoiceNotFound:
            return True
        self._away.note(away=None)
        if record.status is InvoiceStatus.PAID:
            paid = paid_request(challenge, self._entropy)
            if await self._ledger.credit_unclaimed(paid, now_ms=now_ms):
                _log.info("a payment of %d that nobody claimed is booked", challenge.amount)
            return True
        is_late = now_ms > challenge.expires_at_s * 1000 + LATE_MS
        return record.status in _OVER or is_late
