"""Rows to records and back. Amounts are SQLite integers (63 bits); hashes are blobs."""
# ruff: noqa: S608 - statements are put together from constants of this module only

import sqlite3
from typing import Any, Final

from infern.core.errors import LedgerError
from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.hold import Hold, HoldState
from infern.core.ledger.records import KeyRecord, StoredReceipt, Topup, TopupState
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import Asset

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tabs (
  tab_id TEXT PRIMARY KEY, kind TEXT NOT NULL, asset TEXT NOT NULL,
  deposited INTEGER NOT NULL, held INTEGER NOT NULL, spent INTEGER NOT NULL,
  refunded INTEGER NOT NULL,
  session BLOB NOT NULL, next_seq INTEGER NOT NULL, last_digest BLOB NOT NULL,
  CHECK (held >= 0 AND spent >= 0 AND refunded >= 0),
  CHECK (deposited >= held + spent + refunded)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
  key_digest BLOB PRIMARY KEY, key_id TEXT NOT NULL UNIQUE,
  tab_id TEXT NOT NULL UNIQUE REFERENCES tabs, created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deposits (
  payment_hash BLOB PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs,
  amount INTEGER NOT NULL CHECK (amount > 0), credited_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topups (
  payment_hash BLOB PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs, key_id TEXT NOT NULL,
  amount INTEGER NOT NULL, invoice TEXT NOT NULL, expires_ms INTEGER NOT NULL,
  state TEXT NOT NULL, created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS topups_open ON topups (created_ms) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS holds (
  hold_id TEXT PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs,
  amount INTEGER NOT NULL, digest BLOB NOT NULL, payment_hash BLOB,
  state TEXT NOT NULL, charged INTEGER NOT NULL, opened_ms INTEGER NOT NULL, ended_ms INTEGER,
  CHECK (charged <= amount)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS holds_open ON holds (tab_id) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS claims (
  payment_hash BLOB PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs,
  digest BLOB NOT NULL, state TEXT NOT NULL, hold_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfers (
  transfer_id TEXT PRIMARY KEY, from_tab TEXT NOT NULL REFERENCES tabs,
  to_tab TEXT NOT NULL REFERENCES tabs, asset TEXT NOT NULL,
  amount INTEGER NOT NULL CHECK (amount > 0), moved_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS transfers_from ON transfers (from_tab);
CREATE TABLE IF NOT EXISTS receipts (
  request_id TEXT PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs, seq INTEGER NOT NULL,
  hold_id TEXT NOT NULL UNIQUE, payment_hash BLOB, packed BLOB NOT NULL,
  charged INTEGER NOT NULL, remainder INTEGER NOT NULL, remainder_to TEXT NOT NULL,
  UNIQUE (tab_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS receipts_payment ON receipts (payment_hash)
  WHERE payment_hash IS NOT NULL;
-- Forgetting a key deletes its tab, and SQLite then looks for rows that refer to it: without these
-- it would read the whole history for every key that a stranger made.
CREATE INDEX IF NOT EXISTS deposits_tab ON deposits (tab_id);
CREATE INDEX IF NOT EXISTS topups_tab ON topups (tab_id);
CREATE INDEX IF NOT EXISTS holds_tab ON holds (tab_id);
CREATE INDEX IF NOT EXISTS claims_tab ON claims (tab_id);
CREATE INDEX IF NOT EXISTS transfers_to ON transfers (to_tab);
"""

_TAB = "tab_id, kind, asset, deposited, held, spent, refunded"
_HOLD = "hold_id, tab_id, amount, digest, payment_hash, state, charged, opened_ms, ended_ms"
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
        f"INSERT INTO holds ({_HOLD}) VALUES (?,?,?,?,?,?,?,?,?)",
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
        ),
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
    """The newest receipt with this request id or payment hash, or None."""
    assert column in {"request_id", "payment_hash"}
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
