"""A model server that does what a test tells it, behind `ports.ModelServer`.

Each request takes the next `Script` of `plan`; without one it is answered by `otherwise`. A script
is a list of steps, so that a test decides what arrives when, what never arrives and what breaks.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import anyio
import anyio.lowlevel

from infern.core.errors import InfernError, JsonValue, UpstreamUnavailable
from infern.core.wire.strict_json import dumps, loads_object
from infern.ports import UpstreamReply, UpstreamRequest

DONE: Final = b"data: [DONE]\n\n"
WORDS: Final = ("Hello", " there", ", dear", " friend", ".")
USAGE: Final[Mapping[str, JsonValue]] = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
}


class Step(Enum):
    """What a body does besides sending bytes."""

    HANG = "hang"
    """Nothing more comes, ever."""
    BREAK = "break"
    """The connection breaks."""


Steps = Sequence[bytes | Step | anyio.Event]
"""Bytes are sent, an event is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How one request is answered.

    Args:
        steps: The body.
        status: HTTP status.
        content_type: Media type.
        before: Waited for before the headers are sent.
        fails: Raised instead of an answer.
    """

    steps: Steps = ()
    status: int = 200
    content_type: str = "application/json"
    before: anyio.Event | Step | None = None
    fails: InfernError | None = None


def event(members: Mapping[str, JsonValue]) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(members) + b"\n\n"


def chunk(
    text: str | None = None,
    *,
    index: int = 0,
    finish: str | None = None,
    delta: Mapping[str, JsonValue] | None = None,
) -> bytes:
    """One chunk of a streamed chat answer."""
    piece: dict[str, JsonValue] = dict(delta or {})
    if text is not None:
        piece["content"] = text
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "upstream-m",
            "choices": [{"index": index, "delta": piece, "finish_reason": finish}],
        }
    )


def usage_chunk(usage: Mapping[str, JsonValue] = USAGE) -> bytes:
    """The chunk that only has usage."""
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "upstream-m",
            "choices": [],
            "usage": dict(usage),
        }
    )


def stream(
    words: Sequence[str] = WORDS,
    *,
    usage: Mapping[str, JsonValue] | None = USAGE,
    finish: str = "stop",
    done: bool = True,
) -> list[bytes]:
    """The events of a streamed chat answer, one word a chunk."""
    tail = [usage_chunk(usage)] if usage is not None else []
    return [
        chunk(delta={"role": "assistant"}),
        *(chunk(word) for word in words),
        chunk(finish=finish),
        *tail,
        *([DONE] if done else []),
    ]


def streaming(steps: Steps) -> Script:
    """A script that streams."""
    return Script(steps=steps, content_type="text/event-stream")


def answer(
    *texts: str,
    usage: Mapping[str, JsonValue] | None = USAGE,
    message: Mapping[str, JsonValue] | None = None,
    finish: str | None = "stop",
) -> bytes:
    """A plain chat answer with one choice per text."""
    choices: list[JsonValue] = [
        {
            "index": at,
            "message": {"role": "assistant", "content": text, **(message or {})},
            "finish_reason": finish,
        }
        for at, text in enumerate(texts or ("".join(WORDS),))
    ]
    whole: dict[str, JsonValue] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream-m",
        "choices": choices,
    }
    if usage is not None:
        whole["usage"] = dict(usage)
    return dumps(whole)


class ScriptedModel:
    """The server.

    Args:
        plan: Scripts of the next requests.
        otherwise: Answers those beyond the plan; None answers plain or streamed as asked.
    """

    def __init__(self, *plan: Script, otherwise: Script | None = None) -> None:
        self.plan: deque[Script] = deque(plan)
        self.otherwise = otherwise
        self.requests: list[UpstreamRequest] = []
        self.replies: list[ScriptedReply] = []

    @property
    def running(self) -> int:
        """Replies that were not given up or read to their end."""
        return sum(not reply.is_closed for reply in self.replies)

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Answer by the next script."""
        self.requests.append(request)
        script = self.plan.popleft() if self.plan else self.otherwise or _as_asked(request)
        if script.fails is not None:
            raise script.fails
        if script.before is not None:
            await _wait_for(script.before)
        reply = ScriptedReply(script)
        self.replies.append(reply)
        return reply


def _as_asked(request: UpstreamRequest) -> Script:
    if request.body and loads_object(request.body).get("stream") is True:
        return streaming(stream())
    return Script(steps=[answer()])


async def _wait_for(what: anyio.Event | Step) -> None:
    if isinstance(what, anyio.Event):
        await what.wait()
    elif what is Step.HANG:
        await anyio.sleep_forever()
    else:
        raise UpstreamUnavailable("The model server broke off (scripted).")


@dataclass(slots=True)
class ScriptedReply:
    """One reply; a cancelled read loses nothing."""

    script: Script
    at: int = 0
    is_closed: bool = False
    sent: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.script.status

    @property
    def content_type(self) -> str:
        """Media type."""
        return self.script.content_type

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        while self.at < len(self.script.steps):
            step = self.script.steps[self.at]
            if isinstance(step, bytes):
                await anyio.lowlevel.checkpoint()
                self.at += 1
                self.sent.append(step)
                return step
            await _wait_for(step)
            self.at += 1
        return b""

    async def aclose(self) -> None:
        """Give up."""
        self.is_closed = True
