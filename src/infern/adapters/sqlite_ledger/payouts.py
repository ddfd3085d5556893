"""Bookings of money on its way out; each runs inside one transaction."""
# ruff: noqa: S608 - statements are put together from constants of this module only

import sqlite3
from typing import Final

from infern.core.errors import LedgerError, Money, ProtocolError
from infern.core.ids import PaymentHash, PayoutId, Pubkey, TabId
from infern.core.ledger.payout import (
    Payout,
    PayoutEvent,
    PayoutPurpose,
    PayoutState,
    fee_cap_of,
    largest_payout,
    move_payout,
)
from infern.core.ledger.records import DUST
from infern.core.ledger.tab import Tab, pay_out, reserve
from infern.core.units import Asset

from . import rows

_PAYOUT: Final = (
    "payout_id, tab_id, purpose, request_key, asset, amount, fee_cap, fee, invoice, target,"
    " payment_hash, state, failure, created_ms, sent_ms, ended_ms"
)


def _payout(row: rows.Row) -> Payout:
    return Payout(
        payout_id=PayoutId(row[0]),
        tab_id=TabId(row[1]),
        purpose=PayoutPurpose(row[2]),
        request_key=row[3],
        asset=Asset.parse(row[4]),
        amount=row[5],
        fee_cap=row[6],
        fee=row[7],
        invoice=row[8],
        target=None if row[9] is None else Pubkey(row[9]),
        payment_hash=None if row[10] is None else PaymentHash(row[10]),
        state=PayoutState(row[11]),
        failure=row[12],
        created_ms=row[13],
        sent_ms=row[14],
        ended_ms=row[15],
    )


def _select(db: sqlite3.Connection, where: str, *values: str | bytes | int) -> list[Payout]:
    found = db.execute(f"SELECT {_PAYOUT} FROM payouts WHERE {where}", values)
    return [_payout(row) for row in found]


def find(db: sqlite3.Connection, tab_id: TabId, request_key: bytes) -> Payout | None:
    """The payout of a wish, or None."""
    found = _select(db, "tab_id = ? AND request_key = ?", tab_id, request_key)
    return found[0] if found else None


def of_payment(db: sqlite3.Connection, payment_hash: PaymentHash) -> Payout | None:
    """The remainder of a paid request on its way back, or None."""
    claimed = db.execute("SELECT tab_id FROM claims WHERE payment_hash = ?", (payment_hash,))
    row = claimed.fetchone()
    return None if row is None else find(db, TabId(row[0]), payment_hash)


def of_tab(
    db: sqlite3.Connection, tab_id: TabId, purpose: PayoutPurpose | None, limit: int
) -> list[Payout]:
    """Payouts of a tab, newest first."""
    kind = "" if purpose is None else purpose.value
    where = "tab_id = ? AND ? IN ('', purpose) ORDER BY created_ms DESC, payout_id LIMIT ?"
    return _select(db, where, tab_id, kind, limit)


def open_ones(db: sqlite3.Connection, limit: int, skip: int) -> list[Payout]:
    """Payouts without an end, oldest first."""
    where = "ended_ms IS NULL ORDER BY created_ms, payout_id LIMIT ? OFFSET ?"
    return _select(db, where, limit, skip)


def add(db: sqlite3.Connection, payout: Payout) -> Payout:
    """Reserve a payout, or find the one that was asked for before."""
    known = find(db, payout.tab_id, payout.request_key)
    if known is not None:
        return _same(known, payout)
    if payout.purpose is PayoutPurpose.WITHDRAW and _select(
        db,
        "tab_id = ? AND purpose = ? AND ended_ms IS NULL",
        payout.tab_id,
        PayoutPurpose.WITHDRAW.value,
    ):
        raise ProtocolError(
            "A withdrawal of this key is under way; one at a time. Nothing was reserved for this "
            "one.",
            code="request_in_progress",
            money=Money.UNMOVED,
            retry_after_s=2,
        )
    if payout.payment_hash is not None and _select(db, "payment_hash = ?", payout.payment_hash):
        # Fiber pays a hash once: two payouts of one invoice would both count that payment.
        raise ProtocolError(
            "This invoice was already used for a withdrawal; make a new one.",
            code="idempotency_conflict",
        )
    tab = rows.load_tab(db, payout.tab_id)
    if tab.asset != payout.asset:
        raise LedgerError("the tab counts another asset than the payout", code="ledger_conflict")
    if rows.is_locked(db, tab.tab_id):
        raise LedgerError("what a lock holds is no money to send yet", code="ledger_conflict")
    rows.save_tab(db, reserve(tab, payout.reserved))
    _insert(db, payout)
    return payout


def _same(known: Payout, asked: Payout) -> Payout:
    def terms(payout: Payout) -> tuple[object, ...]:
        # A keysend's hash is the node's to draw, so it is no part of what was asked.
        return (payout.purpose, payout.asset, payout.amount, payout.invoice, payout.target)

    if terms(known) != terms(asked):
        raise ProtocolError(
            "This id was used for another withdrawal; use a new one.", code="idempotency_conflict"
        )
    return known


def _insert(db: sqlite3.Connection, payout: Payout) -> None:
    db.execute(
        f"INSERT INTO payouts ({_PAYOUT}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            payout.payout_id,
            payout.tab_id,
            payout.purpose.value,
            payout.request_key,
            str(payout.asset),
            payout.amount,
            payout.fee_cap,
            payout.fee,
            payout.invoice,
            payout.target,
            payout.payment_hash,
            payout.state.value,
            payout.failure,
            payout.created_ms,
            payout.sent_ms,
            payout.ended_ms,
        ),
    )


def add_remainder(
    db: sqlite3.Connection,
    tab: Tab,
    *,
    payment_hash: PaymentHash,
    refund_to: Pubkey,
    payout_id: PayoutId,
    remainder: int,
    now_ms: int,
) -> Payout | None:
    """Reserve a remainder to be sent back with its fee cap, or None when it is dust."""
    amount = largest_payout(remainder)
    if remainder < DUST or not amount:
        return None
    payout = Payout(
        payout_id=payout_id,
        tab_id=tab.tab_id,
        purpose=PayoutPurpose.REMAINDER,
        request_key=payment_hash,
        asset=tab.asset,
        amount=amount,
        fee_cap=fee_cap_of(amount),
        target=refund_to,
        created_ms=now_ms,
    )
    rows.save_tab(db, reserve(tab, payout.reserved))
    _insert(db, payout)
    return payout


def move(
    db: sqlite3.Connection,
    payout_id: PayoutId,
    event: PayoutEvent,
    *,
    now_ms: int,
    fee: int,
    payment_hash: PaymentHash | None,
    failure: str,
) -> Payout:
    """Book what happened to a payout, and end its reservation when it is over."""
    found = _select(db, "payout_id = ?", payout_id)
    if not found:
        raise LedgerError(f"there is no payout {payout_id}", code="ledger_conflict")
    moved = move_payout(
        found[0], event, now_ms=now_ms, fee=fee, payment_hash=payment_hash, failure=failure
    )
    if not moved.is_open:
        out = moved.amount + moved.fee if moved.state is PayoutState.SETTLED else 0
        rows.save_tab(db, pay_out(rows.load_tab(db, moved.tab_id), moved.reserved, out))
    db.execute(
        "UPDATE payouts SET state=?, fee=?, payment_hash=?, failure=?, sent_ms=?, ended_ms=?"
        " WHERE payout_id=?",
        (
            moved.state.value,
            moved.fee,
            moved.payment_hash,
            moved.failure,
            moved.sent_ms,
            moved.ended_ms,
            payout_id,
        ),
    )
    return moved


def note_payment(db: sqlite3.Connection, payout_id: PayoutId, payment_hash: PaymentHash) -> None:
    """Remember the payment hash of a keysend; the first one counts."""
    db.execute(
        "UPDATE payouts SET payment_hash=? WHERE payout_id=? AND payment_hash IS NULL",
        (payment_hash, payout_id),
    )
