"""Deliberate bugs, each of which the simulator must see: what it would not notice is not checked.

A mutant replaces one function of the program. Seeds are run until one run is wrong, and it must be
wrong in the way that is named. A mutant that is not found shows a hole in the behaviours or in the
oracles.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from infern.client import paying
from infern.core.errors import LedgerError
from infern.core.fiber.keysend import Sent
from infern.core.fiber.types import InvoiceStatus
from infern.core.ledger.payout import PayoutEvent
from infern.seller import proofs, relay, sending, streaming
from infern.seller.endings import Endings
from infern.seller.locks import LockKeeper
from infern.seller.payouts import PayoutDesk
from infern.seller.recordings import Recording
from infern.seller.sending import Fate, Sender
from infern.seller.settlement import Settlement
from infern.seller.topups import TopupWatch
from infern.simulator.run import simulate
from infern.simulator.weather import FAIR, Weather

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEEDS = 60
DEAF = replace(FAIR, rpc_unheard=0.3, latency_us=20_000)
"""Nodes do what they are told, and nobody hears of it."""
TORN = replace(FAIR, http_cut=0.4, http_slow=0.3, give_up=0.4, model_bad=0.3, latency_us=20_000)
SLOW = replace(TORN, ledger_slow=0.4)
"""Connections break, readers are slow and lose patience."""
Patch = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Mutant:
    """One bug: how it is made, what the run that shows it complains of, and where it shows."""

    make: Callable[[Patch], None]
    complaint: str
    weather: Weather | None = None


def sends_again(patch: Patch) -> None:
    """A keysend whose answer was lost counts as never sent."""
    patch(sending, "sent_by", lambda _error: Sent.NEVER)


def gives_back_early(patch: Patch) -> None:
    """A keysend whose answer was lost counts as failed."""
    push = Sender.push

    async def hasty(self: Sender, payout: Any) -> Any:
        outcome = await push(self, payout)
        return outcome if outcome.payment_hash else replace(outcome, fate=Fate.FAILED)

    patch(Sender, "push", hasty)


def forgets_fees(patch: Patch) -> None:
    """What routing took of a payout is not booked."""
    end = PayoutDesk._end

    async def free(self: PayoutDesk, payout: Any, event: PayoutEvent, **how: Any) -> None:
        await end(self, payout, event, **{**how, "fee": 0})

    patch(PayoutDesk, "_end", free)


def takes_promises(patch: Patch) -> None:
    """A payment upfront that has only arrived counts as paid."""
    every = frozenset(InvoiceStatus)
    patch(proofs, "_MONEY", every)
    patch(proofs, "_MONEY_OR_LOCK", every)


def keeps_locks(patch: Patch) -> None:
    """Nobody gives a payment in hold mode back when its run failed."""

    async def nothing(*_: Any) -> None:
        pass

    patch(LockKeeper, "give_back", nothing)
    patch(LockKeeper, "_cancel", lambda *_: nothing())


def takes_undelivered(patch: Patch) -> None:
    """A payment in hold mode is taken when the answer was charged, delivered or not."""
    patch(Settlement, "_abandon", Settlement._deliver)


def tells_nothing(patch: Patch) -> None:
    """What was delivered in hold mode is not taken."""

    async def nothing(*_: Any) -> None:
        pass

    patch(LockKeeper, "_tell", nothing)


def charges_the_unread(patch: Patch) -> None:
    """A stream that broke off is charged for what nobody was handed."""
    count = streaming.StreamAnswer._count

    def all_of_it(self: Any, _end: int) -> None:
        count(self, self._recording.count)

    patch(streaming.StreamAnswer, "_count", all_of_it)


def signs_other_bytes(patch: Patch) -> None:
    """A receipt covers something else than the answer."""
    patch(relay, "response_root", lambda _parts: b"\x01" * 32)


def forgets_charges(patch: Patch) -> None:
    """What could not be booked at once is never booked."""
    patch(Endings, "add", lambda *_: None)


def forgets_topups(patch: Patch) -> None:
    """Nobody looks whether a top-up was paid."""

    async def unknown(*_: Any) -> bool:
        return False

    patch(TopupWatch, "settle", unknown)


def takes_silence_for_failure(patch: Patch) -> None:
    """The client writes off a payment of which its node does not say what became."""
    patch(paying, "_certainly_failed", lambda _error, **_: True)


def drops_replayed_bytes(patch: Patch) -> None:
    """Who reads an answer later gets it without its beginning."""
    join = Recording.join

    def late(self: Recording, *, is_replay: bool) -> Any:
        reader = join(self, is_replay=is_replay)
        reader.at = min(self.count, 1) if is_replay else 0
        return reader

    patch(Recording, "join", late)


def releases_the_captured(patch: Patch) -> None:
    """A charge whose booking was not heard of is released, although it may be booked."""

    async def capture(self: Settlement, receipt: Any) -> Any:
        booked = await self._book(receipt)
        self._settled = None
        raise LedgerError(f"not heard of {len(booked.stored.packed)} bytes")

    patch(Settlement, "_try_to_book", capture)


MUTANTS = {
    "a keysend is sent again": Mutant(sends_again, "no payout is booked as paid by it", DEAF),
    "a keysend is given back too early": Mutant(gives_back_early, "no payout is booked", DEAF),
    "fees of payouts are forgotten": Mutant(forgets_fees, "of another amount or fee"),
    "a promise is taken for money": Mutant(takes_promises, "without paying"),
    "locks are kept": Mutant(keeps_locks, "for ever"),
    "locks are taken undelivered": Mutant(takes_undelivered, "nobody was handed anything", SLOW),
    "locks are never taken": Mutant(tells_nothing, "Inflight for ever"),
    "the unread is charged": Mutant(charges_the_unread, "broke off and has a receipt", TORN),
    "a receipt is of other bytes": Mutant(signs_other_bytes, "other bytes than were written"),
    "charges are forgotten": Mutant(forgets_charges, "streamed and not charged"),
    "top-ups are forgotten": Mutant(forgets_topups, "never credited"),
    "silence is taken for failure": Mutant(takes_silence_for_failure, "the journal says"),
    "replays lack their beginning": Mutant(drops_replayed_bytes, "different bytes"),
    "a charge is not heard of": Mutant(releases_the_captured, "other bytes than were written"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.make(monkeypatch.setattr)
    seen: list[str] = []
    for seed in range(SEEDS):
        failures = simulate(str(seed), weather=mutant.weather).failures
        if any(mutant.complaint in text for text in failures):
            return
        seen += failures
    raise AssertionError(f"{SEEDS} runs say nothing of it: {seen[:5]}")
