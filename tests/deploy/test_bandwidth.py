"""How fast memory is read."""

from distill.deploy import bandwidth


def test_reading_memory_takes_every_thread() -> None:
    for count in (1, 3):
        assert bandwidth.read_bandwidth(count, 8 << 20) > 0
    assert bandwidth.cache_bytes() is None or bandwidth.cache_bytes() >= 1 << 14
