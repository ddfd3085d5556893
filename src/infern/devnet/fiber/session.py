"""A payer's record of one payment and of its attempts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from infern.core.ckb.script import Script
from infern.core.fiber.invoice import HashAlgorithm


class PaymentStatus(StrEnum):
    """`status` of a payment."""

    CREATED = "Created"
    INFLIGHT = "Inflight"
    SUCCESS = "Success"
    FAILED = "Failed"

    @property
    def is_final(self) -> bool:
        """Nothing will change any more, unless the payer sends again after a failure."""
        return self in (PaymentStatus.SUCCESS, PaymentStatus.FAILED)


class AttemptStatus(Enum):
    """State of one attempt."""

    CREATED = "created"
    INFLIGHT = "inflight"
    RETRYING = "retrying"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HopHint:
    """A private channel the payer was told about: who forwards over it, at what price."""

    pubkey: bytes
    channel_outpoint: bytes
    fee_ppm: int
    tlc_expiry_delta_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """A validated request to pay, whatever form it came in.

    Args:
        preimage: Chosen by the payer for a spontaneous payment, otherwise None.
        router: A route the caller insists on; empty lets the node search.
        try_limit: Retries before the payment fails.
    """

    target: bytes
    amount: int
    payment_hash: bytes
    max_fee: int
    final_delta_ms: int
    expiry_limit_ms: int
    algorithm: HashAlgorithm
    invoice: str | None = None
    preimage: bytes | None = None
    udt: Script | None = None
    allow_self_payment: bool = False
    trampoline: bool = False
    hop_hints: tuple[HopHint, ...] = ()
    router: "tuple[RouterHop, ...]" = ()
    custom_records: Mapping[int, bytes] | None = None
    timeout_s: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterHop:
    """One channel of a route that is not yet a payment: expiry is a delta from now, in ms."""

    target: bytes
    channel_outpoint: bytes
    amount_received: int
    incoming_tlc_expiry: int


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One try along one route.

    Args:
        nodes: Public keys along the route, payer first, payee last.
        hops: The channels between them.
        padding_ms: Random extra expiry, the same on every hop.
    """

    session: "Session"
    nodes: tuple[bytes, ...]
    hops: tuple[RouterHop, ...]
    padding_ms: int
    status: AttemptStatus = AttemptStatus.CREATED
    tries: int = 1

    @property
    def fee(self) -> int:
        """What the intermediate nodes get."""
        return max(self.hops[0].amount_received - self.hops[-1].amount_received, 0)

    @property
    def is_active(self) -> bool:
        """Counts towards the payment's amount and fee."""
        return self.status is not AttemptStatus.FAILED


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One payment by hash. A failed one may be started again under the same hash."""

    request: PaymentRequest
    created_at_ms: int
    last_updated_at_ms: int
    status: PaymentStatus = PaymentStatus.CREATED
    attempts: list[Attempt] = field(default_factory=list)
    failed_error: str | None = None
    preimage: bytes | None = None
    retries: int = 0

    @property
    def fee(self) -> int:
        """Fee of the attempts that are not failed."""
        return sum(attempt.fee for attempt in self.attempts if attempt.is_active)

    @property
    def has_inflight(self) -> bool:
        """A TLC of this payment may still settle."""
        return any(attempt.status is AttemptStatus.INFLIGHT for attempt in self.attempts)

    def refresh(self) -> None:
        """Derive the status from the attempts; a final one stays."""
        if self.status.is_final or not self.attempts:
            return
        if self.has_inflight:
            self.status = PaymentStatus.INFLIGHT
        elif any(attempt.status is AttemptStatus.SUCCESS for attempt in self.attempts):
            self.status = PaymentStatus.SUCCESS
        else:
            self.status = PaymentStatus.CREATED
