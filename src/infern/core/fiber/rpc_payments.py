"""Calls that pay, and calls that ask what became of a payment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from infern.core.ckb.out_point import OutPoint
from infern.core.ckb.script import Script
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.fiber.fields import Fields
from infern.core.fiber.hexnum import U32_BITS, U64_BITS, U128_BITS, write_bytes, write_uint
from infern.core.fiber.params import (
    bytes32,
    key,
    one_object,
    outpoint,
    require_length,
    require_uint,
    script,
    true_only,
    u64,
    u128,
)
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash, Pubkey

MAX_CUSTOM_RECORD_KEY: Final = 65_535
MAX_CUSTOM_RECORD_BYTES: Final = 2_048
MAX_PARTS: Final = 24
MAX_TRAMPOLINE_HOPS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HopHint:
    """A private channel near the payee that path finding may use.

    Args:
        fee_ppm: Millionths of the forwarded amount.
    """

    pubkey: Pubkey
    outpoint: OutPoint
    fee_ppm: int
    tlc_expiry_delta_ms: int

    def to_json(self) -> JsonValue:
        """The wire form."""
        return {
            "pubkey": key(self.pubkey),
            "channel_outpoint": outpoint(self.outpoint),
            "fee_rate": u64(self.fee_ppm),
            "tlc_expiry_delta": u64(self.tlc_expiry_delta_ms),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HopRequirement:
    """A node the route must pass, optionally through one channel."""

    pubkey: Pubkey
    outpoint: OutPoint | None = None

    def to_json(self) -> JsonValue:
        """The wire form."""
        row: dict[str, JsonValue] = {"pubkey": key(self.pubkey)}
        if self.outpoint is not None:
            row["channel_outpoint"] = outpoint(self.outpoint)
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterHop:
    """One hop of a finished route.

    Args:
        target: Who receives the TLC.
        amount_received: Base units it receives, later fees included.
        incoming_tlc_expiry_ms: As fnn computes it for the TLC towards `target`.
    """

    target: Pubkey
    outpoint: OutPoint
    amount_received: int
    incoming_tlc_expiry_ms: int

    def to_json(self) -> JsonValue:
        """The wire form."""
        return {
            "target": key(self.target),
            "channel_outpoint": outpoint(self.outpoint),
            "amount_received": u128(self.amount_received),
            "incoming_tlc_expiry": u64(self.incoming_tlc_expiry_ms),
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one entry of `router_hops`."""
        row = Fields(value, "a router hop")
        return cls(
            target=row.pubkey("target"),
            outpoint=row.outpoint("channel_outpoint"),
            amount_received=row.u128("amount_received"),
            incoming_tlc_expiry_ms=row.u64("incoming_tlc_expiry"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPayment:
    """Pay an invoice, or push money to a node (`keysend`); with `dry_run` only find the route.

    The answer means that a first attempt was built, never that anything was paid: poll
    `GetPayment`. fnn keys a payment by its hash, so a second call for the same invoice answers
    `PaymentAlreadyExists` while the first is under way or done; but it starts anew after a
    failure, hence it is not repeated blindly. A keysend draws a new hash on every call and can be
    told apart by nothing: never repeat it.

    Args:
        invoice: Brings amount, hash, payee, asset and expiry delta.
        target: The payee, without an invoice.
        amount: Base units, without an invoice.
        timeout_s: Stored by fnn 0.8 and never enforced; keep your own deadline.
        max_fee_amount: The real cap, base units on top of the amount.
        max_fee_rate_per_thousand: A second cap, rounded up; fnn's default of 5 leaves tiny
            payments a budget of one unit, so set it generously beside `max_fee_amount`.
        tlc_expiry_limit_ms: Bounds the route's own deltas. fnn pads the expiry at random up to 14
            days whatever it says, so a payee that vanishes locks the money for as long.
        custom_records: Travel to the payee's node; no call shows them there.
    """

    method = "send_payment"

    invoice: str | None = None
    target: Pubkey | None = None
    amount: int | None = None
    payment_hash: PaymentHash | None = None
    keysend: bool = False
    dry_run: bool = False
    max_fee_amount: int | None = None
    max_fee_rate_per_thousand: int | None = None
    final_tlc_expiry_delta_ms: int | None = None
    tlc_expiry_limit_ms: int | None = None
    timeout_s: int | None = None
    max_parts: int | None = None
    trampoline_hops: tuple[Pubkey, ...] = ()
    udt_type_script: Script | None = None
    allow_self_payment: bool = False
    custom_records: Mapping[int, bytes] = field(default_factory=dict)
    hop_hints: tuple[HopHint, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no node would accept."""
        _require_payable(self)
        require_uint(self.max_fee_amount, U128_BITS, "max_fee_amount")
        require_uint(self.max_fee_rate_per_thousand, U64_BITS, "max_fee_rate_per_thousand")
        require_uint(self.final_tlc_expiry_delta_ms, U64_BITS, "final_tlc_expiry_delta_ms")
        require_uint(self.tlc_expiry_limit_ms, U64_BITS, "tlc_expiry_limit_ms")
        require_uint(self.timeout_s, U64_BITS, "timeout_s")
        if self.max_parts is not None and not 1 <= self.max_parts <= MAX_PARTS:
            raise ValueError(f"max_parts lies between 1 and {MAX_PARTS}")
        if len(self.trampoline_hops) > MAX_TRAMPOLINE_HOPS:
            raise ValueError(f"a payment takes at most {MAX_TRAMPOLINE_HOPS} trampoline hops")
        if any(not 0 <= number <= MAX_CUSTOM_RECORD_KEY for number in self.custom_records):
            raise ValueError(f"custom record keys lie between 0 and {MAX_CUSTOM_RECORD_KEY}")
        if sum(map(len, self.custom_records.values())) > MAX_CUSTOM_RECORD_BYTES:
            raise ValueError(f"custom records hold at most {MAX_CUSTOM_RECORD_BYTES} bytes")

    @property
    def idempotent(self) -> bool:
        """True only for a dry run, which stores and moves nothing."""
        return self.dry_run

    def params(self) -> list[JsonValue]:
        """One object."""
        records: dict[str, JsonValue] = {
            write_uint(number, U32_BITS): write_bytes(data)
            for number, data in self.custom_records.items()
        }
        return one_object(
            {
                "invoice": self.invoice,
                "target_pubkey": key(self.target),
                "amount": u128(self.amount),
                "payment_hash": bytes32(self.payment_hash),
                "keysend": true_only(value=self.keysend),
                "dry_run": true_only(value=self.dry_run),
                "max_fee_amount": u128(self.max_fee_amount),
                "max_fee_rate": u64(self.max_fee_rate_per_thousand),
                "final_tlc_expiry_delta": u64(self.final_tlc_expiry_delta_ms),
                "tlc_expiry_limit": u64(self.tlc_expiry_limit_ms),
                "timeout": u64(self.timeout_s),
                "max_parts": u64(self.max_parts),
                "trampoline_hops": [key(hop) for hop in self.trampoline_hops] or None,
                "udt_type_script": script(self.udt_type_script),
                "allow_self_payment": true_only(value=self.allow_self_payment),
                "custom_records": records or None,
                "hop_hints": [hint.to_json() for hint in self.hop_hints] or None,
            }
        )

    def parse(self, result: JsonValue) -> PaymentRecord:
        """Read the payment; usually `CREATED`, with the first route's fee.

        Raises:
            RemoteProtocolError: Not a payment, or one of another hash than asked for.
        """
        return _same_hash(PaymentRecord.from_json(result), self.payment_hash)


def _require_payable(call: SendPayment) -> None:
    require_length(call.target, 33, "a public key")
    require_length(call.payment_hash, 32, "a payment hash")
    require_uint(call.amount, U128_BITS, "amount")
    if call.amount == 0:
        raise ValueError("a payment's amount is greater than zero")
    if call.keysend and (call.invoice is not None or call.payment_hash is not None):
        raise ValueError("a keysend has neither invoice nor payment hash")
    if call.invoice is not None:
        return
    if call.target is None or call.amount is None:
        raise ValueError("a payment without invoice needs a target and an amount")
    if not call.keysend and call.payment_hash is None:
        raise ValueError("a payment needs an invoice, a payment hash or keysend")


def _same_hash(record: PaymentRecord, payment_hash: PaymentHash | None) -> PaymentRecord:
    if payment_hash is not None and record.payment_hash != payment_hash:
        raise RemoteProtocolError("the node answered with another payment than asked for")
    return record


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPayment:
    """What became of a payment of this node. Moves no money.

    A node that never heard of it answers `PaymentNotFound`.
    """

    method = "get_payment"
    idempotent = True

    payment_hash: PaymentHash

    def __post_init__(self) -> None:
        """Refuse what is no hash."""
        require_length(self.payment_hash, 32, "a payment hash")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object({"payment_hash": bytes32(self.payment_hash)})

    def parse(self, result: JsonValue) -> PaymentRecord:
        """Read the payment.

        Raises:
            RemoteProtocolError: Not a payment, or one of another hash than asked for.
        """
        return _same_hash(PaymentRecord.from_json(result), self.payment_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentsPage:
    """A page of payments, ordered by hash; `last_cursor` continues it."""

    payments: tuple[PaymentRecord, ...]
    last_cursor: PaymentHash | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPayments:
    """The node's payments, ordered by hash and not by time. Moves no money.

    Args:
        status: Only those; `UNKNOWN` cannot be asked for.
        limit: Rows at most; fnn's default is 15.
        after: `last_cursor` of the page before.
    """

    method = "list_payments"
    idempotent = True

    status: PaymentStatus | None = None
    limit: int | None = None
    after: PaymentHash | None = None

    def __post_init__(self) -> None:
        """Refuse what has no wire form."""
        if self.status is PaymentStatus.UNKNOWN:
            raise ValueError("fnn has no payment status Unknown to filter by")
        require_uint(self.limit, U64_BITS, "limit")
        require_length(self.after, 32, "a payment hash")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "status": None if self.status is None else self.status.value,
                "limit": u64(self.limit),
                "after": bytes32(self.after),
            }
        )

    def parse(self, result: JsonValue) -> PaymentsPage:
        """Read the page."""
        row = Fields(result, "list_payments")
        cursor = row.opt_hash32("last_cursor")
        return PaymentsPage(
            payments=tuple(PaymentRecord.from_json(item) for item in row.items("payments")),
            last_cursor=None if cursor is None else PaymentHash(cursor),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRouter:
    """Build a route through given nodes. Moves no money.

    Args:
        hops: The nodes after this one; the last is the payee.
        amount: Base units that arrive; fnn's default is 1.
    """

    method = "build_router"
    idempotent = True

    hops: tuple[HopRequirement, ...]
    amount: int | None = None
    udt_type_script: Script | None = None
    final_tlc_expiry_delta_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no node would accept."""
        if not self.hops:
            raise ValueError("a route has at least one hop")
        require_uint(self.amount, U128_BITS, "amount")
        require_uint(self.final_tlc_expiry_delta_ms, U64_BITS, "final_tlc_expiry_delta_ms")

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "amount": u128(self.amount),
                "udt_type_script": script(self.udt_type_script),
                "hops_info": [hop.to_json() for hop in self.hops],
                "final_tlc_expiry_delta": u64(self.final_tlc_expiry_delta_ms),
            }
        )

    def parse(self, result: JsonValue) -> tuple[RouterHop, ...]:
        """Read the route."""
        rows = Fields(result, "build_router").items("router_hops")
        return tuple(RouterHop.from_json(row) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPaymentWithRouter:
    """Pay along a given route; what `SendPayment` says about repeating holds here too."""

    method = "send_payment_with_router"

    router: tuple[RouterHop, ...]
    invoice: str | None = None
    payment_hash: PaymentHash | None = None
    keysend: bool = False
    udt_type_script: Script | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse what no node would accept."""
        require_length(self.payment_hash, 32, "a payment hash")
        if not self.router:
            raise ValueError("a route has at least one hop")
        if self.keysend and (self.invoice is not None or self.payment_hash is not None):
            raise ValueError("a keysend has neither invoice nor payment hash")
        if not self.keysend and self.invoice is None and self.payment_hash is None:
            raise ValueError("a payment needs an invoice, a payment hash or keysend")

    @property
    def idempotent(self) -> bool:
        """True only for a dry run, which stores and moves nothing."""
        return self.dry_run

    def params(self) -> list[JsonValue]:
        """One object."""
        return one_object(
            {
                "router": [hop.to_json() for hop in self.router],
                "invoice": self.invoice,
                "payment_hash": bytes32(self.payment_hash),
                "keysend": true_only(value=self.keysend),
                "udt_type_script": script(self.udt_type_script),
                "dry_run": true_only(value=self.dry_run),
            }
        )

    def parse(self, result: JsonValue) -> PaymentRecord:
        """Read the payment.

        Raises:
            RemoteProtocolError: Not a payment, or one of another hash than asked for.
        """
        return _same_hash(PaymentRecord.from_json(result), self.payment_hash)
