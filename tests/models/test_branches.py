"""Prompts that several answers share: the same states and gradients as each sequence by itself."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import pytest
import torch

from hanlin.artifacts import HanlinError
from hanlin.data.sequences import Sequences, join
from hanlin.models import ModelConfig, Transformer

SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "window": {"sliding_window": 7},
    "window of some layers": {"sliding_window": 20, "full_attention_layers": 1},
    "learned positions": {"family": "gpt2", "kv_heads": 4},
}


def model(**shape: Any) -> Transformer:
    given = {"vocabulary_size": 50, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "max_positions": 128}
    made = Transformer(ModelConfig(**{**given, **shape}))
    made.init_weights(0)
    return made.double()


def sequences(seed: int, **more: Any) -> Sequences:
    """Four prompts of 1 to 40 tokens; three to seven answers of 1 to 40 to each, those of one prompt not together."""
    rng = Random(seed)

    def words(size: int) -> list[int]:
        return [rng.randrange(50) for _ in range(size)]

    pool = [words(rng.choice((1, 5, 17, 40))) for _ in range(4)]
    asked = [prompt for prompt in pool for _ in range(rng.randint(3, 7))]
    rng.shuffle(asked)
    return join(asked, [words(rng.choice((1, 2, 9, 40))) for _ in asked], **more)


@pytest.mark.parametrize("with_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_as_each_sequence_by_itself(shape: str, with_last: bool) -> None:
    network = model(**SHAPES[shape])
    for seed in range(3):
        given = sequences(seed)
        rows = given.in_rows(with_last)
        unshared = int(given.lengths.sum()) - (0 if with_last else len(given.lengths))
        assert rows.branches is not None and rows.batch.input_ids.numel() < unshared
        alone = [network.hidden(ids[None])[0] for ids in given.input_ids.split(given.lengths.tolist())]
        before = [
            states[n - a - 1 : n - 1]
            for states, n, a in zip(alone, given.lengths.tolist(), given.answer_lengths.tolist())
        ]
        expected = torch.cat(before)
        states = rows.hidden(network, rows.before_answers)
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-11)
        last = torch.stack([states[-1 if with_last else -2] for states in alone])
        torch.testing.assert_close(rows.hidden(network, rows.last), last, rtol=0, atol=1e-11)
        upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        ours = torch.autograd.grad((states * upstream).sum(), list(network.parameters()), allow_unused=True)
        theirs = torch.autograd.grad((expected * upstream).sum(), list(network.parameters()), allow_unused=True)
        for one, two in zip(ours, theirs):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_every_position_is_there_once_and_says_what_it_is() -> None:
    given = sequences(5)
    rows = given.in_rows()
    assert rows.branches is not None
    ids, positions = rows.batch.input_ids[0].tolist(), rows.batch.position_ids[0].tolist()
    covered: set[int] = set()
    for whole, (start, size, begin, length) in zip(
        given.input_ids.split(given.lengths.tolist()), rows.branches.tolist()
    ):
        places = [*range(start, start + size), *range(begin, begin + length)]
        assert [ids[place] for place in places] == whole[:-1].tolist()
        assert [positions[place] for place in places] == list(range(len(whole) - 1))
        covered |= set(places)
    assert covered == set(range(len(ids)))


def test_in_bfloat16_as_near_as_each_sequence_by_itself() -> None:
    exact = model()
    network = copy.deepcopy(exact).to(torch.bfloat16)
    given = sequences(1)
    rows = given.in_rows(with_last=True)
    alone = [network.hidden(ids[None])[0, -1] for ids in given.input_ids.split(given.lengths.tolist())]
    truth = exact.hidden(rows.batch.input_ids, rows.batch.position_ids, branches=rows.branches, at=rows.last)
    own = (torch.stack(alone).double() - truth).abs().mean()
    assert (rows.hidden(network, rows.last).double() - truth).abs().mean() < 1.5 * own


def test_learned_positions_are_counted_by_sequences_not_by_the_row() -> None:
    """On a GPU, and on the device without numbers, positions themselves can't be looked at."""
    config = ModelConfig(
        family="gpt2", vocabulary_size=50, hidden_size=32, layers=1, heads=4, kv_heads=4, max_positions=64
    )
    with torch.device("meta"):
        network = Transformer(config)

    def hidden(length: int) -> torch.Tensor:
        rows = join([[2] * 30] * 4, [[1] * length] * 4).in_rows()
        batch = rows.batch
        return network.hidden(batch.input_ids.to("meta"), batch.position_ids.to("meta"), branches=rows.branches)

    assert hidden(30).shape == (1, 30 + 4 * 29, 32)
    with pytest.raises(HanlinError, match="position 68 is beyond the 64 positions"):
        hidden(40)


def test_where_sharing_spares_next_to_nothing_rows_are_packed() -> None:
    """And where no prompt has two answers."""
    assert join([[1], [1], [2]], [[3] * 20] * 3).in_rows().branches is None
    given = join([[1], [2], [1, 2]], [[3], [3], [3]])
    assert given.layout == "shared" and given.in_rows().branches is None
    assert join([[1], [1]], [[3], [4]], layout="packed").in_rows().branches is None


def test_single_tokens_answer_the_same_prompt() -> None:
    """Answers of one token need nothing but the prompt."""
    network = model()
    rows = join([[4, 5, 6]] * 3, [[7], [8], [9]]).in_rows()
    assert rows.batch.input_ids.tolist() == [[4, 5, 6]] and rows.before_answers.tolist() == [2, 2, 2]
    expected = network.hidden(torch.tensor([[4, 5, 6]]))[0]
    torch.testing.assert_close(rows.hidden(network, torch.arange(3)), expected, rtol=0, atol=1e-12)
