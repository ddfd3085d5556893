"""What a client pays with: a Fiber node, a journal, a budget and the limits of its patience."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from anyio import to_thread

from infern.client.budget import Budget
from infern.client.journal import Journal
from infern.core.crypto import SignatureVerifier
from infern.core.f402.challenge import Mode
from infern.core.fiber.pay_drivers import SyncNode
from infern.core.ids import PaymentHash, Pubkey
from infern.core.market.price import Price
from infern.core.units import Network
from infern.ports import FiberNode

T = TypeVar("T")

MAX_ERROR_BYTES: Final = 64 * 1024
"""A client reads no more than this of an answer that is not a success."""


class ClientClock(Protocol):
    """Wall-clock time and waiting, for both kinds of callers."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait in an event loop; cancellable."""
        ...

    def wait_ms(self, duration_ms: int) -> None:
        """Wait in a thread."""
        ...


class Offload(Protocol):
    """Runs blocking work for a coroutine. Cancelling the wait does not stop the work."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run it and return or raise what it does."""
        ...


async def in_worker_thread(work: Callable[[], T]) -> T:
    """`Offload` to anyio's worker threads."""
    return await to_thread.run_sync(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often an exchange waits. Every wait of the client has its limit here.

    Args:
        pay_ms: For a payment to end, after which its outcome is unknown and it stays on record.
        prove_ms: For an answer, counted from the first proof to the last repetition.
        proofs: How often the same proof is presented at most.
        pause_ms: First pause between two proofs when the seller names none; doubles each time.
        retry_after_ms: The longest `Retry-After` that is waited for.
        credit_ms: For a top-up to be credited after it was paid.
        return_ms: For a payment in hold mode to come back after it was refused.
    """

    pay_ms: int = 60_000
    prove_ms: int = 120_000
    proofs: int = 6
    pause_ms: int = 500
    retry_after_ms: int = 15_000
    credit_ms: int = 60_000
    return_ms: int = 5_000

    def __post_init__(self) -> None:
        """Refuse waits without end and loops without a turn."""
        waits = (
            *(self.pay_ms, self.prove_ms, self.pause_ms),
            *(self.retry_after_ms, self.credit_ms, self.return_ms),
        )
        if any(not 0 <= wait_ms <= 3_600_000 for wait_ms in waits) or not 1 <= self.proofs <= 100:
            raise ValueError("waits are 0..3 600 000 ms, proofs 1..100")


class PayMode(StrEnum):
    """How requests are paid for by themselves."""

    UPFRONT = "upfront"
    HOLD = "hold"
    """Taken by the seller when it delivered, and given back otherwise; or not paid at all."""
    HOLD_OR_UPFRONT = "hold_or_upfront"
    """In hold mode where it is to be had, upfront otherwise."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What is asked for, in this order."""
        if self is PayMode.HOLD_OR_UPFRONT:
            return (Mode.HOLD, Mode.UPFRONT)
        return (Mode.HOLD,) if self is PayMode.HOLD else (Mode.UPFRONT,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What is known of a seller beforehand; None and empty trust the origin's own word.

    Args:
        pay_to: The only Fiber node that may be paid.
        agents: The agent keys receipts may be signed with.
        price: The highest price that may be quoted.
    """

    pay_to: Pubkey | None = None
    agents: frozenset[Pubkey] = frozenset()
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """Everything an exchange needs besides the request.

    Args:
        journal: Written before every payment.
        budget: Asked before every payment.
        verifier: Checks invoices and receipts.
        clock: Time and waiting.
        network: Of the node; offers of another network are refused.
        session: Names this client instance for the session budget.
        node: The Fiber node for async clients; without one nothing is paid there.
        sync_node: The same for sync clients.
        patience: Limits of waiting.
        pinned: What is known of sellers beforehand, by origin.
        offload: Where an event loop's writes to the journal are made.
        refund_to: The node that sellers send to what a paid request did not cost; None leaves it
            with them, to be redeemed. It tells them which node that is.
        mode: How requests are paid for.
        noticed: Payments that the log has warned of.
    """

    journal: Journal
    budget: Budget
    verifier: SignatureVerifier
    clock: ClientClock
    network: Network
    session: str
    node: FiberNode | None = None
    sync_node: SyncNode | None = None
    patience: Patience = field(default_factory=Patience)
    pinned: Mapping[str, Pinned] = field(default_factory=dict)
    offload: Offload = in_worker_thread
    refund_to: Pubkey | None = None
    mode: PayMode = PayMode.UPFRONT
    noticed: set[PaymentHash] = field(default_factory=set, repr=False, compare=False)

    def known_of(self, origin: str) -> Pinned:
        """What is pinned for an origin."""
        return self.pinned.get(origin, Pinned())
