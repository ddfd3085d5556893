"""Talking to people and to programs: plain lines, or one JSON object with `--json`."""

import json
import sys
from typing import Any, Final, NoReturn

import click

from infern.core.errors import CODES, InfernError, Money

EXIT_USAGE: Final = 2
EXIT_CONFIG: Final = 3
EXIT_PAYMENT: Final = 4
EXIT_DELIVERY: Final = 5
EXIT_MONEY_UNKNOWN: Final = 6
"""A payment's outcome is not known: scripts must not simply try again."""


def say(text: str = "") -> None:
    """One line for a person."""
    click.echo(text)


def note(text: str) -> None:
    """One line beside the answer, on standard error."""
    click.echo(text, err=True)


def emit_json(value: Any) -> None:
    """One JSON object for a program."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def exit_code(error: InfernError) -> int:
    """A meaningful exit code: see the constants above; 1 for the rest."""
    if error.money is Money.UNKNOWN:
        return EXIT_MONEY_UNKNOWN
    if error.code == "invalid_config":
        return EXIT_CONFIG
    status = CODES[error.code].status
    if status == 402:
        return EXIT_PAYMENT
    return EXIT_DELIVERY if status >= 500 else 1


def fail(error: InfernError, *, as_json: bool) -> NoReturn:
    """Report an error with the state of the money, and exit."""
    if as_json:
        emit_json(
            {
                "error": {
                    "code": error.code,
                    "message": error.message,
                    "money": error.money.value,
                    "retry": error.retry.value,
                }
            }
        )
    else:
        note(click.style("error: ", fg="red") + error.message)
        note(f"       code {error.code}; money {error.money.value}; retry {error.retry.value}")
    sys.exit(exit_code(error))
