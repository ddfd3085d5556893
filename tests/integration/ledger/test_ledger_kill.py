"""kill -9 at random moments: nothing acknowledged is lost, nothing is charged twice.

The child writes what it tried and what the ledger acknowledged; after each kill the file is
opened again and compared with that.
"""

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.ids import PaymentHash, RequestId
from infern.core.ledger.books import totals, violations
from infern.core.ledger.records import TopupState
from infern.core.units import CKB

CHILD = Path(__file__).with_name("child.py")
PATIENCE_S = 60
ABSENT = "absent"


@dataclass
class Heard:
    """What all children said, over all their lives."""

    topups: dict[str, int] = field(default_factory=dict)
    captures: dict[str, int] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    redeemed: dict[str, int] = field(default_factory=dict)
    open_holds: set[str] = field(default_factory=set)
    unsure_holds: set[str] = field(default_factory=set)
    tried_topups: dict[str, int] = field(default_factory=dict)
    tried_captures: dict[str, int] = field(default_factory=dict)
    tried_claims: dict[str, int] = field(default_factory=dict)
    may_be: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """States a lock or payout may be in: the acknowledged one, or one that was tried after it."""
    reached: set[tuple[str, str]] = field(default_factory=set)
    lines: int = 0

    def hear(self, line: bytes) -> None:
        self.lines += 1
        kind, what, *facts = [*json.loads(line), ""][:5]
        tried = kind == "try"
        if what == "topup":
            (self.tried_topups if tried else self.topups)[facts[0]] = facts[1]
        elif what == "claim":
            (self.tried_claims if tried else self.claims)[facts[0]] = facts[1]
        elif what == "redeem" and not tried:
            self.redeemed[facts[0]] = facts[1]
        elif what in ("lock", "payout"):
            name, states = (what, facts[0]), {state for state in facts[1:] if state}
            self.may_be[name] = states | self.may_be.get(name, {ABSENT}) if tried else states
            self.reached |= {(what, state) for state in states if not tried}
        elif what == "hold":
            self.open_holds.add(facts[0])
        elif what in ("capture", "release"):
            if what == "capture":
                (self.tried_captures if tried else self.captures)[facts[1]] = facts[2]
            (self.unsure_holds.add if tried else self.unsure_holds.discard)(facts[0])
            self.open_holds.discard(facts[0])


def live_and_die(path: Path, seed: int, lines: int, heard: Heard) -> None:
    """Run a child until it said so many lines, kill it, and hear what it still said."""
    command = [sys.executable, str(CHILD), str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            for _ in range(lines):
                heard_line = child.stdout.readline()
                assert heard_line, "the child ended by itself"
                heard.hear(heard_line)
        finally:
            child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                heard.hear(line)
        child.wait(PATIENCE_S)
        assert child.returncode == -signal.SIGKILL


async def check(path: Path, heard: Heard) -> None:
    ledger = SqliteLedger(path)
    try:
        before = await ledger.books()
        assert violations(before) == []
        held = {hold.hold_id for hold in before.holds}
        assert heard.open_holds <= held
        for payment_hash in heard.topups:
            topup = await ledger.topup(PaymentHash(bytes.fromhex(payment_hash)))
            assert topup is not None
            assert topup.state is TopupState.PAID
        for request_id, charged in heard.captures.items():
            stored = await ledger.receipt(RequestId(request_id))
            assert stored is not None
            assert stored.charged == charged
        _check_states(path, heard)
        assert await ledger.recover(now_ms=9) == len(held)
        assert await ledger.recover(now_ms=9) == 0
        after = await ledger.books()
        assert after.holds == ()
        assert violations(after) == []
        _check_sums(path, heard, totals(after).get(CKB))
    finally:
        ledger.close()
    # Whoever was in the middle is decided now.
    heard.open_holds.clear()
    heard.unsure_holds.clear()
    heard.may_be.clear()


def _check_states(path: Path, heard: Heard) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = {
            ("lock", row[0].hex()): row[1]
            for row in database.execute("SELECT payment_hash, state FROM locks")
        }
        found |= {
            ("payout", row[0]): row[1]
            for row in database.execute("SELECT payout_id, state FROM payouts")
        }
    for name, states in heard.may_be.items():
        assert found.get(name, ABSENT) in states, name


def _check_sums(path: Path, heard: Heard, sums: Any) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        receipts = dict(database.execute("SELECT request_id, charged FROM receipts").fetchall())
        deposits = {
            row[0].hex(): row[1]
            for row in database.execute("SELECT payment_hash, amount FROM deposits")
        }
        twice = database.execute(
            "SELECT hold_id FROM receipts GROUP BY hold_id HAVING count(*) > 1"
        ).fetchall()
        charged, voided = (
            database.execute(
                "SELECT count(*), COALESCE(sum(charged), 0) FROM holds WHERE state = ?", (state,)
            ).fetchone()
            for state in ("captured", "voided")
        )
    assert twice == []
    assert heard.captures.items() <= receipts.items() <= heard.tried_captures.items()
    assert charged[0] + voided[0] == len(receipts)
    assert charged[1] + voided[1] == sum(receipts.values())
    assert sums.spent == charged[1]
    tried = heard.tried_topups | heard.tried_claims
    acknowledged = heard.topups | heard.claims
    assert acknowledged.items() <= deposits.items() <= tried.items()
    assert sums.received == sum(deposits.values())


@pytest.mark.parametrize(
    ("lives", "lines"),
    [
        pytest.param(4, 600, id="a few lives"),
        pytest.param(60, 2_000, id="many lives", marks=pytest.mark.slow),
    ],
)
async def test_abuse_14_a_killed_ledger_loses_nothing_and_charges_nothing_twice(
    tmp_path: Path, lives: int, lines: int
) -> None:
    rng = random.Random(lives)
    path = tmp_path / "ledger.sqlite3"
    heard = Heard()
    for life in range(lives):
        live_and_die(path, life, rng.randint(10, lines), heard)
        await check(path, heard)
    assert heard.captures
    assert heard.claims
    assert heard.redeemed
    ends = {("lock", "settled"), ("lock", "cancelled"), ("payout", "settled")}
    assert ends <= heard.reached


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
