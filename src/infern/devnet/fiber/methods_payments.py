"""Methods that pay and that tell how a payment went."""

from typing import Final

from infern.core.ckb.script import Script
from infern.core.errors import JsonValue
from infern.devnet.fiber.errors import NodeError
from infern.devnet.fiber.node import Node, hex0x
from infern.devnet.fiber.params import (
    BOOL,
    HASH256,
    HOP_HINTS,
    HOPS_INFO,
    PAYMENT_STATUS,
    PUBKEY,
    PUBKEYS,
    RECORDS,
    ROUTER,
    SCRIPT,
    STRING,
    U64,
    U128,
    Field,
    HopRequire,
    Params,
    unwrap,
)
from infern.devnet.fiber.requests import payment_request, router_request
from infern.devnet.fiber.routing import PathError, build_path
from infern.devnet.fiber.settings import DEFAULT_FINAL_TLC_EXPIRY_DELTA_MS
from infern.devnet.fiber.table import Method
from infern.devnet.fiber.views import payment_view

DEFAULT_LIST_LIMIT: Final = 15


def _send_payment(node: Node, params: Params) -> JsonValue:
    request = payment_request(node, params)
    return payment_view(node, node.network.payer.send(node, request))


def _send_payment_with_router(node: Node, params: Params) -> JsonValue:
    request = router_request(node, params)
    return payment_view(node, node.network.payer.send(node, request))


def _get_payment(node: Node, params: Params) -> JsonValue:
    payment_hash = params.need("payment_hash", bytes)
    session = node.sessions.get(payment_hash)
    if session is None:
        raise NodeError(
            f"InvalidParameter: Payment session not found: Hash256({hex0x(payment_hash)})"
        )
    return payment_view(node, session)


def _list_payments(node: Node, params: Params) -> JsonValue:
    limit, after = params.maybe("limit", int), params.maybe("after", bytes)
    status = params.maybe("status", str)
    rest = [
        session
        for payment_hash, session in sorted(node.sessions.items())
        if (after is None or payment_hash > after) and status in (None, session.status.value)
    ]
    page = rest[: DEFAULT_LIST_LIMIT if limit is None else limit]
    payments: list[JsonValue] = [payment_view(node, session) for session in page]
    last = hex0x(page[-1].request.payment_hash) if page else None
    return {"payments": payments, "last_cursor": last}


def _build_router(node: Node, params: Params) -> JsonValue:
    wanted = unwrap(params.maybe("hops_info", tuple), HopRequire)
    if not wanted:
        raise NodeError("InvalidParameter: No hop requirements provided")
    amount, delta = params.maybe("amount", int), params.maybe("final_tlc_expiry_delta", int)
    try:
        path = build_path(
            node.network,
            node,
            hops=tuple((hop.pubkey, hop.channel_outpoint) for hop in wanted),
            amount=1 if amount is None else amount,
            final_delta_ms=DEFAULT_FINAL_TLC_EXPIRY_DELTA_MS if delta is None else delta,
            udt=params.maybe("udt_type_script", Script),
        )
    except PathError as error:
        raise NodeError(f"Network Graph error: {error}") from None
    hops: list[JsonValue] = [
        {
            "target": hop.target.hex(),
            "channel_outpoint": hex0x(hop.channel_outpoint),
            "amount_received": hex(hop.amount_received),
            "incoming_tlc_expiry": hex(hop.incoming_tlc_expiry),
        }
        for hop in path
    ]
    return {"router_hops": hops}


METHODS: Final = (
    Method(
        "send_payment",
        (
            Field("target_pubkey", PUBKEY),
            Field("amount", U128),
            Field("payment_hash", HASH256),
            Field("final_tlc_expiry_delta", U64),
            Field("tlc_expiry_limit", U64),
            Field("invoice", STRING),
            Field("timeout", U64),
            Field("max_fee_amount", U128),
            Field("max_fee_rate", U64),
            Field("max_parts", U64),
            Field("trampoline_hops", PUBKEYS),
            Field("keysend", BOOL),
            Field("udt_type_script", SCRIPT),
            Field("allow_self_payment", BOOL),
            Field("custom_records", RECORDS),
            Field("hop_hints", HOP_HINTS),
            Field("dry_run", BOOL),
        ),
        _send_payment,
        'write("payments")',
    ),
    Method(
        "get_payment",
        (Field("payment_hash", HASH256, required=True),),
        _get_payment,
        'read("payments")',
    ),
    Method(
        "list_payments",
        (Field("status", PAYMENT_STATUS), Field("limit", U64), Field("after", HASH256)),
        _list_payments,
        'read("payments")',
    ),
    Method(
        "build_router",
        (
            Field("amount", U128),
            Field("udt_type_script", SCRIPT),
            Field("hops_info", HOPS_INFO, required=True),
            Field("final_tlc_expiry_delta", U64),
        ),
        _build_router,
        'read("payments")',
    ),
    Method(
        "send_payment_with_router",
        (
            Field("payment_hash", HASH256),
            Field("router", ROUTER, required=True),
            Field("invoice", STRING),
            Field("custom_records", RECORDS),
            Field("keysend", BOOL),
            Field("udt_type_script", SCRIPT),
            Field("dry_run", BOOL),
        ),
        _send_payment_with_router,
        'write("payments")',
    ),
)
