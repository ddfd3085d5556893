"""The recording of three real fnn 0.8.0 nodes, replayed against the embedded network.

Every recorded call is made in the same order by a network in the same state; answers must have the
same members in the same order with the same kinds of values, and errors the same code and text.
"""

import json
import re
from pathlib import Path
from typing import Any

RECORDED = json.loads(
    (Path(__file__).parents[4] / "vectors" / "fnn_recorded_0_8_0.json").read_text()
)
CKB = 100_000_000
NAMES = {1: "a", 2: "b", 3: "d"}
HASH = re.compile(r"0x[0-9a-f]{64}")
AMOUNT = re.compile(r"liquidity \d+ is")


EXACT = {
    "Inbound",
    "Outbound",
    "auto_accept_channel_ckb_funding_amount",
    "auto_accept_min_ckb_funding_amount",
    "currency",
    "expiry_time",
    "fee",
    "fee_rate",
    "final_htlc_minimum_expiry_delta",
    "hash_algorithm",
    "hash_type",
    "open_channel_auto_accept_min_ckb_funding_amount",
    "state_name",
    "status",
    "tlc_expiry_delta",
    "tlc_fee_proportional_millionths",
    "tlc_min_value",
    "tlc_minimum_value",
    "version",
}
"""Members whose very values must agree."""


def shape(value: Any, path: str = "") -> Any:
    """Names, order and kinds of what is there; ids, times, keys and balances are left out."""
    if path.rpartition(".")[2] in EXACT and not isinstance(value, dict):
        return value
    if isinstance(value, dict):
        return [(name, shape(item, f"{path}.{name}")) for name, item in value.items()]
    if isinstance(value, list):
        if path.endswith(".features"):
            return "names"  # the embedded nodes list fewer, because they do fewer things
        return [shape(item, path) for item in value]
    if isinstance(value, str) and value.startswith("0x"):
        exact = {2: "hash", 66: "hash", 74: "outpoint", 92: "cursor"}
        return exact.get(len(value), "number")
    return type(value).__name__


def masked(text: str) -> str:
    return AMOUNT.sub("liquidity N is", HASH.sub("HASH", text))


class Replay:
    """A → B → D, and what stands in for each recorded hash and invoice."""

    def __init__(self, world: Any, refused: Any) -> None:
        self.world = world
        self.refused = refused
        self.swaps: dict[str, str] = {}
        for name in NAMES.values():
            world.node(name)
        infos = [entry["response"]["result"] for entry in RECORDED[:3]]
        for info, name in zip(infos, NAMES.values(), strict=True):
            node = world.network.nodes[name]
            self.swaps[info["pubkey"]] = node.pubkey.hex()
            self.swaps[info["addresses"][0]] = node.address

    def substitute(self, params: Any) -> Any:
        if isinstance(params, dict):
            return {name: self.substitute(item) for name, item in params.items()}
        if isinstance(params, list):
            return [self.substitute(item) for item in params]
        return self.swaps.get(params, params) if isinstance(params, str) else params

    def ask(self, entry: dict[str, Any]) -> dict[str, Any]:
        name, method = NAMES[entry["node"]], entry["method"]
        params = self.substitute(entry["params"])
        try:
            result = self.world.raw(name, method, params)
        except self.refused as error:
            answer = {"code": error.code, "message": error.message}
            if error.data is not None:
                answer["data"] = error.data
            return {"jsonrpc": "2.0", "error": answer}
        return {"jsonrpc": "2.0", "result": result}

    def learn(self, recorded: dict[str, Any], answered: dict[str, Any]) -> None:
        """What a node made up itself stands for what the recorded node made up."""
        if "invoice_address" in recorded:
            self.swaps[recorded["invoice_address"]] = answered["invoice_address"]
            theirs, ours = (one["invoice"]["data"]["payment_hash"] for one in (recorded, answered))
            self.swaps[theirs] = ours


UNRECORDED_INVOICES = {39, 40, 50}
"""Calls that pay an invoice whose making is not in the recording: a fresh one stands in."""
PAUSES_MS = {4: 1_000, 5: 8_000, 8: 1_000, 11: 12_000, 28: 200} | dict.fromkeys(
    (15, 16, 21, 22, 36, 37, 38, 40, 48), 1_000
)
"""How long the recorded client had waited before these calls, roughly."""


def prepare(replay: Replay, position: int, entry: dict[str, Any]) -> None:
    """Bring the network to where the real one was when this call was recorded."""
    replay.world.clock.advance_ms(PAUSES_MS.get(position, 0))
    if position in UNRECORDED_INVOICES:
        text = entry["params"][0]["invoice"]
        replay.swaps.setdefault(text, replay.world.invoice("d", 1_000_000)["text"])


def refund(world: Any) -> None:
    """D had been paid 16,000,000 shannon by calls that are not in the recording."""
    for _ in range(3):
        world.pay("a", world.invoice("d", 5_000_000))
        world.quiet()


def test_every_recorded_call_is_answered_alike(world: Any, refused: Any) -> None:
    replay = Replay(world, refused)
    for position, entry in enumerate(RECORDED):
        if position == 25:
            refund(world)
        prepare(replay, position, entry)
        recorded, answered = entry["response"], replay.ask(entry)
        where = f"call {position}: {entry['method']}"
        if "error" in recorded:
            assert "error" in answered, where
            theirs, ours = recorded["error"], answered["error"]
            assert ours["code"] == theirs["code"], where
            assert masked(ours["message"]) == masked(theirs["message"]), where
            assert shape(ours) == shape(theirs), where
            if isinstance(theirs.get("data"), str):
                assert ours["data"] == theirs["data"], where
            continue
        assert "result" in answered, f"{where}: {answered}"
        expected = recorded["result"]
        if isinstance(expected, dict):
            replay.learn(expected, answered["result"])
        if position == 11:
            expected = half_gossiped(expected)
        assert shape(answered["result"]) == shape(expected), where


def half_gossiped(expected: dict[str, Any]) -> dict[str, Any]:
    """Here gossip of a channel arrives whole; the real one had one of two updates by then."""
    full = json.loads(json.dumps(expected))
    channel = full["channels"][1]
    channel["update_info_of_node1"] = channel["update_info_of_node2"]
    return full
