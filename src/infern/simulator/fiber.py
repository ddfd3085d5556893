"""The embedded Fiber network on the run's clock, and the Fiber client with a faulty wire.

Nothing is short-cut: a call is the adapter's JSON-RPC in bytes, answered by the embedded node, and
read by the adapter. Only the carrying is ours: latency, calls that never arrive, answers that are
lost after the node did what it was told, refused connections while a node is down.
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from infern.adapters.fiber_rpc import FiberRpcClient, Trip
from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.events import NOTIFICATION_METHOD, OtherChange, notification_from_json
from infern.core.units import SHANNON_PER_CKB
from infern.devnet.fiber import Caller, Network, NetworkSettings, Node, NodeRpc, WallClock
from infern.devnet.fiber.node import Event
from infern.simulator.process import Process
from infern.simulator.world import EPOCH_MS, World

T = TypeVar("T")
RESERVE_SHANNON: Final = 99 * SHANNON_PER_CKB
MAX_UNSEEN: Final = 1_000
HUB: Final = "hub"


def build_network(world: World) -> Network:
    """An empty network in the run's time."""
    clock = WallClock(lambda: (EPOCH_MS * 1_000 + world.now_us) * 1_000)
    clock.start()
    return Network(
        seed=world.seed.encode(),
        clock=clock,
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(),
    )


class VirtualFiberClient(FiberRpcClient):
    """The adapter to one embedded node, for one process.

    Args:
        process: Who calls.
        node: Whom.
    """

    def __init__(self, process: Process, node: Node) -> None:
        super().__init__("http://127.0.0.1:8227")
        self._process = process
        self._node = node
        self._rpc = NodeRpc(node)
        self._dice = process.world.dice(f"fiber {process.name}")
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._unseen: OrderedDict[bytes, None] = OrderedDict()
        self._sink = self._heard
        process.at_death(self._unsubscribe)

    async def post(self, call: RpcCall[T], body: bytes, trip: Trip, timeout_s: float) -> bytes:
        """Carry a request to the node and its answer back, or not."""
        world, process = self._process.world, self._process
        answer: asyncio.Future[bytes] = process.future()
        world.loop.call_at_us(
            world.now_us + self._latency_us(), partial(self._arrive, call.method, body, answer)
        )
        async with asyncio.timeout(timeout_s):
            await process.sleep_us(self._latency_us())
            if not self._node.online:
                raise ConnectionRefusedError("the node is down")
            trip.connected = True
            return await process.wait(answer)

    def _arrive(self, method: str, body: bytes, answer: asyncio.Future[bytes]) -> None:
        """The request is at the node; whoever sent it may be dead by now."""
        world = self._process.world
        weather = world.weather
        if self._dice.random() < weather.rpc_lost:
            world.note(self._process.name, "rpc.lost", method)
            return
        if not self._node.online:
            return
        text = self._rpc.answer_text(body, Caller()).encode()
        if self._dice.random() < weather.rpc_unheard:
            world.note(self._process.name, "rpc.unheard", method)
            world.note(self._process.name, f"rpc.unheard.{method}")
            return
        delay_us = self._latency_us()
        if self._dice.random() < weather.rpc_slow:
            world.note(self._process.name, "rpc.slow", method)
            delay_us += self._dice.randrange(12_000_000)
        due_us = world.now_us + delay_us
        world.loop.call_at_us(due_us, partial(_answer, answer, text))

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Wait for the node's event or the time, like the adapter's subscription."""
        self._subscribe()
        if payment_hash in self._unseen:
            del self._unseen[payment_hash]
            await self._process.sleep_us(0)
            return
        woken: asyncio.Future[None] = self._process.future()
        self._waiters.setdefault(payment_hash, []).append(woken)
        timer = self._process.later(timeout_ms * 1_000, partial(_answer, woken, None))
        try:
            await self._process.wait(woken)
        finally:
            timer.cancel()
            waiters = self._waiters.get(payment_hash, [])
            if woken in waiters:
                waiters.remove(woken)

    def _subscribe(self) -> None:
        # A node that restarts forgets its subscribers.
        if self._node.online and self._sink not in self._node.sinks:
            self._node.sinks.append(self._sink)

    def _unsubscribe(self) -> None:
        with suppress(ValueError):
            self._node.sinks.remove(self._sink)

    def _heard(self, event: Event) -> None:
        world = self._process.world
        if not self._process.alive:
            return
        if self._dice.random() < world.weather.event_lost:
            world.note(self._process.name, "event.lost")
            return
        self._process.later(self._latency_us(), partial(self._tell, event))

    def _tell(self, event: Event) -> None:
        message: JsonValue = {"method": NOTIFICATION_METHOD, "params": {"result": event}}
        try:
            change = notification_from_json(message)
        except RemoteProtocolError:
            return
        if change is None or isinstance(change, OtherChange):
            return
        waiters = self._waiters.pop(change.payment_hash, None)
        if waiters is None:
            self._unseen[change.payment_hash] = None
            if len(self._unseen) > MAX_UNSEEN:
                self._unseen.popitem(last=False)
            return
        for woken in waiters:
            _answer(woken, None)

    def _latency_us(self) -> int:
        return self._dice.randrange(self._process.world.weather.latency_us) + 1


def _answer(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)
