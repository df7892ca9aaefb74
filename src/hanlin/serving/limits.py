"""How much one caller may use: requests and tokens a minute, requests at once, tokens a day. Pure logic, no I/O.

A minute is any 60 seconds, not a minute of the clock: use is counted by seconds, and a second counts until all of it
has gone out of the window. So no window ever holds more than the limit, and at most a second of it is given away.

A request's tokens are its prompt's and its answer's. How long the answer gets is not known when it is let in: the most
that it may take is reserved then, and what it did not take is given back when it ends.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from hanlin.artifacts import HanlinError, Settings
from hanlin.serving.keys import KeyLimits

_WINDOW = 60
_DAY = 86_400


class Limits(Settings):
    """What a caller may use."""

    requests_per_minute: int | None = Field(default=120, ge=1)
    """Requests let in in any 60 seconds; none: no limit."""
    tokens_per_minute: int | None = Field(default=200_000, ge=1)
    """Tokens, of prompts and answers together, of the requests let in in any 60 seconds; none: no limit."""
    concurrent_requests: int | None = Field(default=16, ge=1)
    """Requests that run at the same time; none: no limit."""
    daily_tokens: int | None = Field(default=None, ge=1)
    """Tokens of the requests let in in a day (UTC); none: no limit."""

    def of(self, key: KeyLimits) -> Limits:
        """These, but what a key sets for itself."""
        return self.model_copy(update=key.model_dump(exclude_none=True))


class LimitError(HanlinError):
    """A request is over a limit."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which it may be let in; None: never, it is too large by itself"""


@dataclass(slots=True)
class _Second:
    number: int
    requests: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Caller:
    seconds: deque[_Second] = field(default_factory=deque[_Second])
    """Those of the last minute in which something was let in, the oldest first"""
    running: int = 0
    day: int = 0
    day_tokens: int = 0
    """Of requests under a daily limit"""

    def forget(self, now: float) -> None:
        while self.seconds and _leaves(self.seconds[0]) <= now:
            self.seconds.popleft()
        if self.day != now // _DAY:
            self.day, self.day_tokens = int(now // _DAY), 0


class Admission:
    """A request that was let in. `end` it, once, however it ends; more often does no harm."""

    def __init__(self, limiter: Limiter, caller: _Caller, second: _Second, tokens: int, daily: bool) -> None:
        self._limiter, self._caller, self._second, self._reserved = limiter, caller, second, tokens
        self._day, self._ended = caller.day if daily else None, False

    def end(self, tokens: int) -> None:
        """It is over, and took so many tokens, of prompt and answer together."""
        with self._limiter.lock:
            if self._ended:
                return
            self._ended = True
            self._caller.running -= 1
            self._second.tokens += tokens - self._reserved
            if self._caller.day == self._day:
                self._caller.day_tokens += tokens - self._reserved


class Limiter:
    """Lets requests in or refuses them, each caller for itself; safe to use from many threads.

    What is kept of a caller is at most a minute of counters, and nothing when it has been idle for a minute and has no
    daily limit.
    """

    def __init__(self, clock: Callable[[], float] = time.time, used_today: Mapping[str, int] | None = None) -> None:
        """`clock`: seconds since 1970 in UTC. `used_today`: tokens that callers have taken today, for a service that
        begins again (`RequestLog.tokens_since`)."""
        self._clock, self._callers = clock, dict[str, _Caller]()
        self.lock = threading.Lock()
        self._now = self._swept = clock()
        for name, tokens in (used_today or {}).items():
            self._callers[name] = _Caller(day=int(self._now // _DAY), day_tokens=tokens)

    def admit(self, caller: str, limits: Limits, tokens: int) -> Admission:
        """Let a request in that takes at most `tokens`. Raises LimitError, and then nothing is counted."""
        with self.lock:
            now = self._now = max(self._now, self._clock())  # a clock that is set back gives nothing back
            self._sweep(now)
            state = self._callers.get(caller) or _Caller()
            state.forget(now)
            _check(state, limits, tokens, now)
            self._callers[caller] = state
            if not state.seconds or state.seconds[-1].number != int(now):
                state.seconds.append(_Second(int(now)))
            second = state.seconds[-1]
            second.requests += 1
            second.tokens += tokens
            state.running += 1
            daily = limits.daily_tokens is not None
            state.day_tokens += tokens if daily else 0
            return Admission(self, state, second, tokens, daily)

    def running(self, caller: str) -> int:
        """Requests of a caller that have not ended."""
        with self.lock:
            state = self._callers.get(caller)
            return 0 if state is None else state.running

    def __len__(self) -> int:
        """Callers of whom something is kept."""
        return len(self._callers)

    def _sweep(self, now: float) -> None:
        if now - self._swept < _WINDOW:
            return
        self._swept = now
        for name, state in list(self._callers.items()):
            state.forget(now)
            if not state.running and not state.seconds and not state.day_tokens:
                del self._callers[name]


def _leaves(second: _Second) -> int:
    """When all of a second has gone out of the window."""
    return second.number + 1 + _WINDOW


def _check(state: _Caller, limits: Limits, tokens: int, now: float) -> None:
    """Raise LimitError if one more request of `tokens` is too much."""
    least = [limit for limit in (limits.tokens_per_minute, limits.daily_tokens) if limit is not None]
    if least and tokens > min(least):
        raise LimitError(
            f"the request may take {tokens:,} tokens, and the limit is {min(least):,}: shorten the prompt, or ask for "
            "a shorter answer (max_completion_tokens)",
            None,
        )
    if limits.daily_tokens is not None and state.day_tokens + tokens > limits.daily_tokens:
        wait = (state.day + 1) * _DAY - now
        raise LimitError(f"{state.day_tokens:,} of {limits.daily_tokens:,} tokens of the day (UTC) are taken", wait)
    wait = 0.0
    what: list[str] = []
    for name, limit, wanted, used in (
        ("requests", limits.requests_per_minute, 1, [(one, one.requests) for one in state.seconds]),
        ("tokens", limits.tokens_per_minute, tokens, [(one, one.tokens) for one in state.seconds]),
    ):
        if limit is None:
            continue
        total = sum(amount for _, amount in used)
        if total + wanted > limit:
            what.append(f"{total:,} of {limit:,} {name} a minute")
        for second, amount in used:
            if total + wanted <= limit:
                break
            total -= amount
            wait = max(wait, _leaves(second) - now)
    if what:
        raise LimitError(f"{' and '.join(what)} are taken", wait)
    if limits.concurrent_requests is not None and state.running >= limits.concurrent_requests:
        # When one of them ends can't be known; the client may as well ask again soon.
        raise LimitError(f"{state.running} requests are running, of {limits.concurrent_requests} at once", 1.0)


def retry_after(seconds: float) -> str:
    """Seconds for the header `Retry-After`: whole ones, at least one."""
    return str(max(1, math.ceil(seconds)))
