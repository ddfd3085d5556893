"""The SQLite journal: durable, owned by the living, safe for threads and processes."""

import multiprocessing
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from infern.adapters.sqlite_journal import SqliteJournal
from infern.core.errors import BudgetExceeded, ConfigError, LedgerError, LocalProtocolError
from infern.core.f402.attempt import DAY_MS, FORGOTTEN_LOCK_MS, Attempt, AttemptKind, StoredKey
from infern.core.f402.challenge import Mode
from infern.core.f402.client import ClientState
from infern.core.ids import PaymentHash, Preimage, Pubkey, RequestDigest
from infern.core.units import CKB

NOW_MS = 1_700_000_000_000
DIGEST = RequestDigest(b"\x01" * 32)
ORIGIN = "https://router.test"


def attempt(number=1, **changes):
    made = Attempt(
        payment_hash=PaymentHash(number.to_bytes(32, "big")),
        kind=AttemptKind.REQUEST,
        digest=DIGEST,
        origin=ORIGIN,
        resource=ORIGIN + "/v1/chat/completions",
        pay_to=Pubkey(b"\x02" * 33),
        provider="02" * 33,
        amount=1_000,
        fee_cap=10,
        asset=CKB,
        token="f1.k.x.y",
        invoice="fibt1000",
        redeem_until_s=NOW_MS // 1000 + 86_400,
        state=ClientState.INTENDED,
        session="s",
        created_ms=NOW_MS + number,
        updated_ms=NOW_MS + number,
    )
    return replace(made, **changes)


def anything(_spent):
    return None


def advance_to(journal, row, *states):
    for state in states:
        after = replace(row, state=state)
        journal.record(row, after)
        row = after
    return row


def paid(journal, number=1, **changes):
    row = attempt(number, **changes)
    journal.intend(row, anything)
    return advance_to(journal, row, ClientState.PAYING, ClientState.PAID)


def adopt(journal, *, now_ms=NOW_MS, origin=ORIGIN, digest=DIGEST, kind=AttemptKind.REQUEST):
    return journal.adopt(origin=origin, digest=digest, kind=kind, now_ms=now_ms)


@pytest.fixture
def journal(tmp_path):
    made = SqliteJournal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def other(tmp_path):
    made = SqliteJournal(tmp_path)
    yield made
    made.close()


def test_a_row_comes_back_as_it_was_written(journal):
    row = attempt(preimage=Preimage(b"\x07" * 32), fee=3)
    journal.intend(row, anything)
    assert journal.get(row.payment_hash) == row
    assert journal.attempts(limit=5) == [row]


def test_a_row_is_on_disk_when_intend_returns(journal, tmp_path):
    journal.intend(attempt(), anything)
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        assert db.execute("SELECT state FROM attempts").fetchall() == [("intended",)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_only_its_owner_can_read_it(journal, tmp_path):
    journal.intend(attempt(), anything)
    assert (tmp_path / "journal.sqlite3").stat().st_mode & 0o077 == 0
    assert tmp_path.stat().st_mode & 0o077 == 0


def test_a_payment_hash_is_intended_once(journal):
    journal.intend(attempt(), anything)
    with pytest.raises(LocalProtocolError, match="not paid again"):
        journal.intend(attempt(), anything)


def test_a_row_moves_from_the_state_it_is_in(journal):
    row = paid(journal)
    with pytest.raises(LocalProtocolError, match="somebody else"):
        journal.record(replace(row, state=ClientState.PAYING), row)


def test_a_refused_budget_writes_nothing(journal):
    def refuse(_spent):
        raise BudgetExceeded("no")

    with pytest.raises(BudgetExceeded):
        journal.intend(attempt(), refuse)
    assert journal.attempts(limit=5) == []
    journal.intend(attempt(), anything)


def test_an_intent_whose_end_could_not_be_written_counts_no_more(journal, other):
    """Its exchange gave it up while the disk was away; the budget must not pay for that."""
    row = attempt()
    journal.intend(row, anything)
    journal.release(row.payment_hash)
    assert other.spent(session="s", now_ms=NOW_MS + 2).day == 0
    assert journal.get(row.payment_hash).state is ClientState.REFUSED


def test_what_a_live_exchange_uses_is_not_given_out(journal, other):
    row = paid(journal)
    assert adopt(journal) is None
    assert adopt(other) is None
    assert other.adopt_payment(row.payment_hash) is None
    journal.release(row.payment_hash)
    assert adopt(other) == row
    assert adopt(journal) is None


def test_a_closed_instance_owns_nothing(journal, tmp_path):
    gone = SqliteJournal(tmp_path)
    row = paid(gone)
    gone.close()
    gone.close()
    assert adopt(journal) == row


@pytest.mark.parametrize("state", list(ClientState))
def test_only_money_at_stake_is_given_out(journal, state):
    row = attempt()
    journal.intend(row, anything)
    journal._db.execute("UPDATE attempts SET state = ?", (state.value,))
    journal.release(row.payment_hash)
    found = adopt(journal)
    at_stake = {"paying", "paid", "proving", "unredeemed", "held", "claiming", "returning"}
    assert (found is not None) == (state.value in at_stake)


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "https://other.test"},
        {"digest": RequestDigest(b"\x02" * 32)},
        {"kind": AttemptKind.TOPUP},
        {"now_ms": NOW_MS + 86_401_000},
    ],
)
def test_a_payment_is_for_one_need_at_one_seller_for_a_time(journal, change):
    journal.release(paid(journal).payment_hash)
    assert adopt(journal, **change) is None
    assert adopt(journal) is not None


def test_the_oldest_payment_is_used_first(journal):
    for number in (2, 1, 3):
        journal.release(paid(journal, number).payment_hash)
    assert [adopt(journal).payment_hash[-1] for _ in range(3)] == [1, 2, 3]
    assert adopt(journal) is None


def test_sums_count_what_is_out_with_its_fee_cap_until_the_fee_is_known(journal):
    journal.intend(attempt(1), anything)
    row = paid(journal, 2)
    journal.record(row, replace(row, state=ClientState.PROVING, fee=4))
    failed = attempt(3)
    journal.intend(failed, anything)
    advance_to(journal, failed, ClientState.PAYING, ClientState.PAYMENT_FAILED)
    journal.intend(attempt(4, session="other", created_ms=NOW_MS - DAY_MS), anything)
    spent = journal.spent(session="s", now_ms=NOW_MS)
    assert (spent.session, spent.day) == (1_010 + 1_004, 1_010 + 1_004)
    assert journal.spent(session="other", now_ms=NOW_MS).session == 1_010


def test_an_intent_whose_process_died_is_closed_and_given_back(tmp_path, journal):
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "import test_sqlite_journal as t\n"
        "j = t.SqliteJournal(Path(sys.argv[1]))\n"
        "j.intend(t.attempt(1), t.anything)\n"
        "t.paid(j, 2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    here = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), here], check=False)
    assert done.returncode == -9
    assert adopt(journal).payment_hash[-1] == 2
    assert journal.get(attempt(1).payment_hash).state is ClientState.REFUSED
    assert journal.spent(session="s", now_ms=NOW_MS).day == 1_010


def test_a_live_process_keeps_its_intent(journal, other):
    journal.intend(attempt(), anything)
    assert adopt(other) is None
    assert other.get(attempt().payment_hash).state is ClientState.INTENDED


def spend(directory, start, cap, results):
    journal = SqliteJournal(directory)

    def admit(spent):
        if spent.day + 1_010 > cap:
            raise BudgetExceeded("no")

    admitted = 0
    for number in range(start, start + 20):
        try:
            journal.intend(attempt(number), admit)
        except BudgetExceeded:
            continue
        advance_to(journal, attempt(number), ClientState.PAYING)
        admitted += 1
    results.put(admitted)
    journal.close()


def test_processes_do_not_overspend_together_nor_find_the_file_locked(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    cap = 25 * 1_010
    processes = [
        context.Process(target=spend, args=(tmp_path, 1 + 100 * i, cap, results)) for i in range(3)
    ]
    for process in processes:
        process.start()
    admitted = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sum(admitted) == 25


def test_threads_share_one_journal(journal):
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda n: paid(journal, n), range(1, 41)))
        for row in rows:
            journal.release(row.payment_hash)
        taken = [row for row in pool.map(lambda _: adopt(journal), range(60)) if row]
    assert len({row.payment_hash for row in taken}) == len(taken) == 40


def test_keys_are_kept_by_seller_newest_first(journal):
    for number in (1, 2):
        key = StoredKey(
            key_id=f"k{number}", origin=ORIGIN, api_key=f"inf_sk_{number}", created_ms=number
        )
        journal.save_key(key)
    assert [key.key_id for key in journal.keys(ORIGIN)] == ["k2", "k1"]
    assert journal.keys("https://other.test") == []
    assert "inf_sk" not in repr(journal.keys(ORIGIN))


OPEN_IN_HOLD_MODE = ["paying", "held", "claiming", "settling", "returning"]


def held(journal, number=1, state="held", **changes):
    row = attempt(number, mode=Mode.HOLD, **changes)
    journal.intend(row, anything)
    return advance_to(journal, row, ClientState(state))


@pytest.mark.parametrize("state", list(ClientState))
def test_payments_in_hold_mode_count_until_they_are_taken_or_back(journal, state):
    if state is ClientState.ASKING:
        return
    held(journal, 1, state)
    paid(journal, 2)
    spent = journal.spent(session="s", now_ms=NOW_MS)
    is_open = state.value in [*OPEN_IN_HOLD_MODE, "intended"]
    assert (spent.locks, spent.locked) == ((1, 1_010) if is_open else (0, 0))
    shown = [row.state.value for row in journal.locking(limit=9)]
    assert shown == ([state.value] if state.value in OPEN_IN_HOLD_MODE else [])


def test_two_processes_cannot_hold_more_together_than_the_budget_allows(journal, other):
    def one(spent):
        if spent.locks:
            raise BudgetExceeded("one at a time")

    journal.intend(attempt(1, mode=Mode.HOLD), one)
    with pytest.raises(BudgetExceeded):
        other.intend(attempt(2, mode=Mode.HOLD), one)


def test_a_lock_of_three_weeks_ago_locks_nothing(journal):
    held(journal)
    later_ms = NOW_MS + FORGOTTEN_LOCK_MS
    assert journal.spent(session="s", now_ms=later_ms + 1_000).locks == 0
    assert journal.spent(session="s", now_ms=later_ms - 1_000).locks == 1


@pytest.mark.parametrize("state", ["paying", "held", "claiming", "returning"])
def test_a_lock_is_given_out_however_old_it_is(journal, state):
    row = held(journal, 1, state)
    journal.release(row.payment_hash)
    assert adopt(journal, now_ms=NOW_MS + 10 * DAY_MS).payment_hash == row.payment_hash


def test_a_paid_row_of_hold_mode_is_given_out_as_long_as_its_proof_is_worth_something(journal):
    row = held(journal, 1, "unredeemed")
    journal.release(row.payment_hash)
    assert adopt(journal, now_ms=NOW_MS + 10 * DAY_MS) is None


def test_only_a_row_nobody_uses_is_concluded(journal, other):
    row = held(journal)
    after = replace(row, state=ClientState.PAYMENT_FAILED)
    assert not journal.conclude(row, after)
    assert not other.conclude(row, after)
    journal.release(row.payment_hash)
    assert not other.conclude(replace(row, state=ClientState.SETTLING), after)
    assert other.conclude(row, after)
    assert not other.conclude(row, after)
    assert journal.get(row.payment_hash).state is ClientState.PAYMENT_FAILED


def test_a_row_of_a_process_that_died_is_concluded(journal, other):
    row = held(journal)
    journal.drop()
    assert other.conclude(row, replace(row, state=ClientState.PAYMENT_FAILED))


def test_a_file_of_version_1_is_opened_and_its_rows_are_upfront(tmp_path):
    first = SqliteJournal(tmp_path)
    row = paid(first)
    first.close()
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("DROP INDEX attempts_in_hold_mode")
        db.execute("ALTER TABLE attempts DROP COLUMN mode")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        again = SqliteJournal(tmp_path)
        assert again.get(row.payment_hash) == row
        again.close()
    assert row.mode is Mode.UPFRONT


def test_a_file_of_a_newer_version_is_left_alone(tmp_path):
    SqliteJournal(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="version 99"):
        SqliteJournal(tmp_path)


def test_a_directory_that_cannot_be_used_is_a_set_up_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used"):
        SqliteJournal(tmp_path / "file")


def test_a_journal_that_is_away_says_so(tmp_path):
    journal = SqliteJournal(tmp_path)
    journal.close()
    for broken in (
        lambda: adopt(journal),
        lambda: journal.intend(attempt(), anything),
        lambda: journal.attempts(limit=1),
        lambda: journal.keys(ORIGIN),
    ):
        with pytest.raises(LedgerError):
            broken()


def test_a_release_that_cannot_be_written_is_a_release_all_the_same(journal):
    row = paid(journal)
    real = journal._db

    class Broken:
        def execute(self, *_args):
            raise sqlite3.OperationalError("disk is full")

    journal._db = Broken()
    journal.release(row.payment_hash)
    journal._db = real
    assert adopt(journal) == row
