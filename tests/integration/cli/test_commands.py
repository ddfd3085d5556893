"""Commands that the quickstarts do not run, through the program's own parser."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infern.cli.main import infern
from infern.cli.output import EXIT_CONFIG, exit_code
from infern.core.errors import CODES, ConfigError, InfernError, PaymentOutcomeUnknown
from infern.core.fiber.rpc import GetInvoice, ListPeers, NewInvoice
from infern.core.fiber.types import InvoiceStatus
from infern.core.units import Network


def run(*arguments: str, fails: bool = False) -> Result:
    result = CliRunner().invoke(infern, list(arguments))
    if not fails:
        assert result.exit_code == 0, (result.output, result.exception)
    return result


def node_flags(live, name: str) -> list[str]:
    return ["--fiber-rpc", live.world.rpc_urls[name], "--network", "dev"]


def new_invoice(live, amount: int) -> str:
    call = NewInvoice(amount=amount, network=Network.DEV, description="a test", expiry_s=600)
    return live.run(live.world.nodes["provider"].call(call))


def test_pay_pays_once_however_often_it_is_asked(live) -> None:
    record = new_invoice(live, 12_345)
    before = live.run(live.world.balances())
    arguments = ["pay", record.invoice_text, "--yes", "--json", *node_flags(live, "consumer")]
    first = json.loads(run(*arguments).stdout)
    second = json.loads(run(*arguments).stdout)
    assert first["status"] == second["status"] == "Success"
    assert first["amount"] == "12345"
    after = live.run(live.world.balances())
    assert after["provider"] - before["provider"] == 12_345
    assert before["consumer"] - after["consumer"] == 12_345 + int(first["fee"])


def test_pay_refuses_an_invoice_of_another_network_and_pays_nothing(live) -> None:
    record = new_invoice(live, 1_000)
    result = run(
        "pay", record.invoice_text, "--yes", "--network", "testnet",
        "--fiber-rpc", live.world.rpc_urls["consumer"], fails=True,
    )  # fmt: skip
    assert isinstance(result.exception, InfernError)
    assert result.exception.code == "offer_refused"
    asked = GetInvoice(payment_hash=record.invoice.payment_hash)
    assert live.run(live.world.nodes["provider"].call(asked)).status is InvoiceStatus.OPEN


def test_pay_asks_first_and_takes_no_for_an_answer(live) -> None:
    record = new_invoice(live, 1_000)
    result = CliRunner().invoke(
        infern, ["pay", record.invoice_text, *node_flags(live, "consumer")], input="n\n"
    )
    assert result.exit_code == 1
    assert "0.00001 CKB" in result.stderr
    asked = GetInvoice(payment_hash=record.invoice.payment_hash)
    assert live.run(live.world.nodes["provider"].call(asked)).status is InvoiceStatus.OPEN


def test_a_channel_is_opened_listed_and_closed(live) -> None:
    (peer,) = live.run(live.world.nodes["provider"].call(ListPeers()))
    flags = node_flags(live, "provider")
    opened = json.loads(
        run("channel", "open", peer.pubkey.hex(), "300 CKB", "--yes", "--json", *flags).stdout
    )
    assert opened["state"] == "ChannelReady"
    assert opened["spendable"] == str(201 * 100_000_000)
    listed = json.loads(run("channel", "list", "--json", *flags).stdout)
    assert opened["channel_id"] in {row["channel_id"] for row in listed}
    run("channel", "close", opened["channel_id"], "--yes", *flags)
    for _ in range(200):
        left = json.loads(run("channel", "list", "--json", *flags).stdout)
        if opened["channel_id"] not in {row["channel_id"] for row in left}:
            return
        live.run(asyncio.sleep(0.1))
    raise AssertionError("the channel did not close")


def test_keys_are_made_once_listed_and_exported() -> None:
    made = run("keys", "new").stdout
    again = run("keys", "new").stdout
    listed = json.loads(run("keys", "list", "--json").stdout)
    secret = run("keys", "export", "--yes").stdout.strip()
    assert listed["agent_pubkey"] in made
    assert listed["agent_pubkey"] in again
    assert "already" in again
    assert len(bytes.fromhex(secret)) == 32
    assert secret not in made + again


def test_provider_init_writes_a_configuration_that_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "provider.toml"
    run("provider", "init", "--config", str(path))
    shown = run("provider", "run", "--config", str(path), "--print-config").stdout
    assert f"provider.listen = '127.0.0.1:9402'  # {path}" in shown
    refused = run("provider", "init", "--config", str(path), fails=True)
    assert isinstance(refused.exception, ConfigError)


def test_print_config_says_where_values_come_from_and_masks_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "provider.toml"
    path.write_text('[provider]\nlisten = "127.0.0.1:1"\n[fiber]\nrpc_token = "sesame"\n')
    monkeypatch.setenv("INFERN_FIBER_RPC_URL", "http://127.0.0.1:2")
    arguments = ["provider", "run", "--config", str(path), "--print-config"]
    shown = run(*arguments, "--listen", "127.0.0.1:3").stdout
    assert "provider.listen = '127.0.0.1:3'  # --listen" in shown
    assert "fiber.rpc_url = 'http://127.0.0.1:2'  # INFERN_FIBER_RPC_URL" in shown
    assert "sesame" not in shown


def test_a_node_that_is_away_is_reported_with_what_to_do(live) -> None:
    result = run("doctor", "--fiber-rpc", "http://127.0.0.1:1", "--json", fails=True)
    assert result.exit_code == 1
    found = {row["check"]: row for row in json.loads(result.stdout)}
    assert found["Fiber node"]["ok"] is False
    assert "--fiber-rpc" in found["Fiber node"]["advice"]


def test_every_command_has_help_with_what_it_does() -> None:
    for name in infern.list_commands(None):
        assert "Usage:" in run(name, "--help").stdout


def test_exit_codes_tell_money_of_unknown_whereabouts_from_all_else() -> None:
    assert exit_code(PaymentOutcomeUnknown("somewhere")) == 6
    assert exit_code(ConfigError("no")) == EXIT_CONFIG
    for code in CODES:
        assert 1 <= exit_code(InfernError("x", code=code)) <= 6
