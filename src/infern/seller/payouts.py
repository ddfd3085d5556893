"""The desk that sends money out: what a key's owner withdraws, and remainders on their way back.

The ledger holds a payout's amount, with what routing may take, before anything is sent, and says
`SENDING` before the node is told. From then on the node is asked and never told again, unless it
was certainly not reached or certainly knows nothing. A keysend whose answer was lost is searched
for among the node's payments by its name; it returns to its tab only when search after search did
not find it.

Everything is resumed from the ledger: this process may end at any point.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from infern.core.errors import InfernError, LedgerError
from infern.core.ids import PaymentHash, PayoutId, Pubkey
from infern.core.ledger.payout import Payout, PayoutEvent, PayoutPurpose, PayoutState
from infern.ports import Clock, Ledger
from infern.seller.sending import Fate, Outcome, Sender
from infern.seller.waiting import happens_within

BATCH: Final = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often and how long the desk tries. Every wait of a payout has its limit here.

    Args:
        sweep_ms: Between two looks at the ledger for payouts to attend to.
        attended: Payouts attended to at once.
        per_payee: Payouts on their way to one node at once, so that a node that takes nothing
            does not fill the seller's channels.
        follow_ms: Waits between two questions right after sending; events end them sooner.
        later_ms: Waits before one is looked at again; the last repeats.
        route_tries: Times a route for a remainder is looked for before it stays where it is.
        unsent_ms: A payout that could not be sent for so long returns to its tab.
        late_ms: An invoice the node does not know returns so long after its expiry.
        search_ms: Between two searches for keysends whose answer was lost.
        searches: Searches in a row that must find nothing before one returns to its tab.
        alarm_ms: One that is on its way for longer is logged, again and again.
    """

    sweep_ms: int = 5_000
    attended: int = 16
    per_payee: int = 4
    follow_ms: tuple[int, ...] = (50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000)
    later_ms: tuple[int, ...] = (1_000, 5_000, 15_000, 60_000)
    route_tries: int = 4
    unsent_ms: int = 600_000
    late_ms: int = 600_000
    search_ms: int = 60_000
    searches: int = 11
    alarm_ms: int = 3_600_000


@dataclass(slots=True)
class _Progress:
    """What this process knows of one open payout beyond the ledger; all of it may be lost."""

    looks: int = 0
    next_ms: int = 0
    is_busy: bool = False
    is_unsent: bool = False
    """It is `SENDING`, and the node was certainly not reached."""
    was_seen: bool = False
    """The node had the payment; if it has it no more, its store was lost."""
    payment_hash: PaymentHash | None = None
    alarmed_ms: int = 0


class PayoutDesk:
    """Sends and follows payouts. `run` must be running for anything to happen.

    Args:
        ledger: Where payouts are recorded.
        sender: Speaks with the node.
        clock: Time and waiting.
        in_flight: Payouts on their way at once.
        pace: How often and how long it tries.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        sender: Sender,
        clock: Clock,
        in_flight: int,
        pace: Pace | None = None,
    ) -> None:
        self._ledger = ledger
        self._sender = sender
        self._clock = clock
        self._in_flight = in_flight
        self._pace = pace or Pace()
        self._progress: dict[PayoutId, _Progress] = {}
        self._flying: dict[PayoutId, Pubkey] = {}
        self._lost: dict[PayoutId, int] = {}
        self._watchers: dict[PayoutId, set[anyio.Event]] = {}
        self._woken = anyio.Event()
        self._has_lost = anyio.Event()
        self._attended = 0
        self._has_more = False
        self.open_count = 0

    def wake(self) -> None:
        """Look at the ledger now: it may have a new payout."""
        self._woken.set()

    @contextmanager
    def watching(self, payout_id: PayoutId) -> Iterator[anyio.Event]:
        """An event that is set once the end of a payout is booked, from now on."""
        ended = anyio.Event()
        self._watchers.setdefault(payout_id, set()).add(ended)
        try:
            yield ended
        finally:
            self._watchers[payout_id].discard(ended)
            if not self._watchers[payout_id]:
                del self._watchers[payout_id]

    async def run(self) -> None:
        """Attend to payouts until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._search_for_ever)
            while True:
                self._woken = anyio.Event()
                try:
                    await self.sweep(group)
                except InfernError as error:
                    _log.warning("the open payouts cannot be read: %s", error.message)
                except Exception:  # noqa: BLE001 - a bug here must not end the seller
                    _log.exception("the payouts cannot be looked after")
                await happens_within(self._woken, self._pace.sweep_ms, self._clock)

    async def sweep(self, group: TaskGroup) -> None:
        """Begin to attend to every open payout that is due, oldest first, as far as there is room.

        Raises:
            LedgerError: The open payouts could not be read.
        """
        payouts = await self._open_payouts()
        self._forget_ended({payout.payout_id for payout in payouts})
        for payout in payouts:
            if payout.state is PayoutState.SENDING and payout.payout_id not in self._flying:
                self._flying[payout.payout_id] = self._sender.destination(payout).payee
        now_ms = self._clock.now_ms()
        self._has_more = False
        for payout in payouts:
            progress = self._progress.setdefault(payout.payout_id, _Progress())
            if not self._is_due(payout, progress, now_ms):
                continue
            if self._attended >= self._pace.attended:
                self._has_more = True
                break
            progress.is_busy = True
            self._attended += 1
            group.start_soon(self._attend, payout, progress)

    async def _open_payouts(self) -> list[Payout]:
        found: list[Payout] = []
        while True:
            batch = await self._ledger.open_payouts(limit=BATCH, skip=len(found))
            found += batch
            if len(batch) < BATCH:
                self.open_count = len(found)
                return found

    def _forget_ended(self, still_open: set[PayoutId]) -> None:
        for payout_id, progress in list(self._progress.items()):
            if payout_id not in still_open and not progress.is_busy:
                self._drop(payout_id)

    def _is_due(self, payout: Payout, progress: _Progress, now_ms: int) -> bool:
        if progress.is_busy or payout.payout_id in self._lost:
            return False
        # A clock that was set back must not keep a payout waiting until it has caught up.
        is_early = now_ms < progress.next_ms <= now_ms + self._pace.later_ms[-1]
        return not is_early

    async def _attend(self, payout: Payout, progress: _Progress) -> None:
        """Do for one payout what can be done now, and book what came of it."""
        try:
            if payout.state is PayoutState.OWED:
                payout, outcome = await self._begin(payout, progress)
            else:
                outcome = await self._go_on(payout, progress)
            await self._book(payout, progress, outcome)
        except LedgerError as error:
            _log.warning("payout %s is not booked yet: %s", payout.payout_id, error.message)
            self._postpone(progress)
        except Exception:  # noqa: BLE001 - one broken payout must not keep the others waiting
            _log.exception("payout %s cannot be attended to", payout.payout_id)
            self._postpone(progress)
        finally:
            progress.is_busy = False
            self._attended -= 1
            if self._has_more:
                self.wake()

    async def _begin(self, payout: Payout, progress: _Progress) -> tuple[Payout, Outcome]:
        """Send one that is owed, if its turn has come; returns it as it stands then."""
        payee = self._sender.destination(payout).payee
        to_payee = sum(other == payee for other in self._flying.values())
        if len(self._flying) >= self._in_flight or to_payee >= self._pace.per_payee:
            return payout, Outcome(fate=Fate.UNSENT, failure="overloaded")
        # Taken before the first wait, or two that begin together would both find room.
        self._flying[payout.payout_id] = payee
        try:
            obstacle = await self._sender.rehearse(payout)
            if obstacle is not None:
                return payout, obstacle
            # A keysend that was told to the node must be noted, also while this process stops.
            with anyio.CancelScope(shield=payout.invoice is None):
                payout = await self._ledger.move_payout(
                    payout.payout_id, PayoutEvent.SEND, now_ms=self._clock.now_ms()
                )
                outcome = await self._send(payout, progress)
        finally:
            if payout.state is PayoutState.OWED:
                self._flying.pop(payout.payout_id, None)
        if outcome.payment_hash is not None:
            followed = await self._sender.follow(
                outcome.payment_hash, waits_ms=self._pace.follow_ms
            )
            outcome = followed if followed.fate is not Fate.MISSING else outcome
        return payout, outcome

    async def _go_on(self, payout: Payout, progress: _Progress) -> Outcome:
        """Learn what became of one that is being sent; tell the node only if it was not reached."""
        if progress.is_unsent:
            return await self._send(payout, progress)
        payment_hash = progress.payment_hash or payout.payment_hash
        if payment_hash is None:
            self._search_for(payout)
            return Outcome(fate=Fate.OPEN)
        outcome = await self._sender.look(payment_hash)
        if outcome.fate is Fate.MISSING:
            return await self._resend(payout, progress)
        progress.was_seen |= not outcome.failure
        return outcome

    async def _send(self, payout: Payout, progress: _Progress) -> Outcome:
        """Tell the node; the ledger says `SENDING` already."""
        if payout.invoice is not None:
            outcome = await self._sender.pay(
                payout, timeout_ms=sum(self._pace.follow_ms), lookup_first=progress.is_unsent
            )
            progress.is_unsent = outcome.fate is Fate.UNSENT
            return outcome
        with anyio.CancelScope(shield=True):
            outcome = await self._sender.push(payout)
            progress.is_unsent = outcome.fate is Fate.UNSENT
            progress.payment_hash = outcome.payment_hash
            if outcome.payment_hash is not None:
                await self._note(payout, outcome.payment_hash)
            elif outcome.fate is Fate.OPEN:
                self._search_for(payout)
        return outcome

    async def _note(self, payout: Payout, payment_hash: PaymentHash) -> None:
        try:
            await self._ledger.note_payment(payout.payout_id, payment_hash)
        except LedgerError as error:
            # Known here, and to be found at the node by its name after a restart.
            _log.warning("the hash of payout %s is not noted: %s", payout.payout_id, error.message)

    async def _resend(self, payout: Payout, progress: _Progress) -> Outcome:
        """The node knows nothing of a payment that is under way by our books."""
        expires_ms = self._sender.destination(payout).expires_ms
        if payout.invoice is None or progress.was_seen:
            # A node that lost its store, or another node: it cannot say what was sent.
            return Outcome(fate=Fate.MISSING)
        now_ms = self._clock.now_ms()
        if expires_ms is None or now_ms < expires_ms:
            # A process died between its book and its node; an invoice is paid once at most.
            progress.is_unsent = True
            return await self._send(payout, progress)
        if now_ms < expires_ms + self._pace.late_ms:
            return Outcome(fate=Fate.OPEN)
        return Outcome(fate=Fate.FAILED, failure="payment_failed")

    async def _book(self, payout: Payout, progress: _Progress, outcome: Outcome) -> None:
        now_ms = self._clock.now_ms()
        match outcome.fate:
            case Fate.PAID:
                await self._settle(payout, progress, outcome.fee)
            case Fate.FAILED if not self._may_try_again(payout, progress, outcome):
                await self._give_back(payout, outcome.failure)
            case Fate.UNSENT if now_ms > payout.created_ms + self._pace.unsent_ms:
                await self._give_back(payout, outcome.failure)
            case _:
                self._postpone(progress)
                self._alarm(payout, progress, outcome.fate, now_ms)

    def _may_try_again(self, payout: Payout, progress: _Progress, outcome: Outcome) -> bool:
        """A way back to who has just paid may open a moment later; nobody waits for it."""
        return (
            payout.state is PayoutState.OWED
            and payout.purpose is PayoutPurpose.REMAINDER
            and outcome.failure == "no_route"
            and progress.looks + 1 < self._pace.route_tries
        )

    async def _settle(self, payout: Payout, progress: _Progress, fee: int) -> None:
        if fee > payout.fee_cap:
            _log.error("routing took %s for payout %s: over its cap", fee, payout.payout_id)
        await self._end(
            payout,
            PayoutEvent.SUCCEED,
            fee=fee,
            payment_hash=progress.payment_hash or payout.payment_hash,
        )
        _log.info("payout %s of %s is paid", payout.payout_id, payout.amount)

    async def _give_back(self, payout: Payout, failure: str) -> None:
        await self._end(payout, PayoutEvent.FAIL, failure=failure or "payment_failed")
        _log.info("payout %s returned to its tab: %s", payout.payout_id, failure)

    async def _end(
        self,
        payout: Payout,
        event: PayoutEvent,
        *,
        fee: int = 0,
        payment_hash: PaymentHash | None = None,
        failure: str = "",
    ) -> None:
        try:
            await self._ledger.move_payout(
                payout.payout_id,
                event,
                now_ms=self._clock.now_ms(),
                fee=fee,
                payment_hash=payment_hash,
                failure=failure,
            )
        except LedgerError as error:
            if error.code != "ledger_conflict":
                raise
            _log.warning("payout %s had ended already: %s", payout.payout_id, error.message)
        self._drop(payout.payout_id)

    def _drop(self, payout_id: PayoutId) -> None:
        self._progress.pop(payout_id, None)
        self._flying.pop(payout_id, None)
        self._lost.pop(payout_id, None)
        for ended in self._watchers.get(payout_id, ()):
            ended.set()

    def _postpone(self, progress: _Progress) -> None:
        later = self._pace.later_ms
        progress.next_ms = self._clock.now_ms() + later[min(progress.looks, len(later) - 1)]
        progress.looks += 1

    def _alarm(self, payout: Payout, progress: _Progress, fate: Fate, now_ms: int) -> None:
        """Tell the operator, once in a while, of money that somebody has to look after."""
        if payout.sent_ms is None or now_ms <= progress.alarmed_ms + self._pace.alarm_ms:
            return
        if fate is Fate.MISSING:
            _log.error(
                "the Fiber node does not know payout %s any more, which was sent: was the node "
                "replaced? %s stay held; find out and say so: infern provider payouts",
                payout.payout_id,
                payout.reserved,
            )
        elif now_ms > payout.sent_ms + self._pace.alarm_ms:
            _log.error("payout %s is on its way since %s", payout.payout_id, payout.sent_ms)
        else:
            return
        progress.alarmed_ms = now_ms

    # Keysends whose answer was lost.

    def _search_for(self, payout: Payout) -> None:
        if payout.payout_id not in self._lost:
            _log.warning("no answer says what became of payout %s; searching", payout.payout_id)
            self._lost[payout.payout_id] = 0
            self._has_lost.set()

    async def _search_for_ever(self) -> None:
        while True:
            await self._has_lost.wait()
            try:
                await self.search()
            except LedgerError as error:
                _log.warning("a payout that was searched for is not booked: %s", error.message)
            except Exception:  # noqa: BLE001 - a bug here must not end the seller
                _log.exception("lost payouts cannot be searched for")
            if not self._lost:
                self._has_lost = anyio.Event()
                continue
            await self._clock.sleep_ms(self._pace.search_ms)

    async def search(self) -> None:
        """Search the node's payments once for what was lost, and book what that shows.

        Raises:
            LedgerError: Something of it is not booked yet; search again.
        """
        wanted = dict(self._lost)
        if not wanted:
            return
        search = await self._sender.search(frozenset(wanted))
        opened = {payout.payout_id: payout for payout in await self._open_payouts()}
        for payout_id in wanted:
            payout, record = opened.get(payout_id), search.found.get(payout_id)
            if payout is None:
                self._drop(payout_id)
            elif record is not None:
                progress = self._progress.setdefault(payout_id, _Progress())
                progress.payment_hash, progress.next_ms = record.payment_hash, 0
                await self._note(payout, record.payment_hash)
                self._lost.pop(payout_id, None)
                self.wake()
            elif search.is_complete:
                await self._missed(payout)

    async def _missed(self, payout: Payout) -> None:
        missed = self._lost.get(payout.payout_id, 0) + 1
        self._lost[payout.payout_id] = missed
        if missed >= self._pace.searches:
            _log.warning("payout %s never reached the Fiber node", payout.payout_id)
            await self._give_back(payout, "fiber_unavailable")
