"""A consumer in the world: the real client, its journal and its own Fiber node.

A consumer is a person with a home directory; up to two programs share it, as a proxy and a script
of one user do. Programs die; the person remembers what was wanted and asks again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import httpx2

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.client.auth import F402Auth
from infern.client.budget import Budget
from infern.client.openai import AsyncInfern
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Patience, Wallet
from infern.core.units import SHANNON_PER_CKB, Network
from infern.devnet.fiber import Node
from infern.simulator.fiber import VirtualFiberClient
from infern.simulator.host import Host, ProcessClock
from infern.simulator.process import Process
from infern.simulator.storage import Custody, VirtualJournal
from infern.simulator.transport import Wire
from infern.simulator.wire import Internet

T = TypeVar("T")
DISK_US: Final = 3_000
PATIENCE: Final = Patience(pay_ms=20_000, prove_ms=60_000, proofs=4, credit_ms=20_000)
TIMEOUT: Final = httpx2.Timeout(60.0, connect=10.0)
MAX_SKEW_MS: Final = 5_000


class Crashed(Exception):
    """The program died before it had an answer for its user."""


class GaveUp(Exception):
    """The user lost patience."""


@dataclass(slots=True, kw_only=True)
class Purse:
    """What one life of a consumer's program works with.

    Args:
        process: The life.
        wallet: Pays.
        clients: By seller's origin; their `http_client` pays by itself.
        stock: A stock client that pays by `F402Auth`.
        stock_receipts: What it found of receipts.
        poor: One that cannot pay.
    """

    process: Process
    wallet: Wallet
    clients: dict[str, AsyncInfern]
    stock: httpx2.AsyncClient
    stock_receipts: ReceiptLog
    poor: httpx2.AsyncClient


class Consumer:
    """A person with a Fiber node and a home directory.

    Args:
        internet: Where sellers are.
        name: Of the consumer.
        node: The Fiber node.
        directory: Where the journal is.
        origins: Of the sellers known.
        programs: How many programs share the directory.
    """

    def __init__(
        self,
        internet: Internet,
        name: str,
        node: Node,
        *,
        directory: Path,
        origins: list[str],
        programs: int,
    ) -> None:
        self.internet = internet
        self.name = name
        self.node = node
        self.directory = directory
        self.custody = Custody()
        self.origins = origins
        self.programs = [ConsumerHost(self, f"{name}{chr(97 + at)}") for at in range(programs)]


class ConsumerHost(Host):
    """One program of a consumer."""

    def __init__(self, consumer: Consumer, name: str) -> None:
        super().__init__(consumer.internet.world, name)
        self._consumer = consumer
        self._purse: Purse | None = None
        self._errands: dict[_Errand[Any], None] = {}
        self._skew_ms = self.dice.randrange(-MAX_SKEW_MS, MAX_SKEW_MS)

    async def boot(self, process: Process) -> None:
        """Open the wallet as a new process does, and wait for work."""
        consumer = self._consumer
        journal = VirtualJournal(process, consumer.directory, consumer.custody)
        wallet = Wallet(
            journal=journal,
            budget=Budget(per_session=10_000 * SHANNON_PER_CKB, per_day=10_000 * SHANNON_PER_CKB),
            verifier=CoincurveVerifier(),
            clock=ProcessClock(process, self._skew_ms),
            network=Network.DEV,
            session=process.name,
            node=VirtualFiberClient(process, consumer.node),
            patience=PATIENCE,
            offload=_Threads(process),
        )
        log = ReceiptLog()
        auth = F402Auth(wallet, receipts=log)
        wire = Wire(consumer.internet, process, f"192.0.2.{1 + sum(consumer.name.encode()) % 250}")
        self._purse = Purse(
            process=process,
            wallet=wallet,
            clients={
                origin: AsyncInfern(
                    base_url=f"{origin}/v1", wallet=wallet, transport=wire, timeout=TIMEOUT
                )
                for origin in consumer.origins
            },
            stock=httpx2.AsyncClient(auth=auth, transport=wire, timeout=TIMEOUT),
            stock_receipts=log,
            poor=httpx2.AsyncClient(transport=wire, timeout=TIMEOUT),
        )
        self._errands = {}
        self.ready(process)
        await process.stop.wait()
        self.closed()
        while self._errands:
            for errand in list(self._errands):
                errand.cancel()
            await process.sleep_us(1_000)
        journal.close()

    async def within(
        self, work: Callable[[Purse], Awaitable[T]], *, patience_us: int | None = None
    ) -> T:
        """Let the program do something for its user.

        Args:
            work: Done inside the program.
            patience_us: After so long the user gives up; None waits.

        Raises:
            Crashed: The program died first.
            GaveUp: Time was up; the work was cancelled.
            Exception: What `work` raised.
        """
        process = await self.up()
        assert self._purse is not None
        errand = _Errand(process, partial(work, self._purse), self._errands)
        return await errand.run(patience_us)


class _Errand(Generic[T]):
    """One piece of work inside a process, waited for from outside it."""

    def __init__(
        self,
        process: Process,
        work: Callable[[], Awaitable[T]],
        others: "dict[_Errand[Any], None]",
    ) -> None:
        self._process = process
        self._others = others
        self._work = work
        self._outcome: asyncio.Future[T] = process.world.loop.create_future()
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[object] | None = None
        self._has_given_up = False

    async def run(self, patience_us: int | None) -> T:
        world = self._process.world
        if not self._process.alive:
            raise Crashed
        self._process.at_death(self._died)
        self._process.start(self._inside, "errand")
        timer = None
        if patience_us is not None:
            timer = world.loop.call_at_us(world.now_us + patience_us, self._give_up)
        try:
            return await self._outcome
        finally:
            if timer is not None:
                timer.cancel()

    async def _inside(self) -> None:
        self._task = asyncio.current_task()
        self._others[self] = None
        try:
            with self._scope:
                result = await self._work()
                if not self._outcome.done():
                    self._outcome.set_result(result)
        except asyncio.CancelledError:
            if not self._has_given_up:
                raise
        except Exception as error:  # noqa: BLE001 - it is the user's to judge
            self._fail(error)
        finally:
            del self._others[self]
        self._fail(GaveUp() if self._has_given_up else Crashed())

    def cancel(self) -> None:
        """The program stops in good order."""
        self._scope.cancel()

    def _give_up(self) -> None:
        if self._outcome.done() or self._task is None:
            return
        self._has_given_up = True
        self._process.world.note(self._process.name, "user.gave-up")
        # Cancelled by a scope as anyio does it, or natively as asyncio's own tools do.
        if self._process.dice.random() < 0.5:
            self._scope.cancel()
        else:
            self._task.cancel()

    def _died(self) -> None:
        self._fail(Crashed())

    def _fail(self, error: Exception) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(error)


class _Threads:
    """`Offload` without threads: the work is done a little later, whoever waits or not."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def __call__(self, work: Callable[[], T]) -> T:
        dice = self._process.dice
        done = self._process.submit(
            work, before_us=dice.randrange(DISK_US), after_us=dice.randrange(DISK_US)
        )
        # As anyio's threads: a cancelled scope waits for the thread, a native cancel does not.
        with anyio.CancelScope(shield=True):
            await self._process.wait(done)
        return done.result()
