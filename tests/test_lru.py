"""The cache of what was used last."""

from densor.runtime.lru import LruCache


def test_what_was_used_last_is_kept() -> None:
    cache: LruCache[int, str] = LruCache(2)
    for key in 1, 2:
        cache.put(key, str(key))
    assert cache.get(1) == "1"
    cache.put(3, "3")
    assert [cache.get(key) for key in (1, 2, 3)] == ["1", None, "3"]


def test_weights_count() -> None:
    cache: LruCache[str, bytes] = LruCache(10, len)
    cache.put("a", bytes(4))
    cache.put("b", bytes(6))
    assert cache.get("a") and cache.get("b")
    cache.put("a", bytes(5))  # in place of the other, not beside it
    assert cache.get("a") == bytes(5) and cache.get("b") is None
    cache.put("c", bytes(11))
    assert cache.get("c") is None and cache.get("a") is None
    cache.put("d", bytes(10))
    assert cache.get("d")
    cache.drop("d")
    cache.put("e", bytes(10))
    assert cache.get("e")


def test_some_are_kept_whatever_they_weigh() -> None:
    cache: LruCache[int, int] = LruCache(3, lambda value: value, least=2)
    for key, weight in enumerate([9, 9, 9, 1]):
        cache.put(key, weight)
    assert [cache.get(key) for key in range(4)] == [None, None, 9, 1]
