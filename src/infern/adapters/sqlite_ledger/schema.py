"""The tables, and how an older file becomes a newer one. Amounts are 63-bit; hashes are blobs."""

from typing import Final

SCHEMA_VERSION: Final = 2
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tabs (
  tab_id TEXT PRIMARY KEY, kind TEXT NOT NULL, asset TEXT NOT NULL,
  deposited INTEGER NOT NULL, held INTEGER NOT NULL, spent INTEGER NOT NULL,
  refunded INTEGER NOT NULL,
  session BLOB NOT NULL, next_seq INTEGER NOT NULL, last_digest BLOB NOT NULL,
  CHECK (held >= 0 AND spent >= 0 AND refunded >= 0),
  CHECK (deposited >= held + spent + refunded)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
  key_digest BLOB PRIMARY KEY, key_id TEXT NOT NULL UNIQUE,
  tab_id TEXT NOT NULL UNIQUE REFERENCES tabs, created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deposits (
  payment_hash BLOB PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs,
  amount INTEGER NOT NULL CHECK (amount > 0), credited_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topups (
  payment_hash BLOB PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs, key_id TEXT NOT NULL,
  amount INTEGER NOT NULL, invoice TEXT NOT NULL, expires_ms INTEGER NOT NULL,
  state TEXT NOT NULL, created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS topups_open ON topups (created_ms) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS holds (
  hold_id TEXT PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs,
  amount INTEGER NOT NULL, digest BLOB NOT NULL, payment_hash BLOB,
  state TEXT NOT NULL, charged INTEGER NOT NULL, opened_ms INTEGER NOT NULL, ended_ms INTEGER,
  attempt BLOB, owner TEXT NOT NULL DEFAULT '', lease_until_ms INTEGER NOT NULL DEFAULT 0,
  CHECK (charged <= amount)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS holds_open ON holds (lease_until_ms) WHERE state = 'open';
CREATE UNIQUE INDEX IF NOT EXISTS holds_attempt ON holds (tab_id, attempt)
  WHERE attempt IS NOT NULL AND state <> 'released';
CREATE TABLE IF NOT EXISTS claims (
  payment_hash BLOB PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs,
  digest BLOB NOT NULL, state TEXT NOT NULL, hold_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfers (
  transfer_id TEXT PRIMARY KEY, from_tab TEXT NOT NULL REFERENCES tabs,
  to_tab TEXT NOT NULL REFERENCES tabs, asset TEXT NOT NULL,
  amount INTEGER NOT NULL CHECK (amount > 0), moved_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS transfers_from ON transfers (from_tab);
CREATE TABLE IF NOT EXISTS receipts (
  request_id TEXT PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs, seq INTEGER NOT NULL,
  hold_id TEXT NOT NULL UNIQUE, payment_hash BLOB, packed BLOB NOT NULL,
  charged INTEGER NOT NULL, remainder INTEGER NOT NULL, remainder_to TEXT NOT NULL,
  UNIQUE (tab_id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS locks (
  payment_hash BLOB PRIMARY KEY, nonce BLOB NOT NULL, amount INTEGER NOT NULL CHECK (amount > 0),
  asset TEXT NOT NULL, digest BLOB NOT NULL, tab_id TEXT REFERENCES tabs, hold_id TEXT,
  remainder_tab TEXT REFERENCES tabs, refund_to BLOB, payout_id TEXT, state TEXT NOT NULL,
  offered_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, ended_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS locks_open ON locks (offered_ms) WHERE ended_ms IS NULL;
CREATE TABLE IF NOT EXISTS payouts (
  payout_id TEXT PRIMARY KEY, tab_id TEXT NOT NULL REFERENCES tabs, purpose TEXT NOT NULL,
  request_key BLOB NOT NULL, asset TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount > 0),
  fee_cap INTEGER NOT NULL, fee INTEGER NOT NULL, invoice TEXT, target BLOB,
  payment_hash BLOB UNIQUE, state TEXT NOT NULL, failure TEXT NOT NULL,
  created_ms INTEGER NOT NULL, sent_ms INTEGER, ended_ms INTEGER,
  UNIQUE (tab_id, request_key), CHECK (fee <= fee_cap),
  CHECK ((invoice IS NULL) <> (target IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS payouts_open ON payouts (created_ms) WHERE ended_ms IS NULL;
CREATE INDEX IF NOT EXISTS receipts_payment ON receipts (payment_hash)
  WHERE payment_hash IS NOT NULL;
-- Forgetting a key deletes its tab, and SQLite then looks for rows that refer to it: without these
-- it would read the whole history for every key that a stranger made.
CREATE INDEX IF NOT EXISTS deposits_tab ON deposits (tab_id);
CREATE INDEX IF NOT EXISTS topups_tab ON topups (tab_id);
CREATE INDEX IF NOT EXISTS holds_tab ON holds (tab_id);
CREATE INDEX IF NOT EXISTS claims_tab ON claims (tab_id);
CREATE INDEX IF NOT EXISTS transfers_to ON transfers (to_tab);
CREATE INDEX IF NOT EXISTS locks_tab ON locks (tab_id);
CREATE INDEX IF NOT EXISTS locks_remainder ON locks (remainder_tab);
"""
MIGRATIONS: Final = {
    1: """
ALTER TABLE holds ADD COLUMN attempt BLOB;
ALTER TABLE holds ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN lease_until_ms INTEGER NOT NULL DEFAULT 0;
DROP INDEX IF EXISTS holds_open;
""",
}
"""From a version to the next: what `SCHEMA`, run afterwards, does not make by itself."""
