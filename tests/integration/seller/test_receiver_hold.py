"""While an offer is out or paid, the same need gets no second invoice."""

from typing import Any

import anyio
import pytest

from infern.core.f402.credential import proof_header
from infern.core.f402.offer import Offer, parse_offer
from infern.core.fiber.types import InvoiceStatus

CHAT = "/v1/chat/completions"
NAMED = {"idempotency_key": "need-0123456789abcdef"}


def offered(world: Any, got: Any) -> Offer:
    assert got.status == 402, got.body
    offer = parse_offer(got.body, world.public_url + CHAT)
    assert offer is not None
    return offer


def minted(world: Any) -> int:
    return int(world.payee.calls.count("new_invoice"))


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (NAMED, NAMED),
        ({"x_stainless_retry_count": "0"}, {"x_stainless_retry_count": "1"}),
    ],
    ids=["name", "retry"],
)
async def test_abuse_18_who_asks_again_pays_the_invoice_it_has(
    world: Any, first: Any, again: Any
) -> None:
    body = world.body()
    got = await world.chat(body, **first)
    offer = offered(world, got)
    for _ in range(2):
        repeated = await world.chat(body, **again)
        assert offered(world, repeated).token == offer.token
        assert repeated.headers["payment-required"] == got.headers["payment-required"]
        again = {name: again[name] if name == "idempotency_key" else "2" for name in again}
    assert minted(world) == 1
    # Paid, and the answer under way: still no second invoice, or an auto-payer would pay it.
    world.payee.pay(offer.challenge.payment_hash)
    assert (await world.chat(body, proof=proof_header(offer, preimage=None))).status == 200
    third = {name: again[name] if name == "idempotency_key" else "3" for name in again}
    assert offered(world, await world.chat(body, **third)).token == offer.token
    assert minted(world) == 1


async def test_strangers_behind_one_address_with_equal_requests_share_no_invoice(
    world: Any,
) -> None:
    body = world.body()
    asks: list[dict[str, str]] = [
        {},
        {},
        {"user_agent": "one", "x_stainless_retry_count": "0"},
        {"user_agent": "two", "x_stainless_retry_count": "0"},
        {"user_agent": "one", **NAMED},
        {"user_agent": "two", **NAMED},
    ]
    tokens = [offered(world, await world.chat(body, **headers)).token for headers in asks]
    assert len(set(tokens)) == len(asks)
    retried = await world.chat(body, user_agent="two", x_stainless_retry_count="1")
    assert offered(world, retried).token == tokens[3]


async def test_an_expired_offer_is_replaced_unless_it_was_paid(make_world: Any) -> None:
    world = await make_world(limits={"invoice_expiry_s": 1})
    paid_body, body = world.fresh_body(), world.fresh_body()
    paid = offered(world, await world.chat(paid_body, **NAMED))
    unpaid = offered(world, await world.chat(body, **NAMED))
    world.payee.pay(paid.challenge.payment_hash)
    while world.clock.now_ms() < unpaid.challenge.expires_at_s * 1_000:
        await anyio.sleep(0.05)
    world.payee.set_status(unpaid.challenge.payment_hash, InvoiceStatus.EXPIRED)
    assert offered(world, await world.chat(paid_body, **NAMED)).token == paid.token
    assert offered(world, await world.chat(body, **NAMED)).token != unpaid.token


async def test_a_repeated_ask_takes_nothing_from_the_allowance_for_invoices(
    make_world: Any,
) -> None:
    world = await make_world(limits={"address_per_minute": 1, "mint_burst": 1})
    body = world.body()
    offer = offered(world, await world.chat(body, **NAMED))
    for _ in range(3):
        assert offered(world, await world.chat(body, **NAMED)).token == offer.token
    other = await world.chat(world.fresh_body(), **NAMED)
    assert other.error["f402"]["invoice"] is None


async def test_an_offer_is_shown_again_to_who_wants_the_remainder_at_the_same_place(
    world: Any,
) -> None:
    body = world.body()
    node = world.agent.pubkey.hex()
    first = offered(world, await world.chat(body, f402_refund_to=node, **NAMED))
    assert first.challenge.refund_to == world.agent.pubkey
    other = offered(world, await world.chat(body, **NAMED))
    assert other.token != first.token
    again = offered(world, await world.chat(body, f402_refund_to=node, **NAMED))
    assert again.token == first.token
