"""`infern`: every command, each loaded only when it is used."""

import importlib
import logging
import sys
from typing import Final

import click

from infern.cli.output import fail
from infern.core.errors import InfernError

COMMANDS: Final = {
    "balance": ("infern.cli.account", "balance", "Show the books of your prepaid key."),
    "channel": ("infern.cli.channel", "channel", "Open, list and close payment channels."),
    "chat": ("infern.cli.chat", "chat", "Talk to a model and pay as you go."),
    "demo": ("infern.cli.demo", "demo", "See a paid request happen, on this machine alone."),
    "devnet": ("infern.cli.devnet", "devnet", "Run an embedded Fiber network."),
    "doctor": ("infern.cli.doctor", "doctor", "Check what has to work, and say what to do."),
    "keys": ("infern.cli.keys", "keys", "Make and list keys."),
    "pay": ("infern.cli.pay", "pay", "Pay one Fiber invoice."),
    "provider": ("infern.cli.provider", "provider", "Sell access to a model you run."),
    "proxy": ("infern.cli.proxy", "proxy", "Pay for any OpenAI client on this machine."),
    "receipts": ("infern.cli.account", "receipts", "List the receipts of your prepaid key."),
    "topup": ("infern.cli.account", "topup", "Put money on a prepaid key."),
    "withdraw": ("infern.cli.withdraw", "withdraw", "Take money out of a prepaid key."),
}
LOG_LEVELS: Final = {0: logging.WARNING, 1: logging.INFO}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in alphabetical order."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        del ctx
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        module, attribute, _ = found
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, from the table: no command's module is imported for it."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in sorted(COMMANDS)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="infern", prog_name="infern")
@click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
def infern(verbose: int) -> None:
    """Serve an AI model from your own machine and get paid per request over Fiber.

    \b
    See it work on this machine alone:   infern demo
    Sell a model you run:                infern provider init, then infern provider run
    Use paid models from any client:     infern proxy
    Something is wrong:                  infern doctor

    Shell completion: eval "$(_INFERN_COMPLETE=bash_source infern)" (or zsh_source, fish_source).
    """  # noqa: D301 - click reads the backspace character
    set_up_logging(verbose)


def set_up_logging(verbose: int) -> None:
    """Log to standard error: warnings, or more.

    Only our own loggers go below INFO. At DEBUG the libraries below us write whole requests and
    headers: prompts, keys, and the tokens of payments.
    """
    level = LOG_LEVELS.get(verbose, logging.DEBUG)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(max(level, logging.INFO))
    logging.getLogger("infern").setLevel(level)


def main() -> None:
    """Run the program; errors end it with a meaningful exit code."""
    try:
        infern(standalone_mode=True)
    except InfernError as error:
        fail(error, as_json="--json" in sys.argv)


if __name__ == "__main__":
    main()
