"""Keys, remainders, redemption, receipts and the other endpoints beside inference."""

from typing import Any

import anyio
import pytest

from infern.core.f402.credential import proof_header
from infern.core.f402.receipt import parse_receipt
from infern.core.ledger.records import TopupState
from infern.core.wire.strict_json import dumps, loads_object
from infern.testing.scripted_model import Script, Step, streaming

BALANCE = 10_000_000


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def get(world: Any, path: str, key: str | None = None) -> Any:
    return await world.request("GET", path, b"", bearer(key) if key else {})


@pytest.mark.parametrize("stream", [False, True])
async def test_the_remainder_of_a_proof_goes_to_the_key_beside_it(world: Any, stream: bool) -> None:
    body = world.body(stream=stream)
    key = await world.key(BALANCE)
    offer = await world.paid(body)
    got = await world.chat(body, proof=proof_header(offer, preimage=None), key=key)
    read = world.stream_receipt if stream else world.plain_receipt
    receipt = read(got, body)
    remainder = offer.challenge.amount - receipt.charged
    tab = await world.tab(key)
    assert (tab.balance, tab.spent) == (BALANCE + remainder, 0)
    shown = (await get(world, f"/v1/f402/receipts/{got.headers['x-request-id']}")).json()
    key_id = (await get(world, "/v1/f402/balance", key)).json()["key_id"]
    assert (shown["remainder"], shown["remainder_to"]) == (str(remainder), key_id)
    if not stream:
        assert got.headers["f402-balance"] == str(tab.balance)
        assert got.json()["f402"]["remainder_to"] == key_id
    again = await world.redeem(offer.token, key)
    assert again.json()["credited"] == str(remainder)
    assert (await world.tab(key)).balance == tab.balance


async def test_a_proof_without_remainder_shows_the_keys_own_balance(world: Any) -> None:
    body = world.body(logprobs=True)
    key = await world.key(BALANCE)
    offer = await world.paid(body)
    terms = offer.challenge.terms
    usage = {"prompt_tokens": terms.prompt_tokens_max, "completion_tokens": 16}
    from infern.testing.scripted_model import answer

    world.model.plan.append(Script(steps=[answer("x" * 90, usage=usage)]))
    got = await world.chat(body, proof=proof_header(offer, preimage=None), key=key)
    assert world.plain_receipt(got, body).charged == offer.challenge.amount
    assert got.headers["f402-balance"] == str(BALANCE)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_forgotten_meanwhile_does_not_make_the_answer_free(
    world: Any, stream: bool
) -> None:
    """An unfunded key is deleted while the answer it stands beside is under way."""
    body = world.body(stream=stream)
    key, other = await world.key(0), await world.key(0)
    offer = await world.paid(body)
    gate = anyio.Event()
    from infern.testing import scripted_model

    kind = "text/event-stream" if stream else "application/json"
    steps = scripted_model.stream() if stream else [scripted_model.answer()]
    world.model.plan.append(Script(before=gate, steps=steps, content_type=kind))
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(body, proof=proof_header(offer, preimage=None), key=key))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not world.model.requests:
            await anyio.sleep(0.001)
        deleted = await world.ledger.delete_empty_keys(
            created_before_ms=world.clock.now_ms() + 1_000, limit=1_000
        )
        assert deleted == 2
        gate.set()
    receipt = (world.stream_receipt if stream else world.plain_receipt)(got[0], body)
    assert await world.spent() == receipt.charged == world.cost(7, 5)
    world.parts.keys.forget_all()
    other = await world.key(0)
    credited = (await world.redeem(offer.token, other)).json()["credited"]
    assert int(credited) == offer.challenge.amount - receipt.charged


async def test_a_paid_offer_that_was_never_used_becomes_credit_once(world: Any) -> None:
    body = world.body()
    key, second = await world.key(0), await world.key(0)
    offer = await world.paid(body)
    amount = str(offer.challenge.amount)
    for _ in range(3):
        assert (await world.redeem(offer.token, key)).json()["credited"] == amount
    assert (await world.redeem(offer.token, second)).json()["credited"] == "0"
    assert (await world.tab(key)).balance == offer.challenge.amount
    assert (await world.tab(second)).balance == 0
    got = await world.chat(body, proof=proof_header(offer, preimage=None))
    assert (got.status, got.error["code"]) == (409, "already_delivered")
    assert (await world.chat(body, key=key)).status == 200


async def test_what_an_answer_left_over_is_redeemed_and_so_is_a_failed_run(world: Any) -> None:
    key = await world.key(0)
    answered, failed = world.fresh_body(), world.fresh_body()
    one, two = await world.paid(answered), await world.paid(failed)
    got = await world.chat(answered, proof=proof_header(one, preimage=None))
    charged = world.plain_receipt(got, answered).charged
    world.model.plan.append(Script(status=500))
    await world.chat(failed, proof=proof_header(two, preimage=None))
    assert (await world.redeem(one.token, key)).json()["credited"] == str(
        one.challenge.amount - charged
    )
    preimage = world.preimage_of(two).hex()
    got = await world.redeem(two.token, key, preimage=preimage)
    assert got.json()["credited"] == str(two.challenge.amount)
    got = await world.chat(failed, proof=proof_header(two, preimage=None))
    assert got.error["code"] == "already_delivered"


async def test_redeeming_takes_a_key_a_token_and_a_payment(world: Any) -> None:
    key = await world.key(0)
    offer = await world.offer(world.body())
    got = await world.request("POST", "/v1/f402/redeem", dumps({"challenge": offer.token}))
    assert got.status == 401
    got = await world.redeem(offer.token, key)
    assert (got.status, got.error["code"]) == (425, "payment_pending")
    for body in (b"{}", b'{"challenge":5}', b"[]", b'{"challenge":"x","preimage":5}'):
        got = await world.request("POST", "/v1/f402/redeem", body, bearer(key))
        assert got.status == 400
    got = await world.redeem(offer.token, key, preimage="00" * 32)
    assert got.error["code"] == "invalid_preimage"
    got = await world.redeem(offer.token, key, preimage="xyz")
    assert got.status == 400
    assert (await world.tab(key)).deposited == 0


async def test_a_redemption_and_a_run_of_one_payment_exclude_one_another(world: Any) -> None:
    key = await world.key(0)
    body = world.body(stream=True)
    offer = await world.paid(body)
    proof = proof_header(offer, preimage=None)
    gate = anyio.Event()
    world.model.plan.append(streaming([gate, Step.BREAK]))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, proof=proof))
        while not world.model.replies:
            await anyio.sleep(0.001)
        got = await world.redeem(offer.token, key)
        assert (got.status, got.error["code"]) == (409, "request_in_progress")
        gate.set()
    assert (await world.redeem(offer.token, key)).json()["credited"] == str(offer.challenge.amount)


async def test_redemptions_and_proofs_at_once_move_one_payment_once(world: Any) -> None:
    keys = [await world.key(0) for _ in range(4)]
    body = world.body()
    offer = await world.paid(body)
    proof = proof_header(offer, preimage=None)
    answers: list[Any] = []

    async def ask(number: int) -> None:
        if number % 2:
            answers.append(await world.chat(body, proof=proof))
        else:
            answers.append(await world.redeem(offer.token, keys[number % 4]))

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(ask, number)
    credited = sum([(await world.tab(key)).deposited for key in keys])
    assert credited + await world.spent() <= offer.challenge.amount
    assert await world.spent() in (0, world.cost(7, 5))
    # The payment may be answered, once; asked for again, the answer is the same.
    assert len({got.body for got in answers if got.status == 200 and b"choices" in got.body}) <= 1


async def test_models_show_prices_and_who_is_paid(world: Any) -> None:
    listed = (await get(world, "/v1/models")).json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model["pricing"]["input_per_mtok"] == "200000000"
    assert model["context_length"] == 8192
    assert model["f402"]["pay_to"] == world.node.pubkey.hex()
    assert model["f402"]["agent_pubkey"] == world.agent.pubkey.hex()
    assert (await get(world, "/v1/models/m")).json() == model
    got = await get(world, "/v1/models/other")
    assert (got.status, got.error["code"]) == (404, "model_not_found")


async def test_the_quote_is_the_402s_and_costs_nothing(world: Any) -> None:
    body = world.body()
    got = await world.request("POST", "/v1/f402/quote", body)
    refusal = await world.request("POST", "/v1/chat/completions", body)
    assert got.json()["quote"] == refusal.error["f402"]["quote"]
    assert got.json()["quote"]["max"] == refusal.error["f402"]["amount"]
    assert world.payee.calls == ["new_invoice"]
    for target in ("/v1/chat/completions?x=1", "/v1/models", ""):
        got = await world.request("POST", f"/v1/f402/quote?target={target}", body)
        assert got.status == 400
    unknown = world.body(model="other")
    got = await world.request("POST", "/v1/f402/quote", unknown)
    assert got.error["code"] == "model_not_found"
    assert (await world.chat(unknown)).error["code"] == "model_not_found"


async def test_a_new_key_is_worthless_until_its_topup_is_paid(world: Any) -> None:
    got = await world.request("POST", "/v1/f402/keys", b'{"amount":"5000000"}')
    assert got.status == 201
    made = got.json()
    key, topup = made["api_key"], made["topup"]
    assert topup["status"] == "open"
    assert topup["key_id"] == made["key_id"]
    got = await world.chat(world.body(), key=key)
    assert (got.status, got.error["code"]) == (402, "insufficient_balance")
    assert "payment-required" not in got.headers
    payment_hash = bytes.fromhex(topup["payment_hash"])
    invoice = world.payee.invoices[payment_hash]
    assert invoice.description == f"f402:1:topup:{made['key_id']}"
    assert invoice.amount == 5_000_000
    world.payee.pay(payment_hash)
    stored = await world.ledger.topup(payment_hash)
    for _ in range(3):
        assert await world.parts.topups.settle(stored)
    path = f"/v1/f402/topups/{topup['payment_hash']}"
    assert (await get(world, path, key)).json()["status"] == "paid"
    balance = (await get(world, "/v1/f402/balance", key)).json()
    assert (balance["balance"], balance["deposited"]) == ("5000000", "5000000")
    assert (await world.chat(world.body(), key=key)).status == 200
    other = await world.key(0)
    assert (await get(world, path, other)).status == 404
    assert (await get(world, "/v1/f402/topups/zz", key)).status == 400
    got = await world.request("POST", "/v1/f402/keys", b"")
    assert "topup" not in got.json()


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"amount":5000000}', b'{"amount":"0"}', b'{"amount":"1e9"}', b'{"amount":"-5"}',
     b'{"amount":"9999"}', b'{"amount":"99999999999999999"}', b'{"amount":null}', b"x"],
)  # fmt: skip
async def test_a_topup_has_a_sane_amount(world: Any, body: bytes) -> None:
    key = await world.key(BALANCE)
    got = await world.request("POST", "/v1/f402/topups", body, bearer(key))
    assert (got.status, got.error["code"]) == (400, "invalid_request")
    assert world.payee.calls == []


async def test_open_topups_and_new_keys_are_limited(make_world: Any) -> None:
    world = await make_world(limits={"topups_per_key": 2, "topups_per_minute": 4})
    key = await world.key(BALANCE)

    async def topup(address: str) -> Any:
        return await world.request(
            "POST", "/v1/f402/topups", b'{"amount":"50000"}', bearer(key), address=address
        )

    assert [(await topup("192.0.2.7")).status for _ in range(6)] == [201, 201, 429, 429, 429, 429]
    # Invoices last in the node's store, so those refused by rate were not minted.
    assert world.payee.calls.count("new_invoice") == 4
    got = [
        await world.request("POST", "/v1/f402/keys", b"{}", address="192.0.2.9") for _ in range(12)
    ]
    assert [answer.status for answer in got] == [201] * 10 + [429] * 2


async def test_receipts_come_in_order_page_by_page_and_verify(world: Any) -> None:
    key = await world.key(BALANCE)
    for _ in range(5):
        await world.chat(world.fresh_body(), key=key)
    seen: list[Any] = []
    after = ""
    for count in (2, 2, 1):
        page = (await get(world, f"/v1/f402/receipts?limit=2{after}", key)).json()
        assert len(page["data"]) == count
        seen += page["data"]
        after = f"&after={page['next']}"
    assert page["next"] is None
    assert [row["receipt"]["seq"] for row in seen] == list(range(5))
    previous = bytes(32)
    for row in seen:
        receipt = parse_receipt(row["signed"]).receipt
        assert receipt.prev_digest == previous
        previous = receipt.digest
    for limit in ("0", "101", "x", "-1", "0000000010000", "²"):
        assert (await get(world, f"/v1/f402/receipts?limit={limit}", key)).status == 400
    assert (await get(world, "/v1/f402/receipts")).status == 401
    assert (await get(world, "/v1/f402/receipts/req_none")).status == 404


async def test_nothing_else_is_here(world: Any) -> None:
    got = await get(world, "/v1/other")
    assert (got.status, got.error["code"]) == (404, "not_found")
    got = await world.request("DELETE", "/v1/f402/keys")
    assert (got.status, got.error["code"]) == (405, "method_not_allowed")
    got = await get(world, "/v1/chat/completions")
    assert (got.status, got.error["code"]) == (405, "method_not_allowed")
    assert (await get(world, "/health")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("script", "status"),
    [(Script(), 200), (Script(status=500), 503), (Script(before=Step.BREAK), 503)],
)
async def test_ready_means_the_model_server_answers(world: Any, script: Any, status: int) -> None:
    world.model.plan.append(script)
    assert (await get(world, "/ready")).status == status
    assert world.model.requests[0].path == "/models"


async def test_who_leaves_before_the_body_is_there_costs_nothing(world: Any) -> None:
    key = await world.key(BALANCE)
    from infern.testing.asgi import HttpClient, exchange, scope_of

    for path in ("/v1/chat/completions", "/v1/f402/topups"):
        client = HttpClient()
        client.leave.set()
        scope = scope_of("POST", path, list(bearer(key).items()))
        got = await exchange(world.app, scope, [], client=client)
        assert got.body == b""
    assert world.model.requests == []


async def test_a_bug_is_an_answer_too_and_releases_the_hold(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body()
    world.model.plan.append(Script(fails=RuntimeError("a bug")))  # type: ignore[arg-type] # a bug
    got = await world.chat(body, key=key)
    assert (got.status, got.error["code"]) == (500, "internal_error")
    assert b"a bug" not in got.body
    assert await world.open_holds() == 0
    assert await world.spent() == 0


async def test_books_that_do_not_balance_are_not_opened(make_world: Any) -> None:
    import sqlite3

    from infern.core.errors import InvariantViolation
    from infern.seller.app import open_books

    world = await make_world()
    await world.key(BALANCE)
    world.ledger.close()
    database = sqlite3.connect(world.path / "ledger.sqlite3")
    database.execute("UPDATE tabs SET deposited = deposited + 1")
    database.commit()
    with pytest.raises(InvariantViolation):
        await world.start()
    with pytest.raises(InvariantViolation):
        await open_books(world.parts)
    database.execute("UPDATE tabs SET deposited = deposited - 1")
    database.commit()
    database.close()


async def test_topup_states_are_told(world: Any) -> None:
    key = await world.key(0)
    got = await world.request("POST", "/v1/f402/topups", b'{"amount":"50000"}', bearer(key))
    payment_hash = bytes.fromhex(got.json()["payment_hash"])
    await world.ledger.end_topup(payment_hash, TopupState.EXPIRED, now_ms=1)
    path = f"/v1/f402/topups/{payment_hash.hex()}"
    assert loads_object((await get(world, path, key)).body)["status"] == "expired"


async def test_asking_about_a_topup_looks_at_its_payment(world: Any) -> None:
    """However many top-ups of others the watch has to see to first."""
    key = await world.key(0)
    got = await world.request("POST", "/v1/f402/topups", b'{"amount":"50000"}', bearer(key))
    path = f"/v1/f402/topups/{got.json()['payment_hash']}"
    assert (await get(world, path, key)).json()["status"] == "open"
    world.payee.is_down = True
    assert (await get(world, path, key)).json()["status"] == "open"
    world.payee.is_down = False
    world.payee.pay(bytes.fromhex(got.json()["payment_hash"]))
    for _ in range(2):
        assert (await get(world, path, key)).json()["status"] == "paid"
    assert (await world.tab(key)).balance == 50_000
