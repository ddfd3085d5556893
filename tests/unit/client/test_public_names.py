"""What `import infern` gives, and what it does not load."""

import subprocess
import sys

import infern

NAMES = [
    "AsyncInfern",
    "Budget",
    "BudgetExceeded",
    "F402Auth",
    "Infern",
    "InfernError",
    "InsufficientBalance",
    "Journal",
    "Money",
    "Network",
    "NoRoute",
    "Patience",
    "PaymentError",
    "PaymentFailed",
    "PaymentOutcomeUnknown",
    "PaymentRequired",
    "Pinned",
    "ReceiptCheck",
    "ReceiptStatus",
    "Retry",
    "Wallet",
    "open_wallet",
]


def test_the_exported_names_are_frozen():
    assert sorted(infern.__all__) == sorted(NAMES)
    assert dir(infern) == sorted(NAMES)


def test_every_name_can_be_had():
    for name in NAMES:
        assert getattr(infern, name) is not None


def loaded_after(code):
    probe = f"import sys\n{code}\nprint(*sorted(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


HEAVY = {"openai", "starlette", "uvicorn", "aiohttp", "httpx2", "sqlite3", "coincurve", "click"}


def test_importing_infern_loads_nothing_heavy():
    assert not loaded_after("import infern") & HEAVY


def test_errors_can_be_caught_without_loading_clients():
    assert not loaded_after("from infern import BudgetExceeded, InfernError, Network") & HEAVY


def test_the_client_loads_no_server():
    loaded = loaded_after("from infern import F402Auth, Budget, Wallet")
    assert "httpx2" in loaded
    assert not loaded & {"openai", "starlette", "uvicorn", "aiohttp", "click"}


def test_the_sdk_loads_no_server():
    loaded = loaded_after("from infern import Infern")
    assert "openai" in loaded
    assert not loaded & {"starlette", "uvicorn", "click"}


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(infern, "Infernal")
