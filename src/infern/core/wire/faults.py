r"""What a model server says when it does not answer, in any dialect, and what of it is told.

Three questions about an error. What does it say: `read_fault`, `fault_of`. Whose fault is it:
`judge`. What may a consumer read of it: `told`. A model server's text is written for its operator:
it names files, addresses and other models of the machine, so it is shortened, made printable and
cleared of these before it leaves. Where it repeats the request, that is cut off even for the log.

Source: the OpenAI API reference; vLLM `ErrorResponse`, before 0.10 without the `error` around it;
llama.cpp `format_error_response`; Ollama `openai.NewError` and its own `{"error": "text"}`; LM
Studio's answers as its users report them; FastAPI's `detail`; Text Generation Inference
`error_type`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.errors import RemoteProtocolError
from infern.core.wire.strict_json import Json, loads_object

MAX_SHOWN_CHARS: Final = 300
NO_REASON: Final = "no reason given"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFault:
    """An error that a model server sent.

    Args:
        message: Its text, shortened and printable. It can tell about the server's inside: for
            logs; consumers get what `told` makes of it.
        code: Its code; empty when there is none. Some servers write the HTTP status here.
        kind: Its type; empty when there is none.
    """

    message: str
    code: str = ""
    kind: str = ""


class Blame(Enum):
    """What an error of a model server means for the request."""

    BUSY = "busy"
    """It will probably answer later."""
    TOO_LONG = "too_long"
    """Prompt, or prompt and answer, do not fit its context."""
    TOO_LARGE = "too_large"
    """The body is over a limit of it or of a proxy in front of it."""
    REQUEST = "request"
    """It does not want this request; the consumer can read why and change it."""
    SERVER = "server"
    """It failed, or is not set up for what is sold."""


_BUSY_STATUSES: Final = frozenset({429, 503})
_REFUSALS: Final = frozenset({400, 422})
_TOO_LONG_NAMES: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_TOO_LONG: Final = re.compile(
    r"context (?:length|size|window|limit)|max(?:imum)?[ _]model[ _]len(?:gth)?"
    r"|maximum (?:input|prompt) length|(?:prompt|input) is too long|exceeds? context"
    r"|max_tokens must be at least 1, got -|keep the first [0-9]+ tokens"
    r"|inputs`? tokens \+ `?max_new_tokens",
    re.IGNORECASE,
)
"""The words of each server, old versions included; see `docs/internals/model-servers.md`."""
_NO_SUCH_MODEL: Final = re.compile(
    r"\bmodels? [^.]{0,100}(?:not found|not exist|not loaded)|no models? (?:is |are )?loaded"
    r"|model (?:is |was )?unloaded|invalid model identifier|failed to load model"
    r"|does not support (?:chat|generate|completions)\b",
    re.IGNORECASE,
)


def read_fault(members: Mapping[str, Json]) -> UpstreamFault | None:
    """The error of an answer: `{"error": …}` as OpenAI has it, or vLLM's `{"object": "error"}`."""
    error = members.get("error")
    if error is None:
        if members.get("object") != "error":
            return None
        error = dict(members)
    if isinstance(error, dict):
        return UpstreamFault(
            message=_shown(error.get("message")),
            code=_shown(error.get("code")),
            kind=_shown(error.get("type")),
        )
    return UpstreamFault(message=_shown(error), kind=_shown(members.get("error_type")))


def fault_of(body: bytes) -> UpstreamFault:
    """The error of a whole body that came with an error status; anything may stand in it."""
    try:
        members = loads_object(body)
    except RemoteProtocolError:
        return UpstreamFault(message=NO_REASON)
    fault = read_fault(members)
    for name in ("detail", "message"):
        if fault is None and isinstance(members.get(name), str):
            fault = UpstreamFault(message=_shown(members[name]))
    return fault or UpstreamFault(message=NO_REASON)


def is_too_long(fault: UpstreamFault) -> bool:
    """Whether the error says, in words or by its name, that something does not fit the context."""
    return _is_named_too_long(fault) or _TOO_LONG.search(fault.message) is not None


def judge(status: int, fault: UpstreamFault) -> Blame:
    """Decide what an answer with an error status means.

    A refusal of the model's name is the seller's own fault: the name is not the consumer's. So is
    an overflow in words behind a 5xx: it may be the memory that all requests share.
    """
    if status in _BUSY_STATUSES:
        return Blame.BUSY
    if status == 413:
        return Blame.TOO_LARGE
    if _is_named_too_long(fault):
        return Blame.TOO_LONG
    if status not in _REFUSALS:
        return Blame.SERVER
    if is_too_long(fault):
        return Blame.TOO_LONG
    if fault.code == "model_not_found" or _NO_SUCH_MODEL.search(fault.message):
        return Blame.SERVER
    return Blame.REQUEST


def told(message: str, *, renamed: Mapping[str, str]) -> str:
    """What a consumer may read of a model server's text.

    Addresses, paths, and names of machines become `[…]`; what is left has at most
    `MAX_SHOWN_CHARS` characters, all printable.

    Args:
        message: The text.
        renamed: Names that only the operator knows, and what consumers call them.
    """
    text = _shown(message)
    for name, public in renamed.items():
        if name and name != public:
            text = public.join(re.split(rf"(?<!\w){re.escape(name)}(?!\w)", text))
    return _INSIDE.sub("[…]", text)[:MAX_SHOWN_CHARS].strip() or NO_REASON


_INSIDE: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://[^\s'\"`<>)\]}]+"  # URLs
    r"|(?<![\w.])(?:[\w-]+\.)+[a-z]{2,}(?::[0-9]+)?/[^\s'\"`<>)\]}]*"  # the same without a scheme
    r"|(?:\b[a-z]:|\\)\\[^\s'\"`<>)\]}]*"  # paths of Windows, shares
    r"|(?<![\w.~/])~?/(?:[\w.@+:~-]+/)*[\w.@+:~-]+/?"  # paths
    r"|(?<![\w/.])(?:\.{0,2}/)?(?:[\w.@+-]+/)+[\w.@+-]+\.[a-z]\w{0,11}\b"  # relative paths of files
    r"|(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]+)?(?![\w.])"  # IPv4
    r"|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::[0-9]+)?"  # IPv6
    r"|\blocalhost(?::[0-9]+)?|(?<![\w.])(?:[\w-]+\.)+(?:local|lan|internal|home|arpa)\b(?::[0-9]+)?"
    r"|(?<![\w.])(?:[\w-]+\.)+[a-z][\w-]*:[0-9]{2,5}\b",  # host:port
    re.IGNORECASE,
)
"""What places on the operator's side look like. Rather too much than too little: nobody needs a
path to mend a request."""


def _is_named_too_long(fault: UpstreamFault) -> bool:
    return fault.code in _TOO_LONG_NAMES or fault.kind in _TOO_LONG_NAMES


def _shown(value: Json) -> str:
    """Foreign text fit for a log line."""
    if not isinstance(value, str | int):
        return ""
    text = _REPEATED_INPUT.sub(r"\1 […]", str(value)[:_MAX_READ_CHARS])
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_SHOWN_CHARS])


_MAX_READ_CHARS: Final = 4 * MAX_SHOWN_CHARS
_REPEATED_INPUT: Final = re.compile(r"""(['"]input['"]\s*:|\binput_value=).*""", re.DOTALL)
"""How pydantic repeats what it refuses, in `errors()` and as text: a prompt has no place in a log.
Whatever stands behind it is given up with it."""
