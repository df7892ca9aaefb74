"""Packing: each token once, labels and positions right, and the same batch for any number of processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.data.batch import Batch
from hanlin.data.packing import PackedTokens, trace_tokens, validation_batches, validation_documents
from hanlin.data.shards import TokenShards
from tests.data.corpora import END, make_shards

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def shards_of(lengths: list[int], **options: object) -> TokenShards:
    with tempfile.TemporaryDirectory() as directory:  # the files stay mapped after they are unlinked
        shards = make_shards(Path(directory), lengths, **options)
        assert shards.sources and shards._documents is not None  # read while the table is there
        return shards


def batches_equal(a: Batch, b: Batch) -> bool:
    fields = ["input_ids", "labels", "position_ids", "document_ids"]
    return all(
        (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
        for x, y in ((getattr(a, name), getattr(b, name)) for name in fields)
    )


def joined(parts: list[Batch]) -> Batch:
    documents = [part.document_ids for part in parts if part.document_ids is not None]
    assert len(documents) in (0, len(parts))
    return Batch(
        torch.cat([part.input_ids for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.position_ids for part in parts]),
        torch.cat(documents) if documents else None,
    )


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 24), st.integers(0, 2**64 - 1), st.integers(0, 2))
def test_windows_partition_the_epoch(lengths: list[int], length: int, seed: int, epoch: int):
    shards = shards_of(lengths)
    if sum(lengths) <= length:
        with pytest.raises(HanlinError, match="do not fill one row"):
            PackedTokens(shards, length, 1, seed)
        return
    packed = PackedTokens(shards, length, 1, seed)
    windows = packed.order.windows_in(epoch)
    rows = [packed.step(epoch * windows + number) for number in range(windows)]
    seen = Counter(token for row in rows for token in row.input_ids.flatten().tolist())
    everything = Counter(shards.tokens.tolist())
    missing = everything - seen
    assert not seen - everything, "a token was read twice"
    assert sum(missing.values()) == packed.order.epoch(epoch).unused_tokens <= length
    labels = Counter(token for row in rows for token in row.labels.flatten().tolist())
    assert not labels - everything


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 24), st.integers(1, 5), st.integers(0, 2**64 - 1), st.integers(0, 40))
def test_labels_positions_and_documents(lengths: list[int], length: int, rows: int, seed: int, step: int):
    shards = shards_of([*lengths, 30])
    packed = PackedTokens(shards, length, rows, seed)
    batch = packed.step(step)
    ends = set(shards.offsets[1:].tolist())
    single = True
    for row in range(rows):
        inputs, labels = batch.input_ids[row].tolist(), batch.labels[row].tolist()
        positions = batch.position_ids[row].tolist()
        documents = [0] * length if batch.document_ids is None else batch.document_ids[row].tolist()
        assert labels[:-1] == inputs[1:]
        assert documents[0] == 0 and positions[0] == 0
        for t in range(length):
            if t:
                new = inputs[t] == END
                assert documents[t] == documents[t - 1] + new
                assert positions[t] == (0 if new else positions[t - 1] + 1)
                single = single and not new
            # Ids are places in the file: a label is the next place of the same document, or its end's <|endoftext|>.
            place = inputs[t] if inputs[t] != END else None
            if labels[t] == END:
                assert place is None or place + 1 in ends
            else:
                before = shards.offsets[np.searchsorted(shards.offsets, labels[t], side="right") - 1]
                assert (place == labels[t] - 1) if place is not None else (labels[t] - 1 == before)
    assert (batch.document_ids is None) == single


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 24), st.integers(1, 6), st.integers(0, 2**64 - 1), st.integers(0, 40), st.data())
def test_ranks_make_up_the_batch(lengths: list[int], length: int, rows: int, seed: int, step: int, data: st.DataObject):
    shards = shards_of([*lengths, 25], sources=[f"s{i % 3}" for i in range(len(lengths))] + ["s0"])
    names = shards.sources[1]
    weights = data.draw(st.sampled_from([None, {name: 1.0 + i for i, name in enumerate(names)}]))
    ranks = data.draw(st.integers(1, rows))
    packed = PackedTokens(shards, length, rows, seed, weights)
    parts = [PackedTokens(shards, length, rows, seed, weights).step(step, rank, ranks) for rank in range(ranks)]
    assert batches_equal(joined(parts), packed.step(step))


def test_random_access_equals_sequential():
    shards = shards_of([7, 3, 12, 1, 30, 5, 9], sources=list("abcabca"))
    for weights in (None, {"a": 1.0, "b": 2.0, "c": 0.5}):
        sequential = PackedTokens(shards, 8, 3, 5, weights)
        in_turn = [sequential.step(step) for step in range(30)]
        for step in (29, 3, 17, 0, 3, 28):
            assert batches_equal(PackedTokens(shards, 8, 3, 5, weights).step(step), in_turn[step])
            assert batches_equal(sequential.step(step), in_turn[step])


def test_epochs_are_reshuffled_and_counted():
    shards = shards_of([9] * 20)
    packed = PackedTokens(shards, 9, 4, 0)
    assert packed.order.windows_in(0) == 19 and packed.steps_per_epoch == 4 and packed.tokens_per_step == 36
    assert packed.epochs_at(19) == 4.0
    first, second = packed.order.epoch(0), packed.order.epoch(1)
    assert not np.array_equal(first.documents, second.documents)
    assert not np.array_equal(first.windows, second.windows)
    # Step 4 has rows 16 … 19: three windows of epoch 0 and one of epoch 1.
    assert [entry["epoch"] for entry in packed.trace(4) if entry["positions"][0] == 0] == [0, 0, 0, 1]


def test_more_processes_than_rows_are_refused():
    packed = PackedTokens(shards_of([50]), 8, 2, 0)
    with pytest.raises(HanlinError, match="at least a row a process"):
        packed.step(0, 2, 3)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 24), st.integers(1, 4), st.integers(0, 2**64 - 1), st.integers(0, 30))
def test_trace_names_every_token(lengths: list[int], length: int, rows: int, seed: int, step: int):
    """From the trace alone the batch can be put together again."""
    shards = shards_of([*lengths, 30])
    packed = PackedTokens(shards, length, rows, seed)
    inputs = np.full((rows, length), -1, np.int64)
    for entry in packed.trace(step):
        index = int(entry["document"].removeprefix("id"))
        assert entry["offset"] == 100 + index and entry["bytes"] == 3 * len(shards.document(index))
        first, last = entry["positions"]
        assert (inputs[entry["row"], first : last + 1] == -1).all()
        tokens = shards.document(index)[entry["first_token"] : entry["last_token"] + 1]
        inputs[entry["row"], first : last + 1] = tokens
    assert np.array_equal(inputs, packed.step(step).input_ids.numpy())


def test_trace_and_step_are_the_same_in_another_process(tmp_path: Path):
    shards = make_shards(
        tmp_path, [7, 3, 12, 1, 30, 5, 9, 40], sources=list("abcabcab"), weights={"a": 1, "b": 1, "c": 2}
    )
    code = (
        "import sys, json, pathlib\n"
        "from hanlin.data.packing import trace_tokens\n"
        "print(json.dumps(trace_tokens(pathlib.Path(sys.argv[1]), 6, 8, 4, 3)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    import json

    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == trace_tokens(tmp_path, 6, 8, 4, 3) == PackedTokens(shards, 8, 4, 3).trace(6)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 24), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 200)))
def test_validation_covers_every_token_once(lengths: list[int], length: int, rows: int, limit: int | None):
    shards = shards_of(lengths)
    chosen = validation_documents(shards, limit)
    assert len(np.unique(chosen)) == len(chosen) > 0
    if limit is None or limit >= sum(lengths):
        assert len(chosen) == len(lengths)
    labels: dict[int, list[int]] = {int(index): [] for index in chosen}
    for item in validation_batches(shards, length, rows, limit):
        batch = item.batch
        assert batch.input_ids.shape == item.documents.shape and batch.input_ids.shape[1] == length
        assert ((batch.labels.numpy() == -100) == (item.documents == -1)).all()
        for document, label in zip(item.documents.flatten().tolist(), batch.labels.flatten().tolist()):
            if document >= 0:
                labels[document].append(label)
    for index, found in labels.items():
        assert found == [*shards.document(index)[1:].tolist(), END]


def test_step_is_fast(tmp_path: Path):
    """16 × 512 tokens; the target is 2 ms, the limit leaves room for a busy machine."""
    generator = np.random.default_rng(0)
    shards = make_shards(tmp_path, generator.integers(1, 60, 2000).tolist())
    packed = PackedTokens(shards, 512, 16, 0)
    packed.step(0)
    best = min(timed(lambda step=step: packed.step(step)) for step in range(20))
    assert best < 0.01


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_damaged_shards_are_refused(tmp_path: Path):
    make_shards(tmp_path, [5, 6])
    with pytest.raises(HanlinError, match="no split 'test'"):
        TokenShards.open(tmp_path, "test")
    with (tmp_path / "train.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(HanlinError, match="the artifact is damaged"):
        TokenShards.open(tmp_path)
    with pytest.raises(HanlinError, match="holds no token shards"):
        TokenShards.open(tmp_path / "nowhere")
