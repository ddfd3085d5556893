"""The paying proxy: stock clients are served and paid for; everybody else is refused."""

import asyncio
import contextlib
import json
import socket

import httpx2
import openai
import pytest
import uvicorn

from infern.cli import demo_world
from infern.client.budget import Budget
from infern.client.wallet import PayMode
from infern.core.fiber.types import PaymentStatus
from infern.proxy.app import ProxyApp
from infern.proxy.config import Prepaid, ProxyConfig
from infern.testing.offers import TERMS
from infern.testing.scripted_node import Send
from infern.testing.scripted_seller import Turn

TOKEN = "inf_proxy_" + "t" * 32
SELLER = "https://router.test/v1"
PORT = 8402
MESSAGES = [{"role": "user", "content": "hi"}]
BODY = {"model": "m", "messages": MESSAGES, "max_tokens": 64}
AUTH = {"authorization": f"Bearer {TOKEN}"}


def app_of(world, **changes):
    config = ProxyConfig(base_url=SELLER, token=TOKEN, **changes)
    return ProxyApp(config, world.wallet(), transport=world.transport)


def http_of(app, **options):
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}", **options)


def openai_of(app):
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{PORT}/v1", api_key=TOKEN, http_client=http_of(app)
    )


def ask(client, **options):
    return client.chat.completions.create(**BODY, **options)


async def test_a_stock_client_is_served_and_paid_for(world):
    client = openai_of(app_of(world))
    assert (await ask(client)).choices[0].message.content == "Hello"
    parts = [c.choices[0].delta.content async for c in await ask(client, stream=True)]
    assert "".join(parts) == "Hello"
    assert len(world.node.paid) == 2
    assert world.states() == ["delivered", "delivered"]
    assert (await client.models.list()).data[0].id == "m"


async def test_hold_mode_is_the_proxy_s_or_the_caller_s_choice(world):
    wallet = world.wallet(mode=PayMode.HOLD)
    app = ProxyApp(ProxyConfig(base_url=SELLER, token=TOKEN), wallet, transport=world.transport)
    world.seller.is_idle = True
    assert (await ask(openai_of(app))).choices[0].message.content == "Hello"
    await ask(openai_of(app), extra_headers={"F402-Mode": "upfront"})
    assert sorted(world.states()) == ["delivered", "settling"]
    async with http_of(app) as http:
        status = (await http.get("/", headers=AUTH)).json()
    assert status["mode"] == "hold"
    cap = str(TERMS.ceiling + wallet.budget.fee_cap(TERMS.ceiling))
    assert status["locked"] == {"payments": 1, "amount": cap}


async def test_nothing_of_the_callers_credentials_goes_to_the_seller(world):
    headers = {**AUTH, "cookie": "session=secret", "x-api-key": "secret", "referer": "secret"}
    async with http_of(app_of(world)) as http:
        await http.post("/v1/chat/completions", json=BODY, headers=headers)
    seen = str([request.headers for request in world.seller.requests])
    assert world.seller.requests
    assert TOKEN not in seen
    assert "secret" not in seen


@pytest.mark.parametrize("turns", [[Turn.UNAVAILABLE], [Turn.RESET_AFTER], [Turn.PENDING] * 3])
async def test_faults_on_the_paid_leg_are_the_proxys_business(world, turns):
    world.seller.turns.extend(turns)
    assert (await ask(openai_of(app_of(world)))).choices[0].message.content == "Hello"
    assert len(world.node.paid) == 1


async def test_a_client_that_retries_by_itself_costs_one_payment(world, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)
    world.seller.turns.extend([Turn.HANG_AFTER] * 2)
    client = openai_of(app_of(world))
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert caught.value.response.headers["x-should-retry"] == "false"
    for _ in range(2):
        with contextlib.suppress(openai.APIStatusError):
            await ask(client)
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


async def test_a_refused_proof_tells_the_client_not_to_retry(world):
    world.seller.turns.extend([Turn.ASK_AGAIN] * 9)
    async with http_of(app_of(world)) as http:
        answer = await http.post("/v1/chat/completions", json=BODY, headers=AUTH)
    assert answer.status_code == 402
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["money"] == "moved"
    assert len(world.node.paid) == 1


async def test_an_unknown_payment_says_so(world):
    world.node.plan.append(Send.STUCK)
    app = app_of(world)
    async with http_of(app) as http:
        answer = await http.post("/v1/chat/completions", json=BODY, headers=AUTH)
        error = answer.json()["error"]
        assert (error["code"], error["money"]) == ("payment_outcome_unknown", "unknown")
        (payment_hash,) = world.node.payments
        world.node.settle(payment_hash, PaymentStatus.SUCCESS)
        again = await http.post("/v1/chat/completions", json=BODY, headers=AUTH)
    assert again.status_code == 200
    assert world.node.calls.count("send_payment") == 1


async def test_the_budget_is_the_proxys(make_world):
    need = TERMS.ceiling + Budget().fee_cap(TERMS.ceiling)
    world = make_world(budget=Budget(per_session=need))
    client = openai_of(app_of(world))
    await ask(client)
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client)
    assert (caught.value.status_code, caught.value.code) == (402, "budget_exceeded")
    assert len(world.node.paid) == 1


REFUSED = [
    ({}, 401),
    ({"authorization": "Bearer sk-something-else"}, 401),
    ({"authorization": f"Basic {TOKEN}"}, 401),
    ({"authorization": f"Bearer {TOKEN}x"}, 401),
    ({**AUTH, "origin": "https://evil.example"}, 403),
    ({**AUTH, "origin": "null"}, 403),
    ({**AUTH, "origin": "http://127.0.0.1:8402"}, 403),
    ({**AUTH, "host": "evil.example"}, 403),
    ({**AUTH, "host": "evil.example:8402"}, 403),
    ({**AUTH, "host": "127.0.0.1.evil.example:8402"}, 403),
    ({**AUTH, "host": "127.0.0.1:9999"}, 403),
    ({**AUTH, "host": ""}, 403),
]


@pytest.mark.parametrize(("headers", "status"), REFUSED)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/"])
async def test_abuse_39_who_may_not_spend_is_refused_before_anything_is_asked(
    world, headers, status, path
):
    async with http_of(app_of(world)) as http:
        method = "POST" if path.endswith("completions") else "GET"
        answer = await http.request(method, path, json=BODY, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["money"] == "unmoved"
    assert "access-control-allow-origin" not in answer.headers
    assert world.seller.requests == []
    assert world.node.calls == []


async def test_abuse_39_a_page_of_another_site_gets_no_preflight_and_a_listed_one_does(world):
    app = app_of(world, origins=frozenset({"https://chat.example"}))
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    async with http_of(app) as http:
        evil = await http.options(
            "/v1/chat/completions", headers={"origin": "https://evil.example", **asked}
        )
        good = await http.options(
            "/v1/chat/completions", headers={"origin": "https://chat.example", **asked}
        )
        paid = await http.post(
            "/v1/chat/completions", json=BODY, headers={**AUTH, "origin": "https://chat.example"}
        )
        without = await http.post(
            "/v1/chat/completions", json=BODY, headers={"origin": "https://chat.example"}
        )
    assert evil.status_code == 403
    assert "access-control-allow-origin" not in evil.headers
    assert good.headers["access-control-allow-origin"] == "https://chat.example"
    assert "x-stainless-os" in good.headers["access-control-allow-headers"]
    assert paid.status_code == 200
    assert paid.headers["access-control-allow-origin"] == "https://chat.example"
    assert without.status_code == 401


TARGETS = [
    ("POST", "/v1/f402/topups", 404),
    ("POST", "/v1/f402/keys", 404),
    ("GET", "/v1/f402/balance", 404),
    ("GET", "/v1/models/../f402/balance", 404),
    ("GET", "/v1/models/%2e%2e/f402/balance", 404),
    ("GET", "/v1/models/a%2f..%2fb", 404),
    ("POST", "/v1/chat/completions/", 404),
    ("POST", "//evil.example/v1/chat/completions", 404),
    ("DELETE", "/v1/models/m", 405),
    ("PUT", "/v1/chat/completions", 405),
]


@pytest.mark.parametrize(("method", "path", "status"), TARGETS)
async def test_only_known_paths_go_to_the_one_seller(world, method, path, status):
    app = app_of(world)
    answer = await raw(app, method, path, AUTH)
    assert answer == status
    assert world.seller.requests == []


async def raw(app, method, path, headers):
    """Calls the application with a path no client library would leave as it is."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", f"127.0.0.1:{PORT}".encode())]
        + [(k.encode(), v.encode()) for k, v in headers.items()],
        "server": ("127.0.0.1", PORT),
        "client": ("127.0.0.1", 5),
        "scheme": "http",
        "http_version": "1.1",
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


async def test_models_by_name_pass(world):
    async with http_of(app_of(world)) as http:
        assert (await http.get("/v1/models/org/m:7b", headers=AUTH)).status_code == 200
    assert world.seller.requests[0].target == "/v1/models/org/m:7b"


async def test_bodies_have_a_limit(world):
    async with http_of(app_of(world, max_body_bytes=1_000)) as http:
        declared = await http.post("/v1/chat/completions", content=b"x" * 2_000, headers=AUTH)

        async def endless():
            for _ in range(10):
                yield b"x" * 200

        streamed = await http.post("/v1/chat/completions", content=endless(), headers=AUTH)
        packed = await http.post(
            "/v1/chat/completions", content=b"x", headers={**AUTH, "content-encoding": "gzip"}
        )
    assert (declared.status_code, streamed.status_code) == (413, 413)
    assert packed.status_code == 415
    assert world.seller.requests == []


async def test_the_status_shows_the_money_and_no_secret(world):
    app = app_of(world)
    await ask(openai_of(app))
    async with http_of(app) as http:
        answer = await http.get("/", headers=AUTH)
    status = answer.json()
    assert status["spent"]["session"] == str(TERMS.ceiling + 1)
    assert status["at_stake"] == 0
    assert TOKEN not in answer.text


@contextlib.asynccontextmanager
async def served(app, port):
    config = uvicorn.Config(app, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", port))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Gate(httpx2.AsyncBaseTransport):
    """Lets the answer of a paid request pass piece by piece, when the test says so."""

    def __init__(self, inner):
        self.inner = inner
        self.pieces = asyncio.Semaphore(0)
        self.closed = asyncio.Event()

    async def handle_async_request(self, request):
        response = await self.inner.handle_async_request(request)
        if response.status_code == 200:
            response.stream = GatedBody(response.stream, self)
        return response


class GatedBody(httpx2.AsyncByteStream):
    def __init__(self, inner, gate):
        self.inner = inner
        self.gate = gate

    async def __aiter__(self):
        async for chunk in self.inner:
            await self.gate.pieces.acquire()
            yield chunk

    async def aclose(self):
        self.gate.closed.set()


@pytest.fixture
def free_port():
    return demo_world.free_port()


async def test_streams_pass_byte_by_byte_and_a_caller_that_leaves_cancels(world, free_port):
    gate = Gate(world.transport)
    config = ProxyConfig(base_url=SELLER, token=TOKEN, port=free_port)
    app = ProxyApp(config, world.wallet(), transport=gate)
    url = f"http://127.0.0.1:{free_port}/v1/chat/completions"
    async with served(app, free_port), httpx2.AsyncClient() as http:
        async with http.stream("POST", url, json={**BODY, "stream": True}, headers=AUTH) as answer:
            chunks = answer.aiter_raw()
            gate.pieces.release()
            first = await asyncio.wait_for(anext(chunks), 10)
            assert first.count(b"data: ") == 1
            assert not gate.closed.is_set()
        await asyncio.wait_for(gate.closed.wait(), 10)
        while world.states() != ["unredeemed"]:
            await asyncio.sleep(0.01)
        # The caller that timed out and asks again gets the same answer for the same payment.
        for _ in range(9):
            gate.pieces.release()
        again = await http.post(url, json={**BODY, "stream": True}, headers=AUTH)
    assert b"[DONE]" in again.content
    assert len(world.node.paid) == 1
    assert world.states() == ["delivered"]


async def test_requests_at_the_same_time_have_a_limit(world, free_port):
    gate = Gate(world.transport)
    config = ProxyConfig(base_url=SELLER, token=TOKEN, port=free_port, max_concurrent=1)
    app = ProxyApp(config, world.wallet(), transport=gate)
    url = f"http://127.0.0.1:{free_port}/v1/chat/completions"
    async with served(app, free_port), httpx2.AsyncClient() as http:
        async with http.stream("POST", url, json={**BODY, "stream": True}, headers=AUTH):
            refused = await http.post(url, json=BODY, headers=AUTH)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"


async def test_a_broken_stream_ends_with_an_error_event(world):
    world.seller.turns.append(Turn.CUT_AFTER)
    async with http_of(app_of(world)) as http:
        answer = await http.post(
            "/v1/chat/completions", json={**BODY, "stream": True}, headers=AUTH
        )
    last = answer.content.strip().rsplit(b"\n\n", 1)[-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stream_interrupted"
    assert world.states() == ["unredeemed"]


def test_prepaid_top_ups_lift_the_balance_over_the_threshold():
    with pytest.raises(ValueError, match="over the threshold"):
        Prepaid(threshold=10, amount=10)
