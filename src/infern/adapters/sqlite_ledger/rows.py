"""Rows to records and back. Amounts are SQLite integers (63 bits); hashes are blobs."""
# ruff: noqa: S608 - statements are put together from constants of this module only

import sqlite3
from collections.abc import Sequence
from typing import Any

from infern.core.errors import LedgerError
from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.hold import Hold, HoldState
from infern.core.ledger.records import KeyRecord, StoredReceipt, Topup, TopupState
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import Asset

_TAB = "tab_id, kind, asset, deposited, held, spent, refunded"
_HOLD = (
    "hold_id, tab_id, amount, digest, payment_hash, state, charged, opened_ms, ended_ms,"
    " attempt, owner, lease_until_ms"
)
_TOPUP = "payment_hash, tab_id, key_id, amount, invoice, expires_ms, state, created_ms"
_RECEIPT = "request_id, hold_id, packed, charged, remainder, remainder_to"

Row = tuple[Any, ...]


def _tab(row: Row) -> Tab:
    return Tab(
        tab_id=TabId(row[0]),
        kind=TabKind(row[1]),
        asset=Asset.parse(row[2]),
        deposited=row[3],
        held=row[4],
        spent=row[5],
        refunded=row[6],
    )


def find_tab(db: sqlite3.Connection, tab_id: TabId) -> Tab | None:
    """A tab, or None."""
    row = db.execute(f"SELECT {_TAB} FROM tabs WHERE tab_id = ?", (tab_id,)).fetchone()
    return None if row is None else _tab(row)


def load_tab(db: sqlite3.Connection, tab_id: TabId) -> Tab:
    """A tab; `ledger_conflict` when there is none."""
    tab = find_tab(db, tab_id)
    if tab is None:
        raise LedgerError(f"there is no tab {tab_id}", code="ledger_conflict")
    return tab


def is_locked(db: sqlite3.Connection, tab_id: TabId) -> bool:
    """Whether the tab's deposit is a lock that is neither money yet nor given back."""
    found = db.execute("SELECT 1 FROM locks WHERE tab_id = ? AND ended_ms IS NULL", (tab_id,))
    return found.fetchone() is not None


def all_tabs(db: sqlite3.Connection) -> list[Tab]:
    """Every tab."""
    return [_tab(row) for row in db.execute(f"SELECT {_TAB} FROM tabs")]


def insert_tab(db: sqlite3.Connection, tab: Tab, session: bytes) -> None:
    """A new tab with an empty receipt chain."""
    db.execute(
        "INSERT INTO tabs VALUES (?,?,?,?,?,?,?,?,0,?)",
        (
            tab.tab_id,
            tab.kind.value,
            str(tab.asset),
            tab.deposited,
            tab.held,
            tab.spent,
            tab.refunded,
            session,
            bytes(32),
        ),
    )


def save_tab(db: sqlite3.Connection, tab: Tab) -> None:
    """Write a tab's sums back."""
    db.execute(
        "UPDATE tabs SET deposited=?, held=?, spent=?, refunded=? WHERE tab_id=?",
        (tab.deposited, tab.held, tab.spent, tab.refunded, tab.tab_id),
    )


def _hold(row: Row) -> Hold:
    return Hold(
        hold_id=HoldId(row[0]),
        tab_id=TabId(row[1]),
        amount=row[2],
        digest=RequestDigest(row[3]),
        payment_hash=None if row[4] is None else PaymentHash(row[4]),
        state=HoldState(row[5]),
        charged=row[6],
        opened_ms=row[7],
        ended_ms=row[8],
        attempt=row[9],
        owner=row[10],
        lease_until_ms=row[11],
    )


def load_hold(db: sqlite3.Connection, hold_id: HoldId) -> Hold | None:
    """A hold, or None."""
    row = db.execute(f"SELECT {_HOLD} FROM holds WHERE hold_id = ?", (hold_id,)).fetchone()
    return None if row is None else _hold(row)


def open_holds(db: sqlite3.Connection) -> list[Hold]:
    """Every hold without an end."""
    return [_hold(row) for row in db.execute(f"SELECT {_HOLD} FROM holds WHERE state = 'open'")]


def insert_hold(db: sqlite3.Connection, hold: Hold) -> None:
    """A new hold."""
    db.execute(
        f"INSERT INTO holds ({_HOLD}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            hold.hold_id,
            hold.tab_id,
            hold.amount,
            hold.digest,
            hold.payment_hash,
            hold.state.value,
            hold.charged,
            hold.opened_ms,
            hold.ended_ms,
            hold.attempt,
            hold.owner,
            hold.lease_until_ms,
        ),
    )


def hold_of_attempt(db: sqlite3.Connection, tab_id: TabId, attempt: bytes) -> Hold | None:
    """The hold of a need that was not released, or None."""
    row = db.execute(
        f"SELECT {_HOLD} FROM holds WHERE tab_id = ? AND attempt = ? AND state <> 'released'",
        (tab_id, attempt),
    ).fetchone()
    return None if row is None else _hold(row)


def expired_holds(db: sqlite3.Connection, now_ms: int, limit: int) -> list[Hold]:
    """Open holds whose lease ran out, oldest first."""
    found = db.execute(
        f"SELECT {_HOLD} FROM holds WHERE state = 'open' AND lease_until_ms < ?"
        " ORDER BY lease_until_ms LIMIT ?",
        (now_ms, limit),
    )
    return [_hold(row) for row in found]


def renew_holds(db: sqlite3.Connection, hold_ids: Sequence[HoldId], lease_until_ms: int) -> None:
    """Longer leases for those that are still open."""
    db.executemany(
        "UPDATE holds SET lease_until_ms=? WHERE hold_id=? AND state='open'",
        [(lease_until_ms, hold_id) for hold_id in hold_ids],
    )


def save_hold(db: sqlite3.Connection, hold: Hold) -> None:
    """Write a hold's end."""
    db.execute(
        "UPDATE holds SET state=?, charged=?, ended_ms=? WHERE hold_id=?",
        (hold.state.value, hold.charged, hold.ended_ms, hold.hold_id),
    )


def load_key(db: sqlite3.Connection, key_digest: bytes) -> KeyRecord | None:
    """A key by its digest, or None."""
    row = db.execute(
        "SELECT k.key_digest, k.key_id, k.tab_id, t.session, t.asset, k.created_ms"
        " FROM keys k JOIN tabs t USING (tab_id) WHERE k.key_digest = ?",
        (key_digest,),
    ).fetchone()
    if row is None:
        return None
    return KeyRecord(
        key_digest=row[0],
        key_id=row[1],
        tab_id=TabId(row[2]),
        session=row[3],
        asset=Asset.parse(row[4]),
        created_ms=row[5],
    )


def _topup(row: Row) -> Topup:
    return Topup(
        payment_hash=PaymentHash(row[0]),
        tab_id=TabId(row[1]),
        key_id=row[2],
        amount=row[3],
        invoice=row[4],
        expires_ms=row[5],
        state=TopupState(row[6]),
        created_ms=row[7],
    )


def load_topup(db: sqlite3.Connection, payment_hash: PaymentHash) -> Topup | None:
    """A top-up, or None."""
    row = db.execute(f"SELECT {_TOPUP} FROM topups WHERE payment_hash = ?", (payment_hash,))
    found = row.fetchone()
    return None if found is None else _topup(found)


def open_topups(db: sqlite3.Connection, limit: int, skip: int) -> list[Topup]:
    """Top-ups whose outcome is not known, oldest first."""
    rows = db.execute(
        f"SELECT {_TOPUP} FROM topups WHERE state = 'open' ORDER BY created_ms LIMIT ? OFFSET ?",
        (limit, skip),
    )
    return [_topup(row) for row in rows]


def insert_topup(db: sqlite3.Connection, topup: Topup) -> None:
    """A new top-up."""
    db.execute(
        f"INSERT INTO topups ({_TOPUP}) VALUES (?,?,?,?,?,?,?,?)",
        (
            topup.payment_hash,
            topup.tab_id,
            topup.key_id,
            topup.amount,
            topup.invoice,
            topup.expires_ms,
            topup.state.value,
            topup.created_ms,
        ),
    )


def _receipt(row: Row) -> StoredReceipt:
    return StoredReceipt(
        request_id=RequestId(row[0]),
        hold_id=HoldId(row[1]),
        packed=row[2],
        charged=row[3],
        remainder=row[4],
        remainder_to=row[5],
    )


def find_receipt(db: sqlite3.Connection, column: str, value: str | bytes) -> StoredReceipt | None:
    """The newest receipt with this request id, hold id or payment hash, or None."""
    assert column in {"request_id", "payment_hash", "hold_id"}
    row = db.execute(
        f"SELECT {_RECEIPT} FROM receipts WHERE {column} = ? ORDER BY seq DESC LIMIT 1",
        (value,),
    ).fetchone()
    return None if row is None else _receipt(row)


def list_receipts(
    db: sqlite3.Connection, tab_id: TabId, after: RequestId | None, limit: int
) -> list[StoredReceipt]:
    """Receipts of a tab in session order, after one of them."""
    rows = db.execute(
        f"SELECT {_RECEIPT} FROM receipts WHERE tab_id = ?1 AND seq > COALESCE("
        "(SELECT seq FROM receipts WHERE request_id = ?2 AND tab_id = ?1), -1)"
        " ORDER BY seq LIMIT ?3",
        (tab_id, after, limit),
    )
    return [_receipt(row) for row in rows]
