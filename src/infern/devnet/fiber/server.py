"""Serves an embedded network on loopback: one HTTP and WebSocket port per node, one for control.

A node that is down has no listener, so its callers see a refused connection as they would after
kill -9; the port is bound again when it comes up.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from infern.devnet.fiber.clock import WallClock
from infern.devnet.fiber.control import Control
from infern.devnet.fiber.errors import RpcError
from infern.devnet.fiber.network import Network
from infern.devnet.fiber.node import Event, Node
from infern.devnet.fiber.rpc import NOTIFICATION, SUBSCRIBE, UNSUBSCRIBE, Caller, Envelope, NodeRpc

logger: Final = logging.getLogger("infern.devnet.fiber")

LOOPBACK: Final = "127.0.0.1"
MAX_BODY_BYTES: Final = 10 * 1024 * 1024
MAX_QUEUED_EVENTS: Final = 4_096
"""A subscriber that falls further behind is disconnected; events have no replay anyway."""
CLOSE_TIMEOUT_S: Final = 0.2
BACKLOG: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a served network listens.

    Args:
        rpc_urls: `http://…` per node name; the same port takes WebSocket.
        control_url: The control JSON-RPC.
    """

    rpc_urls: Mapping[str, str]
    control_url: str

    def ws_url(self, name: str) -> str:
        """`ws://…` of a node."""
        return self.rpc_urls[name].replace("http://", "ws://", 1)


@asynccontextmanager
async def serve(
    network: Network,
    *,
    ports: Mapping[str, int] | None = None,
    control_port: int = 0,
) -> AsyncIterator[Endpoints]:
    """Serve `network` until the block ends.

    Args:
        network: With a `WallClock` its time runs meanwhile; a virtual one moves only by
            `devnet_advance_clock` or by hand.
        ports: Port per node name; 0 or absent takes a free one.
        control_port: Of the control listener; 0 takes a free one.

    Raises:
        OSError: A port is taken.
    """
    server = _Server(network, dict(ports or {}))
    clock = network.clock
    if isinstance(clock, WallClock):
        clock.start()
    try:
        endpoints = await server.start(control_port)
        logger.info(
            "The embedded Fiber network is an accounting twin of fnn nodes: real invoices and "
            "signatures, no commitment transactions; channels exist only as entries here."
        )
        yield endpoints
    finally:
        if isinstance(clock, WallClock):
            clock.stop()
        await server.stop()


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener


class _Server:
    def __init__(self, network: Network, ports: dict[str, int]) -> None:
        self._network = network
        self._ports = ports
        self._runners: dict[str, web.AppRunner] = {}
        self._control: web.AppRunner | None = None
        self._changes: asyncio.Queue[Node] = asyncio.Queue()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self, control_port: int) -> Endpoints:
        try:
            for node in self._network.nodes.values():
                await self._open(node)
            urls = {name: f"http://{LOOPBACK}:{port}" for name, port in self._ports.items()}
            control = Control(self._network, urls)
            self._control, port = await _listen(_control_app(control), control_port)
        except BaseException:
            await self.stop()
            raise
        self._network.listeners.append(self._changes.put_nowait)
        self._keeper = asyncio.create_task(self._follow())
        return Endpoints(rpc_urls=urls, control_url=f"http://{LOOPBACK}:{port}")

    async def stop(self) -> None:
        with suppress(ValueError):
            self._network.listeners.remove(self._changes.put_nowait)
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        for runner in [*self._runners.values(), self._control]:
            if runner is not None:
                await runner.cleanup()
        self._runners.clear()

    async def _follow(self) -> None:
        """Open and close listeners as nodes go up and down."""
        while True:
            node = await self._changes.get()
            if node.online and node.name not in self._runners:
                await self._open(node)
            elif not node.online and node.name in self._runners:
                await self._runners.pop(node.name).cleanup()

    async def _open(self, node: Node) -> None:
        runner, port = await _listen(_NodeApp(node).app, self._ports.get(node.name, 0))
        self._runners[node.name] = runner
        self._ports[node.name] = port


async def _listen(app: web.Application, port: int) -> tuple[web.AppRunner, int]:
    listener = _bind(port)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_TIMEOUT_S)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    return runner, int(listener.getsockname()[1])


def _control_app(control: Control) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        return _json_response(control.answer_text(await request.read()))

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/", handle)
    return app


def _json_response(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


class _NodeApp:
    """HTTP and WebSocket of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rpc = NodeRpc(node)
        self._sockets: set[web.WebSocketResponse] = set()
        self.app = web.Application(client_max_size=MAX_BODY_BYTES)
        self.app.router.add_route("*", "/{path:.*}", self._handle)
        self.app.on_shutdown.append(self._close_sockets)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        caller = Caller(_bearer(request))
        if request.method == "GET" and "upgrade" in request.headers.get("connection", "").lower():
            return await self._websocket(request, caller)
        if request.method != "POST":
            text = "Used HTTP Method is not allowed. POST is required"
            return web.Response(status=405, text=text)
        if request.content_type != "application/json":
            text = (
                "Supplied content type is not allowed. Content-Type: application/json is required"
            )
            return web.Response(status=415, text=text)
        body = await request.read()
        if not self._node.online:
            if request.transport is not None:
                request.transport.abort()
            raise web.HTTPServiceUnavailable
        return _json_response(self._rpc.answer_text(body, caller))

    async def _close_sockets(self, _app: web.Application) -> None:
        for ws in list(self._sockets):
            await ws.close(code=WSCloseCode.GOING_AWAY)

    async def _websocket(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=MAX_BODY_BYTES, timeout=CLOSE_TIMEOUT_S)
        await ws.prepare(request)
        self._sockets.add(ws)
        session = _Subscriber(self._node, ws)
        writer = asyncio.create_task(session.write())
        try:
            async for message in ws:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    raw = message.data
                    body = raw.encode() if isinstance(raw, str) else raw
                    session.say(self._answer(body, caller, session))
        finally:
            session.end()
            writer.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await writer
            self._sockets.discard(ws)
        return ws

    def _answer(self, body: bytes, caller: Caller, session: "_Subscriber") -> str:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None
        if isinstance(request, dict) and self._node.settings.pubsub and "id" in request:
            method = request.get("method")
            if method in (SUBSCRIBE, UNSUBSCRIBE):
                return self._subscription(request, caller, session)
        return self._rpc.answer_text(body, caller)

    def _subscription(self, request: Envelope, caller: Caller, session: "_Subscriber") -> str:
        method = str(request["method"])
        answer: Envelope = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            self._rpc.authorise(method, caller)
        except RpcError as error:
            answer["error"] = {"code": error.code, "message": error.message}
            return _dump(answer)
        if method == SUBSCRIBE:
            answer["result"] = session.subscribe()
        else:
            answer["result"] = session.unsubscribe(request.get("params"))
        return _dump(answer)


class _Subscriber:
    """One WebSocket connection: what is to be written, and its subscriptions."""

    def __init__(self, node: Node, ws: web.WebSocketResponse) -> None:
        self._node = node
        self._ws = ws
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(MAX_QUEUED_EVENTS)
        self._ids: list[int] = []

    def subscribe(self) -> int:
        subscription = int.from_bytes(self._node.entropy.take(6), "big")
        if not self._ids:
            self._node.sinks.append(self._event)
        self._ids.append(subscription)
        return subscription

    def unsubscribe(self, params: object) -> bool:
        wanted = params[0] if isinstance(params, list) and params else None
        if wanted not in self._ids:
            return False
        self._ids.remove(wanted)
        if not self._ids:
            self._detach()
        return True

    def end(self) -> None:
        self._ids.clear()
        self._detach()

    def say(self, text: str) -> None:
        """Put a text in line; a reader that does not keep up is cut off."""
        if not text:
            return
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self.end()
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(None)

    async def write(self) -> None:
        while True:
            text = await self._queue.get()
            if text is None:
                await self._ws.close(code=WSCloseCode.TRY_AGAIN_LATER)
                return
            await self._ws.send_str(text)

    def _event(self, event: Event) -> None:
        for subscription in self._ids:
            params = {"subscription": subscription, "result": event}
            self.say(_dump({"jsonrpc": "2.0", "method": NOTIFICATION, "params": params}))

    def _detach(self) -> None:
        with suppress(ValueError):
            self._node.sinks.remove(self._event)


def _bearer(request: web.Request) -> str | None:
    header = request.headers.get("authorization", "")
    return header.removeprefix("Bearer ") if header.startswith("Bearer ") else None


def _dump(message: object) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)
