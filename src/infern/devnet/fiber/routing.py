"""Path finding: Dijkstra from the payee backwards, as fnn does it.

A node knows its own channels exactly and those of others by gossip: capacity, price and whether
they are enabled, plus what its own failed attempts taught it. Ties are broken by outpoint, so a
seed gives one result.

Source: fnn 0.8.0 `graph.rs` (`build_route`, `inner_find_path`, `build_path`) and `history.rs`.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infern.core.ckb.script import Script
from infern.core.units import div_ceil
from infern.devnet.fiber.channel import Channel
from infern.devnet.fiber.session import HopHint, PaymentRequest, RouterHop
from infern.devnet.fiber.settings import TLC_EXPIRY_DELTA_MS

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network
    from infern.devnet.fiber.node import Node

NO_PATH: Final = "PathFind error: no path found"
HISTORY_DOUBLING_MS: Final = 14_972_000
"""In six-hour decay the least failed amount doubles about every 4.16 hours."""


class PathError(Exception):
    """No route; the text is the one fnn gives."""


def forward_fee(amount: int, fee_ppm: int) -> int:
    """What a forwarding node charges for `amount`: parts per million, rounded up."""
    return div_ceil(amount * fee_ppm, 1_000_000)


class History:
    """What a payer learned from failed attempts. In memory only: a restart forgets it."""

    def __init__(self) -> None:
        self._failed: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        self._avoid_until_ms: dict[tuple[bytes, bytes], int] = {}

    def record_failure(self, outpoint: bytes, sender: bytes, amount: int, now_ms: int) -> None:
        """`sender` could not forward `amount` over this channel."""
        self._failed[(outpoint, sender)] = (max(amount, 1), now_ms)

    def record_success(self, outpoint: bytes, sender: bytes, amount: int) -> None:
        """It could forward `amount` after all."""
        failed = self._failed.get((outpoint, sender))
        if failed is not None and amount >= failed[0]:
            self._failed[(outpoint, sender)] = (amount + 1, failed[1])

    def avoid(self, outpoint: bytes, sender: bytes, until_ms: int) -> None:
        """Use this channel for nothing until then."""
        self._avoid_until_ms[(outpoint, sender)] = until_ms

    def forget_channel(self, outpoint: bytes | None) -> None:
        """The channel was announced anew: failures on it no longer count."""
        for key in [key for key in self._failed if key[0] == outpoint]:
            del self._failed[key]

    def allows(self, outpoint: bytes, sender: bytes, amount: int, now_ms: int) -> bool:
        """Whether an attempt over this channel is worth making."""
        if self._avoid_until_ms.get((outpoint, sender), 0) > now_ms:
            return False
        failed = self._failed.get((outpoint, sender))
        if failed is None:
            return True
        least_failed, failed_at_ms = failed
        return amount < least_failed << ((now_ms - failed_at_ms) // HISTORY_DOUBLING_MS)


@dataclass(frozen=True, slots=True)
class _Edge:
    """One direction of a channel as the searching node sees it."""

    sender: bytes
    target: bytes
    outpoint: bytes
    limit: int
    fee_ppm: int
    delta_ms: int
    min_value: int
    own: bool


@dataclass(frozen=True, slots=True)
class _Reached:
    amount: int
    delta_ms: int
    length: int
    edge: _Edge | None


def visible_channels(network: "Network", node: "Node") -> Iterator[tuple[Channel, bool]]:
    """Channels in a node's graph, and for each whether gossip shows it enabled now.

    A party sees its own at once and drops it while the peer is away; the others learn of a
    channel and of its going down and up after the gossip delay.
    """
    now_ms = network.clock.now_ms
    gossip_ms = network.settings.scaled_us(network.settings.latencies.gossip_ms) // 1_000
    for channel in network.channels.values():
        if not channel.is_ready or channel.outpoint is None:
            continue
        if channel.has_party(node):
            if channel.link_up:
                yield channel, True
        elif channel.announced_at_ms is not None and now_ms >= channel.announced_at_ms + gossip_ms:
            heard = now_ms >= channel.link_changed_at_ms + gossip_ms
            yield channel, channel.link_up if heard else not channel.link_up


def _edges(network: "Network", payer: "Node", udt: Script | None) -> Iterator[_Edge]:
    for channel, linked in visible_channels(network, payer):
        if channel.udt != udt or not linked:
            continue
        own = channel.has_party(payer)
        for index, side in enumerate(channel.sides):
            if not side.enabled or (channel.one_way and index == 1):
                continue
            yield _Edge(
                sender=side.node.pubkey,
                target=channel.sides[1 - index].node.pubkey,
                outpoint=channel.outpoint or b"",
                limit=channel.spendable(index) if own else channel.capacity,
                fee_ppm=side.fee_ppm,
                delta_ms=side.tlc_expiry_delta_ms,
                min_value=side.tlc_min_value,
                own=side.node is payer,
            )


def find_route(network: "Network", payer: "Node", request: PaymentRequest) -> tuple[RouterHop, ...]:
    """The cheapest route within the request's fee budget and expiry limit.

    Raises:
        PathError: There is none; nothing was changed.
    """
    if request.router:
        return request.router
    to_self = payer.pubkey == request.target
    if to_self and not request.allow_self_payment:
        raise PathError(
            "Feature not enabled: allow_self_payment is not enabled, can not pay to self"
        )
    edges = list(_edges(network, payer, request.udt))
    best = max((edge.limit for edge in edges if edge.own), default=0)
    if best < request.amount:
        raise PathError(
            f"Insufficient balance: max outbound liquidity {best} is insufficient, "
            f"required amount: {request.amount}"
        )
    if request.trampoline:
        raise PathError(
            "Feature not enabled: invalid trampoline_hops: "
            "a hop does not support trampoline routing"
        )
    known = {edge.outpoint for edge in edges}
    hints = [_hint_edge(hint, request.target) for hint in request.hop_hints]
    edges += [edge for edge in hints if edge.outpoint not in known]
    search = _Search(network, payer, edges, request)
    return search.circular() if to_self else search.run(request.target)


def _hint_edge(hint: HopHint, target: bytes) -> _Edge:
    return _Edge(
        sender=hint.pubkey,
        target=target,
        outpoint=hint.channel_outpoint,
        limit=2**128,
        fee_ppm=hint.fee_ppm,
        delta_ms=hint.tlc_expiry_delta_ms,
        min_value=0,
        own=False,
    )


class _Search:
    def __init__(
        self, network: "Network", payer: "Node", edges: list[_Edge], request: PaymentRequest
    ) -> None:
        self._payer = payer
        self._request = request
        self._now_ms = network.clock.now_ms
        self._inbound: dict[bytes, list[_Edge]] = {}
        for edge in edges:
            self._inbound.setdefault(edge.target, []).append(edge)

    def circular(self) -> tuple[RouterHop, ...]:
        """A route that leaves the payer by one channel and returns by another."""
        request = self._request
        found: list[tuple[RouterHop, ...]] = []
        for last in self._inbound.get(self._payer.pubkey, []):
            if last.limit < request.amount:
                continue
            fee = forward_fee(request.amount, last.fee_ppm)
            tail = RouterHop(
                target=self._payer.pubkey,
                channel_outpoint=last.outpoint,
                amount_received=request.amount,
                incoming_tlc_expiry=request.final_delta_ms,
            )
            try:
                start = _Reached(
                    request.amount + fee, request.final_delta_ms + last.delta_ms, 1, None
                )
                head = self._dijkstra(last.sender, start, without=last.outpoint)
            except PathError:
                continue
            found.append((*head, tail))
        if not found:
            raise PathError(NO_PATH)
        return min(found, key=lambda hops: (hops[0].amount_received, len(hops)))

    def run(self, target: bytes) -> tuple[RouterHop, ...]:
        start = _Reached(self._request.amount, self._request.final_delta_ms, 0, None)
        return self._dijkstra(target, start, without=None)

    def _dijkstra(
        self, target: bytes, start: _Reached, *, without: bytes | None
    ) -> tuple[RouterHop, ...]:
        source = self._payer.pubkey
        best: dict[bytes, _Reached] = {target: start}
        heap = [(start.amount, start.delta_ms, 0, target)]
        done: set[bytes] = set()
        while heap:
            _, _, _, node = heapq.heappop(heap)
            if node in done:
                continue
            done.add(node)
            if node == source:
                break
            for edge in self._inbound.get(node, []):
                if edge.outpoint == without or edge.sender in done:
                    continue
                reached = self._relax(best[node], edge)
                if reached is None:
                    continue
                known = best.get(edge.sender)
                if known is None or _rank(reached) < _rank(known):
                    best[edge.sender] = reached
                    cost = (reached.amount, reached.delta_ms, reached.length, edge.sender)
                    heapq.heappush(heap, cost)
        if source not in best or source not in done:
            raise PathError(NO_PATH)
        return self._walk(best, source, target)

    def _relax(self, ahead: _Reached, edge: _Edge) -> _Reached | None:
        """The state at the edge's sender, or None when the edge cannot carry the payment."""
        request = self._request
        fee = 0 if edge.own else forward_fee(ahead.amount, edge.fee_ppm)
        delta = 0 if edge.own else edge.delta_ms
        amount, expiry = ahead.amount + fee, ahead.delta_ms + delta
        usable = (
            edge.delta_ms <= TLC_EXPIRY_DELTA_MS
            and max(edge.min_value, 1) <= ahead.amount <= edge.limit
            and amount <= request.amount + request.max_fee
            and expiry <= request.expiry_limit_ms
            and self._payer.history.allows(edge.outpoint, edge.sender, ahead.amount, self._now_ms)
        )
        return _Reached(amount, expiry, ahead.length + 1, edge) if usable else None

    @staticmethod
    def _walk(best: dict[bytes, _Reached], source: bytes, target: bytes) -> tuple[RouterHop, ...]:
        hops = []
        node = source
        while node != target:
            edge = best[node].edge
            if edge is None:
                raise PathError(NO_PATH)
            ahead = best[edge.target]
            hops.append(
                RouterHop(
                    target=edge.target,
                    channel_outpoint=edge.outpoint,
                    amount_received=ahead.amount,
                    incoming_tlc_expiry=ahead.delta_ms,
                )
            )
            node = edge.target
        return tuple(hops)


def _rank(reached: _Reached) -> tuple[int, int, int, bytes]:
    outpoint = reached.edge.outpoint if reached.edge is not None else b""
    return reached.amount, reached.delta_ms, reached.length, outpoint


def build_path(
    network: "Network",
    payer: "Node",
    *,
    hops: tuple[tuple[bytes, bytes | None], ...],
    amount: int,
    final_delta_ms: int,
    udt: Script | None,
) -> tuple[RouterHop, ...]:
    """Answer `build_router`: the best channel for each named hop.

    Args:
        network: Where to look.
        payer: Where the path starts.
        hops: Public key and, optionally, the channel to use, payee last.
        amount: What the payee shall get, base units.
        final_delta_ms: Expiry of the last TLC, from now.
        udt: The asset; None is CKB.

    Raises:
        PathError: A hop cannot be reached with this amount.
    """
    if amount == 0:
        raise PathError("Graph error: amount must be greater than 0")
    edges = list(_edges(network, payer, udt))
    path: list[RouterHop] = []
    expiry = final_delta_ms
    for position in range(len(hops) - 1, -1, -1):
        target, wanted = hops[position]
        sender = hops[position - 1][0] if position else payer.pubkey
        fitting = [
            edge
            for edge in edges
            if edge.sender == sender and edge.target == target and wanted in (None, edge.outpoint)
        ]
        priced = [(0 if e.own else forward_fee(amount, e.fee_ppm), e.outpoint, e) for e in fitting]
        usable = [entry for entry in priced if amount <= entry[2].limit]
        if not usable:
            raise PathError(NO_PATH)
        fee, outpoint, _ = min(usable, key=lambda entry: entry[:2])
        path.insert(
            0,
            RouterHop(
                target=target,
                channel_outpoint=outpoint,
                amount_received=amount,
                incoming_tlc_expiry=expiry,
            ),
        )
        amount += fee
        expiry += expiry  # fnn adds the accumulated expiry to itself here, not the channel's delta
    return tuple(path)
