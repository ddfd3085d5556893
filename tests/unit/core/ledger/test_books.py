"""Conservation of a whole ledger: for each law a ledger that breaks only that law."""

from dataclasses import replace
from typing import Any

import pytest

from infern.core.ids import HoldId, RequestDigest, TabId
from infern.core.ledger.books import Books, Totals, totals, violations
from infern.core.ledger.hold import Hold, HoldEvent, end_hold
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
