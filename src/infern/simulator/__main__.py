"""`python -m infern.simulator`: run seeds, or strike one story at every await."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import click

from infern.simulator import sweep
from infern.simulator.run import Report, simulate


@click.command(epilog="Example: python -m infern.simulator --seed 1 --runs 100")
@click.option("--seed", default="0", help="The first seed; runs count up from it.")
@click.option("--runs", default=1, show_default=True, help="How many seeds.")
@click.option("--sweep", "every", type=int, help="Strike the fixed story at every n-th await.")
@click.option("--strike", help="Strike it once, e.g. seller0:17.")
@click.option("--trace", is_flag=True, help="Show everything that happens.")
@click.option("--counts", is_flag=True, help="Show how often what happened.")
def main(
    seed: str, runs: int, every: int | None, strike: str | None, *, trace: bool, counts: bool
) -> None:
    """Run the whole program in a simulated world and check that no unit is lost or made.

    Exits with 1 when a run was wrong; each such run says how to repeat it.
    """
    total: Counter[str] = Counter()
    done = wrong = payments = virtual_s = 0
    began_s = time.process_time()
    show = click.echo if trace else None
    for report in _reports(seed, runs, every, strike, show):
        total += report.counts
        done += 1
        payments += report.payments
        virtual_s += report.virtual_s
        if report.failures:
            wrong += 1
            click.echo(f"WRONG, repeat with: python -m infern.simulator {report.repeat} --trace")
            for failure in report.failures:
                click.echo(f"  {failure}")
    if counts:
        for name, count in sorted(total.items()):
            click.echo(f"{count:8} {name}")
    crashes = sum(count for name, count in total.items() if name.startswith("process.killed"))
    cpu_s = time.process_time() - began_s
    click.echo(
        f"{done} runs, {wrong} wrong: {payments} payments, {crashes} crashes,"
        f" {total.total()} events, {virtual_s} s of the world's time in {cpu_s:.0f} s of CPU"
    )
    sys.exit(1 if wrong else 0)


Show = Callable[[str], None] | None


def _reports(
    seed: str, runs: int, every: int | None, strike: str | None, show: Show
) -> Iterator[Report]:
    if strike is not None:
        victim, _, at = strike.partition(":")
        yield sweep.struck(sweep.Point(victim=victim, at=int(at)), show=show)
    elif every is not None:
        for point in sweep.points(every=every):
            yield sweep.struck(point, show=show)
    elif runs == 1:
        yield simulate(seed, show=show)
    else:
        for number in range(int(seed), int(seed) + runs):
            yield simulate(str(number), show=show)


if __name__ == "__main__":
    main()
