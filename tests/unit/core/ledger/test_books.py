"""Conservation of a whole ledger: for each law a ledger that breaks only that law."""

from dataclasses import replace
from typing import Any

import pytest

from infern.core.ids import HoldId, PaymentHash, PayoutId, RequestDigest, TabId
from infern.core.ledger.books import Books, Totals, totals, violations
from infern.core.ledger.hold import Hold, HoldEvent, end_hold
from infern.core.ledger.lock import Lock, LockState
from infern.core.ledger.payout import Payout, PayoutPurpose, PayoutState
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import CKB, Asset

USD = Asset(bytes([0xAB]) * 32)
KEY = Tab(
    tab_id=TabId("key"),
    kind=TabKind.KEY,
    asset=CKB,
    deposited=100,
    held=30,
    spent=20,
    refunded=10,
)
REQUEST = Tab(
    tab_id=TabId("request"), kind=TabKind.REQUEST, asset=CKB, deposited=50, spent=45, refunded=5
)
TOKEN = Tab(tab_id=TabId("token"), kind=TabKind.FREE, asset=USD, deposited=7)
HOLD = Hold(
    hold_id=HoldId("h1"),
    tab_id=TabId("key"),
    amount=10,
    digest=RequestDigest(bytes(32)),
    opened_ms=1,
)
SECOND = replace(HOLD, hold_id=HoldId("h2"), amount=20)
# 5 moved from the request's tab to the key's, 10 were paid out, 145 came in.
NONE: dict[str, Any] = {"locks": (), "payouts": (), "returned": {}}
SOUND = Books(
    tabs=(KEY, REQUEST, TOKEN),
    holds=(HOLD, SECOND),
    received={CKB: 145, USD: 7},
    captured={CKB: 65},
    transferred={CKB: 5},
    sent={CKB: 10},
    **NONE,
)


def test_a_sound_ledger() -> None:
    assert violations(SOUND) == []


def test_an_empty_ledger() -> None:
    nothing = Books(tabs=(), holds=(), received={}, captured={}, transferred={}, sent={}, **NONE)
    assert totals(nothing) == {}
    assert violations(nothing) == []


def test_totals_by_asset() -> None:
    assert totals(SOUND) == {
        CKB: Totals(
            deposited=150,
            balance=40,
            held=30,
            spent=65,
            refunded=15,
            transferred=5,
            received=145,
            sent=10,
            captured=65,
            returned=0,
            locked=0,
            unsettled=0,
            owed=0,
        ),
        USD: Totals(
            deposited=7,
            balance=7,
            held=0,
            spent=0,
            refunded=0,
            transferred=0,
            received=7,
            sent=0,
            captured=0,
            returned=0,
            locked=0,
            unsettled=0,
            owed=0,
        ),
    }


def test_ended_holds_may_be_left_in() -> None:
    ended = end_hold(replace(HOLD, hold_id=HoldId("h3")), HoldEvent.CAPTURE, charged=5, now_ms=2)
    assert violations(replace(SOUND, holds=(*SOUND.holds, ended))) == []


@pytest.mark.parametrize(
    ("books", "found"),
    [
        (
            replace(SOUND, holds=(HOLD,)),
            ["tab key: held is not the sum of its open holds and payouts"],
        ),
        (
            replace(SOUND, holds=(HOLD, SECOND, replace(HOLD, hold_id=HoldId("h3")))),
            ["tab key: held is not the sum of its open holds and payouts"],
        ),
        (
            replace(SOUND, holds=(*SOUND.holds, replace(HOLD, tab_id=TabId("gone")))),
            ["an open hold or payout names tab gone, which is not there"],
        ),
        (
            replace(SOUND, received={CKB: 144, USD: 7}),
            ["ckb: tabs were credited with something that never came in"],
        ),
        (
            replace(SOUND, received={CKB: 145}),
            [f"{USD}: tabs were credited with something that never came in"],
        ),
        (
            replace(SOUND, sent={}),
            ["ckb: tabs were debited for something that never went out"],
        ),
        (
            replace(SOUND, sent={CKB: 10, USD: 1}),
            [f"{USD}: tabs were debited for something that never went out"],
        ),
        (
            # One transfer too many is counted on both sides.
            replace(SOUND, transferred={CKB: 6}),
            [
                "ckb: tabs were credited with something that never came in",
                "ckb: tabs were debited for something that never went out",
            ],
        ),
        (
            # An overcharge: more was spent than any hold charged.
            replace(SOUND, captured={CKB: 64}),
            [f"{CKB}: spent is not what the captured holds charged"],
        ),
        (
            # A transfer between assets cannot balance in either.
            replace(SOUND, transferred={CKB: 5, USD: 2}),
            [
                f"{USD}: tabs were credited with something that never came in",
                f"{USD}: tabs were debited for something that never went out",
            ],
        ),
        (
            # Money of an asset no tab counts came in and was forgotten.
            Books(
                tabs=(), holds=(), received={USD: 3}, captured={}, transferred={}, sent={}, **NONE
            ),
            [f"{USD}: tabs were credited with something that never came in"],
        ),
    ],
)
def test_each_law_is_checked(books: Books, found: list[str]) -> None:
    assert violations(books) == found


class _LyingTab(Tab):
    """A tab whose balance is not what its columns say, as a broken view would have it."""

    @property
    def balance(self) -> int:
        return 1


def test_a_balance_that_is_not_the_columns_difference_is_found() -> None:
    liar = _LyingTab(tab_id=TabId("liar"), kind=TabKind.KEY, asset=USD)
    books = Books(tabs=(liar,), holds=(), received={}, captured={}, transferred={}, sent={}, **NONE)
    assert violations(books) == [f"{USD}: deposited is not balance + held + spent + refunded"]


LOCKED = Tab(tab_id=TabId("locked"), kind=TabKind.REQUEST, asset=CKB, deposited=40, held=40)
RUN = replace(HOLD, hold_id=HoldId("run"), tab_id=TabId("locked"), amount=40)
LOCK = Lock(
    payment_hash=PaymentHash(b"\x05" * 32),
    nonce=bytes(16),
    amount=40,
    asset=CKB,
    digest=RequestDigest(bytes(32)),
    tab_id=TabId("locked"),
    hold_id=HoldId("run"),
    state=LockState.HELD,
    offered_ms=1,
    expires_ms=2,
)
PAYOUT = Payout(
    payout_id=PayoutId("p"),
    tab_id=TabId("key"),
    purpose=PayoutPurpose.WITHDRAW,
    request_key=bytes(32),
    asset=CKB,
    amount=15,
    fee_cap=5,
    invoice="fibd1",
    created_ms=1,
)
# The second hold of the key is a payout now, and a lock is being answered.
BUSY = replace(
    SOUND,
    tabs=(*SOUND.tabs, LOCKED),
    holds=(HOLD, RUN),
    locks=(LOCK,),
    payouts=(PAYOUT,),
    received={CKB: 185, USD: 7},
)


def test_locks_and_payouts_are_part_of_the_books() -> None:
    assert violations(BUSY) == []
    sums = totals(BUSY)[CKB]
    assert (sums.held, sums.owed, sums.locked, sums.unsettled) == (70, 20, 40, 40)
    assert sums.liability == totals(SOUND)[CKB].liability == 70


def test_a_charge_on_a_lock_is_revenue_and_no_liability() -> None:
    charged = replace(LOCKED, held=0, spent=30)
    books = replace(
        BUSY,
        tabs=(*SOUND.tabs, charged),
        holds=(HOLD,),
        locks=(replace(LOCK, state=LockState.SETTLING),),
        captured={CKB: 95},
    )
    assert violations(books) == []
    sums = totals(books)[CKB]
    assert (sums.locked, sums.unsettled, sums.liability) == (40, 10, 70)


def test_a_lock_that_was_given_back_left_the_tab() -> None:
    back = replace(LOCKED, held=0, refunded=40)
    ended = replace(LOCK, state=LockState.CANCELLED, ended_ms=3)
    books = replace(BUSY, tabs=(*SOUND.tabs, back), holds=(HOLD,), locks=())
    assert violations(replace(books, returned={CKB: 40})) == []
    # Ended locks and payouts may be left in.
    paid = replace(PAYOUT, state=PayoutState.SETTLED, payout_id=PayoutId("q"), ended_ms=3)
    ends = replace(books, locks=(ended,), payouts=(PAYOUT, paid), returned={CKB: 40})
    assert violations(ends) == []
    assert totals(ends) == totals(replace(books, returned={CKB: 40}))
    assert violations(books) == ["ckb: tabs were debited for something that never went out"]


@pytest.mark.parametrize(
    ("books", "found"),
    [
        (
            replace(BUSY, payouts=()),
            ["tab key: held is not the sum of its open holds and payouts"],
        ),
        (
            replace(BUSY, payouts=(PAYOUT, replace(PAYOUT, tab_id=TabId("gone")))),
            ["an open hold or payout names tab gone, which is not there"],
        ),
        (
            replace(BUSY, locks=(replace(LOCK, tab_id=TabId("gone")),)),
            ["tab gone: its lock is not there whole"],
        ),
        (
            replace(BUSY, locks=(replace(LOCK, amount=41),)),
            ["tab locked: its lock is not there whole"],
        ),
        (
            # Redeemed before it was money: conserved, and still wrong.
            replace(
                BUSY,
                tabs=(
                    replace(KEY, deposited=140),
                    REQUEST,
                    TOKEN,
                    replace(LOCKED, held=0, refunded=40),
                ),
                holds=(HOLD,),
                locks=(replace(LOCK, state=LockState.CANCELLING),),
                transferred={CKB: 45},
            ),
            ["tab locked: its lock is not there whole"],
        ),
    ],
)
def test_laws_of_locks_and_payouts(books: Books, found: list[str]) -> None:
    assert violations(books) == found
