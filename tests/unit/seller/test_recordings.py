"""One answer, many readers: the same bytes for all, counted once, with bounded memory."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.core.ids import RequestId
from infern.seller.http import ClientGone, Responder
from infern.seller.recordings import BATCH_BYTES, LAG_BYTES, Recording
from infern.testing.asgi import HttpClient

HEAD = {"content-type": "text/event-stream"}


class FakeTimer:
    def __init__(self) -> None:
        self.now_ms = 1_000


class FakeShelf:
    """A shelf that counts."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.taken = 0

    def take(self, count: int) -> bool:
        if self.taken + count > self.room:
            return False
        self.taken += count
        return True

    def give_back(self, count: int) -> None:
        self.taken -= count
        assert self.taken >= 0


def made(
    shelf: FakeShelf | None = None, *, limit: int = 10_000, runs_on: bool = True
) -> tuple[Recording, FakeShelf]:
    shelf = shelf or FakeShelf()
    recording = Recording(
        RequestId("req_1"),
        timer=FakeTimer(),
        shelf=shelf,
        limit_bytes=limit,
        runs_on=runs_on,
        linger_ms=50,
    )
    return recording, shelf


async def read(recording: Recording, client: HttpClient, *, is_replay: bool = False) -> Any:
    """What a connection does with it."""
    responder = Responder(client.send, request_id="req_2", stall_timeout_ms=5_000)
    reader = recording.join(is_replay=is_replay)
    try:
        return await reader.deliver(responder)
    finally:
        reader.leave()


@pytest.mark.parametrize("written", range(6))
async def test_a_reader_that_comes_at_any_time_gets_all_of_it(written: int) -> None:
    recording, shelf = made()
    pieces = [b"a", b"bb", b"ccc", b"dddd", b"eeeee"]
    early, late = HttpClient(), HttpClient()
    async with anyio.create_task_group() as group:
        group.start_soon(read, recording, early)
        recording.start(200, HEAD)
        for piece in pieces[:written]:
            recording.append(piece)
            await anyio.wait_all_tasks_blocked()
        group.start_soon(lambda: read(recording, late, is_replay=True))
        for piece in pieces[written:]:
            await anyio.wait_all_tasks_blocked()
            recording.append(piece)
        recording.end(b".")
    for client in (early, late):
        assert client.answer().body == b"abbcccddddeeeee."
        assert client.is_complete
        assert client.headers["x-request-id"] == "req_1"
    assert "f402-replayed" not in early.headers
    assert late.headers["f402-replayed"] == "true"
    assert recording.delivered_ms == 1_000
    assert shelf.taken == 16
    recording.drop()
    assert shelf.taken == 0


async def test_what_is_handed_over_is_counted_before_it_is_written_and_once() -> None:
    recording, _ = made()
    recording.start(200, HEAD)
    for piece in (b"aa", b"bb", b"cc"):
        recording.append(piece)
    assert (recording.handed, recording.ahead_bytes) == (0, 6)
    slow, fast = recording.join(is_replay=False), recording.join(is_replay=False)
    assert recording.take(fast) == b"aabbcc"
    assert (recording.handed, recording.ahead_bytes) == (3, 0)
    recording.append(b"dd")
    assert recording.take(slow) == b"aabbccdd"
    assert (recording.handed, recording.ahead_bytes) == (4, 0)
    assert recording.take(fast) == b"dd"
    assert recording.take(fast) == b""
    assert (recording.handed, recording.ahead_bytes) == (4, 0)


async def test_no_more_than_a_batch_is_handed_over_at_once() -> None:
    recording, _ = made(limit=10**6)
    for _ in range(5):
        recording.append(b"x" * (BATCH_BYTES // 2))
    recording.append(b"y" * (3 * BATCH_BYTES))
    reader = recording.join(is_replay=False)
    sizes = [len(recording.take(reader)) for _ in range(4)]
    assert sizes == [BATCH_BYTES, BATCH_BYTES, BATCH_BYTES // 2, 3 * BATCH_BYTES]


@pytest.mark.parametrize("why", ["the limit", "the shelf"])
async def test_what_does_not_fit_is_not_kept_and_goes_when_it_was_read(why: str) -> None:
    recording, shelf = made(FakeShelf(4 if why == "the shelf" else 10**9), limit=5)
    reader = recording.join(is_replay=False)
    recording.append(b"aaa")
    assert recording.take(reader) == b"aaa"
    assert (recording.is_kept, recording.runs_on, shelf.taken) == (True, True, 3)
    recording.append(b"bbb")
    assert (recording.is_kept, recording.runs_on, shelf.taken) == (False, False, 0)
    assert recording.must_be_read
    assert recording._pieces == [b"bbb"]
    assert recording.take(reader) == b"bbb"
    assert recording._pieces == []


async def test_who_is_too_far_behind_another_is_cut_off() -> None:
    """A dead connection must neither stop a live one nor fill the memory."""
    recording, _ = made(limit=1)
    recording.start(200, HEAD)
    dead, live = recording.join(is_replay=False), recording.join(is_replay=False)
    for _ in range(LAG_BYTES // 1024 + 2):
        recording.append(b"x" * 1024)
        assert recording.take(live)
    assert sum(map(len, recording._pieces)) <= LAG_BYTES
    with pytest.raises(ClientGone):
        recording.take(dead)
    assert recording.take(live) == b""


async def test_a_reader_of_what_is_not_kept_is_never_robbed_of_what_nobody_had() -> None:
    recording, _ = made(limit=0)
    reader = recording.join(is_replay=False)
    whole = b"z" * (3 * LAG_BYTES)
    recording.append(whole)
    assert recording.take(reader) == whole


async def test_what_nobody_was_given_can_be_taken_back() -> None:
    recording, shelf = made()
    reader = recording.join(is_replay=False)
    recording.append(b"seen")
    recording.take(reader)
    recording.append(b"never")
    recording.cut()
    assert (recording.count, recording.handed, recording.ahead_bytes) == (1, 1, 0)
    assert shelf.taken == 4
    recording.end(b"!")
    assert recording.take(reader) == b"!"
    assert recording.take(recording.join(is_replay=True)) == b"seen!"


async def test_memory_can_be_reserved_for_what_must_be_kept() -> None:
    recording, shelf = made(FakeShelf(10), limit=8)
    recording.append(b"abc")
    assert not recording.reserve(6)  # over the limit
    assert recording.reserve(5)
    other, _ = made(shelf, limit=8)
    assert not other.reserve(3)  # the shelf is full
    recording.append(b"de")
    assert shelf.taken == 8
    recording.end(b"f")
    assert recording.is_kept
    assert shelf.taken == 6  # what was reserved and not needed is back
    recording.drop()
    recording.drop()
    assert shelf.taken == 0


async def test_a_reservation_is_given_back_when_it_is_not_kept_after_all() -> None:
    recording, shelf = made(limit=8)
    assert recording.reserve(8)
    recording.drop()
    assert shelf.taken == 0
    assert not recording.reserve(1)


async def test_the_maker_hears_of_everything_readers_do() -> None:
    recording, _ = made()
    heard: list[str] = []

    async def maker() -> None:
        while True:
            await recording.moved()
            heard.append("moved")

    left: list[str] = []
    recording.on_left = lambda: left.append("left")
    async with anyio.create_task_group() as group:
        group.start_soon(maker)
        for step in (
            lambda: recording.join(is_replay=False),
            lambda: recording.append(b"a"),
            lambda: recording.take(next(iter(recording._readers))),
            recording.note_delivered,
            lambda: next(iter(recording._readers)).leave(),
        ):
            await anyio.wait_all_tasks_blocked()
            step()
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(heard) == 4  # all but the writing
    assert left == ["left"]
    assert not recording.has_readers


async def test_only_the_last_reader_that_leaves_is_told_of() -> None:
    recording, _ = made()
    left: list[int] = []
    recording.on_left = lambda: left.append(1)
    first, second = recording.join(is_replay=False), recording.join(is_replay=False)
    first.leave()
    assert left == []
    second.leave()
    assert left == [1]


async def test_a_failure_is_told_to_all_who_wait_and_to_those_in_the_middle() -> None:
    recording, shelf = made()
    clients = [HttpClient(), HttpClient()]
    outcomes: list[Any] = []

    async def one(client: HttpClient) -> None:
        outcomes.append(await read(recording, client))

    bug = KeyError("a bug")
    async with anyio.create_task_group() as group:
        group.start_soon(one, clients[0])
        await anyio.wait_all_tasks_blocked()
        recording.start(200, HEAD)
        recording.append(b"half")
        group.start_soon(one, clients[1])
        await anyio.wait_all_tasks_blocked()
        recording.fail(bug)
    assert outcomes == [bug, bug]
    assert [client.answer().body for client in clients] == [b"half", b"half"]
    assert not any(client.is_complete for client in clients)
    assert shelf.taken == 0
    other, _ = made()
    other.fail(bug)
    unused = HttpClient()
    assert await read(other, unused) is bug
    assert unused.status == 0


async def test_a_reader_can_be_cancelled_wherever_it_waits() -> None:
    """No matter after how many steps: it leaves, and the others are served."""
    for steps in range(12):
        recording, shelf = made()
        scope, other = anyio.CancelScope(), HttpClient()
        async with anyio.create_task_group() as group:
            group.start_soon(_doomed, recording, scope)
            group.start_soon(read, recording, other)
            for step in range(12):
                if step == steps:
                    scope.cancel()
                if step == 2:
                    recording.start(200, HEAD)
                if step in (3, 5, 7):
                    recording.append(b"piece")
                await anyio.lowlevel.checkpoint()
            scope.cancel()
            recording.end(b".")
        assert other.answer().body == b"piecepiecepiece."
        assert not recording.has_readers
        recording.drop()
        assert shelf.taken == 0


async def _doomed(recording: Recording, scope: anyio.CancelScope) -> None:
    with scope:
        await read(recording, HttpClient(stall_after=2))
