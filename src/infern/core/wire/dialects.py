"""The model servers we know by name: what each needs, and how to tell which one it is.

`docs/internals/model-servers.md` has the quirks with their sources, `vectors/dialects` the answers
that show them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from infern.core.errors import RemoteProtocolError
from infern.core.wire.rewrite import Dialect, EarlyUsage, TokenLimit
from infern.core.wire.strict_json import Json, JsonObject, loads_object

MODELS_PATH: Final = "/v1/models"
QUESTIONS: Final = (
    MODELS_PATH,
    "/version",
    "/props",
    "/api/version",
    "/api/ps",
    "/api/v0/models",
)
"""Paths whose answers tell which server it is; each a GET that changes nothing."""
MAX_VERSION_CHARS: Final = 40
MAX_CONTEXT_TOKENS: Final = 2**26


class DialectName(StrEnum):
    """A model server as `provider.toml` names it."""

    VLLM = "vllm"
    LLAMA_CPP = "llama_cpp"
    OLLAMA = "ollama"
    LM_STUDIO = "lm_studio"
    OPENAI = "openai"
    """Anything else that speaks the OpenAI API: only what all of them understand."""


DIALECTS: Final[Mapping[DialectName, Dialect]] = MappingProxyType(
    {
        DialectName.VLLM: Dialect(token_limit=TokenLimit.BOTH, early_usage=EarlyUsage.VLLM),
        DialectName.LLAMA_CPP: Dialect(early_usage=EarlyUsage.LLAMA_CPP, counts_one=True),
        DialectName.OLLAMA: Dialect(cuts_prompts=True, counts_one=True),
        DialectName.LM_STUDIO: Dialect(cuts_prompts=True, counts_one=True),
        DialectName.OPENAI: Dialect(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLook:
    """What a model server's answers to `QUESTIONS` tell about it.

    Args:
        name: Its dialect; None when no known server answers so.
        version: Its version as it says; empty when it does not.
        contexts: Tokens of context by its own name of the model, as far as it tells.
        is_silent: Whether it answered none of them: it is away, or wants another key.
    """

    name: DialectName | None
    version: str = ""
    contexts: Mapping[str, int] = field(default_factory=dict)
    is_silent: bool = False


def look_at_answers(bodies: Mapping[str, bytes]) -> ServerLook:
    """Guess which model server gave these answers.

    A member that only one server has decides, never a status alone: LM Studio answers 200 to
    everything.

    Args:
        bodies: Bodies that came with status 200, by their path in `QUESTIONS`.
    """
    answers = {path: members for path in bodies if (members := _members(bodies[path])) is not None}
    for name, is_it, version_path in _SIGNS:
        if is_it(answers):
            return ServerLook(
                name=name,
                version=_version(answers.get(version_path, {})),
                contexts=dict(_contexts(answers)),
            )
    return ServerLook(name=None, contexts=dict(_contexts(answers)), is_silent=not bodies)


Answers = Mapping[str, JsonObject]


def _is_llama_cpp(answers: Answers) -> bool:
    return "llamacpp" in _owners(answers) or "default_generation_settings" in answers.get(
        "/props", {}
    )


def _is_vllm(answers: Answers) -> bool:
    return "vllm" in _owners(answers)


def _is_lm_studio(answers: Answers) -> bool:
    rows = list(_rows(answers.get("/api/v0/models", {}), "data"))
    return any("compatibility_type" in row for row in rows) or (
        "organization_owner" in _owners(answers)
    )


def _is_ollama(answers: Answers) -> bool:
    return isinstance(answers.get("/api/version", {}).get("version"), str)


_SIGNS: Final[tuple[tuple[DialectName, Callable[[Answers], bool], str], ...]] = (
    (DialectName.VLLM, _is_vllm, "/version"),
    (DialectName.LLAMA_CPP, _is_llama_cpp, "/props"),
    (DialectName.LM_STUDIO, _is_lm_studio, ""),
    (DialectName.OLLAMA, _is_ollama, "/api/version"),
)
"""In this order: llama.cpp and others answer paths of Ollama to please its clients."""


def _contexts(answers: Answers) -> Iterator[tuple[str, int]]:
    """Every context that is told, with the model's name; a later one of the same name wins."""
    settings = answers.get("/props", {}).get("default_generation_settings")
    for row in _rows(answers.get(MODELS_PATH, {}), "data"):
        meta = row.get("meta")
        for told in (
            row.get("max_model_len"),
            settings.get("n_ctx") if isinstance(settings, dict) else None,
            meta.get("n_ctx") if isinstance(meta, dict) else None,
        ):
            yield from _context(row.get("id"), told)
    for row in _rows(answers.get("/api/v0/models", {}), "data"):
        yield from _context(row.get("id"), row.get("loaded_context_length"))
    for row in _rows(answers.get("/api/ps", {}), "models"):
        yield from _context(row.get("name"), row.get("context_length"))


def _context(name: Json, tokens: Json) -> Iterator[tuple[str, int]]:
    if not isinstance(name, str) or isinstance(tokens, bool) or not isinstance(tokens, int):
        return
    if 0 < tokens <= MAX_CONTEXT_TOKENS:
        yield name, tokens
        if name.endswith(":latest"):
            yield name.removesuffix(":latest"), tokens


def _owners(answers: Answers) -> set[Json]:
    rows = _rows(answers.get(MODELS_PATH, {}), "data")
    return {owner for row in rows if isinstance(owner := row.get("owned_by"), str)}


def _rows(members: JsonObject, name: str) -> Iterator[JsonObject]:
    rows = members.get(name)
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            yield row


def _version(members: JsonObject) -> str:
    version = members.get("version", members.get("build_info"))
    shown = version[:MAX_VERSION_CHARS] if isinstance(version, str) else ""
    return "".join(c for c in shown if c.isprintable())


def _members(body: bytes) -> JsonObject | None:
    try:
        return loads_object(body)
    except RemoteProtocolError:
        return None
