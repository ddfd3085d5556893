"""Commands that the quickstarts do not run, through the program's own parser."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infern.adapters.home import infern_home
from infern.adapters.sqlite_journal import SqliteJournal
from infern.cli.main import infern
from infern.cli.output import EXIT_CONFIG, exit_code
from infern.client.held import LATE_MS
from infern.core.errors import CODES, ConfigError, InfernError, PaymentOutcomeUnknown
from infern.core.f402.challenge import Mode
from infern.core.f402.client import ClientState
from infern.core.fiber.rpc import GetInvoice, ListPeers, NewInvoice
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash
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


def seller_flags(live) -> list[str]:
    return ["--base-url", live.base_url, *node_flags(live, "consumer")]


def test_money_is_taken_out_and_the_balance_shows_it(live) -> None:
    flags = seller_flags(live)
    run("topup", "2 CKB", "--yes", *flags)
    before = live.run(live.world.balances())
    done = json.loads(run("withdraw", "0.5 CKB", "--yes", "--json", *flags).stdout)
    assert (done["state"], done["amount"]) == ("settled", "50000000")
    after = live.run(live.world.balances())
    assert after["consumer"] - before["consumer"] == 50_000_000
    books = json.loads(run("balance", "--json", *flags).stdout)
    assert int(books["balance"]) == 150_000_000 - int(done["fee"])
    assert (books["owed"], books["withdrawals"]) == ("0", [])
    shown = run("balance", *flags).stdout
    assert "taken out  0.5005 CKB" in shown
    assert "by a withdrawal" in shown
    text = run("withdraw", "all", "--yes", *flags).stdout
    assert "withdrawn  1.4" in text


def test_a_chat_in_hold_mode_and_what_does_not_end_is_shown(live) -> None:
    flags = seller_flags(live)
    answered = json.loads(run("chat", "hi", "--mode", "hold", "--json", *flags).stdout)
    assert answered["receipt"] == "verified"
    journal = SqliteJournal(infern_home() / "client")
    (row,) = journal.attempts(limit=9)
    assert row.mode is Mode.HOLD
    checks = {r["check"]: r for r in json.loads(run("doctor", "--json", *flags, fails=True).stdout)}
    assert checks["hold mode"]["ok"] is True
    assert journal.get(row.payment_hash).state in (ClientState.SETTLING, ClientState.DELIVERED)
    stuck = replace(
        row,
        payment_hash=PaymentHash(b"\x09" * 32),
        state=ClientState.INTENDED,
        created_ms=row.created_ms - LATE_MS,
        updated_ms=row.created_ms - LATE_MS,
    )
    journal.intend(stuck, lambda _spent: None)
    journal.record(stuck, replace(stuck, state=ClientState.HELD))
    journal.close()
    shown = run("balance", *flags).stdout
    assert "in hold mode" in shown
    assert "at the latest (held)" in shown
    assert shown.count(live.base_url.removesuffix("/v1")) >= 1
    for command in ("balance", "receipts"):
        held = json.loads(run(command, "--json", *flags).stdout)["in_hold_mode"]
        (found,) = [r for r in held if r["payment_hash"] == "09" * 32]
        assert found["amount"] == str(row.amount)
    result = run("doctor", "--json", *flags, fails=True)
    assert result.exit_code == 1
    checks = {r["check"]: r for r in json.loads(result.stdout)}
    assert checks["hold mode"]["ok"] is False
    assert "locked since" in checks["hold mode"]["detail"]


def test_withdraw_asks_first_and_refuses_what_makes_no_sense(live) -> None:
    flags = seller_flags(live)
    run("topup", "1 CKB", "--yes", *flags)
    refused = CliRunner().invoke(infern, ["withdraw", "all", *flags], input="n\n")
    assert refused.exit_code == 1
    assert "everything" in refused.stderr
    for wrong in ([], ["1 CKB", "--invoice", "fibd1"], ["--invoice", "fibd1", "--to", "02"],
                  ["many"], ["1 CKB", "--to", "nobody"]):  # fmt: skip
        result = run("withdraw", *wrong, "--yes", *flags, fails=True)
        assert isinstance(result.exception, ConfigError), wrong
    stranger = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    result = run("withdraw", "0.1 CKB", "--to", stranger, "--yes", *flags, fails=True)
    assert isinstance(result.exception, InfernError)
    assert result.exception.code == "no_route"
    assert json.loads(run("balance", "--json", *flags).stdout)["balance"] == "100000000"


def test_the_doctor_and_the_provider_s_status_show_solvency(live) -> None:
    run("topup", "1 CKB", "--yes", *seller_flags(live))
    found = json.loads(run("doctor", "--json", *seller_flags(live), fails=True).stdout)
    checks = {row["check"]: row for row in found}
    assert checks["seller's books"]["ok"] is True
    assert checks["solvency"]["ok"] is True
    assert "on its way out 0 CKB" in checks["solvency"]["detail"]
    shown = run("provider", "status", "--url", live.base_url).stdout
    assert "books      add up" in shown
    assert "channels" in shown
    report = json.loads(run("provider", "status", "--url", live.base_url, "--json").stdout)
    assert report["books_add_up"] is True
    result = run("provider", "status", "--url", "http://127.0.0.1:1", fails=True)
    assert isinstance(result.exception, InfernError)


def test_every_command_has_help_with_what_it_does() -> None:
    for name in infern.list_commands(None):
        assert "Usage:" in run(name, "--help").stdout


def test_exit_codes_tell_money_of_unknown_whereabouts_from_all_else() -> None:
    assert exit_code(PaymentOutcomeUnknown("somewhere")) == 6
    assert exit_code(ConfigError("no")) == EXIT_CONFIG
    for code in CODES:
        assert 1 <= exit_code(InfernError("x", code=code)) <= 6
