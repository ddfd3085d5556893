"""A seller's model server, scripted by the seed: mostly it answers, sometimes it does worse.

It stands behind `ports.ModelServer`, so no wire is faked here. Every answer is different, so that
the oracles can tell one run of a request from another.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from infern.core.errors import JsonValue, UpstreamUnavailable
from infern.core.wire.strict_json import JsonObject, dumps, loads_object
from infern.ports import UpstreamReply, UpstreamRequest
from infern.simulator.process import Process
from infern.testing.scripted_model import DONE, answer, chunk, event, stream, usage_chunk

WORDS: Final = ("one", " two", " three", " four", " five", " six", " seven", " eight")
SILENCE_US: Final = 3_600_000_000
STEP_US: Final = 40_000
SLOW_US: Final = 3_000_000
FAULT: Final[Mapping[str, JsonValue]] = {"error": {"message": "simulated fault"}}


class Mood(StrEnum):
    """How a request is answered; all but the first are bad."""

    WELL = "well"
    SLOW = "slow"
    REFUSES = "refuses"
    """No connection."""
    ERROR_429 = "error-429"
    ERROR_500 = "error-500"
    ERROR_400 = "error-400"
    SILENT = "silent"
    """Never begins."""
    BREAKS = "breaks"
    """Breaks off in the middle."""
    HANGS = "hangs"
    """Falls silent in the middle."""
    NO_USAGE = "no-usage"
    BOASTS = "boasts"
    """Reports more tokens than were ordered."""
    EMPTY = "empty"
    GARBLED = "garbled"
    FAULT = "fault"
    """Reports an error inside an answer that began well."""
    TALKS_ON = "talks-on"
    """Writes more than was ordered."""
    NO_END = "no-end"
    """Ends without `[DONE]`."""


BAD: Final = tuple(mood for mood in Mood if mood is not Mood.WELL)


@dataclass(frozen=True, slots=True)
class _Silence:
    """Nothing for so long."""

    duration_us: int


class _Break:
    """The connection breaks."""


_Part = bytes | _Silence | _Break


class VirtualModel:
    """The server, as one seller process sees it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._dice = process.world.dice(f"model {process.name}")
        self.running = 0
        """Replies neither read to their end nor given up."""
        self.has_ended_well = False
        """The seller's process ended in good order."""

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Answer in some mood."""
        world, dice = self._process.world, self._dice
        mood = dice.choice(BAD) if dice.random() < world.weather.model_bad else Mood.WELL
        world.note(self._process.name, f"model.{mood.value}", request.path)
        await self._process.sleep_us(dice.randrange(STEP_US))
        if mood is Mood.REFUSES:
            raise UpstreamUnavailable("The model server does not answer (simulated).")
        if mood is Mood.SILENT:
            await self._process.sleep_us(SILENCE_US)
        status = {Mood.ERROR_429: 429, Mood.ERROR_500: 500, Mood.ERROR_400: 400}.get(mood, 200)
        asked = loads_object(request.body) if request.body else {}
        is_stream = status == 200 and asked.get("stream") is True
        parts = _error(status) if status != 200 else _parts(asked, mood, dice)
        kind = "text/event-stream" if is_stream else "application/json"
        self.running += 1
        return _Reply(self, self._process, status, kind, parts, self._dice)


def _error(status: int) -> list[_Part]:
    error: dict[str, JsonValue] = {"message": f"simulated {status}", "type": "x", "code": "x"}
    return [dumps({"error": error})]


def _parts(asked: JsonObject, mood: Mood, dice: random.Random) -> list[_Part]:
    words = [dice.choice(WORDS) for _ in range(dice.randrange(1, 9))]
    words[0] = f"{dice.randrange(10**9)}"
    usage: dict[str, JsonValue] | None = {
        "prompt_tokens": dice.randrange(1, 12),
        "completion_tokens": len(words),
        "total_tokens": len(words),
    }
    if mood is Mood.NO_USAGE:
        usage = None
    elif mood is Mood.BOASTS:
        usage = {"prompt_tokens": 10**6, "completion_tokens": 10**6, "total_tokens": 2 * 10**6}
    if asked.get("stream") is True:
        return _spoiled(list(_stream(words, usage, mood)), mood, dice)
    text = "" if mood is Mood.EMPTY else "".join(words)
    whole = b'{"choices": [{' if mood is Mood.GARBLED else answer(text, usage=usage)
    if mood is Mood.FAULT:
        whole = dumps(FAULT)
    half = dice.randrange(1, len(whole))
    return _spoiled([whole[:half], whole[half:]], mood, dice)


def _stream(words: Sequence[str], usage: Mapping[str, JsonValue] | None, mood: Mood) -> list[bytes]:
    if mood is Mood.EMPTY:
        return [chunk(delta={"role": "assistant"}), chunk(finish="stop"), DONE]
    if mood is Mood.GARBLED:
        return [chunk(words[0]), b"data: {]\n\n", DONE]
    if mood is Mood.FAULT:
        return [chunk(word) for word in words] + [event(FAULT)]
    if mood is Mood.TALKS_ON:
        return [chunk(word) for word in list(words) * 40] + [usage_chunk(), DONE]
    return stream(words, usage=usage, done=mood is not Mood.NO_END)


def _spoiled(parts: list[bytes], mood: Mood, dice: random.Random) -> list[_Part]:
    spoiled: list[_Part] = list(parts)
    at = dice.randrange(len(parts) + 1)
    if mood is Mood.BREAKS:
        return [*spoiled[:at], _Break()]
    if mood is Mood.HANGS:
        return [*spoiled[:at], _Silence(SILENCE_US)]
    if mood is Mood.SLOW:
        return [step for part in spoiled for step in (_Silence(dice.randrange(SLOW_US)), part)]
    return spoiled


class _Reply:
    """One reply; a cancelled read loses nothing."""

    def __init__(
        self,
        model: VirtualModel,
        process: Process,
        status: int,
        content_type: str,
        parts: Sequence[_Part],
        dice: random.Random,
    ) -> None:
        self._model = model
        self._process = process
        self._status = status
        self._content_type = content_type
        self._parts = list(parts)
        self._due_us = 0
        self._dice = dice
        self._is_open = True

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._status

    @property
    def content_type(self) -> str:
        """Media type."""
        return self._content_type

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        while self._parts:
            part = self._parts[0]
            pause_us = part.duration_us if isinstance(part, _Silence) else STEP_US
            # A reader that was cancelled finds the rest of the pause, not all of it again.
            if not self._due_us:
                self._due_us = self._process.world.now_us + self._dice.randrange(pause_us + 1)
            await self._process.sleep_us(max(self._due_us - self._process.world.now_us, 0))
            self._due_us = 0
            self._parts.pop(0)
            if isinstance(part, _Break):
                raise UpstreamUnavailable("The model server broke off (simulated).")
            if isinstance(part, bytes):
                return part
        return b""

    async def aclose(self) -> None:
        """Give up."""
        self._process.check()
        if self._is_open:
            self._is_open = False
            self._model.running -= 1
