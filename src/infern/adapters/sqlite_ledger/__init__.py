"""The ledger on SQLite: WAL, synchronous=FULL, one writer thread with group commit."""

from infern.adapters.sqlite_ledger.ledger import SqliteLedger

__all__ = ["SqliteLedger"]
