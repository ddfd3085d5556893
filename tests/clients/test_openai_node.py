"""openai-node, unmodified, against a live provider with a prepaid key."""

import json
import shutil
import subprocess
from pathlib import Path

NODE = Path(__file__).parent / "node"


def test_openai_node_with_a_key(live) -> None:
    node = shutil.which("node")
    assert node, "Node 20 is needed; the README names it"
    assert (NODE / "node_modules").is_dir(), "run `make test`, which installs the clients"
    key = live.funded_key()
    done = subprocess.run(
        [node, "keyed.mjs", live.base_url, key],
        cwd=NODE,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    assert seen["plain"] == seen["text"] != ""
    assert seen["usage"]["completion_tokens"] > 0
    assert seen["plainCost"] == seen["cost"] != "0"
    assert seen["refused"] == {"status": 402, "code": "payment_required", "f402": True}
    assert seen["dimensions"] > 0
