"""The benchmarks still run: nobody looks at them between two runs by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


RUN = (
    "--only direct,pass-through,prepaid,upfront,402 --rounds 1 --seconds 0.1 --proofs 4"
    " --connections 2 --no-write"
)
OVERLOAD = "--only compressed --seconds 1 --recovery 0.2 --no-write"


@pytest.mark.parametrize(
    ("module", "arguments", "wanted"),
    [
        ("run", RUN, ["| prepaid |", "| upfront, paid", "| 402 with", "| pass-through |"]),
        ("overload", OVERLOAD, ["| compressed |", "they balance"]),
        ("micro_ledger", "--seconds 0.05", ["64 at once"]),
    ],
)
def test_a_benchmark_runs_and_reports(module: str, arguments: str, wanted: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for text in wanted:
        assert text in ran.stdout
