"""The summary of a benchmark run, as Markdown."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure import median
from benchmarks.upstream import CHUNKS

RATIO_AT = 8
"""Connections at which targets are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. Times of streams are those to the first byte of the body."""

    round: int
    scenario: str
    streamed: bool
    connections: int
    requests: int
    cpu_us: float
    per_s: float
    p50_ms: float
    p99_ms: float
    rss_mb: float

    @classmethod
    def columns(cls) -> list[str]:
        """Names, in order."""
        return [field.name for field in dataclasses.fields(cls)]

    def cells(self) -> dict[str, object]:
        """Values by name."""
        return dataclasses.asdict(self)


Value = Callable[[Row], float]


class _Table:
    """Rows of plain or of streamed answers."""

    def __init__(self, rows: Sequence[Row], *, streamed: bool) -> None:
        self._rows = [row for row in rows if row.streamed is streamed]
        self.connections = sorted({row.connections for row in self._rows})
        at = RATIO_AT if RATIO_AT in self.connections else min(self.connections, default=RATIO_AT)
        names = {row.scenario for row in self._rows}
        self.names = sorted(names, key=lambda name: self.cpu(name, at))
        self.ratio_at = at

    def _of(self, name: str, connections: int) -> list[Row]:
        return [r for r in self._rows if (r.scenario, r.connections) == (name, connections)]

    def cpu(self, name: str, connections: int) -> float:
        return median([row.cpu_us for row in self._of(name, connections)])

    def cpu_cell(self, name: str, connections: int) -> str:
        values = [row.cpu_us for row in self._of(name, connections)]
        return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"

    def ratio(self, name: str, over: str) -> str:
        if not {name, over} <= set(self.names):
            return "-"
        value = self.cpu(name, self.ratio_at) / self.cpu(over, self.ratio_at)
        return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"

    def added(self, name: str, connections: int, what: Value) -> str:
        """Milliseconds above direct, round by round."""
        direct = {row.round: what(row) for row in self._of("direct", connections)}
        mine = [what(r) - direct[r.round] for r in self._of(name, connections) if r.round in direct]
        return f"{median(mine):,.2f}" if mine else "-"

    def most(self, name: str, what: Value) -> str:
        values = [
            median([what(row) for row in self._of(name, connections)])
            for connections in self.connections
        ]
        return f"{max(values):,.0f}"

    def lines(self, unit: str) -> list[str]:
        first, last = self.connections[0], self.connections[-1]
        head = [
            "",
            *(f"CPU us/{unit}, {count} conn." for count in self.connections),
            "x nginx",
            "x LiteLLM",
            f"p50 added ms, {first} conn.",
            "p99",
            f"p50 added ms, {last} conn.",
            "p99",
            f"{unit}s/s, most",
            "RSS MB",
        ]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in self.names:
            cells = [
                name,
                *(self.cpu_cell(name, count) for count in self.connections),
                self.ratio(name, "nginx"),
                self.ratio(name, "LiteLLM"),
                *(
                    self.added(name, count, what)
                    for count in (first, last)
                    for what in (lambda row: row.p50_ms, lambda row: row.p99_ms)
                ),
                self.most(name, lambda row: row.per_s),
                self.most(name, lambda row: row.rss_mb),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return lines


def _ratios(plain: _Table, streamed: _Table) -> list[str]:
    """The ratios that have a target, and the target."""
    rows = [
        ("pass-through over nginx", plain.ratio("pass-through", "nginx"), "at most 9"),
        ("LiteLLM over pass-through", plain.ratio("LiteLLM", "pass-through"), "at least 45"),
        ("LiteLLM over prepaid", plain.ratio("LiteLLM", "prepaid"), "at least 35"),
        ("prepaid over pass-through", plain.ratio("prepaid", "pass-through"), "at most 1.6"),
        (
            "upfront paid leg over prepaid",
            plain.ratio("upfront, paid leg", "prepaid"),
            "at most 1.3",
        ),
        (
            "LiteLLM over pass-through, streams",
            streamed.ratio("LiteLLM", "pass-through"),
            "at least 35",
        ),
    ]
    lines = ["| CPU ratio | now | wanted |", "|---|---|---|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


_WHAT = (
    "`pass-through` is our agent without booking and signing (`benchmarks/passthrough.py`); "
    "`prepaid` books hold and charge durably and signs a receipt; `402 with invoice` mints one at "
    "the embedded node; `upfront, paid leg` is the request that brings the proof. LiteLLM does "
    "more per request than the others (callbacks, cost maps, translation); the comparison is what "
    "a consumer of an OpenAI-compatible route gets."
)


def _how(rounds: int, ratio_at: int, pace_ms: int) -> str:
    return (
        f"{rounds} interleaved rounds in random order; medians, and the range over rounds. CPU is "
        "user and system time of the process in front of the upstream (for `direct` the upstream "
        "itself), which runs on one core; upstream, load and the embedded Fiber network run on "
        "the others. So requests per second are what one core serves, and never more than "
        "`direct`, where the load generator ends. Body and answer are about 1 KB; streams are "
        f"{CHUNKS} chunks, {pace_ms} ms apart, and their latency is that of the first byte. "
        f"Ratios are of CPU at {ratio_at} connections."
    )


def summary(
    rows: Sequence[Row], *, absent: Sequence[str], machine: dict[str, str], pace_ms: int
) -> str:
    """The whole page."""
    plain, streamed = _Table(rows, streamed=False), _Table(rows, streamed=True)
    rounds = len({row.round for row in rows})
    lines = [
        "# Side by side in one run",
        "",
        _how(rounds, plain.ratio_at, pace_ms),
        "",
        _WHAT,
        "",
        *(f"**{name} was not installed and was not measured.**\n" for name in absent),
        *(["## Plain answers", "", *plain.lines("request"), ""] if plain.names else []),
        *(["## Streams", "", *streamed.lines("stream"), ""] if streamed.names else []),
        f"CPU per chunk of a stream is a {CHUNKS}th of that of the stream.",
        "",
        "## Against the targets",
        "",
        *_ratios(plain, streamed),
        "",
        "Machine: " + ", ".join(f"{k} {v}" for k, v in machine.items()),
        "",
    ]
    return "\n".join(lines)
