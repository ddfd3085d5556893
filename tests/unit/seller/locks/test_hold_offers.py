"""When a seller offers hold mode, and what it writes before its node knows of anything."""

from collections import deque
from dataclasses import replace
from typing import Any

import anyio
import pytest

from infern.core.errors import InfernError, Money, Retry, TransportError
from infern.core.f402.challenge import Mode, open_token
from infern.core.fiber.errors import FiberUnauthorized
from infern.core.fiber.rpc import NewInvoice
from infern.core.fiber.types import InvoiceStatus
from infern.core.ledger.lock import LockState
from infern.seller.hold_offers import MAX_PENDING_TLCS, MAX_RUN_MS, ROOM_AGE_MS
from infern.testing.offers import DIGEST, TERMS
from infern.testing.scripted_payee import Fault

CAP = 5 * 100_000_000


async def refusal(doing: Any) -> InfernError:
    with pytest.raises(InfernError) as caught:
        await doing
    return caught.value


async def unavailable(doing: Any, reason: str) -> InfernError:
    error = await refusal(doing)
    assert (error.code, error.status) == ("hold_unavailable", 402)
    assert (error.money, error.retry) == (Money.UNMOVED, Retry.NEW_CHALLENGE)
    assert error.details["reason"] == reason
    assert error.details["max_amount"] == str(CAP)
    assert "quote" in error.details
    return error


def offer(desk: Any, address: str = "192.0.2.1") -> Any:
    return desk.offers.offer(
        listing=desk.listing, terms=TERMS, digest=DIGEST, target="/v1", address=address
    )


async def test_the_invoice_is_made_from_the_hash_alone_and_after_the_lock_is_written(
    desk: Any,
) -> None:
    made: list[NewInvoice] = []
    known: list[Any] = []
    answer = desk.payee.call

    async def watched(call: Any, **options: Any) -> Any:
        if isinstance(call, NewInvoice):
            made.append(call)
            known.append(await desk.real.lock(call.payment_hash))
        return await answer(call, **options)

    desk.minter._fiber = _Watched(watched)
    got = await offer(desk)
    (call,), (lock,) = made, known
    c = got.challenge
    assert (call.preimage, call.payment_hash) == (None, c.payment_hash)
    assert (call.final_expiry_delta_ms, call.allow_mpp, call.expiry_s) == (12_600_000, False, 120)
    assert c.mode is Mode.HOLD
    assert open_token(got.token, {"k2": b"\x0b" * 32}) == c
    assert (lock.state, lock.nonce, lock.amount) == (LockState.OFFERED, c.nonce, TERMS.ceiling)
    assert lock.expires_ms >= c.expires_at_s * 1000
    assert c.payment_hash not in desk.payee.preimages
    assert got.locked_s == 30 + 900
    await desk.keeper.withdraw(c.payment_hash)
    await desk.until_done(c.payment_hash)


class _Watched:
    def __init__(self, call: Any) -> None:
        self.call = call


async def test_what_costs_more_than_the_cap_is_not_held(make_desk: Any, clock: Any) -> None:
    desk = make_desk(clock)
    dear = replace(TERMS, price=replace(TERMS.price, request_fee=CAP))
    error = await unavailable(desk.offers.admit(dear), "amount")
    assert "5 CKB" in error.message
    just = replace(TERMS, price=replace(TERMS.price, request_fee=0, input_per_mtok=0))
    fee = CAP - just.ceiling
    await desk.offers.admit(replace(just, price=replace(just.price, request_fee=fee)))
    over = replace(just, price=replace(just.price, request_fee=fee + 1))
    await unavailable(desk.offers.admit(over), "amount")


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"require_preimage": True}, "preimage"), ({"total_timeout_ms": MAX_RUN_MS + 1}, "time")],
)
async def test_a_seller_that_cannot_hold_says_so(
    make_desk: Any, clock: Any, config: Any, reason: str
) -> None:
    await unavailable(make_desk(clock, **config).offers.admit(TERMS), reason)


async def test_a_channel_must_have_room_for_the_tlc_and_its_amount(desk: Any) -> None:
    desk.payee.strangers = MAX_PENDING_TLCS
    await unavailable(desk.offers.admit(TERMS), "channels")
    desk.payee.strangers = MAX_PENDING_TLCS - 1
    await unavailable(desk.offers.admit(TERMS), "channels")  # the look is not that old
    desk.clock.ms += ROOM_AGE_MS
    await desk.offers.admit(TERMS)
    desk.payee.strangers, desk.payee.receivable = 0, TERMS.ceiling - 1
    desk.clock.ms += ROOM_AGE_MS
    await unavailable(desk.offers.admit(TERMS), "channels")
    desk.payee.receivable = TERMS.ceiling
    desk.clock.ms += ROOM_AGE_MS
    await desk.offers.admit(TERMS)


async def test_many_who_ask_at_once_share_one_look(desk: Any) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(desk.offers.admit, TERMS)
    assert desk.payee.calls == ["list_channels"]


async def test_a_node_that_is_away_or_does_not_show_its_channels(desk: Any) -> None:
    desk.payee.is_down = True
    error = await refusal(desk.offers.admit(TERMS))
    assert (error.code, error.money) == ("fiber_unavailable", Money.UNMOVED)
    desk.payee.is_down = False

    async def forbidden(*_: Any, **__: Any) -> Any:
        raise FiberUnauthorized("no right to list channels")

    desk.offers._fiber = _Watched(forbidden)
    await unavailable(desk.offers.admit(TERMS), "channels")


async def test_an_address_has_few_offers_that_it_does_not_use(make_desk: Any, clock: Any) -> None:
    desk = make_desk(clock, locks_per_address=2)
    first = (await offer(desk)).challenge.payment_hash
    await offer(desk)
    await unavailable(offer(desk), "address")
    await offer(desk, "192.0.2.2")
    desk.payee.lock(first)
    await desk.claim(first)
    await offer(desk)
    await unavailable(offer(desk), "address")
    await desk.real.release(desk.hold_id(first), now_ms=clock.ms)


async def test_addresses_of_one_ipv6_network_are_one(make_desk: Any, clock: Any) -> None:
    desk = make_desk(clock, locks_per_address=1)
    await offer(desk, "2001:db8::1")
    await unavailable(offer(desk, "2001:db8::ffff"), "address")
    await offer(desk, "2001:db8:0:1::1")


async def test_more_locks_than_allowed_are_refused_until_one_ends(
    make_desk: Any, clock: Any
) -> None:
    desk = make_desk(clock, open_locks=2)
    first = (await offer(desk)).challenge.payment_hash
    await offer(desk)
    made = desk.payee.calls.count("new_invoice")
    await unavailable(offer(desk), "locks")
    assert desk.payee.calls.count("new_invoice") == made
    assert desk.keeper.unclaimed_of("192.0.2.1") == 2
    desk.payee.set_status(first, InvoiceStatus.CANCELLED)
    await desk.keeper.sweep()
    await offer(desk)


@pytest.mark.parametrize("fault", list(Fault))
async def test_an_invoice_nobody_saw_is_taken_back(desk: Any, fault: Fault) -> None:
    desk.payee.faults["new_invoice"] = deque([fault])
    with pytest.raises(TransportError) as caught:
        await offer(desk)
    assert (caught.value.code, caught.value.money) == ("fiber_unavailable", Money.UNMOVED)
    (lock,) = await desk.real.open_locks(limit=10)
    assert lock.state is LockState.CANCELLING
    assert await desk.until_done(lock.payment_hash) is LockState.CANCELLED
    assert all(s is InvoiceStatus.CANCELLED for s in desk.payee.statuses.values())
    assert desk.keeper.unclaimed_of("192.0.2.1") == 0


async def test_a_ledger_that_is_away_means_no_invoice(desk: Any) -> None:
    desk.failing["offer_lock"] = 1
    error = await refusal(offer(desk))
    assert (error.code, error.money) == ("ledger_unavailable", Money.UNMOVED)
    assert "new_invoice" not in desk.payee.calls
    assert desk.keeper.unclaimed_of("192.0.2.1") == 0
    assert await desk.real.open_locks(limit=10) == []


async def test_a_client_that_leaves_while_its_offer_is_made_leaves_no_lock(desk: Any) -> None:
    begun = anyio.Event()

    async def hanging(*_: Any, **__: Any) -> Any:
        begun.set()
        await anyio.sleep_forever()

    desk.minter._fiber = _Watched(hanging)
    async with anyio.create_task_group() as group:
        group.start_soon(offer, desk)
        await begun.wait()
        group.cancel_scope.cancel()
    (lock,) = await desk.real.open_locks(limit=10)
    assert lock.state is LockState.CANCELLING
    assert await desk.until_done(lock.payment_hash) is LockState.CANCELLED
