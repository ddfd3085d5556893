"""`infern keys`: the keys Infern keeps for you."""

import click

from infern.adapters.home import infern_home, provider_home
from infern.adapters.keyfile import load_or_make_key
from infern.adapters.secp256k1 import CoincurveSigner
from infern.adapters.sqlite_journal import SqliteJournal
from infern.cli.output import emit_json, say
from infern.core.errors import ConfigError


@click.group()
def keys() -> None:
    """Make and list keys. Secrets stay in files that only you can read."""


@keys.command()
def new() -> None:
    """Make the agent key that signs a provider's receipts, unless it is there.

    Example: infern keys new
    """
    path = provider_home() / "agent.key"
    existed = path.exists()
    signer = CoincurveSigner(load_or_make_key(path))
    say(f"agent key {signer.pubkey.hex()}{' (was there already)' if existed else ''}")
    say(f"kept in {path}; whoever has it can sign in your name")


@keys.command(name="list")
@click.option("--seller", default="", help="Origin of a seller: list your prepaid keys there.")
@click.option("--show", is_flag=True, help="Show prepaid keys whole; they are money.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(seller: str, show: bool, as_json: bool) -> None:
    """List the agent key, and prepaid keys at a seller.

    Example: infern keys list --seller http://127.0.0.1:9402
    """
    path = provider_home() / "agent.key"
    agent = CoincurveSigner(load_or_make_key(path)).pubkey.hex() if path.exists() else None
    prepaid = []
    if seller:
        journal = SqliteJournal(infern_home() / "client")
        try:
            prepaid = [
                {"key_id": k.key_id, "api_key": k.api_key if show else _masked(k.api_key)}
                for k in journal.keys(seller.rstrip("/"))
            ]
        finally:
            journal.close()
    if as_json:
        emit_json({"agent_pubkey": agent, "prepaid": prepaid})
        return
    say(f"agent key  {agent or 'none; make one with: infern keys new'}")
    for row in prepaid:
        say(f"prepaid    {row['key_id']}  {row['api_key']}")


@keys.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def export(yes: bool) -> None:
    """Print the agent key's secret, for a backup.

    Example: infern keys export > agent.key.backup
    """
    path = provider_home() / "agent.key"
    if not path.exists():
        raise ConfigError("there is no agent key; make one with: infern keys new")
    if not yes:
        click.confirm("This prints a secret. Go on?", abort=True, err=True)
    say(load_or_make_key(path).hex())


def _masked(key: str) -> str:
    return key[:12] + "…"
