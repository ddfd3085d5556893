"""What a set of runs must have seen, so that an empty simulation cannot pass."""

from collections.abc import Mapping
from typing import Final

from infern.simulator.model import Mood
from infern.simulator.users import ACTIONS

FAULTS: Final = (
    "http.lost",
    "http.torn",
    "http.twice",
    "http.cut",
    "http.slow",
    "rpc.lost",
    "rpc.slow",
    "rpc.unheard.send_payment",
    "rpc.unheard.get_payment",
    "rpc.unheard.new_invoice",
    "rpc.unheard.get_invoice",
    "rpc.unheard.list_channels",
    "event.lost",
    "ledger.away",
    "ledger.slow",
    "journal.away",
    "node.restart",
    "node.drop",
    "node.delay",
    "node.stick",
    "process.killed",
    "process.killed-at-await",
    "process.stopped",
    "user.gave-up",
    "user.left",
    "user.saw-crash",
    "user.sdk-retry",
)
OUTCOMES: Final = (
    "user.answered",
    "user.redeemed",
    "user.topped-up",
    "user.heard.already_delivered",
    "user.heard.insufficient_balance",
    "user.error.payment_outcome_unknown",
    "journal.adopt",
    "journal.refused",
    "journal.payment_failed",
    "journal.unredeemed",
    "journal.redeemed_elsewhere",
    "journal.held",
    "journal.settling",
    "journal.returning",
    "user.withdrawal.settled",
    "user.error.hold_unavailable",
)


def missing(counts: Mapping[str, int]) -> list[str]:
    """Kinds of faults, behaviours and outcomes that did not happen."""
    wanted = [
        *FAULTS,
        *OUTCOMES,
        *(f"user.{name}" for name in ACTIONS),
        *(f"model.{mood.value}" for mood in Mood),
    ]
    return [name for name in wanted if not counts.get(name)]
