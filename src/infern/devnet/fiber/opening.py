"""Opening a channel: request, acceptance, funding, readiness.

Nothing is signed and no transaction exists: funding is an entry in the chain stub.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from infern.core.ckb.hashing import ckb_hash
from infern.core.ckb.script import Script
from infern.devnet.fiber import states
from infern.devnet.fiber.channel import Channel, Side
from infern.devnet.fiber.errors import invalid_parameter
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.settings import (
    CKB_RESERVE_SHANNON,
    FUNDING_CONFIRMATIONS,
    MAX_TLC_NUMBER,
    MAX_U128,
    MIN_TLC_EXPIRY_DELTA_MS,
    SYSTEM_MAX_TLC_NUMBER,
    UDT_RESERVE_SHANNON,
)
from infern.devnet.fiber.states import StateName
from infern.devnet.fiber.udt import accepts_udt, find_udt

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network

FUNDING_TX_FEE_SHANNON = 1_000
MAX_TO_BE_ACCEPTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SideTerms:
    """What one party brings to a channel; None takes the node's default."""

    funding_amount: int
    shutdown_script: Script | None = None
    tlc_expiry_delta_ms: int | None = None
    tlc_min_value: int | None = None
    fee_ppm: int | None = None
    max_tlc_value: int | None = None
    max_tlc_number: int | None = None


class Opening:
    """Opens the channels of a network."""

    def __init__(self, network: "Network") -> None:
        self._network = network

    def open(
        self,
        node: Node,
        peer: Node,
        terms: SideTerms,
        *,
        public: bool,
        one_way: bool,
        udt: Script | None,
    ) -> Channel:
        """Note a request to `peer` for a channel; `begin` or `open_ready` take it from there.

        Raises:
            NodeError: Refused locally; no money moved.
        """
        network = self._network
        self._check_open(node, peer, terms, public=public and one_way, udt=udt)
        side = self._side(node, terms, udt)
        acceptor = self._side(peer, SideTerms(funding_amount=0), udt, check=False)
        channel = Channel(
            temporary_id=network.entropy.take(32),
            channel_id=network.entropy.take(32),
            sides=(side, acceptor),
            public=public,
            one_way=one_way,
            udt=udt,
            funding_fee=FUNDING_TX_FEE_SHANNON,
            link_changed_at_ms=network.clock.now_ms,
        )
        channel.set_states(StateName.NEGOTIATING_FUNDING, states.OUR, states.THEIR)
        network.add_channel(channel)
        return channel

    def begin(self, channel: Channel) -> None:
        """Send the request: the handshake takes its time from here."""
        self._step(channel, partial(self._consider, channel))

    def _check_open(
        self, node: Node, peer: Node, terms: SideTerms, *, public: bool, udt: Script | None
    ) -> None:
        link = self._network.links.get(node, peer)
        if link is None or link.init_done_us > self._network.clock.now_us:
            raise invalid_parameter(
                f"Peer Pubkey({peer.pubkey.hex()})'s feature not found, "
                "waiting for peer to send Init message"
            )
        if public:
            raise invalid_parameter("An one-way channel cannot be public")
        if udt is not None and find_udt(node.settings.udt_whitelist, udt) is None:
            raise invalid_parameter("Invalid UDT type script")
        delta = terms.tlc_expiry_delta_ms
        if delta is not None and delta < MIN_TLC_EXPIRY_DELTA_MS:
            raise invalid_parameter(
                "TLC expiry delta is too small, expect larger than "
                f"{MIN_TLC_EXPIRY_DELTA_MS}, got {delta}"
            )

    def _side(
        self, node: Node, terms: SideTerms, udt: Script | None, *, check: bool = True
    ) -> Side:
        reserve = CKB_RESERVE_SHANNON if udt is None else UDT_RESERVE_SHANNON
        amount = terms.funding_amount
        if udt is None and check and amount < reserve:
            raise invalid_parameter(
                f"The funding amount ({amount}) should be greater than or equal to {reserve}"
            )
        if udt is None and amount >= 2**64 - 1:
            raise invalid_parameter(
                f"The funding amount ({amount}) should be less than {2**64 - 1}"
            )
        number = terms.max_tlc_number
        if number is not None and number > SYSTEM_MAX_TLC_NUMBER:
            raise invalid_parameter(
                f"Local max TLC number in flight {number} is greater than the system maximal "
                f"value {SYSTEM_MAX_TLC_NUMBER}"
            )
        settings, now_ms = node.settings, self._network.clock.now_ms
        return Side(
            node=node,
            funding=amount,
            reserve=reserve,
            balance=max(amount - reserve, 0) if udt is None else amount,
            shutdown_script=terms.shutdown_script or node.lock_script,
            fee_ppm=_or(terms.fee_ppm, settings.fee_ppm),
            tlc_expiry_delta_ms=_or(terms.tlc_expiry_delta_ms, settings.tlc_expiry_delta_ms),
            tlc_min_value=_or(terms.tlc_min_value, settings.tlc_min_value),
            max_tlc_value=_or(terms.max_tlc_value, MAX_U128),
            max_tlc_number=_or(number, MAX_TLC_NUMBER),
            created_at_ms=now_ms,
        )

    def _consider(self, channel: Channel) -> None:
        """The peer has the request: accept it unasked, or leave it for `accept_channel`."""
        contribution = self._auto_accept(channel)
        if contribution is not None:
            self.accept(channel, SideTerms(funding_amount=contribution))

    def _auto_accept(self, channel: Channel) -> int | None:
        """What the acceptor adds unasked, or None when it wants to be asked."""
        opener, acceptor = channel.sides
        settings = acceptor.node.settings
        acceptor.created_at_ms = self._network.clock.now_ms
        if channel.udt is not None:
            accepted = accepts_udt(settings.udt_whitelist, channel.udt, opener.funding)
            return 0 if accepted else None
        willing = opener.funding >= settings.auto_accept_min
        return settings.auto_accept_contribution or None if willing else None

    def accept(self, channel: Channel, terms: SideTerms) -> None:
        """Agree to a channel with this contribution.

        Raises:
            NodeError: The contribution does not cover the acceptor's own reserve.
        """
        self._take_terms(channel, terms)
        channel.set_states(StateName.NEGOTIATING_FUNDING, states.BOTH, states.BOTH)
        self._step(channel, partial(self._collaborate, channel))

    def _take_terms(self, channel: Channel, terms: SideTerms) -> None:
        created_at_ms = channel.sides[1].created_at_ms
        side = self._side(channel.sides[1].node, terms, channel.udt)
        side.created_at_ms = created_at_ms
        channel.sides = (channel.sides[0], side)
        channel.accepted = True

    def waiting_for(self, node: Node) -> list[Channel]:
        """Requests to `node` that nobody has accepted yet, oldest first."""
        return [
            channel
            for channel in self._network.channels_of(node)
            if channel.sides[1].node is node and not channel.accepted and not channel.settled
        ][-MAX_TO_BE_ACCEPTED:]

    def _collaborate(self, channel: Channel) -> None:
        both = states.COLLABORATION_COMPLETED
        channel.set_states(StateName.COLLABORATING_FUNDING_TX, both, both)
        if not self._fund(channel):
            self._end(channel, states.CLOSED_FUNDING_ABORTED)
            for side in channel.sides:
                side.failure_detail = "the wallet does not cover the funding transaction"
            return
        self._step(channel, partial(self._sign, channel))

    def _fund(self, channel: Channel) -> bool:
        """Debit both wallets, or neither."""
        chain = self._network.chain
        done: list[tuple[str, int, Script | None]] = []
        for index, side in enumerate(channel.sides):
            fee = 0 if index else channel.funding_fee
            wanted: list[tuple[int, Script | None]] = [(side.funding + fee, None)]
            if channel.udt is not None:
                wanted = [(side.reserve + fee, None), (side.funding, channel.udt)]
            for amount, asset in wanted:
                if not chain.debit(side.node.name, amount, asset):
                    for name, taken, what in done:
                        chain.credit(name, taken, what)
                    return False
                done.append((side.node.name, amount, asset))
        chain.burn_fee(channel.funding_fee)
        channel.funded = True
        return True

    def _sign(self, channel: Channel) -> None:
        channel.set_states(StateName.SIGNING_COMMITMENT, states.BOTH, states.BOTH)
        self._step(channel, partial(self._broadcast, channel))

    def _broadcast(self, channel: Channel) -> None:
        tx_hash = ckb_hash(channel.channel_id + b"funding")
        channel.outpoint = tx_hash + bytes(4)
        channel.set_states(StateName.AWAITING_TX_SIGNATURES, states.BOTH, states.BOTH)
        self._network.chain.after_blocks(1, partial(self._funded, channel))

    def _funded(self, channel: Channel) -> None:
        channel.funded_at_ms = self._network.clock.now_ms
        channel.set_states(StateName.AWAITING_CHANNEL_READY, 0, 0)
        confirmed = partial(self._confirmed, channel)
        self._network.chain.after_blocks(FUNDING_CONFIRMATIONS, confirmed)

    def _confirmed(self, channel: Channel) -> None:
        channel.set_states(StateName.AWAITING_CHANNEL_READY, states.OUR, states.OUR)
        wait_ms = self._network.settings.latencies.ready_ms
        self._network.engine.later(channel, wait_ms, partial(self._make_ready, channel))

    def open_ready(self, channel: Channel) -> None:
        """Take a channel that was just opened straight to readiness, at this very moment.

        Raises:
            ValueError: The wallets do not cover it; nothing was debited.
        """
        contribution = self._auto_accept(channel)
        if contribution is None:
            raise ValueError("the peer does not accept this channel by itself")
        self._take_terms(channel, SideTerms(funding_amount=contribution))
        if not self._fund(channel):
            raise ValueError("the wallets do not cover the channel")
        channel.outpoint = ckb_hash(channel.channel_id + b"funding") + bytes(4)
        channel.funded_at_ms = self._network.clock.now_ms
        self._make_ready(channel)

    def _make_ready(self, channel: Channel) -> None:
        now_ms = self._network.clock.now_ms
        for side in channel.sides:
            side.state = states.READY
            side.updated_at_ms = now_ms
        if channel.public:
            channel.announced_at_ms = now_ms

    def abandon(self, channel: Channel, node: Node) -> None:
        """Give up a channel that is not funded yet.

        Raises:
            NodeError: Too late for that. Nothing changed.
        """
        state = channel.side_of(node).state
        shown = f"Channel 0x{channel.channel_id.hex()}"
        if state.name in (
            StateName.CHANNEL_READY,
            StateName.SHUTTING_DOWN,
            StateName.CLOSED,
            StateName.AWAITING_CHANNEL_READY,
        ):
            raise invalid_parameter(
                f"{shown} is in state {state.debug()}, cannot be abandoned, "
                "please shutdown the channel instead"
            )
        if state.name is StateName.AWAITING_TX_SIGNATURES:
            raise invalid_parameter(
                f"{shown} is in state {state.debug()} and our signature has been sent. "
                "It cannot be abandoned. please wait for chain commitment."
            )
        if state.name is StateName.SIGNING_COMMITMENT:
            self._refund(channel)
        self._end(channel, states.CLOSED_ABANDONED)

    def _refund(self, channel: Channel) -> None:
        """Undo `_fund` of a funding transaction that was never sent."""
        chain = self._network.chain
        for index, side in enumerate(channel.sides):
            fee = 0 if index else channel.funding_fee
            if channel.udt is None:
                chain.credit(side.node.name, side.funding + fee)
            else:
                chain.credit(side.node.name, side.reserve + fee)
                chain.credit(side.node.name, side.funding, channel.udt)
        chain.burn_fee(-channel.funding_fee)
        channel.funded = False

    def _end(self, channel: Channel, flag: int) -> None:
        channel.settled = True
        channel.set_states(StateName.CLOSED, flag, flag)

    def _step(self, channel: Channel, operation: "partial[None]") -> None:
        wait_ms = self._network.settings.latencies.open_step_ms
        self._network.engine.later(channel, wait_ms, operation)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
