"""The dial: what it chooses, and that it says no when it must."""

import pytest

from hanlin.artifacts import HanlinError, StageContext
from hanlin.forecasting import dial
from hanlin.forecasting.loss import effective_tokens, expected_loss, step_tokens
from hanlin.training.pretrain import PretrainSettings


def test_repeated_tokens_are_worth_less_and_never_more_than_a_bound():
    assert effective_tokens(5e6, 1e7) == 5e6
    once, twice, often = (effective_tokens(n * 1e7, 1e7) for n in (1, 2, 1000))
    assert once < twice < 2e7
    assert often <= 1e7 * (1 + 15.39)


def test_more_of_either_never_hurts():
    for parameters in (1e6, 1e8):
        for tokens in (1e6, 1e9):
            here = expected_loss(parameters, tokens, 1e12)
            assert expected_loss(2 * parameters, tokens, 1e12) < here
            assert expected_loss(parameters, 2 * tokens, 1e12) < here


def test_the_law_orders_the_runs_that_were_measured():
    """The runs of docs/benchmarks.md, at the speeds of their shapes: the better one has the less expected loss."""
    weights = {64: 0.72e6, 128: 1.84e6, 192: 3.34e6}
    speed = {64: 11_000, 128: 6_600, 192: 4_000}
    loss = {width: expected_loss(weights[width], speed[width] * 500, 1e9) for width in weights}
    assert min(loss, key=loss.__getitem__) == 128
    assert expected_loss(1.84e6, 1.4746e6, 1e9) < expected_loss(3.34e6, 0.8192e6, 1e9)


def test_the_batch_grows_with_the_root_of_the_tokens():
    assert step_tokens(1e6) == pytest.approx(2000)
    assert step_tokens(4e6) == pytest.approx(2 * step_tokens(1e6))
    assert 500_000 < step_tokens(1e11) < 700_000


def test_auto_needs_a_time(tmp_path):
    settings = PretrainSettings(data="tokens", model="auto")
    with pytest.raises(HanlinError, match="minutes=N"):
        dial.resolve_with_dial(settings, StageContext(tmp_path, {}))


def test_speeds_between_measured_shapes_are_interpolated():
    configs = [dial.shape_of(width, layers, 128) for width, layers in ((64, 2), (128, 4), (256, 6))]
    configs = [shape.model_copy(update={"vocabulary_size": 1000}) for shape in configs]
    speeds = {0: 1e10, 2: 4e10}
    assert dial._speed(speeds, 0, configs, 128) == 1e10
    assert 1e10 < dial._speed(speeds, 1, configs, 128) < 4e10
    assert dial._speed({0: 1e10}, 2, configs, 128) == pytest.approx(1e10)
