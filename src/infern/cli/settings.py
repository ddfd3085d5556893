"""One configuration from three places: a TOML file, `INFERN_*` variables, flags; the last wins.

A variable is named after section and member: `INFERN_FIBER_RPC_URL` is `rpc_url` in `[fiber]`. The
consumer's own section is left out of its names, as the SDK has them: `INFERN_BASE_URL`.
`--print-config` shows every value with the place it came from, secrets masked.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from infern.core.errors import ConfigError

MAX_FILE_BYTES: Final = 1024 * 1024
SECRET_MEMBERS: Final = frozenset({"rpc_token", "upstream_api_key", "api_key", "token"})
Document = dict[str, Any]


class Settings:
    """A configuration document that remembers where each value came from.

    Args:
        kinds: Members that variables may set, by section: int, bool or str.
        unnamed: A section that is left out of its variables' names.
    """

    def __init__(self, kinds: Mapping[str, Mapping[str, type]], *, unnamed: str = "") -> None:
        self._kinds = kinds
        self._unnamed = unnamed
        self.document: Document = {}
        self._sources: dict[tuple[str, str], str] = {}

    def add_file(self, path: Path, *, required: bool) -> None:
        """Read a TOML file.

        Raises:
            ConfigError: Absent although required, too large, or not TOML.
        """
        if not path.exists() and not required:
            return
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ConfigError(f"{path.name} is too large for a configuration")
            document = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        for section, value in document.items():
            if not isinstance(value, dict):
                self.document[section] = value
                self._sources[section, ""] = str(path)
                continue
            for member, content in value.items():
                self.set(section, member, content, str(path))

    def add_environment(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the `INFERN_*` variables that name known members.

        Raises:
            ConfigError: A value that is not of the member's type.
        """
        for section, members in self._kinds.items():
            for member, kind in members.items():
                prefix = "INFERN" if section == self._unnamed else f"INFERN_{section}"
                name = f"{prefix}_{member}".upper()
                if name in environment:
                    self.set(section, member, _parse(name, environment[name], kind), name)

    def set(self, section: str, member: str, value: object, source: str) -> None:
        """Set one member; `source` is what `--print-config` says."""
        self.document.setdefault(section, {})[member] = value
        self._sources[section, member] = source

    def set_flags(self, section: str, flags: Mapping[str, object]) -> None:
        """Set the members whose flags were given."""
        for member, value in flags.items():
            if value is not None:
                self.set(section, member, value, "--" + member.replace("_", "-"))

    def explain(self) -> Iterator[str]:
        """Every value with its source, one line each, secrets masked."""
        for section, content in sorted(self.document.items()):
            if not isinstance(content, dict):
                yield f"[[{section}]]  {len(content)} entries  # {self._sources[section, '']}"
                continue
            for member, value in sorted(content.items()):
                shown = "********" if member in SECRET_MEMBERS and value else repr(value)
                yield f"{section}.{member} = {shown}  # {self._sources[section, member]}"


def _parse(name: str, text: str, kind: type) -> object:
    if kind is int:
        if not text.isascii() or not text.isdigit():
            raise ConfigError(f"{name} must be a number, not {text!r}")
        return int(text)
    if kind is bool:
        if text.lower() not in {"true", "false", "1", "0"}:
            raise ConfigError(f"{name} must be true or false, not {text!r}")
        return text.lower() in {"true", "1"}
    return text
