"""Ways to get an answer for nothing, to pay twice, or to spend what is somebody else's.

Numbers are those of the abuse cases in the F402 study.
"""

import itertools
from dataclasses import replace
from typing import Any

import anyio
import pytest

from infern.core.f402.challenge import mint_token, open_token
from infern.core.f402.credential import proof_header
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash
from infern.core.ledger.books import totals
from infern.core.units import CKB, Asset, Network
from infern.testing.scripted_model import Script

BALANCE = 10_000_000
KEYS = {"k1": b"\x0b" * 32}


async def refused(world: Any, body: bytes, proof: str, status: int, code: str, **more: Any) -> Any:
    """A proof that is refused: no invoice, nothing consumed, nothing booked."""
    before = await world.ledger.books()
    got = await world.chat(body, proof=proof, **more)
    assert (got.status, got.error["code"]) == (status, code), got.body
    assert "payment-required" not in got.headers
    assert "invoice" not in got.error.get("f402", {})
    assert got.headers["x-should-retry"] == "false"
    assert await world.ledger.books() == before
    return got


async def test_abuse_01_a_proof_is_good_for_one_answer_and_one_charge(world: Any) -> None:
    body = world.body()
    offer = await world.paid(body)
    proof = proof_header(offer, preimage=None)
    first = await world.chat(body, proof=proof)
    receipt = world.plain_receipt(first, body)
    assert receipt.payment_ref == offer.challenge.payment_hash
    assert world.payment_response(first)["success"] is True
    assert first.json()["f402"]["remainder"] == str(offer.challenge.amount - receipt.charged)
    for _ in range(3):
        got = await refused(world, body, proof, 409, "already_delivered")
        assert got.error["f402"]["receipt"] == first.headers["f402-receipt"]
        assert got.error["f402"]["charged"] == str(receipt.charged)
        assert got.error["money"] == "moved"
        assert world.payment_response(got)["success"] is False
    assert len(world.model.requests) == 1
    assert totals(await world.ledger.books())[CKB].received == offer.challenge.amount


@pytest.mark.parametrize("stream", [False, True])
async def test_abuse_02_fifty_copies_of_one_proof_make_one_run(world: Any, stream: bool) -> None:
    body = world.body(stream=stream)
    proof = await world.proof(body)
    gate = anyio.Event()
    kind = "text/event-stream" if stream else "application/json"
    steps = list(_whole(stream=stream))
    world.model.plan.append(Script(before=gate, steps=steps, content_type=kind))
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await world.chat(body, proof=proof))
        if len(answers) == 49:
            gate.set()

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    good = [got for got in answers if got.status == 200]
    assert len(good) == 1
    others = [got for got in answers if got.status != 200]
    assert {(got.status, got.error["code"]) for got in others} == {(409, "request_in_progress")}
    assert all(got.headers["retry-after"] for got in others)
    assert all(got.headers["x-should-retry"] == "false" for got in others)
    assert len(world.model.requests) == 1
    assert await world.spent() == world.cost(7, 5)
    late = await world.chat(body, proof=proof)
    assert late.error["code"] == "already_delivered"
    assert "receipt" in late.error["f402"]


def _whole(*, stream: bool) -> list[bytes]:
    from infern.testing import scripted_model

    return scripted_model.stream() if stream else [scripted_model.answer()]


async def test_abuse_03_a_proof_is_for_one_body(world: Any) -> None:
    body = world.body()
    proof = await world.proof(body)
    other = body.replace(b"hi", b"ho")
    await refused(world, other, proof, 402, "request_mismatch")
    await refused(world, body + b" ", proof, 402, "request_mismatch")
    assert world.plain_receipt(await world.chat(body, proof=proof), body).charged


async def test_abuse_04_a_proof_is_for_one_method_path_and_query(world: Any) -> None:
    body = world.body()
    proof = await world.proof(body)
    query = "/v1/chat/completions?x=1"
    await refused(world, body, proof, 402, "request_mismatch", target=query)
    text = b'{"model":"m","prompt":"hi","max_tokens":16}'
    await refused(world, text, proof, 402, "request_mismatch", target="/v1/completions")
    got = await world.request("GET", "/v1/chat/completions", b"", {"payment-signature": proof})
    assert got.status == 405
    assert world.plain_receipt(await world.chat(body, proof=proof), body).charged


async def test_abuse_05_a_forged_or_edited_token_is_nobodys(world: Any) -> None:
    body = world.body()
    offer = await world.paid(body)
    other = await world.offer(world.fresh_body())
    claims = offer.challenge
    head, kid, payload, mac = offer.token.split(".")
    cheaper = replace(claims, terms=None, amount=1)
    forged = {
        "another key": mint_token(claims, kid="k1", key=b"\x0d" * 32),
        "another kid": mint_token(claims, kid="k9", key=b"\x0b" * 32),
        "a cheaper payload": ".".join(
            [head, kid, mint_token(cheaper, kid="k1", key=b"\x0d" * 32).split(".")[2], mac]
        ),
        "another's payload": ".".join([head, kid, other.token.split(".")[2], mac]),
        "a changed letter": ".".join([head, kid, payload[:-2] + "AA", mac]),
        "no mac": f"{head}.{kid}.{payload}.",
        "nothing": "",
        "too long": offer.token + "A" * 3_500,
    }
    for token in forged.values():
        got = await world.chat(body, proof=_proof_of(offer, token))
        assert (got.status, got.error["code"]) == (402, "invalid_challenge")
        assert (await world.ledger.books()).tabs == ()
        redeemed = await world.redeem(token, await _unfunded(world))
        assert redeemed.status == 402
        await _forget(world)
    assert (await world.chat(body, proof=_proof_of(offer, offer.token))).status == 200


def _proof_of(offer: Any, token: str) -> str:
    return proof_header(replace(offer, token=token), preimage=None)


async def _unfunded(world: Any) -> str:
    key: str = await world.key(0)
    return key


async def _forget(world: Any) -> None:
    await world.ledger.delete_empty_keys(created_before_ms=world.clock.now_ms() + 1_000, limit=100)
    world.parts.keys.forget_all()


async def test_abuse_06_a_token_of_another_seller_is_refused(make_world: Any) -> None:
    here = await make_world()
    there = await make_world(public_url="http://other.test")
    body = here.body()
    offer = await there.paid(body)
    here.payee.invoices |= there.payee.invoices
    here.payee.statuses |= there.payee.statuses
    await refused(here, body, proof_header(offer, preimage=None), 402, "wrong_realm")
    assert (await there.chat(body, proof=proof_header(offer, preimage=None))).status == 200


async def test_abuse_10_a_token_of_another_network_is_refused(world: Any) -> None:
    """Test coins are free: a seller that moved to mainnet must not take its old tokens."""
    body = world.body()
    offer = await world.paid(body)
    for network in (Network.MAINNET, Network.TESTNET):
        claims = replace(offer.challenge, network=network)
        token = mint_token(claims, kid="k1", key=KEYS["k1"])
        await refused(world, body, _proof_of(offer, token), 402, "wrong_realm")
        echoed = proof_header(replace(offer, challenge=claims), preimage=None)
        await refused(world, body, echoed, 400, "unsupported_network")
    assert (await world.chat(body, proof=proof_header(offer, preimage=None))).status == 200


async def test_abuse_07_paying_less_or_in_something_else_buys_nothing(world: Any) -> None:
    body = world.body()
    offer = await world.paid(body)
    claims = offer.challenge
    lies = {
        "amount_mismatch": replace(claims, terms=None, amount=1),
        "asset_mismatch": replace(claims, terms=None, asset=Asset(b"\xab" * 32)),
        "pay_to_mismatch": replace(claims, pay_to=world.agent.pubkey),
        "unsupported_network": replace(claims, network=Network.TESTNET),
    }
    for code, challenge in lies.items():
        lie = replace(offer, challenge=challenge)
        status = 400 if code == "unsupported_network" else 402
        await refused(world, body, proof_header(lie, preimage=None), status, code)
    preimage = world.preimage_of(offer)
    wrong = type(preimage)(bytes([preimage[0] ^ 1]) + preimage[1:])
    await refused(world, body, proof_header(offer, preimage=wrong), 402, "invalid_preimage")
    good = proof_header(offer, preimage=preimage)
    asked = len(world.payee.calls)
    assert (await world.chat(body, proof=good)).status == 200
    assert len(world.payee.calls) == asked  # the preimage needs no question to the node


async def test_abuse_07_an_unpaid_offer_buys_nothing_until_it_is_paid(world: Any) -> None:
    """Also 17: pending first, then success with the very same proof."""
    body = world.body()
    offer = await world.offer(body)
    proof = proof_header(offer, preimage=None)
    payment_hash = offer.challenge.payment_hash
    for status in (InvoiceStatus.OPEN, InvoiceStatus.RECEIVED, InvoiceStatus.UNKNOWN):
        world.payee.set_status(payment_hash, status)
        got = await refused(world, body, proof, 425, "payment_pending")
        assert got.error["money"] == "unknown"
        assert got.headers["retry-after"] == "2"
    assert world.model.requests == []
    world.payee.pay(payment_hash)
    assert (await world.chat(body, proof=proof)).status == 200


async def test_abuse_17_a_payment_that_arrives_while_the_proof_waits_is_answered(
    make_world: Any,
) -> None:
    world = await make_world(limits={"proof_wait_ms": 5_000})
    body = world.body()
    offer = await world.offer(body)
    world.payee.on_wait = world.payee.pay
    got = await world.chat(body, proof=proof_header(offer, preimage=None))
    assert got.status == 200


@pytest.mark.parametrize("status", [InvoiceStatus.CANCELLED, InvoiceStatus.EXPIRED])
async def test_abuse_11_an_invoice_that_ended_unpaid_needs_a_new_offer(
    world: Any, status: InvoiceStatus
) -> None:
    body = world.body()
    offer = await world.offer(body)
    world.payee.set_status(offer.challenge.payment_hash, status)
    got = await world.chat(body, proof=proof_header(offer, preimage=None))
    assert (got.status, got.error["code"]) == (402, "payment_not_received")
    assert got.error["money"] == "unmoved"
    assert got.error["retry"] == "new_challenge"
    assert (await world.ledger.books()).tabs == ()


class ShiftedClock:
    """The real clock, moved; it moves by hand only."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return int(self._clock.now_ms()) + self.ahead_ms

    async def sleep_ms(self, duration_ms: int) -> None:
        await self._clock.sleep_ms(duration_ms)


async def test_abuse_11_a_paid_offer_is_honoured_long_after_its_invoice_and_then_redeemable(
    world: Any,
) -> None:
    clock = world.clock = ShiftedClock(world.clock)
    world.payee.clock = clock
    world.reassemble()
    early, late, lost = world.fresh_body(), world.fresh_body(), world.fresh_body()
    key = await world.key(BALANCE)
    offers = [await world.paid(body) for body in (early, late, lost)]
    clock.ahead_ms = 86_399_000
    assert (await world.chat(early, proof=proof_header(offers[0], preimage=None))).status == 200
    clock.ahead_ms = 86_402_000
    await refused(world, late, proof_header(offers[1], preimage=None), 402, "challenge_expired")
    clock.ahead_ms = 31 * 86_400_000 - 10_000
    got = await world.redeem(offers[1].token, key)
    assert got.json()["credited"] == str(offers[1].challenge.amount)
    clock.ahead_ms = 31 * 86_400_000 + 10_000
    got = await world.redeem(offers[2].token, key)
    assert (got.status, got.error["code"]) == (402, "challenge_expired")


async def test_abuse_12_a_request_paid_twice_is_one_answer_and_one_credit(world: Any) -> None:
    body = world.body()
    key = await world.key(0)
    first, second = await world.paid(body), await world.paid(body)
    assert (await world.chat(body, proof=proof_header(first, preimage=None))).status == 200
    got = await world.redeem(second.token, key)
    assert got.json()["credited"] == str(second.challenge.amount)
    proof = proof_header(second, preimage=None)
    await refused(world, body, proof, 409, "already_delivered")
    assert (await world.tab(key)).balance == second.challenge.amount


async def test_abuse_24_a_thousand_requests_on_a_key_with_balance_for_ten(world: Any) -> None:
    body = world.body(stream=True)
    ceiling = await world.quote(body)
    key = await world.key(10 * ceiling + ceiling - 1)
    gate = anyio.Event()
    world.model.otherwise = Script(
        before=gate, steps=_whole(stream=True), content_type="text/event-stream"
    )
    answers: list[Any] = []
    most = 0

    async def ask() -> None:
        nonlocal most
        answers.append(await world.chat(body, key=key))
        most = max(most, len(world.model.requests))
        if len(answers) == 990:
            assert await world.open_holds() == 10
            gate.set()

    async with anyio.create_task_group() as group:
        for _ in range(1_000):
            group.start_soon(ask)
    good = [got for got in answers if got.status == 200]
    poor = [got for got in answers if got.status == 402]
    assert (len(good), len(poor)) == (10, 990)
    assert {got.error["code"] for got in poor} == {"insufficient_balance"}
    assert all(got.headers["x-should-retry"] == "false" for got in poor)
    error = poor[0].error["f402"]
    assert error["required"] == str(ceiling)
    tab = await world.tab(key)
    assert (tab.spent, tab.held) == (10 * world.cost(7, 5), 0)
    receipts = sorted(
        (world.stream_receipt(got, body) for got in good), key=lambda receipt: receipt.seq
    )
    assert [receipt.seq for receipt in receipts] == list(range(10))
    for before, after in itertools.pairwise(receipts):
        assert after.prev_digest == before.digest


async def test_abuse_25_guessed_keys_are_slowed_down_and_known_ones_are_not(world: Any) -> None:
    key = await world.key(BALANCE)
    answers = [await world.chat(world.body(), key=f"inf_sk_{number:043}") for number in range(40)]
    assert [got.status for got in answers] == [401] * 30 + [429] * 10
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert all(got.error["money"] == "unmoved" for got in answers)
    assert (await world.chat(world.body(), key=key)).status == 200
    got = await world.chat(world.body(), key="inf_sk_short")
    assert (got.status, got.error["code"]) == (401, "invalid_api_key")


async def test_abuse_30_when_too_many_invoices_are_out_there_is_the_quote_alone(
    make_world: Any,
) -> None:
    world = await make_world(
        limits={"mint_burst": 3, "mints_per_s": 1, "address_per_minute": 2, "open_invoices": 100}
    )
    key = await world.key(BALANCE)
    body = world.body()

    async def ask(address: str) -> Any:
        return await world.request("POST", "/v1/chat/completions", body, address=address)

    first = [await ask("192.0.2.1") for _ in range(3)]
    assert [got.error["f402"]["invoice"] is None for got in first] == [False, False, True]
    others = [await ask(f"198.51.100.{number}") for number in range(4)]
    assert [got.error["f402"]["invoice"] is None for got in others][1:] == [True] * 3
    poor = others[-1]
    assert (poor.status, poor.error["code"]) == (402, "payment_required")
    assert "payment-required" not in poor.headers
    assert poor.error["f402"]["quote"]["max"] == str(await world.quote(body))
    assert poor.error["f402"]["links"]["keys"] == "/v1/f402/keys"
    assert poor.headers["x-should-retry"] == "false"
    assert (await world.chat(body, key=key)).status == 200


async def test_abuse_31_a_stranger_cannot_make_us_read_a_large_body(make_world: Any) -> None:
    """Only a key that is known here allows one; a made-up key or token is refused unread."""
    world = await make_world()
    pieces = [b" " * 100_000] * 5
    got = await world.chat(pieces, key="inf_sk_" + "0" * 43)
    assert got.status == 401
    offer = await world.offer(world.body())
    forged = _proof_of(offer, mint_token(offer.challenge, kid="k1", key=b"\x0d" * 32))
    got = await world.chat(pieces, proof=forged)
    assert got.error["code"] == "invalid_challenge"
    got = await world.chat(pieces, proof=proof_header(offer, preimage=None))
    assert got.error["code"] == "request_too_large"


async def test_abuse_42_a_foreign_key_is_nobody_and_goes_nowhere(world: Any) -> None:
    foreign = "sk-proj-" + "A" * 40
    got = await world.chat(world.body(), authorization=f"Bearer {foreign}")
    assert got.status == 402
    assert foreign.encode() not in got.body
    proof = await world.proof(world.body())
    got = await world.chat(world.body(), proof=proof, authorization=f"Bearer {foreign}")
    assert got.status == 200
    sent = world.model.requests[0]
    assert foreign not in str(sent.headers) + sent.body.decode()


async def test_two_proofs_or_two_keys_at_once_are_refused(world: Any) -> None:
    body = world.body()
    proof = await world.proof(body)
    key = await world.key(BALANCE)
    for headers in (
        [("payment-signature", proof), ("payment-signature", proof)],
        [("authorization", f"Bearer {key}"), ("Authorization", "Bearer other")],
        [("payment-signature", proof), ("payment-authorization", "Payment abc")],
    ):
        from infern.testing.asgi import exchange, scope_of

        got = await exchange(world.app, scope_of("POST", "/v1/chat/completions", headers), body)
        assert (got.status, got.error["code"]) == (400, "ambiguous_payment")
    assert await world.spent() == 0


async def test_a_price_change_between_quote_and_proof_honours_the_quote(world: Any) -> None:
    dear, cheap = world.fresh_body(), world.fresh_body()
    before = world.cost(7, 5)
    offer = await world.paid(dear)
    world.price(input_per_mtok=2_000_000_000, output_per_mtok=6_000_000_000)
    got = await world.chat(dear, proof=proof_header(offer, preimage=None))
    assert world.plain_receipt(got, dear).charged == before
    later = await world.paid(cheap)
    assert later.challenge.amount > offer.challenge.amount
    world.price(request_fee=1, input_per_mtok=1, output_per_mtok=1)
    got = await world.chat(cheap, proof=proof_header(later, preimage=None))
    assert world.plain_receipt(got, cheap).charged == 1_000 + 7 * 2_000 + 5 * 6_000


async def test_a_token_that_was_ours_opens_only_with_its_own_key(world: Any) -> None:
    offer = await world.offer(world.body())
    assert open_token(offer.token, KEYS).payment_hash == PaymentHash(offer.challenge.payment_hash)


@pytest.mark.parametrize(
    ("cap", "status", "code"),
    [
        ("0", 402, "price_above_max"),
        ("1000", 402, "price_above_max"),
        ("100000000", 402, "payment_required"),
        ("-1", 400, "invalid_request"),
        ("1e9", 400, "invalid_request"),
    ],
)
async def test_nothing_is_minted_or_held_above_the_clients_own_maximum(
    world: Any, cap: str, status: int, code: str
) -> None:
    key = await world.key(BALANCE)
    got = await world.chat(world.body(), f402_max_amount=cap)
    assert (got.status, got.error["code"]) == (status, code)
    assert ("new_invoice" in world.payee.calls) == (code == "payment_required")
    keyed = await world.chat(world.body(), key=key, f402_max_amount=cap)
    assert keyed.status == (200 if code == "payment_required" else status)
    if code == "price_above_max":
        assert got.error["f402"]["quote"]["max"] == str(await world.quote(world.body()))
        assert "invoice" not in got.error["f402"]
        assert "payment-required" not in got.headers


async def test_the_seller_at_its_limit_refuses_before_it_holds(make_world: Any) -> None:
    world = await make_world(limits={"open_requests": 1})
    key = await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(Script(before=gate, steps=_whole(stream=False)))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(world.body(), key=key))
        while not world.model.requests:
            await anyio.sleep(0.001)
        got = await world.chat(world.body(), key=key)
        assert (got.status, got.error["code"]) == (503, "overloaded")
        assert got.error["money"] == "unmoved"
        assert await world.open_holds() == 1
        assert (await world.chat(world.body())).status == 402
        gate.set()


async def test_a_price_beyond_all_money_is_refused_and_nothing_breaks(world: Any) -> None:
    world.price(request_fee=2**63)
    key = await world.key(BALANCE)
    for paying in ({}, {"key": key}):
        got = await world.chat(world.body(), **paying)
        assert (got.status, got.error["code"]) == (400, "unpriceable_request")
    assert world.payee.calls == []
