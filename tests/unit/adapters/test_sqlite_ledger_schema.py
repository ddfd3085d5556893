"""A ledger file of an older version becomes ours, whole or not at all."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger, schema
from infern.core.errors import InsufficientBalance, ProtocolError
from infern.core.f402.receipt import Receipt
from infern.core.ids import HoldId
from infern.core.ledger.books import totals, violations
from infern.core.ledger.lock import LockEvent
from infern.core.ledger.records import RemainderPlan
from infern.core.units import CKB
from infern.testing import ledger_rows as rows

HERE = Path(__file__).parent
OLD_SCHEMA = (HERE / "data" / "ledger_schema_1.sql").read_text("utf-8")
KEY = rows.a_key("old")
ANSWERED = rows.a_payment("answered", 100)
RUNNING = rows.a_payment("running", 100)
RECEIPT = rows.a_receipt(30).placed(session=ANSWERED.session, seq=0, prev_digest=bytes(32))
OPEN_TOPUP = rows.a_topup("open", KEY, 7)
OLD_ROWS: dict[str, list[tuple[Any, ...]]] = {
    "tabs": [
        (KEY.tab_id, "key", "ckb", 1_020, 60, 40, 0, KEY.session, 0, bytes(32)),
        (ANSWERED.tab_id, "request", "ckb", 100, 0, 30, 20, ANSWERED.session, 1, RECEIPT.digest),
        (RUNNING.tab_id, "request", "ckb", 100, 100, 0, 0, RUNNING.session, 0, bytes(32)),
    ],
    "keys": [(KEY.key_digest, KEY.key_id, KEY.tab_id, KEY.created_ms)],
    "deposits": [
        (rows.payment_hash("paid"), KEY.tab_id, 1_000, 6),
        (ANSWERED.payment_hash, ANSWERED.tab_id, 100, 6),
        (RUNNING.payment_hash, RUNNING.tab_id, 100, 6),
    ],
    "topups": [
        (rows.payment_hash("paid"), KEY.tab_id, KEY.key_id, 1_000, "fibd1", 1_000, "paid", 5),
        (OPEN_TOPUP.payment_hash, KEY.tab_id, KEY.key_id, 7, "fibd1", 1_000, "open", 5),
    ],
    "holds": [
        ("hold_spent", KEY.tab_id, 50, bytes(32), None, "captured", 40, 7, 8),
        ("hold_open", KEY.tab_id, 60, bytes(32), None, "open", 0, 7, None),
        ("hold_gone", KEY.tab_id, 60, bytes(32), None, "released", 0, 7, 8),
        ("hold_a", ANSWERED.tab_id, 100, bytes(32), ANSWERED.payment_hash, "captured", 30, 7, 8),
        ("hold_r", RUNNING.tab_id, 100, bytes(32), RUNNING.payment_hash, "open", 0, 7, None),
    ],
    "claims": [
        (ANSWERED.payment_hash, ANSWERED.tab_id, bytes(32), "delivered", "hold_a"),
        (RUNNING.payment_hash, RUNNING.tab_id, bytes(32), "running", "hold_r"),
    ],
    "transfers": [("remainder:hold_a", ANSWERED.tab_id, KEY.tab_id, "ckb", 20, 8)],
    "receipts": [
        (
            "req_old", ANSWERED.tab_id, 0, "hold_a", ANSWERED.payment_hash, RECEIPT.pack(), 30, 70,
            KEY.key_id,
        ),
    ],
}  # fmt: skip


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A ledger in the middle of its work, as version 0.1 left it."""
    path = tmp_path / "ledger.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(OLD_SCHEMA)
        for table, content in OLD_ROWS.items():
            marks = ",".join("?" * len(content[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", content)
        database.execute("PRAGMA user_version = 1")
    return path


def shape(path: Path) -> dict[str, Any]:
    """Tables with their columns, and indexes with what they are over."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = database.execute(
            "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        found: dict[str, Any] = {}
        for kind, name in names:
            if kind == "table":
                columns = database.execute(f"PRAGMA table_xinfo({name})").fetchall()
                keys = database.execute(f"PRAGMA foreign_key_list({name})").fetchall()
                found[name] = (columns, keys)
            else:
                (text,) = database.execute(
                    "SELECT sql FROM sqlite_schema WHERE name = ?", (name,)
                ).fetchone()
                found[name] = " ".join(text.split())
    return found


def content(path: Path) -> dict[str, list[Any]]:
    """The old columns of the old tables."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = {}
        for table, old in OLD_ROWS.items():
            everything = database.execute(f"SELECT * FROM {table}").fetchall()
            found[table] = sorted((row[: len(old[0])] for row in everything), key=repr)
    return found


def version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        found: int = database.execute("PRAGMA user_version").fetchone()[0]
    return found


SORTED_ROWS = {table: sorted(old, key=repr) for table, old in OLD_ROWS.items()}


def test_the_schema_of_version_1_is_only_a_past(old_file: Path, tmp_path: Path) -> None:
    """If this fails the old text was changed, or the new one was not."""
    SqliteLedger(tmp_path / "new.sqlite3").close()
    assert shape(old_file) != shape(tmp_path / "new.sqlite3")


async def test_an_old_file_becomes_a_new_one_with_everything_in_it(
    old_file: Path, tmp_path: Path
) -> None:
    SqliteLedger(old_file).close()
    SqliteLedger(tmp_path / "new.sqlite3").close()
    assert version(old_file) == schema.SCHEMA_VERSION
    assert shape(old_file) == shape(tmp_path / "new.sqlite3")
    assert content(old_file) == SORTED_ROWS
    async with SqliteLedger(old_file) as ledger:
        books = await ledger.books()
        assert violations(books) == []
        assert {hold.hold_id for hold in books.holds} == {"hold_open", "hold_r"}
        assert {(hold.owner, hold.lease_until_ms) for hold in books.holds} == {("", 0)}
        assert await ledger.find_key(KEY.key_digest) == KEY
        assert await ledger.open_topups(limit=10) == [OPEN_TOPUP]
        stored = await ledger.receipt(rows.request_id("old"))
        assert stored is not None
        assert Receipt.unpack(stored.packed) == RECEIPT
        assert await ledger.recover(now_ms=9) == 2
        assert violations(await ledger.books()) == []
        assert (await ledger.tab(KEY.tab_id)).balance == 980


async def test_an_old_file_can_do_all_that_is_new(old_file: Path) -> None:
    async with SqliteLedger(old_file) as ledger:
        await ledger.recover(now_ms=9)
        # What was paid before is good for what it was.
        with pytest.raises(ProtocolError):
            await ledger.claim(ANSWERED, rows.a_hold("again", 100, paid=ANSWERED))
        await ledger.claim(RUNNING, rows.a_hold("again", 100, paid=RUNNING))
        await ledger.capture(
            HoldId("hold_again"),
            rows.a_receipt(10),
            request_id=rows.request_id("again"),
            remainder=RemainderPlan(key=KEY),
        )
        assert await ledger.redeem(ANSWERED, KEY, now_ms=9) == 20 + 50
        # New kinds of rows.
        hold = rows.a_hold("attempt", 10, key=KEY, attempt=bytes(32))
        await ledger.hold(hold)
        with pytest.raises(ProtocolError):
            await ledger.hold(rows.a_hold("copy", 10, key=KEY, attempt=bytes(32)))
        assert await ledger.release_expired(hold.hold_id, now_ms=10_000)
        await ledger.add_payout(rows.a_withdrawal("w", KEY, 100))
        paid = rows.a_payment("lock", 100, is_lock=True)
        await ledger.offer_lock(rows.a_lock(paid), open_limit=1)
        await ledger.claim(paid, rows.a_hold("lock", 100, paid=paid))
        await ledger.release(HoldId("hold_lock"), now_ms=9)
        await ledger.move_lock(paid.payment_hash, LockEvent.GONE, now_ms=9)
        with pytest.raises(InsufficientBalance):
            await ledger.hold(rows.a_hold("large", 10_000, key=KEY))
        books = await ledger.books()
        assert violations(books) == []
        assert totals(books)[CKB].returned == 100


def test_a_migration_that_dies_at_any_statement_leaves_the_old_file_or_the_new_one(
    old_file: Path, tmp_path: Path
) -> None:
    """A real process, killed before each statement in turn."""
    folder = tmp_path / "copies"
    folder.mkdir()
    old, new = shape(old_file), tmp_path / "new.sqlite3"
    SqliteLedger(new).close()
    command = [sys.executable, str(HERE / "migrator.py"), str(old_file), str(folder)]
    subprocess.run(command, check=True)
    copies = sorted(folder.glob("*.sqlite3"), key=lambda path: int(path.stem))
    assert len(copies) > len(schema.SCHEMA.split("CREATE ")) > 20
    versions = [version(copy) for copy in copies]
    assert versions == sorted(versions)
    assert versions.count(1) == len(copies) - 1
    for copy, found in zip(copies, versions, strict=True):
        assert shape(copy) == (old if found == 1 else shape(new))
        assert content(copy) == SORTED_ROWS
        SqliteLedger(copy).close()
        assert (version(copy), shape(copy)) == (schema.SCHEMA_VERSION, shape(new))
        assert content(copy) == SORTED_ROWS


def test_a_first_start_of_version_1_that_died_is_no_obstacle(tmp_path: Path) -> None:
    """It made its tables one by one, and named its version last."""
    new = tmp_path / "new.sqlite3"
    SqliteLedger(new).close()
    texts = [text for text in OLD_SCHEMA.split(";\n") if text.strip()]
    assert len(texts) > 15
    for number in range(1, len(texts) + 1):
        path = tmp_path / f"{number}.sqlite3"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            for text in texts[:number]:
                database.execute(text)
        SqliteLedger(path).close()
        assert shape(path) == shape(new)
