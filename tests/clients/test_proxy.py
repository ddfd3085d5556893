"""openai-python, unmodified, through `infern proxy`: every request paid by itself from our node."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from infern.cli.demo_world import free_port

PROXY = [sys.executable, "-m", "infern.cli.main", "proxy", "--json", "--network", "dev"]
ASK = {
    "model": "infern-tiny",
    "messages": [{"role": "user", "content": "What is Infern?"}],
    "max_tokens": 48,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def proxy(live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    port = free_port()
    home = tmp_path_factory.mktemp("proxy-home")
    rpc_url = live.world.rpc_urls["consumer"]
    process = subprocess.Popen(
        [*PROXY, "--port", str(port), "--base-url", live.base_url, "--fiber-rpc", rpc_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "INFERN_HOME": str(home)},
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.strip() == b"}":
            break
    if not lines:
        _, errors = process.communicate(timeout=10)
        raise AssertionError(errors.decode())
    yield json.loads(b"".join(lines))
    process.terminate()
    process.communicate(timeout=30)


def _spent(proxy: dict[str, str]) -> int:
    headers = {"authorization": f"Bearer {proxy['api_key']}"}
    status = httpx2.get(proxy["base_url"].removesuffix("/v1") + "/", headers=headers).json()
    return int(status["spent"]["session"])


def test_sync_plain_and_streamed_through_the_proxy(proxy) -> None:
    client = openai.OpenAI(base_url=proxy["base_url"], api_key=proxy["api_key"])
    before = _spent(proxy)
    plain = client.chat.completions.create(**ASK)
    middle = _spent(proxy)
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**ASK, stream=True)
        if chunk.choices
    )
    client.close()
    assert plain.choices[0].message.content == streamed != ""
    assert before < middle < _spent(proxy)


async def test_async_streamed_through_the_proxy(proxy) -> None:
    client = openai.AsyncOpenAI(base_url=proxy["base_url"], api_key=proxy["api_key"])
    stream = await client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    async for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    await client.close()
    assert text
    assert usage is not None
    assert usage.completion_tokens > 0


def test_the_stream_arrives_piece_by_piece(proxy) -> None:
    client = openai.OpenAI(base_url=proxy["base_url"], api_key=proxy["api_key"])
    arrivals = [
        time.monotonic()
        for chunk in client.chat.completions.create(**ASK, stream=True)
        if chunk.choices and chunk.choices[0].delta.content
    ]
    client.close()
    # The toy model is paced, so a stream that was not buffered has its pieces spread out.
    assert len(arrivals) > 5
    assert arrivals[-1] - arrivals[0] > 0.1


def test_without_the_token_nothing_is_paid(proxy) -> None:
    before = _spent(proxy)
    client = openai.OpenAI(base_url=proxy["base_url"], api_key="sk-somebody-elses")
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(**ASK)
    client.close()
    assert _spent(proxy) == before


def test_abuse_39_a_web_page_cannot_spend(proxy) -> None:
    before = _spent(proxy)
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example:8402"}):
        reply = httpx2.post(
            proxy["base_url"] + "/chat/completions",
            json=ASK,
            headers={"authorization": f"Bearer {proxy['api_key']}", **headers},
        )
        assert reply.status_code in {401, 403}
        assert "access-control-allow-origin" not in reply.headers
    assert _spent(proxy) == before


def test_models_pass_through(proxy) -> None:
    client = openai.OpenAI(base_url=proxy["base_url"], api_key=proxy["api_key"])
    assert [model.id for model in client.models.list()] == ["infern-tiny"]
    client.close()
