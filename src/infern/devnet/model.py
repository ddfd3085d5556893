"""The model server of the demo: llama.cpp inside this process, with Infern's own tiny weights.

It speaks the OpenAI HTTP API on a loopback port, as the server of any operator does, so that a
provider agent in front of it cannot tell the difference. It is started with everything off that
a paid service must not expose (page, slots, other origins, shared prompt cache) and refuses
callers without its key. It must still never be reachable by customers: `n` above 1 makes
llama.cpp count too few tokens, and `/props` tells the file path to whoever has the key.

The tiny weights answer thousands of tokens per second. `pace_tokens_per_s` puts a small
pass-through in front that releases the events of a stream at the speed of a real machine.
"""

import asyncio
import http.client
import importlib
import json
import logging
import os
import platform
import re
import secrets
import struct
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from infern.core.errors import ConfigError

logger = logging.getLogger(__name__)

SHIPPED_WEIGHTS: Final = Path(__file__).with_name("weights") / "tiny-a-q8_0.gguf"
MODEL_NAME: Final = "infern-tiny"
LOOPBACK: Final = "127.0.0.1"

GGUF_HEADER: Final = struct.Struct("<4sI")
"""Magic and version at the start of every GGUF file, little-endian."""
GGUF_VERSIONS: Final = frozenset({2, 3})
SMALL_FILE_BYTES: Final = 64 * 2**20
"""Below this one thread is fastest: handing work to others costs more than it saves."""

MAX_SLOTS: Final = 64
MIN_CONTEXT_TOKENS: Final = 128
MAX_PACE_TOKENS_PER_S: Final = 10_000
MAX_BODY_BYTES: Final = 8 * 2**20
MAX_EVENT_BYTES: Final = 1 * 2**20
CHUNK_BYTES: Final = 64 * 2**10
CONNECT_TIMEOUT_S: Final = 5.0
FIRST_ANSWER_TIMEOUT_S: Final = 120.0
IDLE_TIMEOUT_S: Final = 120
"""Longest silence of the engine inside one answer."""
THREAD_TIMEOUT_S: Final = 10.0
"""Longest wait for the pass-through to start or stop."""
SHUTDOWN_TIMEOUT_S: Final = 0.5
"""How long `stop` lets running answers finish before it cuts them off."""

BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to one connection (RFC 9110 §7.6.1) and those each hop writes anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedModelConfig:
    """What the embedded model serves and how.

    Attributes:
        weights: A GGUF file; `None` means the shipped toy `tiny-a-q8_0.gguf`.
        parallel_slots: Answers computed at the same time, 1 to 64; further requests wait.
        context_tokens_per_slot: Tokens of prompt and answer together, at least 128. llama.cpp
            lowers it to what the weights were trained for (1024 for the shipped ones).
        pace_tokens_per_s: Release at most this many events of a stream per second, 1 to 10,000;
            `None` means as fast as the machine can. Answers without streaming are not slowed.
    """

    weights: Path | None = None
    parallel_slots: int = 4
    context_tokens_per_slot: int = 1024
    pace_tokens_per_s: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that llama.cpp would refuse without saying why."""
        if not 1 <= self.parallel_slots <= MAX_SLOTS:
            raise ConfigError(f"parallel_slots must be 1 to {MAX_SLOTS}.")
        if self.context_tokens_per_slot < MIN_CONTEXT_TOKENS:
            raise ConfigError(f"context_tokens_per_slot must be at least {MIN_CONTEXT_TOKENS}.")
        pace = self.pace_tokens_per_s
        if pace is not None and not 1 <= pace <= MAX_PACE_TOKENS_PER_S:
            raise ConfigError(f"pace_tokens_per_s must be 1 to {MAX_PACE_TOKENS_PER_S}.")


class EmbeddedModel:
    """A llama.cpp server in this process, on a free loopback port, behind a random key.

    Use it as a context manager, or call `start` and `stop`. It may be started again after a
    stop, and gets another port and another key then.

    Args:
        config: What to serve.
    """

    def __init__(self, config: EmbeddedModelConfig | None = None) -> None:
        self._config = config or EmbeddedModelConfig()
        self._engine: Any = None
        self._pacer: _PacedPassThrough | None = None
        self._address = ""
        self._api_key = ""

    def start(self) -> None:
        """Load the weights and listen. Ready to serve when it returns.

        Raises:
            ConfigError: The file is no GGUF or cannot be loaded, the `infern[demo]` extra is not
                installed, or this processor cannot run it.
            RuntimeError: It runs already.
        """
        if self._engine is not None:
            raise RuntimeError("The embedded model is already running.")
        weights = self._config.weights or SHIPPED_WEIGHTS
        size_bytes = check_gguf(weights)
        xllamacpp = _import_engine()
        api_key = secrets.token_urlsafe(32)
        params = _engine_params(xllamacpp, self._config, weights, size_bytes, api_key)
        try:
            engine = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ConfigError(
                f"llama.cpp cannot load {weights}: the file may be damaged or of an architecture "
                "it does not know. Try another GGUF file."
            ) from error
        address = str(engine.listening_address)
        _await_first_answer(address, api_key)
        self._engine, self._api_key, self._address = engine, api_key, address
        if self._config.pace_tokens_per_s is not None:
            self._start_pacer(self._config.pace_tokens_per_s)
        logger.info(
            "embedded model in use: %s (%s, %d bytes) at %s; it is a toy for demos and tests, "
            "and its answers are often wrong",
            MODEL_NAME,
            weights.name,
            size_bytes,
            self._address,
        )

    def stop(self) -> None:
        """Stop listening, cut off running answers and free the memory. Harmless when stopped."""
        pacer, self._pacer = self._pacer, None
        if pacer is not None:
            pacer.stop()
        # Dropping the last reference is what stops llama.cpp's threads.
        self._engine = None
        self._address = self._api_key = ""

    @property
    def base_url(self) -> str:
        """Where OpenAI clients connect, for example `http://127.0.0.1:40321/v1`."""
        return f"{self._running(self._address)}/v1"

    @property
    def api_key(self) -> str:
        """The key to send as `Authorization: Bearer`; another one after each start."""
        return self._running(self._api_key)

    @property
    def model_name(self) -> str:
        """The name the server gives to the model."""
        return MODEL_NAME

    def __enter__(self) -> Self:
        """Start, and return the running model."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _start_pacer(self, tokens_per_s: int) -> None:
        pacer = _PacedPassThrough(self._address, tokens_per_s)
        try:
            pacer.start()
        except BaseException:
            self.stop()
            raise
        self._pacer = pacer
        self._address = pacer.address

    def _running(self, value: str) -> str:
        if not value:
            raise RuntimeError("The embedded model is not running; call start() first.")
        return value


def check_gguf(path: Path) -> int:
    """Look at the first bytes of a file before llama.cpp does, which would not say what is wrong.

    Args:
        path: The file.

    Returns:
        Its size in bytes.

    Raises:
        ConfigError: It cannot be read, or does not start as a GGUF file of a known version.
    """
    try:
        with path.open("rb") as file:
            head = file.read(GGUF_HEADER.size)
            size_bytes = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise ConfigError(f"Cannot read the model file {path}: {error.strerror}.") from error
    if len(head) < GGUF_HEADER.size or not head.startswith(b"GGUF"):
        raise ConfigError(f"{path} is not a GGUF model file: it does not begin with 'GGUF'.")
    version = GGUF_HEADER.unpack(head)[1]
    if version not in GGUF_VERSIONS:
        raise ConfigError(f"{path} has GGUF version {version}; only 2 and 3 are supported.")
    return size_bytes


def _import_engine() -> Any:
    """Import llama.cpp only when it is needed: it is an extra, and 30 MB of machine code."""
    if not _processor_is_new_enough():
        raise ConfigError(
            "The embedded model needs a processor with AVX2, which this machine lacks. Point the "
            "provider at another model server."
        )
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ConfigError(
            "The embedded model needs llama.cpp, which is not installed. "
            "Run: pip install 'infern[demo]'"
        ) from error


def _processor_is_new_enough() -> bool:
    """Tell whether an x86 Linux machine has AVX2; without it the wheel dies with SIGILL."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True  # Not Linux: nothing to read, so let it try.
    return " avx2" in flags


def _engine_params(
    xllamacpp: Any, config: EmbeddedModelConfig, weights: Path, size_bytes: int, api_key: str
) -> Any:
    """Set everything that differs from llama.cpp's open defaults."""
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    # Without an alias, `model` in each answer would be the path of the file.
    params.model_alias = {MODEL_NAME}
    params.hostnames = [LOOPBACK]
    params.port = 0
    params.api_keys = [api_key]
    params.cors_origins = ""
    params.cors_credentials = False
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_props = False
    params.endpoint_metrics = False
    params.n_parallel = config.parallel_slots
    params.n_ctx = config.parallel_slots * config.context_tokens_per_slot
    # An embedding is computed in one physical batch, so a batch must hold a full slot.
    params.n_batch = params.n_ubatch = config.context_tokens_per_slot
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    # A shared prompt cache tells one customer what another one asked, and shifts logprobs.
    params.cache_prompt = False
    params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.fit_params = False
    params.timeout_read = params.timeout_write = IDLE_TIMEOUT_S
    params.verbosity = 0
    threads = 1 if size_bytes <= SMALL_FILE_BYTES else os.cpu_count() or 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return params


def _await_first_answer(address: str, api_key: str) -> None:
    """Have one token computed over HTTP before anybody else may ask, or stop the server.

    The constructor returns while its threads are still starting. llama.cpp loses a stop that
    comes before its HTTP thread and its task queue run, and then waits for them for ever.
    """
    url = urlsplit(address)
    connection = http.client.HTTPConnection(
        url.hostname or LOOPBACK, url.port, timeout=FIRST_ANSWER_TIMEOUT_S
    )
    try:
        connection.request(
            "POST",
            "/v1/completions",
            body=json.dumps({"prompt": "a", "max_tokens": 1}),
            headers={"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
        )
        # Any answer will do: a model that only embeds refuses this request, and is ready too.
        connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(
            "The embedded model was loaded but does not answer; the machine may be too slow for it."
        ) from error
    finally:
        connection.close()


class _PacedPassThrough:
    """A loopback proxy with its own thread and loop that slows event streams down."""

    def __init__(self, upstream: str, tokens_per_s: int) -> None:
        self._upstream = upstream
        self._interval_s = 1 / tokens_per_s
        self._thread = threading.Thread(target=self._run, name="infern-paced-model", daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.address = ""

    def start(self) -> None:
        """Listen on a free loopback port; returns when it accepts connections."""
        self._thread.start()
        if not self._ready.wait(THREAD_TIMEOUT_S):
            raise RuntimeError("The paced pass-through did not start in time.")
        if self._failure is not None:
            raise RuntimeError("The paced pass-through could not start.") from self._failure

    def stop(self) -> None:
        """Close the port and wait until the thread has ended."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(THREAD_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in start()
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S
        )
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            app = web.Application(client_max_size=MAX_BODY_BYTES)
            app[_SESSION] = session
            app.router.add_route("*", "/{path:.*}", self._forward)
            # Cancellation is how a lost client reaches llama.cpp: it closes the upstream request.
            runner = web.AppRunner(
                app,
                access_log=None,
                handler_cancellation=True,
                shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
            await runner.setup()
            try:
                await web.TCPSite(runner, LOOPBACK, 0).start()
                host, port = runner.addresses[0][:2]
                self.address = f"http://{host}:{port}"
                self._ready.set()
                await self._stopping.wait()
            finally:
                await runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on and its answer back, pacing it when it is an event stream."""
        body = await request.read()
        session = request.app[_SESSION]
        response: web.StreamResponse | None = None
        try:
            async with session.request(
                request.method,
                self._upstream + request.raw_path,
                data=body or None,
                headers=_end_to_end(request.headers),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(
                    status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers)
                )
                paced = answer.content_type == "text/event-stream"
                if not paced and answer.content_length is not None:
                    response.content_length = answer.content_length
                await response.prepare(request)
                if paced:
                    await self._release(answer, response)
                else:
                    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                        await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientError as error:
            if request.transport is None or request.transport.is_closing():
                raise  # The client is gone; nobody would read an answer.
            if response is None:
                raise web.HTTPBadGateway(text="The embedded model did not answer.") from error
            # Half an answer is out: only a broken connection says that the rest is missing.
            request.transport.close()
            return response

    async def _release(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        """Write events one by one, never two within the interval."""
        now = asyncio.get_running_loop().time
        due_s = now()
        async for event in _events(answer.content):
            if _is_paced(event):
                await asyncio.sleep(due_s - now())
                due_s = max(due_s, now()) + self._interval_s
            await response.write(event)


_SESSION: Final = web.AppKey("upstream_session", aiohttp.ClientSession)


def _end_to_end(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Keep the headers that are meant for the other end, repeated ones included."""
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP]


def _is_paced(event: bytes) -> bool:
    """Tell whether an event carries a piece of an answer; comments and the end mark do not."""
    return event.startswith(b"data:") and b"[DONE]" not in event[:16]


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Cut a stream after each blank line; every byte comes out, in order.

    An event above `MAX_EVENT_BYTES` comes out in pieces, so that memory stays bounded.
    """
    pending = b""
    async for chunk in stream.iter_any():
        pending += chunk
        while blank := BLANK_LINE.search(pending):
            yield pending[: blank.end()]
            pending = pending[blank.end() :]
        if len(pending) > MAX_EVENT_BYTES:
            yield pending
            pending = b""
    if pending:
        yield pending
