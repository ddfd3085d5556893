"""`Ledger` on the writer engine: each method is one command, one durable transaction."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from infern.core.f402.receipt import Receipt
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

from . import bookings, locks, payouts, rows, sums
from .engine import Engine, WriterEngine
from .schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION


class SqliteLedger:
    """The ledger of one seller process; see `infern.ports.Ledger` for what each method promises.

    Args:
        store: Database file; created with mode 0600. Or an engine that is open already.

    Raises:
        ConfigError: Another process owns it, or it was made by a newer Infern.
    """

    def __init__(self, store: Path | Engine) -> None:
        self._engine: Engine = (
            WriterEngine(store, SCHEMA, SCHEMA_VERSION, MIGRATIONS)
            if isinstance(store, Path)
            else store
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish queued bookings and close. Idempotent."""
        self._engine.close()

    async def create_key(self, key: KeyRecord) -> None:
        """Make a key and its empty tab."""
        await self._engine.run(lambda db: bookings.create_key(db, key))

    async def find_key(self, key_digest: bytes) -> KeyRecord | None:
        """The key with this digest; None when there is none."""
        return await self._engine.run(lambda db: rows.load_key(db, key_digest))

    async def tab(self, tab_id: TabId) -> Tab:
        """A tab as it stands."""
        return await self._engine.run(lambda db: rows.load_tab(db, tab_id))

    async def delete_empty_keys(self, *, created_before_ms: int, limit: int) -> int:
        """Forget keys that were never funded and have no open top-up; returns how many."""
        return await self._engine.run(
            lambda db: bookings.delete_empty_keys(db, created_before_ms, limit)
        )

    async def add_topup(self, topup: Topup, *, open_limit: int) -> None:
        """Record an invoice before it is shown."""
        await self._engine.run(lambda db: bookings.add_topup(db, topup, open_limit))

    async def topup(self, payment_hash: PaymentHash) -> Topup | None:
        """One top-up."""
        return await self._engine.run(lambda db: rows.load_topup(db, payment_hash))

    async def open_topups(self, *, limit: int, skip: int = 0) -> list[Topup]:
        """Top-ups whose outcome is not known yet, oldest first."""
        return await self._engine.run(lambda db: rows.open_topups(db, limit, skip))

    async def end_topup(self, payment_hash: PaymentHash, state: TopupState, *, now_ms: int) -> None:
        """Credit a paid top-up, once, or mark it expired. Repeating it changes nothing."""
        await self._engine.run(lambda db: bookings.end_topup(db, payment_hash, state, now_ms))

    async def hold(self, hold: Hold) -> Tab:
        """Reserve a ceiling on a tab; returns the tab after it."""
        return await self._engine.run(lambda db: bookings.place_hold(db, hold))

    async def claim(self, paid: PaidRequest, hold: Hold) -> None:
        """Take a proof: deposit what it paid, once, and hold it, in one step."""
        await self._engine.run(lambda db: bookings.claim(db, paid, hold))

    async def capture(
        self,
        hold_id: HoldId,
        receipt: Receipt,
        *,
        request_id: RequestId,
        remainder: RemainderPlan,
    ) -> Captured:
        """End a hold by charging, place the receipt and move the remainder."""
        return await self._engine.run(
            lambda db: bookings.capture_hold(db, hold_id, receipt, request_id, remainder)
        )

    async def release(self, hold_id: HoldId, *, now_ms: int) -> None:
        """End a hold without charge. A hold that has ended, or never was, is left as it is."""
        await self._engine.run(lambda db: bookings.release_hold(db, hold_id, now_ms))

    async def renew(self, hold_ids: Sequence[HoldId], *, lease_until_ms: int) -> None:
        """Keep the open ones of these holds from being swept before then."""
        await self._engine.run(lambda db: rows.renew_holds(db, hold_ids, lease_until_ms))

    async def expired_holds(self, *, now_ms: int, limit: int) -> list[Hold]:
        """Open holds whose lease ran out, oldest first."""
        return await self._engine.run(lambda db: rows.expired_holds(db, now_ms, limit))

    async def release_expired(self, hold_id: HoldId, *, now_ms: int) -> bool:
        """`release`, unless the hold was renewed or has ended; returns whether it was released."""
        return await self._engine.run(lambda db: bookings.release_expired(db, hold_id, now_ms))

    async def credit_unclaimed(self, paid: PaidRequest, *, now_ms: int) -> bool:
        """Book a payment that arrived and whose proof never came; False if it is booked already."""
        return await self._engine.run(lambda db: bookings.credit_unclaimed(db, paid, now_ms))

    async def redeem(self, paid: PaidRequest, key: KeyRecord, *, now_ms: int) -> int:
        """Move what a paid request has left to a key; returns base units moved by all calls."""
        return await self._engine.run(lambda db: bookings.redeem(db, paid, key, now_ms))

    async def offer_lock(self, lock: Lock, *, open_limit: int) -> None:
        """Record a hold invoice before it is made."""
        await self._engine.run(lambda db: locks.offer(db, lock, open_limit))

    async def lock(self, payment_hash: PaymentHash) -> Lock | None:
        """One lock; None when there is none."""
        return await self._engine.run(lambda db: locks.find(db, payment_hash))

    async def open_locks(self, *, limit: int, skip: int = 0) -> list[Lock]:
        """Locks that somebody still has to look after, oldest first."""
        return await self._engine.run(lambda db: locks.open_ones(db, limit, skip))

    async def move_lock(self, payment_hash: PaymentHash, event: LockEvent, *, now_ms: int) -> Lock:
        """Book what happened to a lock and what follows for its tab."""
        return await self._engine.run(lambda db: locks.move(db, payment_hash, event, now_ms))

    async def add_payout(self, payout: Payout) -> Payout:
        """Reserve a payout's amount and fee cap on its tab."""
        return await self._engine.run(lambda db: payouts.add(db, payout))

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
        """Book what happened to a payout; `SUCCEED` and `FAIL` end the reservation."""
        return await self._engine.run(
            lambda db: payouts.move(
                db,
                payout_id,
                event,
                now_ms=now_ms,
                fee=fee,
                payment_hash=payment_hash,
                failure=failure,
            )
        )

    async def note_payment(self, payout_id: PayoutId, payment_hash: PaymentHash) -> None:
        """Remember the payment hash the node drew for a keysend."""
        await self._engine.run(lambda db: payouts.note_payment(db, payout_id, payment_hash))

    async def payout(self, tab_id: TabId, request_key: bytes) -> Payout | None:
        """One payout of a tab; None when there is none."""
        return await self._engine.run(lambda db: payouts.find(db, tab_id, request_key))

    async def refund(self, payment_hash: PaymentHash) -> Payout | None:
        """The payout that sends back what a paid request did not cost; None when there is none."""
        return await self._engine.run(lambda db: payouts.of_payment(db, payment_hash))

    async def payouts(
        self, tab_id: TabId, *, purpose: PayoutPurpose | None = None, limit: int
    ) -> list[Payout]:
        """Payouts of a tab, newest first."""
        return await self._engine.run(lambda db: payouts.of_tab(db, tab_id, purpose, limit))

    async def open_payouts(self, *, limit: int, skip: int = 0) -> list[Payout]:
        """Payouts that somebody still has to look after, oldest first."""
        return await self._engine.run(lambda db: payouts.open_ones(db, limit, skip))

    async def receipt(self, request_id: RequestId) -> StoredReceipt | None:
        """One receipt."""
        return await self._engine.run(lambda db: rows.find_receipt(db, "request_id", request_id))

    async def receipt_of_attempt(self, tab_id: TabId, attempt: bytes) -> StoredReceipt | None:
        """The receipt of a keyed request's answer by its attempt; None while there is none."""

        def look(db: sqlite3.Connection) -> StoredReceipt | None:
            hold = rows.hold_of_attempt(db, tab_id, attempt)
            return rows.find_receipt(db, "hold_id", hold.hold_id) if hold is not None else None

        return await self._engine.run(look)

    async def receipt_of_payment(self, payment_hash: PaymentHash) -> StoredReceipt | None:
        """The receipt of a paid request's answer; None while there is none."""
        return await self._engine.run(
            lambda db: rows.find_receipt(db, "payment_hash", payment_hash)
        )

    async def receipts(
        self, tab_id: TabId, *, after: RequestId | None, limit: int
    ) -> list[StoredReceipt]:
        """Receipts of a tab in session order, after one of them."""
        return await self._engine.run(lambda db: rows.list_receipts(db, tab_id, after, limit))

    async def recover(self, *, now_ms: int) -> int:
        """Release every hold a dead process left open; returns how many. Once, at start-up."""
        return await self._engine.run(lambda db: bookings.recover(db, now_ms))

    async def books(self) -> Books:
        """A consistent snapshot for the conservation check."""
        return await self._engine.read(_books)

    async def totals(self) -> Mapping[Asset, Totals]:
        """Sums over the whole ledger by asset, from one snapshot."""
        return await self._engine.read(sums.totals)


def _books(db: sqlite3.Connection) -> Books:
    return Books(
        tabs=tuple(rows.all_tabs(db)),
        holds=tuple(rows.open_holds(db)),
        locks=tuple(locks.open_ones(db, -1, 0)),
        payouts=tuple(payouts.open_ones(db, -1, 0)),
        **sums.outside(db),
    )
