import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from infern.core.errors import UpstreamUnavailable
from infern.core.wire.dialects import DialectName, ServerLook
from infern.core.wire.strict_json import dumps
from infern.ports import UpstreamReply, UpstreamRequest
from infern.provider import look as look_module
from infern.provider.config import EXAMPLE, ProviderConfig, parse_provider_config
from infern.provider.look import ServerAddress, look_at_server, speak
from infern.testing.scripted_model import Script, ScriptedModel, Step

VECTORS = Path(__file__).parents[3] / "vectors" / "dialects"
VLLM = dumps({"data": [{"id": "my-model", "owned_by": "vllm", "max_model_len": 4096}]})


class Paths:
    """A model server that answers by path; 404 for others."""

    def __init__(self, scripts: dict[str, Script]) -> None:
        self.scripts = scripts
        self.inner = ScriptedModel()
        self.asked: list[str] = []

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        assert (request.method, request.body) == ("GET", b"")
        self.asked.append(request.path)
        self.inner.plan.append(self.scripts.get(request.path, Script(status=404, steps=[b"{}"])))
        return await self.inner.send(request)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("upstream", "root", "models"),
    [
        ("http://h:1/v1", "http://h:1", "/v1/models"),
        ("http://h:1/v1/", "http://h:1", "/v1/models"),
        ("http://h:1", "http://h:1", "/models"),
        ("https://h/llm/v1", "https://h/llm", "/v1/models"),
        ("https://h/openai", "https://h/openai", "/models"),
    ],
)
def test_the_other_paths_begin_before_v1(upstream: str, root: str, models: str) -> None:
    assert ServerAddress.of(upstream) == ServerAddress(root=root, models_path=models)


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.stem)
async def test_each_server_is_asked_and_known(path: Path) -> None:
    vector = json.loads(path.read_text("utf-8"))["looks"][0]
    scripts = {
        question: Script(status=got["status"], steps=[got["body"].encode()])
        for question, got in vector["answers"].items()
    }
    server = Paths(scripts)
    look = await look_at_server(server, ServerAddress.of("http://h/v1"))
    assert look.name == vector["expect"]["dialect"]
    assert look.contexts == vector["expect"]["contexts"]
    assert len(server.asked) == 6
    assert server.inner.running == 0


async def test_a_list_of_models_elsewhere_is_found() -> None:
    server = Paths({"/models": Script(steps=[VLLM])})
    look = await look_at_server(server, ServerAddress.of("http://h/openai"))
    assert look.name is DialectName.VLLM


@pytest.mark.parametrize(
    "script",
    [
        Script(fails=UpstreamUnavailable("refused")),
        Script(before=Step.HANG),
        Script(steps=[Step.HANG]),
        Script(steps=[VLLM[:9], Step.BREAK]),
        Script(steps=[b" " * 600_000] * 3),
        Script(steps=[b"<html>"]),
        Script(steps=[b"[" * 100_000]),
        Script(status=401, steps=[VLLM]),
    ],
)
async def test_a_server_that_does_not_answer_well_holds_nothing_up(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_module, "LOOK_TIMEOUT_S", 0.05)
    server = Paths({"/v1/models": script})
    look = await look_at_server(server, ServerAddress.of("http://h/v1"))
    assert look.name is None
    assert server.inner.running == 0


async def test_one_path_that_hangs_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(look_module, "LOOK_TIMEOUT_S", 0.05)
    server = Paths({"/v1/models": Script(steps=[VLLM]), "/props": Script(before=Step.HANG)})
    look = await look_at_server(server, ServerAddress.of("http://h/v1"))
    assert look.name is DialectName.VLLM


def config(dialect: str = "auto", **changes: Any) -> ProviderConfig:
    document = tomllib.loads(EXAMPLE)
    document["provider"]["dialect"] = dialect
    document["models"][0].update(changes)
    return parse_provider_config(document)


VLLM_LOOK = ServerLook(name=DialectName.VLLM, version="0.15.0", contexts={"my-model": 8192})
UNKNOWN = ServerLook(name=None)


def test_what_is_configured_wins_then_what_is_seen_then_what_all_know() -> None:
    spoken = speak(config(), VLLM_LOOK)
    assert spoken.config.dialect is DialectName.VLLM
    assert spoken.who == "dialect vllm (by its answers, version 0.15.0)"
    assert spoken.warnings == ()
    unknown = speak(config(), UNKNOWN)
    assert unknown.config.dialect is DialectName.OPENAI
    assert "do not show which server" in unknown.who
    assert "nothing answers" in speak(config(), ServerLook(name=None, is_silent=True)).who
    named = speak(config("ollama"), UNKNOWN)
    assert (named.config.dialect, named.who, named.warnings) == (
        DialectName.OLLAMA, "dialect ollama (as configured)", (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sold", "look", "warning"),
    [
        (config("ollama"), VLLM_LOOK, "answers like vllm"),
        (config(context_tokens=8193), VLLM_LOOK, "but the model server has 8192"),
        (config(max_n=2), ServerLook(name=DialectName.OLLAMA), "max_n = 1"),
        (config(upstream_name="/srv/models/x.gguf"), UNKNOWN, "looks like a path"),
    ],
)
def test_an_operator_is_told_what_does_not_fit(
    sold: ProviderConfig, look: ServerLook, warning: str
) -> None:
    (told,) = speak(sold, look).warnings
    assert warning in told


def test_usual_names_of_models_are_no_paths() -> None:
    for name in ("Qwen/Qwen2.5-7B-Instruct", "llama3.2:70b", "gpt-oss:20b", "qwen/qwen3-vl-8b"):
        assert speak(config(upstream_name=name), UNKNOWN).warnings == ()
