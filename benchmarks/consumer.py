"""A consumer of the agent's, as far as a benchmark needs one: keys that have money, paid proofs."""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping

import aiohttp

from benchmarks.load import Ask, ask
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import parse_offer
from infern.core.fiber.pay import PayInvoice
from infern.core.fiber.pay_drivers import pay
from infern.ports import FiberNode

PROMPT = "Explain in some detail what a payment channel is and why one would open it. " * 12
CHAT = "/v1/chat/completions"
KEY_SHANNON = 100_000_000
PAYMENTS_AT_ONCE = 16
JSON = {"content-type": "application/json"}


def chat_body(*, stream: bool = False, number: int = 0) -> bytes:
    """A chat request of about a kilobyte."""
    request = {
        "model": "bench",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 64,
        "stream": stream,
        "seed": number,
    }
    return json.dumps(request).encode()


class Consumer:
    """Pays one agent from one node of the embedded network."""

    def __init__(self, url: str, node: FiberNode) -> None:
        self._url = url
        self._node = node
        self._numbers = itertools.count(1)

    async def _pay(self, invoice: str, payment_hash: bytes, amount: int) -> None:
        payment = PayInvoice(
            invoice_text=invoice,
            payment_hash=payment_hash,
            amount=amount,
            max_fee_amount=amount,
            timeout_ms=20_000,
        )
        await pay(self._node, payment, now_ms=lambda: int(time.monotonic() * 1000))

    async def key(self) -> str:
        """A new prepaid key with `KEY_SHANNON` on it."""
        async with aiohttp.ClientSession(self._url) as http:
            asked = {"amount": str(KEY_SHANNON)}
            async with http.post("/v1/f402/keys", json=asked) as reply:
                made = await reply.json()
            topup = made["topup"]
            await self._pay(topup["invoice"], bytes.fromhex(topup["payment_hash"]), KEY_SHANNON)
            headers = {"authorization": f"Bearer {made['api_key']}"}
            for _ in range(400):
                async with http.get("/v1/f402/balance", headers=headers) as reply:
                    if (await reply.json())["balance"] != "0":
                        return str(made["api_key"])
                await asyncio.sleep(0.02)
        raise RuntimeError("the key was not credited")

    async def paid(self, count: int) -> list[Ask]:
        """Requests that are paid already, so that only the proof's leg is measured."""
        asks: list[Ask] = []
        slots = asyncio.Semaphore(PAYMENTS_AT_ONCE)
        url = self._url + CHAT

        async def one(http: aiohttp.ClientSession) -> None:
            body = chat_body(number=next(self._numbers))
            async with slots:
                async with http.post(url, data=body, headers=JSON) as reply:
                    offer = parse_offer(await reply.read(), url)
                if offer is None:
                    raise RuntimeError("no offer")
                claims = offer.challenge
                await self._pay(offer.invoice, claims.payment_hash, claims.amount)
            proof = {"PAYMENT-SIGNATURE": proof_header(offer, preimage=None)}
            asks.append(ask(url, body, headers=proof, contains=b'"charged"'))

        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one(http))
        return asks


def bearer(key: str) -> Mapping[str, str]:
    """The header of a prepaid key."""
    return {"authorization": f"Bearer {key}"}
