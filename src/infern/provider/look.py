"""Asking one's own model server which one it is, before anything is sold through it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import anyio

from infern.core.errors import InfernError
from infern.core.wire.dialects import (
    MODELS_PATH,
    QUESTIONS,
    DialectName,
    ServerLook,
    look_at_answers,
)
from infern.core.wire.faults import told
from infern.ports import ModelServer, UpstreamRequest
from infern.provider.config import ProviderConfig

LOOK_TIMEOUT_S: Final = 3
MAX_LOOK_BYTES: Final = 1024 * 1024
"""A long list of models has a tenth of this."""
VERSION_SUFFIX: Final = "/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Where the paths of a model server begin that are not OpenAI's.

    Args:
        root: Base URL of everything, e.g. `http://127.0.0.1:8000`.
        models_path: Path of the model list below it.
    """

    root: str
    models_path: str

    @classmethod
    def of(cls, upstream: str) -> "ServerAddress":
        """From the base URL of the OpenAI API, which ends in `/v1` nearly everywhere."""
        base = upstream.rstrip("/")
        root = base.removesuffix(VERSION_SUFFIX)
        return cls(root=root, models_path=base[len(root) :] + "/models")


async def look_at_server(server: ModelServer, address: ServerAddress) -> ServerLook:
    """Ask a model server a few questions that change nothing.

    Takes `LOOK_TIMEOUT_S` at most and never fails: what is not answered is not known.

    Args:
        server: The server, behind `address.root`.
        address: Where its model list is.
    """
    bodies: dict[str, bytes] = {}

    async def ask(question: str) -> None:
        path = address.models_path if question == MODELS_PATH else question
        try:
            body = await _get(server, path)
        except InfernError:
            return
        if body is not None:
            bodies[question] = body

    with anyio.move_on_after(LOOK_TIMEOUT_S):
        async with anyio.create_task_group() as group:
            for question in QUESTIONS:
                group.start_soon(ask, question)
    return look_at_answers(bodies)


async def _get(server: ModelServer, path: str) -> bytes | None:
    """The body of a path that is answered with 200; None otherwise."""
    reply = await server.send(UpstreamRequest(method="GET", path=path, body=b"", headers={}))
    try:
        if reply.status != 200:
            return None
        body = b""
        while len(body) <= MAX_LOOK_BYTES:
            data = await reply.read()
            if not data:
                return body
            body += data
        return None
    finally:
        await reply.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """A configuration with its model server's dialect.

    Args:
        config: What is sold; no more than the model server can count.
        who: What the model server was taken for, for people.
        warnings: What the operator should know before they sell, one sentence each.
    """

    config: ProviderConfig
    who: str
    warnings: tuple[str, ...]


def speak(config: ProviderConfig, look: ServerLook) -> Spoken:
    """Settle on a dialect: the configured one, else what the answers show, else what all know.

    Args:
        config: As the operator wrote it.
        look: What the model server told.
    """
    name = config.dialect or look.name or DialectName.OPENAI
    how = "as configured"
    if config.dialect is None:
        how = "by its answers" if look.name else "its answers do not show which server it is"
    if look.is_silent:
        how = "nothing answers there, or not to this key"
    version = f", version {look.version}" if look.version else ""
    spoken = config.spoken_to(name)
    return Spoken(
        config=spoken,
        who=f"dialect {name} ({how}{version})",
        warnings=tuple(_warnings(config, spoken, look)),
    )


def _warnings(config: ProviderConfig, spoken: ProviderConfig, look: ServerLook) -> Iterator[str]:
    if look.name not in (None, spoken.dialect):
        yield (
            f"dialect is {spoken.dialect}, but the model server answers like {look.name}; set "
            "dialect in [provider], or leave it out"
        )
    for before, model in zip(config.models, spoken.models, strict=True):
        if model.limits.max_n < before.limits.max_n:
            yield (
                f"model {model.name} is sold with max_n = 1: a model server of dialect "
                f"{spoken.dialect} makes or counts one answer only"
            )
        context = look.contexts.get(model.upstream_name)
        if context is not None and context < model.limits.context_tokens:
            yield (
                f"model {model.name} is sold with context_tokens = {model.limits.context_tokens}, "
                f"but the model server has {context}; longer prompts would be refused or cut"
            )
        if told(model.upstream_name, renamed={}) != model.upstream_name:
            yield (
                f"answers of model {model.name} show consumers its upstream_name, which looks like "
                "a path or an address; give it another name at the model server"
            )
