"""Where profiles are cached: Redis for a service of many processes, memory for the embedded one."""

import threading
from collections.abc import Sequence
from typing import Any, Protocol, Self
from urllib.parse import quote

import numpy as np
import structlog
from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from clickstream.improvement_queue import Owner
from improvement.errors import Unavailable
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.profile import Profile

log = structlog.get_logger()

#: Seconds a cached profile lives: 7 days (seed 004).
LIFE = 7 * 86_400
#: Seconds in which nothing is cached of an erased user: whoever read them before has stored them by then.
ERASED = 60
#: Seconds that Redis has to answer.
TIMEOUT = 1.0
#: Profiles kept in memory.
PROFILES = 10_000
#: Stores a profile unless a newer one is there or its user was erased. "version" comes first in the JSON.
_PUT = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local held = redis.call('GET', KEYS[1])
local version = held and tonumber(string.match(held, '^{"version":(%d+)'))
if version and version >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class ProfileCache(Protocol):
    """Profiles by user and domain; an older version never replaces a newer one."""

    def get(self, user_id: str, domain: str) -> Profile | None:
        """Return the cached profile, or None."""
        ...

    def put(self, profiles: Sequence[Profile]) -> bool:
        """Cache profiles, each unless a newer one is there; one round trip. False: the cache is away."""
        ...

    def erase(self, owners: Sequence[tuple[str, str]]) -> None:
        """Forget (user id, domain) pairs, and take none of them for `ERASED` seconds; one round trip."""
        ...


class MemoryCache:
    """A cache in this process, for the embedded service: everything that writes profiles is in it."""

    def __init__(self, size: int = PROFILES) -> None:
        self._profiles: TTLCache[str, Profile] = TTLCache(size, LIFE)
        self._erased: TTLCache[str, bool] = TTLCache(size, ERASED)
        self._lock = threading.Lock()

    def get(self, user_id: str, domain: str) -> Profile | None:
        """Return the cached profile, or None."""
        with self._lock:
            return self._profiles.get(Owner(domain, user_id).key)

    def put(self, profiles: Sequence[Profile]) -> bool:
        """Cache profiles, each unless a newer one is there."""
        with self._lock:
            for profile in profiles:
                key = Owner(profile.domain, profile.user_id).key
                held = self._profiles.get(key)
                if key not in self._erased and (held is None or held.version < profile.version):
                    self._profiles[key] = profile
        return True

    def erase(self, owners: Sequence[tuple[str, str]]) -> None:
        """Forget these, and take none of them for `ERASED` seconds."""
        with self._lock:
            for user_id, domain in owners:
                key = Owner(domain, user_id).key
                self._profiles.pop(key, None)
                self._erased[key] = True


class RedisCache:
    """``user:{user_id}:embedding`` -> the profile as JSON, 7 days.

    User ids are percent-encoded in the key, so that no id looks like another key; domains beside the
    default one follow as ``user:{user_id}:embedding:{domain}``. A Redis that is away is an empty cache.
    """

    def __init__(self, client: Redis, default_domain: str) -> None:
        self._client, self._default = client, default_domain

    @classmethod
    def at(cls, url: str, default_domain: str) -> Self:
        """Return the cache of a Redis server, with a client that does not keep searches waiting for it.

        redis-py's own way is to try again for seconds.
        """
        once_more = Retry(NoBackoff(), 1)
        client = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=once_more)
        return cls(client, default_domain)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, user_id: str, domain: str) -> Profile | None:
        """Return the cached profile, or None; also for what is there and is no profile of this user."""
        key = self.key(user_id, domain)
        try:
            found: Any = self._client.get(key)
            if found is None:
                return None
            profile = _profile(found)
            if profile is not None and (profile.user_id, profile.domain) == (user_id, domain):
                return profile
            self._client.delete(key)  # or its version might keep the right one out
        except RedisError as error:
            log.warning("nothing read from the profile cache", error=str(error))
        return None

    def put(self, profiles: Sequence[Profile]) -> bool:
        """Cache profiles, each unless a newer one is there; one round trip. False: Redis is away."""
        if not profiles:
            return True
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for profile in profiles:
                    key = self.key(profile.user_id, profile.domain)
                    mark = _mark(profile.user_id, profile.domain)
                    # not by its digest: redis-py would ask first whether the server knows it
                    pipeline.eval(_PUT, 2, key, mark, profile.version, profile_json(profile), LIFE)
                pipeline.execute()
        except RedisError as error:
            log.warning("nothing written to the profile cache", error=str(error))
            return False
        return True

    def erase(self, owners: Sequence[tuple[str, str]]) -> None:
        """Forget these, and take none of them for `ERASED` seconds; one round trip.

        Raises:
            Unavailable: Redis does not answer.
        """
        if not owners:
            return
        try:
            with self._client.pipeline() as pipeline:
                for user_id, domain in owners:
                    pipeline.set(_mark(user_id, domain), "", ex=ERASED)
                    pipeline.delete(self.key(user_id, domain))
                pipeline.execute()
        except RedisError as error:
            raise Unavailable(f"the profile cache does not answer: {error}") from error

    def key(self, user_id: str, domain: str) -> str:
        """Return the key of a user in a domain."""
        key = f"user:{quote(user_id, safe='')}:embedding"
        return key if domain == self._default else f"{key}:{domain}"


def _mark(user_id: str, domain: str) -> str:
    """Return the key that says that a user was erased, without saying who."""
    return f"erased:{Owner(domain, user_id).key}"


class _Cached(BaseModel):
    """A profile as JSON. pydantic writes and reads numbers about eight times as fast as `json` does."""

    model_config = ConfigDict(strict=True)

    version: int  # first: the script in Redis reads it
    user_id: str
    domain: str
    model_version: str
    embedding: list[float] | None
    liked: list[float] | None
    negative: list[float] | None
    negative_at: float
    interests: list[list[float]]
    positives: int
    negatives: int
    seen: tuple[str, ...]
    updated_at: float
    generated_at: float | None


def profile_json(profile: Profile) -> str:
    """Return a profile as JSON, ``version`` first; its numbers come back to the last bit."""
    embedding, liked, negative = profile.embedding, profile.liked, profile.negative
    cached = _Cached.model_construct(
        **vars(profile)
        | {
            "embedding": None if embedding is None else embedding.tolist(),
            "liked": None if liked is None else liked.tolist(),
            "negative": None if negative is None else negative.vector.tolist(),
            "negative_at": 0.0 if negative is None else negative.at,
            "interests": profile.interests.tolist(),
        }
    )
    return cached.model_dump_json()


def _profile(text: str | bytes) -> Profile | None:
    """Return what `profile_json` wrote, or None for anything else."""
    try:
        found = _Cached.model_validate_json(text)
        interests = np.asarray(found.interests, np.float32)
    except ValueError:
        return None
    negative = None if found.negative is None else np.asarray(found.negative)
    return Profile(
        **{name: value for name, value in found if name != "negative_at"}
        | {
            "embedding": None if found.embedding is None else np.asarray(found.embedding, np.float32),
            "liked": None if found.liked is None else np.asarray(found.liked, np.float32),
            "negative": None if negative is None else NegativeProfile(negative, found.negative_at),
            "interests": interests if found.interests else np.empty((0, 0), np.float32),
        }
    )
