"""The payment journal: what we owe ourselves to remember, written before any money moves.

A row whose money is at stake is used again for the same request to the same seller instead of
paying twice: after a crash, a timeout, a retry. Two live exchanges with equal bodies stay two
requests, each with its own payment; a row is free to be taken over only when its exchange has
ended or its process is gone.
"""

from collections.abc import Callable
from typing import Protocol

from infern.core.f402.attempt import Attempt, AttemptKind, Spent, StoredKey
from infern.core.ids import PaymentHash, RequestDigest

__all__ = ["Attempt", "AttemptKind", "Journal", "Spent", "StoredKey"]


class Journal(Protocol):
    """Durable record of payments. Safe for several threads and several processes.

    A method that returns has made its change durable. All raise `LedgerError` when the store is
    away: then nothing was recorded, and the caller must not pay.
    """

    def adopt(
        self, *, origin: str, digest: RequestDigest, kind: AttemptKind, now_ms: int
    ) -> Attempt | None:
        """Take over a payment at stake for this need that no live exchange is using.

        The row belongs to the caller until `release`. Rows past their redeem-until are not
        given out: a proof is worth nothing any more, only `redeem` can still ask. In hold mode
        they are until the payment is taken or back.
        """
        ...

    def adopt_payment(self, payment_hash: PaymentHash) -> Attempt | None:
        """Take over one payment at stake by its hash; None when it is in use or not at stake."""
        ...

    def intend(self, attempt: Attempt, admit: Callable[[Spent], None]) -> None:
        """Write a new row in `INTENDED`, owned by the caller, if `admit` lets it pass.

        `admit` sees the sums in the same transaction that adds the row, so that concurrent
        exchanges cannot overspend together.

        Raises:
            BudgetExceeded: By `admit`; nothing was written.
            LocalProtocolError: The payment hash is known already; nothing was written.
        """
        ...

    def record(self, before: Attempt, after: Attempt) -> None:
        """Replace a row that is still in `before.state`.

        Raises:
            LocalProtocolError: The row is in another state; nothing was written.
        """
        ...

    def locking(self, *, limit: int) -> list[Attempt]:
        """Payments in hold mode that were neither taken nor given back, oldest first.

        As far as anybody has heard; those of live exchanges too.
        """
        ...

    def conclude(self, before: Attempt, after: Attempt) -> bool:
        """Replace a row that is still in `before.state` and that no live exchange is using.

        False, and nothing written, when it is not so: then somebody knows better.
        """
        ...

    def release(self, payment_hash: PaymentHash) -> None:
        """Give a row up, so that a later exchange may take it over."""
        ...

    def get(self, payment_hash: PaymentHash) -> Attempt | None:
        """One row."""
        ...

    def attempts(self, *, limit: int, at_stake: bool = False) -> list[Attempt]:
        """The newest rows first; with `at_stake` only those whose money is."""
        ...

    def spent(self, *, session: str, now_ms: int) -> Spent:
        """The sums `admit` would see."""
        ...

    def save_key(self, key: StoredKey) -> None:
        """Keep a prepaid key."""
        ...

    def keys(self, origin: str) -> list[StoredKey]:
        """Prepaid keys of one seller, newest first, at most 100."""
        ...

    def close(self) -> None:
        """Let go of everything this instance still owns."""
        ...
