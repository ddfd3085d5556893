import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infern.cli.demo_world import free_port

PAGES = ("docs/quickstart/provider.md", "docs/quickstart/consumer.md")
RUN = re.compile(r"^<!-- run -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 180
# Whatever the commands left in the background ends with the script.
PRELUDE = "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null; wait' EXIT\n"


def _row_of_ports() -> int:
    """The first of four free ports in a row, likely enough to stay free for a moment."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + 4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def _on_free_ports(script: str) -> str:
    """The pages use the default ports; here others may be using them."""
    first = _row_of_ports()
    script = script.replace("infern devnet up", f"infern devnet up --port {first}")
    for offset in range(4):
        script = script.replace(f"127.0.0.1:{8227 + offset}", f"127.0.0.1:{first + offset}")
    script = script.replace("infern proxy", f"infern proxy --port {free_port()}")
    return script.replace("127.0.0.1:9402", f"127.0.0.1:{free_port()}")


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INFERN_")}
    programs = str(Path(sys.executable).parent)
    path = programs + os.pathsep + os.environ["PATH"]
    return {**kept, "INFERN_HOME": str(home), "PATH": path, "NO_COLOR": "1"}


def _run(script: str, directory: Path) -> str:
    home = directory / "home"
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=directory,
        env=_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    logs = "".join(f"\n{log.name}:\n{log.read_text()}" for log in directory.glob("*.log"))
    assert process.returncode == 0, output + logs
    return output


def test_the_quickstarts_do_what_they_say(document: Callable[[str], str], tmp_path: Path) -> None:
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"the quickstarts need {program}")
    blocks = [block for page in PAGES for block in RUN.findall(document(page))]
    assert len(blocks) > 6
    output = _run(PRELUDE + _on_free_ports("\n".join(blocks)), tmp_path)
    assert "every shannon accounted for" in output
    assert '"ready":true' in output
    assert '"code":"payment_required"' in output
    assert "The capital of France is Paris." in output
    assert "receipt verified" in output
    assert "credited 1 CKB" in output
    assert "withdrawn  0.5 CKB" in output
    assert "remainder: refund" in output
    assert "books      add up" in output
    assert re.search(r"^prepaid +key_\w{26} +inf_sk_\w{43}$", output, re.MULTILINE)
    assert "through the proxy: The capital of Norway is Oslo." in output
    assert re.search(r"^receipt: verified\nredeemed: [1-9]\d* shannon$", output, re.MULTILINE)


def test_the_clients_that_were_tested_have_the_versions_of_the_locks(
    root: Path, document: Callable[[str], str], table: Callable[[str, str], list[list[str]]]
) -> None:
    pinned = re.compile(r"^([a-z0-9-]+)==([^ ;]+)", re.MULTILINE)
    locks = {
        name: dict(pinned.findall((root / f"requirements/{name}.lock").read_text("utf-8")))
        for name in ("dev", "clients")
    }
    node = json.loads((root / "tests/clients/node/package-lock.json").read_text("utf-8"))
    versions = {
        "openai, Python": locks["dev"]["openai"],
        "openai, JavaScript": node["packages"]["node_modules/openai"]["version"],
        **{name: locks["clients"][name] for name in ("langchain-openai", "litellm", "llm")},
    }
    rows = table(document("docs/quickstart/consumer.md"), "client | version | how")
    assert {name: version for name, version, _ in rows} == versions
