"""Running an exchange: the effects that are not the wire, for threads and for event loops.

The wire belongs to whoever drives (`auth` lets httpx2 send, `transport` sends itself); everything
else is performed here. Whatever way a run ends, the row it held is left as it must be and
released, so that the next exchange for the same request can take it over.
"""

import logging
from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, TypeVar, assert_never

from infern.client.effects import (
    Adopt,
    Ask,
    Conclude,
    Effect,
    Fetch,
    Intend,
    JournalEffect,
    Locking,
    OwnNode,
    Record,
    Reply,
    Sleep,
    Steps,
    WireBroken,
)
from infern.client.journal import Attempt
from infern.client.paying import Held, last_words
from infern.client.wallet import Wallet
from infern.core.errors import ConfigError, InfernError, InvariantViolation
from infern.core.fiber.pay import MakeCall, WaitChange
from infern.core.fiber.pay_drivers import SyncNode
from infern.core.fiber.rpc import GetNodeInfo
from infern.ports import FiberNode

logger = logging.getLogger(__name__)

R = TypeVar("R")
W = TypeVar("W", bound=Ask | Fetch)
NODE_TIMEOUT_MS: Final = 10_000
MAX_LOCKING: Final = 100
"""Payments in hold mode that are looked after at once; more than a budget admits."""
_NO_NODE: Final = "no Fiber node is configured to pay with; nothing was paid"

Written = Attempt | tuple[Attempt, ...] | None


def _write(effect: JournalEffect, wallet: Wallet) -> Written:
    """Perform an effect on the journal; blocks for a disk write or two."""
    match effect:
        case Adopt():
            return wallet.journal.adopt(
                origin=effect.origin,
                digest=effect.digest,
                kind=effect.kind,
                now_ms=wallet.clock.now_ms(),
            )
        case Intend():
            attempt = effect.attempt
            rule = wallet.budget.admit(attempt.amount, attempt.kind, attempt.mode)
            wallet.journal.intend(attempt, rule)
            return None
        case Record():
            wallet.journal.record(effect.before, effect.after)
            return None
        case Locking():
            return tuple(wallet.journal.locking(limit=MAX_LOCKING))
        case Conclude():
            wallet.journal.conclude(effect.before, effect.after)
            return None
        case _:
            assert_never(effect)


def leave(held: Held, wallet: Wallet) -> None:
    """End an exchange without an answer: last words to the journal, and the row is free again.

    Synchronous on purpose: it must also run while a coroutine is being cancelled.
    """
    attempt, held.attempt = held.attempt, None
    if attempt is None:
        return
    try:
        after = last_words(attempt, wallet.clock.now_ms())
        if after is not attempt:
            wallet.journal.record(attempt, after)
    except InfernError as error:
        # The row then says less than we know, which costs a repetition and never a payment.
        logger.warning("payment %s: %s", attempt.payment_hash.hex(), error)
    finally:
        wallet.journal.release(attempt.payment_hash)


class SyncDriver(Generic[W, R]):
    """Runs steps in a thread up to the next effect on the wire, which the caller performs.

    Args:
        steps: What to run.
        wallet: Journal, node and clock.
        wire: The kind of effect that goes over the wire in these steps.
    """

    def __init__(self, steps: Steps[R], wallet: Wallet, wire: type[W]) -> None:
        self._steps = steps
        self._wallet = wallet
        self._wire = wire

    def begin(self) -> W | R:
        """Run to the first effect on the wire or the end."""
        return self._advance(lambda: next(self._steps))

    def answer(self, reply: Reply | WireBroken) -> W | R:
        """Give the wire's answer and run on."""
        if isinstance(reply, WireBroken):
            return self._advance(lambda: self._steps.throw(reply))
        return self._advance(lambda: self._steps.send(reply))

    def _advance(self, resume: Callable[[], Effect]) -> W | R:
        try:
            effect = resume()
            while not isinstance(effect, self._wire):
                try:
                    result = self._perform(effect)
                except InfernError as error:
                    effect = self._steps.throw(error)
                else:
                    effect = self._steps.send(result)
        except StopIteration as end:
            value: R = end.value
            return value
        return effect

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Adopt() | Intend() | Record() | Locking() | Conclude():
                return _write(effect, self._wallet)
            case MakeCall(call=call, timeout_ms=timeout_ms):
                return self._node().call(call, timeout_ms=timeout_ms)
            case WaitChange(payment_hash=payment_hash, timeout_ms=timeout_ms):
                self._node().wait_change(payment_hash, timeout_ms=timeout_ms)
            case Sleep(duration_ms=duration_ms):
                self._wallet.clock.wait_ms(duration_ms)
            case OwnNode():
                return self._node().call(GetNodeInfo(), timeout_ms=NODE_TIMEOUT_MS).pubkey
            case Ask() | Fetch():
                raise InvariantViolation("the wire is the caller's")
            case _:
                assert_never(effect)
        return None

    def _node(self) -> SyncNode:
        if self._wallet.sync_node is None:
            raise ConfigError(_NO_NODE)
        return self._wallet.sync_node


class AsyncDriver(Generic[W, R]):
    """Runs steps in an event loop up to the next effect on the wire, which the caller performs.

    Args:
        steps: What to run.
        wallet: Journal, node and clock.
        wire: The kind of effect that goes over the wire in these steps.
    """

    def __init__(self, steps: Steps[R], wallet: Wallet, wire: type[W]) -> None:
        self._steps = steps
        self._wallet = wallet
        self._wire = wire

    async def begin(self) -> W | R:
        """Run to the first effect on the wire or the end."""
        return await self._advance(lambda: next(self._steps))

    async def answer(self, reply: Reply | WireBroken) -> W | R:
        """Give the wire's answer and run on."""
        if isinstance(reply, WireBroken):
            return await self._advance(lambda: self._steps.throw(reply))
        return await self._advance(lambda: self._steps.send(reply))

    async def _advance(self, resume: Callable[[], Effect]) -> W | R:
        try:
            effect = resume()
            while not isinstance(effect, self._wire):
                try:
                    result = await self._perform(effect)
                except InfernError as error:
                    effect = self._steps.throw(error)
                else:
                    effect = self._steps.send(result)
        except StopIteration as end:
            value: R = end.value
            return value
        return effect

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Adopt() | Intend() | Record() | Locking() | Conclude():
                return await _Writing(effect, self._wallet).run()
            case MakeCall(call=call, timeout_ms=timeout_ms):
                return await self._node().call(call, timeout_ms=timeout_ms)
            case WaitChange(payment_hash=payment_hash, timeout_ms=timeout_ms):
                await self._node().wait_change(payment_hash, timeout_ms=timeout_ms)
            case Sleep(duration_ms=duration_ms):
                await self._wallet.clock.sleep_ms(duration_ms)
            case OwnNode():
                info = await self._node().call(GetNodeInfo(), timeout_ms=NODE_TIMEOUT_MS)
                return info.pubkey
            case Ask() | Fetch():
                raise InvariantViolation("the wire is the caller's")
            case _:
                assert_never(effect)
        return None

    def _node(self) -> FiberNode:
        if self._wallet.node is None:
            raise ConfigError(_NO_NODE)
        return self._wallet.node


class _Writing:
    """A journal write in a worker thread that a cancelled coroutine cannot lose.

    A task may be cancelled while its thread still writes. A row that is taken then would count
    as in use for as long as this process lives, and a retry would pay again. So the thread
    itself gives back what nobody waits for any more.
    """

    def __init__(self, effect: JournalEffect, wallet: Wallet) -> None:
        self._effect = effect
        self._wallet = wallet
        self._lock = Lock()
        self._abandoned = False
        self._written: Attempt | None = None

    async def run(self) -> Written:
        try:
            return await self._wallet.offload(self._work)
        except BaseException:
            with self._lock:
                self._abandoned = True
                written, self._written = self._written, None
            self._give_back(written)
            raise

    def _work(self) -> Written:
        result = _write(self._effect, self._wallet)
        taken = self._effect.attempt if isinstance(self._effect, Intend) else None
        if isinstance(self._effect, Adopt) and isinstance(result, Attempt):
            taken = result
        with self._lock:
            if not self._abandoned:
                self._written = taken
                return result
        self._give_back(taken)
        return None

    def _give_back(self, taken: Attempt | None) -> None:
        if taken is not None:
            leave(Held(attempt=taken), self._wallet)
