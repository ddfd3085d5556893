"""The JavaScript package's own tests, by Node's test runner."""

import shutil
import subprocess
from pathlib import Path

JS = Path(__file__).parents[2] / "js"


def test_the_package_s_own_tests_pass() -> None:
    node = shutil.which("node")
    assert node, "Node 20 is needed; the README names it"
    # Named one by one: which patterns Node expands itself depends on its version.
    tests = sorted(str(path) for path in (JS / "test").glob("*.test.js"))
    assert tests
    done = subprocess.run(
        [node, "--test", *tests], cwd=JS, capture_output=True, timeout=120, check=False, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_no_dependencies() -> None:
    """What handles money here is what is read here, and Node's own modules."""
    for path in sorted((JS / "src").glob("*.js")):
        for line in path.read_text("utf-8").splitlines():
            if " from '" in line:
                name = line.partition(" from '")[2].partition("'")[0]
                assert name.startswith(("./", "node:")), f"{path.name} imports {name}"
