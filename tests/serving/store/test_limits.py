from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.serving.keys import KeyLimits
from hanlin.serving.limits import Admission, Limiter, LimitError, Limits, retry_after
from tests.serving.store.conftest import Clock

NONE = Limits(requests_per_minute=None, tokens_per_minute=None, concurrent_requests=None, daily_tokens=None)

steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "admit", "end", "end again"]),
        st.floats(0, 40).map(lambda x: round(x, 2)) | st.just(0.0),  # seconds before it
        st.integers(1, 40),  # tokens at most
        st.floats(0, 1),  # of which are taken; also: which of the running ones ends
    ),
    max_size=80,
)


@given(
    steps,
    st.integers(1, 6),
    st.integers(20, 120),
    st.integers(1, 4),
    st.none() | st.integers(60, 400),
    st.floats(0, 90_000),
)
@settings(max_examples=250, deadline=None)
def test_no_window_ever_holds_more_than_the_limit(
    steps: list[tuple[str, float, int, float]],
    requests: int,
    tokens: int,
    at_once: int,
    daily: int | None,
    start: float,
) -> None:
    """Against a log of everything: a refused request would have broken a limit (to within a second of the window), a
    request let in breaks none, in whatever order requests end, and what is said about when to come again is true."""
    clock = Clock(1_750_000_000.0 + start)
    limiter = Limiter(clock)
    limits = Limits(
        requests_per_minute=requests, tokens_per_minute=tokens, concurrent_requests=at_once, daily_tokens=daily
    )
    log: list[list[float]] = []  # [when, tokens]
    running: list[tuple[Admission, int, int]] = []
    over: list[Admission] = []

    def used(since: float) -> tuple[int, float]:
        inside = [amount for moment, amount in log if moment > since]
        return len(inside), sum(inside)

    for what, wait, most, share in steps:
        clock.now += wait
        day = clock.now // 86_400 * 86_400 - 1e-9
        if what == "admit":
            try:
                admission = limiter.admit("a", limits, most)
            except LimitError as refused:
                count, amount = used(clock.now - 61)  # a second stays until all of it is out
                over_window = count + 1 > requests or amount + most > tokens
                over_day = daily is not None and used(day)[1] + most > daily
                never = most > min(tokens, daily or tokens)
                assert over_window or over_day or never or len(running) >= at_once
                assert (refused.retry_after is None) == never
                if not never and not over_day and len(running) < at_once:
                    assert 0 < refused.retry_after <= 61
                    later = Limiter(clock)
                    later._callers, later._now = limiter._callers, limiter._now
                    before, clock.now = clock.now, clock.now + refused.retry_after
                    if clock.now // 86_400 == before // 86_400:
                        later.admit("a", limits, most).end(0)
                        # It was only to see: take it out of the count again.
                        limiter._callers["a"].seconds[-1].requests -= 1
                        limiter._now = clock.now
            else:
                log.append([clock.now, most])
                running.append((admission, len(log) - 1, most))
                assert len(running) <= at_once
                assert used(clock.now - 60)[0] <= requests
                assert used(clock.now - 60)[1] <= tokens
                assert daily is None or used(day)[1] <= daily
        elif what == "end" and running:
            admission, place, most = running.pop(int(share * (len(running) - 1)))
            log[place][1] = int(share * most)
            admission.end(int(share * most))
            over.append(admission)
        elif what == "end again" and over:
            random.Random(most).choice(over).end(most)
        assert limiter.running("a") == len(running)
    for admission, _, most in running:
        admission.end(most)
    assert limiter.running("a") == 0


def test_what_is_not_taken_is_given_back(clock: Clock) -> None:
    limiter, limits = Limiter(clock), NONE.model_copy(update={"tokens_per_minute": 100, "daily_tokens": 150})
    admission = limiter.admit("a", limits, 80)
    with pytest.raises(LimitError, match="80 of 100 tokens a minute are taken") as refused:
        limiter.admit("a", limits, 30)
    assert refused.value.retry_after == pytest.approx(61, abs=1)
    admission.end(10)
    limiter.admit("a", limits, 90).end(90)
    clock.now += 61
    with pytest.raises(LimitError, match="100 of 150 tokens of the day") as refused:
        limiter.admit("a", limits, 51)
    assert refused.value.retry_after == 86_400 - clock.now % 86_400
    limiter.admit("a", limits, 50)
    clock.now += refused.value.retry_after
    limiter.admit("a", limits, 51)


def test_an_answer_that_took_more_than_was_reserved_is_counted_whole(clock: Clock) -> None:
    limiter, limits = Limiter(clock), NONE.model_copy(update={"tokens_per_minute": 100})
    limiter.admit("a", limits, 10).end(99)
    with pytest.raises(LimitError, match="99 of 100"):
        limiter.admit("a", limits, 2)


def test_what_can_never_be_let_in_is_told_so(clock: Clock) -> None:
    with pytest.raises(
        LimitError, match=r"may take 101 tokens, and the limit is 100.*max_completion_tokens"
    ) as refused:
        Limiter(clock).admit("a", NONE.model_copy(update={"tokens_per_minute": 100}), 101)
    assert refused.value.retry_after is None


def test_callers_do_not_share_their_limits(clock: Clock) -> None:
    limiter, limits = Limiter(clock), NONE.model_copy(update={"concurrent_requests": 1})
    limiter.admit("a", limits, 1)
    limiter.admit("b", limits, 1)
    with pytest.raises(LimitError, match="1 requests are running, of 1 at once"):
        limiter.admit("a", limits, 1)


def test_a_key_has_what_it_sets_and_the_service_the_rest() -> None:
    limits = Limits(requests_per_minute=5, concurrent_requests=2).of(KeyLimits(requests_per_minute=9, daily_tokens=7))
    assert (limits.requests_per_minute, limits.concurrent_requests, limits.daily_tokens) == (9, 2, 7)
    assert limits.tokens_per_minute == Limits().tokens_per_minute


def test_a_service_that_begins_again_remembers_the_day(clock: Clock) -> None:
    limits = NONE.model_copy(update={"daily_tokens": 100})
    with pytest.raises(LimitError, match="95 of 100"):
        Limiter(clock, {"a": 95}).admit("a", limits, 10)


def test_a_clock_that_is_set_back_gives_nothing_back(clock: Clock) -> None:
    limiter, limits = Limiter(clock), NONE.model_copy(update={"requests_per_minute": 1})
    limiter.admit("a", limits, 1)
    clock.now -= 1000
    with pytest.raises(LimitError):
        limiter.admit("a", limits, 1)


def test_idle_callers_are_forgotten(clock: Clock) -> None:
    limiter, limits = Limiter(clock), Limits()
    for number in range(1000):
        limiter.admit(str(number), limits, 10).end(5)
    held = limiter.admit("held", limits, 10)
    for _ in range(600):
        clock.now += 0.5
        limiter.admit("busy", limits.model_copy(update={"requests_per_minute": 1000}), 1).end(1)
    assert len(limiter) == 2
    assert len(limiter._callers["busy"].seconds) <= 62
    held.end(10)


def test_many_threads_are_let_in_as_often_as_allowed() -> None:
    limiter, limits = Limiter(), NONE.model_copy(update={"requests_per_minute": 100, "concurrent_requests": 8})
    admitted: list[int] = []

    def work() -> None:
        for _ in range(60):
            try:
                admission = limiter.admit("a", limits, 1)
            except LimitError:
                continue
            admitted.append(limiter.running("a"))
            admission.end(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 100
    assert max(admitted) <= 8
    assert limiter.running("a") == 0


def test_retry_after_is_whole_seconds() -> None:
    assert [retry_after(seconds) for seconds in (0.0, 0.2, 1.0, 1.01, 59.9)] == ["1", "1", "1", "2", "60"]
