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
_IN_TABS: Final = ("deposited", "held", "spent", "refunded")
_LOCKED: Final = (
    "(SELECT l.asset AS asset, l.amount AS locked, t.deposited - t.spent - t.refunded AS unsettled"
    " FROM locks l JOIN tabs t USING (tab_id)"
    " WHERE l.ended_ms IS NULL AND l.state <> 'offered')"
)
_OWED: Final = "payouts WHERE ended_ms IS NULL"


def outside(db: sqlite3.Connection) -> dict[str, dict[Asset, int]]:
    """What came from and went to the outside, by the field of `Books` that names it."""
    return {name: _sum(db, what, of) for name, (what, of) in _OUTSIDE.items()}


def totals(db: sqlite3.Connection) -> dict[Asset, Totals]:
    """As `infern.core.ledger.books.totals` of the whole ledger."""
    columns = {name: _sum(db, name, "tabs") for name in _IN_TABS} | outside(db)
    columns |= {name: _sum(db, name, _LOCKED) for name in ("locked", "unsettled")}
    columns["owed"] = _sum(db, "amount + fee_cap", _OWED)
    found = {}
    for asset in set().union(*columns.values()):
        sums = {name: by_asset.get(asset, 0) for name, by_asset in columns.items()}
        balance = sums["deposited"] - sums["held"] - sums["spent"] - sums["refunded"]
        found[asset] = Totals(balance=balance, **sums)
    return found


def _sum(db: sqlite3.Connection, what: str, of: str) -> dict[Asset, int]:
    """A sum by asset, made in halves: many amounts of 63 bits need more than SQLite's integers."""
    halves = db.execute(
        f"SELECT asset, sum(({what}) >> 32), sum(({what}) & 4294967295) FROM {of} GROUP BY asset"
    )
    return {Asset.parse(asset): (high << 32) + low for asset, high, low in halves}
