"""What a seller owes and what its node has: sums that anybody may ask for."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infern.core.errors import InfernError, JsonValue
from infern.core.fiber.rpc import ListChannels
from infern.core.fiber.types import Channel
from infern.core.ledger.books import Totals, imbalances
from infern.core.units import CKB, Asset
from infern.seller.endpoints import Endpoints
from infern.seller.parts import SellerParts

MAX_AGE_MS: Final = 10_000
REST: Final = 50
"""The sums are not made again before so many times as long has passed as making them took."""
LOOK_TIMEOUT_MS: Final = 5_000
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _AtNode:
    """Base units of one asset in the node's ready channels."""

    channels: int = 0
    local: int = 0
    offered: int = 0
    received: int = 0

    def add(self, channel: Channel) -> None:
        self.channels += 1
        self.local += channel.local_balance
        self.offered += channel.offered_tlc_balance
        self.received += channel.received_tlc_balance


class Solvency(Endpoints):
    """`GET /v1/f402/solvency`: the report is made at most every `MAX_AGE_MS`."""

    def __init__(self, parts: SellerParts) -> None:
        super().__init__(parts)
        self._looking = anyio.Lock()
        self._report: dict[str, JsonValue] = {}
        self._until_ms = 0

    def routes(self) -> list[Route]:
        """Starlette routes."""
        return self._routes([("GET", "/v1/f402/solvency", self.solvency)])

    async def solvency(self, _: Request) -> Response:
        """What the seller owes and what its node has."""
        headers = {"cache-control": f"max-age={MAX_AGE_MS // 1000}"}
        return JSONResponse(await self.report(), headers=headers)

    async def report(self) -> dict[str, JsonValue]:
        """Liabilities and node money by asset, and whether the books add up.

        Raises:
            LedgerError: `ledger_unavailable`.
        """
        # One look at a time, shared by all who wait for it: asking costs a stranger nothing.
        async with self._looking:
            began_ms = self._parts.clock.now_ms()
            is_fresh = began_ms < self._until_ms <= began_ms + REST * MAX_AGE_MS
            if not self._report or not is_fresh:
                self._report = await self._made(began_ms)
                ended_ms = self._parts.clock.now_ms()
                rest_ms = min(REST * (ended_ms - began_ms), REST * MAX_AGE_MS)
                self._until_ms = ended_ms + max(MAX_AGE_MS, rest_ms)
        return self._report

    async def _made(self, now_ms: int) -> dict[str, JsonValue]:
        totals = await self._parts.ledger.totals()
        at_node = await self._at_node()
        wrong = imbalances(totals)
        for complaint in wrong:
            _log.error("the ledger does not add up: %s", complaint)
        assets = sorted({CKB, *totals, *(at_node or {})}, key=str)
        return {
            "as_of": now_ms // 1000,
            "conservation": {"ok": not wrong, "violations": len(wrong)},
            "assets": [_asset_json(asset, totals.get(asset), at_node) for asset in assets],
        }

    async def _at_node(self) -> dict[Asset, _AtNode] | None:
        try:
            channels = await self._parts.fiber.call(ListChannels(), timeout_ms=LOOK_TIMEOUT_MS)
        except InfernError as error:
            _log.warning("the Fiber node did not list its channels: %s", error.message)
            return None
        found: dict[Asset, _AtNode] = {}
        for channel in channels:
            if channel.is_ready:
                script = channel.udt_type_script
                asset = CKB if script is None else Asset(udt_type_hash=script.hash())
                found.setdefault(asset, _AtNode()).add(channel)
        return found


def _asset_json(
    asset: Asset, totals: Totals | None, at_node: Mapping[Asset, _AtNode] | None
) -> dict[str, JsonValue]:
    liability = totals.liability if totals is not None else 0
    sums: dict[str, JsonValue] = {"asset": str(asset), "liability": str(liability)}
    for name in ("balance", "held", "owed", "locked"):
        sums[name] = str(getattr(totals, name) if totals is not None else 0)
    if at_node is None:
        return {**sums, "node": None, "surplus": None, "shortfall": None}
    node = at_node.get(asset, _AtNode())
    return {
        **sums,
        "node": {
            "channels": node.channels,
            "local": str(node.local),
            "offered": str(node.offered),
            "received": str(node.received),
        },
        "surplus": str(max(0, node.local - liability)),
        "shortfall": str(max(0, liability - node.local)),
    }
