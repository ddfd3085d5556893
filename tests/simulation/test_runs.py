"""Runs of the whole program in a simulated world: right, repeatable, and not empty."""

import subprocess
import sys
from collections import Counter

import pytest
from click.testing import CliRunner

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.simulator import sweep
from infern.simulator.__main__ import main
from infern.simulator.coverage import missing
from infern.simulator.run import Violation, simulate
from infern.simulator.weather import FAIR

SEEDS = range(40)
STRIDE = 31
"""Coprime to nothing in particular; `python -m infern.simulator --sweep 1` strikes everywhere."""


@pytest.fixture(scope="module")
def reports():
    return [simulate(str(seed)) for seed in SEEDS]


def test_no_unit_is_lost_or_made(reports):
    for report in reports:
        report.check()


def test_everything_that_can_go_wrong_did(reports):
    counts = sum((report.counts for report in reports), Counter())
    assert missing(counts) == []
    assert sum(report.payments for report in reports) > 200
    assert counts["process.killed-at-await"] + counts["process.killed"] > 50


def test_a_seed_repeats(reports):
    for report in reports[:6]:
        again = simulate(report.seed)
        assert (again.digest, again.counts) == (report.digest, report.counts)


def test_a_seed_repeats_in_another_process(reports):
    """Memory addresses and the hashes of strings are others there."""
    code = "import sys; from infern.simulator.run import simulate; print(simulate('3').digest)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == reports[3].digest


def test_seeds_differ(reports):
    assert len({report.digest for report in reports}) == len(reports)


def test_a_wrong_run_says_what_and_how_to_repeat_it(monkeypatch):
    async def forgotten(_self, *_which, now_ms):
        return 0

    # Either would end the holds of a dead process; without both they stay open.
    monkeypatch.setattr(SqliteLedger, "recover", forgotten)
    monkeypatch.setattr(SqliteLedger, "release_expired", forgotten)
    runs = (simulate(str(seed)) for seed in SEEDS)
    wrong = next(run for run in runs if any("holds are open" in text for text in run.failures))
    with pytest.raises(Violation) as caught:
        wrong.check()
    assert "holds are open" in str(caught.value)
    assert f"python -m infern.simulator --seed {wrong.seed} --trace" in str(caught.value)
    told = CliRunner().invoke(main, ["--seed", wrong.seed])
    assert told.exit_code == 1
    assert f"--seed {wrong.seed} --trace" in told.output


def test_the_command_counts_what_happened():
    told = CliRunner().invoke(main, ["--seed", "1", "--runs", "2", "--counts"])
    assert told.exit_code == 0, told.output
    assert "2 runs, 0 wrong" in told.output
    assert "ledger.commit" in told.output


def test_in_fair_weather_everybody_is_answered():
    report = simulate("fair", weather=FAIR)
    report.check()
    assert report.payments
    assert not any(name.startswith(("user.error", "process.killed")) for name in report.counts)


def test_the_story_is_told_the_same_with_a_strike():
    points = list(sweep.points(every=STRIDE))
    assert {point.victim for point in points} == {*sweep.PROGRAMS, *sweep.NODES}
    struck = Counter()
    for point in points:
        report = sweep.struck(point)
        report.check()
        struck += report.counts
    assert struck["process.killed-at-await"] == sum(p.victim in sweep.PROGRAMS for p in points)
