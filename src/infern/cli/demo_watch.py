"""Watching the product's own client from outside: what it sends, gets and pays."""

import time
from typing import Any, Final, TypeVar

import httpx2

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.cli.story import Story
from infern.core.f402.credential import PROOF_HEADER
from infern.core.f402.offer import parse_offer
from infern.core.fiber.call import RpcCall
from infern.core.fiber.types import PaymentRecord, PaymentStatus

T = TypeVar("T")
SEND_METHOD: Final = "send_payment"


class WatchedTransport(httpx2.AsyncBaseTransport):
    """Passes requests on and tells what went over the wire."""

    def __init__(self, story: Story) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self._story = story
        self.unpaid = 0
        self.proofs = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request."""
        priced = request.method == "POST" and "/f402/" not in request.url.path
        # A proof is set for one hop only, so it shows in what is sent and nowhere else.
        has_proof = any(n.lower() == PROOF_HEADER.encode() for n, _ in request.headers.raw)
        started = time.perf_counter()
        response = await self._inner.handle_async_request(request)
        took_s = time.perf_counter() - started
        if not priced:
            return response
        if has_proof:
            self.proofs += 1
            facts = {"answer": f"HTTP {response.status_code}", "pays_again": "no"}
            self._story.record(f"{request.url.path} again, with the proof", took_s, facts)
        elif response.status_code == 402:
            self.unpaid += 1
            body = await response.aread()
            await response.aclose()
            facts = {"answer": "HTTP 402", **_offer_facts(str(request.url), body)}
            self._story.record(f"{request.url.path} without payment", took_s, facts)
            # The body was read, so the client gets it as a new response.
            return httpx2.Response(402, headers=response.headers, content=body)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def _offer_facts(url: str, body: bytes) -> dict[str, Any]:
    offer = parse_offer(body, url)
    if offer is None:
        return {}
    claims = offer.challenge
    facts: dict[str, Any] = {"ceiling_shannon": claims.amount}
    if claims.terms is not None:
        facts["covers"] = (
            f"at most {claims.terms.prompt_tokens_max} prompt and "
            f"{claims.terms.completion_tokens_max} completion tokens"
        )
    return facts | {"invoice": offer.invoice[:40] + "…"}


class WatchedNode:
    """A Fiber node whose payments are told; everything is passed on."""

    def __init__(self, node: FiberRpcClient, story: Story) -> None:
        self._node = node
        self._story = story
        self._sent_at: dict[bytes, float] = {}
        self.paid: dict[bytes, PaymentRecord] = {}

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call."""
        asked_at = time.perf_counter()
        result = await self._node.call(call, timeout_ms=timeout_ms)
        if isinstance(result, PaymentRecord):
            if call.method == SEND_METHOD:
                self._sent_at[result.payment_hash] = asked_at
            self._note(result)
        return result

    def _note(self, payment: PaymentRecord) -> None:
        if payment.status is not PaymentStatus.SUCCESS or payment.payment_hash in self.paid:
            return
        self.paid[payment.payment_hash] = payment
        sent_at = self._sent_at.get(payment.payment_hash)
        if sent_at is None:
            return
        facts = {
            "route": "consumer → hub → provider, two channels",
            "routing_fee_shannon": payment.fee,
            "payment_hash": payment.payment_hash.hex()[:16] + "…",
        }
        self._story.record("paid over Fiber", time.perf_counter() - sent_at, facts)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Return on a change of the payment or after the timeout."""
        await self._node.wait_change(payment_hash, timeout_ms=timeout_ms)
