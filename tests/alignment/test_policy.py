"""Log-probabilities of answers: the same however the sequences lie in rows, and those of the plain forward pass."""

from __future__ import annotations

from random import Random

import pytest
import torch

from hanlin.alignment.policy import answer_scores, counted_lengths, sum_by_sequence
from hanlin.data.sequences import Sequences, join
from hanlin.models import ModelConfig, Transformer
from hanlin.models.logprobs import token_logprobs

CONFIG = ModelConfig(vocabulary_size=61, hidden_size=32, layers=2, heads=4, kv_heads=2, max_positions=64)


def model() -> Transformer:
    made = Transformer(CONFIG)
    made.init_weights(3)
    return made.double()


def sequences(seed: int = 0, count: int = 9, layout: str = "shared", group: int = 1) -> Sequences:
    rng = Random(seed)
    prompts = [[rng.randrange(61) for _ in range(rng.randint(1, 12))] for _ in range(count)]
    answers = [[rng.randrange(61) for _ in range(rng.randint(1, 9))] for _ in range(count)]
    # Some are asked twice, one here and one there.
    prompts = [prompts[place - place % 5] if place % 5 in (0, 1, 3) else prompt for place, prompt in enumerate(prompts)]
    return join(prompts, answers, [group] * (count // group), layout=layout)


def plain(network: Transformer, given: Sequences) -> torch.Tensor:
    """One sequence at a time, with nothing but the logits."""
    found: list[torch.Tensor] = []
    start = 0
    for length, answer in zip(given.lengths.tolist(), given.answer_lengths.tolist()):
        ids = given.input_ids[start : start + length]
        table = network(ids[None]).log_softmax(-1)[0]
        found += [table[place - 1, ids[place]] for place in range(length - answer, length)]
        start += length
    return torch.stack(found)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded", "padded-left"])
def test_logprobs_are_those_of_the_plain_forward(layout):
    network, given = model(), sequences(layout=layout)
    scores = answer_scores(network, given)
    expected = plain(network, given)
    torch.testing.assert_close(scores.logprobs, expected, rtol=0, atol=1e-10)
    weights = torch.linspace(-1, 2, len(expected), dtype=torch.float64)
    (scores.logprobs * weights).sum().backward()
    found = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    (expected * weights).sum().backward()
    for ours, theirs in zip(found, network.parameters()):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kept", [True, False])
def test_gradients_of_chunks_and_the_entropy(kept, monkeypatch):
    """With the probabilities of the forward pass, and computing them again."""
    monkeypatch.setattr("hanlin.models.logprobs.KEPT_BYTES", 1 << 20 if kept else 0)
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(17, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 17, (23,))
    chosen, entropy = token_logprobs(hidden, weight, labels, chunk_rows=5)
    table = (hidden @ weight.T).log_softmax(-1)
    torch.testing.assert_close(chosen, table.gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(table.exp() * table).sum(1).detach())
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, labels, 5)[0], (hidden, weight))


def test_a_frozen_heads_probabilities_are_not_kept():
    weight, labels = torch.randn(17, 8), torch.randint(0, 17, (23,))
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: held.append(one.numel()) or one, lambda one: one):
        chosen, _ = token_logprobs(torch.randn(23, 8, requires_grad=True), weight, labels, 5)
    chosen.sum().backward()
    assert sum(held) == 17 * 8 + 2 * 23 * 8 + 3 * 23


@pytest.mark.parametrize("tokens", [1, 40, 100, 10_000])
def test_micro_batches_have_the_tokens_that_they_may(tokens):
    given = sequences(count=12, group=2)
    parts = given.parts(tokens)
    assert torch.equal(torch.cat([part.input_ids for part in parts]), given.input_ids)
    assert [size for part in parts for size in part.groups.tolist()] == given.groups.tolist()
    for one, following in zip(parts, [*parts[1:], None]):
        size = int(one.lengths.sum())
        assert size <= tokens or one.rows == 1
        # It could not have had one more.
        assert following is None or size + int(following.slice(0, 1).lengths.sum()) > tokens
    assert [part.rows for part in given.parts(tokens, rows=4)] == [4, 2]


def test_slices_hold_what_belongs_to_their_groups():
    given = sequences(count=12, group=3)
    given.of_token["place"] = torch.arange(int(given.answer_lengths.sum()))
    given.of_sequence["number"] = torch.arange(12)
    network = model()
    whole = answer_scores(network, given).logprobs
    seen = 0
    for start, stop in ((0, 1), (1, 4)):
        part = given.slice(start, stop)
        assert part.rows == stop - start
        assert part.of_sequence["number"].tolist() == list(range(3 * start, 3 * stop))
        scores = answer_scores(network, part).logprobs
        torch.testing.assert_close(scores, whole[part.of_token["place"]], rtol=0, atol=1e-10)
        seen += len(scores)
    assert seen == len(whole)


def test_tokens_that_do_not_count_are_in_no_sum():
    given = sequences(count=4)
    total = int(given.answer_lengths.sum())
    given.marks = torch.arange(total) % 2 == 0
    values = torch.ones(total)
    assert sum_by_sequence(values, given).sum() == given.marks.sum()
    assert counted_lengths(given, values).sum() == given.marks.sum()


def test_empty_parts_are_refused():
    from hanlin.artifacts import HanlinError

    with pytest.raises(HanlinError, match="sequence 1 has 0 tokens of prompt"):
        join([[1], []], [[2], [3]])
    with pytest.raises(HanlinError, match="sequence 0 has 1 tokens of prompt and 0"):
        join([[1]], [[]])
