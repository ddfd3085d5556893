"""Answers that are lost on their way, with a prepaid key and without: one charge, the same answer.

Against a live provider over the embedded Fiber network; the fault is in the connection to it.
"""

import time
from collections.abc import AsyncIterator, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from infern.client.auth import F402Auth
from infern.client.receipts import ReceiptStatus
from infern.client.transport import F402Transport
from infern.client.wallet import Wallet
from infern.core.f402.client import ClientState
from infern.core.units import Network
from infern.proxy.app import ProxyApp
from infern.proxy.config import Prepaid, ProxyConfig
from infern.sdk import AsyncInfern, Infern, open_wallet

FUNDS = 50_000_000
TOKEN = "a token for the proxy alone"


class Loss(Enum):
    """Where the connection breaks; the seller has done its work by then."""

    NO_HEAD = "before the answer's first byte"
    MID_BODY = "in the answer's body"


class _Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body, or its first half and the end of the connection."""

    def __init__(self, body: bytes, *, is_cut: bool) -> None:
        self._body = body[: len(body) // 2] if is_cut else body
        self._is_cut = is_cut

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        if self._is_cut:
            raise httpx2.ReadError("the connection is gone")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Losing(httpx2.HTTPTransport):
    """Loses the first answers that are charged."""

    def __init__(self, *losses: Loss) -> None:
        super().__init__()
        self.losses = list(losses)
        self.paid: list[httpx2.Response] = []
        self.names: list[str | None] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        if response.status_code != 200 or "/chat/" not in request.url.path:
            return response
        body = response.read()
        self.paid.append(response)
        self.names.append(request.headers.get("idempotency-key"))
        return _lost(response, body, self.losses)


class AsyncLosing(httpx2.AsyncHTTPTransport):
    """The asynchronous twin."""

    def __init__(self, *losses: Loss) -> None:
        super().__init__()
        self.losses = list(losses)
        self.paid: list[httpx2.Response] = []
        self.names: list[str | None] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.status_code != 200 or "/chat/" not in request.url.path:
            return response
        body = await response.aread()
        self.paid.append(response)
        self.names.append(request.headers.get("idempotency-key"))
        return _lost(response, body, self.losses)


def _lost(response: httpx2.Response, body: bytes, losses: list[Loss]) -> httpx2.Response:
    loss = losses.pop(0) if losses else None
    if loss is Loss.NO_HEAD:
        raise httpx2.ReadError("the connection is gone")
    stream = _Body(body, is_cut=loss is Loss.MID_BODY)
    return httpx2.Response(200, headers=response.headers, stream=stream)


@pytest.fixture
def ask() -> dict[str, Any]:
    return {
        "model": "infern-tiny",
        "messages": [{"role": "user", "content": "What is Infern?"}],
        "max_tokens": 16,
        "temperature": 0,
    }


@pytest.fixture
def wallet(live: Any, tmp_path: Path) -> Iterator[Wallet]:
    made = open_wallet(
        fiber_rpc_url=live.world.rpc_urls["consumer"], network=Network.DEV, home=tmp_path
    )
    yield made
    made.sync_node.close()
    made.journal.close()


def books_of(live: Any, key: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.get(f"{live.base_url}/f402/balance", headers=headers).json()


def is_replayed(response: httpx2.Response) -> bool:
    return response.headers.get("f402-replayed") == "true"


LOSSES = pytest.mark.parametrize(
    "losses",
    [(Loss.NO_HEAD,), (Loss.MID_BODY,), (Loss.NO_HEAD, Loss.MID_BODY, Loss.MID_BODY)],
    ids=["no head", "mid body", "three times"],
)


@LOSSES
@pytest.mark.parametrize("is_keyed", [True, False], ids=["key", "payment"])
def test_a_lost_plain_answer_is_asked_for_again_and_charged_once(
    live: Any, wallet: Wallet, ask: dict[str, Any], losses: tuple[Loss, ...], is_keyed: bool
) -> None:
    key = live.funded_key(FUNDS) if is_keyed else None
    wire = Losing(*losses)
    client = Infern(
        base_url=live.base_url, wallet=wallet, api_key=key, transport=wire, strict_receipts=True
    )
    with client:
        answer = client.chat.completions.create(**ask)
        assert client.f402.last_receipt.status is ReceiptStatus.VERIFIED
    assert answer.choices[0].message.content
    assert wire.losses == []
    assert len(set(wire.names)) == 1
    assert [is_replayed(one) for one in wire.paid] == [False] + [True] * len(losses)
    assert len({one.content for one in wire.paid}) == 1
    if key is not None:
        books = books_of(live, key)
        cost = int(wire.paid[0].headers["f402-cost"])
        assert (int(books["spent"]), int(books["held"])) == (cost, 0)
        assert wallet.journal.attempts(limit=5) == []
    else:
        assert [row.state for row in wallet.journal.attempts(limit=5)] == [ClientState.DELIVERED]


@LOSSES
async def test_the_asynchronous_client_does_the_same(
    live: Any, wallet: Wallet, ask: dict[str, Any], losses: tuple[Loss, ...]
) -> None:
    key = live.funded_key(FUNDS)
    wire = AsyncLosing(*losses)
    client = AsyncInfern(
        base_url=live.base_url, wallet=wallet, api_key=key, transport=wire, strict_receipts=True
    )
    async with client:
        assert (await client.chat.completions.create(**ask)).choices[0].message.content
    await wallet.node.aclose()
    assert [is_replayed(one) for one in wire.paid] == [False] + [True] * len(losses)
    assert int(books_of(live, key)["spent"]) == int(wire.paid[0].headers["f402-cost"])


def test_equal_requests_are_charged_each(live: Any, wallet: Wallet, ask: dict[str, Any]) -> None:
    key = live.funded_key(FUNDS)
    wire = Losing()
    with Infern(base_url=live.base_url, wallet=wallet, api_key=key, transport=wire) as client:
        for _ in range(2):
            client.chat.completions.create(**ask)
    assert len(set(wire.names)) == 2
    assert None not in wire.names
    assert not any(is_replayed(one) for one in wire.paid)
    costs = [int(one.headers["f402-cost"]) for one in wire.paid]
    assert int(books_of(live, key)["spent"]) == sum(costs)


def test_the_caller_s_own_name_is_kept_and_good_across_clients(
    live: Any, wallet: Wallet, ask: dict[str, Any]
) -> None:
    key = live.funded_key(FUNDS)
    named = {**ask, "extra_headers": {"Idempotency-Key": "order-7"}}
    answers = []
    for _ in range(2):
        with Infern(base_url=live.base_url, wallet=wallet, api_key=key) as client:
            answers.append(client.chat.completions.with_raw_response.create(**named))
    assert [is_replayed(one) for one in answers] == [False, True]
    assert answers[0].content == answers[1].content
    assert int(books_of(live, key)["spent"]) == int(answers[0].headers["f402-cost"])
    with Infern(base_url=live.base_url, wallet=wallet, api_key=key) as client:
        other = {**named, "max_tokens": 5}
        with pytest.raises(openai.ConflictError) as refused:
            client.chat.completions.create(**other)
    assert refused.value.code == "idempotency_conflict"


@pytest.mark.parametrize(
    "losses", [(Loss.NO_HEAD,), (Loss.MID_BODY,), (Loss.NO_HEAD, Loss.MID_BODY)]
)
def test_a_stock_client_with_a_key_gets_its_answer_by_its_own_retries(
    live: Any, wallet: Wallet, ask: dict[str, Any], losses: tuple[Loss, ...]
) -> None:
    key = live.funded_key(FUNDS)
    wire = Losing(*losses)
    with httpx2.Client(transport=wire, auth=F402Auth(wallet)) as http:
        client = openai.OpenAI(base_url=live.base_url, api_key=key, http_client=http)
        assert client.chat.completions.create(**ask).choices[0].message.content
    assert [is_replayed(one) for one in wire.paid] == [False] + [True] * len(losses)
    assert int(books_of(live, key)["spent"]) == int(wire.paid[0].headers["f402-cost"])


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "mine"}], ids=["no name", "a name"])
async def test_the_proxy_asks_again_for_who_has_no_name_for_it(
    live: Any, wallet: Wallet, ask: dict[str, Any], headers: dict[str, str]
) -> None:
    wire = AsyncLosing(Loss.NO_HEAD, Loss.MID_BODY)
    app = ProxyApp(
        ProxyConfig(
            base_url=live.base_url,
            token=TOKEN,
            port=8402,
            prepaid=Prepaid(threshold=1_000_000, amount=FUNDS),
        ),
        wallet,
        transport=wire,
    )
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8402"
    ) as http:
        answer = await http.post(
            "/v1/chat/completions",
            json=ask,
            headers={"authorization": f"Bearer {TOKEN}", **headers},
        )
    await app.aclose()
    (made,) = wallet.journal.keys(live.base_url.removesuffix("/v1"))
    await wallet.node.aclose()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert wire.losses == []
    (name,) = set(wire.names)
    assert name == "mine" if headers else name is not None
    assert int(books_of(live, made.api_key)["spent"]) == int(wire.paid[0].headers["f402-cost"])


def test_who_stops_a_stream_pays_for_what_was_sent(
    live: Any, wallet: Wallet, ask: dict[str, Any]
) -> None:
    """Although the request has a name, by which it could be had whole."""
    long = {**ask, "stream": True, "max_tokens": 200}
    costs = []
    for reads_all in (True, False):
        key = live.funded_key(FUNDS)
        with Infern(base_url=live.base_url, wallet=wallet, api_key=key) as client:
            stream = client.chat.completions.create(**long)
            for at, _ in enumerate(stream):
                if not reads_all and at == 2:
                    break
            stream.close()
        for _ in range(200):
            books = books_of(live, key)
            if books["held"] == "0":
                break
            time.sleep(0.05)
        costs.append(int(books["spent"]))
    assert 0 < costs[1] < costs[0]


def test_one_request_object_sent_twice_is_two_requests(
    live: Any, wallet: Wallet, ask: dict[str, Any]
) -> None:
    key = live.funded_key(FUNDS)
    wire = Losing()
    with httpx2.Client(transport=F402Transport(wire, wallet)) as http:
        headers = {"authorization": f"Bearer {key}"}
        request = http.build_request(
            "POST", f"{live.base_url}/chat/completions", json=ask, headers=headers
        )
        assert [http.send(request).status_code for _ in range(2)] == [200, 200]
    assert len(set(wire.names)) == 2
    costs = [int(one.headers["f402-cost"]) for one in wire.paid]
    assert int(books_of(live, key)["spent"]) == sum(costs)
