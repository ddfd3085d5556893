"""Named keysends, what an error of a send means, and TLCs that may still be taken."""

import pytest

from infern.core.errors import (
    ConfigError,
    InfernError,
    LocalProtocolError,
    Money,
    NoRoute,
    RemoteProtocolError,
    TransportError,
)
from infern.core.fiber.errors import FiberNodeError, FiberNotReady, PaymentAlreadyExists
from infern.core.fiber.keysend import MAX_NAME_BYTES, NAME_RECORD, Sent, by_name, keysend, sent_by
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash, Pubkey

NODE = Pubkey(b"\x02" * 33)


def _record(number: int, status: PaymentStatus, records: dict[int, bytes]) -> PaymentRecord:
    return PaymentRecord(
        payment_hash=PaymentHash(bytes([number]) * 32),
        status=status,
        preimage=None,
        fee=0,
        failed_error=None,
        created_at_ms=1,
        last_updated_at_ms=1,
        custom_records=records,
    )


def test_the_call_carries_the_name_and_both_caps() -> None:
    call = keysend(target=NODE, amount=1_000, max_fee_amount=10, name="out_1")
    (members,) = call.params()
    assert members == {
        "target_pubkey": NODE.hex(),
        "amount": "0x3e8",
        "keysend": True,
        "max_fee_amount": "0xa",
        "max_fee_rate": "0xa",
        "custom_records": {"0x4632": "0x" + b"out_1".hex()},
    }
    assert not call.idempotent
    assert keysend(target=NODE, amount=1, max_fee_amount=1, name="x", dry_run=True).idempotent


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_BYTES + 1)])
def test_a_name_is_short_and_there(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        keysend(target=NODE, amount=1, max_fee_amount=1, name=name)


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (TransportError("x", code="fiber_unavailable", money=Money.UNMOVED), Sent.NEVER),
        (FiberNotReady("at its limit of open calls"), Sent.NEVER),
        (TransportError("broke"), Sent.PERHAPS),
        (RemoteProtocolError("x", code="fiber_error", money=Money.UNKNOWN), Sent.PERHAPS),
        (FiberNodeError("odd"), Sent.PERHAPS),
        (FiberNodeError("odd", money=Money.UNMOVED), Sent.PERHAPS),
        (PaymentAlreadyExists("x", payment_status=PaymentStatus.SUCCESS), Sent.PERHAPS),
        (NoRoute("no path"), Sent.REFUSED),
        (LocalProtocolError("refused"), Sent.REFUSED),
        (ConfigError("no right"), Sent.REFUSED),
    ],
)
def test_what_an_error_says_of_the_money(error: InfernError, sent: Sent) -> None:
    assert sent_by(error) is sent


def test_payments_are_found_by_name_and_no_others() -> None:
    mine = _record(1, PaymentStatus.INFLIGHT, {NAME_RECORD: b"out_1"})
    others = [
        _record(2, PaymentStatus.SUCCESS, {}),
        _record(3, PaymentStatus.SUCCESS, {1: b"out_1"}),
        _record(4, PaymentStatus.SUCCESS, {NAME_RECORD: b""}),
        _record(5, PaymentStatus.SUCCESS, {NAME_RECORD: b"\xff\xfe"}),
    ]
    assert by_name([*others, mine]) == {"out_1": mine}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_with_one_name_the_one_that_may_have_moved_money(order: tuple[int, int]) -> None:
    both = [
        _record(1, PaymentStatus.FAILED, {NAME_RECORD: b"out_1"}),
        _record(2, PaymentStatus.INFLIGHT, {NAME_RECORD: b"out_1"}),
    ]
    assert by_name(both[n] for n in order) == {"out_1": both[1]}
