"""Hold mode when all goes well: the answer first, then the money, then the remainder."""

from typing import Any

import anyio
import pytest

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.core.f402.challenge import derive_preimage
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import WORST_LOCK_S, decode_header_json, parse_offer
from infern.core.fiber.invoice import decode_invoice
from infern.core.ids import Preimage, RequestId
from infern.core.ledger.lock import LockState
from infern.core.ledger.payout import PayoutState
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Script, answer, stream, streaming

pytestmark = pytest.mark.timeout(120)


def x402(got: Any, header: str) -> Any:
    return decode_header_json(got.headers[header], limit_chars=8192, code="malformed_proof")


async def test_the_offer_says_what_the_payers_node_may_lock(world: Any) -> None:
    got = await world.request(world.body(), f402_mode="hold")
    assert (got.status, got.error["code"]) == (402, "payment_required")
    details = got.error["f402"]
    assert details["mode"] == "hold"
    assert details["hold"] == {
        "amount": details["amount"],
        "locked_s": 930,
        "locked_at_worst_s": WORST_LOCK_S,
    }
    for words in ("hold mode", "16 minutes", "14 days", "given back"):
        assert words in got.error["message"]
    (accepted,) = x402(got, "payment-required")["accepts"]
    assert accepted["extra"]["paymentFlow"] == "escrow"
    assert got.headers["x-should-retry"] == "false"
    offer = parse_offer(got.body, "http://seller.test")
    assert offer.locked_s == 930
    invoice = decode_invoice(offer.invoice, CoincurveVerifier())
    assert invoice.final_expiry_delta_ms == 12_600_000
    assert invoice.features == frozenset()
    await world.pass_ms(200_000)
    await world.is_given_back_unpaid(offer)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_delivered_is_taken_and_the_rest_can_be_redeemed(
    world: Any, is_stream: bool
) -> None:
    offer, proof = await world.pay(body := world.body(stream=is_stream))
    got = await world.request(body, proof=proof)
    assert got.status == 200
    assert got.is_complete
    assert x402(got, "payment-response")["success"] is True
    await world.is_taken(offer)
    sums = await world.sums()
    assert sums.received == offer.challenge.amount
    assert 0 < sums.spent < offer.challenge.amount
    stored = await world.ledger.receipt(RequestId(got.headers["x-request-id"]))
    assert stored.charged == sums.spent
    rest = offer.challenge.amount - stored.charged
    key = await world.key()
    for _ in range(2):
        assert (await world.redeem(offer, key)).json()["credited"] == str(rest)
    assert (await world.tab(key)).balance == rest


async def test_the_rest_goes_to_the_key_beside_the_proof_once_it_is_money(
    make_world: Any, gate: Any
) -> None:
    gates: list[Any] = []
    world = await make_world(
        wrap_fiber=lambda fiber: gates.append(gate(fiber, "settle_invoice")) or gates[0]
    )
    key = await world.key()
    offer, proof = await world.pay(body := world.body())
    got = await world.request(body, proof=proof, key=key)
    summary = got.json()["f402"]
    assert str(summary["remainder_to"]).startswith("key_")
    assert got.headers["f402-balance"] == "0"
    await gates[0].reached.wait()
    assert (await world.tab(key)).balance == 0
    gates[0].opened.set()
    await world.is_taken(offer)
    assert (await world.tab(key)).balance == int(str(summary["remainder"])) > 0


async def test_the_rest_goes_back_to_the_node_the_first_request_named_once_it_is_money(
    make_world: Any, gate: Any
) -> None:
    gates: list[Any] = []
    world = await make_world(
        wrap_fiber=lambda fiber: gates.append(gate(fiber, "settle_invoice")) or gates[0]
    )
    body = world.body()
    own = world.nodes.consumer.pubkey.hex()
    offer, proof = await world.pay(body, f402_refund_to=own)
    got = await world.request(body, proof=proof)
    assert got.json()["f402"]["remainder_to"] == "refund"
    await gates[0].reached.wait()
    tab_id = (await world.ledger.lock(offer.challenge.payment_hash)).tab_id
    assert await world.ledger.payouts(tab_id, limit=10) == []
    gates[0].opened.set()
    await world.is_taken(offer)
    (payout,) = await world.payout_ends(tab_id)
    assert (payout.state, payout.target) == (PayoutState.SETTLED, world.nodes.consumer.pubkey)
    rest = offer.challenge.amount - int(str(got.json()["f402"]["charged"]))
    tab = await world.ledger.tab(tab_id)
    assert payout.amount + payout.fee + tab.balance == rest
    world.returned += payout.amount


async def test_settling_does_not_keep_the_consumer_waiting_nor_begin_before_the_end(
    make_world: Any, gate: Any
) -> None:
    gates: list[Any] = []
    world = await make_world(
        wrap_fiber=lambda fiber: gates.append(gate(fiber, "settle_invoice")) or gates[0]
    )
    offer, proof = await world.pay(body := world.body(stream=True))
    payment_hash = offer.challenge.payment_hash
    states: list[LockState] = []

    class Watching(HttpClient):
        async def send(self, message: Any) -> None:
            states.append((await world.ledger.lock(payment_hash)).state)
            await super().send(message)

    got = await world.request(body, proof=proof, client=Watching())
    assert got.is_complete
    assert set(states[:-1]) == {LockState.HELD}
    assert states[-1] is LockState.CHARGED
    await gates[0].reached.wait()
    assert (await world.ledger.lock(payment_hash)).state is LockState.SETTLING
    again = await world.request(body, proof=proof)
    assert (again.status, again.body) == (200, got.body)
    key = await world.key()
    early = await world.redeem(offer, key)
    assert (early.status, early.error["code"]) == (409, "request_in_progress")
    gates[0].opened.set()
    await world.is_taken(offer)
    assert (await world.redeem(offer, key)).status == 200


async def test_a_proof_that_was_answered_says_so_with_its_receipt(world: Any) -> None:
    offer, proof = await world.pay(body := world.body())
    first = await world.request(body, proof=proof)
    again = await world.request(body, proof=proof)
    assert (again.status, again.body) == (200, first.body)
    await world.is_taken(offer)
    await world.restart()  # the kept answer is gone
    for _ in range(2):
        again = await world.request(body, proof=proof)
        assert (again.status, again.error["code"]) == (409, "already_delivered")
        assert again.error["f402"]["receipt"] == first.headers["f402-receipt"]
        assert again.error["money"] == "moved"
        assert again.headers["x-should-retry"] == "false"
        await world.is_taken(offer)
    assert len(world.model.requests) == 1


@pytest.mark.parametrize("is_stream", [False, True])
async def test_fifty_copies_of_one_proof_make_one_run_and_one_payment(
    world: Any, is_stream: bool
) -> None:
    offer, proof = await world.pay(body := world.body(stream=is_stream))
    begin = anyio.Event()
    steps = stream() if is_stream else [answer()]
    kind = "text/event-stream" if is_stream else "application/json"
    world.model.plan.append(Script(before=begin, steps=steps, content_type=kind))
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await world.request(body, proof=proof))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
        while not world.model.requests:
            await anyio.sleep(0.001)
        begin.set()
    # Who came before the payment did was told to come again; all others have the one answer.
    pending = [got for got in answers if got.status != 200]
    assert {got.error["code"] for got in pending} <= {"payment_pending"}
    assert len({got.body for got in answers if got.status == 200}) == 1
    assert len(world.model.requests) == 1
    await world.is_taken(offer)


async def test_a_proof_may_come_before_its_payment(world: Any) -> None:
    offer = await world.offer(body := world.body())
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await world.request(body, proof=proof_header(offer, preimage=None)))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.sleep(0.05)
        assert answers == []
        await world.send(offer)
    assert answers[0].status == 200
    await world.is_taken(offer)


async def test_work_begins_when_the_payment_is_pending_and_is_not_money_yet(world: Any) -> None:
    begin = anyio.Event()
    world.model.plan.append(streaming([*stream()[:2], begin, *stream()[2:]]))
    offer, proof = await world.pay(body := world.body(stream=True))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.request(body, client=client, proof=proof))
        await client.has_pieces(1)
        sums = await world.sums()
        assert (sums.locked, sums.spent) == (offer.challenge.amount, 0)
        assert offer.challenge.payment_hash not in world.nodes.provider.preimages
        begin.set()
    await world.is_taken(offer)


async def test_a_preimage_shows_nothing_in_hold_mode(make_world: Any) -> None:
    """The seller alone knows it before it settles; somebody who learned it has paid nothing."""
    world = await make_world(limits={"proof_wait_ms": 50})
    offer = await world.offer(body := world.body())
    true = derive_preimage(b"\x0c" * 32, offer.challenge.nonce)
    got = await world.request(body, proof=proof_header(offer, preimage=true))
    assert (got.status, got.error["code"]) == (425, "payment_pending")
    wrong = proof_header(offer, preimage=Preimage(bytes(32)))
    got = await world.request(body, proof=wrong)
    assert (got.status, got.error["code"]) == (402, "invalid_preimage")
    proof = await world.send(offer)
    await world.arrived(offer)
    assert (await world.request(body, proof=proof)).status == 200
    await world.is_taken(offer)


async def test_a_proof_is_for_its_own_bytes_in_hold_mode_too(world: Any) -> None:
    offer, proof = await world.pay(body := world.body())
    got = await world.request(body + b" ", proof=proof)
    assert (got.status, got.error["code"]) == (402, "request_mismatch")
    assert (await world.request(body, proof=proof)).status == 200
    await world.is_taken(offer)


# What the header means.


@pytest.mark.parametrize("mode", ["", "Hold", "escrow", "hold, upfront", "hold "])
async def test_a_mode_nobody_knows_is_refused(world: Any, mode: str) -> None:
    for credential in ({}, {"key": await world.key()}):
        got = await world.request(world.body(), f402_mode=mode, **credential)
        assert (got.status, got.error["code"]) == (400, "invalid_request")
        assert got.error["money"] == "unmoved"


async def test_a_mode_that_comes_twice_is_refused(world: Any) -> None:
    got = await world.request_with([("f402-mode", "hold"), ("F402-Mode", "upfront")])
    assert (got.status, got.error["code"]) == (400, "ambiguous_payment")


@pytest.mark.parametrize("headers", [{}, {"f402_mode": "upfront"}])
async def test_without_the_header_payment_is_upfront(world: Any, headers: Any) -> None:
    got = await world.request(body := world.body(), **headers)
    assert got.error["f402"]["mode"] == "upfront"
    assert "hold" not in got.error["f402"]
    offer = parse_offer(got.body, "http://seller.test")
    proof = await world.send(offer)
    # A proof says by itself what it is; the header does not matter beside it.
    assert (await world.request(body, proof=proof, f402_mode="hold")).status == 200
    await world.payment_succeeds(offer)
    assert await world.ledger.lock(offer.challenge.payment_hash) is None


async def refused(world: Any, reason: str, **headers: str) -> None:
    made = len(world.nodes.provider.invoices)
    locks = await world.ledger.open_locks(limit=10)
    got = await world.request(world.body(), f402_mode="hold", **headers)
    assert (got.status, got.error["code"]) == (402, "hold_unavailable"), got.body
    assert (got.error["money"], got.error["retry"]) == ("unmoved", "new_challenge")
    assert got.error["f402"]["reason"] == reason
    assert got.headers["x-should-retry"] == "false"
    assert "payment-required" not in got.headers
    assert "invoice" not in got.error["f402"]
    assert len(world.nodes.provider.invoices) == made
    assert await world.ledger.open_locks(limit=10) == locks


async def test_more_than_the_cap_is_not_held(make_world: Any) -> None:
    world = await make_world(limits={"hold_max_amount": 1_000})
    await refused(world, "amount")
    assert (await world.request(world.body())).error["f402"]["mode"] == "upfront"


async def test_the_clients_own_cap_counts_in_hold_mode(world: Any) -> None:
    got = await world.request(world.body(), f402_mode="hold", f402_max_amount="10")
    assert got.error["code"] == "price_above_max"
    assert await world.ledger.open_locks(limit=10) == []


async def test_a_seller_that_wants_preimages_offers_no_hold_mode_but_honours_what_it_offered(
    world: Any,
) -> None:
    offer, proof = await world.pay(body := world.body())
    await world.arrived(offer)
    world.require_preimage = True
    await world.restart()
    await refused(world, "preimage")
    assert (await world.request(body, proof=proof)).status == 200
    await world.is_taken(offer)


async def test_a_channel_without_room_carries_no_more_locks(make_world: Any) -> None:
    world = await make_world()
    world.close_channel()
    await refused(world, "channels")


async def test_an_mpp_client_is_not_shown_a_charge_it_would_wait_for(world: Any) -> None:
    asking = {"accept_payment": "fiber/charge"}
    upfront = await world.request(world.body(), **asking)
    assert "www-authenticate" in upfront.headers
    held = await world.request(world.body(), f402_mode="hold", **asking)
    assert "www-authenticate" not in held.headers
    assert held.error["f402"]["mode"] == "hold"
    await world.pass_ms(200_000)
