import json
import stat
from pathlib import Path

import pytest

from infern.adapters import keyfile
from infern.adapters.keyfile import (
    load_or_make_key,
    load_or_make_seller_secrets,
    read_private,
    write_private,
)
from infern.core.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_written_once_whole_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    write_private(path, b"one")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    with pytest.raises(FileExistsError):
        write_private(path, b"two")
    assert read_private(path) == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["secret"]


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "agent.key"
    key = load_or_make_key(path)
    assert len(key) == 32
    assert load_or_make_key(path) == key
    assert load_or_make_key(tmp_path / "other.key") != key


def test_of_two_processes_that_make_a_key_at_once_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.key"
    first = load_or_make_key(path)
    monkeypatch.setattr(Path, "exists", lambda _self: False)
    assert load_or_make_key(path) == first
    secrets = tmp_path / "secrets.json"
    made = load_or_make_seller_secrets(secrets)
    assert load_or_make_seller_secrets(secrets) == made


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_a_damaged_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.key"
    write_private(path, content)
    with pytest.raises(ConfigError, match="64 hex digits"):
        load_or_make_key(path)
    assert path.read_bytes() == content


def test_a_secret_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.key"
    load_or_make_key(path)
    for wrong in (0o640, 0o604, 0o622):
        path.chmod(wrong)
        with pytest.raises(ConfigError, match="chmod 600"):
            load_or_make_key(path)


def test_what_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_private(tmp_path / "absent")
    with pytest.raises(ConfigError):
        read_private(tmp_path)
    large = tmp_path / "large"
    write_private(large, b"0" * (keyfile.MAX_FILE_BYTES + 1))
    assert read_private(large) == b""


def test_a_sellers_secrets_are_made_once_and_keep_their_old_keys(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    kid, keys, preimage_key = load_or_make_seller_secrets(path)
    assert set(keys) == {kid}
    assert preimage_key not in keys.values()
    assert load_or_make_seller_secrets(path) == (kid, keys, preimage_key)
    assert mode(path) == 0o600
    stored = json.loads(path.read_text())
    stored["challenge_keys"]["k2"] = "ab" * 32
    stored["kid"] = "k2"
    path.write_text(json.dumps(stored))
    rotated = load_or_make_seller_secrets(path)
    assert rotated == ("k2", {**keys, "k2": b"\xab" * 32}, preimage_key)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"5", b'{"kid":"k","challenge_keys":[],"preimage_key":"00"}',
     b'{"kid":"k","challenge_keys":{"k":5},"preimage_key":"00"}',
     b'{"kid":"k","challenge_keys":{"k":"zz"},"preimage_key":"00"}'],
)  # fmt: skip
def test_damaged_secrets_are_never_replaced(tmp_path: Path, content: bytes) -> None:
    """New ones would make every paid and unused token worthless."""
    path = tmp_path / "secrets.json"
    write_private(path, content)
    with pytest.raises(ConfigError):
        load_or_make_seller_secrets(path)
    assert path.read_bytes() == content
