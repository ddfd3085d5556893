"""Looking after payments in hold mode until each is money or back with its payer.

A lock ties up the payer's money along the whole path, and nobody but the payee can end that before
Fiber's own time does, which can be two weeks. So this never gives up on one: what the ledger says
is to be settled or cancelled is asked about and acted on until the node says that it is done. The
ledger knows every open lock, so a restart goes on where the last process stopped.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio

from infern.core.errors import InfernError, LedgerError
from infern.core.f402.challenge import derive_preimage
from infern.core.fiber.call import RpcCall
from infern.core.fiber.errors import InvoiceNotFound, InvoiceStateConflict
from infern.core.fiber.rpc import CancelInvoice, GetInvoice, ListChannels, SettleInvoice
from infern.core.fiber.types import Channel, ChannelStateName, InvoiceStatus
from infern.core.ids import HoldId, PaymentHash
from infern.core.ledger.lock import Lock, LockEvent, LockState
from infern.ports import Clock, FiberNode, Ledger
from infern.seller.away import AwayNotice
from infern.seller.limits import address_prefix

CALL_TIMEOUT_MS: Final = 5_000
WAIT_MS: Final = (20, 40, 80, 160, 250, 500, 1_000, 2_000, 5_000, 10_000)
"""Waits between two looks at one lock; the last one repeats. The node's event ends a wait."""
SWEEP_MS: Final = 1_000
SWEEP_BATCH: Final = 500
FOLLOWED: Final = 1_000
"""Locks settled or cancelled at once; the sweep finds the rest later."""
CALLS_AT_ONCE: Final = 8
OFFER_ASK_MS: Final = 5_000
"""Between two questions about an offer that is out."""
EXPIRY_GRACE_MS: Final = 60_000
"""How far our clock may be ahead of the node's before an offer is taken for expired."""
RETELL_MS: Final = 5_000
"""After so long without an effect the node is told the preimage once more, which is harmless."""
TLC_GONE_MS: Final = 60_000
"""An invoice that is `Received` while no channel has its TLC for so long will never be paid."""
UNMADE_MS: Final = 600_000
"""How long after its expiry an offer is asked for that the node does not know."""
MISSING_MS: Final = 86_400_000
"""How long a claimed lock is asked for that the node does not know: long enough for an operator who
reads the log to bring the right node back."""
HOPELESS_MS: Final = 15 * 86_400_000
"""Fiber locks nothing for longer than 14 days."""
ALARM_MS: Final = 900_000
DRAIN_POLL_MS: Final = 50
_TO_FOLLOW: Final = frozenset({LockState.SETTLING, LockState.CANCELLING})
_GONE: Final = frozenset({InvoiceStatus.CANCELLED, InvoiceStatus.EXPIRED})
_ARRIVED: Final = frozenset({InvoiceStatus.RECEIVED, InvoiceStatus.PAID})
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class _Offered:
    """An offer that is out and not claimed, as this process sees it."""

    address: str
    next_ask_ms: int = 0
    arrived_ms: int | None = None


@dataclass(slots=True)
class _Told:
    """That the node was told a preimage, and since when no channel has the TLC."""

    at_ms: int
    absent_since_ms: int | None = None


class LockKeeper:
    """Settles and cancels locks. `run` must be running for anything to happen.

    Args:
        ledger: Where every lock stands.
        fiber: The payee's node.
        clock: For deadlines.
        preimage_key: Derives the preimages; see `SellerSecrets`.
        claim_ms: How long a payment that arrived waits for its proof.
        on_payout: Called when a lock that became money left a payout to be sent.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        fiber: FiberNode,
        clock: Clock,
        preimage_key: bytes,
        claim_ms: int,
        on_payout: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._fiber = fiber
        self._clock = clock
        self._preimage_key = preimage_key
        self._claim_ms = claim_ms
        self._on_payout = on_payout
        self._offers: dict[PaymentHash, _Offered] = {}
        self._unshown: set[PaymentHash] = set()
        self._told: dict[PaymentHash, _Told] = {}
        self._alarmed: set[PaymentHash] = set()
        self._followed: set[PaymentHash] = set()
        self._new: list[PaymentHash] = []
        self._wake = anyio.Event()
        self._calls = anyio.Semaphore(CALLS_AT_ONCE)
        self._away = AwayNotice("held payments")
        self.counts: Counter[LockState] = Counter()
        """How many locks ended in which state since this process began."""

    # What the seller's other parts tell.

    def unclaimed_of(self, address: str) -> int:
        """Offers to an address that are out and not claimed."""
        name = address_prefix(address)
        return sum(offered.address == name for offered in self._offers.values())

    def expect(self, payment_hash: PaymentHash, address: str) -> None:
        """A lock is about to be offered to this address."""
        self._offers[payment_hash] = _Offered(address_prefix(address))

    def claimed(self, payment_hash: PaymentHash) -> None:
        """A proof was taken; the offer is in nobody's way any more."""
        self._offers.pop(payment_hash, None)

    async def withdraw(self, payment_hash: PaymentHash) -> None:
        """An offer came to nothing before anybody saw its invoice."""
        self._unshown.add(payment_hash)
        await self._expire(payment_hash)

    async def deliver(self, payment_hash: PaymentHash) -> None:
        """Writing the answer ended: take the money.

        Raises:
            LedgerError: It could not be booked; try again, unless it is a conflict: then it ended
                otherwise.
        """
        await self._move(payment_hash, LockEvent.DELIVER)
        self.wake(payment_hash)

    async def give_back(self, payment_hash: PaymentHash, hold_id: HoldId) -> None:
        """The hold of a run was released: see to it that the payer has its money again.

        Also when the charge was booked although the seller did not hear so, and therefore did not
        deliver.

        Raises:
            LedgerError: It could not be booked; try again.
        """
        lock = await self._ledger.lock(payment_hash)
        if lock is None or lock.hold_id != hold_id:
            return
        if lock.state is LockState.CHARGED:
            await self._move(payment_hash, LockEvent.ABANDON)
        self.wake(payment_hash)

    def wake(self, payment_hash: PaymentHash) -> None:
        """Look at a lock now. One that needs nothing is left alone."""
        if payment_hash not in self._followed and len(self._followed) < FOLLOWED:
            self._followed.add(payment_hash)
            self._new.append(payment_hash)
            self._wake.set()

    # The task.

    async def run(self) -> None:
        """Look after all locks until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._sweep_for_ever)
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                new, self._new = self._new, []
                for payment_hash in new:
                    group.start_soon(self._follow, payment_hash)

    async def drain(self) -> None:
        """Before the process ends: cancel what nobody claimed and wait until nothing is under way.

        Who paid an offer of a seller that is gone would have its money locked for days. The caller
        limits the time; `run` must be running.
        """
        while True:
            try:
                left = await self._ledger.open_locks(limit=SWEEP_BATCH)
            except LedgerError as error:
                _log.warning("locks are left to the next start: %s", error.message)
                return
            for lock in left:
                if lock.state is LockState.OFFERED:
                    await self._expire(lock.payment_hash)
                self.wake(lock.payment_hash)
            if not any(lock.state in _TO_FOLLOW or lock.tab_id is None for lock in left):
                return
            await self._clock.sleep_ms(DRAIN_POLL_MS)

    async def _follow(self, payment_hash: PaymentHash) -> None:
        attempt = 0
        try:
            while not await self.look(payment_hash):
                wait_ms = WAIT_MS[min(attempt, len(WAIT_MS) - 1)]
                attempt += 1
                await self._fiber.wait_change(payment_hash, timeout_ms=wait_ms)
        finally:
            self._followed.discard(payment_hash)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except LedgerError as error:
                _log.warning("the sweep of locks could not reach the ledger: %s", error.message)
            await self._clock.sleep_ms(SWEEP_MS)

    async def sweep(self) -> None:
        """Look at every open lock once.

        Raises:
            LedgerError: The ledger is away.
        """
        skip, is_node_away = 0, False
        while True:
            batch = await self._ledger.open_locks(limit=SWEEP_BATCH, skip=skip)
            for lock in batch:
                self._alarm(lock)
                if lock.state is LockState.OFFERED:
                    # One question that finds the node away is enough for one sweep.
                    is_node_away = is_node_away or not await self._watch_offer(lock)
                    continue
                self.claimed(lock.payment_hash)
                if lock.state in _TO_FOLLOW:
                    self.wake(lock.payment_hash)
            if len(batch) < SWEEP_BATCH:
                return
            skip += len(batch)

    def _alarm(self, lock: Lock) -> None:
        age_ms = self._clock.now_ms() - lock.offered_ms
        if age_ms < ALARM_MS or lock.payment_hash in self._alarmed:
            return
        self._alarmed.add(lock.payment_hash)
        _log.error(
            "a payment in hold mode is open for %d minutes and still %s: %s",
            age_ms // 60_000,
            lock.state,
            lock.payment_hash.hex(),
        )

    # Offers that are out.

    async def _watch_offer(self, lock: Lock) -> bool:
        """See whether an offer was paid or expired; False when the node did not answer."""
        now_ms = self._clock.now_ms()
        offered = self._offers.setdefault(lock.payment_hash, _Offered(""))
        if now_ms < offered.next_ask_ms:
            return True
        offered.next_ask_ms = now_ms + OFFER_ASK_MS
        try:
            status = await self._status(lock.payment_hash)
        except InfernError as error:
            self._away.note(away=error)
            return False
        if status is InvoiceStatus.CANCELLED:
            await self._end(lock, LockEvent.GONE)
        elif status in _ARRIVED:
            offered.arrived_ms = now_ms if offered.arrived_ms is None else offered.arrived_ms
            until_ms = min(offered.arrived_ms + self._claim_ms, lock.claim_until_ms)
            offered.next_ask_ms = min(offered.next_ask_ms, until_ms)
            if now_ms >= until_ms:
                _log.info("nobody claimed a payment in hold mode; it is given back")
                await self._expire(lock.payment_hash)
        elif status is InvoiceStatus.EXPIRED or now_ms > lock.expires_ms + EXPIRY_GRACE_MS:
            await self._expire(lock.payment_hash)
        return True

    async def _expire(self, payment_hash: PaymentHash) -> None:
        try:
            await self._move(payment_hash, LockEvent.EXPIRE)
        except LedgerError as error:
            if error.code != "ledger_conflict":
                _log.warning("an offer could not be withdrawn yet: %s", error.message)
                return
            # Claimed a moment ago, or never booked.
        self.claimed(payment_hash)
        self.wake(payment_hash)

    # One lock that is to be settled or cancelled.

    async def look(self, payment_hash: PaymentHash) -> bool:
        """Do the next thing for one lock; True when nothing is left to do for it."""
        try:
            return await self._step(payment_hash)
        except LedgerError as error:
            _log.warning("what became of a held payment is not booked yet: %s", error.message)
        except InfernError as error:
            self._away.note(away=error)
        except Exception:  # noqa: BLE001 - one broken lock must not leave the others locked
            _log.exception("a held payment cannot be looked after; tried again")
        return False

    async def _step(self, payment_hash: PaymentHash) -> bool:
        lock = await self._ledger.lock(payment_hash)
        if lock is None or lock.ended_ms is not None:
            self._unshown.discard(payment_hash)
            return True
        if lock.state not in _TO_FOLLOW:
            return True
        status = await self._status(payment_hash)
        if status is InvoiceStatus.PAID:
            return await self._end(lock, LockEvent.PAID)
        if self._clock.now_ms() > lock.offered_ms + HOPELESS_MS:
            return await self._end(lock, LockEvent.GONE)
        if status is None:
            return await self._missing(lock)
        if lock.state is LockState.SETTLING:
            return await self._settle(lock, status)
        return await self._cancel(lock, status)

    async def _settle(self, lock: Lock, status: InvoiceStatus) -> bool:
        if status in _GONE:
            return await self._end(lock, LockEvent.GONE)
        told = self._told.get(lock.payment_hash)
        now_ms = self._clock.now_ms()
        if told is not None and now_ms < told.at_ms + RETELL_MS:
            return False
        await self._tell(lock)
        if told is None or status is not InvoiceStatus.RECEIVED:
            return False
        return await self._is_tlc_gone(lock, told) and await self._end(lock, LockEvent.GONE)

    async def _tell(self, lock: Lock) -> None:
        """Tell the node the preimage, here and nowhere else."""
        preimage = derive_preimage(self._preimage_key, lock.nonce)
        if hashlib.sha256(preimage).digest() != lock.payment_hash:
            # It can never be settled any more; at least the payer is to have its money back.
            _log.error("the seller's preimage key was changed while a payment was held")
            await self._call(CancelInvoice(payment_hash=lock.payment_hash))
            return
        try:
            await self._call(SettleInvoice(payment_hash=lock.payment_hash, preimage=preimage))
        except InvoiceStateConflict as conflict:
            _log.info("the node does not settle now, it is asked again: %s", conflict.message)
        told = self._told.setdefault(lock.payment_hash, _Told(0))
        told.at_ms = self._clock.now_ms()

    async def _is_tlc_gone(self, lock: Lock, told: _Told) -> bool:
        """Whether the payment can never come: its TLC was given back behind our back."""
        channels = await self._call(ListChannels(include_closed=True))
        if any(_may_hold(channel, lock.payment_hash) for channel in channels):
            told.absent_since_ms = None
            return False
        now_ms = self._clock.now_ms()
        if told.absent_since_ms is None:
            told.absent_since_ms = now_ms
        return now_ms >= told.absent_since_ms + TLC_GONE_MS

    async def _cancel(self, lock: Lock, status: InvoiceStatus) -> bool:
        if status is not InvoiceStatus.CANCELLED:
            # One that has expired unpaid is cancelled too: then no clock can revive it.
            try:
                record = await self._call(CancelInvoice(payment_hash=lock.payment_hash))
            except InvoiceStateConflict as conflict:
                if conflict.invoice_status not in _GONE:
                    return False
            else:
                if record.status is not InvoiceStatus.CANCELLED:
                    return False
        return await self._end(lock, LockEvent.GONE)

    async def _missing(self, lock: Lock) -> bool:
        """The node knows no such invoice: it never made it, or it is another node by now."""
        now_ms = self._clock.now_ms()
        if lock.tab_id is None:
            never_shown = lock.payment_hash in self._unshown
            if never_shown or now_ms > lock.expires_ms + UNMADE_MS:
                return await self._end(lock, LockEvent.GONE)
            return False
        if now_ms > lock.offered_ms + MISSING_MS:
            return await self._end(lock, LockEvent.GONE)
        if lock.payment_hash not in self._alarmed:
            self._alarmed.add(lock.payment_hash)
            _log.error(
                "the Fiber node does not know the held payment %s; is it the node that made it?",
                lock.payment_hash.hex(),
            )
        return False

    async def _end(self, lock: Lock, event: LockEvent) -> bool:
        ended = await self._move(lock.payment_hash, event)
        self.counts[ended.state] += 1
        self.claimed(lock.payment_hash)
        self._unshown.discard(lock.payment_hash)
        self._alarmed.discard(lock.payment_hash)
        self._told.pop(lock.payment_hash, None)
        if ended.state is LockState.LOST:
            _log.error(
                "an answer was delivered and its held payment of %d was gone before it could be "
                "taken: %s",
                lock.amount,
                lock.payment_hash.hex(),
            )
        else:
            _log.debug("a held payment is %s", ended.state)
        if ended.state is LockState.SETTLED and ended.payout_id is not None:
            self._on_payout()
        return True

    async def _status(self, payment_hash: PaymentHash) -> InvoiceStatus | None:
        """What the node says of an invoice; None when it does not know it."""
        try:
            record = await self._call(GetInvoice(payment_hash=payment_hash))
        except InvoiceNotFound:
            return None
        return record.status

    async def _call(self, call: RpcCall[T]) -> T:
        async with self._calls:
            result = await self._fiber.call(call, timeout_ms=CALL_TIMEOUT_MS)
        self._away.note(away=None)
        return result

    async def _move(self, payment_hash: PaymentHash, event: LockEvent) -> Lock:
        return await self._ledger.move_lock(payment_hash, event, now_ms=self._clock.now_ms())


def _may_hold(channel: Channel, payment_hash: PaymentHash) -> bool:
    """Whether a channel has the payment's TLC, or may pay it out on chain."""
    if any(tlc.payment_hash == payment_hash for tlc in channel.pending_tlcs):
        return True
    return (
        channel.state.name is ChannelStateName.SHUTTING_DOWN
        or "WAITING_ONCHAIN_SETTLEMENT" in channel.state.flags
    )
