"""Sums over the whole ledger, made by the database: no row leaves it."""

import sqlite3
from collections.abc import Iterable
from typing import Final

from infern.core.ledger.books import Totals
from infern.core.units import Asset

_OUTSIDE: Final = {
    "received": "SELECT asset, sum(amount) FROM deposits JOIN tabs USING (tab_id)",
    "captured": "SELECT asset, sum(charged) FROM holds JOIN tabs USING (tab_id)"
    " WHERE state = 'captured'",
    "transferred": "SELECT asset, sum(amount) FROM transfers",
    "sent": "SELECT asset, sum(amount + fee) FROM payouts WHERE state = 'settled'",
    "returned": "SELECT asset, sum(amount) FROM locks"
    " WHERE state IN ('cancelled', 'lost') AND tab_id IS NOT NULL",
}
_TABS: Final = (
    "SELECT asset, sum(deposited), sum(held), sum(spent), sum(refunded) FROM tabs GROUP BY asset"
)
_LOCKS: Final = (
    "SELECT l.asset, sum(l.amount), sum(t.deposited - t.spent - t.refunded)"
    " FROM locks l JOIN tabs t USING (tab_id)"
    " WHERE l.ended_ms IS NULL AND l.state <> 'offered' GROUP BY l.asset"
)
_OWED: Final = "SELECT asset, sum(amount + fee_cap) FROM payouts WHERE ended_ms IS NULL"


def outside(db: sqlite3.Connection) -> dict[str, dict[Asset, int]]:
    """What came from and went to the outside, by the field of `Books` that names it."""
    return {name: _by_asset(db.execute(f"{sql} GROUP BY asset")) for name, sql in _OUTSIDE.items()}


def totals(db: sqlite3.Connection) -> dict[Asset, Totals]:
    """As `infern.core.ledger.books.totals` of the whole ledger."""
    tabs = {Asset.parse(row[0]): row[1:] for row in db.execute(_TABS)}
    locks = {Asset.parse(row[0]): row[1:] for row in db.execute(_LOCKS)}
    owed = _by_asset(db.execute(f"{_OWED} GROUP BY asset"))
    out = outside(db)
    assets = set(tabs).union(*out.values())
    found = {}
    for asset in assets:
        deposited, held, spent, refunded = tabs.get(asset, (0, 0, 0, 0))
        locked, unsettled = locks.get(asset, (0, 0))
        found[asset] = Totals(
            deposited=deposited,
            balance=deposited - held - spent - refunded,
            held=held,
            spent=spent,
            refunded=refunded,
            locked=locked,
            unsettled=unsettled,
            owed=owed.get(asset, 0),
            **{name: sums.get(asset, 0) for name, sums in out.items()},
        )
    return found


def _by_asset(rows: Iterable[tuple[str, int]]) -> dict[Asset, int]:
    return {Asset.parse(asset): amount for asset, amount in rows}
