"""What a seller relies on when it sends money: named keysends, listings, refusals, TLCs."""

import pytest

from infern.core.errors import InfernError, LocalProtocolError, Money, NoRoute
from infern.core.fiber import rpc
from infern.core.fiber.keysend import NAME_RECORD, by_name, is_on_its_way, keysend
from infern.core.fiber.types import PaymentStatus
from infern.core.ids import Pubkey

pytestmark = pytest.mark.timeout(120)

AMOUNT = 50_000
CAP = 250
STRANGER = Pubkey(
    bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
)


def _call(fiber_trio, name: str, *, target: Pubkey | None = None, **more: object):
    return keysend(
        target=target or fiber_trio.key("payee"),
        amount=AMOUNT,
        max_fee_amount=CAP,
        name=name,
        **more,
    )


async def _all(node) -> list:
    """Every payment of a node, page after page."""
    found, after = [], None
    for _ in range(100_000):
        page = await node.call(rpc.ListPayments(limit=2, after=after))
        found += page.payments
        after = page.last_cursor
        if not page.payments:
            return found
    raise AssertionError("the listing does not end")


async def test_a_keysend_is_known_by_its_name_everywhere(fiber_trio) -> None:
    names = [f"out_{fiber_trio.now_ms()}_{number}" for number in range(5)]
    sent = [await fiber_trio.payer.call(_call(fiber_trio, name)) for name in names]
    for name, record in zip(names, sent, strict=True):
        expected = {NAME_RECORD: name.encode()}
        assert record.custom_records == expected
        paid = await fiber_trio.until_payment(record.payment_hash)
        assert paid.custom_records == expected
        assert paid.fee <= CAP
    listed = await _all(fiber_trio.payer)
    hashes = [record.payment_hash for record in listed]
    assert hashes == sorted(set(hashes)), "by hash, each once: a cursor leaves out what it names"
    found = by_name(listed)
    assert {name: found[name].payment_hash for name in names} == {
        name: record.payment_hash for name, record in zip(names, sent, strict=True)
    }


async def test_a_keysend_without_a_route_is_kept_as_failed_with_its_name(
    fiber_trio, refused
) -> None:
    name = f"out_{fiber_trio.now_ms()}_stranger"
    error = await refused(
        fiber_trio.payer.call(_call(fiber_trio, name, target=STRANGER)), InfernError
    )
    assert isinstance(error, NoRoute)
    assert error.money is Money.UNMOVED
    found = by_name(await _all(fiber_trio.payer))
    assert found[name].status is PaymentStatus.FAILED


async def test_a_rehearsed_keysend_leaves_nothing(fiber_trio, refused) -> None:
    before = await _all(fiber_trio.payer)
    name = f"out_{fiber_trio.now_ms()}_dry"
    dry = await fiber_trio.payer.call(_call(fiber_trio, name, dry_run=True))
    assert 0 < dry.fee <= CAP
    call = _call(fiber_trio, name, target=STRANGER, dry_run=True)
    assert isinstance(await refused(fiber_trio.payer.call(call), InfernError), NoRoute)
    assert [p.payment_hash for p in await _all(fiber_trio.payer)] == [
        p.payment_hash for p in before
    ]


async def test_nobody_pays_an_invoice_of_his_own(fiber_trio, refused) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT, node=fiber_trio.payer)
    for dry_run in (True, False):
        call = rpc.SendPayment(invoice=record.invoice_text, dry_run=dry_run)
        error = await refused(fiber_trio.payer.call(call), LocalProtocolError)
        assert error.money is Money.UNMOVED


async def test_what_is_held_by_the_payee_is_seen_to_be_on_its_way(fiber_trio) -> None:
    record, _ = await fiber_trio.held(AMOUNT)
    payment_hash = record.invoice.payment_hash
    call = rpc.ListChannels(include_closed=True)
    assert is_on_its_way(await fiber_trio.payer.call(call), payment_hash)
    assert not is_on_its_way(await fiber_trio.payee.call(call), payment_hash), "it only receives"
    await fiber_trio.payee.call(rpc.CancelInvoice(payment_hash=payment_hash))
    await fiber_trio.until_payment(payment_hash, PaymentStatus.FAILED)
    await fiber_trio.idle_channels()
    assert not is_on_its_way(await fiber_trio.payer.call(call), payment_hash)


async def test_records_of_an_ordinary_payment_are_none(fiber_trio) -> None:
    record, _ = await fiber_trio.invoice(AMOUNT)
    sent = await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    assert sent.custom_records == {}
    assert (await fiber_trio.until_payment(sent.payment_hash)).custom_records == {}
