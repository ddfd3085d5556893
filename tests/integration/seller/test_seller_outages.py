"""Ledgers and nodes that are away, and crashes: nothing is lost, nothing is free."""

from typing import Any

import anyio
import pytest

from infern.core.errors import LedgerError
from infern.core.f402.credential import proof_header
from infern.testing.scripted_model import Script, Step, streaming

BALANCE = 10_000_000
KEYS = {"k1": b"\x0b" * 32}


async def test_abuse_14_a_crash_between_claim_and_capture_releases_and_the_proof_runs_again(
    make_world: Any,
) -> None:
    """The process dies: its task never ends the hold, a new one opens the same file."""
    world = await make_world()
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    proof = await world.proof(body)
    world.model.plan += [streaming([Step.HANG]), streaming([Step.HANG])]
    books = world.parts.ledger

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, proof=proof))
        group.start_soon(lambda: world.chat(body, key=key))
        while len(world.model.replies) < 2:
            await anyio.sleep(0.001)
        assert len((await books.books()).holds) == 2
        # What a killed process leaves: the file as it is, and nobody who could end the holds.
        world.ledger.close()
        group.cancel_scope.cancel()
    await world.start()
    assert await world.open_holds() == 0
    assert await world.spent() == 0
    assert (await world.tab(key)).balance == BALANCE
    got = await world.chat(body, proof=proof)
    assert world.stream_receipt(got, body).charged == world.cost(7, 5)


async def test_abuse_15_a_closed_ledger_fails_closed_and_consumes_nothing(world: Any) -> None:
    body = world.body()
    key = await world.key(BALANCE)
    proof = await world.proof(body)
    assert (await world.chat(world.fresh_body(), key=key)).status == 200
    spent = await world.spent()
    world.ledger.close()
    for paying in ({"proof": proof}, {"key": key}, {"proof": proof, "key": key}):
        got = await world.chat(body, **paying)
        assert (got.status, got.error["code"]) == (503, "ledger_unavailable")
        assert got.error["money"] == "unmoved"
    bearer = {"authorization": f"Bearer {key}"}
    for method, path, sent in (
        ("GET", "/v1/f402/balance", b""),
        ("POST", "/v1/f402/topups", b'{"amount":"50000"}'),
        ("POST", "/v1/f402/keys", b"{}"),
    ):
        got = await world.request(method, path, sent, bearer)
        assert (got.status, got.error["code"]) == (503, "ledger_unavailable")
    assert len(world.model.requests) == 1
    await world.start()
    assert await world.spent() == spent
    assert (await world.chat(body, proof=proof)).status == 200


class FlakyLedger:
    """The ledger, failing where a test says."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.failures: dict[str, int] = {}
        self.error: Any = LedgerError("away (scripted)")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.failures.get(name, 0) > 0:
                self.failures[name] -= 1
                raise self.error
            return await method(*args, **kwargs)

        return call


@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_abuse_15_a_charge_that_cannot_be_booked_delivers_no_plain_answer(
    make_world: Any, payer: str
) -> None:
    world = await make_world(wrap=FlakyLedger)
    body = world.body()
    key = await world.key(BALANCE)
    paying = {"key": key} if payer == "key" else {"proof": await world.proof(body)}
    world.parts.ledger.failures["capture"] = 3
    got = await world.chat(body, **paying)
    assert (got.status, got.error["code"]) == (503, "ledger_unavailable")
    assert got.error["money"] == "unmoved"
    assert b"Hello" not in got.body
    assert await world.spent() == 0
    assert await world.open_holds() == 0
    world.parts.ledger.failures["capture"] = 2
    assert world.plain_receipt(await world.chat(body, **paying), body).charged == world.cost(7, 5)
    assert await world.spent() == world.cost(7, 5)


@pytest.mark.parametrize("payer", ["key", "proof"])
async def test_abuse_15_a_delivered_stream_is_charged_when_the_ledger_is_back(
    make_world: Any, payer: str
) -> None:
    world = await make_world(wrap=FlakyLedger)
    body = world.body(stream=True)
    key = await world.key(BALANCE)
    paying = {"key": key} if payer == "key" else {"proof": await world.proof(body)}
    world.parts.ledger.failures["capture"] = 4
    got = await world.chat(body, **paying)
    assert got.is_complete
    assert b"f402-receipt" not in got.body
    assert got.body.endswith(b"data: [DONE]\n\n")
    assert await world.open_holds() == 1
    if payer == "proof":
        repeated = await world.chat(body, **paying)
        assert (repeated.status, repeated.body) == (200, got.body)
        endings = world.parts.endings
        world.reassemble()  # another process has no answer to give, and the charge is not booked
        world.parts.ledger.failures["capture"] = 1
        repeated = await world.chat(body, **paying)
        assert repeated.error["code"] == "request_in_progress"
    else:
        endings = world.parts.endings
    await endings.try_all()
    assert len(endings) == 1
    await endings.try_all()
    assert len(endings) == 0
    assert await world.spent() == world.cost(7, 5)
    receipt = await world.stored_receipt(got)
    assert receipt.charged == world.cost(7, 5)
    if payer == "proof":
        repeated = await world.chat(body, **paying)
        assert repeated.error["code"] == "already_delivered"


async def test_a_release_that_cannot_be_booked_is_booked_later(make_world: Any) -> None:
    world = await make_world(wrap=FlakyLedger)
    body = world.body()
    key = await world.key(BALANCE)
    proof = await world.proof(body)
    world.model.plan += [Script(status=500), Script(status=500)]
    world.parts.ledger.failures["release"] = 3
    for paying in ({"key": key}, {"proof": proof}):
        got = await world.chat(body, **paying)
        assert (got.status, got.error["code"]) == (502, "provider_failed")
    assert await world.open_holds() == 2
    await world.parts.endings.try_all()
    assert await world.open_holds() == 2
    await world.parts.endings.try_all()
    assert await world.open_holds() == 0
    assert (await world.chat(body, proof=proof)).status == 200


async def test_abuse_16_a_node_that_is_down_moves_nothing(world: Any) -> None:
    body = world.body()
    key = await world.key(BALANCE)
    offer = await world.paid(body)
    proof = proof_header(offer, preimage=None)
    world.payee.is_down = True
    got = await world.chat(world.fresh_body())
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert (got.error["money"], got.headers["retry-after"]) == ("unmoved", "5")
    assert "payment-required" not in got.headers
    got = await world.chat(body, proof=proof)
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert "payment-required" not in got.headers
    bearer = {"authorization": f"Bearer {key}"}
    got = await world.request("POST", "/v1/f402/topups", b'{"amount":"50000"}', bearer)
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert (await world.chat(world.fresh_body(), key=key)).status == 200
    preimage = world.preimage_of(offer)
    got = await world.chat(body, proof=proof_header(offer, preimage=preimage))
    assert got.status == 200
