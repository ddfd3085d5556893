import json
from pathlib import Path
from typing import Any

import pytest

from infern.core.wire.dialects import DIALECTS, QUESTIONS, DialectName, look_at_answers
from infern.core.wire.rewrite import EarlyUsage, TokenLimit

VECTORS = Path(__file__).parents[4] / "vectors" / "dialects"


def looks() -> list[Any]:
    return [
        pytest.param(look, id=f"{path.stem}: {look['name']}")
        for path in sorted(VECTORS.glob("*.json"))
        for look in json.loads(path.read_text("utf-8"))["looks"]
    ]


@pytest.mark.parametrize("vector", looks())
def test_a_server_is_known_by_its_answers(vector: dict[str, Any]) -> None:
    answers, expect = vector["answers"], vector["expect"]
    assert set(answers) <= set(QUESTIONS)
    look = look_at_answers(
        {path: got["body"].encode() for path, got in answers.items() if got["status"] == 200}
    )
    assert look.name == expect["dialect"]
    assert look.version == expect["version"]
    assert look.contexts == expect["contexts"]
    assert look.is_silent == expect.get("silent", False)


def test_every_name_has_a_dialect() -> None:
    assert set(DIALECTS) == set(DialectName)


def test_what_each_dialect_is_asked_for() -> None:
    """Ollama and LM Studio do not know `max_completion_tokens`: it would limit nothing there."""
    limits = {name: dialect.token_limit for name, dialect in DIALECTS.items()}
    assert {name for name, limit in limits.items() if limit is not TokenLimit.MAX_TOKENS} == {
        DialectName.VLLM
    }
    assert limits[DialectName.VLLM] is TokenLimit.BOTH
    early = {name for name, d in DIALECTS.items() if d.early_usage is not EarlyUsage.NONE}
    assert early == {DialectName.VLLM, DialectName.LLAMA_CPP}
    assert not any(dialect.pinned for dialect in DIALECTS.values())


def test_a_version_is_short_and_printable() -> None:
    answer = json.dumps({"version": "1\n2" + "x" * 100}).encode()
    look = look_at_answers({"/api/version": answer})
    assert (look.name, look.version) == (DialectName.OLLAMA, "12" + "x" * 37)
