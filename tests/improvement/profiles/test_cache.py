"""Caches of profiles: Redis and memory keep the same promises."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.connection import Connection

from improvement.embedded import free_port
from improvement.errors import Unavailable
from improvement.profiles import cache as cache_module
from improvement.profiles.cache import ERASED, LIFE, MemoryCache, ProfileCache, RedisCache, profile_json
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.profile import Profile

HOSTILE = [
    "x", "a:embedding", "x:embedding:things", "x:embedding", "a%3Aembedding", "%", "%25", "ä/…", "日本 語",
    "a b", "*", "user:x:embedding", "\0", "\n", "{x}", "../x", "X", "x ",
]  # fmt: skip


def unit(seed: int, dimensions: int = 16) -> Any:
    row = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return row / np.linalg.norm(row)


def full(user_id: str = "ann", domain: str = "things", version: int = 3, dimensions: int = 16) -> Profile:
    """A profile of which every field is something else than its default."""
    return Profile(
        user_id=user_id,
        domain=domain,
        model_version="words-v1",
        embedding=unit(version, dimensions),
        liked=unit(version + 1, dimensions),
        negative=NegativeProfile(np.float64(0.7) * unit(version + 2, dimensions), 1_800_000_000.25),
        interests=np.stack([unit(version + 3, dimensions), unit(version + 4, dimensions)]),
        positives=5,
        negatives=2,
        seen=("o1", "ö:2"),
        updated_at=1_800_000_001.125,
        generated_at=1_800_000_000.5,
        version=version,
    )


def assert_same(got: Profile | None, expected: Profile, negative_kind: Any = np.float64) -> None:
    """Every field is the same, vectors to the last bit and of the same type."""
    assert got is not None
    for field in fields(Profile):
        mine, theirs = getattr(got, field.name), getattr(expected, field.name)
        if isinstance(theirs, NegativeProfile):
            assert mine.at == theirs.at
            assert mine.vector.dtype == np.float64
            np.testing.assert_array_equal(mine.vector, theirs.vector.astype(negative_kind))
        elif isinstance(theirs, np.ndarray):
            assert (mine.dtype, mine.shape) == (np.float32, theirs.shape), field.name
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert (mine, type(mine)) == (theirs, type(theirs)), field.name


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(params=["redis", "memory"])
def cache(request: pytest.FixtureRequest) -> ProfileCache:
    return MemoryCache() if request.param == "memory" else in_redis(request.getfixturevalue("redis"))


def in_redis(client: Redis) -> RedisCache:
    return RedisCache(client, "things")


def test_every_field_of_a_profile_comes_back(cache: ProfileCache):
    profiles = [full(), Profile("new", "things"), full("ann", "shoes", 9)]
    cache.put(profiles)
    for profile in profiles:
        assert_same(cache.get(profile.user_id, profile.domain), profile)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1.0, 1e-30, 1e30]))
@settings(max_examples=30)
def test_float32_survives_json_to_the_last_bit(seed: int, scale: float):
    row = (np.random.default_rng(seed).standard_normal(33) * scale).astype(np.float32)
    profile = replace(full(dimensions=33), embedding=row, liked=row, interests=np.stack([row, -row]))
    assert_same(cache_module._profile(profile_json(profile)), profile)


def test_an_unknown_user_has_nothing_cached(cache: ProfileCache):
    cache.put([full("ann")])
    assert cache.get("bob", "things") is None
    assert cache.get("ann", "shoes") is None


def test_an_older_version_never_replaces_a_newer_one_and_a_newer_one_always_an_older(cache: ProfileCache):
    for version in (3, 2, 3, 10, 9):
        cache.put([full(version=version)])
    assert_same(cache.get("ann", "things"), full(version=10))
    cache.put([full(version=11), full(version=5)])
    assert_same(cache.get("ann", "things"), full(version=11))


def test_of_many_writers_the_newest_version_stays(cache: ProfileCache):
    versions = np.random.default_rng(0).permutation(200)
    parts = np.array_split(versions, 8)

    def write(part: Any) -> None:
        for version in part:
            cache.put([full(version=int(version))])

    threads = [threading.Thread(target=write, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(cache.get("ann", "things"), full(version=199))


def test_nothing_is_cached_of_an_erased_user_in_the_domains_named(cache: ProfileCache):
    cache.put([full("ann"), full("ann", "shoes"), full("bob")])
    cache.erase([("ann", "things")])
    cache.put([full("ann", version=10**9)])
    assert cache.get("ann", "things") is None
    assert cache.get("ann", "shoes") is not None
    assert cache.get("bob", "things") is not None
    cache.erase([("nobody", "things")])
    cache.erase([])


def test_an_erased_user_is_cached_again_later(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_module, "ERASED", 1)
    with Redis.from_url(redis_url) as client:
        client.flushdb()
        for cache in (MemoryCache(), in_redis(client)):
            cache.erase([("ann", "things")])
            cache.put([full()])
            assert cache.get("ann", "things") is None
            threading.Event().wait(1.05)
            cache.put([full(version=0)])
            assert_same(cache.get("ann", "things"), full(version=0))


def test_ids_that_look_like_keys_do_not_meet(cache: ProfileCache):
    owners = [(user, domain) for user in HOSTILE for domain in ("things", "embedding", "shoes")]
    for i, (user, domain) in enumerate(owners):
        cache.put([full(user, domain, version=i)])
    for i, (user, domain) in enumerate(owners):
        assert_same(cache.get(user, domain), full(user, domain, version=i))
    cache.erase([owners[0]])
    assert [owner for owner in owners if cache.get(*owner) is None] == owners[:1]


@given(
    st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["things", "shoes"])), unique=True, max_size=20)
)
def test_different_owners_have_different_keys(owners: list[tuple[str, str]]):
    cache = RedisCache(Redis(), "things")
    keys = {cache.key(user, domain) for user, domain in owners}
    assert len(keys) == len(owners)
    assert all(key.startswith("user:") for key in keys)


def test_redis_holds_json_with_the_embedding_as_a_list_for_seven_days(redis: Redis):
    in_redis(redis).put([full()])
    found = json.loads(redis.get("user:ann:embedding"))
    assert found["embedding"] == full().embedding.tolist()
    assert found["user_id"] == "ann"
    assert LIFE - 5 <= redis.ttl("user:ann:embedding") <= LIFE == 7 * 24 * 3600


def test_a_new_version_lives_seven_days_again(redis: Redis):
    cache = in_redis(redis)
    cache.put([full()])
    redis.expire("user:ann:embedding", 100)
    cache.put([full(version=4)])
    assert redis.ttl("user:ann:embedding") > 100


def test_an_erased_user_is_not_named_in_redis(redis: Redis):
    cache = in_redis(redis)
    cache.put([full("someone-special")])
    cache.erase([("someone-special", "things")])
    keys = redis.keys("*")
    assert len(keys) == 1
    assert b"someone" not in keys[0] + redis.get(keys[0])
    assert 0 < redis.ttl(keys[0]) <= ERASED


def foreign() -> list[bytes]:
    good = json.loads(profile_json(full()))
    wrong = [
        {key: value for key, value in good.items() if key != missing}
        for missing in good
        if missing not in ("version",)
    ]
    wrong += [
        good | {"embedding": "x"}, good | {"embedding": [[1.0], [2.0]]}, good | {"embedding": {"a": 1}},
        good | {"embedding": 5}, good | {"embedding": [None]}, good | {"liked": "x"}, good | {"liked": ["1"]},
        good | {"interests": 5}, good | {"interests": [1.0]}, good | {"interests": [[1.0], [1.0, 2.0]]},
        good | {"negative_at": None}, good | {"seen": 5}, good | {"seen": [5]}, good | {"positives": "5"},
        good | {"user_id": "bob"}, good | {"domain": "shoes"}, good | {"user_id": 5},
    ]  # fmt: skip
    texts = [
        "",
        "{",
        "[]",
        "5",
        "null",
        '"x"',
        "{}",
        '{"version": 3}',
        '{"version": 99999999999999999999}',
        "[" * 100_000,
    ]
    return [json.dumps(one).encode() for one in wrong] + [text.encode() for text in texts] + [b"\xff\xfe"]


@pytest.mark.parametrize("value", foreign(), ids=range(len(foreign())))
def test_what_stands_there_and_is_no_profile_of_this_user_counts_as_absent_and_is_replaced(
    redis: Redis, value: bytes
):
    cache = in_redis(redis)
    redis.set("user:ann:embedding", value)
    assert cache.get("ann", "things") is None
    cache.put([full(version=0)])
    assert_same(cache.get("ann", "things"), full(version=0))


def test_profiles_replace_text_that_is_none_even_if_nobody_read_it_first(redis: Redis):
    redis.set("user:ann:embedding", "what is this")
    in_redis(redis).put([full()])
    assert in_redis(redis).get("ann", "things") is not None


def test_a_key_of_another_type_fails_alone(redis: Redis):
    redis.rpush("user:ann:embedding", "a list")
    cache = in_redis(redis)
    cache.put([full("ann"), full("bob")])
    assert cache.get("ann", "things") is None
    assert cache.get("bob", "things") is not None


def test_a_client_that_decodes_answers_is_fine(redis_url: str, redis: Redis):
    with Redis.from_url(redis_url, decode_responses=True) as client:
        in_redis(client).put([full()])
        assert_same(in_redis(client).get("ann", "things"), full())


def test_a_redis_that_is_away_is_an_empty_cache_but_cannot_be_told_to_forget():
    cache = RedisCache.at(f"redis://127.0.0.1:{free_port()}/0", "things")
    started = time.monotonic()
    cache.put([full()])
    assert cache.get("ann", "things") is None
    with pytest.raises(Unavailable, match="profile cache"):
        cache.erase([("ann", "things")])
    assert time.monotonic() - started < 1, "nobody waits for it"
    cache.close()


def test_a_redis_that_does_not_answer_is_waited_for_shortly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_module, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cache = RedisCache.at(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "things")
        started = time.monotonic()
        cache.put([full()])
        assert cache.get("ann", "things") is None
        assert time.monotonic() - started < 2
        cache.close()


def test_a_redis_that_was_away_is_found_again(redis_url: str, redis: Redis):
    cache = RedisCache.at(redis_url, "things")
    cache.put([full()])
    redis.client_kill_filter(skipme=True)  # the server closes every other connection
    assert_same(cache.get("ann", "things"), full())
    cache.close()


@pytest.mark.parametrize(
    ("call", "trips"),
    [
        (lambda cache: cache.put([full(f"u{i}") for i in range(50)]), 1),
        (lambda cache: cache.erase([(f"u{i}", "things") for i in range(50)]), 1),
        (lambda cache: cache.get("u1", "things"), 1),
        (lambda cache: cache.put([]), 0),
        (lambda cache: cache.erase([]), 0),
    ],
    ids=["put", "erase", "get", "put nothing", "erase nothing"],
)
def test_many_take_one_round_trip(redis: Redis, monkeypatch: pytest.MonkeyPatch, call: Any, trips: int):
    cache = in_redis(redis)
    redis.ping()  # connected
    sent = []
    send = Connection.send_packed_command

    def counting(self: Connection, command: Any, check_health: bool = True) -> None:
        sent.append(command)
        send(self, command, check_health)

    monkeypatch.setattr(Connection, "send_packed_command", counting)
    call(cache)
    assert len(sent) == trips


def test_the_memory_cache_is_bounded():
    cache = MemoryCache(size=10)
    cache.put([full(f"u{i}") for i in range(30)])
    assert sum(cache.get(f"u{i}", "things") is not None for i in range(30)) == 10
