"""How many requests a caller may send: a token bucket for each, in Redis, and in this process while
Redis is away.

A bucket holds `count` tokens and gains as many in `window_seconds`; a request takes one. Source of
the headers: draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ticketd.errors import Header, QuotaExceededError
from ticketd.messages import Headers, Response
from ticketd.pending import Pending
from ticketd.redis_link import Gathering, RedisLink
from ticketd.redis_wire import Script

KIND = b"quota"
# Buckets that one process keeps while Redis is away; then it starts again with full ones.
MOST_LOCAL = 10_000

# One clock for all workers, that of Redis. A bucket that has become full needs no entry. What is
# kept is exact: with six decimals, a caller who asks often would gain nothing between two requests.
TAKE = Script(
    b"""
local count, per_second = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local found = {}
for i, key in ipairs(KEYS) do
    local wanted = tonumber(ARGV[i + 2])
    local tokens, at = count, now
    local bucket = redis.call('GET', key)
    if bucket then
        tokens, at = string.match(bucket, '(%S+) (%S+)')
        tokens = math.min(count, tokens + math.max(now - at, 0) * per_second)
    end
    local taken = math.min(wanted, math.floor(tokens))
    tokens = tokens - taken
    local full = math.ceil((count - tokens) / per_second * 1000)
    redis.call('SET', key, string.format('%.17g %.17g', tokens, now), 'PX', math.max(full, 1))
    found[2 * i - 1] = taken
    found[2 * i] = string.format('%.6f', tokens)
end
return found
"""
)


@dataclass(frozen=True, slots=True)
class Quota:
    """`count` requests in any `window_seconds`, all of them at once if need be."""

    count: int
    window_seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.window_seconds


class Verdict(NamedTuple):
    """Whether a request may go on, and the tokens that are left after it."""

    is_allowed: bool
    tokens: float


class LocalBuckets:
    """Token buckets of this process; `now` is monotonic."""

    def __init__(self, quota: Quota, now: Callable[[], float]) -> None:
        self._quota = quota
        self._now = now
        self._buckets: dict[bytes, tuple[float, float]] = {}

    def take(self, name: bytes) -> Verdict:
        now = self._now()
        tokens, at = self._buckets.get(name, (float(self._quota.count), now))
        tokens = min(self._quota.count, tokens + (now - at) * self._quota.per_second)
        is_allowed = tokens >= 1
        if name not in self._buckets and len(self._buckets) >= MOST_LOCAL:
            self._buckets.clear()
        self._buckets[name] = (tokens - is_allowed, now)
        return Verdict(is_allowed, tokens - is_allowed)


class Quotas:
    """Counts requests against the quota. Without a link every process counts by itself."""

    def __init__(self, quota: Quota, local: LocalBuckets, link: RedisLink | None) -> None:
        self._quota = quota
        self._local = local
        self._link = link
        self._shared: Gathering[bytes, Verdict | None] | None = None
        if link is not None:
            link.register_script(TAKE)
            self._shared = link.gathering(self._pack, _verdicts, None)
        self._policy = b'"default";q=%d;w=%d' % (quota.count, math.ceil(quota.window_seconds))
        self._numbers = (b"%d" % quota.count, b"%.17g" % quota.per_second)

    def ask(self, name: bytes) -> Pending[Verdict | None] | None:
        """Redis's verdict on its way, None where there is no Redis. It may turn out as None."""
        return None if self._shared is None else self._shared.ask(name)

    def decide(self, name: bytes, shared: Verdict | None) -> "Standing":
        """By Redis's verdict, or without one. Raises QuotaExceededError."""
        verdict = shared or self._local.take(name)
        standing = Standing(self._headers(verdict))
        if not verdict.is_allowed:
            wait_seconds = math.ceil((1 - verdict.tokens) / self._quota.per_second)
            raise QuotaExceededError(self._quota.count, max(wait_seconds, 1), standing.pairs)
        return standing

    def _headers(self, verdict: Verdict) -> Sequence[Header]:
        until_full = math.ceil((self._quota.count - verdict.tokens) / self._quota.per_second)
        left = b'"default";r=%d;t=%d' % (verdict.tokens, until_full)
        return ((b"ratelimit-policy", self._policy), (b"ratelimit", left))

    def _pack(self, names: Sequence[bytes]) -> bytes:
        assert self._link is not None  # noqa: S101 - only a link packs
        wanted = Counter(names)
        keys = [self._link.name(KIND, name) for name in wanted]
        counts = [b"%d" % count for count in wanted.values()]
        return TAKE.pack(*keys, *self._numbers, *counts, keys=len(keys))


def _verdicts(names: Sequence[bytes], reply: Sequence[bytes | int]) -> Sequence[Verdict | None]:
    """The first so many requests of each name got a token, with those left that the later took."""
    left = {
        name: [int(taken), float(tokens)]
        for name, taken, tokens in zip(dict.fromkeys(names), reply[::2], reply[1::2], strict=True)
    }
    verdicts = []
    for name in names:
        bucket = left[name]
        bucket[0] -= 1
        verdicts.append(Verdict(bucket[0] >= 0, max(bucket[0], 0) + bucket[1]))
    return verdicts


class Standing:
    """The headers that tell a caller where it stands."""

    __slots__ = ("lines", "pairs")

    def __init__(self, pairs: Sequence[Header]) -> None:
        self.pairs = pairs
        self.lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])

    def added_to(self, response: Response) -> Response:
        own = Joined(response.own, self)
        return Response(response.status, response.common, response.body, own)


class Joined:
    """The headers of both."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Headers, second: Headers) -> None:
        self._first = first
        self._second = second

    @property
    def pairs(self) -> Sequence[Header]:
        return (*self._first.pairs, *self._second.pairs)

    @property
    def lines(self) -> bytes:
        return self._first.lines + self._second.lines
