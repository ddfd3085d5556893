"""Secrets in files that only their owner can read: signing keys and a seller's MAC keys."""

import contextlib
import json
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Final

from infern.core.errors import ConfigError

SECRET_BYTES: Final = 32
MAX_FILE_BYTES: Final = 64 * 1024


def write_private(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600 so that it is there whole or not at all, and durable.

    Raises:
        FileExistsError: It is there already; secrets are never overwritten.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link fails when the name is taken, which a rename would not.
        os.link(name, path)
    finally:
        Path(name).unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private(path: Path) -> bytes:
    """Read a secret file.

    Raises:
        ConfigError: Absent, too large, or readable by others.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise ConfigError(f"the key file {path.name} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"the key file {path.name} is open to others; run: chmod 600 {path}")
    return content


def load_or_make_key(path: Path) -> bytes:
    """A 32-byte secp256k1 secret from a file of 64 hex digits, drawn when the file is absent.

    Raises:
        ConfigError: The file is not such a key.
    """
    if not path.exists():
        # Zero and values at or above the group order have a chance of 2^-128; coincurve refuses.
        with contextlib.suppress(FileExistsError):  # another process was quicker: its key counts
            write_private(path, secrets.token_bytes(SECRET_BYTES).hex().encode() + b"\n")
    try:
        raw = bytes.fromhex(read_private(path).decode("ascii").strip())
    except ValueError as error:
        raise ConfigError(f"the key file {path.name} must hold 64 hex digits") from error
    if len(raw) != SECRET_BYTES:
        raise ConfigError(f"the key file {path.name} must hold 64 hex digits")
    return raw


def load_or_make_seller_secrets(path: Path) -> tuple[str, dict[str, bytes], bytes]:
    """A seller's MAC keys: name of the current challenge key, all by name, preimage key.

    Raises:
        ConfigError: The file cannot be read as such.
    """
    if not path.exists():
        fresh = {
            "kid": "k1",
            "challenge_keys": {"k1": secrets.token_hex(SECRET_BYTES)},
            "preimage_key": secrets.token_hex(SECRET_BYTES),
        }
        with contextlib.suppress(FileExistsError):  # another process was quicker: its count
            write_private(path, json.dumps(fresh, indent=2).encode() + b"\n")
    try:
        stored = json.loads(read_private(path))
        keys = {str(kid): bytes.fromhex(key) for kid, key in stored["challenge_keys"].items()}
        return str(stored["kid"]), keys, bytes.fromhex(stored["preimage_key"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the secrets file {path.name} is damaged; restore a copy") from error
