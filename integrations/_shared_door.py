"""The door that all processes share, in Redis: one round trip to be let in, one to say what came of the call.

Two scripts of our own, put together from the parts for the circuit and for the budget, so that a try is let in by both
or by none. The clock is Redis's own. Without Redis each process goes on with a door in its memory, which begins where
the shared one was last seen and lets through a part of the budget: an upstream that is away or wants quiet is left
alone also then, and nobody is without a limit. Redis is not waited for again for a few seconds, since a call that waits
for Redis is a call that is slow.
"""

import time
from dataclasses import asdict
from typing import Any

import orjson
import redis

from integrations import _shared_budget, _shared_circuit
from integrations._budget import Hindrance, Level, Refusal
from integrations._circuit import Verdict
from integrations._door import Answer, Ask, Change, LocalDoor
from integrations._rate import Rate
from integrations._shared_budget import BUDGET, HINDRANCES
from integrations._shared_circuit import CIRCUIT
from integrations._teaching import NOTHING, Lesson

#: Seconds for which Redis is not asked again after it did not answer.
AWAY = 5.0

#: Milliseconds now.
CLOCK = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000)"
_PARTS = f"{CLOCK} local rules = cjson.decode(ARGV[1]) {CIRCUIT} {BUDGET}"
# Arguments: the rules, the token, the cost, the patience.
ADMIT = f"""
{_PARTS}
local token, cost, patience = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local at, open_for, wait = unpack(circuit_standing())
if wait > 0 then return {{at, open_for, wait, 1, math.ceil(wait), math.ceil(wait)}} end
local hindrance, ready = budget_hindrance(cost)
if hindrance > 0 then
    local turn = budget_turn(cost, patience, ready)
    return {{at, open_for, 0, hindrance, math.ceil(ready), math.ceil(turn)}}
end
circuit_enter({{at, open_for, wait}}, token)
budget_enter(token, cost)
return {{at, open_for, 0, 0, 0, 0}}
"""
# Arguments: the rules, the token, the cost, the verdict, the lesson.
SETTLE = f"""
{_PARTS}
local token, paid, verdict, lesson = ARGV[2], tonumber(ARGV[3]), ARGV[4], cjson.decode(ARGV[5])
local block = budget_settle(token, verdict, lesson, paid)
local standing = circuit_settle(token, verdict)
return {{block, standing and 1 or 0, unpack(standing or {{0, 0, 0}})}}
"""
# Arguments: the rules. Changes nothing.
LOOK = f"""
{_PARTS}
return {{
    math.ceil(math.max(0, full - now)), blocked and math.ceil(math.max(0, blocked - now)) or -1,
    redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf'), exact(interval)
}}
"""


class SharedDoor:
    """The door to one upstream that all processes share.

    Args:
        client: A Redis client with little patience and without hidden retries.
        upstream: Where it leads.
        rate: What all processes together may spend.
    """

    def __init__(self, client: redis.Redis, upstream: str, rate: Rate) -> None:
        self._client = client
        self._rate = rate
        self._keys = [f"headrace:{part}:{upstream}" for part in ("circuit", "budget", "calls")]
        self._admit = client.register_script(ADMIT)
        self._settle = client.register_script(SETTLE)
        self._look = client.register_script(LOOK)
        self._local = LocalDoor(rate.part())
        self._away_until = 0.0

    def admit(self, ask: Ask) -> Answer:
        """Let a try in, or say what is in its way."""
        if self._away():
            return self._local.admit(ask)
        arguments: list[bytes | str | float] = [self._rules(), ask.token, ask.cost, _ms(ask.patience)]
        try:
            found = _answer(self._admit(keys=self._keys, args=arguments))
        except redis.RedisError:
            self._leave_alone()
            return self._local.admit(ask)
        self._local.follow(found)
        return found

    def settle(self, ask: Ask, verdict: Verdict, lesson: Lesson = NOTHING) -> Change:
        """Say what came of a try that was let in."""
        if self._away():
            return self._local.settle(ask, verdict, lesson)
        arguments: list[bytes | str | float] = [self._rules(), ask.token, ask.cost, verdict, _lesson(lesson)]
        try:
            found = _change(self._settle(keys=self._keys, args=arguments))
        except redis.RedisError:
            self._leave_alone()
            return self._local.settle(ask, verdict, lesson)
        if found.block is not None:
            self._local.budget.block(found.block)
        return found

    def reset(self) -> set[Hindrance]:
        """Close the circuit, end a block, forget what was counted and spent; what was in the way.

        Raises:
            redis.RedisError: Redis is away, so nothing was shared.
        """
        circuit, budget, _ = self._keys
        parts = {Hindrance.CIRCUIT: circuit, Hindrance.BLOCKED: budget}
        found = {hindrance for hindrance, key in parts.items() if self._client.hexists(key, "until")}
        self._client.delete(circuit, budget)  # calls under way stay so
        self._local.reset()
        return found

    def level(self) -> Level:
        """Return how much of the budget is left.

        Raises:
            redis.RedisError: Redis is away, so nothing is shared.
        """
        missing, blocked, under_way, interval = self._look(keys=self._keys, args=[self._rules()])
        each = float(interval) / 1000
        return Level(
            tokens=self._rate.burst - int(missing) / 1000 / each,
            blocked=int(blocked) / 1000 if int(blocked) >= 0 else None,
            under_way=int(under_way),
            interval=each,
        )

    def _rules(self) -> bytes:
        return orjson.dumps(_shared_circuit.rules() | _shared_budget.rules(self._rate))

    def _away(self) -> bool:
        return time.monotonic() < self._away_until

    def _leave_alone(self) -> None:
        self._away_until = time.monotonic() + AWAY


def _ms(seconds: float) -> float:
    return seconds * 1000


def _lesson(lesson: Lesson) -> bytes:
    told = {name: value for name, value in asdict(lesson).items() if value is not None}
    return orjson.dumps({name: _ms(value) if name in {"block", "interval"} else value for name, value in told.items()})


def _answer(said: Any) -> Answer:
    *circuit, hindrance, ready, turn = said
    found: Hindrance | None = HINDRANCES[int(hindrance)]
    refusal = Refusal(found, int(ready) / 1000, int(turn) / 1000) if found else None
    return Answer(_shared_circuit.read(*circuit), refusal)


def _change(said: Any) -> Change:
    block, changed, *circuit = said
    standing = _shared_circuit.read(*circuit) if int(changed) else None
    return Change(standing, int(block) / 1000 if int(block) >= 0 else None)
