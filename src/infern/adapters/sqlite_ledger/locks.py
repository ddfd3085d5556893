"""Bookings of payments in hold mode; each runs inside one transaction."""
# ruff: noqa: S608 - statements are put together from constants of this module only

import sqlite3
from dataclasses import replace
from typing import Final

from infern.core.errors import (
    InvariantViolation,
    LedgerError,
    Money,
    ProtocolError,
    QuotaExceeded,
    Retry,
)
from infern.core.f402.server import ServerEvent, ServerState, refusal
from infern.core.ids import HoldId, PaymentHash, PayoutId, Pubkey, RequestDigest, TabId
from infern.core.ledger.hold import HoldEvent, HoldState, end_hold
from infern.core.ledger.lock import GIVEN_BACK, Lock, LockEvent, LockState, move_lock
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


def of_payment(db: sqlite3.Connection, paid: PaidRequest) -> Lock | None:
    """The lock of a payment in hold mode; None for one that was paid upfront.

    Raises:
        LedgerError: It was offered in the other mode than its token says (`ledger_conflict`).
    """
    found = find(db, paid.payment_hash)
    if (found is not None) != paid.is_lock:
        raise LedgerError("this payment was offered in another mode", code="ledger_conflict")
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


def refuse_given_back(lock: Lock) -> None:
    """A proof of what goes back to its payer is refused, whatever became of its request before.

    Raises:
        PaymentError: `payment_not_received`; nothing was charged.
    """
    if lock.state in GIVEN_BACK:
        raise refusal(ServerState.CANCELLED)


def claim(
    db: sqlite3.Connection,
    lock: Lock,
    paid: PaidRequest,
    *,
    tab_id: TabId,
    hold_id: HoldId,
    now_ms: int,
) -> None:
    """The proof of a lock was taken: its request is being answered."""
    if lock.state is LockState.SETTLED:
        raise ProtocolError(
            "This payment was settled although nothing was answered; redeem it to a key.",
            code="already_delivered",
            money=Money.MOVED,
            retry=Retry.NEVER,
        )
    if (lock.amount, lock.asset, lock.digest) != (paid.amount, paid.asset, paid.digest):
        raise InvariantViolation("a token and its lock say different things")
    if now_ms > lock.claim_until_ms:
        # It may be gone from the node by now; whoever looks after locks cancels it.
        raise refusal(ServerState.CANCELLED)
    claimed = replace(lock, tab_id=tab_id, hold_id=hold_id)
    _save(db, move_lock(claimed, LockEvent.CLAIM, now_ms))


def capture(
    db: sqlite3.Connection, lock: Lock, key_tab: Tab | None, plan: RemainderPlan, now_ms: int
) -> None:
    """The charge is booked; where the remainder goes is remembered until the lock is money."""
    _save(
        db,
        replace(
            move_lock(lock, LockEvent.CAPTURE, now_ms),
            remainder_tab=None if key_tab is None else key_tab.tab_id,
            refund_to=plan.refund_to if key_tab is None else None,
            payout_id=plan.payout_id if key_tab is None else None,
        ),
    )


def release(db: sqlite3.Connection, lock: Lock, now_ms: int) -> None:
    """Nothing was delivered: the payer is to have its money back."""
    _save(db, move_lock(lock, LockEvent.RELEASE, now_ms))


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


def require_money(lock: Lock) -> None:
    """Refuse to move what is a lock and no money.

    Raises:
        ProtocolError: `request_in_progress`; it will be settled or given back.
        PaymentError: `payment_not_received`; it was given back.
    """
    refuse_given_back(lock)
    if lock.state is not LockState.SETTLED:
        raise ProtocolError(
            "This payment is held and no money yet: it is settled when its request was answered, "
            "and given back otherwise. Nothing was moved.",
            code="request_in_progress",
            retry_after_s=2,
        )


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
    key_tab = moves.taker(db, lock.remainder_tab, tab.asset, tab.balance)
    if key_tab is not None:
        name = f"remainder:{lock.hold_id}"
        moves.transfer(db, name, tab, key_tab.tab_id, tab.balance, now_ms)
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
