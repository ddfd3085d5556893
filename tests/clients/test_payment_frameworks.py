"""x402, pympp, @x402/fetch and mppx, unmodified, pay a live provider under stock OpenAI clients.

Every client asks plain and streamed, with all retries at their defaults, while the paid leg fails
in each way. Whatever happens: one payment left the consumer's node, and one answer was charged.
"""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from x402 import x402Client

from infern import Budget, Patience, open_wallet
from infern.client import mpp, x402
from infern.sdk import close_wallet

from .conftest import Fault

NODE = Path(__file__).parent / "node"
PATIENT_S = 60
HANG_S = 6
"""For the needs whose paid leg hangs; they run by themselves, where nothing else is slow."""
CAP = 10_000_000
PAUSE_MS = 20
PYTHON = ("x402", "pympp")
NODE_CLIENTS = ("@x402/fetch", "mppx")
CLIENTS = (*PYTHON, *NODE_CLIENTS)
HOWS = ("plain", "stream")


def need_of(client: str, how: str, fault: Fault) -> str:
    return f"{client} {how} {fault.name}"


def question(need: str) -> dict[str, Any]:
    return {
        "model": "infern-tiny",
        "messages": [{"role": "user", "content": f"{need}?"}],
        "max_tokens": 6,
        "temperature": 0,
    }


async def outcome(client: openai.AsyncOpenAI, need: str, how: str, fault: Fault) -> dict[str, Any]:
    headers = {"x-test-need": need, "x-test-fault": fault.name}
    try:
        answer = await client.chat.completions.create(
            **question(need),
            stream=how == "stream",
            extra_headers=headers,
            timeout=HANG_S if fault is Fault.HANG else PATIENT_S,
        )
        if how == "stream":
            parts = [chunk.choices[0].delta.content or "" async for chunk in answer]
            return {"text": "".join(parts)}
        return {"text": answer.choices[0].message.content}
    except openai.APIStatusError as error:
        return {"status": error.status_code, "code": error.code}
    except (openai.APIError, httpx.HTTPError) as error:
        return {"error": type(error).__name__}


async def scenario(client: openai.AsyncOpenAI, need: str, how: str, fault: Fault) -> list[Any]:
    """What came of the first request, and of the same one again if that was no answer."""
    found = [await outcome(client, need, how, fault)]
    if "text" not in found[0]:
        found.append(await outcome(client, need, how, Fault.NONE))
    return found


async def scenarios(client: openai.AsyncOpenAI, name: str) -> dict[str, list[Any]]:
    """Every need of a client: side by side, those that hang afterwards."""
    found: dict[str, list[Any]] = {}
    pairs = [(how, fault) for how in HOWS for fault in Fault]
    for hangs in (False, True):
        now = [pair for pair in pairs if (pair[1] is Fault.HANG) is hangs]
        needs = [need_of(name, *pair) for pair in now]
        steps = (scenario(client, need, *pair) for need, pair in zip(needs, now, strict=True))
        found |= dict(zip(needs, await asyncio.gather(*steps), strict=True))
    return found


@pytest.fixture(scope="session")
def python_outcomes(faulty: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    async def one(name: str) -> dict[str, list[Any]]:
        wallet = open_wallet(
            fiber_rpc_url=faulty.rpc_url,
            network="dev",
            home=tmp_path_factory.mktemp(name),
            budget=Budget(per_request=CAP),
            patience=Patience(pause_ms=PAUSE_MS),
        )
        if name == "x402":
            transport = x402.fiber_transport(x402Client(), wallet, max_shannon=CAP)
        else:
            transport = mpp.fiber_transport(wallet)
        http = httpx.AsyncClient(transport=transport)
        client = openai.AsyncOpenAI(base_url=faulty.base_url, api_key="none", http_client=http)
        found = await scenarios(client, name)
        await client.close()
        assert wallet.node is not None
        await wallet.node.aclose()
        close_wallet(wallet)
        return found

    async def both() -> dict[str, list[Any]]:
        x402_found, mpp_found = await asyncio.gather(*(one(name) for name in PYTHON))
        return x402_found | mpp_found

    with pytest.MonkeyPatch.context() as patch:
        # pympp waits 35 s for a paid answer before it calls it a time-out.
        patch.setattr("mpp.client.transport.DEFAULT_PAID_RETRY_TIMEOUT", HANG_S)
        return asyncio.run(both())


@pytest.fixture(scope="session")
def node_outcomes(faulty: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    node = shutil.which("node")
    assert node, "Node 20 is needed; the README names it"
    assert (NODE / "node_modules/mppx").is_dir(), "run `make test`, which installs the clients"
    needs = [
        {"client": client, "how": how, "fault": fault.name, "need": need_of(client, how, fault)}
        for client in NODE_CLIENTS
        for how in HOWS
        for fault in Fault
    ]
    for each in needs:
        each["request"] = question(each["need"])
    task = {
        "baseURL": faulty.base_url,
        "rpcUrl": faulty.rpc_url,
        "journals": str(tmp_path_factory.mktemp("node-journals")),
        "maxShannon": CAP,
        "patientMs": PATIENT_S * 1000,
        "hangMs": HANG_S * 1000,
        "pauseMs": PAUSE_MS,
        "needs": needs,
    }
    done = subprocess.run(
        [node, "paying.mjs"],
        cwd=NODE,
        input=json.dumps(task).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


each = pytest.mark.parametrize(
    ("client", "how", "fault"),
    [
        pytest.param(client, how, fault, id=need_of(client, how, fault))
        for client in CLIENTS
        for how in HOWS
        for fault in Fault
    ],
)


def outcomes_of(request: pytest.FixtureRequest, client: str) -> dict[str, list[Any]]:
    name = "python_outcomes" if client in PYTHON else "node_outcomes"
    found: dict[str, list[Any]] = request.getfixturevalue(name)
    return found


@each
def test_one_payment_and_one_charge(
    request: pytest.FixtureRequest, faulty: Any, client: str, how: str, fault: Fault
) -> None:
    need = need_of(client, how, fault)
    found = outcomes_of(request, client)[need]
    assert found[-1].get("text"), found
    assert faulty.paid(need) == 1
    assert faulty.charges(need) == 1
    # What is on record is shown at once: nobody asked for a second invoice.
    assert faulty.proxy.asked[need] == 1


@each
def test_what_the_caller_saw_first(
    request: pytest.FixtureRequest, client: str, how: str, fault: Fault
) -> None:
    first = outcomes_of(request, client)[need_of(client, how, fault)][0]
    match fault:
        case Fault.NONE | Fault.UNAVAILABLE:
            assert first.get("text")
        case Fault.LOST if how == "plain" and client in PYTHON:
            # The SDK asks again.
            assert first.get("text")
        case Fault.LOST:
            # Its caller had the beginning already. The same request again is given all of it.
            assert "error" in first
            assert "text" not in first
        case Fault.UNAVAILABLE_LONG:
            assert first["status"] == 503
        case Fault.HANG:
            # The SDK repeats a time-out or says so; both are safe.
            assert first.keys() & {"text", "error"}
        case Fault.REJECTED:
            assert first == {"status": 402, "code": "invalid_challenge"}
        case Fault.ANEW:
            assert first == {"status": 402, "code": "offer_refused"}
