"""`Ledger` on the writer engine: each method is one command, one durable transaction."""

import sqlite3
from pathlib import Path
from typing import Self

from infern.core.f402.receipt import Receipt
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.books import Books
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import (
    Captured,
    KeyRecord,
    PaidRequest,
    StoredReceipt,
    Topup,
    TopupState,
)
from infern.core.ledger.tab import Tab
from infern.core.units import Asset

from . import bookings, rows
from .engine import Engine, WriterEngine


class SqliteLedger:
    """The ledger of one seller process; see `infern.ports.Ledger` for what each method promises.

    Args:
        store: Database file; created with mode 0600. Or an engine that is open already.

    Raises:
        ConfigError: Another process owns it, or it was made by a newer Infern.
    """

    def __init__(self, store: Path | Engine) -> None:
        self._engine: Engine = (
            WriterEngine(store, rows.SCHEMA, rows.SCHEMA_VERSION)
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
        remainder_to: KeyRecord | None,
    ) -> Captured:
        """End a hold by charging, place the receipt and move the remainder."""
        return await self._engine.run(
            lambda db: bookings.capture_hold(db, hold_id, receipt, request_id, remainder_to)
        )

    async def release(self, hold_id: HoldId, *, now_ms: int) -> None:
        """End a hold without charge. A hold that has ended, or never was, is left as it is."""
        await self._engine.run(lambda db: bookings.release_hold(db, hold_id, now_ms))

    async def redeem(self, paid: PaidRequest, key: KeyRecord, *, now_ms: int) -> int:
        """Move what a paid request has left to a key; returns base units moved by all calls."""
        return await self._engine.run(lambda db: bookings.redeem(db, paid, key, now_ms))

    async def receipt(self, request_id: RequestId) -> StoredReceipt | None:
        """One receipt."""
        return await self._engine.run(lambda db: rows.find_receipt(db, "request_id", request_id))

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

        def release_all(db: sqlite3.Connection) -> int:
            left = rows.open_holds(db)
            for hold in left:
                bookings.release_hold(db, hold.hold_id, now_ms)
            return len(left)

        return await self._engine.run(release_all)

    async def books(self) -> Books:
        """A consistent snapshot for the conservation check."""
        return await self._engine.run(_books)


def _books(db: sqlite3.Connection) -> Books:
    return Books(
        tabs=tuple(rows.all_tabs(db)),
        holds=tuple(rows.open_holds(db)),
        received=_sums(db, "SELECT asset, sum(amount) FROM deposits JOIN tabs USING (tab_id)"),
        captured=_sums(
            db,
            "SELECT asset, sum(charged) FROM holds JOIN tabs USING (tab_id)"
            " WHERE state = 'captured'",
        ),
        transferred=_sums(db, "SELECT asset, sum(amount) FROM transfers"),
        sent={},
    )


def _sums(db: sqlite3.Connection, select: str) -> dict[Asset, int]:
    rows_by_asset = db.execute(select + " GROUP BY asset")
    return {Asset.parse(asset): amount for asset, amount in rows_by_asset}
