"""Invoices and payments that are not what they should be, on the embedded Fiber network.

Numbers are those of `docs/abuse-cases.md`.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from infern.core.ckb.script import HashType, Script
from infern.core.errors import InfernError
from infern.core.f402.challenge import mint_token
from infern.core.f402.credential import proof_header
from infern.core.fiber.invoice import HashAlgorithm
from infern.core.fiber.rpc import GetInvoice, GetNodeInfo, NewInvoice, SendPayment
from infern.core.fiber.rpc_payments import (
    BuildRouter,
    GetPayment,
    HopRequirement,
    SendPaymentWithRouter,
)
from infern.core.fiber.types import InvoiceStatus, PaymentStatus
from infern.core.ids import Preimage
from infern.core.ledger.books import totals
from infern.core.units import CKB, Network
from infern.devnet.fiber import methods_payments

pytestmark = pytest.mark.timeout(120)

PUBLIC = "https://seller.test"
KEY = b"\x0b" * 32
UDT = Script(code_hash=b"\xab" * 32, hash_type=HashType.TYPE, args=b"usd")
DAY_MS = 86_400_000


class MintsOtherwise:
    """A hostile seller's node: the invoices it makes are not the ones that were asked for."""

    def __init__(self, node: Any, change: Callable[[NewInvoice], NewInvoice]) -> None:
        self._node = node
        self._change = change

    async def call(self, call: Any, *, timeout_ms: int | None = None) -> Any:
        if isinstance(call, NewInvoice):
            call = self._change(call)
        return await self._node.call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        await self._node.wait_change(payment_hash, timeout_ms=timeout_ms)


def in_udt(call: NewInvoice) -> NewInvoice:
    return replace(call, udt_type_script=UDT)


def with_ckb_hash(call: NewInvoice) -> NewInvoice:
    assert call.preimage is not None
    payment_hash = HashAlgorithm.SHA256.digest(call.preimage)
    return replace(
        call,
        preimage=None,
        payment_hash=payment_hash,
        hash_algorithm=HashAlgorithm.CKB_HASH,
    )


async def refuses(live: Any, payer: Any, check: str) -> None:
    """Our client says no, and nothing left its node."""
    before = await live.local("consumer")
    error = (await payer.ask(live.world.fresh_body())).json()["error"]
    assert (error["code"], error["money"]) == ("offer_refused", "unmoved"), error
    assert error["f402"]["check"] == check
    assert await payer.payments() == []
    assert await live.local("consumer") == before


async def test_abuse_08_an_invoice_in_a_udt_is_not_paid_where_ckb_is_due(
    make_live: Any, make_payer: Any
) -> None:
    """The same number of units of another asset can be worth anything."""
    live = await make_live(public_url=PUBLIC)
    live.world.reassemble(MintsOtherwise(live.node, in_udt))
    await refuses(live, make_payer(live), "invoice asset")


async def test_abuse_08_a_udt_invoice_of_the_sellers_node_buys_nothing(make_live: Any) -> None:
    """The node has other users: what they are paid in is no money of this seller's."""
    live = await make_live(public_url=PUBLIC)
    body = live.world.body()
    offer = await live.offer(body)
    record = await live.invoice(offer.challenge.amount, node="provider", udt_type_script=UDT)
    swapped = replace(
        offer, challenge=replace(offer.challenge, payment_hash=record.invoice.payment_hash)
    )
    got = await live.world.chat(body, proof=proof_header(swapped, preimage=None))
    # The token alone says which payment it is about; what stands around it cannot change that.
    assert (got.status, got.error["code"]) == (425, "payment_pending")
    forged = mint_token(swapped.challenge, kid="k1", key=b"\x0d" * 32)
    got = await live.world.chat(body, proof=proof_header(replace(swapped, token=forged),
                                                         preimage=None))  # fmt: skip
    assert (got.status, got.error["code"]) == (402, "invalid_challenge")
    assert (await live.world.ledger.books()).tabs == ()


async def test_abuse_09_an_invoice_with_the_other_hash_function_is_not_paid(
    make_live: Any, make_payer: Any
) -> None:
    """Its preimage is not the one the token promises: it could only lock the payer's money."""
    live = await make_live(public_url=PUBLIC)
    live.world.reassemble(MintsOtherwise(live.node, with_ckb_hash))
    await refuses(live, make_payer(live), "hash algorithm")


async def test_abuse_09_a_preimage_of_the_other_hash_function_shows_nothing(
    make_live: Any,
) -> None:
    live = await make_live()
    body = live.world.body()
    offer = await live.offer(body)
    asked = await live.node.call(GetInvoice(payment_hash=offer.challenge.payment_hash))
    assert asked.invoice.hash_algorithm is HashAlgorithm.SHA256
    # An invoice that hashes with fnn's default, and the token a broken seller would write for it.
    preimage = Preimage(secrets.token_bytes(32))
    record = await live.node.call(
        NewInvoice(
            amount=offer.challenge.amount,
            network=Network.DEV,
            preimage=preimage,
            hash_algorithm=HashAlgorithm.CKB_HASH,
            expiry_s=3_600,
        )
    )
    payment_hash = record.invoice.payment_hash
    assert payment_hash == HashAlgorithm.CKB_HASH.digest(preimage)
    assert payment_hash != hashlib.sha256(preimage).digest()
    claims = replace(offer.challenge, payment_hash=payment_hash)
    other = replace(offer, challenge=claims, token=mint_token(claims, kid="k1", key=KEY))
    got = await live.world.chat(body, proof=proof_header(other, preimage=preimage))
    assert (got.status, got.error["code"]) == (402, "invalid_preimage")
    assert (await live.world.ledger.books()).tabs == ()


async def test_abuse_11_an_expired_but_paid_invoice_is_answered_and_later_credit(
    make_live: Any, clock: Any, later: Any
) -> None:
    live = await make_live(clock=clock)
    first, second = live.world.fresh_body(), live.world.fresh_body()
    early, late = await live.paid(first), await live.paid(second)
    later(live, 600_000)
    for offer in (early, late):
        record = await live.node.call(GetInvoice(payment_hash=offer.challenge.payment_hash))
        assert record.invoice.is_expired(clock.now_ms())
        assert record.status is InvoiceStatus.PAID
    got = await live.world.chat(first, proof=proof_header(early, preimage=None))
    assert live.world.plain_receipt(got, first).payment_ref == early.challenge.payment_hash
    later(live, DAY_MS)
    got = await live.world.chat(second, proof=proof_header(late, preimage=None))
    assert (got.status, got.error["code"]) == (402, "challenge_expired")
    key = await live.world.key(0)
    got = await live.world.redeem(late.token, key)
    assert got.json()["credited"] == str(late.challenge.amount)
    assert (await live.world.tab(key)).balance == late.challenge.amount


async def test_abuse_11_a_payment_that_comes_too_late_goes_back_to_its_payer(
    make_live: Any, clock: Any, later: Any, eventually: Any
) -> None:
    live = await make_live(clock=clock)
    body = live.world.body()
    before = await live.local("consumer")
    offer = await live.offer(body)
    faults, hub = live.net.network.faults, live.net.hub
    faults.set_stuck(hub)
    await live.nodes["consumer"].call(SendPayment(invoice=offer.invoice))
    await eventually(lambda: at_hub(live), bool)
    later(live, 180_000)
    faults.clear_stuck(hub)
    look = GetPayment(payment_hash=offer.challenge.payment_hash)
    await eventually(
        lambda: live.nodes["consumer"].call(look),
        lambda found: found.status is PaymentStatus.FAILED,
    )
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None))
    assert (got.status, got.error["code"]) == (402, "payment_not_received")
    assert got.error["money"] == "unmoved"
    assert await live.local("consumer") == before
    assert (await live.world.ledger.books()).tabs == ()


async def at_hub(live: Any) -> bool:
    """Whether a payment got stuck at the hub."""
    return bool(live.net.network.faults._stuck_tlcs)


async def test_abuse_12_two_invoices_paid_for_one_request_are_one_answer_and_one_credit(
    live: Any,
) -> None:
    body = live.world.body()
    first, second = await live.paid(body), await live.paid(body)
    key = await live.world.key(0)
    got = await live.world.chat(body, proof=proof_header(first, preimage=None), key=key)
    charged = live.world.plain_receipt(got, body).charged
    got = await live.world.redeem(second.token, key)
    assert got.json()["credited"] == str(second.challenge.amount)
    got = await live.world.chat(body, proof=proof_header(second, preimage=None))
    assert (got.status, got.error["code"]) == (409, "already_delivered")
    both = first.challenge.amount + second.challenge.amount
    assert (await live.world.tab(key)).balance == both - charged
    assert len(live.world.model.requests) == 1


async def test_abuse_13_what_is_paid_over_the_invoice_is_no_credit(
    live: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a node of the payer's own making; the payee's does not say how much arrived."""
    honest = methods_payments.router_request
    monkeypatch.setattr(
        methods_payments,
        "router_request",
        lambda *args: replace(honest(*args), algorithm=HashAlgorithm.SHA256),
    )
    body = live.world.body()
    offer = await live.offer(body)
    amount, gift = offer.challenge.amount, 12_345
    consumer = live.nodes["consumer"]
    hops = tuple(HopRequirement(pubkey=live.keys[name]) for name in ("hub", "provider"))
    route = await consumer.call(BuildRouter(hops=hops, amount=amount + gift))
    await consumer.call(
        SendPaymentWithRouter(router=route, payment_hash=offer.challenge.payment_hash)
    )
    look = GetPayment(payment_hash=offer.challenge.payment_hash)
    await eventually(
        lambda: consumer.call(look), lambda found: found.status is PaymentStatus.SUCCESS
    )
    assert await live.local() == amount + gift
    live.gifts = gift
    key = await live.world.key(0)
    got = await live.world.chat(body, proof=proof_header(offer, preimage=None), key=key)
    charged = live.world.plain_receipt(got, body).charged
    assert got.json()["f402"]["remainder"] == str(amount - charged)
    assert (await live.world.tab(key)).balance == amount - charged
    assert totals(await live.world.ledger.books())[CKB].received == amount


async def node_is(live: Any, *, online: bool) -> None:
    """Stop the seller's node or start it, and wait until its wire says so."""
    network = live.net.network
    (network.start_node if online else network.stop_node)(live.net.provider)
    for _ in range(2_000):
        try:
            await live.node.call(GetNodeInfo(), timeout_ms=200)
        except InfernError:
            if not online:
                return
        else:
            if online:
                return
    pytest.fail("the node's wire does not change")


async def test_abuse_16_a_node_that_is_down_at_the_offer_and_at_the_proof(live: Any) -> None:
    paid, asked = live.world.fresh_body(), live.world.fresh_body()
    offer = await live.paid(paid)
    proof = proof_header(offer, preimage=None)
    await node_is(live, online=False)
    got = await live.world.chat(asked)
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert got.error["money"] == "unmoved"
    assert "payment-required" not in got.headers
    got = await live.world.chat(paid, proof=proof)
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert got.error["money"] == "unknown"
    assert "payment-required" not in got.headers
    assert live.world.model.requests == []
    await node_is(live, online=True)
    got = await live.world.chat(paid, proof=proof)
    assert live.world.plain_receipt(got, paid).payment_ref == offer.challenge.payment_hash
    assert (await live.world.chat(asked)).status == 402


async def test_abuse_17_a_payment_that_takes_twelve_seconds_is_pending_and_then_good(
    make_live: Any, clock: Any, later: Any, eventually: Any
) -> None:
    live = await make_live(clock=clock, limits={"proof_wait_ms": 300})
    body = live.world.body()
    offer = await live.offer(body)
    proof = proof_header(offer, preimage=None)
    faults, hub = live.net.network.faults, live.net.hub
    faults.set_stuck(hub)
    await live.nodes["consumer"].call(SendPayment(invoice=offer.invoice))
    await eventually(lambda: at_hub(live), bool)
    for _ in range(3):
        later(live, 4_000)
        got = await live.world.chat(body, proof=proof)
        assert (got.status, got.error["code"]) == (425, "payment_pending")
        assert got.error["money"] == "unknown"
        assert got.headers["retry-after"] == "2"
        assert "payment-required" not in got.headers
    assert live.world.model.requests == []
    faults.clear_stuck(hub)
    look = GetPayment(payment_hash=offer.challenge.payment_hash)
    await eventually(
        lambda: live.nodes["consumer"].call(look),
        lambda found: found.status is PaymentStatus.SUCCESS,
    )
    got = await live.world.chat(body, proof=proof)
    assert live.world.plain_receipt(got, body).payment_ref == offer.challenge.payment_hash


async def test_abuse_28_a_topup_of_somebody_elses_key_is_a_gift(live: Any) -> None:
    """Who sees the invoice can pay it. That buys no look at the key and no unit of it."""
    owner, giver = await live.world.key(0), await live.key(300_000)
    asked = await live.call("POST", "/v1/f402/topups", owner, b'{"amount":"70000"}')
    topup = asked.json()
    await live.pay(topup["invoice"], bytes.fromhex(str(topup["payment_hash"])), 70_000)
    target = f"/v1/f402/topups/{topup['payment_hash']}"
    assert (await live.call("GET", target, owner)).json()["status"] == "paid"
    got = await live.call("GET", target, giver)
    assert (got.status, got.error["code"]) == (404, "not_found")
    assert (await live.world.tab(owner)).balance == 70_000
    assert (await live.world.tab(giver)).balance == 300_000
    got = await live.call("GET", "/v1/f402/balance", giver)
    assert got.json()["balance"] == "300000"
    # The invoice and its payment are no proof of anything that could be answered or redeemed.
    body = live.world.body()
    offer = await live.offer(body)
    claims = replace(offer.challenge, payment_hash=bytes.fromhex(str(topup["payment_hash"])))
    forged = mint_token(claims, kid="k1", key=b"\x0d" * 32)
    got = await live.world.redeem(forged, giver)
    assert (got.status, got.error["code"]) == (402, "invalid_challenge")
    assert (await live.world.tab(owner)).balance == 70_000
