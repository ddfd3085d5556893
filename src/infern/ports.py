"""Ports: what services need of the outside world, as protocols.

Services depend on these; `infern.adapters` implements them; `infern.cli.compose` wires both.
Every method says how it fails and what that means for the money.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from infern.core.crypto import SignatureVerifier, Signer
from infern.core.f402.receipt import Receipt
from infern.core.fiber.call import RpcCall
from infern.core.ids import HoldId, PaymentHash, PayoutId, RequestId, TabId
from infern.core.ledger.books import Books, Totals
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import Lock, LockEvent
from infern.core.ledger.payout import Payout, PayoutEvent, PayoutPurpose
from infern.core.ledger.records import (
    Captured,
    KeyRecord,
    PaidRequest,
    RemainderPlan,
    StoredReceipt,
    Topup,
    TopupState,
)
from infern.core.ledger.tab import Tab
from infern.core.units import Asset

__all__ = [
    "Clock",
    "Entropy",
    "FiberNode",
    "Ledger",
    "ModelServer",
    "SignatureVerifier",
    "Signer",
    "UpstreamReply",
    "UpstreamRequest",
]

T = TypeVar("T")


class Clock(Protocol):
    """Wall-clock time and waiting. Tests use a virtual one."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait; cancellable."""
        ...


class Entropy(Protocol):
    """Randomness fit for secrets. Tests use a seeded one."""

    def random_bytes(self, length: int) -> bytes:
        """`length` unpredictable bytes."""
        ...


class FiberNode(Protocol):
    """One fnn node, or an embedded node that speaks the same JSON-RPC."""

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call and return its parsed result.

        Raises:
            InfernError: The node's error text, classified (`infern.core.fiber.errors`).
            TransportError: No answer in time or a broken connection. For a call that moves
                money the outcome is then unknown until the node is asked again.
        """
        ...

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Return when the node reports a change of this invoice or payment, or after the timeout.

        Only a wake-up to poll sooner: a missed event costs time, never correctness.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """One request to a model server.

    Args:
        path: Below the server's base URL, e.g. `/chat/completions`.
        body: Bytes to send as they are; empty for GET.
        headers: Extra headers; never a consumer's credentials.
    """

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


class UpstreamReply(Protocol):
    """A reply whose headers have arrived and whose body has not been read."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def content_type(self) -> str:
        """Media type without parameters, lower case; empty when absent."""
        ...

    async def read(self) -> bytes:
        """The next bytes of the body as they arrive; empty at its end.

        Safe to cancel: a cancelled read loses no bytes.

        Raises:
            UpstreamUnavailable: The connection broke or the body is over its limit.
        """
        ...

    async def aclose(self) -> None:
        """Give up the reply; a half-read stream is cancelled upstream."""
        ...


class ModelServer(Protocol):
    """Anything that answers OpenAI's HTTP API: the thing a provider sells access to."""

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request and return when the reply's headers are here.

        Deadlines are the caller's: cancelling closes the connection and so the work upstream.

        Raises:
            UpstreamUnavailable: No connection, no reply in time, or a reply that breaks HTTP.
                Nothing was delivered.
        """
        ...


class Ledger(Protocol):
    """Tabs, holds and what they add up to; each method is one durable transaction.

    Every method may raise `LedgerError` (`ledger_unavailable`): the ledger is away or full and
    nothing was booked. A call whose caller is cancelled still completes or fails as a whole.
    """

    async def create_key(self, key: KeyRecord) -> None:
        """Make a key and its empty tab."""
        ...

    async def find_key(self, key_digest: bytes) -> KeyRecord | None:
        """The key with this digest; None when there is none."""
        ...

    async def tab(self, tab_id: TabId) -> Tab:
        """A tab as it stands.

        Raises:
            LedgerError: There is no such tab (`ledger_conflict`).
        """
        ...

    async def delete_empty_keys(self, *, created_before_ms: int, limit: int) -> int:
        """Forget keys that were never funded and have no open top-up; returns how many."""
        ...

    async def add_topup(self, topup: Topup, *, open_limit: int) -> None:
        """Record an invoice before it is shown.

        Raises:
            QuotaExceeded: The key has `open_limit` open top-ups already.
        """
        ...

    async def topup(self, payment_hash: PaymentHash) -> Topup | None:
        """One top-up."""
        ...

    async def open_topups(self, *, limit: int, skip: int = 0) -> list[Topup]:
        """Top-ups whose outcome is not known yet, oldest first."""
        ...

    async def end_topup(self, payment_hash: PaymentHash, state: TopupState, *, now_ms: int) -> None:
        """Credit a paid top-up, once, or mark it expired. Repeating it changes nothing."""
        ...

    async def hold(self, hold: Hold) -> Tab:
        """Reserve a ceiling on a tab; returns the tab after it.

        Raises:
            InsufficientBalance: Nothing is held.
            ProtocolError: The tab has a hold of the same attempt that was not released:
                `request_in_progress`, `already_delivered`, or `idempotency_conflict` when that
                one is for another request. Nothing is held.
        """
        ...

    async def claim(self, paid: PaidRequest, hold: Hold) -> None:
        """Take a proof: deposit what it paid, once, and hold it, in one step.

        `hold.amount` is cut to what the request's tab has left. What was paid in hold mode must
        have been offered (`offer_lock`) and moves to `HELD`.

        Raises:
            ProtocolError: `request_in_progress` or `already_delivered`; nothing is booked.
            PaymentError: `payment_not_received`; the lock was cancelled or comes too late (after
                `Lock.claim_until_ms`), nothing is booked.
        """
        ...

    async def capture(
        self,
        hold_id: HoldId,
        receipt: Receipt,
        *,
        request_id: RequestId,
        remainder: RemainderPlan,
    ) -> Captured:
        """End a hold by charging `receipt.charged`, place the receipt and move the remainder.

        In hold mode the remainder waits until the lock is money (`move_lock` with `PAID`).

        Raises:
            LedgerError: The hold has ended (`ledger_conflict`); nothing is charged twice.
        """
        ...

    async def release(self, hold_id: HoldId, *, now_ms: int) -> None:
        """End a hold without charge. A hold that has ended, or never was, is left as it is.

        In hold mode its lock is then to be cancelled.
        """
        ...

    async def renew(self, hold_ids: Sequence[HoldId], *, lease_until_ms: int) -> None:
        """Keep the open ones of these holds from being swept before then."""
        ...

    async def expired_holds(self, *, now_ms: int, limit: int) -> list[Hold]:
        """Open holds whose lease ran out, oldest first."""
        ...

    async def release_expired(self, hold_id: HoldId, *, now_ms: int) -> bool:
        """`release`, unless the hold was renewed or has ended; returns whether it was released."""
        ...

    async def credit_unclaimed(self, paid: PaidRequest, *, now_ms: int) -> bool:
        """Book a payment that arrived and whose proof never came; False if it is booked already.

        It stays claimable and redeemable as before, and counts as a liability from now on.
        """
        ...

    async def redeem(self, paid: PaidRequest, key: KeyRecord, *, now_ms: int) -> int:
        """Move what a paid request has left to a key; returns base units moved by all calls.

        Raises:
            ProtocolError: `request_in_progress`, also while a lock is not money yet; nothing is
                moved.
            PaymentError: `payment_not_received`; the lock was given back, nothing is moved.
        """
        ...

    async def offer_lock(self, lock: Lock, *, open_limit: int) -> None:
        """Record a hold invoice before it is made.

        Raises:
            QuotaExceeded: `open_limit` locks are open already.
            LedgerError: The payment hash is known (`ledger_conflict`).
        """
        ...

    async def lock(self, payment_hash: PaymentHash) -> Lock | None:
        """One lock; None when there is none."""
        ...

    async def open_locks(self, *, limit: int, skip: int = 0) -> list[Lock]:
        """Locks that somebody still has to look after, oldest first."""
        ...

    async def move_lock(self, payment_hash: PaymentHash, event: LockEvent, *, now_ms: int) -> Lock:
        """Book what happened to a lock and what follows for its tab; returns the lock after it.

        Only for `DELIVER`, `ABANDON`, `EXPIRE`, `PAID` and `GONE`: the others come with `claim`,
        `capture` and `release`. `PAID` moves the remainder. `GONE` gives a deposit back, and undoes
        a charge.

        Raises:
            LedgerError: No such lock, or no such edge (`ledger_conflict`); nothing is booked.
        """
        ...

    async def add_payout(self, payout: Payout) -> Payout:
        """Reserve a payout's amount and fee cap on its tab; the row is durable when this returns.

        Asking again with the same `request_key` returns the payout there is.

        Raises:
            InsufficientBalance: Nothing is reserved.
            ProtocolError: `idempotency_conflict`: the same `request_key` with other terms, or an
                invoice that another payout pays. `request_in_progress`: the tab has an open
                withdrawal. Nothing is reserved.
        """
        ...

    async def move_payout(
        self,
        payout_id: PayoutId,
        event: PayoutEvent,
        *,
        now_ms: int,
        fee: int = 0,
        payment_hash: PaymentHash | None = None,
        failure: str = "",
    ) -> Payout:
        """Book what happened to a payout; `SUCCEED` and `FAIL` end the reservation.

        Args:
            payout_id: Which.
            event: What happened.
            now_ms: Unix milliseconds.
            fee: Base units that routing took, with `SUCCEED`.
            payment_hash: Of a keysend, when it is known by now.
            failure: A key of `CODES` that says why, with `FAIL`.

        Raises:
            LedgerError: No such payout, or no such edge (`ledger_conflict`); nothing is booked.
        """
        ...

    async def note_payment(self, payout_id: PayoutId, payment_hash: PaymentHash) -> None:
        """Remember the payment hash the node drew for a keysend."""
        ...

    async def payout(self, tab_id: TabId, request_key: bytes) -> Payout | None:
        """One payout of a tab; None when there is none."""
        ...

    async def refund(self, payment_hash: PaymentHash) -> Payout | None:
        """The payout that sends back what a paid request did not cost; None when there is none."""
        ...

    async def payouts(
        self, tab_id: TabId, *, purpose: PayoutPurpose | None = None, limit: int
    ) -> list[Payout]:
        """Payouts of a tab, newest first."""
        ...

    async def open_payouts(self, *, limit: int, skip: int = 0) -> list[Payout]:
        """Payouts that somebody still has to look after, oldest first."""
        ...

    async def receipt(self, request_id: RequestId) -> StoredReceipt | None:
        """One receipt."""
        ...

    async def receipt_of_attempt(self, tab_id: TabId, attempt: bytes) -> StoredReceipt | None:
        """The receipt of a keyed request's answer by its attempt; None while there is none."""
        ...

    async def receipt_of_payment(self, payment_hash: PaymentHash) -> StoredReceipt | None:
        """The receipt of a paid request's answer; None while there is none."""
        ...

    async def receipts(
        self, tab_id: TabId, *, after: RequestId | None, limit: int
    ) -> list[StoredReceipt]:
        """Receipts of a tab in session order, after one of them."""
        ...

    async def recover(self, *, now_ms: int) -> int:
        """Release every hold a dead process left open; returns how many. Once, at start-up.

        A lock that was being answered, or charged but not delivered for certain, is then to be
        cancelled.
        """
        ...

    async def books(self) -> Books:
        """A consistent snapshot for the conservation check."""
        ...

    async def totals(self) -> Mapping[Asset, Totals]:
        """Sums over the whole ledger by asset, from one snapshot; keeps no booking waiting."""
        ...
