"""Nothing secret in logs, errors, receipts, ledger and journal, on a run that uses everything.

Real parts: sockets, model server, Fiber network, files. Logs are those of `infern -vv`. Numbers are
those of `docs/abuse-cases.md`.
"""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from infern.adapters.model_http import HttpModelServer
from infern.cli.compose import asgi_server
from infern.cli.demo_world import free_port
from infern.cli.main import set_up_logging
from infern.core.f402.challenge import derive_preimage, mint_token, peek_token
from infern.core.f402.credential import make_key, proof_header
from infern.core.f402.offer import parse_offer
from infern.core.fiber.rpc import SendPayment
from infern.proxy.app import ProxyApp
from infern.proxy.config import ProxyConfig
from infern.testing.scripted_model import answer, chunk, stream

pytestmark = pytest.mark.timeout(120)

CHAT = "/v1/chat/completions"
PROMPT = "the secret prompt: my PIN is 4711"
ANSWER = "the secret answer: your PIN was 4712"
FOREIGN = "sk-proj-" + "Zz9" * 16
UPSTREAM = "upstream-key-" + "u" * 20
PROXY_TOKEN = "inf_proxy_" + "p" * 32
STRANGERS_KEY = make_key(b"\x5a" * 32)
CHALLENGE_KEY = b"\x0b" * 32
PREIMAGE_KEY = b"\x0c" * 32
AGENT_KEY = b"\x22" * 32
RECEIPTS = ("f402-receipt", "payment-response", "payment-receipt")


class Model:
    """A model server; the prompt says how it fails. Its errors repeat the request, as some do."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((dict(request.headers), body))
        asked = json.loads(body)
        told = asked["messages"][0]["content"]
        if "as pydantic" in told:
            complaint = [{"type": "extra_forbidden", "msg": "not permitted", "input": told}]
            error = {"object": "error", "message": str(complaint), "type": "BadRequestError"}
            return web.json_response(error, status=400)
        if "as v2" in told:
            text = f"1 validation error [type=string_type, input_value={told!r}, input_type=str]"
            return web.json_response({"error": {"message": text}}, status=500)
        if "no JSON" in told:
            return web.Response(body=told.encode(), status=500)
        if not asked.get("stream"):
            return web.Response(body=answer(ANSWER), content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in [chunk(ANSWER)] if "breaks off" in told else stream([ANSWER]):
            await response.write(piece)
        if "breaks off" in told and request.transport is not None:
            request.transport.abort()
        return response


class Counted(HttpModelServer):
    """The adapter, with the count of open replies the world's fixture asks for."""

    running = 0


@pytest.fixture
async def model() -> AsyncIterator[Any]:
    made = Model()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with Counted(url, api_key=UPSTREAM, response_limit_bytes=10**9) as adapter:
        yield made, adapter
    await runner.cleanup()


@asynccontextmanager
async def served(app: Any, port: int) -> AsyncIterator[None]:
    started = asyncio.Event()
    server = asgi_server(app, host="127.0.0.1", port=port, on_started=started.set)
    task = asyncio.create_task(server.serve())
    await asyncio.wait([task, asyncio.ensure_future(started.wait())], return_when="FIRST_COMPLETED")
    try:
        yield
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Every line that `infern -vv` would write, with its traceback."""
    lines: list[str] = []
    formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    root, ours = logging.getLogger(), logging.getLogger("infern")
    before = root.level, ours.level
    handler = Keep()
    root.addHandler(handler)
    set_up_logging(2)
    yield lines
    root.removeHandler(handler)
    root.setLevel(before[0])
    ours.setLevel(before[1])


@dataclass
class Run:
    """What a run of everything left behind."""

    live: Any
    http: Any
    errors: list[bytes] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def body(self, *, how: str = "", **members: Any) -> bytes:
        number = next(self.live.numbers)
        content = f"{PROMPT} {number:04} {how}"
        asked = {"model": "m", "messages": [{"role": "user", "content": content}]}
        return json.dumps({**asked, "max_tokens": 40, **members}).encode()

    async def post(self, path: str, body: bytes, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        got = await self.http.post(path, content=body, headers=named)
        self.receipts += [got.headers[n] for n in RECEIPTS if n in got.headers]
        offer = parse_offer(got.content, str(got.url)) if got.status_code == 402 else None
        if offer is not None:
            self.tokens.append(offer.token)
        elif got.status_code >= 400:
            self.errors.append(got.content + repr(got.headers.raw).encode())
        return got

    async def paid(self, body: bytes, **headers: str) -> str:
        """A proof of a request, paid by the consumer's node."""
        got = await self.post(CHAT, body, **headers)
        offer = parse_offer(got.content, str(got.url))
        assert offer is not None, got.text
        claims = offer.challenge
        await self.live.pay(offer.invoice, claims.payment_hash, claims.amount)
        preimage = derive_preimage(PREIMAGE_KEY, claims.nonce)
        return proof_header(offer, preimage=preimage)

    @property
    def preimages(self) -> list[bytes]:
        return [derive_preimage(PREIMAGE_KEY, peek_token(text).nonce) for text in self.tokens]


async def use_everything(run: Run, payer: Any, proxy: Any) -> None:
    """Every way to pay, be answered, be refused and fail."""
    rich = await run.live.key(5_000_000)
    run.keys.append(rich)
    bearer = {"authorization": f"Bearer {rich}"}
    foreign = {"authorization": f"Bearer {FOREIGN}"}
    for streamed in (False, True):
        body = run.body(stream=streamed)
        proof = await run.paid(body, **foreign)
        for _ in range(2):
            await run.post(CHAT, body, payment_signature=proof, **foreign)
        await run.post(CHAT, run.body(), payment_signature=proof)
        assert (await run.post(CHAT, run.body(stream=streamed), **bearer)).status_code == 200
        for how in ("as pydantic", "as v2", "no JSON", "breaks off"):
            await run.post(CHAT, run.body(how=how, stream=streamed), **bearer)
        assert (await payer.ask(run.body(stream=streamed))).status_code == 200
        text = json.loads(run.body())["messages"]
        await proxy.chat.completions.create(model="m", messages=text, max_tokens=40)
    proof = await run.paid(body := run.body())
    assert (await run.post(CHAT, body, payment_signature=proof, **bearer)).status_code == 200
    await in_hold_mode(run)
    await refusals(run, proof)
    await accounts(run, rich)


async def in_hold_mode(run: Run) -> None:
    """One lock that is taken, one that is given back."""
    for how, status in (("", 200), ("no JSON", 502)):
        body = run.body(how=how)
        got = await run.post(CHAT, body, f402_mode="hold", accept_payment="fiber/charge")
        offer = parse_offer(got.content, str(got.url))
        assert offer is not None, got.text
        await run.live.nodes["consumer"].call(SendPayment(invoice=offer.invoice))
        proof = proof_header(offer, preimage=None)
        got = await run.post(CHAT, body, payment_signature=proof)
        assert got.status_code == status, got.text

    async def locks() -> int:
        return len(await run.live.world.ledger.open_locks(limit=10))

    async with asyncio.timeout(30):
        while await locks():
            await asyncio.sleep(0.01)


async def refusals(run: Run, proof: str) -> None:
    """Credentials in every place where they do not belong, and requests nobody can read."""
    forged = mint_token(peek_token(run.tokens[-1]), kid="k1", key=b"\x0d" * 32)
    run.tokens.append(forged)
    for headers in (
        {"authorization": f"Bearer {STRANGERS_KEY}"},
        {"authorization": f"Basic {base64.b64encode(FOREIGN.encode()).decode()}"},
        {"authorization": f"Payment {FOREIGN}"},
        {"payment_signature": FOREIGN},
        {"payment_signature": base64.b64encode(json.dumps({"accepted": forged}).encode()).decode()},
        {"payment_signature": proof, "payment_authorization": "Payment " + FOREIGN},
        {"f402_max_amount": FOREIGN},
        {"f402_mode": FOREIGN},
        {"f402_refund_to": FOREIGN},
        {"idempotency_key": FOREIGN},
    ):
        await run.post(CHAT, run.body(), **headers)
    for path in (f"{CHAT}?api_key={FOREIGN}", f"/v1/{FOREIGN}", f"/v1/f402/receipts/{FOREIGN}",
                 f"/v1/f402/topups/{FOREIGN}"):  # fmt: skip
        # In memory: an HTTP client of the test's would log the address it asks.
        for method in ("POST", "GET"):
            got = await run.live.world.request(method, path, run.body())
            run.errors.append(got.body)
    for body in (b"{" + PROMPT.encode(), json.dumps({"api_key": FOREIGN}).encode(),
                 run.body(api_key=FOREIGN), run.body(user=FOREIGN)):  # fmt: skip
        await run.post(CHAT, body)
        await run.post("/v1/f402/redeem", body)
        await run.post("/v1/f402/withdraw", body)


async def accounts(run: Run, rich: str) -> None:
    """Keys, top-ups, redeem, withdraw, receipts."""
    bearer = {"authorization": f"Bearer {rich}"}
    made = (await run.post("/v1/f402/keys", b'{"amount":"60000"}')).json()
    run.keys.append(made["api_key"])
    unused = run.body()
    await run.paid(unused)
    redeem = json.dumps({"challenge": run.tokens[-1]}).encode()
    for _ in range(2):
        await run.post("/v1/f402/redeem", redeem, **bearer)
    target = run.live.keys["consumer"].hex()
    for number in range(2):
        wish = {"id": f"withdrawal-number-{number}", "pubkey": target, "amount": "20000"}
        await run.post("/v1/f402/withdraw", json.dumps(wish).encode(), **bearer)
    for path in ("balance", "receipts", "withdrawals", "solvency"):
        got = await run.http.get(f"/v1/f402/{path}", headers=bearer)
        run.receipts.append(got.text)
    await run.live.until_settled()


def forms(secret: bytes) -> list[bytes]:
    """How a secret may be written."""
    hexed = secret.hex()
    coded = [base64.b64encode(secret), base64.urlsafe_b64encode(secret).rstrip(b"=")]
    return [secret, hexed.encode(), hexed.upper().encode(), repr(secret)[2:-1].encode(), *coded]


def found_in(text: bytes, secrets: dict[str, list[bytes]]) -> list[str]:
    return [
        f"{name} as {form!r}: …{text[max(at - 120, 0) : at + 20]!r}"
        for name, values in secrets.items()
        for value in values
        for form in forms(value)
        if (at := text.find(form)) >= 0
    ]


def files_of(path: Path) -> bytes:
    files = [each for each in sorted(path.rglob("*")) if each.is_file()]
    assert files
    return b"".join(each.read_bytes() for each in files)


@pytest.fixture
async def run(
    make_live: Any, make_payer: Any, model: Any, logged: list[str], tmp_path: Path
) -> Any:
    """A run of everything, ended; its seller and client with their files still open."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server, adapter = model
    live = await make_live(runs=False, public_url=url, model=adapter)
    payer = make_payer(live, on_sockets=True)
    app = ProxyApp(ProxyConfig(base_url=url + "/v1", token=PROXY_TOKEN), payer.wallet)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(live.world.app, port))
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=60))
        await stack.enter_async_context(served(app, local := free_port()))
        proxy = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{local}/v1", api_key=PROXY_TOKEN)
        made = Run(live=live, http=http)
        await use_everything(made, payer, proxy)
        await proxy.close()
    # Out here, so that what is written at the end is looked at too.
    made.tokens += [attempt.token for attempt in payer.journal.attempts(limit=100)]
    return made, payer, server


async def test_abuse_29_nothing_secret_is_written_anywhere(
    run: Any, logged: list[str], tmp_path: Path
) -> None:
    made, payer, _ = run
    keys = [key.encode() for key in (*made.keys, STRANGERS_KEY)]
    everywhere = {
        "foreign key": [FOREIGN.encode()],
        "upstream key": [UPSTREAM.encode()],
        "proxy's token": [PROXY_TOKEN.encode()],
        "seller's secrets": [CHALLENGE_KEY, PREIMAGE_KEY, AGENT_KEY],
        "answer": [ANSWER.encode()],
        "prompt": [PROMPT.encode()],
    }
    credentials = {
        "prepaid key": keys,
        "token": [text.encode() for text in made.tokens],
        "preimage": made.preimages,
    }
    assert len(made.tokens) > 10
    log = "\n".join(logged).encode()
    assert len(logged) > 20
    errors = b"\n".join(made.errors)
    assert len(made.errors) > 30
    receipts = "\n".join(made.receipts).encode()
    assert len(made.receipts) > 10
    ledger = files_of(made.live.world.path)
    assert b"tab_" in ledger
    journal = files_of(payer.home)
    leaks = {
        "log": found_in(log, everywhere | credentials),
        "errors": found_in(errors, everywhere | credentials),
        "receipts": found_in(receipts, everywhere | credentials),
        "ledger": found_in(ledger, everywhere | credentials),
        # The journal is where a consumer's tokens, preimages and keys are kept, on purpose.
        "journal": found_in(journal, everywhere | {"prepaid key": keys}),
    }
    assert [leak for found in leaks.values() for leak in found] == []


async def test_abuse_42_a_key_of_another_service_goes_nowhere(run: Any) -> None:
    """Clients send the key they have; to the model server goes the operator's own."""
    _, _, server = run
    assert len(server.requests) > 10
    for headers, body in server.requests:
        assert headers["Authorization"] == f"Bearer {UPSTREAM}"
        assert FOREIGN not in str(headers) + body.decode()
        assert "Payment-Signature" not in headers
