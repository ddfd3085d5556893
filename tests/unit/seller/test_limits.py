import pytest

from infern.core.errors import DeliveryError
from infern.seller.limits import (
    SMALL_BYTES,
    AddressLimiter,
    ByteBudget,
    ExpiringCount,
    Slots,
    TokenBucket,
)

T0 = 1_700_000_000_000


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(tokens=5, period_ms=1_000, burst=20)
    assert [bucket.take(T0) for _ in range(21)] == [True] * 20 + [False]
    assert not bucket.take(T0 + 199)
    assert bucket.take(T0 + 200)
    assert not bucket.take(T0 + 200)
    taken = sum(bucket.take(T0 + 200 + ms) for ms in range(1, 10_001))
    assert taken == 50


def test_a_bucket_saves_up_no_more_than_its_burst_and_loses_no_fraction() -> None:
    bucket = TokenBucket(tokens=7, period_ms=60_000, burst=2)
    assert sum(bucket.take(T0 + 10**9) for _ in range(9)) == 2
    late = T0 + 10**9
    assert sum(bucket.take(late + ms) for ms in range(0, 600_014, 13)) == 70


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    bucket = TokenBucket(tokens=1, period_ms=1_000, burst=1)
    assert bucket.take(T0)
    assert not bucket.take(T0 - 10_000)
    assert not bucket.take(T0 + 999)
    assert bucket.take(T0 + 1_000)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("", "", True),
        ("unix", "other", False),
        ("x" * 100, "x" * 64, True),
    ],
)
def test_an_address_is_a_host_or_a_v6_network(one: str, other: str, same: bool) -> None:
    limiter = AddressLimiter(per_minute=1, capacity=10)
    assert limiter.take(one, T0)
    assert limiter.take(other, T0) is not same


def test_the_least_recent_address_is_forgotten() -> None:
    limiter = AddressLimiter(per_minute=1, capacity=2)
    assert limiter.take("a", T0)
    assert limiter.take("b", T0)
    assert not limiter.take("a", T0)
    assert limiter.take("c", T0)
    assert not limiter.take("a", T0)
    assert limiter.take("b", T0)
    assert len(limiter._buckets) == 2


def test_slots_are_given_back_whatever_happens() -> None:
    slots = Slots(2, "things")
    with slots.one(), slots.one(), pytest.raises(DeliveryError) as caught, slots.one():
        pass
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after_s == 2
    with pytest.raises(KeyError), slots.one():
        raise KeyError
    assert slots.used == 0


def test_things_that_expire_make_room() -> None:
    count = ExpiringCount(3)
    assert [count.add(now_ms=T0, expires_ms=T0 + 120_000) for _ in range(4)] == [
        True, True, True, False,
    ]  # fmt: skip
    assert not count.add(now_ms=T0 + 119_999, expires_ms=T0 + 239_999)
    assert count.add(now_ms=T0 + 120_000, expires_ms=T0 + 240_000)
    assert count.add(now_ms=T0 + 120_500, expires_ms=T0 + 240_500)
    assert count.add(now_ms=T0 + 121_000, expires_ms=T0 + 241_000)
    assert not count.add(now_ms=T0 + 121_000, expires_ms=T0 + 241_000)
    assert count.add(now_ms=T0 + 240_999, expires_ms=T0 + 360_999)


def test_bytes_are_shared_and_given_back() -> None:
    budget = ByteBudget(10)
    with budget.share() as one, budget.share() as other:
        one.take(SMALL_BYTES + 6)
        other.take(SMALL_BYTES)
        other.take(4)
        with pytest.raises(DeliveryError) as caught:
            other.take(1)
        assert caught.value.code == "overloaded"
        with budget.share() as small:
            small.take(SMALL_BYTES - 1)
            small.take(1)
    with budget.share() as again:
        again.take(10)
        again.take(SMALL_BYTES)
        with pytest.raises(DeliveryError):
            again.take(1)
    assert budget.take(10)
