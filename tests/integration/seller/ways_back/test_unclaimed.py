"""A payment that arrived and that nobody presented is the payer's all the same."""

from typing import Any

import pytest

from infern.core.f402.credential import proof_header
from infern.core.units import CKB as ASSET
from infern.seller import unclaimed

CKB = 100_000_000


@pytest.fixture
async def live(make_live: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A seller whose offers live a second, and who asks about them soon after."""
    monkeypatch.setattr(unclaimed, "GRACE_MS", 0)
    monkeypatch.setattr(unclaimed, "SWEEP_MS", 20)
    monkeypatch.setattr(unclaimed, "LATER_MS", 20)
    return await make_live(limits={"invoice_expiry_s": 1})


async def _liability(live: Any) -> int:
    totals = await live.world.ledger.totals()
    return int(totals[ASSET].liability) if ASSET in totals else 0


async def test_it_is_booked_when_its_offer_is_over(live: Any, eventually: Any) -> None:
    offer = await live.paid(live.world.fresh_body())
    amount = offer.challenge.amount
    await eventually(lambda: _liability(live), lambda found: found == amount)
    assert len(live.world.parts.unclaimed) == 0


async def test_its_proof_buys_the_answer_once(live: Any, eventually: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body)
    await eventually(lambda: _liability(live), bool)
    proof = proof_header(offer, preimage=None)
    got = await live.world.chat(body, proof=proof)
    live.world.plain_receipt(got, body)
    again = await live.world.chat(body, proof=proof)
    assert (again.status, again.body) == (200, got.body)
    assert await live.world.spent() == int(got.headers["f402-cost"])


async def test_it_is_redeemed_once(live: Any, eventually: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body)
    await eventually(lambda: _liability(live), bool)
    key, amount = await live.key(CKB), offer.challenge.amount
    for _ in range(2):
        redeemed = await live.world.redeem(offer.token, key)
        assert redeemed.json()["credited"] == str(amount)
    assert (await live.world.tab(key)).balance == CKB + amount
    refused = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    assert (refused.status, refused.error["code"]) == (409, "already_delivered")
    got = await live.withdraw(key, pubkey=live.keys["consumer"].hex(), amount="max")
    assert got.json()["state"] == "settled"


async def test_what_was_claimed_in_time_is_not_booked_again(live: Any, eventually: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body)
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    assert got.status == 200

    async def left() -> int:
        return len(live.world.parts.unclaimed)

    await eventually(left, lambda count: count == 0)
    books = await live.world.ledger.totals()
    assert books[ASSET].received == offer.challenge.amount


async def test_what_nobody_paid_is_forgotten(live: Any, eventually: Any) -> None:
    await live.offer(live.world.fresh_body())

    async def left() -> int:
        return len(live.world.parts.unclaimed)

    await eventually(left, lambda count: count == 0)
    assert await _liability(live) == 0


async def test_a_node_that_is_away_is_asked_later(live: Any, eventually: Any) -> None:
    offer = await live.paid(live.world.fresh_body())
    await live.local()
    live.net.network.stop_node(live.net.provider)
    for _ in range(3):
        await live.world.parts.unclaimed.sweep()
    assert len(live.world.parts.unclaimed) == 1
    live.net.network.start_node(live.net.provider)
    await eventually(lambda: _liability(live), lambda found: found == offer.challenge.amount)
