"""Sums over the whole ledger, made by the database: no row leaves it."""
# ruff: noqa: S608 - statements are put together from constants of this module only

import sqlite3
from typing import Final

from infern.core.ledger.books import Totals
from infern.core.units import Asset

_OUTSIDE: Final = {
    "received": ("amount", "deposits JOIN tabs USING (tab_id)"),
    "captured": ("charged", "holds JOIN tabs USING (tab_id) WHERE state = 'captured'"),
    "transferred": ("amount", "transfers"),
    "sent": ("amount + fee", "payouts WHERE state = 'settled'"),
    "returned": ("amount", "locks WHERE state IN ('cancelled', 'lost') AND tab_id IS NOT NULL"),
}
_PENDING: Final = (
    "(SELECT l.asset, l.amount, t.deposited - t.spent - t.refunded AS unsettled"
    " FROM locks l JOIN tabs t USING (tab_id) WHERE l.ended_ms IS NULL AND l.state <> 'offered')"
)


def outside(db: sqlite3.Connection) -> dict[str, dict[Asset, int]]:
    """What came from and went to the outside, by the field of `Books` that names it."""
    return {name: _sums(db, what, rows_of) for name, (what, rows_of) in _OUTSIDE.items()}


def totals(db: sqlite3.Connection) -> dict[Asset, Totals]:
    """As `infern.core.ledger.books.totals` of the whole ledger."""
    tabs = {name: _sums(db, name, "tabs") for name in ("deposited", "held", "spent", "refunded")}
    sums = {
        **tabs,
        **outside(db),
        "balance": _sums(db, "deposited - held - spent - refunded", "tabs"),
        "locked": _sums(db, "amount", _PENDING),
        "unsettled": _sums(db, "unsettled", _PENDING),
        "owed": _sums(db, "amount + fee_cap", "payouts WHERE ended_ms IS NULL"),
    }
    return {
        asset: Totals(**{name: by_asset.get(asset, 0) for name, by_asset in sums.items()})
        for asset in set().union(*sums.values())
    }


def _sums(db: sqlite3.Connection, what: str, rows_of: str) -> dict[Asset, int]:
    # In halves: the sum of many 63-bit amounts needs more than the 63 bits that SQLite has.
    halves = db.execute(
        f"SELECT asset, sum(({what}) >> 32), sum(({what}) & 4294967295) FROM {rows_of}"
        " GROUP BY asset"
    )
    return {Asset.parse(asset): (high << 32) + low for asset, high, low in halves}
