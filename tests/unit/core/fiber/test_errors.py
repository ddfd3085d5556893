"""Error texts of fnn and what they become, with the state of the money."""

import pytest

from infern.core.errors import (
    ConfigError,
    InfernError,
    LocalProtocolError,
    Money,
    NoRoute,
    PaymentFailed,
    RemoteProtocolError,
    Retry,
    TransportError,
)
from infern.core.fiber.errors import (
    Fault,
    FiberMethodUnknown,
    FiberNodeError,
    FiberNotReady,
    FiberUnauthorized,
    InvoiceAlreadyExists,
    InvoiceNotFound,
    InvoiceStateConflict,
    PaymentAlreadyExists,
    PaymentNotFound,
    classify,
    payment_failure,
)
from infern.core.fiber.types import InvoiceStatus, PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash

HASH = "Hash256(0x" + "6f" * 32 + ")"
INVALID = 'InvalidParameter: Failed to validate payment request: "'
ROUTE = "Send payment error: Failed to build route, "
U, M, X = Money.UNMOVED, Money.MOVED, Money.UNKNOWN

TEXTS = [
    # (method, text, class, code, money)
    ("connect_peer", "address must not be empty, expected a multiaddr like /ip4/1.2.3.4/tcp/8080",
     LocalProtocolError, "invalid_request", U),
    ("connect_peer", "either `address` or `pubkey` is required",
     LocalProtocolError, "invalid_request", U),
    ("open_channel", ("Invalid parameter: Peer Pubkey(02ab)'s feature not found, waiting for peer"
     " to send Init message"), FiberNotReady, "fiber_unavailable", U),
    ("open_channel", "The funding amount (5) should be greater than or equal to 9900000000",
     LocalProtocolError, "invalid_request", U),
    ("open_channel", "An one-way channel cannot be public",
     LocalProtocolError, "invalid_request", U),
    ("accept_channel", "No channel with temp id Hash256(0x00) found",
     LocalProtocolError, "invalid_request", U),
    ("shutdown_channel", "close_script and fee_rate should not be set when force is true",
     LocalProtocolError, "invalid_request", U),
    ("update_channel", "Invalid state: Only public channel can be updated",
     LocalProtocolError, "invalid_request", U),
    ("shutdown_channel", "Channel not found error: Hash256(0x00)",
     LocalProtocolError, "invalid_request", U),
    ("connect_peer", "Peer not found error: Pubkey(02)", LocalProtocolError, "invalid_request", U),
    ("disconnect_peer", "peer Pubkey(02) is not connected",
     LocalProtocolError, "invalid_request", U),
    ("new_invoice", "Currency must be Fibd with the chain network",
     LocalProtocolError, "invalid_request", U),
    ("new_invoice", "Both payment_hash and payment_preimage are set",
     LocalProtocolError, "invalid_request", U),
    ("new_invoice", "invoice already exists", InvoiceAlreadyExists, "fiber_error", U),
    ("new_invoice", "final_expiry_delta must be greater than or equal to 9600000",
     LocalProtocolError, "invalid_request", U),
    ("new_invoice", "final_expiry_delta must be less than or equal to 1209600000",
     LocalProtocolError, "invalid_request", U),
    ("new_invoice", "Description with length of 640 is too long, max length is 639",
     LocalProtocolError, "invalid_request", U),
    ("new_invoice", "Node does not support MPP, please enable MPP feature",
     LocalProtocolError, "invalid_request", U),
    ("parse_invoice", "Bech32 error: invalid length", RemoteProtocolError, "invalid_invoice", U),
    ("parse_invoice", "Too short data part", RemoteProtocolError, "invalid_invoice", U),
    ("parse_invoice", "Parsing failed with malformed HRP: x",
     RemoteProtocolError, "invalid_invoice", U),
    ("parse_invoice", "Unknown currency: fibx", RemoteProtocolError, "invalid_invoice", U),
    ("parse_invoice", "Invalid signature", RemoteProtocolError, "invalid_invoice", U),
    ("parse_invoice", "Invalid recovery id", RemoteProtocolError, "invalid_invoice", U),
    ("parse_invoice", "Molecule error: x", RemoteProtocolError, "invalid_invoice", U),
    ("get_invoice", "invoice not found", InvoiceNotFound, "not_found", U),
    ("cancel_invoice", "invoice not found", InvoiceNotFound, "not_found", U),
    ("settle_invoice", "Invoice not found", InvoiceNotFound, "not_found", U),
    ("cancel_invoice", "invoice can not be canceled, current status: Paid",
     InvoiceStateConflict, "fiber_error", M),
    ("cancel_invoice", "invoice can not be canceled, current status: Cancelled",
     InvoiceStateConflict, "payment_not_received", U),
    ("cancel_invoice", "invoice can not be canceled, current status: Frozen",
     InvoiceStateConflict, "fiber_error", X),
    ("settle_invoice", "Hash mismatch", LocalProtocolError, "invalid_preimage", X),
    ("settle_invoice", "Invoice is still open", InvoiceStateConflict, "payment_pending", X),
    ("settle_invoice", "Invoice is already cancelled",
     InvoiceStateConflict, "payment_not_received", U),
    ("settle_invoice", "Invoice is already expired",
     InvoiceStateConflict, "payment_not_received", U),
    ("settle_invoice", "Invoice is already paid", InvoiceStateConflict, "fiber_error", M),
    ("send_payment", INVALID + 'invoice is expired"', PaymentFailed, "payment_failed", U),
    *[
        ("send_payment", INVALID + reason + '"', LocalProtocolError, "invalid_request", U)
        for reason in (
            "amount must be greater than 0",
            "amount is missing",
            "target_pubkey is missing",
            "udt_type_script does not match the invoice",
            "keysend payment should not have invoice",
            "keysend payment should not have payment_hash",
            "invalid final_tlc_expiry_delta, expect between 9600000 and 1209600000",
            "payment invoice is not allow MPP",
            "invoice does not support hop hints",
        )
    ],
    ("send_payment", INVALID + 'invoice is invalid"', RemoteProtocolError, "invalid_invoice", U),
    ("send_payment", ROUTE + "PathFind error: no path found", NoRoute, "no_route", U),
    ("send_payment_with_router", ROUTE + "PathFind error: no path found", NoRoute, "no_route", U),
    ("build_router", ROUTE + "PathFind error: no path found", NoRoute, "no_route", U),
    ("build_router", "Network Graph error: PathFind error: no path found",
     NoRoute, "no_route", U),
    ("send_payment", ROUTE + "Insufficient balance: max outbound liquidity 0 is insufficient,"
     " required amount: 7", NoRoute, "no_route", U),
    ("send_payment", ROUTE + "Feature not enabled: allow_self_payment is not enabled, can not pay"
     " to self", LocalProtocolError, "invalid_request", U),
    ("send_payment", (f"InvalidParameter: Payment session already exists: {HASH} with payment"
     " session status: Success"), PaymentAlreadyExists, "payment_outcome_unknown", M),
    ("send_payment", (f"InvalidParameter: Payment session already exists: {HASH} with payment"
     " session status: Inflight"), PaymentAlreadyExists, "payment_outcome_unknown", X),
    ("send_payment", f"Payment session already exists, stop start new payment actor for {HASH}",
     PaymentAlreadyExists, "payment_outcome_unknown", X),
    ("send_payment", (f"InvalidParameter: Payment session {HASH} has attempts that are in flight"
     " state, can not retry"), PaymentAlreadyExists, "payment_outcome_unknown", X),
    ("get_payment", f"InvalidParameter: Payment session not found: {HASH}",
     PaymentNotFound, "not_found", U),
]  # fmt: skip


def _fault(method: str, message: str, code: int = -32000, money: Money = X) -> Fault:
    return Fault(method=method, code=code, message=message, money=money)


@pytest.mark.parametrize(("method", "text", "kind", "code", "money"), TEXTS)
def test_a_known_text_becomes_a_typed_error(method, text, kind, code, money) -> None:
    error = classify(_fault(method, text))
    assert type(error) is kind
    assert (error.code, error.money) == (code, money)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (f"Payment session already exists: {HASH} with payment session status: Success",
         PaymentStatus.SUCCESS),
        (f"Payment session already exists: {HASH} with payment session status: Created",
         PaymentStatus.CREATED),
        (f"Payment session already exists: {HASH} with payment session status: Novel",
         PaymentStatus.UNKNOWN),
        (f"Payment session already exists, stop start new payment actor for {HASH}",
         PaymentStatus.UNKNOWN),
        (f"Payment session {HASH} has attempts that are in flight state, can not retry",
         PaymentStatus.INFLIGHT),
    ],
)  # fmt: skip
def test_a_duplicate_tells_the_status_of_the_first(text: str, status: PaymentStatus) -> None:
    error = classify(_fault("send_payment", text))
    assert isinstance(error, PaymentAlreadyExists)
    assert error.payment_status is status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Invoice is still open", InvoiceStatus.OPEN),
        ("Invoice is already cancelled", InvoiceStatus.CANCELLED),
        ("Invoice is already expired", InvoiceStatus.EXPIRED),
        ("Invoice is already paid", InvoiceStatus.PAID),
    ],
)
def test_a_conflict_tells_the_status_of_the_invoice(text: str, status: InvoiceStatus) -> None:
    error = classify(_fault("settle_invoice", text))
    assert isinstance(error, InvoiceStateConflict)
    assert error.invoice_status is status


def test_missing_liquidity_is_told_in_numbers() -> None:
    text = "Insufficient balance: max outbound liquidity 40 is insufficient, required amount: 41"
    error = classify(_fault("send_payment", ROUTE + text))
    assert error.details == {
        "reason": "insufficient_outbound_liquidity",
        "max_outbound_liquidity": "40",
        "required": "41",
    }


def test_an_expired_invoice_asks_for_a_new_one() -> None:
    assert classify(_fault("send_payment", INVALID + 'invoice is expired"')).retry is (
        Retry.NEW_CHALLENGE
    )


@pytest.mark.parametrize("money", list(Money))
def test_an_unknown_text_keeps_what_the_call_put_at_stake(money: Money) -> None:
    error = classify(_fault("send_payment", "the moon is full", money=money))
    assert type(error) is FiberNodeError
    assert error.money is money
    assert error.details == {"rpc_method": "send_payment", "rpc_code": -32000}


def test_a_text_counts_only_for_the_methods_that_say_it() -> None:
    error = classify(_fault("settle_invoice", "Payment session not found"))
    assert type(error) is FiberNodeError
    assert type(classify(_fault("send_payment", "invoice not found"))) is FiberNodeError


def test_a_text_counts_only_with_the_application_code() -> None:
    error = classify(_fault("get_payment", "Payment session not found", code=-32603))
    assert type(error) is FiberNodeError


@pytest.mark.parametrize(
    ("code", "kind", "base", "money"),
    [
        (-32601, FiberMethodUnknown, ConfigError, U),
        (-32999, FiberUnauthorized, ConfigError, U),
        (-32602, LocalProtocolError, LocalProtocolError, U),
        (-32600, LocalProtocolError, LocalProtocolError, U),
        (-32700, LocalProtocolError, LocalProtocolError, U),
        (-32007, LocalProtocolError, LocalProtocolError, U),
        (-32009, FiberNotReady, TransportError, U),
        (-32603, FiberNodeError, InfernError, X),
        (-32008, FiberNodeError, InfernError, X),
    ],
)
def test_codes(code: int, kind: type, base: type, money: Money) -> None:
    error = classify(_fault("send_payment", "any text: no path found", code=code))
    assert type(error) is kind
    assert isinstance(error, base)
    assert error.money is money


def test_a_long_text_is_cut() -> None:
    assert len(classify(_fault("send_payment", "x" * 10_000)).message) < 400


def _failed(reason: str | None) -> PaymentRecord:
    return PaymentRecord(
        payment_hash=PaymentHash(b"\x01" * 32),
        status=PaymentStatus.FAILED,
        preimage=None,
        fee=0,
        failed_error=reason,
        created_at_ms=1,
        last_updated_at_ms=2,
    )


@pytest.mark.parametrize(
    ("reason", "kind", "retry"),
    [
        ("Failed to build route, PathFind error: no path found", NoRoute, Retry.SAME_CREDENTIAL),
        ("InvoiceCancelled", PaymentFailed, Retry.NEW_CHALLENGE),
        ("InvoiceExpired", PaymentFailed, Retry.NEW_CHALLENGE),
        ("IncorrectOrUnknownPaymentDetails", PaymentFailed, Retry.NEW_CHALLENGE),
        ("HoldTlcTimeout", PaymentFailed, Retry.NEW_CHALLENGE),
        ("TemporaryChannelFailure", PaymentFailed, Retry.SAME_CREDENTIAL),
        ("UnknownNextPeer", PaymentFailed, Retry.SAME_CREDENTIAL),
        ("Can not send payment with limited attempts", PaymentFailed, Retry.SAME_CREDENTIAL),
        (None, PaymentFailed, Retry.SAME_CREDENTIAL),
    ],
)
def test_a_failed_payment_left_the_money_where_it_was(reason, kind, retry) -> None:
    error = payment_failure(_failed(reason))
    assert type(error) is kind
    assert (error.money, error.retry) == (U, retry)
