"""The circuit that all processes share, as a part of the scripts of `integrations._shared_door`.

The rules are those of `integrations._circuit`, so that of twenty callers at the same moment one is the probe. One hash
holds everything and goes by itself: an open circuit that nobody asked for an hour is forgotten, and so is one whose
Redis was wiped; both are closed then, and open again if the trouble lasts.

Fields: `until` (the next probe; absent when closed), `since`, `opened` (how often since it was last closed), `probe`
(its token), `lease`; while closed, calls `c:` and failures `f:` by number of slice.
"""

from typing import Any

from integrations._circuit import FIRST, LEASE, LEAST, LONGEST, RATIO, SLICES, WINDOW, Standing

#: Seconds after which an open circuit that nobody asks is forgotten.
KEPT = 3600

#: Needs `now` (milliseconds), `rules`, and the hash as the first key.
CIRCUIT = """
local function circuit_wait()
    local left = redis.call('HMGET', KEYS[1], 'until', 'probe', 'lease')
    if now < tonumber(left[1]) then return left[1] - now end
    if left[2] and now < tonumber(left[3]) then return math.min(left[3] - now, rules.first) end
    return 0
end

local function circuit_standing()
    if redis.call('HEXISTS', KEYS[1], 'until') == 0 then return {now, -1, 0} end
    return {now, now - redis.call('HGET', KEYS[1], 'since'), circuit_wait()}
end

local function circuit_enter(standing, token)
    if standing[2] < 0 then return end
    redis.call('HSET', KEYS[1], 'probe', token, 'lease', string.format('%.0f', now + rules.lease))
end

local function circuit_open(opened, since)
    local span = math.min(rules.first * 2 ^ opened, rules.longest)
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'opened', opened + 1, 'since', since, 'until', string.format('%.0f', now + span))
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', span + rules.kept))
    return circuit_standing()
end

local function circuit_probed(token, verdict)
    local known = redis.call('HMGET', KEYS[1], 'probe', 'opened', 'since')
    if known[1] ~= token then return false end
    if verdict == 'failed' then return circuit_open(tonumber(known[2]), known[3]) end
    if verdict == 'untold' then redis.call('HDEL', KEYS[1], 'probe', 'lease') return false end
    redis.call('DEL', KEYS[1])
    return {now, -1, 0}
end

local function circuit_count(current)
    local calls, failures, fields = 0, 0, redis.call('HGETALL', KEYS[1])
    for place = 1, #fields, 2 do
        local kind, slice = string.match(fields[place], '^(%a):(%d+)$')
        if tonumber(slice) <= current - rules.slices then redis.call('HDEL', KEYS[1], fields[place])
        elseif kind == 'c' then calls = calls + fields[place + 1]
        else failures = failures + fields[place + 1] end
    end
    return calls, failures
end

local function circuit_settle(token, verdict)
    if redis.call('HEXISTS', KEYS[1], 'until') == 1 then return circuit_probed(token, verdict) end
    if verdict == 'untold' then return false end
    local current = math.floor(now / rules.width)
    redis.call('HINCRBY', KEYS[1], 'c:' .. current, 1)
    if verdict == 'failed' then redis.call('HINCRBY', KEYS[1], 'f:' .. current, 1) end
    redis.call('PEXPIRE', KEYS[1], rules.width * (rules.slices + 1))
    if verdict ~= 'failed' then return false end
    local calls, failures = circuit_count(current)
    if calls < rules.least or failures < rules.ratio * calls then return false end
    return circuit_open(0, string.format('%.0f', now))
end
"""


def rules() -> dict[str, float]:
    """Return the numbers of the rules, in milliseconds where they are times."""
    spans = {"first": FIRST, "longest": LONGEST, "lease": LEASE, "kept": KEPT, "width": WINDOW / SLICES}
    whole = {name: round(seconds * 1000) for name, seconds in spans.items()}
    return whole | {"slices": SLICES, "least": LEAST, "ratio": RATIO}


def read(at: Any, open_for: Any, wait: Any) -> Standing:
    """Read how a circuit stands from what a script said."""
    return Standing(int(at) / 1000, int(open_for) / 1000 if int(open_for) >= 0 else None, int(wait) / 1000)
