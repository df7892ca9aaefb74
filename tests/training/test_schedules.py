import math

import pytest

from hanlin.training.schedules import rate_factor
from hanlin.training.settings import LoopSettings, ScheduleSettings


def test_wsd_rises_stays_and_falls():
    settings = ScheduleSettings(warmup_fraction=0.1, decay_fraction=0.4)
    course = [rate_factor(settings, step, 100) for step in range(100)]
    assert course[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert course[10:61] == [1.0] * 51
    assert course[70] == pytest.approx(1 - math.sqrt(0.25))
    assert course[99] == pytest.approx(1 - math.sqrt(39 / 40))
    assert course[60:] == sorted(course[60:], reverse=True)


def test_linear_decay_ends_at_the_final_fraction():
    settings = ScheduleSettings(warmup_fraction=0, decay_fraction=0.5, decay_shape="linear", final_fraction=0.1)
    assert rate_factor(settings, 0, 100) == 1.0
    assert rate_factor(settings, 75, 100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate_factor(settings, 100, 100) == pytest.approx(0.1)


def test_cosine():
    settings = ScheduleSettings(name="cosine", warmup_fraction=0.2, final_fraction=0.2)
    assert rate_factor(settings, 19, 100) == 1.0
    assert rate_factor(settings, 60, 100) == pytest.approx(0.2 + 0.8 * 0.5)
    assert rate_factor(settings, 100, 100) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["wsd", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_runs_have_rates_between_0_and_1_and_never_start_at_0(name, steps):
    settings = ScheduleSettings(name=name, warmup_fraction=0.5, decay_fraction=0.9)
    course = [rate_factor(settings, step, steps) for step in range(steps)]
    assert course[0] > 0
    assert all(0 <= factor <= 1 for factor in course)


def test_intervals_are_functions_of_the_settings_alone():
    settings = LoopSettings()
    assert settings.checkpoint_interval(4000) == 100
    assert settings.checkpoint_interval(100) == 10
    assert settings.checkpoint_interval(1_000_000) == 500
    assert settings.evaluation_interval(95) == 10
    assert LoopSettings(checkpoint_every=7).checkpoint_interval(4000) == 7
