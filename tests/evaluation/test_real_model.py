"""The exam on a real, if tiny, model: its numbers against a plain forward pass, and the stage from end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import hanlin
from hanlin.artifacts import StageContext
from hanlin.artifacts.store import external
from hanlin.corpus.shards import ShardWriter
from hanlin.evaluation.exam import EXAM_STAGE, ExamSettings
from hanlin.evaluation.runner import random_model, run_exam
from hanlin.evaluation.tasks import library
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.tokenization import Tokenizer
from hanlin.world import write
from tests.evaluation.test_cloze import document


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a model, a world and a corpus."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer.bytes()
    for seed, name in ((1, "base"), (2, "chat")):
        config = ModelConfig(
            vocabulary_size=tokenizer.vocabulary_size, hidden_size=32, layers=2, heads=2, max_positions=192
        )
        network = Transformer(config)
        network.init_weights(seed)
        with torch.no_grad():  # fresh weights predict next to nothing, so that windows or contexts would hardly matter
            for parameter in network.parameters():
                parameter.mul_(3)
        (folder / name).mkdir()
        save_model(folder / name, network, tokenizer)
    write(folder / "world", seed=1, entities=60, tellings=1, exam_items=12)
    shards = ShardWriter(folder / "corpus" / "validation")
    for one in [*(document(n) for n in range(9)), *(document(n, "故事", "zh") for n in range(9))]:
        one.metadata.update(file="tales.txt", offset=0)
        shards.add(one, len(one.text.encode()))
    shards.close()
    return folder


def logprobs(model: Any, ids: list[int]) -> list[float]:
    """ln p of each token of `ids` after the first, by a plain forward pass."""
    with torch.inference_mode():
        network = model.engine.model
        scores = network.logits(network.hidden(torch.tensor([ids]))).float().log_softmax(-1)[0]
    return [float(scores[at, token]) for at, token in enumerate(ids[1:])]


def test_choices_against_a_forward_pass(run: Path, tmp_path: Path) -> None:
    model = hanlin.load(run / "base", device="cpu")
    run_exam(model, ["world/choice"], world=run / "world", random_row=False, records=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "records/world/choice.jsonl").read_text().splitlines()]
    encode, start = model.tokenizer.encode, model.tokenizer.end_of_text_id
    for record in records:
        context = encode(record["prompt"])
        for choice, told in zip(record["choices"], record["log_likelihoods"], strict=True):
            whole = [start, *encode(record["prompt"] + choice)]
            assert told == pytest.approx(sum(logprobs(model, whole)[len(context) :]), abs=1e-3)
        assert record["correct"] == (record["chosen"] == record["answer"])


def test_bits_per_byte_against_a_forward_pass(run: Path, tmp_path: Path) -> None:
    """Each window is scored as a forward pass over it says; a document's bits are their sum."""
    model = hanlin.load(run / "base", device="cpu")
    figures = run_exam(model, ["corpus/bits-per-byte"], corpus=run / "corpus", random_row=False, records=tmp_path)
    total = size = 0.0
    for one in [*(document(n) for n in range(9)), *(document(n, "故事", "zh") for n in range(9))]:
        stream = [model.tokenizer.end_of_text_id, *model.tokenizer.encode(one.text)]
        position = 1
        while position < len(stream):
            given = 1 if position == 1 else 48  # a quarter of the context is repeated
            stop = min(len(stream), position + 192 - given)
            total -= sum(logprobs(model, stream[position - given : stop])[given - 1 :]) / math.log(2)
            position = stop
        size += len(one.text.encode())
    told = figures["tasks"]["corpus/bits-per-byte"]["bits_per_byte"]
    assert told["value"] == pytest.approx(total / size, rel=1e-5) and told["n"] == 18


def test_the_stage(run: Path, tmp_path: Path) -> None:
    """Every ready task of world and corpus, before and after, twice: the same figures and the same files."""
    tasks = [name for name in library() if name.startswith(("world/", "corpus/"))]
    gates = [
        {"task": "world/facts", "require": "better"},
        {"task": "corpus/bits-per-byte", "require": "not-worse", "margin": 9.0},
    ]
    settings = ExamSettings.model_validate_json(
        json.dumps(
            {
                "model": "chat",
                "before": "base",
                "world": "world",
                "corpus": "corpus",
                "tasks": tasks,
                "gates": gates,
                "max_items": 6,
            }
        )
    )
    inputs = {name: external(run / folder) for name, folder in
              (("model", "chat"), ("before", "base"), ("world", "world"), ("corpus", "corpus"))}  # fmt: skip
    results: list[Any] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        figures = EXAM_STAGE.run(settings, StageContext(tmp_path / name, inputs, seed=3))
        files = {
            file.relative_to(tmp_path / name).as_posix(): file.read_bytes()
            for file in (tmp_path / name).rglob("*.jsonl")
        }
        results.append((figures, files))
    assert results[0] == results[1]
    figures, files = results[0]
    json.dumps(figures, allow_nan=False)
    assert (
        set(figures["tasks"]) == set(figures["random"]) == set(figures["before"]) == set(tasks) and not figures["notes"]
    )
    assert [gate["passed"] for gate in figures["gates"]] == [False, True]
    assert figures["how"]["world/facts"]["chat"] is True and figures["how"]["world/choice"]["chat"] is False
    for metrics in figures["tasks"].values():
        for figure in metrics.values():
            assert figure["low"] <= figure["value"] <= figure["high"] and figure["n"] >= 1
    for name in tasks:
        assert {f"records/{name}.jsonl", f"before/{name}.jsonl", f"random/{name}.jsonl"} <= set(files)
    [first, *_] = [json.loads(line) for line in files["records/world/dialogue.jsonl"].decode().splitlines()]
    assert first["prompt"].startswith("<|endoftext|>") and first["prompt"].count("<|im_start|>user") > 1


def test_the_random_row_is_the_seeds_and_nothing_else(run: Path) -> None:
    model, other = hanlin.load(run / "base", device="cpu"), hanlin.load(run / "chat", device="cpu")
    pair = [([1, 2, 3], [4, 5])]
    assert random_model(model, 5).engine.score(pair) == random_model(other, 5).engine.score(pair)
    assert random_model(model, 5).engine.score(pair) != random_model(model, 6).engine.score(pair)
    half = hanlin.load(run / "base", dtype="bfloat16", device="cpu")
    assert random_model(half, 5).engine.score(pair)[0] == pytest.approx(
        random_model(model, 5).engine.score(pair)[0], abs=0.05
    )
