"""The public report: what the seller owes, what its node has, and that both are true."""

import asyncio
from typing import Any

import pytest

from infern.core.f402.credential import proof_header
from infern.core.ledger.payout import fee_cap_of
from infern.seller import solvency

CKB = 100_000_000
PATH = "/v1/f402/solvency"


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is answered anew."""
    monkeypatch.setattr(solvency, "MAX_AGE_MS", 0)
    monkeypatch.setattr(solvency, "REST", 0)


async def _report(live: Any) -> dict[str, Any]:
    got = await live.world.request("GET", PATH)
    assert got.status == 200, got.body
    report: dict[str, Any] = got.json()
    assert report["conservation"] == {"ok": True, "violations": 0}
    (ckb,) = report["assets"]
    assert ckb["asset"] == "ckb"
    sums: dict[str, Any] = ckb
    return sums


async def test_of_a_seller_that_has_sold_nothing(live: Any) -> None:
    sums = await _report(live)
    assert (sums["liability"], sums["surplus"], sums["shortfall"]) == ("0", "0", "0")
    assert sums["node"] == {"channels": 1, "local": "0", "offered": "0", "received": "0"}


async def test_what_is_owed_is_covered_and_what_was_earned_is_surplus(live: Any) -> None:
    key = await live.key(10 * CKB)
    assert (await _report(live))["surplus"] == "0"
    await live.world.chat(live.world.fresh_body(), key=key)
    body = live.world.fresh_body()
    offer = await live.paid(body)
    spent = await live.world.spent()
    sums = await _report(live)
    assert sums["surplus"] == str(spent + offer.challenge.amount), "it is not claimed yet"
    await live.world.chat(body, proof=proof_header(offer, preimage=None))
    await live.withdraw(key, pubkey=live.keys["consumer"].hex(), amount=str(5 * CKB))
    await live.local()
    sums = await _report(live)
    totals = next(iter((await live.world.ledger.totals()).values()))
    assert int(sums["liability"]) == totals.balance
    assert int(sums["node"]["local"]) == int(sums["liability"]) + int(sums["surplus"])


async def test_a_withdrawal_on_its_way_is_owed_until_it_is_gone(make_live: Any) -> None:
    live = await make_live(limits={"withdraw_wait_ms": 50})
    key = await live.key(CKB)
    live.net.network.faults.set_stuck(live.net.consumer)
    await live.withdraw(key, pubkey=live.keys["consumer"].hex(), amount="20000")
    reserved = 20_000 + fee_cap_of(20_000)

    async def offered() -> str:
        return str((await _report(live))["node"]["offered"])

    for _ in range(400):
        if await offered() != "0":
            break
        await asyncio.sleep(0.01)
    sums = await _report(live)
    assert (sums["owed"], sums["held"]) == (str(reserved), str(reserved))
    assert sums["node"]["offered"] == str(20_000 + 20)
    assert (sums["liability"], sums["surplus"]) == (str(CKB), "0")
    live.net.network.faults.clear_stuck(live.net.consumer)
    await live.until_settled()


async def test_a_node_that_has_less_than_is_owed_is_told_about(live: Any) -> None:
    await live.world.key(5 * CKB)  # booked, and never paid
    sums = await _report(live)
    assert (sums["liability"], sums["surplus"], sums["shortfall"]) == (
        str(5 * CKB), "0", str(5 * CKB))  # fmt: skip
    # Give it back, so that the books fit the node again.
    for tab in (await live.world.ledger.books()).tabs:
        await live.world.ledger._engine.run(lambda db, name=tab.tab_id: _forget(db, name))


def _forget(db: Any, tab_id: str) -> None:
    for table in ("deposits", "topups", "keys", "tabs"):
        db.execute(f"DELETE FROM {table} WHERE tab_id = ?", (tab_id,))


async def test_without_its_node_the_books_alone_are_shown(live: Any) -> None:
    await live.key(CKB)
    await live.local()
    live.net.network.stop_node(live.net.provider)
    sums = await _report(live)
    assert (sums["liability"], sums["node"], sums["surplus"]) == (str(CKB), None, None)
    live.net.network.start_node(live.net.provider)


async def test_asking_costs_nothing(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvency, "MAX_AGE_MS", 10_000)
    monkeypatch.setattr(solvency, "REST", 50)
    first = await live.world.request("GET", PATH)
    assert first.headers["cache-control"] == "max-age=10"
    await live.key(CKB)
    answers = await asyncio.gather(*(live.world.request("GET", PATH) for _ in range(50)))
    assert {answer.body for answer in answers} == {first.body}
