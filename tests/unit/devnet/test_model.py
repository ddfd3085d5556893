"""The embedded model server: what it answers, what it refuses, and that it goes away."""

import importlib
import json
import logging
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread
import httpx2
import pytest
from aiohttp import web
from yarl import URL

from infern.core.errors import ConfigError
from infern.devnet import model as subject
from infern.devnet.model import EmbeddedModel, EmbeddedModelConfig

pytest.importorskip("xllamacpp", reason="the infern[demo] extra is not installed")

QUESTION = {"role": "user", "content": "What is Infern?"}
LONG_QUESTION = {"role": "user", "content": "Count from 1 to 50"}
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def served() -> Iterator[EmbeddedModel]:
    """One server for all tests that only ask."""
    with EmbeddedModel() as running:
        yield running


@pytest.fixture(scope="module")
def paced() -> Iterator[EmbeddedModel]:
    """A server that releases 40 events per second."""
    with EmbeddedModel(EmbeddedModelConfig(pace_tokens_per_s=40)) as running:
        yield running


@pytest.fixture(params=["direct", "paced"])
def either(request: pytest.FixtureRequest) -> EmbeddedModel:
    """Both ways in: what is no stream must be the same through the pass-through."""
    name = "served" if request.param == "direct" else "paced"
    running: EmbeddedModel = request.getfixturevalue(name)
    return running


def client(running: EmbeddedModel, key: str | None = None) -> httpx2.Client:
    """A client with the server's key, or another one."""
    headers = {"Authorization": f"Bearer {key or running.api_key}"}
    return httpx2.Client(base_url=running.base_url, headers=headers, timeout=TIMEOUT_S)


def post(running: EmbeddedModel, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask and expect success."""
    with client(running) as http:
        reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    result: dict[str, Any] = reply.json()
    return result


def root(running: EmbeddedModel, path: str) -> str:
    """URL of a route outside `/v1`."""
    return running.base_url.removesuffix("/v1") + path


def stream(running: EmbeddedModel, body: dict[str, Any]) -> list[str]:
    """Ask for a stream and return the payload of each event."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client(running) as http, http.stream("POST", "/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        return [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]


def test_it_listens_on_loopback_only_and_is_ready_at_once(either: EmbeddedModel) -> None:
    assert urlsplit(either.base_url).hostname == "127.0.0.1"
    assert either.base_url.endswith("/v1")
    assert httpx2.get(root(either, "/health")).json() == {"status": "ok"}


def test_chat_knows_what_infern_is(either: EmbeddedModel) -> None:
    body = {"messages": [QUESTION], "temperature": 0, "max_tokens": 100}
    reply = post(either, "/chat/completions", body)
    assert "marketplace" in reply["choices"][0]["message"]["content"]
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["model"] == either.model_name
    usage = reply["usage"]
    assert usage["completion_tokens"] > 10
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_models_route_names_the_model_and_no_path(either: EmbeddedModel) -> None:
    with client(either) as http:
        text = http.get("/models").text
    listed = json.loads(text)["data"][0]
    assert listed["id"] == either.model_name
    assert listed["meta"]["n_ctx"] == 1024
    assert ".gguf" not in text


def test_a_stream_ends_with_usage_and_the_end_mark(either: EmbeddedModel) -> None:
    body = {"messages": [QUESTION], "temperature": 0, "max_tokens": 100}
    events = stream(either, body)
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    said = "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )
    whole = post(either, "/chat/completions", body)
    assert said == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_plain_completions_continue_a_sentence(either: EmbeddedModel) -> None:
    body = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    assert "Paris" in post(either, "/completions", body)["choices"][0]["text"]


def test_embeddings_are_unit_vectors_that_depend_on_the_text(either: EmbeddedModel) -> None:
    reply = post(either, "/embeddings", {"input": ["a channel", "a channel", "good morning"]})
    vectors = [item["embedding"] for item in reply["data"]]
    assert {len(vector) for vector in vectors} == {128}
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-3)
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-4)
    assert vectors[0] != pytest.approx(vectors[2], abs=1e-2)
    assert reply["usage"]["prompt_tokens"] > 0


def test_an_embedding_may_fill_a_slot(served: EmbeddedModel) -> None:
    """The default batch would refuse more than 512 tokens with status 500."""
    reply = post(served, "/embeddings", {"input": "channel " * 700})
    assert reply["usage"]["prompt_tokens"] > 600


def test_tokens_of_a_prompt_can_be_counted_before_paying(either: EmbeddedModel) -> None:
    body = {"messages": [QUESTION], "temperature": 0, "max_tokens": 4}
    counted = post(either, "/chat/completions/input_tokens", body)["input_tokens"]
    used = post(either, "/chat/completions", body)["usage"]["prompt_tokens"]
    rendered = post(either, root(either, "/apply-template"), body)["prompt"]
    content = {"content": rendered, "parse_special": True}
    tokens = post(either, root(either, "/tokenize"), content)["tokens"]
    assert counted == used == len(tokens)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/tokenize"),
        ("GET", "/props"),
        ("GET", "/slots"),
    ],
)
def test_without_the_key_there_is_nothing(either: EmbeddedModel, method: str, path: str) -> None:
    with client(either, key="wrong") as http:
        assert http.request(method, root(either, path), json={}).status_code == 401
    with httpx2.Client() as http:
        assert http.request(method, root(either, path), json={}).status_code == 401


@pytest.mark.parametrize("path", ["/slots", "/metrics", "/", "/index.html", "/tools"])
def test_what_a_paid_service_must_not_show_is_off(served: EmbeddedModel, path: str) -> None:
    with client(served) as http:
        assert http.get(root(served, path)).status_code in {403, 404, 501}


def test_other_origins_are_not_welcome(either: EmbeddedModel) -> None:
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        reply = httpx2.request(method, root(either, "/v1/models"), headers=origin)
        assert not reply.headers.get("access-control-allow-origin")
        assert reply.headers.get("access-control-allow-credentials", "false") == "false"


def test_nobody_learns_that_a_prompt_was_asked_before(served: EmbeddedModel) -> None:
    body = {"messages": [QUESTION], "temperature": 0, "max_tokens": 4}
    for _ in range(2):
        details = post(served, "/chat/completions", body)["usage"]["prompt_tokens_details"]
        assert details["cached_tokens"] == 0


def test_a_prompt_beyond_the_context_is_refused_with_counts(either: EmbeddedModel) -> None:
    body = {"messages": [{"role": "user", "content": "channel " * 3000}]}
    with client(either) as http:
        reply = http.post("/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "exceed_context_size_error"


def test_a_paced_stream_takes_its_time(paced: EmbeddedModel) -> None:
    started = time.monotonic()
    events = stream(paced, {"messages": [LONG_QUESTION], "temperature": 0, "max_tokens": 40})
    # The first event is free and the end mark is not paced.
    assert time.monotonic() - started >= (len(events) - 2) / 40
    assert len(events) > 40


def test_a_paced_answer_without_stream_is_not_cut_in_pieces(paced: EmbeddedModel) -> None:
    body = {"messages": [LONG_QUESTION], "temperature": 0, "max_tokens": 40}
    with client(paced) as http:
        reply = http.post("/chat/completions", json=body)
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert reply.headers["server"] == "llama.cpp"


def test_the_pass_through_refuses_a_huge_body(paced: EmbeddedModel) -> None:
    with client(paced) as http:
        reply = http.post("/chat/completions", content=b"x" * (subject.MAX_BODY_BYTES + 1))
    assert reply.status_code == 413


@asynccontextmanager
async def passing_through(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], tokens_per_s: int = 10_000
) -> AsyncIterator[str]:
    """The pass-through in front of a server made for one test; gives its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    pacer = subject._PacedPassThrough(f"http://{host}:{port}", tokens_per_s)
    pacer.start()
    try:
        yield pacer.address
    finally:
        await anyio.to_thread.run_sync(pacer.stop)
        await runner.cleanup()


async def test_a_client_that_leaves_cancels_the_upstream_request() -> None:
    gone = anyio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"data: {}\n\n")
                await anyio.sleep(0.01)
        finally:
            gone.set()

    async with passing_through(endless) as address, aiohttp.ClientSession() as session:
        async with session.post(address, data=b"{}") as reply:
            assert await reply.content.readuntil(b"\n\n") == b"data: {}\n\n"
            assert not gone.is_set()
            reply.close()
        with anyio.fail_after(TIMEOUT_S):
            await gone.wait()


async def test_a_stream_keeps_every_byte_whatever_its_events_look_like() -> None:
    big = b"data: " + b"x" * (2 * subject.MAX_EVENT_BYTES) + b"\n\n"
    sent = b": hello\n\ndata: 1\r\n\r\nevent: odd\ndata: 2\n\n" + big + b"data: [DONE]\n\nrest"

    async def odd(request: web.Request) -> web.StreamResponse:
        assert await request.read() == b"body"
        assert request.path_qs == "/v1/chat/completions?a=%20b"
        assert request.headers["Authorization"] == "Bearer key"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Odd": "1"})
        await response.prepare(request)
        for start in range(0, len(sent), 99_991):
            await response.write(sent[start : start + 99_991])
        return response

    async with passing_through(odd) as address, aiohttp.ClientSession() as session:
        url = URL(f"{address}/v1/chat/completions?a=%20b", encoded=True)
        headers = {"Authorization": "Bearer key"}
        async with session.post(url, data=b"body", headers=headers) as reply:
            assert await reply.read() == sent
            assert reply.headers["X-Odd"] == "1"


async def test_refusals_of_the_engine_pass_unchanged() -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"error": "busy"}, status=429, headers={"Retry-After": "3"})

    async with (
        passing_through(busy) as address,
        aiohttp.ClientSession() as session,
        session.post(address, data=b"{}") as reply,
    ):
        assert reply.status == 429
        assert reply.headers["Retry-After"] == "3"
        assert await reply.json() == {"error": "busy"}


async def test_an_engine_that_hangs_up_is_a_bad_gateway() -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with (
        passing_through(hang_up) as address,
        aiohttp.ClientSession() as session,
        session.post(address, data=b"{}") as reply,
    ):
        assert reply.status == 502


async def test_a_stream_that_breaks_off_does_not_look_complete() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        assert request.transport is not None
        request.transport.close()
        return response

    async with (
        passing_through(break_off) as address,
        aiohttp.ClientSession() as session,
        session.post(address, data=b"{}") as reply,
    ):
        assert reply.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()


@pytest.mark.parametrize("pace", [None, 5])
def test_stop_frees_the_port_even_during_a_stream(pace: int | None) -> None:
    running = EmbeddedModel(EmbeddedModelConfig(pace_tokens_per_s=pace))
    running.start()
    port = urlsplit(running.base_url).port
    assert port is not None
    body = {"messages": [LONG_QUESTION], "stream": True, "ignore_eos": True, "max_tokens": 900}
    with client(running) as http, http.stream("POST", "/chat/completions", json=body) as reply:
        assert next(reply.iter_lines()).startswith("data: ")
        running.stop()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    with pytest.raises(RuntimeError, match="not running"):
        _ = running.base_url


def test_it_can_be_started_again_with_another_key() -> None:
    running = EmbeddedModel()
    with running:
        first = running.api_key
        with pytest.raises(RuntimeError, match="already running"):
            running.start()
    with running:
        assert running.api_key != first
        with client(running, key=first) as http:
            assert http.get("/models").status_code == 401
    running.stop()


def test_it_says_once_that_it_is_a_toy(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="infern.devnet.model"), EmbeddedModel():
        pass
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "toy" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with 'GGUF'"),
        (b"PK\x03\x04 something else", "does not begin with 'GGUF'"),
        (b"GGUF\x03", "does not begin with 'GGUF'"),
        (struct.pack("<4sI", b"GGUF", 99), "version 99"),
        (struct.pack("<4sI", b"GGUF", 3) + bytes(64), "llama.cpp cannot load"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        EmbeddedModel(EmbeddedModelConfig(weights=path)).start()
    assert str(path) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.gguf"
    with pytest.raises(ConfigError, match=r"nowhere\.gguf"):
        EmbeddedModel(EmbeddedModelConfig(weights=path)).start()


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, package: str | None = None) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ConfigError, match=r"infern\[demo\]"):
        EmbeddedModel().start()


def test_an_old_processor_gets_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_processor_is_new_enough", lambda: False)
    with pytest.raises(ConfigError, match="AVX2"):
        EmbeddedModel().start()


@pytest.mark.parametrize(
    "bad",
    [
        {"parallel_slots": 0},
        {"parallel_slots": 65},
        {"context_tokens_per_slot": 1},
        {"pace_tokens_per_s": 0},
    ],
)
def test_values_out_of_range_are_refused_early(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        EmbeddedModelConfig(**bad)


def test_importing_the_module_does_not_load_the_engine() -> None:
    """A router that never embeds a model must not pay 30 MB for it."""
    code = "import sys, infern.devnet.model; sys.exit('xllamacpp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT_S)
