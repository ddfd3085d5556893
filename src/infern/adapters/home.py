"""Where Infern keeps its files: one directory, named by INFERN_HOME or the platform's custom."""

import os
from pathlib import Path
from typing import Final

import platformdirs

HOME_VARIABLE: Final = "INFERN_HOME"


def infern_home() -> Path:
    """The data directory, made with mode 0700 when it is absent."""
    named = os.environ.get(HOME_VARIABLE)
    home = Path(named).expanduser() if named else Path(platformdirs.user_data_dir("infern"))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def provider_home() -> Path:
    """The provider agent's part of it: keys, secrets, ledger."""
    home = infern_home() / "provider"
    home.mkdir(mode=0o700, exist_ok=True)
    return home
