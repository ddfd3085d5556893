"""Rows around tabs: what they hold back when they are shown, and their stored names."""

import pytest

from infern.core.ids import PayoutId, Pubkey, TabId
from infern.core.ledger.records import DUST, KeyRecord, RemainderPlan, TopupState
from infern.core.units import CKB

KEY = KeyRecord(
    key_digest=b"\x77" * 32,
    key_id="key_1",
    tab_id=TabId("tab_1"),
    session=bytes(16),
    asset=CKB,
    created_ms=1,
)
NODE, NAME = Pubkey(b"\x02" * 33), PayoutId("out_1")


def test_a_key_s_record_shows_nothing_that_could_be_tried() -> None:
    assert "wwww" not in repr(KEY)
    assert "key_1" in repr(KEY)


def test_stored_states_keep_their_names() -> None:
    # These texts are in ledgers that exist already.
    assert {state.name: state.value for state in TopupState} == {
        "OPEN": "open",
        "PAID": "paid",
        "EXPIRED": "expired",
    }


@pytest.mark.parametrize(
    ("plan", "remainder", "says"),
    [
        (RemainderPlan(), DUST, "payment"),
        (RemainderPlan(key=KEY), DUST, "key_1"),
        (RemainderPlan(key=KEY, refund_to=NODE, payout_id=NAME), DUST, "key_1"),
        (RemainderPlan(refund_to=NODE, payout_id=NAME), DUST, "refund"),
        (RemainderPlan(refund_to=NODE, payout_id=NAME), DUST - 1, "payment"),
    ],
)
def test_a_plan_says_where_a_remainder_goes(plan: RemainderPlan, remainder: int, says: str) -> None:
    assert plan.says(remainder) == says


def test_what_is_sent_back_has_a_name() -> None:
    with pytest.raises(ValueError, match="payout id"):
        RemainderPlan(refund_to=NODE)
