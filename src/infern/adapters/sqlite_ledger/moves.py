"""The steps that other bookings are made of: credit a payment, move between tabs, end a claim."""

import sqlite3

from infern.core.errors import LedgerError
from infern.core.f402.server import ServerEvent, ServerState, advance
from infern.core.ids import PaymentHash, TabId
from infern.core.ledger.tab import Tab, deposit, withdraw
from infern.core.units import MAX_LEDGER_AMOUNT, Asset

from . import rows


def credit(
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


def transfer(
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


def taker(db: sqlite3.Connection, tab_id: TabId | None, asset: Asset, amount: int) -> Tab | None:
    """The tab a remainder goes to; None when it is gone, counts another asset or has no room.

    Such a tab must not spoil the booking of what was delivered: the remainder then stays where it
    can be redeemed.
    """
    tab = rows.find_tab(db, tab_id) if tab_id is not None else None
    if tab is None or tab.asset != asset or tab.deposited + amount > MAX_LEDGER_AMOUNT:
        return None
    return tab


def end_claim(db: sqlite3.Connection, payment_hash: PaymentHash | None, event: ServerEvent) -> None:
    """Move a paid request on; nothing for a prepaid key's hold, which has none."""
    if payment_hash is None:
        return
    (state,) = db.execute(
        "SELECT state FROM claims WHERE payment_hash = ?", (payment_hash,)
    ).fetchone()
    target = advance(ServerState(state), event)
    db.execute("UPDATE claims SET state=? WHERE payment_hash=?", (target.value, payment_hash))
