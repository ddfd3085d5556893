"""Withdrawing over the embedded network: where the money goes, and what is refused."""

import asyncio
import secrets
from typing import Any

import pytest

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.ckb.script import HashType, Script
from infern.core.fiber.invoice import (
    ExpiryTime,
    Features,
    FinalExpiryDelta,
    Invoice,
    PayeePubkey,
    UdtScript,
    encode_invoice,
    sign_invoice,
)
from infern.core.fiber.rpc import CancelInvoice
from infern.core.ids import PaymentHash
from infern.core.ledger.payout import fee_cap_of, largest_payout
from infern.core.units import Network
from infern.core.wire.strict_json import dumps
from infern.testing.asgi import HttpAnswer

CKB = 100_000_000
STRANGER = CoincurveSigner(b"\x55" * 32)


async def test_to_a_node(live: Any) -> None:
    key = await live.key(10 * CKB)
    before, consumer = await live.local(), await live.local("consumer")
    target = live.keys["consumer"].hex()
    got = await live.withdraw(key, pubkey=target, amount=str(4 * CKB))
    assert got.status == 200, got.body
    shown = got.json()
    fee = 4 * CKB // 1_000
    assert (shown["state"], shown["failure"]) == ("settled", None)
    assert (shown["amount"], shown["fee"]) == (str(4 * CKB), str(fee))
    assert (shown["pubkey"], shown["invoice"]) == (target, None)
    assert await live.local("consumer") == consumer + 4 * CKB
    assert await live.local() == before - 4 * CKB - fee
    tab = await live.world.tab(key)
    assert (tab.balance, tab.held, tab.refunded) == (6 * CKB - fee, 0, 4 * CKB + fee)
    (payment,) = await live.payments_of(str(shown["payout_id"]))
    assert payment.payment_hash.hex() == shown["payment_hash"]


async def test_to_an_invoice(live: Any) -> None:
    key = await live.key(10 * CKB)
    consumer = await live.local("consumer")
    record = await live.invoice(3 * CKB)
    got = await live.withdraw(key, invoice=record.invoice_text)
    assert got.status == 200, got.body
    shown = got.json()
    assert (shown["state"], shown["amount"]) == ("settled", str(3 * CKB))
    assert shown["payment_hash"] == record.invoice.payment_hash.hex()
    assert await live.local("consumer") == consumer + 3 * CKB


async def test_everything(live: Any) -> None:
    key = await live.key(10 * CKB)
    consumer = await live.local("consumer")
    got = await live.withdraw(key, pubkey=live.keys["consumer"].hex(), amount="max")
    assert got.status == 200, got.body
    amount = largest_payout(10 * CKB)
    assert got.json()["amount"] == str(amount)
    assert await live.local("consumer") == consumer + amount
    tab = await live.world.tab(key)
    assert tab.balance == fee_cap_of(amount) - int(str(got.json()["fee"]))
    # What routing left of its cap can be taken out, too.
    again = await live.withdraw(key, pubkey=live.keys["consumer"].hex(), amount="max")
    assert again.json()["state"] == "settled"


async def test_to_the_neighbour_there_is_no_fee(live: Any) -> None:
    key = await live.key(CKB)
    got = await live.withdraw(key, pubkey=live.keys["hub"].hex(), amount="100000")
    assert (got.json()["state"], got.json()["fee"]) == ("settled", "0")
    assert (await live.world.tab(key)).balance == CKB - 100_000


async def test_it_is_listed_and_found_by_its_id(live: Any) -> None:
    key = await live.key(CKB)
    target = live.keys["consumer"].hex()
    for number in range(3):
        wish = {"id": f"a-withdrawal-numbered-{number}", "pubkey": target, "amount": "20000"}
        await live.withdraw(key, **wish)
    got = await live.call("GET", "/v1/f402/withdrawals", key)
    rows: Any = got.json()["data"]
    assert [row["state"] for row in rows] == ["settled"] * 3
    one = await live.call("GET", "/v1/f402/withdrawals/a-withdrawal-numbered-1", key)
    assert one.json()["id"] == "a-withdrawal-numbered-1"
    assert one.json()["payout_id"] in [row["payout_id"] for row in rows]
    other = await live.key(CKB)
    missing = await live.call("GET", "/v1/f402/withdrawals/a-withdrawal-numbered-1", other)
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    assert (await live.call("GET", "/v1/f402/withdrawals", other)).json() == {"data": []}


async def test_the_same_id_is_one_payment(live: Any) -> None:
    key = await live.key(CKB)
    wish = {"id": live.fresh_id(), "pubkey": live.keys["consumer"].hex(), "amount": "30000"}
    answers = await asyncio.gather(*(live.withdraw(key, **wish) for _ in range(8)))
    answers.append(await live.withdraw(key, **wish))
    assert {answer.json()["payout_id"] for answer in answers} == {answers[0].json()["payout_id"]}
    assert len(await live.payments()) == 1
    assert (await live.world.tab(key)).refunded == 30_000 + 30
    for other in ({"amount": "30001"}, {"pubkey": live.keys["hub"].hex()}):
        refused = await live.withdraw(key, **{**wish, **other})
        assert (refused.status, refused.error["code"]) == (409, "idempotency_conflict")
        assert refused.error["money"] == "unmoved"
    # Two keys have names of their own.
    second = await live.key(CKB)
    assert (await live.withdraw(second, **wish)).json()["state"] == "settled"
    assert len(await live.payments()) == 2


async def test_the_same_wish_for_everything_is_one_payment(live: Any) -> None:
    key = await live.key(CKB)
    wish = {"id": live.fresh_id(), "pubkey": live.keys["consumer"].hex(), "amount": "max"}
    answers = await asyncio.gather(*(live.withdraw(key, **wish) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["payout_id"] for answer in answers} == {answers[0].json()["payout_id"]}
    assert len(await live.payments()) == 1


async def test_an_invoice_is_paid_out_of_one_key_only(live: Any) -> None:
    keys = [await live.key(CKB) for _ in range(2)]
    record = await live.invoice(20_000)
    answers = await asyncio.gather(
        *(live.withdraw(key, invoice=record.invoice_text) for key in keys)
    )
    assert sorted(answer.status for answer in answers) == [200, 409]
    (refused,) = [answer for answer in answers if answer.status == 409]
    assert (refused.error["code"], refused.error["money"]) == ("idempotency_conflict", "unmoved")
    again = await live.withdraw(keys[0], invoice=record.invoice_text)
    assert again.status == 409
    assert len(await live.payments()) == 1


async def test_one_at_a_time(live: Any) -> None:
    key = await live.key(CKB)
    live.net.network.faults.set_stuck(live.net.consumer)
    target = live.keys["consumer"].hex()
    first = asyncio.create_task(live.withdraw(key, pubkey=target, amount="20000"))
    while not await live.world.ledger.open_payouts(limit=1):
        await asyncio.sleep(0.01)
    second = await live.withdraw(key, pubkey=target, amount="20000")
    assert (second.status, second.error["code"]) == (409, "request_in_progress")
    assert second.error["money"] == "unmoved"
    live.net.network.faults.clear_stuck(live.net.consumer)
    assert (await first).json()["state"] == "settled"
    assert (await live.withdraw(key, pubkey=target, amount="20000")).json()["state"] == "settled"


async def test_who_does_not_get_an_answer_in_time_asks_again(make_live: Any) -> None:
    live = await make_live(limits={"withdraw_wait_ms": 50})
    key = await live.key(CKB)
    live.net.network.faults.set_stuck(live.net.consumer)
    wish = {"id": live.fresh_id(), "pubkey": live.keys["consumer"].hex(), "amount": "20000"}
    got = await live.withdraw(key, **wish)
    assert (got.status, got.json()["state"]) in [(202, "sending"), (202, "owed")]
    books = (await live.call("GET", "/v1/f402/balance", key)).json()
    reserved = 20_000 + fee_cap_of(20_000)
    assert (books["owed"], books["held"]) == (str(reserved), str(reserved))
    assert books["balance"] == str(CKB - reserved)
    live.net.network.faults.clear_stuck(live.net.consumer)
    await live.until_settled()
    again = await live.withdraw(key, **wish)
    assert (again.status, again.json()["state"]) == (200, "settled")
    assert (await live.call("GET", "/v1/f402/balance", key)).json()["owed"] == "0"
    assert len(await live.payments()) == 1


async def test_without_a_way_nothing_is_lost(live: Any) -> None:
    key = await live.key(CKB)
    got = await live.withdraw(key, pubkey=STRANGER.pubkey.hex(), amount="20000")
    assert (got.status, got.json()["state"]) == (200, "returned")
    assert got.json()["failure"] == "no_route"
    tab = await live.world.tab(key)
    assert (tab.balance, tab.held, tab.refunded) == (CKB, 0, 0)
    assert await live.payments() == []


async def test_a_payment_that_fails_on_its_way_returns(live: Any) -> None:
    key = await live.key(CKB)
    record = await live.invoice(20_000)
    await live.nodes["consumer"].call(CancelInvoice(payment_hash=record.invoice.payment_hash))
    got = await live.withdraw(key, invoice=record.invoice_text)
    assert (got.json()["state"], got.json()["failure"]) == ("returned", "payment_failed")
    assert (await live.world.tab(key)).balance == CKB


def _unmoved(got: HttpAnswer, status: int, code: str) -> None:
    assert (got.status, got.error["code"]) == (status, code), got.body
    assert got.error["money"] == "unmoved"


async def test_more_than_there_is(live: Any) -> None:
    key = await live.key(100_000)
    target = live.keys["consumer"].hex()
    got = await live.withdraw(key, pubkey=target, amount="100000")
    _unmoved(got, 402, "insufficient_balance")
    details: Any = got.error["f402"]
    assert details["required"] == str(100_000 + fee_cap_of(100_000))
    record = await live.invoice(100_000)
    _unmoved(await live.withdraw(key, invoice=record.invoice_text), 402, "insufficient_balance")
    assert (await live.world.tab(key)).held == 0


async def test_less_than_is_sent(live: Any) -> None:
    key = await live.key(100_000)
    target = live.keys["consumer"].hex()
    _unmoved(await live.withdraw(key, pubkey=target, amount="9999"), 400, "invalid_request")
    record = await live.invoice(9_999)
    _unmoved(await live.withdraw(key, invoice=record.invoice_text), 400, "invalid_request")
    poor = await live.key(10_000)
    _unmoved(await live.withdraw(poor, pubkey=target, amount="max"), 402, "insufficient_balance")


async def test_the_seller_s_own_node_is_refused(live: Any) -> None:
    key = await live.key(CKB)
    own = live.keys["provider"].hex()
    _unmoved(await live.withdraw(key, pubkey=own, amount="20000"), 400, "invalid_request")
    record = await live.invoice(20_000, node="provider")
    _unmoved(await live.withdraw(key, invoice=record.invoice_text), 400, "invalid_invoice")
    # A stranger's invoice under the hash of one of the seller's.
    theirs = sign_invoice(
        Invoice(
            network=Network.DEV,
            amount=20_000,
            timestamp_ms=live.world.clock.now_ms(),
            payment_hash=record.invoice.payment_hash,
            attributes=(ExpiryTime(expiry_s=3_600), PayeePubkey(pubkey=STRANGER.pubkey)),
        ),
        STRANGER,
    )
    got = await live.withdraw(key, invoice=encode_invoice(theirs))
    _unmoved(got, 400, "invalid_invoice")
    assert await live.payments() == []


UDT = Script(code_hash=b"\x01" * 32, hash_type=HashType.TYPE, args=b"\x02")


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({}, (ExpiryTime(expiry_s=60),)),
        ({"timestamp_ms": 1_600_000_000_000}, (ExpiryTime(expiry_s=3_600),)),
        ({"amount": None}, (ExpiryTime(expiry_s=3_600),)),
        ({"network": Network.TESTNET}, (ExpiryTime(expiry_s=3_600),)),
        ({"network": Network.MAINNET}, (ExpiryTime(expiry_s=3_600),)),
        ({}, (ExpiryTime(expiry_s=3_600), UdtScript(script=UDT))),
        ({}, (ExpiryTime(expiry_s=3_600), Features.of(["BASIC_MPP_OPTIONAL"]))),
        ({}, (ExpiryTime(expiry_s=3_600), FinalExpiryDelta(delta_ms=1_209_600_000))),
    ],
    ids=["short", "expired", "amountless", "testnet", "mainnet", "udt", "mpp", "lock"],
)
async def test_invoices_that_are_not_paid(
    live: Any, changes: dict[str, Any], attributes: tuple[Any, ...]
) -> None:
    key = await live.key(CKB)
    members = {
        "network": Network.DEV,
        "amount": 20_000,
        "timestamp_ms": live.world.clock.now_ms(),
        "payment_hash": PaymentHash(secrets.token_bytes(32)),
    }
    invoice = Invoice(**{**members, **changes}, attributes=attributes)
    got = await live.withdraw(key, invoice=encode_invoice(sign_invoice(invoice, STRANGER)))
    _unmoved(got, 400, "invalid_invoice")
    unsigned = await live.withdraw(key, invoice=encode_invoice(invoice))
    _unmoved(unsigned, 400, "invalid_invoice")
    assert (await live.world.tab(key)).held == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "short", "pubkey": "02" + "11" * 32, "amount": "20000"},
        {"id": "with spaces are not allowed", "pubkey": "02" + "11" * 32, "amount": "20000"},
        {"id": "a" * 129, "pubkey": "02" + "11" * 32, "amount": "20000"},
        {"id": "a" * 16},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "amount": 20_000},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "amount": "0"},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "amount": "-5"},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "amount": "1e9"},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "amount": "all"},
        {"id": "a" * 16, "pubkey": "11" * 33, "amount": "20000"},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "invoice": "fibd1", "amount": "20000"},
        {"id": "a" * 16, "invoice": "fibd1", "amount": "20000"},
        {"id": "a" * 16, "pubkey": "02" + "11" * 32, "amount": "20000", "fee": "0"},
        {"id": "a" * 16, "pubkey": None, "invoice": "fibd1"},
        {"id": "a" * 16, "invoice": ["fibd1"]},
    ],
)
async def test_bodies_that_cannot_be_read(live: Any, body: dict[str, Any]) -> None:
    key = await live.key(CKB)
    got = await live.call("POST", "/v1/f402/withdraw", key, dumps(body))
    _unmoved(got, 400, "invalid_request")
    assert (await live.world.tab(key)).held == 0


async def test_no_invoice_at_all(live: Any) -> None:
    key = await live.key(CKB)
    for text in ("", "fibd1", "fibd1" + "q" * 5_000, "lnbc1"):
        _unmoved(await live.withdraw(key, invoice=text), 400, "invalid_invoice")


async def test_who_has_no_key(live: Any) -> None:
    wish = {"id": "a" * 16, "pubkey": live.keys["consumer"].hex(), "amount": "20000"}
    got = await live.world.request("POST", "/v1/f402/withdraw", dumps(wish))
    _unmoved(got, 401, "invalid_api_key")
    unfunded = await live.world.key(0)
    _unmoved(await live.withdraw(unfunded, **wish), 402, "insufficient_balance")
    for path in ("/v1/f402/withdrawals", "/v1/f402/withdrawals/" + "a" * 16):
        assert (await live.world.request("GET", path)).status == 401


async def test_many_from_one_address(make_live: Any) -> None:
    live = await make_live(limits={"withdrawals_per_minute": 2})
    key = await live.key(CKB)
    target = live.keys["consumer"].hex()
    wishes = [{"id": live.fresh_id(), "pubkey": target, "amount": "20000"} for _ in range(3)]
    answers = [await live.withdraw(key, **wish) for wish in wishes]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert (await live.withdraw(key, **wishes[0])).status == 200, "asking again is not limited"


async def test_a_seller_with_too_many_on_their_way(make_live: Any) -> None:
    live = await make_live(limits={"open_payouts": 1, "withdraw_wait_ms": 50})
    keys = [await live.key(CKB) for _ in range(2)]
    live.net.network.faults.set_stuck(live.net.consumer)
    target = live.keys["consumer"].hex()
    assert (await live.withdraw(keys[0], pubkey=target, amount="20000")).status == 202
    got = await live.withdraw(keys[1], pubkey=target, amount="20000")
    _unmoved(got, 503, "overloaded")
    live.net.network.faults.clear_stuck(live.net.consumer)
    await live.until_settled()


async def test_while_the_node_is_away(live: Any) -> None:
    key = await live.key(CKB)
    record = await live.invoice(20_000)
    live.net.network.stop_node(live.net.provider)
    _unmoved(await live.withdraw(key, invoice=record.invoice_text), 503, "fiber_unavailable")
    live.net.network.start_node(live.net.provider)
