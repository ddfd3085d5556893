from dataclasses import dataclass, field
from typing import Any

import pytest

from infern.core.errors import IdentityRejected, QuotaExceeded
from infern.core.f402.credential import key_digest, make_key
from infern.core.ids import TabId
from infern.core.ledger.records import KeyRecord
from infern.core.units import CKB
from infern.seller import keys as keys_module
from infern.seller.keys import WRONG_PER_MINUTE, KeyRing


def key_text(number: int) -> str:
    return make_key(number.to_bytes(32, "big"))


@dataclass
class Ledger:
    known: dict[bytes, KeyRecord] = field(default_factory=dict)
    asked: int = 0

    def add(self, text: str) -> KeyRecord:
        digest = key_digest(text)
        self.known[digest] = KeyRecord(
            key_digest=digest,
            key_id="k",
            tab_id=TabId("t"),
            session=bytes(16),
            asset=CKB,
            created_ms=1,
        )
        return self.known[digest]

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        self.asked += 1
        return self.known.get(digest)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def ring(ledger: Ledger, clock: Any) -> KeyRing:
    return KeyRing(ledger, clock)  # type: ignore[arg-type] # the one method it uses


async def test_a_known_key_is_asked_for_once(ring: KeyRing, ledger: Ledger) -> None:
    record = ledger.add(key_text(1))
    for _ in range(3):
        assert await ring.find(key_text(1), "a") == record
    assert ledger.asked == 1
    ring.forget_all()
    del ledger.known[record.key_digest]
    with pytest.raises(IdentityRejected) as caught:
        await ring.find(key_text(1), "a")
    assert caught.value.code == "invalid_api_key"


async def test_an_unknown_key_is_asked_for_again_because_it_may_come(
    ring: KeyRing, ledger: Ledger
) -> None:
    with pytest.raises(IdentityRejected):
        await ring.find(key_text(1), "a")
    record = ledger.add(key_text(1))
    assert await ring.find(key_text(1), "a") == record


async def test_abuse_25_guesses_are_limited_per_address_and_known_keys_are_not(
    ring: KeyRing, ledger: Ledger, clock: Any
) -> None:
    record = ledger.add(key_text(0))
    for number in range(1, WRONG_PER_MINUTE + 1):
        with pytest.raises(IdentityRejected):
            await ring.find(key_text(number), "a")
    with pytest.raises(QuotaExceeded) as caught:
        await ring.find(key_text(1), "a")
    assert caught.value.retry_after_s == 60
    assert await ring.find(key_text(0), "a") == record
    with pytest.raises(IdentityRejected):
        await ring.find(key_text(1), "b")
    clock.ms += 60_000
    with pytest.raises(IdentityRejected):
        await ring.find(key_text(1), "a")


async def test_the_least_used_key_is_forgotten_first(
    ring: KeyRing, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "CACHE_SIZE", 2)
    for number in (1, 2, 3):
        ledger.add(key_text(number))
    for number in (1, 2, 1, 3):
        await ring.find(key_text(number), "a")
    ledger.asked = 0
    await ring.find(key_text(1), "a")
    assert ledger.asked == 0
    await ring.find(key_text(2), "a")
    assert ledger.asked == 1


async def test_a_key_deleted_while_the_ledger_answers_is_not_remembered(
    ring: KeyRing, ledger: Ledger
) -> None:
    record = ledger.add(key_text(1))
    real = ledger.find_key

    async def find_key(digest: bytes) -> KeyRecord | None:
        found = await real(digest)
        ledger.known.clear()
        ring.forget_all()
        return found

    ledger.find_key = find_key  # type: ignore[method-assign] # the race, by hand
    assert await ring.find(key_text(1), "a") == record
    with pytest.raises(IdentityRejected):
        await ring.find(key_text(1), "a")
