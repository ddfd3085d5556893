"""`infern demo --once` as a newcomer runs it: it exits 0 only if everything happened."""

import json
import subprocess
import sys

CHAPTERS = [
    "1. Pay one request: no account, no key",
    "2. A prepaid key and the stock OpenAI client",
    "3. The provider is killed in mid-stream",
    "Every shannon accounted for",
]


def test_demo_once_shows_all_of_it_and_exits_0() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infern.cli.main", "demo", "--once", "--json"],
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["ok"] is True
    steps = told["steps"]
    assert list(dict.fromkeys(step["chapter"] for step in steps)) == CHAPTERS
    facts = {step["step"]: step for step in steps}
    redeemed = facts["the unspent part, redeemed to a new prepaid key"]
    assert redeemed["paid_shannon"] == redeemed["charged_shannon"] + redeemed["credited_shannon"]
    assert redeemed["credited_shannon"] > 0
    assert facts["the same request is answered by the same payment"]["new_payments"] == 0
    final = facts["channels and the provider's ledger, compared"]
    assert (
        final["consumer_paid_shannon"]
        == final["provider_received_shannon"] + final["hub_fees_shannon"]
    )
