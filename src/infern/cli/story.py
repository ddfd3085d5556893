"""Telling the demo: numbered steps with amounts and timings, for people or as JSON."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from infern.cli.output import say
from infern.core.errors import InfernError
from infern.core.units import format_amount


class StepFailed(InfernError):
    """Something the demo promises did not happen."""

    default_code = "internal_error"


class Story:
    """Collects what happened; prints it as it happens unless silent.

    Args:
        silent: Collect only, for `--json`.
    """

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._chapter = ""
        self.steps: list[dict[str, Any]] = []

    def chapter(self, title: str) -> None:
        """Begin a part of the demo."""
        self._chapter = title
        if not self._silent:
            say()
            say(click.style(title, bold=True))

    @contextmanager
    def step(self, title: str) -> Iterator[dict[str, Any]]:
        """One step; what is put into the yielded facts is shown when it ends."""
        facts: dict[str, Any] = {}
        started = time.perf_counter()
        yield facts
        self.record(title, time.perf_counter() - started, facts)

    def record(self, title: str, took_s: float, facts: dict[str, Any]) -> None:
        """A step that has happened."""
        took_ms = round(took_s * 1000, 1)
        self.steps.append({"chapter": self._chapter, "step": title, "ms": took_ms, **facts})
        if self._silent:
            return
        say(f"  {len(self.steps):2}. {title} " + click.style(f"({took_ms:g} ms)", dim=True))
        for name, value in facts.items():
            say(f"      {name.replace('_', ' ')}: {_shown(name, value)}")

    def text(self, piece: str) -> None:
        """A piece of a streamed answer, at once and without a line end."""
        if not self._silent:
            click.echo(click.style(piece.replace("\n", "\n      "), fg="green"), nl=False)

    def line(self, text: str = "") -> None:
        """A line of explanation."""
        if not self._silent:
            say(text)


def _shown(name: str, value: object) -> str:
    if name.endswith("_shannon") and isinstance(value, int):
        return f"{value} shannon ({format_amount(value)})"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(name, v)}" for k, v in value.items())
    return str(value)


def require(condition: bool, what: str) -> None:
    """Fail the demo when something it promises is not so.

    Raises:
        StepFailed: Naming what was not so.
    """
    if not condition:
        raise StepFailed(f"the demo expected that {what}, and it is not so")
