"""From `send_payment` parameters to a validated request, with fnn's reasons for a refusal.

Source: fnn 0.8.0 `payment.rs`, `SendPaymentData::new` and `SendPaymentDataBuilder::validate`.
"""

from typing import Final, TypeVar

from infern.core.ckb.script import Script
from infern.core.errors import InfernError
from infern.core.fiber.invoice import HashAlgorithm, Invoice, decode_invoice
from infern.core.units import div_ceil
from infern.devnet.fiber.errors import NodeError
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.params import Params, unwrap
from infern.devnet.fiber.session import HopHint, PaymentRequest, RouterHop
from infern.devnet.fiber.settings import (
    DEFAULT_FINAL_TLC_EXPIRY_DELTA_MS,
    MAX_TLC_EXPIRY_MS,
    MAX_U64,
    MAX_U128,
    MIN_TLC_EXPIRY_DELTA_MS,
    Version,
)

DEFAULT_MAX_FEE_RATE: Final = 5
MAX_FEE_RATE_DENOMINATOR: Final = 1_000
MAX_PARTS_LIMIT: Final = 24
MAX_TRAMPOLINE_HOPS: Final = 5
MAX_RECORD_KEY: Final = 65_535
MAX_RECORDS_BYTES: Final = 2_048
TRAMPOLINE_OPTIONAL: Final = "TRAMPOLINE_ROUTING_OPTIONAL"
TRAMPOLINE_REQUIRED: Final = "TRAMPOLINE_ROUTING_REQUIRED"

T = TypeVar("T")


class _Invalid(Exception):
    """The reason in fnn's words."""


def payment_request(node: Node, params: Params) -> PaymentRequest:
    """Validate the parameters of `send_payment`.

    Raises:
        NodeError: With the reason; nothing was stored and no money moved.
    """
    try:
        request = _build(node, params)
        _validate(request, params)
    except _Invalid as reason:
        raise _refused(reason) from None
    return request


def router_request(node: Node, params: Params) -> PaymentRequest:
    """Validate the parameters of `send_payment_with_router`.

    Raises:
        NodeError: With the reason; nothing was stored and no money moved.
    """
    router = unwrap(params.maybe("router", tuple), RouterHop)
    if not router:
        raise NodeError("InvalidParameter: No hop requirements provided")
    last = router[-1]
    given = _Given(
        target=last.target,
        amount=last.amount_received,
        payment_hash=params.maybe("payment_hash", bytes),
        udt=params.maybe("udt_type_script", Script),
        keysend=params.flag("keysend"),
        allow_self_payment=last.target == node.pubkey,
        router=router,
    )
    try:
        request = _build(node, params, given)
        _validate(request, None)
    except _Invalid as reason:
        raise _refused(reason) from None
    return request


def _refused(reason: _Invalid) -> NodeError:
    return NodeError(f'InvalidParameter: Failed to validate payment request: "{reason}"')


class _Given:
    """What the caller said itself, before the invoice is consulted."""

    def __init__(
        self,
        *,
        target: bytes | None,
        amount: int | None,
        payment_hash: bytes | None,
        udt: Script | None,
        keysend: bool,
        allow_self_payment: bool,
        router: tuple[RouterHop, ...] = (),
    ) -> None:
        self.target = target
        self.amount = amount
        self.payment_hash = payment_hash
        self.udt = udt
        self.keysend = keysend
        self.allow_self_payment = allow_self_payment
        self.router = router

    @classmethod
    def of(cls, params: Params) -> "_Given":
        return cls(
            target=params.maybe("target_pubkey", bytes),
            amount=params.maybe("amount", int),
            payment_hash=params.maybe("payment_hash", bytes),
            udt=params.maybe("udt_type_script", Script),
            keysend=params.flag("keysend"),
            allow_self_payment=params.flag("allow_self_payment"),
        )


def _build(node: Node, params: Params, explicit: _Given | None = None) -> PaymentRequest:
    given = explicit or _Given.of(params)
    full = explicit is None
    text = params.maybe("invoice", str)
    invoice = None if text is None else _read_invoice(node, text)
    payee = None if invoice is None else invoice.payee_pubkey
    target = _agree(given.target, payee, "target_pubkey")
    amount = _agree(given.amount, None if invoice is None else invoice.amount, "amount")
    rate = params.maybe("max_fee_rate", int) if full else None
    budget = min(
        div_ceil(
            amount * (DEFAULT_MAX_FEE_RATE if rate is None else rate), MAX_FEE_RATE_DENOMINATOR
        ),
        MAX_U128,
    )
    cap = params.maybe("max_fee_amount", int) if full else None
    script = None if invoice is None else invoice.udt_script
    if given.udt is not None and script is not None and given.udt != script:
        raise _Invalid("udt_type_script does not match the invoice")
    payment_hash, preimage = _hash_and_preimage(node, given, invoice)
    hints = unwrap(params.maybe("hop_hints", tuple), HopHint) if full else ()
    if hints and invoice is not None and not _allows_trampoline(invoice):
        raise _Invalid("invoice does not support hop hints")
    delta = None if invoice is None else invoice.final_expiry_delta_ms
    if delta is None and full:
        delta = params.maybe("final_tlc_expiry_delta", int)
    limit = params.maybe("tlc_expiry_limit", int) if full else None
    return PaymentRequest(
        target=target,
        amount=amount,
        payment_hash=payment_hash,
        max_fee=budget if cap is None else min(cap, budget),
        final_delta_ms=DEFAULT_FINAL_TLC_EXPIRY_DELTA_MS if delta is None else delta,
        expiry_limit_ms=MAX_TLC_EXPIRY_MS if limit is None else limit,
        algorithm=HashAlgorithm.CKB_HASH if invoice is None else invoice.hash_algorithm,
        invoice=text,
        preimage=preimage,
        udt=given.udt or script,
        allow_self_payment=given.allow_self_payment,
        trampoline=full and params.maybe("trampoline_hops", tuple) is not None,
        hop_hints=hints,
        router=given.router,
        custom_records=params.maybe("custom_records", dict) if full else None,
        timeout_s=params.maybe("timeout", int) if full else None,
        dry_run=params.flag("dry_run"),
    )


def _read_invoice(node: Node, text: str) -> Invoice:
    try:
        invoice = decode_invoice(text, node.network.verifier)
    except InfernError:
        raise _Invalid("invoice is invalid") from None
    if invoice.signature is None and node.settings.version is Version.V0_9_1:
        raise _Invalid("invoice is invalid")
    if invoice.is_expired(node.network.clock.now_ms):
        raise _Invalid("invoice is expired")
    return invoice


def _hash_and_preimage(
    node: Node, given: _Given, invoice: Invoice | None
) -> tuple[bytes, bytes | None]:
    if not given.keysend:
        stated = None if invoice is None else bytes(invoice.payment_hash)
        return _agree(given.payment_hash, stated, "payment_hash"), None
    if invoice is not None:
        raise _Invalid("keysend payment should not have invoice")
    if given.payment_hash is not None:
        raise _Invalid("keysend payment should not have payment_hash")
    preimage = node.entropy.take(32)
    return HashAlgorithm.CKB_HASH.digest(preimage), preimage


def _agree(given: T | None, stated: T | None, name: str) -> T:
    if given is not None and stated is not None and given != stated:
        raise _Invalid(f"{name} does not match the invoice")
    value = stated if given is None else given
    if value is None:
        raise _Invalid(f"{name} is missing")
    return value


def _allows_trampoline(invoice: Invoice) -> bool:
    return not invoice.features.isdisjoint({TRAMPOLINE_OPTIONAL, TRAMPOLINE_REQUIRED})


def _validate(request: PaymentRequest, params: Params | None) -> None:
    if request.amount == 0:
        raise _Invalid("amount must be greater than 0")
    if request.amount + request.max_fee > MAX_U128:
        raise _Invalid(
            f"amount + max_fee_amount overflow: amount = {request.amount}, "
            f"max_fee_amount = Some({request.max_fee})"
        )
    _validate_expiry(request)
    if params is not None:
        _validate_trampoline(request, params.maybe("trampoline_hops", tuple))
    if request.udt is None and request.amount >= MAX_U64:
        raise _Invalid(f"The payment amount ({request.amount}) should be less than {MAX_U64}")
    records = request.custom_records or {}
    if any(key > MAX_RECORD_KEY for key in records):
        raise _Invalid(f"custom_records key should in range 0 ~ {MAX_RECORD_KEY}")
    if sum(len(value) for value in records.values()) > MAX_RECORDS_BYTES:
        raise _Invalid(
            f"the sum size of custom_records's value can not more than {MAX_RECORDS_BYTES} bytes"
        )
    parts = None if params is None else params.maybe("max_parts", int)
    if parts is not None and not 1 <= parts <= MAX_PARTS_LIMIT:
        raise _Invalid(f"invalid max_parts, value should be in range [1, {MAX_PARTS_LIMIT}]")
    if parts is not None and parts > 1:
        raise _Invalid("payment invoice is not allow MPP")


def _validate_expiry(request: PaymentRequest) -> None:
    delta, limit = request.final_delta_ms, request.expiry_limit_ms
    if not MIN_TLC_EXPIRY_DELTA_MS <= delta <= MAX_TLC_EXPIRY_MS:
        raise _Invalid(
            f"invalid final_tlc_expiry_delta, expect between {MIN_TLC_EXPIRY_DELTA_MS} "
            f"and {MAX_TLC_EXPIRY_MS}"
        )
    if limit < delta or limit < MIN_TLC_EXPIRY_DELTA_MS:
        raise _Invalid(
            f"tlc_expiry_limit is too small, final_tlc_expiry_delta: {delta}, "
            f"tlc_expiry_limit: {limit}"
        )
    if limit > MAX_TLC_EXPIRY_MS:
        raise _Invalid(f"tlc_expiry_limit is too large, expect it to less than {MAX_TLC_EXPIRY_MS}")


def _validate_trampoline(request: PaymentRequest, hops: tuple[bytes, ...] | None) -> None:
    if hops is None:
        return
    if not hops:
        raise _Invalid("trampoline_hops must be non-empty when provided")
    if len(hops) > MAX_TRAMPOLINE_HOPS:
        raise _Invalid(f"too many trampoline_hops, at most {MAX_TRAMPOLINE_HOPS}")
    if request.target in hops:
        raise _Invalid("trampoline_hops must not contain target_pubkey")
    if len(set(hops)) != len(hops):
        raise _Invalid("trampoline_hops must not contain duplicates")
    if request.allow_self_payment:
        raise _Invalid("allow_self_payment cannot be enabled with trampoline routing")
