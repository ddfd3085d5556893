"""Commitment exchanges: adding and removing TLCs takes time and needs the connection.

Every step is an event. While a channel's nodes are apart its steps are parked and run when they
meet again. A channel starts one exchange at a time; what follows waits for its turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from infern.core.fiber.invoice import HashAlgorithm
from infern.devnet.fiber.channel import Channel, Failure, Fulfil, LimitHit, OnionHop, Removal, Tlc
from infern.devnet.fiber.states import TlcErrorCode, TlcPhase

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network
    from infern.devnet.fiber.session import Attempt

MESSAGES_PER_EXCHANGE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a node wants to add to a channel."""

    amount: int
    payment_hash: bytes
    expiry_ms: int
    algorithm: HashAlgorithm
    onion: tuple[OnionHop, ...]
    keysend_preimage: bytes | None
    incoming: Tlc | None = None
    attempt: "Attempt | None" = None


class Engine:
    """Runs the exchanges of all channels of a network."""

    def __init__(self, network: "Network") -> None:
        self._network = network

    def offer(self, channel: Channel, index: int, offer: Offer) -> Tlc | LimitHit:
        """Start to add a TLC that `sides[index]` offers; the receiver handles it once committed."""
        network = self._network
        if not channel.link_up:
            return LimitHit(TlcErrorCode.UNKNOWN_NEXT_PEER, "Peer is not connected")
        limit = channel.check_offer(index, offer.amount)
        if limit is not None:
            return limit
        tlc = Tlc(
            channel=channel,
            tlc_id=channel.sides[index].next_tlc_id,
            offerer=index,
            amount=offer.amount,
            payment_hash=offer.payment_hash,
            expiry_ms=offer.expiry_ms,
            algorithm=offer.algorithm,
            onion=offer.onion,
            keysend_preimage=offer.keysend_preimage,
            incoming=offer.incoming,
            attempt=offer.attempt,
        )
        channel.insert(tlc)
        if offer.incoming is not None:
            offer.incoming.outgoing = tlc
        latencies = network.settings.latencies
        wait_ms = latencies.add_ms if offer.incoming is None else latencies.forward_add_ms
        self._exchange(channel, wait_ms, partial(self._committed, tlc))
        network.watchdog.watch(channel)
        return tlc

    def _committed(self, tlc: Tlc) -> None:
        if tlc.phase is not TlcPhase.ANNOUNCED or tlc.channel.on_chain:
            return
        tlc.phase = TlcPhase.COMMITTED
        tlc.channel.bump_commitments()
        if self._network.faults.holds_back(tlc):
            tlc.stuck = True
            return
        self._network.receiver.on_committed(tlc)

    def release_stuck(self, tlc: Tlc) -> None:
        """Go on with a TLC that a fault held back."""
        if tlc.stuck:
            tlc.stuck = False
            if tlc.phase is TlcPhase.COMMITTED:
                self._network.receiver.on_committed(tlc)

    def remove(self, tlc: Tlc, removal: Removal, *, wait_ms: int = 0) -> bool:
        """Start to remove a committed TLC, after `wait_ms`.

        Returns:
            False when it is being removed already, which is not an error.
        """
        if tlc.phase is not TlcPhase.COMMITTED or tlc.channel.on_chain:
            return False
        tlc.phase, tlc.removal = TlcPhase.REMOVING, removal
        delay_us = self._network.scaled_us(wait_ms)
        start = partial(self.run_when_linked, tlc.channel, partial(self._send_removal, tlc))
        self._network.clock.call_later_us(delay_us, start)
        return True

    def _send_removal(self, tlc: Tlc) -> None:
        if tlc.channel.on_chain:
            return
        network, latencies = self._network, self._network.settings.latencies
        learn = partial(self.run_when_linked, tlc.channel, partial(self._removal_seen, tlc))
        message_us = network.scaled_us(latencies.message_ms + network.faults.delay_ms(tlc.channel))
        network.clock.call_later_us(message_us, learn)
        forwarded = tlc.outgoing is not None
        wait_ms = latencies.upstream_remove_ms if forwarded else latencies.final_remove_ms
        self._exchange(tlc.channel, wait_ms, partial(self._acknowledged, tlc))

    def _removal_seen(self, tlc: Tlc) -> None:
        """The offerer has the RemoveTlc message: from here on it knows the preimage."""
        if isinstance(tlc.removal, Fulfil):
            tlc.sender.learn_preimage(tlc.payment_hash, tlc.removal.preimage)

    def _acknowledged(self, tlc: Tlc) -> None:
        if tlc.phase is TlcPhase.GONE or tlc.channel.on_chain:
            return
        self._removal_seen(tlc)
        tlc.channel.remove(tlc)
        tlc.channel.bump_commitments()
        self._network.receiver.on_removed(tlc)
        network = self._network
        ack_us = network.scaled_us(network.settings.latencies.ack_ms)
        network.clock.call_later_us(
            ack_us, partial(self.run_when_linked, tlc.channel, partial(self.resolved, tlc))
        )
        network.closing.on_tlc_gone(tlc.channel)

    def resolved(self, tlc: Tlc) -> None:
        """The offerer knows how its TLC ended: pass it upstream, or end the attempt."""
        removal = tlc.removal
        if removal is None:
            return
        if tlc.incoming is not None:
            self._pass_upstream(tlc.incoming, removal)
        elif tlc.attempt is not None:
            self._network.payer.on_attempt_resolved(tlc.sender, tlc.attempt, removal)

    def _pass_upstream(self, incoming: Tlc, removal: Removal) -> None:
        if isinstance(removal, Fulfil):
            # Should the upstream channel be on chain by now, the preimage is claimed there.
            incoming.receiver.learn_preimage(incoming.payment_hash, removal.preimage)
        self.remove(incoming, removal)

    def _exchange(self, channel: Channel, wait_ms: int, done: Callable[[], None]) -> None:
        network = self._network
        begin_us = max(network.clock.now_us, channel.busy_until_us)
        exchange_ms = network.settings.latencies.exchange_ms
        channel.busy_until_us = begin_us + network.scaled_us(exchange_ms)
        wait_us = network.scaled_us(wait_ms + network.faults.delay_ms(channel))
        network.clock.call_at_us(begin_us + wait_us, partial(self.run_when_linked, channel, done))
        network.faults.count_messages(channel, MESSAGES_PER_EXCHANGE)

    def later(self, channel: Channel, wait_ms: int, operation: Callable[[], None]) -> None:
        """Run a step of the handshake after `wait_ms`, connected, unless the channel has ended."""
        wait_us = self._network.scaled_us(wait_ms)
        guarded = partial(_unless_ended, channel, operation)
        self._network.clock.call_later_us(wait_us, partial(self.run_when_linked, channel, guarded))

    def run_when_linked(self, channel: Channel, operation: Callable[[], None]) -> None:
        """Run a step now, or park it until the channel's nodes are connected or gone to chain."""
        if channel.link_up or channel.on_chain:
            operation()
        else:
            channel.parked.append(operation)

    def flush(self, channel: Channel) -> None:
        """The channel left for the chain: what waited for a connection waits no more."""
        while channel.parked:
            channel.parked.popleft()()


def _unless_ended(channel: Channel, operation: Callable[[], None]) -> None:
    if not channel.on_chain:
        operation()


def failure(code: TlcErrorCode, origin: bytes, *, detail: str = "", slots: bool = False) -> Failure:
    """A reason to fail a TLC back."""
    return Failure(code=code, origin=origin, detail=detail, slots=slots)
