"""Hold mode when something goes wrong: the payer has its money back, and nothing was charged."""

from typing import Any

import anyio
import pytest

from infern.adapters.system import SystemEntropy
from infern.core.errors import LedgerError, UpstreamUnavailable
from infern.core.f402.offer import WORST_LOCK_S
from infern.core.fiber import rpc
from infern.core.fiber.errors import payment_failure
from infern.core.fiber.types import InvoiceStatus, PaymentStatus
from infern.core.ids import HoldId, RequestId, TabId
from infern.core.ledger.hold import Hold, HoldState
from infern.core.ledger.lock import LockState
from infern.seller.settlement import paid_request
from infern.testing.asgi import HttpClient
from infern.testing.scripted_model import Script, Step, answer, chunk, stream, streaming

pytestmark = pytest.mark.timeout(120)

FAILURES = {
    "no connection": Script(fails=UpstreamUnavailable("away (scripted)")),
    "an error": Script(status=500, steps=[b"{}"]),
    "nonsense": Script(steps=[b"not json"]),
    "broken off": Script(steps=[answer()[:10], Step.BREAK]),
}


async def over(world: Any, body: bytes, proof: str) -> None:
    """The proof of a payment that went back buys nothing, and no invoice comes with the refusal."""
    got = await world.request(body, proof=proof)
    assert (got.status, got.error["code"]) == (402, "payment_not_received")
    assert (got.error["money"], got.error["retry"]) == ("unmoved", "new_challenge")
    assert "payment-required" not in got.headers
    key = await world.key()
    assert (await world.sums()).spent == 0
    assert (await world.tab(key)).deposited == 0


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_model_server_that_fails_gives_the_payment_back(world: Any, failure: str) -> None:
    world.model.plan.append(FAILURES[failure])
    offer, proof = await world.pay(body := world.body())
    got = await world.request(body, proof=proof)
    assert got.status == 502
    # The same proof is good for nothing now, so nobody is told to send it again.
    assert (got.error["money"], got.error["retry"]) == ("unmoved", "new_challenge")
    assert got.headers["x-should-retry"] == "false"
    await world.is_given_back(offer)
    await over(world, body, proof)
    failed = await world.consumer.call(rpc.GetPayment(payment_hash=offer.challenge.payment_hash))
    assert payment_failure(failed).money == "unmoved"


@pytest.mark.parametrize(
    "steps", [[Step.BREAK], [chunk(delta={"role": "assistant"}), Step.BREAK]], ids=["head", "role"]
)
async def test_a_stream_that_breaks_off_before_any_text_gives_the_payment_back(
    world: Any, steps: Any
) -> None:
    world.model.plan.append(streaming(steps))
    offer, proof = await world.pay(body := world.body(stream=True))
    got = await world.request(body, proof=proof)
    assert b'"money":"unmoved"' in got.body
    assert b'"retry":"new_challenge"' in got.body
    await world.is_given_back(offer)
    await over(world, body, proof)


async def test_a_stream_that_breaks_off_after_some_text_is_taken_for_what_was_sent(
    world: Any,
) -> None:
    world.model.plan.append(streaming([*stream()[:3], Step.BREAK]))
    offer, proof = await world.pay(body := world.body(stream=True))
    got = await world.request(body, proof=proof)
    assert b"stream_interrupted" in got.body
    await world.is_taken(offer)
    sums = await world.sums()
    assert 0 < sums.spent < offer.challenge.amount
    key = await world.key()
    assert (await world.redeem(offer, key)).json()["credited"] == str(
        offer.challenge.amount - sums.spent
    )


async def ask_until(world: Any, body: bytes, proof: str, pieces: int) -> Any:
    """A client that leaves after so many pieces; None at once, when the model was asked."""
    client = HttpClient()
    asked = len(world.model.requests)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.request(body, client=client, proof=proof))
        while len(world.model.requests) == asked:
            await anyio.sleep(0.001)
        await client.has_pieces(pieces)
        client.leave.set()
    return client.answer()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token_has_its_money_back(
    world: Any, is_stream: bool
) -> None:
    kind = "text/event-stream" if is_stream else "application/json"
    world.model.plan.append(Script(steps=[Step.HANG], content_type=kind))
    offer, proof = await world.pay(body := world.body(stream=is_stream))
    await ask_until(world, body, proof, 0)
    await world.is_given_back(offer)
    await over(world, body, proof)


async def test_a_client_that_leaves_after_the_first_token_pays_for_what_it_had(world: Any) -> None:
    world.model.plan.append(streaming([*stream()[:3], Step.HANG]))
    offer, proof = await world.pay(body := world.body(stream=True))
    await ask_until(world, body, proof, 3)
    await world.is_taken(offer)
    sums = await world.sums()
    assert 0 < sums.spent < offer.challenge.amount
    again = await world.request(body, proof=proof)
    assert again.error["code"] == "already_delivered"
    assert again.error["f402"]["charged"] == str(sums.spent)


class Slow:
    """The ledger, whose capture waits until the test says."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.reached, self.go_on = anyio.Event(), anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def capture(self, *args: Any, **kwargs: Any) -> Any:
        self.reached.set()
        await self.go_on.wait()
        return await self._ledger.capture(*args, **kwargs)


async def test_a_client_that_leaves_between_charge_and_answer_has_its_money_back(
    make_world: Any,
) -> None:
    """The charge is booked before a plain answer goes out; who is gone by then got nothing."""
    world = await make_world(wrap_ledger=Slow)
    offer, proof = await world.pay(body := world.body())
    client = HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: world.request(body, client=client, proof=proof))
        await world.parts.ledger.reached.wait()
        client.leave.set()
        await anyio.wait_all_tasks_blocked()
        world.parts.ledger.go_on.set()
    assert client.status == 0
    await world.is_given_back(offer)
    assert (await world.sums()).spent == 0
    lock = await world.ledger.lock(offer.challenge.payment_hash)
    assert await world.hold_state(lock.hold_id) is HoldState.VOIDED
    world.parts.ledger.go_on.set()
    await over(world, body, proof)


class Failing:
    """The ledger, failing where a test says."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.failures: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.failures.get(name, 0) > 0:
                self.failures[name] -= 1
                raise LedgerError("away (scripted)")
            return await method(*args, **kwargs)

        return call


async def test_a_charge_that_cannot_be_booked_gives_the_payment_back(make_world: Any) -> None:
    world = await make_world(wrap_ledger=Failing)
    offer, proof = await world.pay(body := world.body())
    world.parts.ledger.failures["capture"] = 3
    got = await world.request(body, proof=proof)
    assert (got.status, got.error["code"]) == (503, "ledger_unavailable")
    assert (got.error["money"], got.error["retry"]) == ("unmoved", "new_challenge")
    await world.is_given_back(offer)


class Mute:
    """The ledger, which books a capture and never says so."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def capture(self, *args: Any, **kwargs: Any) -> Any:
        await self._ledger.capture(*args, **kwargs)
        await anyio.sleep_forever()


async def test_a_charge_nobody_heard_of_is_undone_when_its_answer_was_not_sent(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infern.seller.settlement.END_TIMEOUT_S", 0.2)
    world = await make_world(wrap_ledger=Mute)
    offer, proof = await world.pay(body := world.body())
    got = await world.request(body, proof=proof)
    assert (got.error["code"], got.error["money"]) == ("ledger_unavailable", "unknown")
    await world.is_given_back(offer)
    assert (await world.sums()).spent == 0


@pytest.mark.parametrize("failing", ["capture", "move_lock"])
async def test_a_delivered_stream_is_taken_when_the_ledger_is_back(
    make_world: Any, failing: str
) -> None:
    world = await make_world(wrap_ledger=Failing)
    offer, proof = await world.pay(body := world.body(stream=True))
    world.parts.ledger.failures[failing] = 4 if failing == "capture" else 2
    got = await world.request(body, proof=proof)
    assert got.is_complete
    await world.is_taken(offer)
    assert await world.ledger.receipt(RequestId(got.headers["x-request-id"])) is not None


async def test_a_release_that_cannot_be_booked_is_booked_later_and_gives_the_payment_back(
    make_world: Any,
) -> None:
    world = await make_world(wrap_ledger=Failing)
    world.model.plan.append(FAILURES["an error"])
    offer, proof = await world.pay(body := world.body())
    world.parts.ledger.failures["release"] = 2
    assert (await world.request(body, proof=proof)).status == 502
    await world.is_given_back(offer)


# Nobody comes.


async def test_abuse_33_a_payment_nobody_claims_is_given_back_after_half_a_minute(
    world: Any,
) -> None:
    offer, proof = await world.pay(body := world.body())
    await world.arrived(offer)
    await world.pass_ms(10_000)
    await world.lock_is(offer, LockState.OFFERED)
    await world.pass_ms(31_000)
    await world.is_given_back(offer)
    await over(world, body, proof)


async def test_abuse_34_a_seller_that_vanishes_with_a_payment_cannot_keep_it_for_ever(
    world: Any,
) -> None:
    """Nobody can hurry it, but Fiber's own time ends it: two weeks at worst."""
    offer, proof = await world.pay(body := world.body())
    await world.arrived(offer)
    world.kill()
    world.nodes.network.clock.advance_ms(3 * 3_600_000)
    await world.invoice_is(offer.challenge.payment_hash, InvoiceStatus.RECEIVED)
    world.nodes.network.clock.advance_ms(WORST_LOCK_S * 1000)
    await world.payment_is(offer, PaymentStatus.FAILED)
    # Its node says `Received` still; a seller that comes back does not work for that, not even on
    # the same day, when its token would open.
    await world.invoice_is(offer.challenge.payment_hash, InvoiceStatus.RECEIVED)
    world.clock.shift_ms += 20 * 3_600_000
    await world.start()
    await over(world, body, proof)
    await world.pass_ms(1_000)
    await world.is_given_back(offer)


async def test_a_lock_of_a_process_that_is_gone_is_given_back_when_its_lease_ends(
    world: Any,
) -> None:
    offer, proof = await world.pay(body := world.body())
    await world.arrived(offer)
    now_ms = world.clock.now_ms()
    hold = Hold(
        hold_id=HoldId("hold_of_another"),
        tab_id=TabId(""),
        amount=offer.challenge.amount,
        digest=offer.challenge.digest,
        payment_hash=offer.challenge.payment_hash,
        owner="another process",
        lease_until_ms=now_ms + 1_000,
        opened_ms=now_ms,
    )
    await world.ledger.claim(paid_request(offer.challenge, SystemEntropy()), hold)
    await world.pass_ms(1_500)
    await world.lock_is(offer, LockState.HELD)
    await world.parts.leases.look()
    await world.is_given_back(offer)
    await over(world, body, proof)


async def test_an_offer_nobody_pays_ends_and_takes_no_payment_any_more(world: Any) -> None:
    offer = await world.offer(world.body())
    await world.pass_ms(115_000)
    await world.lock_is(offer, LockState.OFFERED)
    await world.pass_ms(10_000)
    await world.is_given_back_unpaid(offer)
    assert await world.ledger.open_locks(limit=10) == []
    late = await world.offer(world.body())
    await world.provider.call(rpc.CancelInvoice(payment_hash=late.challenge.payment_hash))
    await world.send(late)
    await world.payment_is(late, PaymentStatus.FAILED)
    await world.pass_ms(5_000)


async def test_a_lock_outlives_the_expiry_of_its_invoice(world: Any) -> None:
    begin = anyio.Event()
    world.model.plan.append(Script(before=begin, steps=[answer()]))
    offer, proof = await world.pay(body := world.body())
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await world.request(body, proof=proof))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await world.lock_is(offer, LockState.HELD)
        await world.pass_ms(300_000)
        await world.invoice_is(offer.challenge.payment_hash, InvoiceStatus.RECEIVED)
        await world.lock_is(offer, LockState.HELD)
        begin.set()
    assert answers[0].status == 200
    await world.is_taken(offer)


async def test_a_seller_that_stops_gives_back_what_nobody_claimed(world: Any) -> None:
    paid, _ = await world.pay(world.body())
    await world.arrived(paid)
    unpaid = await world.offer(world.body())
    delivered, proof = await world.pay(body := world.body())
    assert (await world.request(body, proof=proof)).status == 200
    await world.parts.locks.drain()
    assert await world.ledger.open_locks(limit=10) == []
    await world.is_given_back(paid)
    await world.is_given_back_unpaid(unpaid)
    await world.is_taken(delivered)
