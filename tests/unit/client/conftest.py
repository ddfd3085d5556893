"""The scripted world of the integration tests, for tests that drive the exchange by hand."""

import importlib.util
import sys
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "integration" / "client" / "conftest.py"
_spec = importlib.util.spec_from_file_location("_infern_client_world", _SOURCE)
assert _spec is not None
assert _spec.loader is not None
_world = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _world
_spec.loader.exec_module(_world)

world = _world.world
make_world = _world.make_world
make_signer = _world.make_signer
anyio_backend = _world.anyio_backend
