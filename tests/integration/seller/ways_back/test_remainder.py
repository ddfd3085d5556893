"""What a paid request did not cost goes back to its payer's node, if the payer asked for that."""

import json
from typing import Any

import pytest

from infern.core.f402.challenge import derive_preimage
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import Offer, decode_header_json, encode_header_json
from infern.core.ledger.payout import PayoutState, largest_payout
from infern.core.ledger.records import DUST
from infern.core.wire.strict_json import dumps

CKB = 100_000_000


def _proof(offer: Offer, **payload: str) -> str:
    """A proof with other members in its payload."""
    text = proof_header(offer, preimage=None)
    value: Any = decode_header_json(text, limit_chars=len(text), code="malformed_proof")
    value["payload"] |= payload
    return encode_header_json(json.loads(dumps(value)))


async def _balances(live: Any) -> tuple[int, int]:
    return await live.local("consumer"), await live.local()


async def test_to_the_node_the_first_request_named(live: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body, f402_refund_to=live.keys["consumer"].hex())
    assert offer.challenge.refund_to == live.keys["consumer"]
    consumer, provider = await _balances(live)
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    receipt = live.world.plain_receipt(got, body)
    remainder = offer.challenge.amount - receipt.charged
    summary: Any = got.json()["f402"]
    assert (summary["remainder"], summary["remainder_to"]) == (str(remainder), "refund")
    await live.until_settled()
    sent = largest_payout(remainder)
    fee = -(-sent // 1_000)
    assert await _balances(live) == (consumer + sent, provider - sent - fee)
    stored = (await live.world.request(
        "GET", f"/v1/f402/receipts/{got.headers['x-request-id']}")).json()  # fmt: skip
    (payment,) = await live.payments_of(str(stored["remainder_to"]))
    assert payment.fee == fee
    assert stored["refund"] == {
        "state": "settled",
        "failure": None,
        "amount": str(sent),
        "fee": str(fee),
        "payment_hash": payment.payment_hash.hex(),
    }
    # What routing did not take of its cap is still the payer's.
    key = await live.key(CKB)
    redeemed = await live.world.redeem(offer.token, key)
    assert redeemed.json()["credited"] == str(remainder - sent - fee)


async def test_a_key_beside_the_proof_comes_first(live: Any) -> None:
    key = await live.key(CKB)
    body = live.world.fresh_body()
    offer = await live.paid(body, f402_refund_to=live.keys["consumer"].hex())
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None), key=key)
    summary: Any = got.json()["f402"]
    assert summary["remainder_to"].startswith("key_")
    assert (await live.world.tab(key)).balance == CKB + int(summary["remainder"])
    assert await live.payments() == []


async def test_dust_stays_to_be_redeemed(make_live: Any) -> None:
    live = await make_live()
    live.world.price(input_per_mtok=1_000_000, output_per_mtok=2_000_000)
    body = live.world.fresh_body()
    offer = await live.paid(body, f402_refund_to=live.keys["consumer"].hex())
    assert offer.challenge.amount < DUST
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    summary: Any = got.json()["f402"]
    assert summary["remainder_to"] == "payment"
    await live.until_settled()
    assert await live.payments() == []
    key = await live.key(CKB)
    redeemed = await live.world.redeem(offer.token, key)
    assert redeemed.json()["credited"] == summary["remainder"]


async def test_a_streamed_answer_has_one_too(live: Any) -> None:
    body = live.world.fresh_body(stream=True)
    offer = await live.paid(body, f402_refund_to=live.keys["consumer"].hex())
    consumer = await live.local("consumer")
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    receipt = live.world.stream_receipt(got, body)
    await live.until_settled()
    sent = largest_payout(offer.challenge.amount - receipt.charged)
    assert await live.local("consumer") == consumer + sent


async def test_a_way_back_that_is_not_there_leaves_it_to_be_redeemed(live: Any) -> None:
    body = live.world.fresh_body()
    stranger = "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    offer = await live.paid(body, f402_refund_to=stranger)
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    summary: Any = got.json()["f402"]
    await live.until_settled()
    path = f"/v1/f402/receipts/{got.headers['x-request-id']}"
    refund: Any = (await live.world.request("GET", path)).json()["refund"]
    assert (refund["state"], refund["failure"]) == ("returned", "no_route")
    key = await live.key(CKB)
    redeemed = await live.world.redeem(offer.token, key)
    assert redeemed.json()["credited"] == summary["remainder"]


async def test_it_is_redeemed_once_whatever_comes_first(live: Any) -> None:
    """While it is on its way it is not the payer's to redeem; when it came back it is."""
    live.net.network.faults.set_stuck(live.net.consumer)
    body = live.world.fresh_body()
    offer = await live.paid(body, f402_refund_to=live.keys["consumer"].hex())
    await live.world.chat(body, proof=proof_header(offer, preimage=None))
    key = await live.key(CKB)
    first = await live.world.redeem(offer.token, key)
    assert first.json()["credited"] == "0"
    live.net.network.faults.clear_stuck(live.net.consumer)
    await live.until_settled()
    second = await live.world.redeem(offer.token, key)
    (payout,) = await live.world.ledger.payouts(await _tab_of(live, offer), limit=9)
    assert payout.state is PayoutState.SETTLED
    assert int(str(second.json()["credited"])) == payout.fee_cap - payout.fee


async def _tab_of(live: Any, offer: Offer) -> Any:
    """The request's own tab."""
    books = await live.world.ledger.books()
    (tab,) = [t for t in books.tabs if t.kind.value == "request"]
    assert tab.deposited == offer.challenge.amount
    return tab.tab_id


# Who may say where it goes (abuse 27): whoever passes a proof on must not.


async def test_abuse_27_an_address_added_to_a_proof_counts_for_nothing(live: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body)
    assert offer.challenge.refund_to is None
    hub = live.keys["hub"].hex()
    got = await live.world.chat(body, proof=_proof(offer, refundTo=hub), f402_refund_to=hub)
    summary: Any = got.json()["f402"]
    assert summary["remainder_to"] == "payment"
    await live.until_settled()
    assert await live.payments() == []


async def test_an_address_in_a_proof_does_not_replace_the_token_s(live: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body, f402_refund_to=live.keys["consumer"].hex())
    hub, consumer = await live.local("hub"), await live.local("consumer")
    preimage = await _preimage_of(live, offer)
    swapped = _proof(offer, refundTo=live.keys["hub"].hex(), paymentPreimage=preimage.hex())
    got = await live.world.chat(body, proof=swapped)
    assert got.status == 200, got.body
    await live.until_settled()
    summary: Any = got.json()["f402"]
    sent = largest_payout(int(summary["remainder"]))
    assert await live.local("consumer") == consumer + sent
    assert await live.local("hub") < hub + sent


async def test_an_address_that_comes_with_the_preimage_counts(live: Any) -> None:
    body = live.world.fresh_body()
    offer = await live.paid(body)
    consumer = await live.local("consumer")
    preimage = await _preimage_of(live, offer)
    node = live.keys["consumer"].hex()
    got = await live.world.chat(
        body, proof=_proof(offer, refundTo=node, paymentPreimage=preimage.hex())
    )
    summary: Any = got.json()["f402"]
    assert summary["remainder_to"] == "refund"
    await live.until_settled()
    assert await live.local("consumer") == consumer + largest_payout(int(summary["remainder"]))


async def test_the_seller_s_own_node_is_no_address(live: Any) -> None:
    own = live.keys["provider"].hex()
    body = live.world.fresh_body()
    got = await live.world.chat(body, f402_refund_to=own)
    assert (got.status, got.error["code"]) == (400, "invalid_request")
    offer = await live.paid(body)
    preimage = await _preimage_of(live, offer)
    got = await live.world.chat(
        body, proof=_proof(offer, refundTo=own, paymentPreimage=preimage.hex())
    )
    assert got.json()["f402"]["remainder_to"] == "payment"


@pytest.mark.parametrize("text", ["", "02", "zz" * 33, "05" + "11" * 32, "0x" + "02" * 34])
async def test_what_is_no_node_is_refused_before_an_invoice_is_made(live: Any, text: str) -> None:
    got = await live.world.chat(live.world.fresh_body(), f402_refund_to=text)
    assert (got.status, got.error["code"]) == (400, "invalid_request")
    assert "payment-required" not in got.headers


async def test_a_keyed_request_has_no_remainder_to_send(live: Any) -> None:
    key = await live.key(CKB)
    body = live.world.fresh_body()
    got = await live.world.chat(body, key=key, f402_refund_to=live.keys["consumer"].hex())
    assert got.status == 200
    assert await live.payments() == []
    path = f"/v1/f402/receipts/{got.headers['x-request-id']}"
    assert (await live.world.request("GET", path)).json()["refund"] is None


async def _preimage_of(live: Any, offer: Offer) -> bytes:
    key = live.world.parts.config.secrets.preimage_key
    return derive_preimage(key, offer.challenge.nonce)
