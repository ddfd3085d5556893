"""The shipped weights are the ones the model card describes, and answer as well as it says."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("xllamacpp", reason="the infern[demo] extra is not installed")

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models" / "tiny"
WEIGHTS = ROOT / "src" / "infern" / "devnet" / "weights"
ENTRIES = json.loads((WEIGHTS / "weights.json").read_text(encoding="utf-8"))["weights"]
SLICE = 60
MARGIN = 0.10
"""Other processors round differently, which may turn some near-ties of the greedy choice."""


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The evaluation script; it imports its neighbours by their plain names."""
    monkeypatch.syspath_prepend(str(TINY))
    before = set(sys.modules)
    import evaluate

    yield evaluate
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == TINY:
            del sys.modules[name]


def committed(name: str) -> dict[str, object]:
    """The report committed with a GGUF file."""
    text = (TINY / "eval" / f"{Path(name).stem}.json").read_text(encoding="utf-8")
    report: dict[str, object] = json.loads(text)
    return report


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["name"]))
def test_each_file_is_the_listed_and_evaluated_one(entry: dict[str, object]) -> None:
    path = WEIGHTS / str(entry["name"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size == entry["bytes"]
    assert digest == entry["sha256"]
    assert digest == committed(path.name)["sha256"]
    assert digest in (TINY / "README.md").read_text(encoding="utf-8")


def test_nothing_else_is_shipped_and_all_of_it_is_small() -> None:
    listed = {str(entry["name"]) for entry in ENTRIES}
    assert {path.name for path in WEIGHTS.iterdir()} == listed | {"weights.json"}
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 6 * 2**20


def test_the_shipped_model_answers_as_well_as_its_card_says(evaluation: ModuleType) -> None:
    path = WEIGHTS / "tiny-a-q8_0.gguf"
    card = committed(path.name)
    asked, exact = card["asked"], card["exact"]
    assert isinstance(asked, int)
    assert isinstance(exact, int)
    report = evaluation.evaluate(path, count=SLICE)
    assert report["asked"] == SLICE
    assert report["exact"] / SLICE >= exact / asked - MARGIN, report["misses"]
