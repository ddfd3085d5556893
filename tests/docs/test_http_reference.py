import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from starlette.routing import Route

from infern.adapters.secp256k1 import CoincurveSigner
from infern.core.errors import PaymentRequired
from infern.core.f402.challenge import Mode
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import decode_header_json, offer_details, settlement_header
from infern.core.ids import PaymentHash, PayoutId, Pubkey, TabId
from infern.core.ledger.books import Totals
from infern.core.ledger.payout import (
    Payout,
    PayoutPurpose,
    PayoutState,
    fee_cap_of,
    largest_payout,
)
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import CKB
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.render import error_object
from infern.seller.accounts import refund_json, tab_json
from infern.seller.app import SellerApp
from infern.seller.config import SellerLimits
from infern.seller.hold_offers import Reason
from infern.seller.minting import LINKS
from infern.seller.solvency import Solvency
from infern.seller.withdrawals import payout_json
from infern.testing.offers import honest_offer

Json = dict[str, Any]
Examples = Callable[[str], list[Json]]

JSON_BLOCK = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^### `(GET|POST) (/[^`]*)`$", re.MULTILINE)
CHAT = "POST /v1/chat/completions"
OFFER = honest_offer(CoincurveSigner(b"\x01" * 32))


@pytest.fixture(scope="module")
def reference(document: Callable[[str], str]) -> str:
    return document("docs/reference/http.md")


@pytest.fixture(scope="module")
def examples(reference: str) -> Examples:
    """JSON examples under one endpoint's heading, in their order."""
    parts = re.split(r"^### `(.+)`$", reference, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return lambda name: [json.loads(block) for block in JSON_BLOCK.findall(sections[name])]


def _shape(value: Any) -> Any:
    """Member names and kinds of values; what the values are does not matter."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return type(value).__name__


def test_every_endpoint_is_described_and_no_other(reference: str) -> None:
    # Listing routes asks nothing of a seller's parts but its limits.
    config = SimpleNamespace(limits=SellerLimits())
    parts: Any = SimpleNamespace(config=config, clock=None, proofs=None)
    routes = SellerApp(parts)._rest.routes
    served = {("POST", endpoint.path) for endpoint in Endpoint}
    for route in routes:
        assert isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}:
            served.add((method, route.path.replace(":path", "")))
    assert set(HEADING.findall(reference)) == served


def test_the_table_lists_what_is_described(reference: str) -> None:
    listed = re.findall(r"^\| \[`(GET|POST) (/[^`]*)`\]", reference, re.MULTILINE)
    assert listed == HEADING.findall(reference)


def test_the_offer_is_as_shown(examples: Examples) -> None:
    shown = examples(CHAT)[0]["error"]
    details = {**offer_details(OFFER), "links": {**LINKS, "pay_uri": ""}}
    made = error_object(PaymentRequired("", details=details), "req_1")
    assert _shape(shown) == _shape(made)
    assert shown["f402"]["mode"] == Mode.UPFRONT.value
    assert shown["f402"]["amount"] == shown["f402"]["quote"]["max"]


def test_the_quote_alone_is_as_shown(examples: Examples) -> None:
    offered, quoted = examples(CHAT)[:2]
    assert quoted["invoice"] is None
    assert quoted["quote"] == offered["error"]["f402"]["quote"]
    assert quoted["links"] == dict(LINKS)
    assert examples("POST /v1/f402/quote")[0]["quote"] == quoted["quote"]


def test_the_proof_and_its_settlement_are_as_shown(examples: Examples) -> None:
    _, _, proof, _, settlement = examples(CHAT)[:5]
    text = proof_header(OFFER, preimage=None)
    made = decode_header_json(text, limit_chars=len(text), code="malformed_proof")
    assert _shape(proof) == _shape(made)
    text = settlement_header(OFFER.challenge, success=True)
    assert _shape(settlement) == _shape(
        decode_header_json(text, limit_chars=len(text), code="malformed_proof")
    )


def test_hold_mode_is_as_shown(examples: Examples) -> None:
    held, refused = examples(CHAT)[5:7]
    challenge = replace(OFFER.challenge, mode=Mode.HOLD)
    made = offer_details(replace(OFFER, challenge=challenge, locked_s=930))["hold"]
    assert held == {"hold": {**made, "amount": examples(CHAT)[0]["error"]["f402"]["amount"]}}  # type: ignore[dict-item]  # an object
    limits = SellerLimits()
    assert held["hold"]["locked_s"] * 1000 == limits.lock_claim_ms + limits.total_timeout_ms
    assert Reason(refused["reason"])
    assert refused["max_amount"] == str(limits.hold_max_amount)
    assert set(refused) == {"reason", "max_amount", "quote", "links"}


def test_the_balance_is_as_shown(examples: Examples) -> None:
    (shown,) = examples("GET /v1/f402/balance")
    deposited = int(shown["deposited"])
    tab = Tab(tab_id=TabId("t"), kind=TabKind.KEY, asset=CKB, deposited=deposited)
    assert shown == {"key_id": shown["key_id"], **tab_json(tab, owed=0)}


def test_the_refund_in_a_receipt_is_as_shown(examples: Examples) -> None:
    plain, refunded = examples("GET /v1/f402/receipts/{request_id}")
    shown = refunded["refund"]
    assert plain["refund"] is None
    assert shown == refund_json(_payout(shown, PayoutPurpose.REMAINDER))
    assert int(shown["amount"]) == largest_payout(int(refunded["remainder"]))


def test_withdrawals_are_as_shown(examples: Examples) -> None:
    settled, returned = examples("POST /v1/f402/withdraw")
    for shown in (settled, returned):
        assert shown == {"id": shown["id"], **payout_json(_payout(shown))}
        assert int(shown["fee_cap"]) == fee_cap_of(int(shown["amount"]))
    (listed,) = examples("GET /v1/f402/withdrawals")
    assert listed == {"data": [payout_json(_payout(settled))]}


def _payout(shown: Json, purpose: PayoutPurpose = PayoutPurpose.WITHDRAW) -> Payout:
    """A payout that ended as shown."""
    payment_hash = shown["payment_hash"]
    return Payout(
        payout_id=PayoutId(shown.get("payout_id", "out_1")),
        tab_id=TabId("t"),
        purpose=purpose,
        request_key=bytes(32),
        asset=CKB,
        amount=int(shown["amount"]),
        fee_cap=fee_cap_of(int(shown["amount"])),
        fee=int(shown["fee"]),
        target=Pubkey(bytes.fromhex(shown["pubkey"]) if "pubkey" in shown else b"\x02" * 33),
        payment_hash=PaymentHash(bytes.fromhex(payment_hash)) if payment_hash else None,
        state=PayoutState(shown["state"]),
        failure=shown["failure"] or "",
        created_ms=shown.get("created_at", 1) * 1000,
        ended_ms=shown.get("ended_at", 1) * 1000,
    )


async def test_solvency_is_as_shown(examples: Examples) -> None:
    (shown,) = examples("GET /v1/f402/solvency")
    (asset,) = shown["assets"]
    balance, local = int(asset["balance"]), int(asset["node"]["local"])
    totals = dict.fromkeys((f.name for f in fields(Totals)), 0)
    totals |= {"deposited": local, "received": local, "balance": balance}
    totals |= {"spent": local - balance, "captured": local - balance}
    channel = SimpleNamespace(
        is_ready=True,
        udt_type_script=None,
        local_balance=local,
        offered_tlc_balance=0,
        received_tlc_balance=0,
    )
    parts: Any = SimpleNamespace(
        config=SimpleNamespace(limits=SellerLimits()),
        clock=SimpleNamespace(now_ms=lambda: shown["as_of"] * 1000),
        ledger=SimpleNamespace(totals=AsyncMock(return_value={CKB: Totals(**totals)})),
        fiber=SimpleNamespace(call=AsyncMock(return_value=[channel])),
    )
    assert await Solvency(parts).report() == shown


def test_amounts_of_the_examples_add_up(examples: Examples) -> None:
    quote = examples(CHAT)[0]["error"]["f402"]["quote"]
    answer = examples(CHAT)[3]["f402"]
    fee = int(quote["request_fee"])
    per_input, per_output = int(quote["input_per_mtok"]), int(quote["output_per_mtok"])

    def cost(prompt: int, completion: int) -> int:
        return fee + -(-(prompt * per_input + completion * per_output) // 1_000_000)

    assert int(quote["max"]) == cost(quote["prompt_tokens_max"], quote["completion_tokens_max"])
    assert int(answer["charged"]) == cost(answer["prompt_tokens"], answer["completion_tokens"])
    assert int(answer["charged"]) + int(answer["remainder"]) == int(quote["max"])
