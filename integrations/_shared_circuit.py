"""The circuit that all processes share, in Redis: one round trip to be admitted, one to say what came of the call.

The rules are those of `integrations._circuit`, as two scripts, so that of twenty callers at the same moment one is the
probe. The clock is Redis's own. One hash holds everything and goes by itself: an open circuit that nobody asked for an
hour is forgotten, and so is one whose Redis was wiped; both are closed then, and open again if the trouble lasts.

Without Redis each process goes on with a circuit in its memory, which begins where the shared one was last seen. So an
upstream that is away is left alone also then, with one probe for each process; and Redis is not waited for again
for a few seconds, since a call that waits for Redis is a call that is slow.
"""

import time
from typing import Any

import redis

from integrations._circuit import FIRST, LEASE, LEAST, LONGEST, RATIO, SLICES, WINDOW, LocalCircuit, Standing, Verdict

#: Seconds for which Redis is not asked again after it did not answer.
AWAY = 5.0
#: Seconds after which an open circuit that nobody asks is forgotten.
KEPT = 3600

#: Milliseconds now.
CLOCK = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000)"
# Fields: `until` (the next probe; absent when closed), `since`, `opened` (how often since it was last closed), `probe`
# (its token), `lease`; while closed, calls `c:` and failures `f:` by number of slice.
_WAIT = """
local function wait()
    local left = redis.call('HMGET', KEYS[1], 'until', 'probe', 'lease')
    if now < tonumber(left[1]) then return left[1] - now end
    if left[2] and now < tonumber(left[3]) then return math.min(left[3] - now, tonumber(ARGV[2])) end
    return 0
end
local function standing()
    return {now, now - redis.call('HGET', KEYS[1], 'since'), wait()}
end
"""
ADMIT = f"""
{CLOCK} {_WAIT}
if redis.call('HEXISTS', KEYS[1], 'until') == 0 then return {{now, -1, 0}} end
local found = standing()
if found[3] <= 0 then
    redis.call('HSET', KEYS[1], 'probe', ARGV[1], 'lease', string.format('%.0f', now + ARGV[3]))
end
return found
"""
SETTLE = f"""
{CLOCK} {_WAIT}
local key, token, verdict = KEYS[1], ARGV[1], ARGV[3]
local first, longest, kept = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local width, slices, least, ratio = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local function open(opened, since)
    local span = math.min(first * 2 ^ opened, longest)
    redis.call('DEL', key)
    redis.call('HSET', key, 'opened', opened + 1, 'since', since, 'until', string.format('%.0f', now + span))
    redis.call('PEXPIRE', key, string.format('%.0f', span + kept))
    return standing()
end

if redis.call('HEXISTS', key, 'until') == 1 then
    local known = redis.call('HMGET', key, 'probe', 'opened', 'since')
    if known[1] ~= token then return false end
    if verdict == 'failed' then return open(tonumber(known[2]), known[3]) end
    if verdict == 'untold' then redis.call('HDEL', key, 'probe', 'lease') return false end
    redis.call('DEL', key)
    return {{now, -1, 0}}
end
if verdict == 'untold' then return false end

local current = math.floor(now / width)
redis.call('HINCRBY', key, 'c:' .. current, 1)
if verdict == 'failed' then redis.call('HINCRBY', key, 'f:' .. current, 1) end
redis.call('PEXPIRE', key, width * (slices + 1))
if verdict ~= 'failed' then return false end
local calls, failures, fields = 0, 0, redis.call('HGETALL', key)
for place = 1, #fields, 2 do
    local kind, slice = string.match(fields[place], '^(%a):(%d+)$')
    if tonumber(slice) <= current - slices then redis.call('HDEL', key, fields[place])
    elseif kind == 'c' then calls = calls + fields[place + 1]
    else failures = failures + fields[place + 1] end
end
if calls < least or failures < ratio * calls then return false end
return open(0, string.format('%.0f', now))
"""


class SharedCircuit:
    """The circuit of one upstream that all processes share.

    Args:
        client: A Redis client with little patience and without hidden retries.
        upstream: Whose circuit it is.
    """

    def __init__(self, client: redis.Redis, upstream: str) -> None:
        self._client = client
        self._key = f"headrace:circuit:{upstream}"
        self._admit = client.register_script(ADMIT)
        self._settle = client.register_script(SETTLE)
        self._local = LocalCircuit()
        self._away_until = 0.0

    def admit(self, token: str) -> Standing:
        """Ask whether a call may be made; it may if there is nothing to wait for."""
        if self._away():
            return self._local.admit(token)
        try:
            found = _read(self._admit(keys=[self._key], args=[token, _ms(FIRST), _ms(LEASE)]))
        except redis.RedisError:
            self._leave_alone()
            return self._local.admit(token)
        self._local.follow(found)
        return found

    def settle(self, token: str, verdict: Verdict) -> Standing | None:
        """Say what came of an admitted call; how the circuit stands if that changed it."""
        if self._away():
            return self._local.settle(token, verdict)
        rules = [_ms(LONGEST), _ms(KEPT), _ms(WINDOW / SLICES), SLICES, LEAST, RATIO]
        try:
            found = self._settle(keys=[self._key], args=[token, _ms(FIRST), verdict, *rules])
        except redis.RedisError:
            self._leave_alone()
            return self._local.settle(token, verdict)
        return _read(found) if found is not None else None

    def reset(self) -> bool:
        """Close it and forget what was counted; whether it was open.

        Raises:
            redis.RedisError: Redis is away, so nothing was shared.
        """
        was_open = bool(self._client.hexists(self._key, "until"))
        self._client.delete(self._key)
        self._local.reset()
        return was_open

    def _away(self) -> bool:
        return time.monotonic() < self._away_until

    def _leave_alone(self) -> None:
        self._away_until = time.monotonic() + AWAY


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _read(found: Any) -> Standing:
    at, open_for, wait = (int(number) for number in found)
    return Standing(at / 1000, open_for / 1000 if open_for >= 0 else None, wait / 1000)
