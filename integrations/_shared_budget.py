"""The budget that all processes share, as a part of the scripts of `integrations._shared_door`.

The rules are those of `integrations._budget`. What is spent, taught and asked for is one hash, the calls under way are
one sorted set with the end of each one's lease; both go by themselves once they say nothing any more. A Redis that was
wiped has a full budget: at most one burst too many, and an upstream that minds says so.

Fields: `full` (when all units are back), `line` (the next turn), `until` (the end of a block, kept until one call has
asked), `probe` (its token), `lease`, `taught` (milliseconds until one unit has come back there).
"""

from integrations._budget import SOON, Hindrance
from integrations._rate import Rate
from integrations._retry_after import LONGEST

#: Milliseconds that what a budget knows is kept beyond the last moment it names.
KEPT = 3_600_000

#: The words of a script for what is in the way, by number.
HINDRANCES = (None, Hindrance.CIRCUIT, Hindrance.BLOCKED, Hindrance.BUDGET, Hindrance.PLACES)

#: Needs `now` (milliseconds), `rules`, the hash as the second key and the sorted set as the third.
BUDGET = """
local known = redis.call('HMGET', KEYS[2], 'full', 'line', 'until', 'probe', 'lease', 'taught')
local full, line, blocked = tonumber(known[1] or 0), tonumber(known[2] or 0), known[3] and tonumber(known[3])
local interval = math.max(rules.interval, tonumber(known[6] or 0))

local function budget_keep(...)
    redis.call('HSET', KEYS[2], ...)
    local last = math.max(full, line, blocked or 0, now)
    redis.call('PEXPIRE', KEYS[2], string.format('%.0f', last - now + rules.keep))
end

local function exact(moment) return string.format('%.3f', moment) end

local function budget_hindrance(cost)
    if blocked and now < blocked then return 2, blocked - now end
    if known[4] and now < tonumber(known[5]) then return 2, math.min(tonumber(known[5]) - now, rules.soon) end
    local over = math.max(full, now) - now - (rules.burst - math.min(cost, rules.burst)) * interval
    if over > 0 then return 3, over end
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
    if redis.call('ZCARD', KEYS[3]) >= rules.concurrency then return 4, rules.soon end
    return 0, 0
end

local function budget_turn(cost, patience, ready)
    if ready <= patience then return ready end
    local turn = math.min(math.max(line, now + ready), now + ready + rules.hour)
    line = turn + cost * interval
    budget_keep('line', exact(line))
    return turn - now
end

local function budget_enter(token, cost)
    local lease = string.format('%.0f', now + rules.lease)
    full = math.max(full, now) + cost * interval
    budget_keep('full', exact(full))
    if blocked then redis.call('HSET', KEYS[2], 'probe', token, 'lease', lease) end
    redis.call('ZADD', KEYS[3], lease, token)
    redis.call('PEXPIRE', KEYS[3], rules.lease)
end

local function budget_learn(lesson, paid)
    if lesson.interval then interval = math.max(rules.interval, math.min(lesson.interval, rules.hour)) end
    if lesson.cost then full = full + (lesson.cost - paid) * interval end
    if lesson.remaining then full = math.max(full, now + math.max(0, rules.burst - lesson.remaining) * interval) end
    full = math.min(full, now + rules.burst * interval + rules.hour)
    budget_keep('full', exact(full))
    if lesson.interval then redis.call('HSET', KEYS[2], 'taught', exact(lesson.interval)) end
end

local function budget_block(seconds)
    if blocked and now + seconds <= blocked then return -1 end
    blocked = now + seconds
    budget_keep('until', exact(blocked))
    redis.call('HDEL', KEYS[2], 'probe', 'lease')
    return seconds
end

local function budget_probed(verdict)
    redis.call('HDEL', KEYS[2], 'probe', 'lease')
    if verdict ~= 'answered' then return end
    full = math.max(full, now + rules.burst * interval)
    redis.call('HDEL', KEYS[2], 'until')
    budget_keep('full', exact(full))
end

local function budget_settle(token, verdict, lesson, paid)
    redis.call('ZREM', KEYS[3], token)
    if lesson.interval or lesson.cost or lesson.remaining then budget_learn(lesson, paid) end
    if lesson.block then return budget_block(lesson.block) end
    if known[4] == token then budget_probed(verdict) end
    return -1
end
"""


def rules(rate: Rate) -> dict[str, float]:
    """Return the numbers of the rules, in milliseconds where they are times."""
    spans = {"interval": rate.interval * 1000, "soon": SOON * 1000, "hour": LONGEST * 1000, "keep": KEPT}
    return spans | {"burst": rate.burst, "concurrency": rate.concurrency}
