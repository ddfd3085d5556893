"""Watching top-up invoices until they are paid or expired: the payer need do nothing.

The ledger knows every open top-up, so a restart resumes where it stopped. The node's events only
wake this up sooner; what counts is what the node answers when asked.
"""

import logging
from typing import Final

import anyio

from infern.core.errors import InfernError, LedgerError
from infern.core.fiber.rpc import GetInvoice
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash
from infern.core.ledger.records import Topup, TopupState
from infern.ports import Clock, FiberNode, Ledger
from infern.seller.away import AwayNotice
from infern.seller.keys import KeyRing

ASK_TIMEOUT_MS: Final = 5_000
WAIT_MS: Final = (50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
"""Waits between two questions about one invoice; the last one repeats. The node's event ends a wait
at once, so the long ones only cost time where events are not to be had."""
SWEEP_MS: Final = 5_000
WATCHED: Final = 1_000
"""Top-ups watched closely at once; the sweep sees to the rest."""
SWEEP_BATCH: Final = 500
GRACE_MS: Final = 600_000
"""An expired invoice whose payment was already on its way may still be paid; ask that long."""
_log = logging.getLogger(__name__)


class TopupWatch:
    """Credits paid top-ups. `run` must be running for anything to happen."""

    def __init__(
        self, *, ledger: Ledger, fiber: FiberNode, clock: Clock, keys: KeyRing, empty_key_s: int
    ) -> None:
        self._ledger = ledger
        self._fiber = fiber
        self._clock = clock
        self._keys = keys
        self._empty_key_ms = empty_key_s * 1000
        self._watched: set[PaymentHash] = set()
        self._new: list[Topup] = []
        self._wake = anyio.Event()
        self._away = AwayNotice("top-ups")

    def watch(self, topup: Topup) -> None:
        """Look after a new top-up closely, if there is room; the sweep finds it otherwise."""
        if len(self._watched) + len(self._new) < WATCHED:
            self._new.append(topup)
            self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._sweep_for_ever)
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                new, self._new = self._new, []
                for topup in new:
                    self._watched.add(topup.payment_hash)
                    group.start_soon(self._follow, topup)

    async def _follow(self, topup: Topup) -> None:
        try:
            attempt = 0
            while self._clock.now_ms() < topup.expires_ms:
                if await self.look(topup):
                    return
                wait_ms = WAIT_MS[min(attempt, len(WAIT_MS) - 1)]
                attempt += 1
                await self._fiber.wait_change(topup.payment_hash, timeout_ms=wait_ms)
        finally:
            self._watched.discard(topup.payment_hash)

    async def _sweep_for_ever(self) -> None:
        skip = 0
        while True:
            try:
                # Batch after batch, or whoever opens many top-ups would hide all later ones.
                batch = await self._ledger.open_topups(limit=SWEEP_BATCH, skip=skip)
                skip = skip + len(batch) if len(batch) == SWEEP_BATCH else 0
                for topup in batch:
                    if topup.payment_hash in self._watched:
                        continue
                    if await self.look(topup) and skip:
                        skip -= 1  # it is not in the way of the next batch any more
                await self._forget_empty_keys()
            except LedgerError:
                _log.exception("the top-up sweep could not reach the ledger")
            await self._clock.sleep_ms(SWEEP_MS)

    async def _forget_empty_keys(self) -> None:
        before_ms = self._clock.now_ms() - self._empty_key_ms
        if await self._ledger.delete_empty_keys(created_before_ms=before_ms, limit=SWEEP_BATCH):
            self._keys.forget_all()

    async def look(self, topup: Topup) -> bool:
        """`settle`, but a top-up that cannot be booked now is left to the next look."""
        try:
            return await self.settle(topup)
        except LedgerError as error:
            _log.warning("a top-up of %s is not booked yet: %s", topup.key_id, error.message)
            return False

    async def settle(self, topup: Topup) -> bool:
        """Ask the node once; True when the top-up's outcome is known and booked.

        Raises:
            LedgerError: It could not be booked; ask again.
        """
        try:
            record = await self._fiber.call(
                GetInvoice(payment_hash=topup.payment_hash), timeout_ms=ASK_TIMEOUT_MS
            )
        except InfernError as error:
            self._away.note(away=error)
            return False
        self._away.note(away=None)
        now_ms = self._clock.now_ms()
        if record.status is InvoiceStatus.PAID:
            await self._ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=now_ms)
            _log.info("top-up of %s for %s credited", topup.amount, topup.key_id)
            return True
        gone = record.status in (InvoiceStatus.EXPIRED, InvoiceStatus.CANCELLED)
        if gone and now_ms > topup.expires_ms + GRACE_MS:
            await self._ledger.end_topup(topup.payment_hash, TopupState.EXPIRED, now_ms=now_ms)
            return True
        return False
