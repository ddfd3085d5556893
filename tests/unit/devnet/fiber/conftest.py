"""A network in virtual time, driven through its JSON-RPC."""

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.devnet.fiber import (
    Caller,
    Network,
    NetworkSettings,
    Node,
    NodeRpc,
    NodeSettings,
    VirtualClock,
    violations,
)
from infern.devnet.fiber.channel import Channel

CKB = 100_000_000


class Refused(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code = error["code"]
        self.message = error["message"]
        self.data = error.get("data")


class World:
    """A network in virtual time, driven through JSON-RPC."""

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.clock = VirtualClock()
        self.network = Network(
            seed=b"test",
            clock=self.clock,
            signer_factory=CoincurveSigner,
            verifier=CoincurveVerifier(),
            settings=settings,
        )

    def node(self, name: str, settings: NodeSettings | None = None) -> Node:
        return self.network.add_node(name, settings)

    def line(
        self, *names: str, amount: int = 2_000 * CKB, settings: NodeSettings | None = None
    ) -> list[Channel]:
        nodes = [self.node(name, settings) for name in names]
        return [
            self.network.open_ready_channel(left, right, amount)
            for left, right in itertools.pairwise(nodes)
        ]

    def call(self, name: str, method: str, **params: Any) -> Any:
        return self.raw(name, method, [params])

    def raw(self, name: str, method: str, params: Any, token: str | None = None) -> Any:
        rpc = NodeRpc(self.network.nodes[name])
        answer: dict[str, Any] = rpc.call(method, params, caller=Caller(token))
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def invoice(self, name: str, amount: int, **more: Any) -> dict[str, Any]:
        made = self.call(name, "new_invoice", amount=hex(amount), currency="Fibd", **more)
        return {
            "text": made["invoice_address"],
            "hash": made["invoice"]["data"]["payment_hash"],
            "view": made["invoice"],
        }

    def hold(self, name: str, amount: int, preimage: bytes, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(preimage).hexdigest()
        return self.invoice(
            name, amount, payment_hash="0x" + digest, hash_algorithm="sha256", **more
        )

    def pay(self, name: str, invoice: dict[str, Any], **more: Any) -> Any:
        return self.call(name, "send_payment", invoice=invoice["text"], **more)

    def payment(self, name: str, invoice: dict[str, Any]) -> Any:
        return self.call(name, "get_payment", payment_hash=invoice["hash"])

    def status(self, name: str, invoice: dict[str, Any]) -> str:
        found: str = self.call(name, "get_invoice", payment_hash=invoice["hash"])["status"]
        return found

    def row(self, name: str, channel: Channel, **more: Any) -> dict[str, Any]:
        rows = self.call(name, "list_channels", **more)["channels"]
        wanted = "0x" + channel.channel_id.hex()
        found: dict[str, Any] = next(row for row in rows if row["channel_id"] == wanted)
        return found

    def quiet(self) -> None:
        self.clock.run_until_quiet()

    def events(self, name: str) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        self.network.nodes[name].sinks.append(seen.append)
        return seen


@pytest.fixture
def make_world() -> Callable[..., World]:
    return World


@pytest.fixture
def world() -> Any:
    """Any test leaves sound accounts behind, or fails."""
    made = World()
    yield made
    assert violations(made.network) == []


@pytest.fixture
def refused() -> type[Refused]:
    return Refused
