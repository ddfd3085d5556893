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

PAGES = ("docs/quickstart/provider.md", "docs/quickstart/consumer.md")
RUN = re.compile(r"^<!-- run -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = (8227, 8228, 8229, 9402)
"""The pages use the default ports, which must be free."""
TIMEOUT_S = 180
# Whatever the commands left in the background ends with the script.
PRELUDE = "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null; wait' EXIT\n"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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
    taken = [port for port in PORTS if not _is_free(port)]
    if taken:
        pytest.skip(f"the quickstarts use ports that are taken here: {taken}")
    blocks = [block for page in PAGES for block in RUN.findall(document(page))]
    assert len(blocks) > 6
    output = _run(PRELUDE + "\n".join(blocks), tmp_path)
    assert "every shannon accounted for" in output
    assert '"ready":true' in output
    assert '"code":"payment_required"' in output
    assert "The capital of France is Paris." in output
    assert "receipt verified" in output
    assert "credited 1 CKB" in output
    assert re.search(r"^prepaid +key_\w{26} +inf_sk_\w{43}$", output, re.MULTILINE)
    assert re.search(r"^receipt: verified\nredeemed: [1-9]\d* shannon$", output, re.MULTILINE)
