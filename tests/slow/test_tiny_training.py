"""The training script of the tiny model still runs, learns and exports something loadable."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "models" / "tiny"
NEEDED = ("jax", "numpy", "tokenizers", "gguf", "xllamacpp")
STEPS = 20

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the scripts on the path, and take their plain names out of the modules afterwards."""
    for name in NEEDED:
        pytest.importorskip(
            name,
            reason=f"SKIPPED THE TRAINING SMOKE TEST: {name} is not installed; "
            "install models/tiny/requirements.in to run it",
        )
    monkeypatch.syspath_prepend(str(TINY))
    before = set(sys.modules)
    yield TINY
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == TINY:
            del sys.modules[name]


@pytest.mark.filterwarnings("default")
def test_twenty_steps_learn_something_and_export(tiny: Path, tmp_path: Path) -> None:
    import evaluate
    import export
    import train
    from model import ModelConfig

    checkpoint = tmp_path / "smoke.npz"
    config = train.TrainConfig(steps=STEPS, long_steps=0, seed=1, isolated=True, balanced=True)
    losses = train.train(config, ModelConfig(), checkpoint)
    assert len(losses) == STEPS
    assert all(map(math.isfinite, losses))
    # An untrained model of 768 tokens scores ln 768 = 6.6.
    assert losses[-1] < losses[0] - 0.3

    stored = export.Checkpoint.load(checkpoint)
    for quantisation in export.QUANTISATIONS:
        path = tmp_path / f"smoke-{quantisation}.gguf"
        export.export(stored, "smoke", quantisation, path)
        again = tmp_path / "again.gguf"
        export.export(stored, "smoke", quantisation, again)
        assert path.read_bytes() == again.read_bytes()
        report = evaluate.evaluate(path, count=4)
        assert report["asked"] == 4


@pytest.mark.filterwarnings("default")
def test_the_committed_tokenizer_is_what_its_script_learns(tiny: Path) -> None:
    import tokenizer

    learnt = tokenizer.train_tokenizer().to_str(pretty=False)
    assert learnt == (tiny / "tokenizer.json").read_text(encoding="utf-8")
