"""The ledger's bookings as functions of a connection, inside one transaction each.

They load rows, apply the pure rules of `infern.core.ledger`, and write rows back. There is one
writer, so what was read is still true when it is written.
"""

import sqlite3
from dataclasses import replace

from infern.core.errors import LedgerError, QuotaExceeded
from infern.core.f402.receipt import Receipt
from infern.core.f402.server import ServerEvent, ServerState, advance, refusal
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.hold import Hold, HoldEvent, HoldState, end_hold
from infern.core.ledger.records import (
    Captured,
    KeyRecord,
    PaidRequest,
    StoredReceipt,
    Topup,
    TopupState,
)
from infern.core.ledger.tab import Tab, TabKind, capture, deposit, hold, release, withdraw

from . import rows


def create_key(db: sqlite3.Connection, key: KeyRecord) -> None:
    """A key and its empty tab."""
    tab = Tab(tab_id=key.tab_id, kind=TabKind.KEY, asset=key.asset)
    rows.insert_tab(db, tab, key.session)
    db.execute(
        "INSERT INTO keys VALUES (?,?,?,?)",
        (key.key_digest, key.key_id, key.tab_id, key.created_ms),
    )


def delete_empty_keys(db: sqlite3.Connection, created_before_ms: int, limit: int) -> int:
    """Keys that never had money and wait for none."""
    found = db.execute(
        "SELECT k.key_digest, k.tab_id FROM keys k JOIN tabs t USING (tab_id)"
        " WHERE t.deposited = 0 AND k.created_ms < ?"
        " AND NOT EXISTS (SELECT 1 FROM topups o WHERE o.tab_id = k.tab_id AND o.state = 'open')"
        " LIMIT ?",
        (created_before_ms, limit),
    ).fetchall()
    for key_digest, tab_id in found:
        db.execute("DELETE FROM topups WHERE tab_id = ?", (tab_id,))
        db.execute("DELETE FROM keys WHERE key_digest = ?", (key_digest,))
        db.execute("DELETE FROM tabs WHERE tab_id = ?", (tab_id,))
    return len(found)


def add_topup(db: sqlite3.Connection, topup: Topup, open_limit: int) -> None:
    """An invoice that will credit a key."""
    (count,) = db.execute(
        "SELECT count(*) FROM topups WHERE tab_id = ? AND state = 'open'", (topup.tab_id,)
    ).fetchone()
    if count >= open_limit:
        raise QuotaExceeded(
            f"This key has {count} unpaid top-up invoices; pay one or wait until they expire.",
            retry_after_s=60,
        )
    rows.insert_topup(db, topup)


def end_topup(
    db: sqlite3.Connection, payment_hash: PaymentHash, state: TopupState, now_ms: int
) -> None:
    """Credit a paid top-up once, or mark it expired. A payment that came late still counts."""
    topup = rows.load_topup(db, payment_hash)
    if topup is None or topup.state is TopupState.PAID or state is TopupState.OPEN:
        return
    if state is TopupState.PAID:
        _deposit(db, rows.load_tab(db, topup.tab_id), payment_hash, topup.amount, now_ms)
    db.execute("UPDATE topups SET state=? WHERE payment_hash=?", (state.value, payment_hash))


def _deposit(
    db: sqlite3.Connection, tab: Tab, payment_hash: PaymentHash, amount: int, now_ms: int
) -> Tab:
    """Credit a payment; its hash is a primary key, so it can be credited only once."""
    try:
        db.execute(
            "INSERT INTO deposits VALUES (?,?,?,?)", (payment_hash, tab.tab_id, amount, now_ms)
        )
    except sqlite3.IntegrityError:
        raise LedgerError("this payment was credited already", code="ledger_conflict") from None
    credited = deposit(tab, amount)
    rows.save_tab(db, credited)
    return credited


def place_hold(db: sqlite3.Connection, new: Hold) -> Tab:
    """Reserve a ceiling."""
    tab = hold(rows.load_tab(db, new.tab_id), new.amount)
    rows.save_tab(db, tab)
    rows.insert_hold(db, new)
    return tab


def claim(db: sqlite3.Connection, paid: PaidRequest, new: Hold) -> None:
    """Take a proof: deposit once, hold, run. A failed run may run again on the same deposit."""
    tab, state = _paid_tab(db, paid, new.opened_ms)
    if state in (ServerState.RUNNING, ServerState.DELIVERED, ServerState.CREDITED):
        raise refusal(state)
    target = advance(state, ServerEvent.CLAIM)
    place_hold(db, replace(new, tab_id=tab.tab_id, amount=min(new.amount, tab.balance)))
    _save_claim(db, paid, tab.tab_id, target, new.hold_id)


def _paid_tab(db: sqlite3.Connection, paid: PaidRequest, now_ms: int) -> tuple[Tab, ServerState]:
    row = db.execute(
        "SELECT tab_id, state FROM claims WHERE payment_hash = ?", (paid.payment_hash,)
    ).fetchone()
    if row is not None:
        return rows.load_tab(db, TabId(row[0])), ServerState(row[1])
    tab = Tab(tab_id=paid.tab_id, kind=TabKind.REQUEST, asset=paid.asset)
    rows.insert_tab(db, tab, paid.session)
    return _deposit(db, tab, paid.payment_hash, paid.amount, now_ms), ServerState.QUOTED


def _save_claim(
    db: sqlite3.Connection, paid: PaidRequest, tab_id: TabId, state: ServerState, hold_id: str
) -> None:
    db.execute(
        "INSERT INTO claims VALUES (?,?,?,?,?)"
        " ON CONFLICT (payment_hash) DO UPDATE SET state = excluded.state,"
        " hold_id = excluded.hold_id",
        (paid.payment_hash, tab_id, paid.digest, state.value, hold_id),
    )


def _end_claim(db: sqlite3.Connection, ended: Hold, event: ServerEvent) -> None:
    if ended.payment_hash is None:
        return
    (state,) = db.execute(
        "SELECT state FROM claims WHERE payment_hash = ?", (ended.payment_hash,)
    ).fetchone()
    target = advance(ServerState(state), event)
    db.execute("UPDATE claims SET state=? WHERE payment_hash=?", (target.value, ended.payment_hash))


def capture_hold(
    db: sqlite3.Connection,
    hold_id: HoldId,
    receipt: Receipt,
    request_id: RequestId,
    remainder_to: KeyRecord | None,
) -> Captured:
    """Charge, place the receipt in its session, move the remainder."""
    opened = rows.load_hold(db, hold_id)
    if opened is None:
        raise LedgerError(f"there is no hold {hold_id}", code="ledger_conflict")
    now_ms = receipt.finished_ms
    ended = end_hold(opened, HoldEvent.CAPTURE, charged=receipt.charged, now_ms=now_ms)
    tab = capture(rows.load_tab(db, opened.tab_id), opened.amount, receipt.charged)
    rows.save_tab(db, tab)
    rows.save_hold(db, ended)
    _end_claim(db, ended, ServerEvent.DELIVER)
    remainder = opened.amount - receipt.charged
    placed, seq = _place(db, tab.tab_id, receipt)
    payer, went_to = tab, ""
    # A key that was forgotten meanwhile, or counts another asset, must not spoil the charge for
    # what was delivered: the remainder then stays where it can be redeemed.
    key_tab = rows.find_tab(db, remainder_to.tab_id) if remainder_to is not None else None
    if remainder_to is not None and key_tab is not None and key_tab.asset == tab.asset:
        payer = key_tab
        if remainder and key_tab.tab_id != tab.tab_id:
            payer = _transfer(db, f"remainder:{hold_id}", tab, key_tab.tab_id, remainder, now_ms)
            went_to = remainder_to.key_id
    stored = StoredReceipt(
        request_id=request_id,
        hold_id=hold_id,
        packed=placed.pack(),
        charged=receipt.charged,
        remainder=remainder,
        remainder_to=went_to,
    )
    db.execute(
        "INSERT INTO receipts VALUES (?,?,?,?,?,?,?,?,?)",
        (
            request_id,
            tab.tab_id,
            seq,
            hold_id,
            opened.payment_hash,
            stored.packed,
            stored.charged,
            remainder,
            went_to,
        ),
    )
    return Captured(stored=stored, payer=payer)


def _place(db: sqlite3.Connection, tab_id: TabId, receipt: Receipt) -> tuple[Receipt, int]:
    session, seq, last = db.execute(
        "SELECT session, next_seq, last_digest FROM tabs WHERE tab_id = ?", (tab_id,)
    ).fetchone()
    placed = receipt.placed(session=session, seq=seq, prev_digest=last)
    db.execute(
        "UPDATE tabs SET next_seq=?, last_digest=? WHERE tab_id=?", (seq + 1, placed.digest, tab_id)
    )
    return placed, seq


def _transfer(
    db: sqlite3.Connection, transfer_id: str, source: Tab, to: TabId, amount: int, now_ms: int
) -> Tab:
    """Move base units between tabs of one asset; returns the receiving tab."""
    target = rows.load_tab(db, to)
    if target.asset != source.asset:
        raise LedgerError("the two tabs count different assets", code="ledger_conflict")
    rows.save_tab(db, withdraw(source, amount))
    credited = deposit(target, amount)
    rows.save_tab(db, credited)
    db.execute(
        "INSERT INTO transfers VALUES (?,?,?,?,?,?)",
        (transfer_id, source.tab_id, to, str(source.asset), amount, now_ms),
    )
    return credited


def release_hold(db: sqlite3.Connection, hold_id: HoldId, now_ms: int) -> None:
    """End a hold without charge; one that ended or never was stays as it is."""
    opened = rows.load_hold(db, hold_id)
    if opened is None or opened.state is not HoldState.OPEN:
        return
    ended = end_hold(opened, HoldEvent.RELEASE, charged=0, now_ms=now_ms)
    rows.save_tab(db, release(rows.load_tab(db, opened.tab_id), opened.amount))
    rows.save_hold(db, ended)
    _end_claim(db, ended, ServerEvent.FAIL)


def redeem(db: sqlite3.Connection, paid: PaidRequest, key: KeyRecord, now_ms: int) -> int:
    """Move what a paid request has left to a key; counts what earlier calls moved to it."""
    tab, state = _paid_tab(db, paid, now_ms)
    if state is ServerState.RUNNING:
        raise refusal(state)
    if state is not ServerState.CREDITED:
        target = advance(state, ServerEvent.CREDIT)
        if tab.balance:
            name = f"redeem:{paid.payment_hash.hex()}"
            _transfer(db, name, tab, key.tab_id, tab.balance, now_ms)
        _save_claim(db, paid, tab.tab_id, target, "")
    (moved,) = db.execute(
        "SELECT COALESCE(sum(amount), 0) FROM transfers WHERE from_tab = ? AND to_tab = ?",
        (tab.tab_id, key.tab_id),
    ).fetchone()
    return int(moved)
