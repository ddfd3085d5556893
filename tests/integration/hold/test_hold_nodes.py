"""Nodes that restart, go away, lose a payment or go to the chain while a payment is held."""

from typing import Any

import anyio
import pytest

from infern.core.fiber import rpc
from infern.core.fiber.types import PaymentStatus
from infern.core.ledger.lock import LockState
from infern.devnet.fiber.engine import failure
from infern.devnet.fiber.states import TlcErrorCode
from infern.seller.locks import TLC_GONE_MS
from infern.testing.scripted_model import Script, Step, answer

pytestmark = pytest.mark.timeout(120)


class Answering:
    """A request being answered: paid, and waiting at the model server until it may go on."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.go_on = anyio.Event()
        self.answer: Any = None

    async def begin(self, group: Any, steps: Any = None) -> None:
        world = self.world
        world.model.plan.append(Script(before=self.go_on, steps=steps or [answer()]))
        self.offer, self.proof = await world.pay(body := world.body())
        group.start_soon(self._ask, body)
        await world.lock_is(self.offer, LockState.HELD)

    async def _ask(self, body: bytes) -> None:
        self.answer = await self.world.request(body, proof=self.proof)

    async def end(self, state: LockState) -> None:
        """Let the model server answer, and wait for the lock to come so far."""
        self.go_on.set()
        await self.world.lock_is(self.offer, state)


async def node_is(world: Any, name: str, *, online: bool) -> None:
    """Stop a node or start it, and wait until its wire says so."""
    node = world.nodes.network.nodes[name]
    (world.nodes.network.start_node if online else world.nodes.network.stop_node)(node)
    while True:
        try:
            await world.provider.call(rpc.GetNodeInfo(), timeout_ms=200)
        except Exception:  # noqa: BLE001 - whatever a node that is away looks like
            if name == "provider" and not online:
                return
        else:
            if name != "provider" or online:
                return
        await anyio.sleep(0.005)


@pytest.mark.parametrize("name", ["consumer", "hub", "provider"])
async def test_a_node_that_restarts_while_the_answer_is_made(world: Any, name: str) -> None:
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group)
        await node_is(world, name, online=False)
        await node_is(world, name, online=True)
        await answering.end(LockState.SETTLED)
    assert answering.answer.status == 200
    await world.is_taken(answering.offer)


@pytest.mark.parametrize(
    ("steps", "during", "after"),
    [
        ([answer()], LockState.SETTLING, LockState.SETTLED),
        ([Step.BREAK], LockState.CANCELLING, LockState.CANCELLED),
    ],
    ids=["settle", "cancel"],
)
async def test_abuse_16_a_node_that_is_away_when_its_lock_ends_does_it_when_it_is_back(
    world: Any, steps: Any, during: LockState, after: LockState
) -> None:
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group, steps)
        await node_is(world, "provider", online=False)
        await answering.end(during)
        await anyio.sleep(0.3)
        assert (await world.ledger.lock(answering.offer.challenge.payment_hash)).state is during
        await node_is(world, "provider", online=True)
    assert answering.answer.status == (200 if after is LockState.SETTLED else 502)
    ended = world.is_taken if after is LockState.SETTLED else world.is_given_back
    await ended(answering.offer)


async def test_a_seller_that_restarts_while_its_node_is_away_settles_later(world: Any) -> None:
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group)
        await node_is(world, "provider", online=False)
        await answering.end(LockState.SETTLING)
    await world.restart()
    await node_is(world, "provider", online=True)
    await world.is_taken(answering.offer)


async def test_a_link_that_is_cut_when_the_money_is_taken_heals(world: Any) -> None:
    hub, provider = world.nodes.hub, world.nodes.provider
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group)
        world.nodes.network.faults.drop_link(hub, provider)
        await answering.end(LockState.SETTLING)
    await world.pass_ms(2 * TLC_GONE_MS)
    await world.pass_ms(2 * TLC_GONE_MS)
    # The TLC is there, so nobody takes it for lost.
    await world.lock_is(answering.offer, LockState.SETTLING)
    world.nodes.network.faults.restore_link(hub, provider)
    await world.is_taken(answering.offer)


async def test_a_node_that_is_away_at_the_offer_leaves_no_lock(world: Any) -> None:
    await node_is(world, "provider", online=False)
    got = await world.request(world.body(), f402_mode="hold")
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert got.error["money"] == "unmoved"
    await node_is(world, "provider", online=True)
    assert await world.ledger.open_locks(limit=10) == []


async def test_a_node_that_is_away_at_the_proof_is_asked_again_with_the_same_proof(
    world: Any,
) -> None:
    offer, proof = await world.pay(body := world.body())
    await world.arrived(offer)
    await node_is(world, "provider", online=False)
    got = await world.request(body, proof=proof)
    assert (got.status, got.error["code"]) == (503, "fiber_unavailable")
    assert (got.error["money"], got.error["retry"]) == ("unknown", "same_credential")
    await node_is(world, "provider", online=True)
    assert (await world.request(body, proof=proof)).status == 200
    await world.is_taken(offer)


# What was held is gone.


async def lost(world: Any, answering: Answering) -> None:
    """The answer is the seller's loss: the payer has its money, and the books say so."""
    await world.lock_is(answering.offer, LockState.LOST)
    await world.payment_is(answering.offer, PaymentStatus.FAILED)
    assert answering.answer.status == 200
    sums = await world.sums()
    assert (sums.spent, sums.balance) == (0, 0)
    assert sums.returned == sums.received == answering.offer.challenge.amount
    again = await world.request(world.body(), proof=answering.proof)
    assert again.error["code"] == "request_mismatch"
    key = await world.key()
    assert (await world.redeem(answering.offer, key)).error["code"] == "payment_not_received"


async def test_a_payment_cancelled_by_hand_while_it_was_answered_is_lost(world: Any) -> None:
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group)
        payment_hash = answering.offer.challenge.payment_hash
        await world.provider.call(rpc.CancelInvoice(payment_hash=payment_hash))
        await answering.end(LockState.LOST)
    await lost(world, answering)
    assert payment_hash not in world.nodes.provider.preimages


async def test_a_tlc_the_node_gave_back_before_it_was_settled_is_lost(world: Any) -> None:
    """As fnn does 161 minutes before a TLC expires; the invoice stays `Received` for ever."""
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group)
        payment_hash = answering.offer.challenge.payment_hash
        invoice = world.nodes.provider.invoices[payment_hash]
        removal = failure(TlcErrorCode.EXPIRY_TOO_SOON, world.nodes.provider.pubkey)
        world.nodes.network.engine.remove(invoice.held, removal)
        await world.payment_is(answering.offer, PaymentStatus.FAILED)
        await answering.end(LockState.SETTLING)
    while True:
        lock = await world.ledger.lock(payment_hash)
        if lock.state is LockState.LOST:
            break
        await world.pass_ms(10_000)
        await anyio.sleep(0.02)
    await lost(world, answering)


async def test_a_channel_that_goes_to_the_chain_pays_there(world: Any) -> None:
    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group)
        world.close_channel()
        await answering.end(LockState.SETTLING)
    # The node has the preimage now and takes the TLC on chain; until then nothing is lost.
    await world.lock_is(answering.offer, LockState.SETTLED)
    sums = await world.sums()
    assert sums.spent > 0
    assert sums.returned == 0


async def test_a_payment_settled_by_hand_for_a_failed_answer_is_credit(world: Any) -> None:
    from infern.core.f402.challenge import derive_preimage

    async with anyio.create_task_group() as group:
        answering = Answering(world)
        await answering.begin(group, [Step.BREAK])
        c = answering.offer.challenge
        preimage = derive_preimage(b"\x0c" * 32, c.nonce)
        await world.provider.call(rpc.SettleInvoice(payment_hash=c.payment_hash, preimage=preimage))
        await world.payment_succeeds(answering.offer)
        await answering.end(LockState.SETTLED)
    assert answering.answer.status == 502
    key = await world.key()
    assert (await world.redeem(answering.offer, key)).json()["credited"] == str(c.amount)
