"""What an exchange asks of the world, as values, and what it is told in return.

The exchange is a generator that yields these; a driver (sync or async, real or a test's) performs
them and sends the answer back, or throws the failure in.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from infern.client.journal import Attempt, AttemptKind
from infern.core.errors import InvariantViolation, TransportError
from infern.core.fiber.pay import MakeCall, WaitChange
from infern.core.fiber.types import PaymentRecord
from infern.core.ids import Pubkey, RequestDigest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of the seller.

    Args:
        status: HTTP status.
        headers: By lower-case name.
        body: Of an answer that is no success, at most `MAX_ERROR_BYTES`; a success is not read.
        redirected: It came from another address than was asked.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    redirected: bool = False

    @property
    def is_success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300


class WireBroken(TransportError):
    """The connection to the seller failed before a whole answer came.

    Args:
        timed_out: The caller's own deadline passed; the exchange does not stretch it.
    """

    def __init__(self, message: str, *, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Send the request; the answer is a `Reply`. Throws `WireBroken`.

    Args:
        proof: The `PAYMENT-SIGNATURE` value, or None for the unpaid request.
        max_amount: The `F402-Max-Amount` of the unpaid request.
        refund_to: The `F402-Refund-To` of the unpaid request.
        is_hold: The unpaid request says `F402-Mode: hold`.
    """

    proof: str | None = None
    max_amount: int | None = None
    refund_to: Pubkey | None = None
    is_hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Call the seller's own API; the answer is a `Reply` whose body was read. Throws `WireBroken`.

    Args:
        method: `GET` or `POST`.
        path: Below the API's base, e.g. `/f402/balance`.
        body: JSON bytes; empty for none.
        key: The prepaid key to show; empty for none.
    """

    method: str
    path: str
    body: bytes = b""
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Look for money at stake; the answer is an `Attempt` or None."""

    origin: str
    digest: RequestDigest
    kind: AttemptKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Intend:
    """Write the row of a payment if the budget admits it; the answer is None."""

    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Write a change of state; the answer is None."""

    before: Attempt
    after: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Locking:
    """Look for payments in hold mode that nobody has heard the end of; a tuple of `Attempt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclude:
    """Write a change of state unless a live exchange uses the row; the answer is None."""

    before: Attempt
    after: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Wait; the answer is None."""

    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNode:
    """Ask the wallet's node who it is; the answer is its `Pubkey`. Throws `InfernError`."""


JournalEffect = Adopt | Intend | Record | Locking | Conclude
Effect = Ask | Fetch | JournalEffect | MakeCall | WaitChange | Sleep | OwnNode
"""`MakeCall` is answered with the payment's record or throws `InfernError`."""

Steps = Generator[Effect, object, T]


def ask(effect: Ask) -> Steps[Reply]:
    """Perform an `Ask`."""
    reply = yield effect
    if not isinstance(reply, Reply):
        raise InvariantViolation("a driver answers Ask with a Reply")
    return reply


def fetch(effect: Fetch) -> Steps[Reply]:
    """Perform a `Fetch`."""
    reply = yield effect
    if not isinstance(reply, Reply):
        raise InvariantViolation("a driver answers Fetch with a Reply")
    return reply


def adopt(effect: Adopt) -> Steps[Attempt | None]:
    """Perform an `Adopt`."""
    attempt = yield effect
    if attempt is not None and not isinstance(attempt, Attempt):
        raise InvariantViolation("a driver answers Adopt with an Attempt or None")
    return attempt


def locking() -> Steps[tuple[Attempt, ...]]:
    """Perform an `Locking`."""
    rows = yield Locking()
    if not isinstance(rows, tuple):
        raise InvariantViolation("a driver answers Locking with rows")
    return rows


def own_node() -> Steps[Pubkey]:
    """Perform an `OwnNode`."""
    node = yield OwnNode()
    if not isinstance(node, bytes):
        raise InvariantViolation("a driver answers OwnNode with a public key")
    return Pubkey(node)


def look(effect: MakeCall) -> Steps[PaymentRecord]:
    """Perform a `MakeCall`."""
    record = yield effect
    if not isinstance(record, PaymentRecord):
        raise InvariantViolation("a driver answers MakeCall with the payment's record")
    return record
