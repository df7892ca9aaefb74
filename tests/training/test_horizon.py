"""A run with a time limit ends in its time, and the number of steps that this gave is the same run again."""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hanlin.artifacts import Silent, read_jsonl
from hanlin.training.horizon import Horizon
from hanlin.training.loop import train
from hanlin.training.schedules import decay_start, rate_factor
from hanlin.training.settings import LoopSettings, ScheduleSettings
from hanlin.training.state import RunState
from tests.conftest import Told
from tests.training.toy import ToySource, toy_job, toy_settings


@given(st.floats(0, 0.8), st.floats(0, 0.5), st.integers(1, 400), st.sampled_from(["1-sqrt", "linear"]), st.booleans())
def test_the_decay_begins_later_by_one_step_or_none_when_a_step_is_added(decay, warmup, steps, shape, spelled):
    settings = ScheduleSettings(decay_fraction=decay, warmup_fraction=warmup, decay_shape=shape)
    if spelled:
        settings = settings.model_copy(update={"warmup_steps": settings.warmup(steps)})
    assert decay_start(settings, steps + 1) - decay_start(settings, steps) in (0, 1)
    start = decay_start(settings, steps)
    factors = [rate_factor(settings, step, steps) for step in range(steps)]
    assert all(factor == 1 for factor in factors[min(settings.warmup(steps), steps) : start])
    assert all(factor < 1 for factor in factors[start + 1 :])


OPEN = ScheduleSettings(warmup_steps=10)


def course(pace, seconds, most, evaluations=0.0, back=None):
    """(steps, seconds) of a run whose step i takes pace(i), and every tenth `evaluations` more. `back`: (a, b) goes
    back from step a to b once."""
    with tempfile.TemporaryDirectory() as folder:
        horizon = Horizon(LoopSettings(seconds=seconds, schedule=OPEN), most, Path(folder) / "steps.json")
        clock, step, used = 0.0, 0, {}
        while step < horizon.steps:
            if horizon.open and horizon.observe(step, clock):
                horizon.decay_from(step, write=True)
            used[step] = horizon.rate_factor(step)
            clock += pace(step) + (evaluations if step % 10 == 9 else 0)
            step += 1
            if back and step == back[0]:
                step, back = back[1], None
        # Every step was done at the rate that a run of this many steps, known from the start, gives it.
        assert used == {step: rate_factor(OPEN, step, horizon.steps) for step in range(horizon.steps)}
        assert not horizon.open
        return step, clock


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.25, 1.9])
def test_a_machine_of_another_speed_than_was_thought_ends_in_time(speed):
    # Planned were 1,000 steps of 0.1 s; the dial allows twice as many.
    steps, took = course(lambda step: 0.1 / speed, 100, 2000)
    assert took == pytest.approx(100, rel=0.01)
    assert steps == pytest.approx(1000 * speed, rel=0.01)


def test_a_machine_that_slows_down_before_the_decay_ends_in_time():
    _, took = course(lambda step: 0.1 if step < 300 else 0.13, 100, 2000, evaluations=0.5)
    assert took == pytest.approx(100, rel=0.05)


def test_one_that_slows_down_in_the_decay_is_late_by_the_decays_share_only():
    # 40 % of the steps at 1.25 times their pace: 10 % late, where the whole run would have been 25 %.
    _, took = course(lambda step: 0.1 if step < 600 else 0.125, 100, 2000)
    assert 105 < took < 111


def test_the_first_step_may_take_long():
    steps, took = course(lambda step: 20.0 if step == 0 else 0.1, 100, 2000)
    assert took == pytest.approx(100, rel=0.02) and steps > 750


def test_with_time_enough_all_steps_are_done():
    assert course(lambda step: 0.1, 1000, 700)[0] == 700


def test_a_spike_takes_its_time_and_the_run_ends_in_it():
    for back in ((400, 350), (200, 20)):
        _, took = course(lambda step: 0.1, 100, 2000, back=back)
        assert took == pytest.approx(100, rel=0.02)


def test_only_a_rate_that_stays_constant_leaves_the_end_open():
    for schedule in (
        ScheduleSettings(name="cosine", warmup_steps=5),
        ScheduleSettings(decay_fraction=1.0, warmup_steps=5),
        ScheduleSettings(),
    ):
        with pytest.raises(ValidationError, match="seconds needs a schedule wsd"):
            LoopSettings(seconds=5.0, schedule=schedule)


@pytest.fixture
def slow_machine(monkeypatch):
    """One on which every step, those given up for a spike included, takes 0.1 s by the run's clock."""
    monkeypatch.setattr(RunState, "seconds", property(lambda run: run.computed_tokens / (8 * 32) * 0.1))


def limited(source, most=200):
    job = toy_job(most, source)
    schedule = ScheduleSettings(warmup_steps=5)
    return job, toy_settings(seconds=8.0, evaluate_every=10, checkpoint_every=10, schedule=schedule)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


@pytest.mark.parametrize("junk", [(), (40, 41), (49, 50, 51)], ids=["calm", "spike before the decay", "in it"])
def test_the_steps_that_fitted_are_the_same_run_again(tmp_path, junk, slow_machine):
    rows = tuple(range(8))
    job, settings = limited(ToySource(junk=junk, junk_rows=rows))
    (tmp_path / "timed").mkdir()
    figures = train(job, settings, tmp_path / "timed", 0, Silent())
    assert bool(figures["spikes"]) == bool(junk)
    decay = decay_start(settings.schedule, figures["steps"])
    if junk == (49, 50, 51):
        # From after its beginning the run went back to before it.
        assert any(spike["rolled_back_to"] < decay <= spike["step"] for spike in figures["spikes"])
    else:
        assert figures["seconds"] == pytest.approx(8, rel=0.05)
    again = settings.settled(figures["steps"])
    assert again.seconds is None and again.steps == figures["steps"]
    other = toy_job(figures["steps"], ToySource(junk=junk, junk_rows=rows))
    (tmp_path / "again").mkdir()
    train(other, again, tmp_path / "again", 0, Silent())
    assert same(job, other)
    clock = ("seconds", "tokens_per_second", "flops_per_second")
    lines = [
        [{key: value for key, value in line.items() if key not in clock} for line in read_jsonl(path / "metrics.jsonl")]
        for path in (tmp_path / "timed", tmp_path / "again")
    ]
    assert lines[0] == lines[1]


class Killed(BaseException):
    """Ends a run as a kill does: nothing is written."""


def test_killed_right_after_the_decision_it_is_kept(tmp_path, slow_machine):
    class Killing(ToySource):
        killed = False

        def step(self, step, rank=0, ranks=1):
            if not self.killed and any("falls from here" in line for line in told.lines):
                self.killed = True
                raise Killed
            return super().step(step, rank, ranks)

    told, source = Told(), Killing()
    job, settings = limited(source)
    with pytest.raises(Killed):
        train(job, settings, tmp_path, 0, told)
    decided = json.loads((tmp_path / "checkpoints" / "steps.json").read_text())["steps"]
    job, settings = limited(source)
    figures = train(job, settings, tmp_path, 0, told)
    assert figures["steps"] == decided
    assert sum("falls from here" in line for line in told.lines) == 1
    other = toy_job(decided, ToySource())
    (tmp_path / "again").mkdir()
    train(other, settings.settled(figures["steps"]), tmp_path / "again", 0, Silent())
    assert same(job, other)


def test_stopped_before_and_in_the_decay_it_is_still_that_run(tmp_path, slow_machine):
    class Interrupting(ToySource):
        asked = 0

        def step(self, step, rank=0, ranks=1):
            if (step, self.asked) in ((8, 0), (60, 1)):
                self.asked += 1
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(step, rank, ranks)

    told, source = Told(), Interrupting()
    for _ in range(2):
        job, settings = limited(source)
        with pytest.raises(KeyboardInterrupt):
            train(job, settings, tmp_path, 0, told)
    job, settings = limited(source)
    figures = train(job, settings, tmp_path, 0, told)
    assert source.asked == 2
    # The decision was taken once, and a start after it keeps to it.
    assert sum("falls from here" in line for line in told.lines) == 1
    other = toy_job(figures["steps"], ToySource())
    (tmp_path / "again").mkdir()
    train(other, settings.settled(figures["steps"]), tmp_path / "again", 0, Silent())
    assert same(job, other)
