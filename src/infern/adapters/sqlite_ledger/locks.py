"""Bookings of payments in hold mode; each runs inside one transaction."""
# ruff: noqa: S608 - statements are put together from constants of this module only

import sqlite3
from dataclasses import replace
from typing import Final

from infern.core.errors import InvariantViolation, LedgerError, PaymentError, QuotaExceeded
from infern.core.f402.server import ServerEvent, ServerState, refusal
from infern.core.ids import HoldId, PaymentHash, PayoutId, Pubkey, RequestDigest, TabId
from infern.core.ledger.hold import Hold, HoldEvent, HoldState, end_hold
from infern.core.ledger.lock import Lock, LockEvent, LockState, move_lock
from infern.core.ledger.records import PaidRequest, RemainderPlan
from infern.core.ledger.tab import Tab, void, withdraw
from infern.core.units import Asset

from . import moves, payouts, rows

_LOCK: Final = (
    "payment_hash, nonce, amount, asset, digest, tab_id, hold_id, remainder_tab, refund_to,"
    " payout_id, state, offered_ms, expires_ms, ended_ms"
)
_BOOKED_HERE: Final = frozenset(
    {LockEvent.DELIVER, LockEvent.ABANDON, LockEvent.EXPIRE, LockEvent.PAID, LockEvent.GONE}
)


def _lock(row: rows.Row) -> Lock:
    return Lock(
        payment_hash=PaymentHash(row[0]),
        nonce=row[1],
        amount=row[2],
        asset=Asset.parse(row[3]),
        digest=RequestDigest(row[4]),
        tab_id=None if row[5] is None else TabId(row[5]),
        hold_id=None if row[6] is None else HoldId(row[6]),
        remainder_tab=None if row[7] is None else TabId(row[7]),
        refund_to=None if row[8] is None else Pubkey(row[8]),
        payout_id=None if row[9] is None else PayoutId(row[9]),
        state=LockState(row[10]),
        offered_ms=row[11],
        expires_ms=row[12],
        ended_ms=row[13],
    )


def find(db: sqlite3.Connection, payment_hash: PaymentHash) -> Lock | None:
    """A lock, or None."""
    row = db.execute(f"SELECT {_LOCK} FROM locks WHERE payment_hash = ?", (payment_hash,))
    found = row.fetchone()
    return None if found is None else _lock(found)


def load(db: sqlite3.Connection, payment_hash: PaymentHash) -> Lock:
    """A lock; `ledger_conflict` when there is none."""
    found = find(db, payment_hash)
    if found is None:
        raise LedgerError("this payment was never offered in hold mode", code="ledger_conflict")
    return found


def open_ones(db: sqlite3.Connection, limit: int, skip: int) -> list[Lock]:
    """Locks without an end, oldest first."""
    found = db.execute(
        f"SELECT {_LOCK} FROM locks WHERE ended_ms IS NULL"
        " ORDER BY offered_ms, payment_hash LIMIT ? OFFSET ?",
        (limit, skip),
    )
    return [_lock(row) for row in found]


def undelivered(db: sqlite3.Connection) -> list[PaymentHash]:
    """Locks whose charge is booked and whose answer was not written for certain."""
    found = db.execute("SELECT payment_hash FROM locks WHERE state = 'charged'").fetchall()
    return [PaymentHash(row[0]) for row in found]


def offer(db: sqlite3.Connection, lock: Lock, open_limit: int) -> None:
    """A hold invoice that is about to be made."""
    (count,) = db.execute("SELECT count(*) FROM locks WHERE ended_ms IS NULL").fetchone()
    if count >= open_limit:
        raise QuotaExceeded(
            "This seller has as many held payments as it allows; pay upfront, or try again in a "
            "moment. Nothing was paid.",
            code="hold_unavailable",
            retry_after_s=5,
        )
    db.execute(
        f"INSERT INTO locks ({_LOCK}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            lock.payment_hash,
            lock.nonce,
            lock.amount,
            str(lock.asset),
            lock.digest,
            lock.tab_id,
            lock.hold_id,
            lock.remainder_tab,
            lock.refund_to,
            lock.payout_id,
            lock.state.value,
            lock.offered_ms,
            lock.expires_ms,
            lock.ended_ms,
        ),
    )


def _save(db: sqlite3.Connection, lock: Lock) -> Lock:
    db.execute(
        "UPDATE locks SET tab_id=?, hold_id=?, remainder_tab=?, refund_to=?, payout_id=?,"
        " state=?, ended_ms=? WHERE payment_hash=?",
        (
            lock.tab_id,
            lock.hold_id,
            lock.remainder_tab,
            lock.refund_to,
            lock.payout_id,
            lock.state.value,
            lock.ended_ms,
            lock.payment_hash,
        ),
    )
    return lock


def claim(
    db: sqlite3.Connection, paid: PaidRequest, tab_id: TabId, hold_id: HoldId, now_ms: int
) -> None:
    """The proof of a lock was taken: its request is being answered."""
    lock = load(db, paid.payment_hash)
    if (lock.amount, lock.asset) != (paid.amount, paid.asset):
        raise InvariantViolation("a token and its lock say different amounts")
    if lock.state is LockState.SETTLED:
        return  # the operator settled it by hand: money like any other
    held = move_lock(lock, LockEvent.CLAIM, now_ms)
    _save(db, replace(held, tab_id=tab_id, hold_id=hold_id))


def is_of(db: sqlite3.Connection, hold: Hold) -> bool:
    """Whether a hold is one on a lock, and not on money."""
    lock = find(db, hold.payment_hash) if hold.payment_hash is not None else None
    return lock is not None and lock.hold_id == hold.hold_id


def _load_of(db: sqlite3.Connection, hold: Hold) -> Lock:
    assert hold.payment_hash is not None
    return load(db, hold.payment_hash)


def capture(db: sqlite3.Connection, hold: Hold, plan: RemainderPlan, now_ms: int) -> None:
    """The charge is booked; where the remainder goes is remembered until the lock is money."""
    charged = move_lock(_load_of(db, hold), LockEvent.CAPTURE, now_ms)
    key_tab = rows.find_tab(db, plan.key.tab_id) if plan.key is not None else None
    goes_to_key = key_tab is not None and key_tab.asset == charged.asset
    _save(
        db,
        replace(
            charged,
            remainder_tab=key_tab.tab_id if goes_to_key and key_tab is not None else None,
            refund_to=None if goes_to_key else plan.refund_to,
            payout_id=None if goes_to_key else plan.payout_id,
        ),
    )


def release(db: sqlite3.Connection, hold: Hold, now_ms: int) -> None:
    """Nothing was delivered: the payer is to have its money back."""
    _save(db, move_lock(_load_of(db, hold), LockEvent.RELEASE, now_ms))


def move(db: sqlite3.Connection, payment_hash: PaymentHash, event: LockEvent, now_ms: int) -> Lock:
    """Book what happened to a lock and what follows for its tab."""
    if event not in _BOOKED_HERE:
        raise InvariantViolation(f"{event} of a lock is booked with its hold")
    lock = move_lock(load(db, payment_hash), event, now_ms)
    # One that was never claimed has no tab: should it have been settled by hand, its token
    # redeems it like any payment.
    tab = rows.load_tab(db, lock.tab_id) if lock.tab_id is not None else None
    if tab is not None and event is LockEvent.GONE:
        _give_back(db, lock, tab, now_ms)
    elif tab is not None and event is LockEvent.PAID:
        _move_remainder(db, lock, tab, now_ms)
    return _save(db, lock)


def require_not_given_back(db: sqlite3.Connection, payment_hash: PaymentHash) -> None:
    """Refuse a proof whose lock is on its way back, whatever was charged on it before.

    Raises:
        PaymentError: `payment_not_received`.
    """
    if load(db, payment_hash).state in (LockState.CANCELLING, LockState.CANCELLED, LockState.LOST):
        raise refusal(ServerState.CANCELLED)


def require_money(db: sqlite3.Connection, payment_hash: PaymentHash) -> None:
    """Refuse to move what is a lock and no money.

    Raises:
        ProtocolError: `request_in_progress`; it will be settled or given back.
        PaymentError: `payment_not_received`; it was given back, or will be.
    """
    state = load(db, payment_hash).state
    if state in (LockState.HELD, LockState.CHARGED, LockState.SETTLING):
        raise refusal(ServerState.RUNNING)
    if state is LockState.OFFERED:
        raise PaymentError(
            "This payment is in hold mode: use it for its answer, or it goes back to you over "
            "Fiber by itself. There is nothing to redeem.",
            code="payment_not_received",
        )
    if state is not LockState.SETTLED:
        raise refusal(ServerState.CANCELLED)


def _give_back(db: sqlite3.Connection, lock: Lock, tab: Tab, now_ms: int) -> None:
    """The payer has the deposit again, over Fiber; a charge on it was never paid."""
    hold = rows.load_hold(db, lock.hold_id) if lock.hold_id is not None else None
    if hold is not None and hold.state is HoldState.CAPTURED:
        tab = void(tab, hold.charged)
        rows.save_hold(db, end_hold(hold, HoldEvent.VOID, charged=0, now_ms=now_ms))
    rows.save_tab(db, withdraw(tab, lock.amount))
    moves.end_claim(db, lock.payment_hash, ServerEvent.CANCEL)


def _move_remainder(db: sqlite3.Connection, lock: Lock, tab: Tab, now_ms: int) -> None:
    """The deposit is money: what it did not cost goes where its plan says."""
    if not tab.balance:
        return
    if lock.remainder_tab is not None and rows.find_tab(db, lock.remainder_tab) is not None:
        name = f"remainder:{lock.hold_id}"
        moves.transfer(db, name, tab, lock.remainder_tab, tab.balance, now_ms)
    elif lock.refund_to is not None and lock.payout_id is not None:
        payouts.add_remainder(
            db,
            tab,
            payment_hash=lock.payment_hash,
            refund_to=lock.refund_to,
            payout_id=lock.payout_id,
            remainder=tab.balance,
            now_ms=now_ms,
        )
