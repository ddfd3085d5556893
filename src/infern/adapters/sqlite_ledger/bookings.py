"""The ledger's bookings as functions of a connection, inside one transaction each.

They load rows, apply the pure rules of `infern.core.ledger`, and write rows back. There is one
writer, so what was read is still true when it is written.
"""

import sqlite3
from dataclasses import replace

from infern.core.errors import LedgerError, ProtocolError, QuotaExceeded
from infern.core.f402.receipt import Receipt
from infern.core.f402.server import TRANSITIONS, ServerEvent, ServerState, advance, refusal
from infern.core.ids import HoldId, PaymentHash, RequestId, TabId
from infern.core.ledger.hold import Hold, HoldEvent, HoldState, end_hold
from infern.core.ledger.lock import LockEvent
from infern.core.ledger.records import (
    TOPUP_TRANSITIONS,
    Captured,
    KeyRecord,
    PaidRequest,
    RemainderPlan,
    StoredReceipt,
    Topup,
    TopupState,
)
from infern.core.ledger.tab import Tab, TabKind, capture, hold, release

from . import locks, moves, payouts, rows


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
        " AND NOT EXISTS (SELECT 1 FROM locks l WHERE l.remainder_tab = k.tab_id"
        " AND l.ended_ms IS NULL)"
        " LIMIT ?",
        (created_before_ms, limit),
    ).fetchall()
    for key_digest, tab_id in found:
        db.execute("DELETE FROM topups WHERE tab_id = ?", (tab_id,))
        db.execute("UPDATE locks SET remainder_tab = NULL WHERE remainder_tab = ?", (tab_id,))
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
    """Credit a paid top-up once, or mark it expired."""
    topup = rows.load_topup(db, payment_hash)
    if topup is None or state not in TOPUP_TRANSITIONS[topup.state]:
        return
    if state is TopupState.PAID:
        moves.credit(db, rows.load_tab(db, topup.tab_id), payment_hash, topup.amount, now_ms)
    db.execute("UPDATE topups SET state=? WHERE payment_hash=?", (state.value, payment_hash))


def place_hold(db: sqlite3.Connection, new: Hold) -> Tab:
    """Reserve a ceiling, once for a need that the consumer named."""
    if new.attempt is not None:
        _refuse_repetition(db, new)
    tab = hold(rows.load_tab(db, new.tab_id), new.amount)
    rows.save_tab(db, tab)
    rows.insert_hold(db, new)
    return tab


def _refuse_repetition(db: sqlite3.Connection, new: Hold) -> None:
    assert new.attempt is not None
    known = rows.hold_of_attempt(db, new.tab_id, new.attempt)
    if known is None:
        return
    if known.digest != new.digest:
        raise ProtocolError(
            "This Idempotency-Key was used for another request; use a new one.",
            code="idempotency_conflict",
        )
    raise refusal(ServerState.RUNNING if known.state is HoldState.OPEN else ServerState.DELIVERED)


def claim(db: sqlite3.Connection, paid: PaidRequest, new: Hold) -> None:
    """Take a proof: deposit once, hold, run. A failed run may run again on the same deposit."""
    lock = locks.of_payment(db, paid)
    if lock is not None:
        locks.refuse_given_back(lock)
    tab, state = _paid_tab(db, paid, new.opened_ms)
    if ServerEvent.CLAIM not in TRANSITIONS[state]:
        raise refusal(state)
    target = advance(state, ServerEvent.CLAIM)
    if lock is not None:
        locks.claim(db, lock, paid, tab_id=tab.tab_id, hold_id=new.hold_id, now_ms=new.opened_ms)
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
    return moves.credit(db, tab, paid.payment_hash, paid.amount, now_ms), ServerState.QUOTED


def _save_claim(
    db: sqlite3.Connection, paid: PaidRequest, tab_id: TabId, state: ServerState, hold_id: str
) -> None:
    db.execute(
        "INSERT INTO claims VALUES (?,?,?,?,?)"
        " ON CONFLICT (payment_hash) DO UPDATE SET state = excluded.state,"
        " hold_id = excluded.hold_id",
        (paid.payment_hash, tab_id, paid.digest, state.value, hold_id),
    )


def credit_unclaimed(db: sqlite3.Connection, paid: PaidRequest, now_ms: int) -> bool:
    """Book a payment whose proof never came; False when it is booked already."""
    _require_money(db, paid)
    tab, state = _paid_tab(db, paid, now_ms)
    if state is not ServerState.QUOTED:
        return False
    _save_claim(db, paid, tab.tab_id, advance(state, ServerEvent.ARRIVE), "")
    return True


def capture_hold(
    db: sqlite3.Connection,
    hold_id: HoldId,
    receipt: Receipt,
    request_id: RequestId,
    plan: RemainderPlan,
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
    moves.end_claim(db, ended.payment_hash, ServerEvent.DELIVER)
    placed, seq = _place(db, tab.tab_id, receipt)
    payer, went_to = _move_remainder(db, ended, tab, plan, now_ms)
    stored = StoredReceipt(
        request_id=request_id,
        hold_id=hold_id,
        packed=placed.pack(),
        charged=receipt.charged,
        remainder=opened.amount - receipt.charged,
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
            stored.remainder,
            went_to,
        ),
    )
    return Captured(stored=stored, payer=payer)


def _move_remainder(
    db: sqlite3.Connection, ended: Hold, tab: Tab, plan: RemainderPlan, now_ms: int
) -> tuple[Tab, str]:
    """What was not charged goes where the plan says; returns the payer's tab, and where to."""
    remainder = ended.amount - ended.charged
    key_tab = moves.taker(db, plan.key.tab_id if plan.key else None, tab.asset, remainder)
    lock = locks.find(db, ended.payment_hash) if ended.payment_hash is not None else None
    if lock is not None:
        locks.capture(db, lock, key_tab, plan, now_ms)
        return key_tab or tab, ""
    if plan.key is not None and key_tab is not None:
        if not remainder or key_tab.tab_id == tab.tab_id:
            return key_tab, ""
        name = f"remainder:{ended.hold_id}"
        payer = moves.transfer(db, name, tab, key_tab.tab_id, remainder, now_ms)
        return payer, plan.key.key_id
    if plan.refund_to is not None and plan.payout_id is not None and ended.payment_hash is not None:
        payout = payouts.add_remainder(
            db,
            tab,
            payment_hash=ended.payment_hash,
            refund_to=plan.refund_to,
            payout_id=plan.payout_id,
            remainder=remainder,
            now_ms=now_ms,
        )
        return rows.load_tab(db, tab.tab_id), payout.payout_id if payout else ""
    return tab, ""


def _place(db: sqlite3.Connection, tab_id: TabId, receipt: Receipt) -> tuple[Receipt, int]:
    session, seq, last = db.execute(
        "SELECT session, next_seq, last_digest FROM tabs WHERE tab_id = ?", (tab_id,)
    ).fetchone()
    placed = receipt.placed(session=session, seq=seq, prev_digest=last)
    db.execute(
        "UPDATE tabs SET next_seq=?, last_digest=? WHERE tab_id=?", (seq + 1, placed.digest, tab_id)
    )
    return placed, seq


def release_hold(db: sqlite3.Connection, hold_id: HoldId, now_ms: int) -> None:
    """End a hold without charge; one that ended or never was stays as it is."""
    opened = rows.load_hold(db, hold_id)
    if opened is None or opened.state is not HoldState.OPEN:
        return
    ended = end_hold(opened, HoldEvent.RELEASE, charged=0, now_ms=now_ms)
    rows.save_tab(db, release(rows.load_tab(db, opened.tab_id), opened.amount))
    rows.save_hold(db, ended)
    moves.end_claim(db, ended.payment_hash, ServerEvent.FAIL)
    lock = locks.find(db, ended.payment_hash) if ended.payment_hash is not None else None
    if lock is not None:
        locks.release(db, lock, now_ms)


def release_expired(db: sqlite3.Connection, hold_id: HoldId, now_ms: int) -> bool:
    """End a hold whose owner is gone; False when it was renewed or has ended."""
    opened = rows.load_hold(db, hold_id)
    if opened is None or opened.state is not HoldState.OPEN or opened.lease_until_ms >= now_ms:
        return False
    release_hold(db, hold_id, now_ms)
    return True


def recover(db: sqlite3.Connection, now_ms: int) -> int:
    """End what a dead process left open: holds are released, their locks are to be cancelled."""
    left = rows.open_holds(db)
    for opened in left:
        release_hold(db, opened.hold_id, now_ms)
    for payment_hash in locks.undelivered(db):
        # Nobody can show that the answer was written, so the payer gets its money back.
        locks.move(db, payment_hash, LockEvent.ABANDON, now_ms)
    return len(left)


def _require_money(db: sqlite3.Connection, paid: PaidRequest) -> None:
    lock = locks.of_payment(db, paid)
    if lock is not None:
        locks.require_money(lock)


def redeem(db: sqlite3.Connection, paid: PaidRequest, key: KeyRecord, now_ms: int) -> int:
    """Move what a paid request has left to a key; counts what earlier calls moved to it."""
    _require_money(db, paid)
    tab, state = _paid_tab(db, paid, now_ms)
    if state is ServerState.RUNNING:
        raise refusal(state)
    if state is not ServerState.CREDITED:
        target = advance(state, ServerEvent.CREDIT)
        if tab.balance:
            # More can be left later: a remainder that could not be sent back returns to the tab.
            (times,) = db.execute(
                "SELECT count(*) FROM transfers WHERE from_tab = ?", (tab.tab_id,)
            ).fetchone()
            name = f"redeem:{paid.payment_hash.hex()}:{times}"
            moves.transfer(db, name, tab, key.tab_id, tab.balance, now_ms)
        _save_claim(db, paid, tab.tab_id, target, "")
    (moved,) = db.execute(
        "SELECT COALESCE(sum(amount), 0) FROM transfers WHERE from_tab = ? AND to_tab = ?",
        (tab.tab_id, key.tab_id),
    ).fetchone()
    return int(moved)
