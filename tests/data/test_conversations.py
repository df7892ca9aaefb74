"""Fine-tuning rows: no conversation split, none lost, and the loss of each token the same packed or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.data.batch import Batch
from hanlin.data.conversations import PackedConversations, best_fit_decreasing, trace_conversations
from hanlin.data.rendered import RenderedConversations

PAD = 1


def rendered(lengths: list[int], untrained: int = 1) -> RenderedConversations:
    """Conversations of these many tokens; each token's id is unique; all but the first `untrained` are trained on."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.ones(offsets[-1], bool)
    for start, stop in pairwise(offsets):
        trained[start : min(stop, start + untrained)] = False
    ids = np.arange(10, 10 + offsets[-1], dtype=np.int32)
    metadata = [{"file": "f.jsonl", "row": i + 1, "line": i + 1} for i in range(len(lengths))]
    return RenderedConversations(ids, trained, offsets, metadata, PAD)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 80))
def test_best_fit(lengths: list[int], capacity: int):
    bins = best_fit_decreasing(np.array(lengths, np.int64), capacity)
    assert sorted(index for row in bins for index in row) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in row) for row in bins]
    assert all(load <= capacity for load in loads)
    # No two rows could have been one: what is in the lesser-filled would have been put into the other.
    assert sum(sorted(loads)[:2]) > capacity or len(loads) < 2
    assert len(bins) <= 11 / 9 * (-(-sum(lengths) // capacity) if lengths else 0) * 1.5 + 1


def test_best_fit_finds_the_best_room():
    assert best_fit_decreasing(np.array([6, 7, 3, 4]), 10) == [[1, 2], [0, 3]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=40),
    st.integers(3, 32),
    st.integers(1, 4),
    st.integers(0, 2**63),
    st.booleans(),
)
def test_each_conversation_once_an_epoch(lengths: list[int], length: int, rows: int, seed: int, pack: bool):
    data = rendered(lengths)
    packed = PackedConversations(data, length, rows, seed, pack)
    for epoch in (0, 1):
        first = sum(packed.rows_in(number) for number in range(epoch))
        wanted = range(first, first + packed.rows_in(epoch))
        labels: list[int] = []
        for row in wanted:
            batch = packed.step(row // rows).slice(row % rows, row % rows + 1)
            check_row(batch, data, length, pack)
            labels += batch.labels[batch.labels != -100].tolist()
        expected = [
            token
            for start, stop in pairwise(data.offsets)
            for token in data.ids[start + 1 : min(stop, start + length + 1)].tolist()
        ]
        assert Counter(labels) == Counter(expected) and max(Counter(labels).values()) == 1


def check_row(batch: Batch, data: RenderedConversations, length: int, pack: bool) -> None:
    inputs, labels, positions = (t[0].tolist() for t in (batch.input_ids, batch.labels, batch.position_ids))
    documents = (
        [int(token == PAD) for token in inputs] if batch.document_ids is None else batch.document_ids[0].tolist()
    )
    assert pack or max(documents, default=0) <= 1
    for t in range(length):
        new = t == 0 or documents[t] != documents[t - 1]
        assert positions[t] == (0 if new else positions[t - 1] + 1)
        assert not t or documents[t] in (documents[t - 1], documents[t - 1] + 1)
        if inputs[t] == PAD:
            assert labels[t] == -100 and documents[t] == max(documents)
        else:
            starts = inputs[t] - 10 in data.offsets
            assert starts == new
            # Unique ids count up within a conversation, so a label of another conversation would show.
            assert labels[t] in (-100, inputs[t] + 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 20), st.data())
def test_ranks_make_up_the_batch(lengths: list[int], rows: int, step: int, data: st.DataObject):
    ranks = data.draw(st.integers(1, rows))
    whole = PackedConversations(rendered(lengths), 20, rows, 3).step(step)
    parts = [PackedConversations(rendered(lengths), 20, rows, 3).step(step, rank, ranks) for rank in range(ranks)]
    for name in ("input_ids", "labels", "position_ids", "document_ids"):
        values = [getattr(part, name) for part in parts]
        if getattr(whole, name) is None:
            assert all(value is None for value in values)
        else:
            assert torch.equal(torch.cat(values), getattr(whole, name))


def test_random_access_equals_sequential():
    data = rendered([5, 9, 3, 14, 7, 7, 2, 11])
    sequential = PackedConversations(data, 16, 2, 1)
    in_turn = [sequential.step(step) for step in range(24)]
    for step in (23, 0, 9, 22):
        again = PackedConversations(data, 16, 2, 1).step(step)
        assert torch.equal(again.input_ids, in_turn[step].input_ids)
        assert torch.equal(sequential.step(step).labels, in_turn[step].labels)
    assert not torch.equal(PackedConversations(data, 16, 2, 2).step(0).input_ids, in_turn[0].input_ids)


def test_counts():
    packed = PackedConversations(rendered([9, 9, 5, 5, 30]), 16, 2, 0)
    assert packed.figures() == {
        "conversations": 5,
        "dropped": 0,
        "truncated": 1,
        "tokens": 8 + 8 + 4 + 4 + 16,
        "trained_tokens": 40,
        "rows": 3,
        "fill": 40 / 48,
        "steps_per_epoch": 2,
    }
    assert packed.epochs_at(3) == 2.0 and packed.tokens_per_step == 32


def test_nothing_to_train_on():
    """A long question pushes the answer beyond the cut."""
    data = rendered([10, 40, 10], untrained=9)
    data.trained[10:] = [False] * 30 + [True] * 10 + [False] * 9 + [True]
    PackedConversations(data, 31, 1, 0)
    with pytest.raises(
        HanlinError, match=r"(?s)1 of 3 .* rows of 16:.*f.jsonl, row 2 \(line 2\): 40 tokens, .* number 31"
    ):
        PackedConversations(data, 16, 1, 0)
    packed = PackedConversations(data, 16, 1, 0, on_empty="drop")
    assert len(packed.dropped) == 1 and packed.figures()["conversations"] == 2
    assert packed.truncated == 0  # what is left out is not also cut
    assert {entry["record"] for step in range(4) for entry in packed.trace(step)} == {1, 3}
    data.trained[:] = False
    with pytest.raises(HanlinError, match="no token of it is trained on"):
        PackedConversations(data, 16, 1, 0)
    with pytest.raises(
        HanlinError, match=r"no conversation to train on .*all 3 are left out; the first: f.jsonl, row 1"
    ):
        PackedConversations(data, 16, 1, 0, on_empty="drop")


def test_saved_and_traced_by_another_process(tmp_path: Path):
    data = rendered([5, 9, 3, 14, 7, 7, 2, 11])
    data.save(tmp_path)
    loaded = RenderedConversations.load(tmp_path)
    assert np.array_equal(loaded.ids, data.ids) and loaded.metadata == data.metadata and loaded.pad_id == PAD
    packed = PackedConversations(loaded, 16, 2, 1)
    assert torch.equal(packed.step(3).input_ids, PackedConversations(data, 16, 2, 1).step(3).input_ids)
    code = (
        "import sys, json, pathlib\n"
        "from hanlin.data.conversations import trace_conversations\n"
        "print(json.dumps(trace_conversations(pathlib.Path(sys.argv[1]), 3, 16, 2, 1)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    trace = json.loads(run.stdout)
    assert trace == packed.trace(3) == trace_conversations(tmp_path, 3, 16, 2, 1)
    inputs = np.full((2, 16), PAD)
    for entry in trace:
        start = data.offsets[entry["record"] - 1]
        first, last = entry["positions"]
        inputs[entry["row"], first : last + 1] = data.ids[start : start + entry["last_token"] + 1]
    assert np.array_equal(inputs, packed.step(3).input_ids.numpy())
    with pytest.raises(HanlinError, match="holds no rendered conversations"):
        RenderedConversations.load(tmp_path / "nowhere")


def test_loss_of_each_token_packed_or_not():
    """One causal attention layer with positions, in fp64: what a token loses does not depend on its neighbours."""
    torch.manual_seed(0)
    vocabulary, width, length = 120, 16, 24
    embedding = torch.randn(vocabulary, width, dtype=torch.float64)
    places = torch.randn(length, width, dtype=torch.float64)

    def losses(batch: Batch) -> dict[int, float]:
        hidden = embedding[batch.input_ids] + places[batch.position_ids]
        scores = hidden @ hidden.transpose(1, 2) / width**0.5
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        if batch.document_ids is not None:
            mask = mask & (batch.document_ids[:, :, None] == batch.document_ids[:, None, :])
        hidden = torch.softmax(scores.masked_fill(~mask, -torch.inf), -1) @ hidden
        loss = torch.nn.functional.cross_entropy(
            (hidden @ embedding.T).transpose(1, 2), batch.labels, ignore_index=-100, reduction="none"
        )
        chosen = batch.labels != -100
        return dict(zip(batch.labels[chosen].tolist(), loss[chosen].tolist(), strict=True))

    data = rendered([5, 9, 3, 14, 7, 7, 2, 11, 24], untrained=2)
    data.trained[data.offsets[6] + 1] = True
    found: list[dict[int, float]] = []
    for pack in (True, False):
        packed = PackedConversations(data, length, 1, 0, pack)
        mine: dict[int, float] = {}
        for step in range(packed.steps_per_epoch):
            mine |= losses(packed.step(step))
        found.append(mine)
    assert found[0].keys() == found[1].keys()
    assert max(abs(found[0][token] - found[1][token]) for token in found[0]) < 1e-12
