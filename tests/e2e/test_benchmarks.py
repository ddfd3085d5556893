"""The benchmarks still run: nobody looks at them between two runs by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


@pytest.mark.parametrize(
    ("module", "arguments", "wanted"),
    [
        (
            "benchmarks.run",
            "--only direct,pass-through,prepaid,upfront,402 --rounds 1 --seconds 0.1"
            " --proofs 4 --connections 2 --no-write",
            ["| prepaid |", "| upfront, paid leg |", "| 402 with invoice |", "| pass-through |"],
        ),
        (
            "benchmarks.overload",
            "--only large_bodies --seconds 1 --recovery 0.2 --no-write",
            ["| large bodies |", "413 request_too_large", "they balance, and no hold is open"],
        ),
        ("benchmarks.micro_ledger", "--seconds 0.05", ["64 at once"]),
    ],
    ids=["run", "overload", "micro_ledger"],
)
def test_a_benchmark_runs_and_reports(module: str, arguments: str, wanted: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for text in wanted:
        assert text in ran.stdout
