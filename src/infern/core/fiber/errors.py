"""fnn's error answers, classified by their text into Infern's error tree.

fnn has five codes and puts everything of interest into the message, so the table below matches
texts. A text nobody knew becomes `FiberNodeError`: money unmoved after a query, unknown after a
call that may have moved some. `data` is never copied into an error, because fnn 0.8 echoes the
parameters there, preimages included.

Source: error texts of fnn 0.8.0 as recorded and as its source writes them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from infern.core.errors import (
    ConfigError,
    InfernError,
    JsonValue,
    LocalProtocolError,
    Money,
    NoRoute,
    PaymentError,
    PaymentFailed,
    RemoteProtocolError,
    Retry,
    TransportError,
)
from infern.core.fiber.types import InvoiceStatus, PaymentRecord, PaymentStatus

MAX_MESSAGE_CHARS: Final = 300

CODE_INVALID_PARAMS: Final = -32602
CODE_METHOD_NOT_FOUND: Final = -32601
CODE_UNAUTHORIZED: Final = -32999
CODE_APPLICATION: Final = -32000
_CODES_OUR_FAULT: Final = {-32700, -32600, CODE_INVALID_PARAMS, -32007}
"""Unreadable, not a request, wrong parameters, request too large: refused before anything ran."""
_CODE_BUSY: Final = -32009
"""jsonrpsee refuses the call because it is at its limit: nothing ran."""


class FiberNodeError(InfernError):
    """The node answered with an error this version cannot classify.

    Money is unmoved after a query and unknown after any call that may move some.
    """

    default_code = "fiber_error"


class FiberMethodUnknown(ConfigError):
    """The node does not have the method (fnn 0.8.1 and later say so). Nothing ran."""


class FiberUnauthorized(ConfigError):
    """The node refused the call: token missing or too weak. Nothing ran.

    fnn 0.8.0 answers the same for a method it does not have.
    """


class FiberNotReady(TransportError):
    """The node or its peer is not ready yet; the same call may succeed in a moment. Unmoved."""

    default_code = "fiber_unavailable"


class PaymentAlreadyExists(PaymentError):
    """This node already has a payment under the hash and sent nothing new.

    Args:
        payment_status: What the node said of it; `UNKNOWN` when it said nothing.
    """

    default_code = "payment_outcome_unknown"

    def __init__(self, message: str, *, payment_status: PaymentStatus) -> None:
        moved = payment_status is PaymentStatus.SUCCESS
        super().__init__(message, money=Money.MOVED if moved else Money.UNKNOWN)
        self.payment_status = payment_status


class PaymentNotFound(PaymentError):
    """This node has no payment under the hash."""

    default_code = "not_found"


class InvoiceNotFound(PaymentError):
    """This node has no invoice under the hash."""

    default_code = "not_found"


class InvoiceAlreadyExists(PaymentError):
    """This node already has an invoice under the hash; nothing was created. Ask `GetInvoice`."""

    default_code = "fiber_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, money=Money.UNMOVED)


class InvoiceStateConflict(PaymentError):
    """The invoice's status does not allow the call; nothing changed.

    Args:
        invoice_status: `PAID` means that its money has moved, `OPEN` that a payment may still be
            on its way, `CANCELLED` and `EXPIRED` that nothing was kept.
    """

    def __init__(self, message: str, *, invoice_status: InvoiceStatus) -> None:
        code, money = _CONFLICTS.get(invoice_status, ("fiber_error", Money.UNKNOWN))
        super().__init__(message, code=code, money=money)
        self.invoice_status = invoice_status


_CONFLICTS: Final[Mapping[InvoiceStatus, tuple[str, Money]]] = {
    InvoiceStatus.OPEN: ("payment_pending", Money.UNKNOWN),
    InvoiceStatus.CANCELLED: ("payment_not_received", Money.UNMOVED),
    InvoiceStatus.EXPIRED: ("payment_not_received", Money.UNMOVED),
    InvoiceStatus.PAID: ("fiber_error", Money.MOVED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One error answer and the call it answers.

    Args:
        money: What an unclassifiable error means for the money of this call.
    """

    method: str
    code: int
    message: str
    money: Money

    @property
    def short(self) -> str:
        """The node's words, bounded, for messages."""
        return self.message[:MAX_MESSAGE_CHARS]


def _local(fault: Fault) -> InfernError:
    return LocalProtocolError(f"fnn refused {fault.method}: {fault.short}")


_Build = Callable[[Fault, re.Match[str]], InfernError]


def _refused(fault: Fault, _match: re.Match[str]) -> InfernError:
    return _local(fault)


def _not_ready(fault: Fault, _match: re.Match[str]) -> InfernError:
    return FiberNotReady(f"fnn is not ready for {fault.method}: {fault.short}")


def _no_route(fault: Fault, _match: re.Match[str]) -> InfernError:
    return NoRoute(f"Fiber finds no path to the payee: {fault.short}")


def _short_of_liquidity(fault: Fault, match: re.Match[str]) -> InfernError:
    return NoRoute(
        f"the node's channels cannot send that much: {fault.short}",
        details={
            "reason": "insufficient_outbound_liquidity",
            "max_outbound_liquidity": match["have"],
            "required": match["need"],
        },
    )


def _payment_exists(fault: Fault, match: re.Match[str]) -> InfernError:
    return PaymentAlreadyExists(
        f"this node already has the payment: {fault.short}",
        payment_status=PaymentStatus.read(match["status"]),
    )


def _payment_running(status: PaymentStatus) -> _Build:
    def build(fault: Fault, _match: re.Match[str]) -> InfernError:
        return PaymentAlreadyExists(
            f"this node already has the payment: {fault.short}", payment_status=status
        )

    return build


def _payment_missing(fault: Fault, _match: re.Match[str]) -> InfernError:
    return PaymentNotFound(f"the node knows no such payment: {fault.short}")


def _invoice_missing(_fault: Fault, _match: re.Match[str]) -> InfernError:
    return InvoiceNotFound("the node knows no such invoice")


def _invoice_exists(_fault: Fault, _match: re.Match[str]) -> InfernError:
    return InvoiceAlreadyExists("the node already has an invoice under this hash")


def _conflict(status: InvoiceStatus) -> _Build:
    def build(fault: Fault, _match: re.Match[str]) -> InfernError:
        return InvoiceStateConflict(
            f"fnn refused {fault.method}: {fault.short}", invoice_status=status
        )

    return build


def _not_cancellable(fault: Fault, match: re.Match[str]) -> InfernError:
    return InvoiceStateConflict(
        f"fnn refused {fault.method}: {fault.short}",
        invoice_status=InvoiceStatus.read(match["status"]),
    )


def _wrong_preimage(_fault: Fault, _match: re.Match[str]) -> InfernError:
    # The payer's money stays locked until the right preimage or a cancellation comes.
    return LocalProtocolError(
        "the preimage does not hash to the invoice's payment hash",
        code="invalid_preimage",
        money=Money.UNKNOWN,
    )


def _invoice_expired(fault: Fault, _match: re.Match[str]) -> InfernError:
    return PaymentFailed(
        f"the invoice has expired; ask for a new one: {fault.short}", retry=Retry.NEW_CHALLENGE
    )


def _bad_invoice_text(fault: Fault, _match: re.Match[str]) -> InfernError:
    return RemoteProtocolError(f"not a Fiber invoice: {fault.short}", code="invalid_invoice")


@dataclass(frozen=True, slots=True)
class _Rule:
    methods: frozenset[str]
    pattern: re.Pattern[str]
    build: _Build


def _rule(methods: str, pattern: str, build: _Build) -> _Rule:
    return _Rule(frozenset(methods.split()), re.compile(pattern, re.IGNORECASE), build)


_SEND: Final = "send_payment send_payment_with_router build_router"

_RULES: Final[tuple[_Rule, ...]] = (
    # Peers and channels.
    _rule("connect_peer", r"address must not be empty|`address` or `pubkey` is required", _refused),
    _rule("open_channel", r"feature not found, waiting for peer to send Init", _not_ready),
    _rule(
        "open_channel accept_channel",
        r"funding amount \(?\d+\)? should be greater than or equal to \d+",
        _refused,
    ),
    _rule("open_channel", r"one-way channel cannot be public", _refused),
    _rule("accept_channel", r"No channel with temp id", _refused),
    _rule("shutdown_channel", r"should not be set when force is true", _refused),
    _rule(
        "connect_peer disconnect_peer open_channel accept_channel shutdown_channel update_channel"
        " abandon_channel list_channels",
        r"Invalid parameter|Invalid state|not found|is not connected|mutually exclusive"
        r"|invalid multiaddr",
        _refused,
    ),
    # Invoices.
    _rule("new_invoice", r"invoice already exists", _invoice_exists),
    _rule(
        "new_invoice",
        r"Currency must be|Both payment_hash and payment_preimage are set"
        r"|final_expiry_delta must be|Description with length|does not support MPP",
        _refused,
    ),
    _rule("get_invoice cancel_invoice settle_invoice", r"invoice not found", _invoice_missing),
    _rule(
        "cancel_invoice", r"can not be canceled, current status: (?P<status>\w+)", _not_cancellable
    ),
    _rule("settle_invoice", r"Hash mismatch", _wrong_preimage),
    _rule("settle_invoice", r"Invoice is still open", _conflict(InvoiceStatus.OPEN)),
    _rule("settle_invoice", r"already cancelled", _conflict(InvoiceStatus.CANCELLED)),
    _rule("settle_invoice", r"already expired", _conflict(InvoiceStatus.EXPIRED)),
    _rule("settle_invoice", r"already paid", _conflict(InvoiceStatus.PAID)),
    _rule(
        "parse_invoice " + _SEND,
        r"Bech32 error|Too short data part|malformed HRP|Unknown currency"
        r"|Invalid signature|Invalid recovery id|Molecule error|invoice is invalid",
        _bad_invoice_text,
    ),
    # Payments: duplicates first, because their texts quote statuses.
    _rule(
        _SEND,
        r"Payment session already exists.*with payment session status: (?P<status>\w+)",
        _payment_exists,
    ),
    _rule(_SEND, r"Payment session already exists", _payment_running(PaymentStatus.UNKNOWN)),
    _rule(_SEND, r"attempts that are in flight", _payment_running(PaymentStatus.INFLIGHT)),
    _rule("get_payment", r"Payment session not found", _payment_missing),
    _rule(_SEND, r"invoice is expired", _invoice_expired),
    _rule(_SEND, r"Failed to validate payment request", _refused),
    _rule(_SEND, r"Feature not enabled", _refused),
    _rule(
        _SEND,
        r"Insufficient balance: max outbound liquidity (?P<have>\d+) is insufficient,"
        r" required amount: (?P<need>\d+)",
        _short_of_liquidity,
    ),
    _rule(
        _SEND,
        r"Failed to build route|no path found|PathFind error|Network Graph error"
        r"|Insufficient balance",
        _no_route,
    ),
)


def classify(fault: Fault) -> InfernError:
    """Turn an error answer into the error to raise."""
    if fault.code == CODE_UNAUTHORIZED:
        return FiberUnauthorized(
            f"the Fiber node refuses {fault.method}: give it a token with the right for it"
            " (fnn 0.8.0 answers the same for a method or module it does not have)"
        )
    if fault.code == CODE_METHOD_NOT_FOUND:
        return FiberMethodUnknown(
            f"the Fiber node has no method {fault.method}: enable its module or upgrade fnn"
        )
    if fault.code in _CODES_OUR_FAULT:
        return _local(fault)
    if fault.code == _CODE_BUSY:
        return FiberNotReady(f"fnn is at its limit of open calls: {fault.short}")
    for rule in _RULES if fault.code == CODE_APPLICATION else ():
        if fault.method in rule.methods:
            match = rule.pattern.search(fault.message)
            if match is not None:
                return rule.build(fault, match)
    details: dict[str, JsonValue] = {"rpc_method": fault.method, "rpc_code": fault.code}
    return FiberNodeError(
        f"fnn answered {fault.method} with an error: {fault.short}",
        money=fault.money,
        details=details,
    )


_ROUTE_FAILURE = re.compile(r"Failed to build route|no path found|Insufficient balance")
_PAYEE_REFUSED = re.compile(
    r"InvoiceCancelled|InvoiceExpired|IncorrectOrUnknownPaymentDetails|FinalIncorrectTlcAmount"
    r"|FinalIncorrectExpiryDelta|HoldTlcTimeout|ExpiryTooSoon"
)


def payment_failure(record: PaymentRecord) -> PaymentError:
    """The error of a payment whose status is `FAILED`: the money is back with the payer.

    A failure the payee decided (cancelled, expired, unknown or wrong details) will not heal by
    sending the same invoice again, so its `retry` asks for a new challenge.
    """
    reason = (record.failed_error or "the node gave no reason")[:MAX_MESSAGE_CHARS]
    details: dict[str, JsonValue] = {"failed_error": reason}
    if _ROUTE_FAILURE.search(reason):
        return NoRoute(f"Fiber finds no path to the payee: {reason}", details=details)
    if _PAYEE_REFUSED.search(reason):
        return PaymentFailed(
            f"the payee did not take the payment, nothing was paid: {reason}",
            retry=Retry.NEW_CHALLENGE,
            details=details,
        )
    return PaymentFailed(f"the payment failed, nothing was paid: {reason}", details=details)
