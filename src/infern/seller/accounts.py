"""Keys, top-ups, balances, receipts and redemption: the endpoints beside inference.

Plain Starlette; none of this is on the hot path. Each handler is one small conversation with the
ledger, and every refusal has the OpenAI error shape.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infern.core.errors import JsonValue, ProtocolError, QuotaExceeded, RemoteProtocolError
from infern.core.f402.credential import key_digest, make_key
from infern.core.f402.offer import terms_to_json
from infern.core.f402.receipt import Receipt, sign_receipt
from infern.core.ids import (
    PaymentHash,
    RequestId,
    TabId,
    base32_id,
    parse_payment_hash,
    parse_preimage,
)
from infern.core.ledger.payout import Payout, PayoutPurpose
from infern.core.ledger.records import KeyRecord, StoredReceipt, Topup, TopupState
from infern.core.ledger.tab import Tab
from infern.core.units import CKB, parse_amount
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.strict_json import JsonObject, loads_object
from infern.seller.endpoints import NO_STORE, Endpoints, Handler
from infern.seller.limits import BODIES_PER_ADDRESS, AddressLimiter, AddressSlots, Slots
from infern.seller.minting import LINKS
from infern.seller.parts import SellerParts
from infern.seller.pricing import price_request
from infern.seller.settlement import paid_request

MAX_RECEIPTS: Final = 100


class Accounts(Endpoints):
    """The `/v1/f402/*` and `/v1/models` endpoints over a seller's parts."""

    def __init__(self, parts: SellerParts) -> None:
        super().__init__(parts)
        self._new_keys = AddressLimiter(
            per_minute=parts.config.limits.keys_per_minute,
            capacity=parts.config.limits.addresses,
        )
        # Half of what unpaid requests may fill the memory with, for an answer nobody pays for.
        self._quotes = Slots(parts.config.limits.open_requests // 2 or 1, "quotes")
        self._quotes_by_address = AddressSlots(BODIES_PER_ADDRESS, "quotes")
        self._topups = AddressLimiter(
            per_minute=parts.config.limits.topups_per_minute,
            capacity=parts.config.limits.addresses,
        )

    def routes(self) -> list[Route]:
        """Starlette routes."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{model:path}", self.model),
            ("POST", "/v1/f402/quote", self.quote),
            ("POST", "/v1/f402/keys", self.new_key),
            ("POST", "/v1/f402/topups", self.new_topup),
            ("GET", "/v1/f402/topups/{payment_hash}", self.topup),
            ("GET", "/v1/f402/balance", self.balance),
            ("GET", "/v1/f402/receipts", self.receipts),
            ("GET", "/v1/f402/receipts/{request_id}", self.receipt),
            ("POST", "/v1/f402/redeem", self.redeem),
        ]
        return self._routes(table)

    async def models(self, _: Request) -> Response:
        """Everything on sale, in OpenAI's list shape with prices."""
        data = [self._model_json(listing.model) for listing in self._parts.backend.listings()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One model."""
        return JSONResponse(self._model_json(request.path_params["model"]))

    def _model_json(self, name: str) -> dict[str, JsonValue]:
        listing = self._parts.backend.find(name)
        if listing is None:
            raise ProtocolError(
                f"the model {name[:80]!r} is not served here", code="model_not_found"
            )
        config = self._parts.config
        return {
            "id": listing.model,
            "object": "model",
            "created": listing.created_s,
            "owned_by": "infern",
            **listing.to_json(),
            "f402": {
                "version": 1,
                "network": config.network.fiber_id,
                "pay_to": config.pay_to.hex(),
                "agent_pubkey": config.agent.hex(),
                "listing": listing.listing_id,
            },
        }

    async def quote(self, request: Request) -> Response:
        """What a request would cost at most, for free and without an invoice."""
        target = request.query_params.get("target", Endpoint.CHAT_COMPLETIONS.path)
        endpoint = Endpoint.from_path(target)
        if endpoint is None:
            raise RemoteProtocolError(f"{target[:80]!r} is not a priced endpoint")
        limit = self._parts.config.limits.anonymous_body_bytes
        address = request.client.host if request.client else ""
        with self._quotes.one(), self._quotes_by_address.one(address):
            body = await self._body(request, limit)
        order = price_request(self._parts.backend, endpoint, body)
        return JSONResponse(
            {"model": order.listing.model, "quote": terms_to_json(order.terms)}, headers=NO_STORE
        )

    async def new_key(self, request: Request) -> Response:
        """Make a prepaid key; worthless until it is funded."""
        body = loads_object(await self._body(request) or b"{}")
        amount = self._topup_amount(body) if "amount" in body else None
        address = request.client.host if request.client else ""
        if not self._new_keys.take(address, self._parts.clock.now_ms()):
            raise QuotaExceeded("Too many new keys from this address.", retry_after_s=60)
        text = make_key(self._parts.entropy.random_bytes(32))
        key = KeyRecord(
            key_digest=key_digest(text),
            key_id=base32_id("key_", self._parts.entropy.random_bytes(16)),
            tab_id=TabId(base32_id("tab_", self._parts.entropy.random_bytes(16))),
            session=self._parts.entropy.random_bytes(16),
            asset=CKB,
            created_ms=self._parts.clock.now_ms(),
        )
        await self._parts.ledger.create_key(key)
        if amount is not None:
            self._count_topup(address)
        answer: dict[str, JsonValue] = {
            "api_key": text,
            "key_id": key.key_id,
            "links": dict(LINKS),
        }
        if amount is not None:
            answer["topup"] = self._topup_json(await self._mint_topup(key, amount), key)
        return JSONResponse(answer, 201, headers=NO_STORE)

    async def new_topup(self, request: Request) -> Response:
        """Mint an invoice that credits the key when it is paid."""
        key = await self._key(request)
        amount = self._topup_amount(loads_object(await self._body(request)))
        self._count_topup(request.client.host if request.client else "")
        topup = await self._mint_topup(key, amount)
        return JSONResponse(self._topup_json(topup, key), 201, headers=NO_STORE)

    def _count_topup(self, address: str) -> None:
        """Keys cost nothing, and every invoice stays in the node's store for ever."""
        if not self._topups.take(address, self._parts.clock.now_ms()):
            raise QuotaExceeded("Too many top-up invoices from this address.", retry_after_s=60)

    def _topup_amount(self, body: JsonObject) -> int:
        limits = self._parts.config.limits
        value = body.get("amount")
        if not isinstance(value, str):
            raise RemoteProtocolError(
                'amount must be a decimal string of base units, e.g. "100000000" for 1 CKB',
                param="amount",
            )
        amount = parse_amount(value)
        if not limits.min_topup <= amount <= limits.max_topup:
            raise RemoteProtocolError(
                f"a top-up is between {limits.min_topup} and {limits.max_topup} base units",
                param="amount",
            )
        return amount

    async def _mint_topup(self, key: KeyRecord, amount: int) -> Topup:
        topup = await self._parts.minter.topup(amount=amount, key_id=key.key_id, tab_id=key.tab_id)
        # Recorded before it is shown: an invoice nobody watches would be money lost.
        limit = self._parts.config.limits.topups_per_key
        await self._parts.ledger.add_topup(topup, open_limit=limit)
        self._parts.topups.watch(topup)
        return topup

    def _topup_json(self, topup: Topup, key: KeyRecord) -> dict[str, JsonValue]:
        config = self._parts.config
        return {
            "payment_hash": topup.payment_hash.hex(),
            "invoice": topup.invoice,
            "amount": str(topup.amount),
            "asset": str(key.asset),
            "network": config.network.fiber_id,
            "pay_to": config.pay_to.hex(),
            "expires_at": topup.expires_ms // 1000,
            "key_id": topup.key_id,
            "status": topup.state.value,
        }

    async def topup(self, request: Request) -> Response:
        """One top-up of the key."""
        key = await self._key(request)
        payment_hash = parse_payment_hash(request.path_params["payment_hash"])
        topup = await self._parts.ledger.topup(payment_hash)
        if topup is None or topup.tab_id != key.tab_id:
            raise ProtocolError("this key has no such top-up", code="not_found")
        if topup.state is TopupState.OPEN and await self._parts.topups.look(topup):
            topup = await self._parts.ledger.topup(payment_hash) or topup
        return JSONResponse(self._topup_json(topup, key), headers=NO_STORE)

    async def balance(self, request: Request) -> Response:
        """The key's tab, and what of it is on its way out."""
        key = await self._key(request)
        tab = await self._parts.ledger.tab(key.tab_id)
        # One withdrawal at a time, so that an open one is the newest.
        newest = await self._parts.ledger.payouts(
            key.tab_id, purpose=PayoutPurpose.WITHDRAW, limit=1
        )
        owed = sum(payout.reserved for payout in newest if payout.is_open)
        return JSONResponse({"key_id": key.key_id, **tab_json(tab, owed=owed)}, headers=NO_STORE)

    async def receipts(self, request: Request) -> Response:
        """The key's receipts in session order, a page at a time."""
        key = await self._key(request)
        after = request.query_params.get("after")
        text = request.query_params.get("limit", "20")
        plain = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_RECEIPTS))
        if not plain or not 1 <= int(text) <= MAX_RECEIPTS:
            raise RemoteProtocolError(f"limit is a number from 1 to {MAX_RECEIPTS}", param="limit")
        found = await self._parts.ledger.receipts(
            key.tab_id, after=RequestId(after) if after else None, limit=int(text)
        )
        rows = [self._receipt_json(stored) for stored in found]
        following = found[-1].request_id if len(found) == int(text) else None
        return JSONResponse({"data": rows, "next": following}, headers=NO_STORE)

    async def receipt(self, request: Request) -> Response:
        """One receipt; its request id is unguessable, so knowing it is enough."""
        stored = await self._parts.ledger.receipt(RequestId(request.path_params["request_id"]))
        if stored is None:
            raise ProtocolError("there is no receipt of this request", code="not_found")
        payment_ref = Receipt.unpack(stored.packed).payment_ref
        refund = await self._parts.ledger.refund(PaymentHash(payment_ref))
        shown = {**self._receipt_json(stored), "refund": refund_json(refund)}
        return JSONResponse(shown, headers=NO_STORE)

    def _receipt_json(self, stored: StoredReceipt) -> dict[str, JsonValue]:
        receipt = Receipt.unpack(stored.packed)
        return {
            "request_id": stored.request_id,
            "receipt": receipt.to_json(),
            "signed": sign_receipt(receipt, self._parts.agent).to_text(),
            "agent_pubkey": self._parts.agent.pubkey.hex(),
            "charged": str(stored.charged),
            "remainder": str(stored.remainder),
            "remainder_to": stored.remainder_to,
        }

    async def redeem(self, request: Request) -> Response:
        """Move what a paid challenge has left to the caller's key. Repeating it is harmless."""
        key = await self._key(request)
        body = loads_object(await self._body(request))
        token, preimage = body.get("challenge"), body.get("preimage")
        if not isinstance(token, str) or not isinstance(preimage, str | None):
            raise RemoteProtocolError("challenge must be the token of the 402", param="challenge")
        challenge = await self._parts.proofs.verify_for_redeem(
            token, parse_preimage(preimage) if preimage else None
        )
        credited = await self._parts.ledger.redeem(
            paid_request(challenge, self._parts.entropy), key, now_ms=self._parts.clock.now_ms()
        )
        return JSONResponse({"credited": str(credited), "key_id": key.key_id}, headers=NO_STORE)


def refund_json(refund: Payout | None) -> dict[str, JsonValue] | None:
    """What became of a remainder that is sent back; not where to, which is the payer's to know."""
    if refund is None:
        return None
    return {
        "state": refund.state.value,
        "failure": refund.failure or None,
        "amount": str(refund.amount),
        "fee": str(refund.fee),
        "payment_hash": None if refund.payment_hash is None else refund.payment_hash.hex(),
    }


def tab_json(tab: Tab, *, owed: int) -> dict[str, JsonValue]:
    """A tab's sums as decimal strings; `owed` is held by a withdrawal under way."""
    return {
        "asset": str(tab.asset),
        "balance": str(tab.balance),
        "held": str(tab.held),
        "owed": str(owed),
        "deposited": str(tab.deposited),
        "spent": str(tab.spent),
        "refunded": str(tab.refunded),
    }
