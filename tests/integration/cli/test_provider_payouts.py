"""Payments out that no node can end any more, ended by hand."""

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infern.adapters.home import provider_home
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.cli.main import infern
from infern.core.errors import ConfigError
from infern.core.ids import PaymentHash, PayoutId, Pubkey, TabId
from infern.core.ledger.books import violations
from infern.core.ledger.payout import Payout, PayoutEvent, PayoutPurpose
from infern.core.ledger.records import KeyRecord, Topup, TopupState
from infern.core.units import CKB

KEY = KeyRecord(
    key_digest=b"\x07" * 32,
    key_id="key_1",
    tab_id=TabId("tab_1"),
    session=bytes(16),
    asset=CKB,
    created_ms=1,
)


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(infern, ["provider", "payouts", *arguments], input=answer)


def in_ledger(work: Callable[[SqliteLedger], Any]) -> Any:
    async def main() -> Any:
        async with SqliteLedger(provider_home() / "ledger.sqlite3") as ledger:
            return await work(ledger)

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _payouts() -> None:
    """One that is owed and one that is on its way."""

    async def prepare(ledger: SqliteLedger) -> None:
        await ledger.create_key(KEY)
        topup = Topup(
            payment_hash=PaymentHash(secrets.token_bytes(32)),
            tab_id=KEY.tab_id,
            key_id=KEY.key_id,
            amount=1_000_000,
            invoice="fibd1",
            expires_ms=2,
            created_ms=1,
        )
        await ledger.add_topup(topup, open_limit=1)
        await ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=2)
        for number, purpose in enumerate(PayoutPurpose):
            await ledger.add_payout(
                Payout(
                    payout_id=PayoutId(f"out_{number}"),
                    tab_id=KEY.tab_id,
                    purpose=purpose,
                    request_key=bytes([number]) * 32,
                    asset=CKB,
                    amount=100_000,
                    fee_cap=500,
                    target=Pubkey(b"\x02" * 33),
                    created_ms=3 + number,
                )
            )
        await ledger.move_payout(PayoutId("out_1"), PayoutEvent.SEND, now_ms=5)

    in_ledger(prepare)


def test_they_are_listed() -> None:
    rows = json.loads(run("--json").stdout)
    assert [(row["payout_id"], row["state"]) for row in rows] == [
        ("out_0", "owed"),
        ("out_1", "sending"),
    ]
    assert "out_1  remainder  sending since 1970-01-01 00:00 UTC  0.001 CKB" in run().stdout


@pytest.mark.parametrize(("end", "out"), [("paid", 100_007), ("returned", 0)])
def test_one_on_its_way_is_ended_by_hand(end: str, out: int) -> None:
    fee = ["--fee", "7 shannon"] if end == "paid" else []
    assert run("--end", "out_1", "--as", end, "--yes", *fee).exit_code == 0

    async def look(ledger: SqliteLedger) -> None:
        tab = await ledger.tab(KEY.tab_id)
        assert (tab.refunded, tab.held) == (out, 100_500)
        assert violations(await ledger.books()) == []

    in_ledger(look)
    again = run("--end", "out_1", "--as", end, "--yes")
    assert isinstance(again.exception, ConfigError)


def test_it_asks_first_and_touches_nothing_else() -> None:
    refused = run("--end", "out_1", "--as", "paid", answer="n\n")
    assert refused.exit_code == 1
    for wrong in (["--end", "out_1"], ["--as", "paid"], ["--end", "out_0", "--as", "paid"],
                  ["--end", "out_9", "--as", "paid"], ["--end", "out_1", "--as", "paid",
                  "--fee", "some"]):  # fmt: skip
        assert isinstance(run(*wrong, "--yes").exception, ConfigError), wrong
    assert len(json.loads(run("--json").stdout)) == 2


def test_a_running_agent_has_its_ledger_for_itself() -> None:
    ledger = SqliteLedger(provider_home() / "ledger.sqlite3")
    try:
        assert isinstance(run().exception, ConfigError)
    finally:
        ledger.close()
