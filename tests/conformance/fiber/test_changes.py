"""Store changes: what is told, to whom, and that waiting never decides anything."""

import asyncio

import aiohttp
import pytest

from infern.core.errors import JsonValue
from infern.core.fiber import rpc
from infern.core.fiber.events import (
    InvoiceChanged,
    PaymentChanged,
    PreimageStored,
    StoreChange,
    notification_from_json,
)
from infern.core.fiber.types import InvoiceStatus, PaymentStatus
from infern.core.ids import PaymentHash

pytestmark = pytest.mark.timeout(120)

LONG_MS = 600_000


class Listener:
    """Collects the changes of one payment at one node."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.changes: list[StoreChange] = []
        self._task: asyncio.Task | None = None

    async def start(self) -> None:
        subscribed = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(subscribed))
        answer = await subscribed
        if "error" in answer:
            await self.stop()
            pytest.skip(f"the node offers no store changes: {answer['error']}")

    async def _run(self, subscribed: asyncio.Future) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url) as ws:
            call = {"jsonrpc": "2.0", "id": 1, "method": "subscribe_store_changes", "params": []}
            await ws.send_json(call)
            async for message in ws:
                value: JsonValue = message.json()
                change = notification_from_json(value)
                if change is not None:
                    self.changes.append(change)
                elif not subscribed.done():
                    subscribed.set_result(value)

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    def of(self, payment_hash: PaymentHash) -> list[StoreChange]:
        return [c for c in self.changes if getattr(c, "payment_hash", None) == payment_hash]

    def saw(self, kind: type, payment_hash: PaymentHash) -> bool:
        return any(isinstance(change, kind) for change in self.of(payment_hash))


@pytest.fixture
async def listeners(fiber_trio):
    made = {name: Listener(url) for name, url in fiber_trio.urls.items()}
    for listener in made.values():
        await listener.start()
    yield made
    for listener in made.values():
        await listener.stop()


async def test_everybody_on_the_way_learns_the_preimage(fiber_trio, listeners, wait_until) -> None:
    record, preimage = await fiber_trio.held()
    payment_hash = record.invoice.payment_hash
    assert not any(node.saw(PreimageStored, payment_hash) for node in listeners.values())
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_payment(payment_hash)
    for name in ("payer", "hub", "payee"):
        node = listeners[name]
        await wait_until(_soon(lambda n=node: n.saw(PreimageStored, payment_hash)), bool)
        learned = [c for c in node.of(payment_hash) if isinstance(c, PreimageStored)]
        assert {change.preimage for change in learned} == {preimage}


async def test_the_payee_is_told_of_its_invoice_and_the_payer_of_its_payment(
    fiber_trio, listeners, wait_until
) -> None:
    record, _ = await fiber_trio.invoice()
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    await fiber_trio.until_payment(payment_hash)
    await fiber_trio.until_invoice(record, InvoiceStatus.PAID)
    payee, payer = listeners["payee"], listeners["payer"]

    def told() -> bool:
        invoice = [c.status for c in payee.of(payment_hash) if isinstance(c, InvoiceChanged)]
        payment = [c.status for c in payer.of(payment_hash) if isinstance(c, PaymentChanged)]
        return InvoiceStatus.PAID in invoice and PaymentStatus.SUCCESS in payment

    await wait_until(_soon(told), bool)
    statuses = [c.status for c in payee.of(payment_hash) if isinstance(c, InvoiceChanged)]
    assert statuses[-2:] == [InvoiceStatus.RECEIVED, InvoiceStatus.PAID]
    assert not payer.saw(InvoiceChanged, payment_hash)
    assert not payee.saw(PaymentChanged, payment_hash)


async def test_the_client_wakes_up_when_the_money_is_held(fiber_trio, listeners) -> None:
    record, preimage = await fiber_trio.hold_invoice()
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payee.wait_change(PaymentHash(bytes(32)), timeout_ms=1)
    status = InvoiceStatus.OPEN
    await fiber_trio.payer.call(rpc.SendPayment(invoice=record.invoice_text))
    while status is not InvoiceStatus.RECEIVED:
        # Only events end these waits in time.
        await fiber_trio.payee.wait_change(payment_hash, timeout_ms=LONG_MS)
        call = rpc.GetInvoice(payment_hash=payment_hash)
        found = await fiber_trio.payee.call(call)
        status = found.status
    await fiber_trio.payee.call(rpc.SettleInvoice(payment_hash=payment_hash, preimage=preimage))
    await fiber_trio.until_payment(payment_hash)


async def test_a_wait_for_nothing_ends_by_time(fiber_trio) -> None:
    for _ in range(3):
        await fiber_trio.payer.wait_change(PaymentHash(bytes(32)), timeout_ms=5)


async def test_a_node_that_restarts_is_listened_to_again(fiber_trio, wait_until) -> None:
    world = fiber_trio.embedded()
    record, preimage = await fiber_trio.hold_invoice()
    payment_hash = record.invoice.payment_hash
    await fiber_trio.payee.wait_change(payment_hash, timeout_ms=1)
    waiting = asyncio.create_task(fiber_trio.payee.wait_change(payment_hash, timeout_ms=LONG_MS))
    world.network.faults.restart(world.provider, downtime_ms=50)
    # The subscription breaks; when it is back everybody looks.
    await waiting
    await wait_until(_soon(lambda: world.provider.online), bool)
    assert preimage


def _soon(look):
    async def ask():
        return look()

    return ask
