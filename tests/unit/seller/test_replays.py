"""Which request gets which answer again, and for how long it is kept."""

from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import ProtocolError
from infern.core.ids import PaymentHash, RequestDigest, RequestId, TabId
from infern.seller.config import SellerLimits
from infern.seller.recordings import Reader, Recording
from infern.seller.replays import OVERHEAD_BYTES, Need, Replays, retry_count

DIGEST, OTHER = RequestDigest(b"\x01" * 32), RequestDigest(b"\x02" * 32)
TAB, STRANGER = TabId("tab_1"), TabId("tab_2")
PAYMENT = PaymentHash(b"\x03" * 32)
LIMITS = SellerLimits(replay_bytes=1_000, replay_total_bytes=20_000, replay_s=120, linger_ms=2_000)


class FakeTimer:
    def __init__(self) -> None:
        self.now_ms = 1_000_000


class World:
    def __init__(self, **limits: int) -> None:
        self.timer = FakeTimer()
        self.limits = replace(LIMITS, **limits)
        self.replays = Replays(self.limits, self.timer)

    def open(self, need: Need) -> Recording:
        assert self.replays.find(need) is None
        return self.replays.open(need, RequestId("req_1"))

    def answered(self, need: Need, size: int = 10, *, delivered: bool = True) -> Recording:
        """An answer that was made, charged and given to its connection."""
        recording = self.open(need)
        reader = recording.join(is_replay=False)
        recording.start(200, {})
        recording.end(b"x" * size)
        if delivered:
            recording.take(reader)
            recording.note_delivered()
        reader.leave()
        self.replays.ended(recording)
        return recording

    def is_empty(self) -> bool:
        replays = self.replays
        assert not replays._named
        assert not replays._by_bytes
        assert not replays._kept
        assert not replays._late
        return len(replays) == 0 and replays.bytes_left == self.limits.replay_total_bytes

    def pass_ms(self, duration_ms: int) -> None:
        self.timer.now_ms += duration_ms
        self.replays.sweep()


@pytest.fixture
def world() -> World:
    return World()


def by_key(**more: Any) -> Need:
    return Need(**{"digest": DIGEST, "is_stream": False, "tab_id": TAB, **more})


NAMED = {
    "payment": Need(digest=DIGEST, is_stream=True, payment_hash=PAYMENT),
    "attempt": by_key(attempt=b"\x04" * 32, is_stream=True),
}


@pytest.mark.parametrize("need", NAMED.values(), ids=NAMED.keys())
def test_a_named_answer_is_found_under_way_and_for_two_minutes_after(
    world: World, need: Need
) -> None:
    recording = world.open(need)
    assert recording.runs_on
    assert world.replays.find(need) is recording
    recording.start(200, {})
    recording.end(b"whole")
    world.replays.ended(recording)
    world.pass_ms(119_999)
    assert world.replays.find(need) is recording
    world.pass_ms(1)
    assert world.replays.find(need) is None
    assert world.is_empty()


def test_what_names_an_answer_is_its_own_payers_alone(world: World) -> None:
    world.answered(NAMED["attempt"])
    world.answered(NAMED["payment"])
    for other in (
        replace(NAMED["attempt"], tab_id=STRANGER),
        replace(NAMED["attempt"], attempt=b"\x05" * 32),
        replace(NAMED["payment"], payment_hash=PaymentHash(b"\x06" * 32)),
        by_key(),
        by_key(retry=3),
    ):
        assert world.replays.find(other) is None


def test_a_name_is_for_one_request(world: World) -> None:
    need = NAMED["attempt"]
    world.answered(need)
    with pytest.raises(ProtocolError) as caught:
        world.replays.find(replace(need, digest=OTHER))
    assert caught.value.code == "idempotency_conflict"


def test_an_answer_that_outgrew_its_limit_is_in_progress_until_its_end(world: World) -> None:
    need = NAMED["payment"]
    recording = world.open(need)
    recording.append(b"x" * 1_001)
    with pytest.raises(ProtocolError) as caught:
        world.replays.find(need)
    assert caught.value.code == "request_in_progress"
    recording.end()
    world.replays.ended(recording)
    assert world.is_empty()


def test_a_payment_is_known_while_its_answer_is(world: World) -> None:
    assert not world.replays.knows(PAYMENT)
    recording = world.answered(NAMED["payment"])
    assert world.replays.knows(PAYMENT)
    world.replays.forget(recording)
    assert not world.replays.knows(PAYMENT)
    assert world.is_empty()


def test_a_payment_in_hold_mode_is_not_made_for_nobody(world: World) -> None:
    recording = world.open(replace(NAMED["payment"], is_lock=True))
    assert not recording.runs_on
    assert recording.is_kept
    assert recording.linger_ms == 2_000


def test_equal_requests_without_a_name_are_two(world: World) -> None:
    for need in (by_key(), by_key(retry=0), by_key(is_stream=True, retry=0)):
        first = world.open(need)
        first.join(is_replay=False)
        second = world.open(need)
        assert second is not first
        world.replays.forget(first)
        world.replays.forget(second)
    assert world.is_empty()


def test_a_streams_bytes_are_not_kept_when_nobody_could_ask_for_them_again(world: World) -> None:
    recording = world.open(by_key(is_stream=True))
    assert not recording.is_kept
    assert recording.linger_ms == 0
    assert world.is_empty()


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_automatic_retry_belongs_to_an_earlier_attempt(world: World, is_stream: bool) -> None:
    need = by_key(retry=0, is_stream=is_stream)
    recording = world.open(need)
    recording.join(is_replay=False)  # its client has left, but nobody noticed yet
    assert world.replays.find(replace(need, retry=1)) is recording
    assert world.replays.find(replace(need, retry=1)) is None  # that is somebody else's
    assert world.replays.find(replace(need, retry=2)) is recording
    assert world.replays.find(replace(need, retry=5, tab_id=STRANGER)) is None
    assert world.replays.find(replace(need, retry=5, digest=OTHER)) is None


def test_each_of_two_equal_attempts_is_found_by_its_own_retry(world: World) -> None:
    need = by_key(retry=0, is_stream=True)
    first, second = world.open(need), world.replays.open(need, RequestId("req_2"))
    again = replace(need, retry=1)
    assert [world.replays.find(again) for _ in range(3)] == [first, second, None]


def test_a_retry_of_a_client_that_does_not_count_is_a_request_of_its_own(world: World) -> None:
    recording = world.open(by_key())
    recording.join(is_replay=False)
    assert world.replays.find(by_key(retry=1)) is None


def test_a_delivered_answer_is_a_retrys_for_a_moment(world: World) -> None:
    """The socket took it, and the client was gone: it says so by asking again."""
    need = by_key(retry=0)
    recording = world.answered(need)
    assert world.replays.find(need) is None
    assert world.replays.find(replace(need, retry=1)) is recording
    world.pass_ms(1_999)
    assert world.replays.find(replace(need, retry=2)) is recording
    world.pass_ms(1)
    assert world.is_empty()


def test_a_plain_answer_nobody_received_goes_to_who_asks_next(world: World) -> None:
    recording = world.answered(by_key(), delivered=False)
    assert world.replays.find(by_key(tab_id=STRANGER)) is None
    assert world.replays.find(by_key(digest=OTHER)) is None
    assert world.replays.find(by_key()) is recording
    reader = recording.join(is_replay=True)
    assert world.replays.find(by_key()) is None  # somebody is being given it
    recording.take(reader)
    recording.note_delivered()
    reader.leave()
    assert world.replays.find(by_key()) is None
    world.pass_ms(120_000)
    assert world.is_empty()


def test_a_stream_nobody_received_is_nobody_elses(world: World) -> None:
    world.answered(by_key(is_stream=True, retry=0), delivered=False)
    assert world.replays.find(by_key(is_stream=True, retry=0)) is None


def test_a_delivered_plain_answer_is_gone_at_once(world: World) -> None:
    world.answered(by_key())
    assert world.is_empty()


def test_without_keeping_only_what_is_under_way_is_found() -> None:
    world = World(replay_s=0)
    for need in NAMED.values():
        recording = world.open(need)
        assert not recording.runs_on
        assert world.replays.find(need) is recording
        recording.end(b"x")
        world.replays.ended(recording)
    assert world.is_empty()


def test_the_oldest_kept_answers_make_room(world: World) -> None:
    needs = [by_key(attempt=bytes([number]) * 32) for number in range(20)]
    for need in needs:
        world.answered(need, 1_000)
    fits = 20_000 // (1_000 + OVERHEAD_BYTES)
    found = [world.replays.find(need) is not None for need in needs]
    assert found == [False] * (20 - fits) + [True] * fits
    assert 0 <= world.replays.bytes_left < 1_000 + OVERHEAD_BYTES
    world.pass_ms(120_000)
    assert world.is_empty()


def test_answers_under_way_are_not_forgotten_for_others(world: World) -> None:
    under_way = []
    for number in range(20):
        need = by_key(attempt=bytes([number]) * 32)
        recording = world.replays.open(need, RequestId("req_1"))
        recording.append(b"x" * 900)
        under_way.append((need, recording))
    kept = [(need, recording) for need, recording in under_way if recording.is_kept]
    assert len(kept) == 20_000 // (900 + OVERHEAD_BYTES)
    assert world.replays.bytes_left >= 0
    assert all(world.replays.find(need) is recording for need, recording in kept)
    late = world.replays.open(by_key(attempt=b"\xff" * 32), RequestId("req_9"))
    assert not late.is_kept
    for _, recording in under_way:
        world.replays.forget(recording)
    world.replays.forget(late)
    assert world.is_empty()


def test_forgetting_is_harmless_twice_and_under_a_reader(world: World) -> None:
    recording = world.answered(NAMED["payment"], 100)
    reader = recording.join(is_replay=True)
    world.replays.forget(recording)
    world.replays.forget(recording)
    world.replays.ended(recording)
    assert recording.take(reader) == b"x" * 100
    reader.leave()
    assert world.is_empty()


@pytest.mark.parametrize(
    ("text", "count"),
    [(None, None), ("0", 0), ("2", 2), ("", None), ("-1", None), ("1e3", None), ("99999", None)],
)
def test_a_retry_count_is_a_small_number(text: str | None, count: int | None) -> None:
    headers = {} if text is None else {"x-stainless-retry-count": text}
    assert retry_count(headers) == count


def test_a_reader_that_leaves_twice_is_harmless(world: World) -> None:
    recording = world.open(NAMED["payment"])
    reader: Reader = recording.join(is_replay=False)
    reader.leave()
    reader.leave()
    assert not recording.has_readers
