"""The local paying proxy: any unmodified OpenAI client at `http://127.0.0.1:8402/v1`, paid for.

It is a wallet on a port, so it trusts nobody who merely reaches it: a caller needs the proxy's
own token as its api_key, the `Host` must be ours (against DNS rebinding), and a request of a web
page is refused unless its origin is listed. It forwards to one configured seller, to a fixed set
of paths, and nothing of a caller's credentials goes further.

Bytes pass as they come, in both directions of trust: a caller that leaves cancels the request at
the seller, and what was paid is kept for the same request.
"""

import hmac
import logging
from collections.abc import AsyncIterator
from itertools import count
from typing import Final

import anyio
import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from infern.client.delivery import Delivery
from infern.client.openai import AsyncInfern
from infern.client.transport import DELIVERY_EXTENSION
from infern.client.wallet import Wallet
from infern.core.errors import (
    AccessError,
    DeliveryError,
    IdentityRejected,
    InfernError,
    JsonValue,
    ProtocolError,
    StreamInterrupted,
    TransportError,
)
from infern.core.wire.render import render_error, render_stream_error
from infern.proxy.config import ProxyConfig
from infern.proxy.prepaid import KeyKeeper

logger = logging.getLogger(__name__)

PAID_PATHS: Final = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
)
MODELS_PATH: Final = "/v1/models"
MAX_TARGET_CHARS: Final = 2_048
PASSED_ON: Final = frozenset(
    {
        "accept",
        "content-type",
        "idempotency-key",
        "user-agent",
        "f402-max-amount",
        "f402-mode",
        "f402-on-leave",
    }
)
PASSED_ON_PREFIXES: Final = ("x-stainless-", "infern-")
PASSED_BACK: Final = frozenset(
    {
        "content-type",
        "content-length",
        "content-encoding",
        "cache-control",
        "retry-after",
        "x-request-id",
        "x-should-retry",
        "payment-response",
    }
)
PASSED_BACK_PREFIXES: Final = ("f402-", "openai-", "x-ratelimit-")


class ProxyApp:
    """The proxy as an ASGI application.

    Args:
        config: Where to forward and whom to trust.
        wallet: What to pay with; its async node pays.
        transport: What reaches the seller; made by default.
    """

    def __init__(
        self,
        config: ProxyConfig,
        wallet: Wallet,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._config = config
        self._wallet = wallet
        self._client = AsyncInfern(
            base_url=config.base_url,
            wallet=wallet,
            timeout=httpx2.Timeout(config.idle_timeout_s, connect=config.connect_timeout_s),
            transport=transport,
        )
        self._keeper = KeyKeeper(self._client, config.prepaid) if config.prepaid else None
        self._open = 0
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the proxy does not speak {scope['type']}")
        request = Request(scope, receive)
        request_id = f"req_proxy_{next(self._numbers)}"
        try:
            self._admit(request)
            if request.method == "OPTIONS":
                await self._preflight(request)(scope, receive, send)
            elif request.method == "GET" and request.url.path == "/":
                await self._status()(scope, receive, send)
            else:
                await self._forward(request, send, request_id)
        except InfernError as error:
            await self._render(error, request, request_id)(scope, receive, send)
        except ClientDisconnect:
            logger.info("%s: the caller left", request_id)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def aclose(self) -> None:
        """Close the connections to the seller; the wallet is its owner's to close."""
        await self._client.close()

    def _admit(self, request: Request) -> None:
        """Refuse who must not use the wallet, before anything else is looked at.

        Raises:
            AccessError: `forbidden`: not our host, or a page of an origin that is not listed.
            IdentityRejected: `invalid_api_key`: not our token.
        """
        server = request.scope.get("server") or ("", self._config.port)
        if not self._config.answers_to(request.headers.get("host", ""), server[1] or 0):
            raise AccessError("this address is not one the paying proxy answers to")
        origins = request.headers.getlist("origin")
        if any(origin not in self._config.origins for origin in origins):
            raise AccessError("web pages of this origin may not use the paying proxy")
        if request.method == "OPTIONS" and origins:
            return  # browsers send no credentials with a preflight, and it does nothing
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        good = hmac.compare_digest(token.strip().encode(), self._config.token.encode())
        if scheme.lower() != "bearer" or not good:
            raise IdentityRejected(
                "The paying proxy needs its own token as api_key; it is in the file that"
                " `infern proxy` names when it starts."
            )

    def _allow(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("origin", "")
        if origin not in self._config.origins:
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "x-request-id, f402-cost, f402-receipt, f402-balance",
            "vary": "Origin",
        }

    def _preflight(self, request: Request) -> Response:
        headers = self._allow(request)
        headers["access-control-allow-methods"] = "GET, POST"
        headers["access-control-allow-headers"] = "authorization, content-type, idempotency-key"
        asked = request.headers.get("access-control-request-headers", "")
        stainless = [h.strip() for h in asked.lower().split(",") if "x-stainless-" in h][:16]
        if stainless:
            headers["access-control-allow-headers"] += ", " + ", ".join(stainless)
        return Response(status_code=204, headers=headers)

    def _status(self) -> Response:
        wallet = self._wallet
        spent = wallet.journal.spent(session=wallet.session, now_ms=wallet.clock.now_ms())
        at_stake = wallet.journal.attempts(limit=1_000, at_stake=True)
        status: dict[str, JsonValue] = {
            "seller": self._config.base_url,
            "unit": "shannon",
            "spent": {"session": str(spent.session), "day": str(spent.day)},
            "budget_left": str(wallet.budget.left(spent)),
            "at_stake": len(at_stake),
            "mode": wallet.mode.value,
            "locked": {"payments": spent.locks, "amount": str(spent.locked)},
            "requests_open": self._open,
        }
        if self._keeper is not None:
            balance = self._keeper.balance
            status["balance"] = None if balance is None else str(balance)
        return JSONResponse(status)

    async def _forward(self, request: Request, send: Send, request_id: str) -> None:
        """Relay one request and its answer.

        Raises:
            InfernError: Before anything of an answer was sent.
        """
        target = _target(request)
        if self._open >= self._config.max_concurrent:
            raise DeliveryError(
                "the proxy is at its limit of open requests", code="overloaded", retry_after_s=1
            )
        self._open += 1
        try:
            body = await self._body(request)
            async with anyio.create_task_group() as group:
                group.start_soon(_leave_with, request.receive, group.cancel_scope)
                await self._relay(request, target, body, send, request_id)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise _only(errors) from None
        finally:
            self._open -= 1

    async def _body(self, request: Request) -> bytes:
        limit = self._config.max_body_bytes
        declared = request.headers.get("content-length", "0")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProtocolError("send the body without encoding", code="unsupported_encoding")
        if not declared.isdigit() or int(declared) > limit:
            raise _too_large(limit)
        read = bytearray()
        try:
            with anyio.fail_after(self._config.body_timeout_s):
                async for chunk in request.stream():
                    read += chunk
                    if len(read) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            raise ProtocolError("the body did not arrive in time", code="request_timeout") from None
        return bytes(read)

    async def _relay(
        self, request: Request, target: str, body: bytes, send: Send, request_id: str
    ) -> None:
        upstream = await self._send(request, target, body)
        try:
            headers = [
                (name, value)
                for name, value in upstream.headers.items()
                if name in PASSED_BACK or name.startswith(PASSED_BACK_PREFIXES)
            ]
            headers += list(self._allow(request).items())
            if "x-request-id" not in upstream.headers:
                headers.append(("x-request-id", request_id))
            await send(
                {
                    "type": "http.response.start",
                    "status": upstream.status_code,
                    "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers],
                }
            )
            async for chunk in _chunks(upstream, request_id):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx2.TransportError as error:
            # The answer has begun and cannot end: the server closes the caller's connection.
            logger.warning("%s: the seller's answer broke off: %s", request_id, error)
        finally:
            _abandon(upstream)
            with anyio.CancelScope(shield=True):
                await upstream.aclose()
        if self._keeper is not None:
            self._keeper.heard(upstream.headers.get("f402-balance"))

    async def _send(self, request: Request, target: str, body: bytes) -> httpx2.Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
        }
        headers["accept-encoding"] = "identity"
        if self._keeper is not None and (key := await self._keeper.key()):
            headers["authorization"] = f"Bearer {key}"
        http = self._client.http_client
        url = self._config.base_url.rstrip("/") + target.removeprefix("/v1")
        outgoing = http.build_request(request.method, url, headers=headers, content=body or None)
        try:
            return await http.send(outgoing, stream=True)
        except httpx2.TimeoutException as error:
            raise TransportError("the seller did not answer in time") from error
        except httpx2.TransportError as error:
            raise TransportError(f"the seller cannot be reached: {error}") from error

    def _render(self, error: InfernError, request: Request, request_id: str) -> Response:
        rendered = render_error(error, request_id)
        headers = {**rendered.headers, "x-request-id": request_id, **self._allow(request)}
        return Response(rendered.body, status_code=rendered.status, headers=headers)


def _target(request: Request) -> str:
    """The origin form to ask the seller for; only known paths, whatever the caller wrote.

    Raises:
        ProtocolError: `not_found` or `method_not_allowed`.
    """
    path: str = request.scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
    wanted = {"POST": PAID_PATHS, "GET": frozenset({MODELS_PATH})}.get(request.method)
    if wanted is None:
        raise ProtocolError("the proxy takes GET and POST", code="method_not_allowed")
    model = path.removeprefix(MODELS_PATH + "/")
    is_model = request.method == "GET" and path != model and _is_plain(model)
    if path not in wanted and not is_model:
        raise ProtocolError("the paying proxy does not forward this path", code="not_found")
    query: str = request.scope.get("query_string", b"").decode("latin-1")
    target = f"{path}?{query}" if query else path
    if len(target) > MAX_TARGET_CHARS or not target.isascii() or not target.isprintable():
        raise ProtocolError("the request's target cannot be forwarded")
    return target


def _is_plain(name: str) -> bool:
    """True for a model's name in a path: segments that lead nowhere else."""
    segments = name.split("/")
    return all(
        segment not in {"", ".", ".."}
        and all(c.isalnum() or c in "-._:@%" for c in segment)
        and "%2" not in segment.lower()
        for segment in segments
    )


async def _leave_with(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel the relay when the caller leaves."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel()
            return


async def _chunks(upstream: httpx2.Response, request_id: str) -> AsyncIterator[bytes]:
    """The answer's bytes as they come; a stream that breaks ends with an error event."""
    try:
        async for chunk in upstream.aiter_raw():
            yield chunk
    except httpx2.TransportError as error:
        if not upstream.headers.get("content-type", "").startswith("text/event-stream"):
            raise
        logger.warning("%s: the seller's stream broke: %s", request_id, error)
        broken = StreamInterrupted(
            "The answer broke off. What was paid is kept: the same request again is not paid twice."
        )
        yield b"\n\n" + render_stream_error(broken, request_id)


def _abandon(upstream: httpx2.Response) -> None:
    """Keep the payment of an answer that did not go out whole; one that did is settled already.

    A caller that left may be one that timed out and asks again, which must not pay again.
    """
    delivery = upstream.extensions.get(DELIVERY_EXTENSION)
    if isinstance(delivery, Delivery):
        delivery.broke()


def _too_large(limit: int) -> ProtocolError:
    return ProtocolError(f"the body is over {limit} bytes", code="request_too_large")


def _only(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one failure inside a task group's wrapping."""
    first = errors.exceptions[0]
    return _only(first) if isinstance(first, BaseExceptionGroup) else first
