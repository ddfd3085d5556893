"""The network served on loopback: HTTP, WebSocket, control, restarts."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.devnet.fiber import (
    Endpoints,
    NetworkSettings,
    NodeSettings,
    ThreeNodes,
    Version,
    serve,
    three_nodes,
)

FAST = NetworkSettings(speed=50)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client:
    def __init__(self, session: aiohttp.ClientSession, endpoints: Endpoints) -> None:
        self.session = session
        self.endpoints = endpoints

    async def ask(self, url: str, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        async with self.session.post(url, json=body) as response:
            assert response.status == 200
            return await response.json()

    async def call(self, name: str, method: str, *params: Any) -> Any:
        return (await self.ask(self.endpoints.rpc_urls[name], method, *params))["result"]

    async def control(self, method: str, **params: Any) -> Any:
        return (await self.ask(self.endpoints.control_url, method, params))["result"]

    async def until(self, name: str, method: str, payment_hash: str, status: str) -> Any:
        async with asyncio.timeout(10):
            while True:
                found = await self.call(name, method, {"payment_hash": payment_hash})
                if found["status"] == status:
                    return found
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(
    settings: NetworkSettings = FAST, node_settings: NodeSettings | None = None
) -> AsyncIterator[tuple[ThreeNodes, Client]]:
    world = three_nodes(
        b"served",
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=settings,
        node_settings=node_settings,
    )
    async with serve(world.network) as endpoints, aiohttp.ClientSession() as session:
        yield world, Client(session, endpoints)


async def test_a_payment_over_http(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "infern.devnet.fiber"):
        async with running() as (_, client):
            made = await client.call(
                "provider", "new_invoice", {"amount": hex(1_000_000), "currency": "Fibd"}
            )
            payment_hash = made["invoice"]["data"]["payment_hash"]
            sent = await client.call(
                "consumer", "send_payment", {"invoice": made["invoice_address"]}
            )
            assert sent["fee"] == hex(1_000)
            await client.until("consumer", "get_payment", payment_hash, "Success")
            await client.until("provider", "get_invoice", payment_hash, "Paid")
            assert (await client.control("devnet_snapshot"))["violations"] == []
    said = [record.getMessage() for record in caplog.records if record.name.endswith("fiber")]
    assert len(said) == 1
    assert "accounting twin" in said[0]


async def test_batches_and_wrong_http() -> None:
    async with running() as (_, client):
        url = client.endpoints.rpc_urls["hub"]
        batch = [
            {"jsonrpc": "2.0", "id": number, "method": "node_info", "params": []}
            for number in (1, 2)
        ]
        async with client.session.post(url, json=batch) as response:
            assert [entry["id"] for entry in await response.json()] == [1, 2]
        async with client.session.get(url) as response:
            assert response.status == 405
        async with client.session.post(url, data=b"{}") as response:
            assert response.status == 415


async def test_bearer_tokens_over_http() -> None:
    tokens = {"secret": {'read("node")'}}
    async with running(node_settings=NodeSettings(tokens=tokens)) as (_, client):
        url = client.endpoints.rpc_urls["hub"]
        refused = await client.ask(url, "node_info")
        assert refused["error"] == {"code": -32999, "message": "Unauthorized"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "node_info", "params": []}
        headers = {"Authorization": "Bearer secret"}
        async with client.session.post(url, json=body, headers=headers) as response:
            assert (await response.json())["result"]["version"] == "0.8.0"


async def receive(ws: aiohttp.ClientWebSocketResponse) -> Any:
    async with asyncio.timeout(10):
        return json.loads(await ws.receive_str())


@pytest.mark.parametrize("version", list(Version))
async def test_store_changes_over_websocket(version: Version) -> None:
    async with (
        running(node_settings=NodeSettings(version=version)) as (_, client),
        client.session.ws_connect(client.endpoints.ws_url("provider")) as ws,
    ):
        await ws.send_str('{"jsonrpc":"2.0","id":1,"method":"node_info","params":[]}')
        assert (await receive(ws))["result"]["version"] == version.value
        subscribe = {"jsonrpc": "2.0", "id": 2, "method": "subscribe_store_changes"}
        await ws.send_str(json.dumps(subscribe | {"params": []}))
        subscription = (await receive(ws))["result"]
        made = await client.call(
            "provider",
            "new_invoice",
            {"amount": "0x5", "currency": "Fibd", "payment_preimage": "07" * 32},
        )
        event = await receive(ws)
        assert event["method"] == "store_changes"
        assert event["params"]["subscription"] == subscription
        assert event["params"]["result"]["PutPreimage"] == {
            "payment_hash": made["invoice"]["data"]["payment_hash"],
            "payment_preimage": "0x" + "07" * 32,
        }
        opened = (await receive(ws))["params"]["result"]["PutCkbInvoiceStatus"]
        assert opened["invoice_status"] == "Open"
        unsubscribe = {"jsonrpc": "2.0", "id": 3, "method": "unsubscribe_store_changes"}
        await ws.send_str(json.dumps(unsubscribe | {"params": [subscription]}))
        answer = await receive(ws)
        if version is Version.V0_9_1:
            assert answer["result"] is True
        else:
            assert answer["error"]["code"] == -32999


async def test_pubsub_can_be_off() -> None:
    async with (
        running(node_settings=NodeSettings(pubsub=False)) as (_, client),
        client.session.ws_connect(client.endpoints.ws_url("hub")) as ws,
    ):
        await ws.send_str('{"jsonrpc":"2.0","id":1,"method":"subscribe_store_changes"}')
        assert (await receive(ws))["error"]["code"] == -32601


async def test_a_restarting_node_refuses_connections_and_keeps_its_store() -> None:
    async with running() as (_, client):
        made = await client.call("provider", "new_invoice", {"amount": "0x5", "currency": "Fibd"})
        look = {"payment_hash": made["invoice"]["data"]["payment_hash"]}
        async with client.session.ws_connect(client.endpoints.ws_url("provider")) as ws:
            await client.control("devnet_stop", node="provider")
            async with asyncio.timeout(10):
                closed = await ws.receive()
            assert closed.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.call("provider", "get_invoice", look)
                except aiohttp.ClientError:
                    break
                await asyncio.sleep(0.002)
        nodes = (await client.control("devnet_nodes"))["nodes"]
        assert [node["online"] for node in nodes] == [True, True, False]
        await client.control("devnet_start", node="provider")
        async with asyncio.timeout(10):
            while True:
                try:
                    found = await client.call("provider", "get_invoice", look)
                except aiohttp.ClientError:
                    await asyncio.sleep(0.002)
                    continue
                break
        assert found["status"] == "Open"
        assert len((await client.call("provider", "list_channels", {}))["channels"]) == 1


async def test_the_clock_can_be_moved_while_served() -> None:
    async with running() as (_, client):
        made = await client.call(
            "provider", "new_invoice", {"amount": "0x5", "currency": "Fibd", "expiry": "0x3c"}
        )
        look = {"payment_hash": made["invoice"]["data"]["payment_hash"]}
        assert (await client.call("provider", "get_invoice", look))["status"] == "Open"
        await client.control("devnet_advance_clock", duration_ms=61_000)
        assert (await client.call("provider", "get_invoice", look))["status"] == "Expired"


async def test_given_ports_are_used_and_given_back() -> None:
    world = three_nodes(b"ports", signer_factory=CoincurveSigner, verifier=CoincurveVerifier())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        async with serve(world.network, ports={"hub": port}) as endpoints:
            assert endpoints.rpc_urls["hub"] == f"http://127.0.0.1:{port}"
            with pytest.raises(OSError, match="in use"):
                async with serve(world.network, ports={"hub": port}):
                    pass
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


async def test_channels_open_by_handshake_when_asked() -> None:
    world = three_nodes(
        b"slow",
        signer_factory=CoincurveSigner,
        verifier=CoincurveVerifier(),
        settings=NetworkSettings(speed=200),
        handshake=True,
    )
    async with serve(world.network) as endpoints, aiohttp.ClientSession() as session:
        client = Client(session, endpoints)
        async with asyncio.timeout(10):
            while True:
                rows = (await client.call("hub", "list_channels", {}))["channels"]
                states = [row["state"]["state_name"] for row in rows]
                if states == ["ChannelReady"] * 2:
                    break
                await asyncio.sleep(0.002)
