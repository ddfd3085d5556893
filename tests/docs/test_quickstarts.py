"""The quickstarts, run as a reader would: each block marked to run, in order, in one shell."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from infern.cli.demo_world import free_port

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/quickstart/provider.md", ROOT / "docs/quickstart/consumer.md"]
BLOCK = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
TIMEOUT_S = 120


def _row_of_ports() -> int:
    """The first of four free ports in a row, likely enough to stay free for a moment."""
    import socket

    while True:
        first = free_port()
        try:
            for port in range(first, first + 4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def _script() -> str:
    """All blocks as one script, on ports that are free here."""
    blocks = [block for page in PAGES for block in BLOCK.findall(page.read_text("utf-8"))]
    assert len(blocks) >= 6, "the quickstarts lost their runnable blocks"
    first = _row_of_ports()
    text = "\n".join(blocks).replace("infern devnet up", f"infern devnet up --port {first}")
    for offset in range(4):
        text = text.replace(f"127.0.0.1:{8227 + offset}", f"127.0.0.1:{first + offset}")
    return text.replace("127.0.0.1:9402", f"127.0.0.1:{free_port()}")


def test_the_quickstarts_work_as_written(tmp_path: Path) -> None:
    script = tmp_path / "quickstart.sh"
    script.write_text("set -eu -o pipefail\n" + _script(), "utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", str(script)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": path, "INFERN_HOME": str(tmp_path / "home")},
        start_new_session=True,
    )
    try:
        # The background programs keep the pipe open, so the shell's end is what is waited for.
        process.wait(TIMEOUT_S)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        shown, _ = process.communicate(timeout=30)
    output = shown.decode("utf-8", "replace")
    assert process.returncode == 0, output
    assert "Paris" in output
    assert "receipt: verified" in output
    assert re.search(r"redeemed: [1-9]\d* shannon", output), output
