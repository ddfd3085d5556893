"""What the proxy refuses to be set up with."""

import pytest

from infern.core.errors import ConfigError
from infern.proxy.config import ProxyConfig

TOKEN = "t" * 20


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"base_url": "http://router.example/v1"}, "https"),
        ({"base_url": "https://user:pass@router.example/v1"}, "nothing else"),
        ({"base_url": "https://router.example/v1?to=evil"}, "nothing else"),
        ({"token": "short"}, "20 characters"),
        ({"host": "0.0.0.0"}, "allow_remote"),
        ({"host": "192.168.1.2"}, "allow_remote"),
        ({"origins": frozenset({"*"})}, "one by one"),
        ({"origins": frozenset({"null"})}, "one by one"),
        ({"max_concurrent": 0}, "out of range"),
        ({"port": 70_000}, "out of range"),
    ],
)
def test_unsafe_set_ups_are_refused(change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ProxyConfig(**{"base_url": "https://router.example/v1", "token": TOKEN, **change})


def test_the_token_does_not_show():
    config = ProxyConfig(base_url="http://127.0.0.1:9000/v1", token=TOKEN)
    assert TOKEN not in repr(config)


@pytest.mark.parametrize(
    ("host", "answers"),
    [
        ("127.0.0.1:8402", True),
        ("LOCALHOST:8402", True),
        ("[::1]:8402", True),
        ("127.0.0.1", False),
        ("localhost.evil.example:8402", False),
        ("wallet.lan:8402", True),
        ("", False),
    ],
)
def test_hosts(host, answers):
    config = ProxyConfig(
        base_url="https://router.example/v1", token=TOKEN, hosts=frozenset({"wallet.lan:8402"})
    )
    assert config.answers_to(host, 8402) is answers
