"""LangChain, LiteLLM and llm, unmodified, with a prepaid key alone against a live provider.

All their retries are at their defaults. Whatever fails on the way: who has an answer was charged
for one, who has none for none, and an error that money or a better key would mend is not retried.

A request that was lost on its way costs nothing. One whose answer was lost is charged, and the
SDK's own retry is given the same answer for it. A stream that broke off is its caller's to ask for
again, which is another request then: none of the three names its requests.
"""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infern.core.f402.credential import make_key

from .conftest import Fault

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
HOWS = {
    "langchain": ("plain", "stream", "async"),
    "litellm": ("plain", "stream"),
    "llm": ("plain", "stream"),
}
FAULTS = (Fault.NONE, Fault.UNAVAILABLE, Fault.LOST, Fault.HANG)
KEYS = ("empty", "unknown")
HANG_S = 10
"""Longer than any answer takes here: only the request that hangs shall run out of it."""
BALANCE = 1_000_000


def need_of(client: str, how: str, case: str) -> str:
    return f"keyed {client} {how} {case}"


def cases_of(client: str) -> list[str]:
    """By what happens: a fault on the way of a good key, or a key without worth."""
    faults = [fault.name for fault in FAULTS if client != "llm" or fault is not Fault.HANG]
    return [*faults, *KEYS]


EACH = [
    pytest.param(client, how, case, id=need_of(client, how, case))
    for client, hows in HOWS.items()
    for how in hows
    for case in cases_of(client)
]


@pytest.fixture(scope="session")
def keys(faulty: Any) -> dict[str, str]:
    """A key for each need, so that its books are the need's."""

    async def key_for(case: str) -> str:
        if case == "unknown":
            return make_key(os.urandom(32))
        made: str = await faulty.key(0 if case == "empty" else BALANCE)
        return made

    async def make_all() -> list[str]:
        return await asyncio.gather(*(key_for(str(param.values[2])) for param in EACH))

    needs = [need_of(*param.values) for param in EACH]
    return dict(zip(needs, faulty.run(make_all()), strict=True))


def task_of(faulty: Any, keys: dict[str, str], client: str) -> bytes:
    needs = [
        {
            "need": need,
            "how": how,
            "fault": case if case in Fault.__members__ else Fault.NONE.name,
            "key": keys[need],
            "timeout_s": HANG_S if case == Fault.HANG.name else None,
            "question": f"{need}?",
        }
        for how in HOWS[client]
        for case in cases_of(client)
        if (need := need_of(client, how, case))
    ]
    task = {"base_url": faulty.base_url, "model": "infern-tiny", "needs": needs}
    return json.dumps(task).encode()


@pytest.fixture(scope="session")
def outcomes(faulty: Any, keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What each framework made of each need; each framework is a process of its own."""
    assert PYTHON.exists(), "run `make test`, which installs the clients"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INFERN_")}
    environment = {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}

    async def run(client: str) -> dict[str, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            str(PYTHON),
            str(Path(__file__).parent / "keyed" / f"ask_{client}.py"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        async with asyncio.timeout(240):
            out, errors = await process.communicate(task_of(faulty, keys, client))
        assert process.returncode == 0, errors.decode()
        found: dict[str, dict[str, Any]] = json.loads(out.splitlines()[-1])
        return found

    async def run_all() -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for each in await asyncio.gather(*(run(client) for client in HOWS)):
            found |= each
        return found

    return asyncio.run(run_all())


def books_of(faulty: Any, key: str) -> tuple[dict[str, str], int]:
    """The tab of a key, and for how many answers it was charged."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=faulty.base_url + "/f402/", headers=headers, timeout=60) as http:
        tab = http.get("balance").json()
        return tab, len(http.get("receipts").json()["data"])


@pytest.mark.parametrize(("client", "how", "case"), EACH)
def test_an_answer_is_charged_once_and_an_error_is_readable_and_free(
    faulty: Any,
    keys: dict[str, str],
    outcomes: dict[str, dict[str, Any]],
    client: str,
    how: str,
    case: str,
) -> None:
    need = need_of(client, how, case)
    found, asked = outcomes[need], faulty.proxy.proofs[need]
    if case == "unknown":
        assert found["status"] == 401, found
        assert "This key is not known here." in found["message"]
        assert asked == 1
        return
    tab, charges = books_of(faulty, keys[need])
    assert tab["held"] == "0"
    match case:
        case "empty":
            assert found["status"] == 402, found
            assert "The balance of 0 CKB does not cover" in found["message"]
            assert "top the key up" in found["message"]
            assert (asked, charges, tab["spent"]) == (1, 0, "0")
        case Fault.NONE.name:
            assert found.get("text"), found
            assert (asked, charges) == (1, 1)
        case Fault.LOST.name if how == "stream":
            assert (asked, charges) == (1, 1), found
        case Fault.LOST.name:
            assert found.get("text"), found
            assert (asked, charges) == (2, 1)
        case _:
            # Their retry is answered. The first request never arrived and costs nothing.
            assert found.get("text"), found
            assert (asked, charges) == (2, 1)
    assert (int(tab["spent"]) > 0) == (charges == 1)
