"""Which answer a request gets that was asked for before: the one under way, or one that is kept.

A payment names its answer, and so does an `Idempotency-Key` with a prepaid key. Without either,
two requests with equal bytes are two, with two exceptions: an automatic retry of a Stainless
client (openai-python, openai-node) belongs to the attempt it repeats, and a plain answer that
nobody received is given to who asks next. All in memory: the ledger still knows what was charged
when the bytes are gone.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infern.core.errors import ProtocolError
from infern.core.f402.server import ServerState, refusal
from infern.core.ids import PaymentHash, RequestDigest, RequestId, TabId
from infern.seller.config import SellerLimits
from infern.seller.recordings import Recording, Timer

RETRY_HEADER: Final = "x-stainless-retry-count"
OVERHEAD_BYTES: Final = 2 * 1024
"""What a recording takes besides its bytes; counted, or a great many small ones were free."""

Name = PaymentHash | tuple[TabId, bytes]
Bytes = tuple[TabId, RequestDigest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a paid request asks for, as far as it tells two requests apart.

    Args:
        digest: The request.
        is_stream: A streamed answer is asked for.
        payment_hash: The payment it proves; None when a key is debited.
        is_lock: That payment is in hold mode: money only once somebody was given the answer.
        tab_id: The tab of the key that is debited; None for a proof.
        attempt: 32 bytes from the `Idempotency-Key` beside such a key.
        stops: It is given up soon when nobody reads, although it is named.
        retry: A Stainless client's count of repetitions; None from other clients.
    """

    digest: RequestDigest
    is_stream: bool
    payment_hash: PaymentHash | None = None
    is_lock: bool = False
    tab_id: TabId | None = None
    attempt: bytes | None = None
    stops: bool = False
    retry: int | None = None

    @property
    def name(self) -> Name | None:
        """What names its answer for good; None when nothing does."""
        if self.payment_hash is not None:
            return self.payment_hash
        if self.tab_id is not None and self.attempt is not None:
            return self.tab_id, self.attempt
        return None

    @property
    def runs_on(self) -> bool:
        """True when it is made to its end although nobody reads: it can be had afterwards."""
        return self.name is not None and not self.is_lock and not self.stops

    @property
    def may_come_again(self) -> bool:
        """True when a later request can be known to be the same one."""
        return self.name is not None or self.retry is not None or not self.is_stream


@dataclass(slots=True, eq=False)
class _Entry:
    """A recording and the request it answers."""

    recording: Recording
    need: Need
    retry: int | None
    """The highest count of a retry that was given it."""


class Replays:
    """Finds and keeps recordings. One per process."""

    def __init__(self, limits: SellerLimits, timer: Timer) -> None:
        self._limits = limits
        self._timer = timer
        self._left = limits.replay_total_bytes
        self._named: dict[Name, _Entry] = {}
        self._by_bytes: dict[Bytes, list[_Entry]] = {}
        self._entries: dict[Recording, _Entry] = {}
        # Ended ones by when they may be forgotten; each kind has one lifetime, so oldest first.
        self._late: OrderedDict[Recording, int] = OrderedDict()
        self._kept: OrderedDict[Recording, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes_left(self) -> int:
        """Of the memory for kept answers."""
        return self._left

    def knows(self, payment_hash: PaymentHash) -> bool:
        """True when the payment's answer is under way or kept: then it has been paid."""
        return payment_hash in self._named

    def find(self, need: Need) -> Recording | None:
        """The answer for a request that came before; None when it is to be made.

        Raises:
            ProtocolError: `idempotency_conflict`: the key names another request.
                `request_in_progress`: it is under way and too large to be given again.
        """
        name = need.name
        if name is not None:
            entry = self._named.get(name)
            if entry is None:
                return None
            if entry.need.digest != need.digest:
                raise ProtocolError(
                    "This Idempotency-Key was used for another request; use a new one.",
                    code="idempotency_conflict",
                )
            if not entry.recording.is_kept:
                raise refusal(ServerState.RUNNING)
            return entry.recording
        if need.tab_id is None:
            return None
        for entry in self._by_bytes.get((need.tab_id, need.digest), ()):
            if entry.recording.is_kept and self._fits(entry, need):
                entry.retry = need.retry
                return entry.recording
        return None

    def _fits(self, entry: _Entry, need: Need) -> bool:
        """Whether a request without a name belongs to an earlier one with the same bytes."""
        recording = entry.recording
        delivered_ms = recording.delivered_ms
        if need.retry:
            # A client that retries did not get its answer, whatever our socket said: for a moment
            # it may have been on its way to a connection that was gone.
            late = self._timer.now_ms - self._limits.linger_ms
            is_earlier = entry.retry is not None and entry.retry < need.retry
            return is_earlier and (delivered_ms is None or delivered_ms >= late)
        return not need.is_stream and delivered_ms is None and not recording.has_readers

    def open(self, need: Need, request_id: RequestId) -> Recording:
        """A recording for an answer that is now made."""
        limits = self._limits
        can_keep = need.may_come_again and self.take(OVERHEAD_BYTES)
        recording = Recording(
            request_id,
            timer=self._timer,
            shelf=self,
            limit_bytes=limits.replay_bytes if can_keep else 0,
            # What could not be had afterwards is not made for nobody; a lock just goes back.
            runs_on=need.runs_on and limits.replay_s > 0,
            linger_ms=limits.linger_ms if can_keep else 0,
        )
        if can_keep:
            entry = self._entries[recording] = _Entry(recording, need, need.retry)
            if need.name is not None:
                self._named[need.name] = entry
            elif need.tab_id is not None:
                self._by_bytes.setdefault((need.tab_id, need.digest), []).append(entry)
        return recording

    def ended(self, recording: Recording) -> None:
        """An answer was charged and written; keep it for as long as somebody may want it."""
        entry = self._entries.get(recording)
        if entry is None:
            return
        limits, now_ms = self._limits, self._timer.now_ms
        is_named = entry.need.name is not None
        if recording.is_kept and limits.replay_s and (is_named or recording.delivered_ms is None):
            self._kept[recording] = now_ms + limits.replay_s * 1000
        elif recording.is_kept and not is_named and entry.retry is not None:
            self._late[recording] = now_ms + limits.linger_ms
        else:
            self.forget(recording)

    def forget(self, recording: Recording) -> None:
        """Give a recording to nobody who comes from now on."""
        entry = self._entries.pop(recording, None)
        if entry is None:
            return
        self._kept.pop(recording, None)
        self._late.pop(recording, None)
        need = entry.need
        if need.name is not None:
            del self._named[need.name]
        elif need.tab_id is not None:
            same = self._by_bytes[need.tab_id, need.digest]
            same.remove(entry)
            if not same:
                del self._by_bytes[need.tab_id, need.digest]
        recording.drop()
        self.give_back(OVERHEAD_BYTES)

    def sweep(self) -> None:
        """Forget what was kept long enough."""
        for ended in (self._late, self._kept):
            while ended:
                recording, until_ms = next(iter(ended.items()))
                if until_ms > self._timer.now_ms:
                    break
                self.forget(recording)

    def take(self, count: int) -> bool:
        """Take memory for an answer under way; older ones that have ended make room."""
        if count > self._limits.replay_total_bytes:
            return False
        while count > self._left:
            oldest = next(iter(self._late or self._kept), None)
            if oldest is None:
                return False
            self.forget(oldest)
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        """Give memory back."""
        self._left += count


def retry_count(headers: Mapping[str, str]) -> int | None:
    """A Stainless client's count of repetitions; None from other clients or for nonsense."""
    text = headers.get(RETRY_HEADER, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None
