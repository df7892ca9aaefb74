"""The order is for ever: fixed values, and permutations that are permutations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.data.order import Order, hashes, mix64, mixture_repeats, permutation


def test_mix64_is_splitmix64():
    # Outputs of the reference C implementation (Vigna, splitmix64.c) for the seed 1234567.
    state = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert mix64(state).tolist() == expected


def test_permutation_never_changes():
    """These values were printed once; should they change, runs of an older version can't be traced or resumed."""
    assert permutation(12, 7, "d", 0).tolist() == GOLDEN
    assert permutation(12, 7, "d", 1).tolist() != GOLDEN
    assert permutation(12, 8, "d", 0).tolist() != GOLDEN


GOLDEN = [4, 3, 7, 9, 1, 11, 6, 0, 10, 5, 8, 2]


@given(st.integers(0, 3000), st.integers(-(2**63), 2**64), st.text(max_size=3))
def test_permutation_holds_each_number_once(count: int, seed: int, name: str):
    assert np.array_equal(np.sort(permutation(count, seed, name)), np.arange(count))
    assert len(np.unique(hashes(count, seed, name))) == count


def test_permutation_is_uniform():
    """Chi-squared of where element 0 goes among 8 places, over 8,000 keys: under the 0.1 % point of 7 degrees."""
    places = np.array([np.flatnonzero(permutation(8, key) == 0)[0] for key in range(8000)])
    counts = np.bincount(places, minlength=8)
    assert ((counts - 1000) ** 2 / 1000).sum() < 24.3


def test_mixture_repeats_gives_the_shares():
    tokens = {"a": 1000, "b": 3000, "c": 500}
    repeats = mixture_repeats(tokens, {"a": 2, "b": 1, "c": 1})
    read = {name: repeats[name] * tokens[name] for name in tokens}
    assert sum(read.values()) == pytest.approx(4500)
    assert read["a"] / 4500 == pytest.approx(0.5)
    assert mixture_repeats(tokens, None) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 1, "b": -1}, {"a": 0, "b": 0}, {"a": 1, "b": 1, "z": 1}])
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float]):
    with pytest.raises(HanlinError, match="weights do not fit"):
        mixture_repeats({"a": 10, "b": 10}, weights)


@given(st.lists(st.integers(1, 40), min_size=20, max_size=60), st.integers(0, 2**63), st.data())
def test_weighted_epochs(lengths: list[int], seed: int, data: st.DataObject):
    """Shares are right to within a document in every epoch, and a half-weighted source is read evenly over epochs."""
    groups = np.array([i % 2 for i in range(len(lengths))])
    repeats = [data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.75])), 1.25]
    array = np.array(lengths, np.int64)
    order = Order(array, 4, seed, groups, repeats)
    total = np.zeros(len(lengths), int)
    for number in range(4):
        epoch = order.epoch(number)
        counts = np.bincount(epoch.documents, minlength=len(lengths))
        total += counts
        for group, asked in enumerate(repeats):
            mine = groups == group
            assert abs((counts * array)[mine].sum() - asked * array[mine].sum()) <= max(lengths)
            assert set(counts[mine]) <= {int(asked), int(asked) + 1}
    for group, asked in enumerate(repeats):
        # Four epochs of a multiple of a quarter are a whole number of rounds; roundings move a border a little.
        assert np.abs(total[groups == group] - 4 * asked).max() <= 1


def test_an_order_with_too_little_text_is_refused():
    with pytest.raises(HanlinError, match="do not fill one row of 16"):
        Order(np.array([5, 11]), 16, 0)
    Order(np.array([5, 12]), 16, 0)
