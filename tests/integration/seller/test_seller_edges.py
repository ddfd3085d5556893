"""A ledger that is slow, a client that stalls, bugs: what is said about the money stays true."""

import threading
from dataclasses import replace
from typing import Any

import anyio
import pytest

from infern.core.errors import InvariantViolation
from infern.core.f402.challenge import mint_token
from infern.core.f402.credential import proof_header
from infern.core.ids import RequestId
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.usage import Counted, UsageFlag, charge_usage
from infern.seller import settlement as settlement_module
from infern.seller.pricing import price_request
from infern.seller.settlement import Payer, Sale, Settlement
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Script, Step, chunk, streaming

BALANCE = 10_000_000


class SlowDisk:
    """Keeps the ledger's writer busy until it is opened."""

    def __init__(self, world: Any) -> None:
        self._gate = threading.Event()
        self._busy = threading.Event()
        world.ledger._engine.submit(self._wait)
        assert self._busy.wait(30)

    def _wait(self, _: Any) -> None:
        self._busy.set()
        self._gate.wait(30)

    def open(self) -> None:
        self._gate.set()


@pytest.mark.parametrize("stream", [False, True])
async def test_abuse_15_an_answer_is_given_although_the_ledger_does_not_say_that_it_is_charged(
    world: Any, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge cannot be called back; it is booked once, and until then there is no receipt."""
    monkeypatch.setattr(settlement_module, "END_TIMEOUT_S", 0.05)
    key = await world.key(BALANCE)
    body = world.body(stream=stream)
    gate = anyio.Event()
    from infern.testing import scripted_model

    kind = "text/event-stream" if stream else "application/json"
    steps = scripted_model.stream() if stream else [scripted_model.answer()]
    world.model.plan.append(Script(before=gate, steps=steps, content_type=kind))
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(body, key=key))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not world.model.requests:
            await anyio.sleep(0.001)
        disk = SlowDisk(world)
        gate.set()
    if stream:
        assert got[0].body.endswith(b"data: [DONE]\n\n")
        assert b"f402-receipt" not in got[0].body
    else:
        assert got[0].json()["f402"]["charged"] == str(world.cost(7, 5))
        assert not {"f402-receipt", "f402-cost", "f402-balance"} & set(got[0].headers)
    assert len(world.parts.endings) == 1
    disk.open()
    await world.parts.endings.try_all()
    assert len(world.parts.endings) == 0
    assert await world.spent() == world.cost(7, 5)
    receipt = await world.stored_receipt(got[0])
    assert receipt.charged == world.cost(7, 5)


async def test_a_release_that_takes_too_long_is_made_later(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement_module, "END_TIMEOUT_S", 0.05)
    key = await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(Script(before=gate, status=500))
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(world.body(), key=key))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not world.model.requests:
            await anyio.sleep(0.001)
        disk = SlowDisk(world)
        gate.set()
    assert got[0].error["code"] == "provider_failed"
    assert len(world.parts.endings) == 1
    disk.open()
    await world.parts.endings.try_all()
    assert await world.open_holds() == 0


async def test_a_caller_cancelled_while_its_hold_is_booked_leaves_no_hold(world: Any) -> None:
    key = await world.key(BALANCE)
    body = world.body()
    await world.chat(body, key=key)
    spent = await world.spent()
    disk = SlowDisk(world)
    with anyio.move_on_after(0.05):
        # The key is known, so all this waits for is the hold; freed when the block ends.
        threading.Timer(0.1, disk.open).start()
        await world.chat(body, key=key)
    assert await world.open_holds() == 0
    assert await world.spent() == spent


@pytest.mark.parametrize("stall_after", [0, 1])
async def test_a_client_that_stalls_at_a_keepalive_is_given_up_and_its_model_run_too(
    make_world: Any, stall_after: int
) -> None:
    world = await make_world(limits={"keepalive_ms": 10, "stall_timeout_ms": 30})
    body = world.body(stream=True)
    proof = await world.proof(body)
    world.model.plan.append(Script(before=Step.HANG))
    client = HttpClient(stall_after=stall_after)
    got = await world.chat(body, proof=proof, client=client)
    assert not got.is_complete
    assert await world.spent() == 0
    assert (await world.chat(body, proof=proof)).status == 200


async def test_a_reply_that_arrives_for_nobody_is_given_up(make_world: Any) -> None:
    """The headers come while the keepalive to a stalled client waits."""
    world = await make_world(limits={"keepalive_ms": 10, "stall_timeout_ms": 60})
    key = await world.key(BALANCE)
    gate = anyio.Event()
    world.model.plan.append(
        Script(before=gate, steps=[Step.HANG], content_type="text/event-stream")
    )
    client = HttpClient(stall_after=1)

    async def open_the_gate() -> None:
        await client.has_pieces(1)
        await anyio.sleep(0.02)
        gate.set()

    async with anyio.create_task_group() as group:
        group.start_soon(open_the_gate)
        await world.chat(world.body(stream=True), key=key, client=client)
    assert world.model.running == 0
    assert await world.spent() == 0


@pytest.mark.parametrize("paying", ["nothing", "a bad proof"])
async def test_a_client_that_stalls_at_an_error_is_given_up(make_world: Any, paying: str) -> None:
    world = await make_world(limits={"stall_timeout_ms": 20})
    body = world.body()
    headers = {}
    if paying != "nothing":
        headers["proof"] = await world.proof(world.body("other"))
    got = await world.chat(body, client=HttpClient(stall_after=0), **headers)
    assert (got.status, got.is_complete) == (402, False)
    await world.chat(b"x", client=HttpClient(stall_after=0))


async def test_a_plain_answer_to_a_client_that_stalls_was_charged_and_has_a_receipt(
    make_world: Any,
) -> None:
    """Its bytes were handed over; the client's next try gets them, or the receipt."""
    world = await make_world(limits={"stall_timeout_ms": 20})
    body = world.body()
    proof = await world.proof(body)
    got = await world.chat(body, proof=proof, client=HttpClient(stall_after=0))
    assert not got.is_complete
    assert await world.spent() == world.cost(7, 5)
    await world.quiet()
    again = await world.chat(body, proof=proof)
    assert world.plain_receipt(again, body).charged == await world.spent()
    world.reassemble()
    late = await world.chat(body, proof=proof)
    assert late.error["f402"]["receipt"] == again.headers["f402-receipt"]


async def test_a_stalled_end_of_a_broken_stream_changes_no_booking(make_world: Any) -> None:
    world = await make_world(limits={"stall_timeout_ms": 20})
    key = await world.key(BALANCE)
    world.model.plan.append(streaming([chunk("one"), Step.BREAK]))
    got = await world.chat(world.body(stream=True), key=key, client=HttpClient(stall_after=1))
    assert not got.is_complete
    receipt = await world.stored_receipt(got)
    assert receipt.charged == await world.spent() > 0


async def test_a_token_without_terms_buys_nothing(world: Any) -> None:
    body = world.body()
    offer = await world.paid(body)
    token = mint_token(replace(offer.challenge, terms=None), kid="k1", key=b"\x0b" * 32)
    got = await world.chat(body, proof=proof_header(replace(offer, token=token), preimage=None))
    assert (got.status, got.error["code"]) == (402, "invalid_challenge")
    assert (await world.ledger.books()).tabs == ()


async def test_a_bug_in_a_side_endpoint_is_a_500_and_is_told_the_server(world: Any) -> None:
    key = await world.key(BALANCE)
    client = HttpClient()

    async def broken(_: Any) -> Any:
        raise KeyError("a bug")

    real, world.ledger.tab = world.ledger.tab, broken
    with pytest.raises(KeyError):
        await world.request(
            "GET", "/v1/f402/balance", b"", {"authorization": f"Bearer {key}"}, client=client
        )
    world.ledger.tab = real
    got = client.answer()
    assert (got.status, got.error["code"]) == (500, "internal_error")
    assert b"a bug" not in got.body


async def test_a_broken_invariant_is_never_swallowed(world: Any) -> None:
    key = await world.key(BALANCE)

    async def broken(_: Any) -> Any:
        raise InvariantViolation("the books")

    real, world.ledger.hold = world.ledger.hold, broken
    with pytest.raises(InvariantViolation):
        await world.chat(world.body(), key=key)
    world.ledger.hold = real


async def test_messages_of_the_server_beside_the_body_are_ignored(world: Any) -> None:
    key = await world.key(BALANCE)
    client = HttpClient()
    body = world.body()
    client.incoming = []
    got = await world.request(
        "POST", "/v1/chat/completions", [body, b""], {"authorization": f"Bearer {key}"},
        client=client,
    )  # fmt: skip
    assert world.plain_receipt(got, body).charged == world.cost(7, 5)


async def test_what_waits_for_the_ledger_gets_a_last_chance_at_the_end(world: Any) -> None:
    booked: list[str] = []

    async def book() -> None:
        booked.append("hold")

    async with world.app._lifespan(None):
        world.parts.endings.add("hold", book)
    assert booked == ["hold"]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_deadline_comes_between_a_charge_and_its_delivery(
    make_world: Any, stream: bool
) -> None:
    """The time for the whole answer ends while the ledger books it."""
    from infern.testing import scripted_model

    world = await make_world(limits={"total_timeout_ms": 500})
    key = await world.key(BALANCE)
    body = world.body(stream=stream)
    gate = anyio.Event()
    kind = "text/event-stream" if stream else "application/json"
    steps = scripted_model.stream() if stream else [scripted_model.answer()]
    world.model.plan.append(Script(before=gate, steps=steps, content_type=kind))
    got: list[Any] = []

    async def ask() -> None:
        got.append(await world.chat(body, key=key))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not world.model.requests:
            await anyio.sleep(0.001)
        disk = SlowDisk(world)
        threading.Timer(0.7, disk.open).start()
        gate.set()
    receipt = (world.stream_receipt if stream else world.plain_receipt)(got[0], body)
    assert receipt.charged == await world.spent() == world.cost(7, 5)


async def test_a_charge_is_never_above_what_was_held(world: Any) -> None:
    """The last of several bounds; the others are in what usage is believed."""
    body = world.body()
    offer = await world.offer(body)
    order = price_request(world.parts.backend, Endpoint.CHAT_COMPLETIONS, body)
    sale = Sale(
        listing=order.listing,
        payer=Payer(key=None, challenge=offer.challenge),
        terms=order.terms,
        digest=offer.challenge.digest,
        request_id=RequestId("req_1"),
    )
    settlement = Settlement(
        ledger=world.ledger,
        clock=world.clock,
        entropy=world.parts.entropy,
        agent=world.agent,
        endings=world.parts.endings,
        leases=world.parts.leases,
        locks=world.parts.locks,
        sale=sale,
    )
    counted = Counted(
        deltas=1, content_bytes=9, is_delivered=True, is_complete=True,
        unseen_tokens_max=None, prompt_tokens_estimate=1,
    )  # fmt: skip
    usage = charge_usage(None, counted, order.bound)
    for flags, prompt, charged in (
        (frozenset(), 10**9, settlement.ceiling),
        (frozenset({UsageFlag.NOTHING_DELIVERED}), 10**9, 0),
    ):
        assert settlement.cost(replace(usage, prompt_tokens=prompt, flags=flags)) == charged
    with pytest.raises(InvariantViolation):
        Payer(key=None, challenge=None)


@pytest.mark.parametrize("stream", [False, True])
async def test_abuse_20_who_leaves_while_the_charge_is_booked_is_charged_once_and_may_return(
    world: Any, stream: bool
) -> None:
    from infern.testing import scripted_model

    body = world.body(stream=stream)
    proof = await world.proof(body)
    gate = anyio.Event()
    kind = "text/event-stream" if stream else "application/json"
    steps = scripted_model.stream() if stream else [scripted_model.answer()]
    world.model.plan.append(Script(before=gate, steps=steps, content_type=kind))
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.chat(body, proof=proof, client=client))
        while not world.model.requests:
            await anyio.sleep(0.001)
        disk = SlowDisk(world)
        gate.set()
        while world.ledger._engine._queue.empty():
            await anyio.sleep(0.001)
        client.leave.set()
        await anyio.sleep(0.01)
        disk.open()
    assert not client.is_complete
    await world.quiet()
    assert await world.spent() == world.cost(7, 5)
    again = await world.chat(body, proof=proof)
    check = world.stream_receipt if stream else world.plain_receipt
    assert check(again, body).charged == await world.spent() == world.cost(7, 5)
    assert len(world.model.requests) == 1
