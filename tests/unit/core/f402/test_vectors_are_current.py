"""The committed vectors are what their generator writes, and every one has a name and a use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[4]
FILE = REPOSITORY / "vectors/f402.json"
VECTORS = json.loads(FILE.read_text())


def test_generator_writes_the_committed_file() -> None:
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "vectors/generate_f402.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_a_stale_file_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "vectors"
    copy.mkdir()
    for source in (REPOSITORY / "vectors").glob("*.py"):
        (copy / source.name).write_text(source.read_text())
    (copy / "f402.json").write_text(FILE.read_text().replace("184320", "184321", 1))
    run = subprocess.run(
        [sys.executable, str(copy / "generate_f402.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "stale" in run.stderr


@pytest.mark.parametrize(
    "group", [name for name, cases in VECTORS.items() if isinstance(cases, list)]
)
def test_vectors_have_names_of_their_own_and_comments(group: str) -> None:
    names = [case["name"] for case in VECTORS[group]]
    assert len(set(names)) == len(names)
    assert all(isinstance(case["comment"], str) for case in VECTORS[group])


def test_every_number_is_read_exactly_by_every_language() -> None:
    def check(value: object) -> None:
        assert not isinstance(value, float)
        if isinstance(value, dict):
            check(list(value.values()))
        elif isinstance(value, list):
            for item in value:
                check(item)
        elif isinstance(value, int):
            assert abs(value) < 2**53

    check(VECTORS)


def test_every_group_is_used_by_a_test() -> None:
    tests = "".join(
        path.read_text()
        for folder in ("core", "adapters")
        for path in (REPOSITORY / "tests/unit" / folder).rglob("test_*.py")
        if "vectors/f402.json" in path.read_text()
    )
    groups = [name for name in VECTORS if name != "about"]
    assert [name for name in groups if f'VECTORS["{name}"]' not in tests] == []
