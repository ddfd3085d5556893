"""Rows around tabs: what they hold back when they are shown, and their stored names."""

from infern.core.ids import TabId
from infern.core.ledger.records import KeyRecord, TopupState
from infern.core.units import CKB


def test_a_key_s_record_shows_nothing_that_could_be_tried() -> None:
    record = KeyRecord(
        key_digest=b"\x77" * 32,
        key_id="key_1",
        tab_id=TabId("tab_1"),
        session=bytes(16),
        asset=CKB,
        created_ms=1,
    )
    assert "wwww" not in repr(record)
    assert "key_1" in repr(record)


def test_stored_states_keep_their_names() -> None:
    # These texts are in ledgers that exist already.
    assert {state.name: state.value for state in TopupState} == {
        "OPEN": "open",
        "PAID": "paid",
        "EXPIRED": "expired",
    }
