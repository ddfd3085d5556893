"""Expiry duty: fail back what runs out, go to chain when a peer does not let go.

Source: fnn 0.8.0 `CheckChannels`, every 60 seconds.
"""

from typing import TYPE_CHECKING

from infern.devnet.fiber.channel import Channel, Tlc
from infern.devnet.fiber.clock import Timer
from infern.devnet.fiber.engine import failure
from infern.devnet.fiber.settings import MIN_TLC_EXPIRY_DELTA_MS, WATCHDOG_INTERVAL_MS
from infern.devnet.fiber.states import TlcErrorCode, TlcPhase

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network


class Watchdog:
    """One round over all pending TLCs each minute, only while there are any."""

    def __init__(self, network: "Network") -> None:
        self._network = network
        self._channels: dict[bytes, Channel] = {}
        self._timer: Timer | None = None

    def watch(self, channel: Channel) -> None:
        """Look after a channel until it has no TLC left."""
        self._channels[channel.channel_id] = channel
        if self._timer is None:
            self._timer = self._network.clock.call_later_us(
                WATCHDOG_INTERVAL_MS * 1_000, self._round, background=True
            )

    def _round(self) -> None:
        self._timer = None
        for channel in list(self._channels.values()):
            for tlc in list(channel.tlcs.values()):
                self._check(tlc)
            if not channel.tlcs:
                self._channels.pop(channel.channel_id, None)
        for channel in list(self._channels.values()):
            self.watch(channel)

    def _check(self, tlc: Tlc) -> None:
        network, channel = self._network, tlc.channel
        if channel.force_closed or channel.settled:
            return
        safe_until_ms = network.clock.now_ms + MIN_TLC_EXPIRY_DELTA_MS
        if tlc.sender.online and tlc.expiry_ms < safe_until_ms:
            network.closing.force_close(channel, tlc.offerer)
            return
        unsettled = tlc.phase is TlcPhase.COMMITTED and tlc.outgoing is None
        soon = tlc.expiry_ms < safe_until_ms + WATCHDOG_INTERVAL_MS
        if tlc.receiver.online and unsettled and soon:
            removal = failure(TlcErrorCode.EXPIRY_TOO_SOON, tlc.receiver.pubkey)
            network.engine.remove(tlc, removal)
