"""What the program finds out about the operator's model server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infern.adapters.home import provider_home
from infern.cli.compose import provider_agent
from infern.cli.main import infern
from infern.core.wire.dialects import DialectName
from infern.devnet.model import EmbeddedModel
from infern.provider.config import parse_provider_config

NOWHERE = "http://127.0.0.1:1/v1"


@pytest.fixture(scope="module")
def model() -> Iterator[EmbeddedModel]:
    pytest.importorskip("xllamacpp", reason="the infern[demo] extra is not installed")
    with EmbeddedModel() as it:
        yield it


def write_config(upstream: str, api_key: str = "", *, dialect: str = "auto", n: int = 1) -> Path:
    path = provider_home() / "provider.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""
[provider]
upstream = "{upstream}"
upstream_api_key = "{api_key}"
dialect = "{dialect}"
[[models]]
name = "m"
upstream_name = "infern-tiny"
context_tokens = 4096
max_completion_tokens = 64
max_n = {n}
input_per_mtok = 1
output_per_mtok = 1
""",
        "utf-8",
    )
    return path


def examined() -> list[dict[str, object]]:
    """What `infern doctor` says about the model server; it fails because there is no node."""
    result: Result = CliRunner().invoke(infern, ["doctor", "--fiber-rpc", NOWHERE, "--json"])
    return [row for row in json.loads(result.stdout) if row["check"] == "model server"]


def test_the_doctor_knows_the_model_server_and_what_does_not_fit(model: EmbeddedModel) -> None:
    write_config(model.base_url, model.api_key)
    who, context = examined()
    assert who["ok"] is True
    assert "dialect llama_cpp (by its answers" in str(who["detail"])
    assert context["ok"] is False
    assert "context_tokens = 4096, but the model server has 1024" in str(context["detail"])


def test_the_doctor_says_that_a_model_server_is_away() -> None:
    write_config(NOWHERE)
    (who,) = examined()
    assert who["ok"] is False
    assert "upstream" in str(who["advice"])


def test_the_doctor_does_not_look_for_what_is_not_configured() -> None:
    assert examined() == []
    path = write_config(NOWHERE)
    path.write_text(path.read_text().replace("upstream =", "# upstream ="))
    (who,) = examined()
    assert (who["ok"], who["detail"]) == (True, "the embedded toy model")
    path.write_text("[provider]\nlisten = 5\n")
    (broken,) = examined()
    assert (broken["ok"], broken["advice"]) == (False, "correct provider.toml")


def test_an_agent_speaks_the_dialect_of_its_model_server(
    live, model: EmbeddedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = {
        "provider": {"upstream": model.base_url, "upstream_api_key": model.api_key},
        "fiber": {"rpc_url": live.world.rpc_urls["provider"]},
        "models": [
            {"name": "m", "upstream_name": "infern-tiny", "context_tokens": 1024, "max_n": 2,
             "max_completion_tokens": 64, "input_per_mtok": 1, "output_per_mtok": 1}
        ],
    }  # fmt: skip
    config = parse_provider_config(document)

    async def sold() -> tuple[str, int]:
        async with provider_agent(config, tmp_path) as agent:
            listing = agent.app._parts.backend.find("m")
            assert listing is not None
            return agent.model_server, listing.limits.max_n

    who, max_n = live.run(sold())
    assert who.startswith(f"dialect {DialectName.LLAMA_CPP} (by its answers")
    assert max_n == 1
    assert "max_n = 1" in caplog.text
