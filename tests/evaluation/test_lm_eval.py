"""The same questions put to the same probabilities by lm-eval and by hanlin: equal log-likelihoods, equal accuracies.

lm-eval is an extra (`pip install hanlin[oracle]`); without it, its definitions are still checked by hand in
test_scoring.py.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from hanlin.evaluation.runner import run_exam
from tests.evaluation.fakes import END_OF_TEXT, fake_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
lm_eval = pytest.importorskip("lm_eval")
lm_eval_model = pytest.importorskip("lm_eval.api.model")
lm_eval_task = pytest.importorskip("lm_eval.api.task")

WORDS = ("river", "stone", "garden", "winter", "letter", "copper", "a", "window", "market", "it", "silver", "bridge")
MERGES = [b" s", b" w", b"er", b"in", b"st", b" a"]


def adapter(model: Any) -> Any:
    """hanlin's engine behind lm-eval's interface: lm-eval tokenises, cuts and marks by its own rules."""

    class Adapter(lm_eval_model.TemplateLM):
        @property
        def eot_token_id(self) -> int:
            return END_OF_TEXT

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return model.tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            pairs = [([END_OF_TEXT, *context], continuation) for _, context, continuation in requests]
            return [(sum(row), False) for row in model.engine.score(pairs)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError  # the interface asks for it; no task here calls it

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError  # the interface asks for it; no task here calls it

    return Adapter()


def evaluate(model: Any, config: dict[str, Any], file: Path) -> tuple[dict[str, Any], list[Any]]:
    task = lm_eval_task.ConfigurableTask(
        config={
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "metric_list": [{"metric": name} for name in config.pop("metrics")],
            **config,
        }
    )
    found = lm_eval.evaluate(adapter(model), {config["task"]: task}, bootstrap_iters=0, log_samples=True)
    return found["results"][config["task"]], found["samples"][config["task"]]


def phrase(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def test_multiple_choice(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        {
            "query": f"Question: {phrase(rng, 3, 9)}?",
            "choices": [phrase(rng, 1, 5) for _ in range(4)],
            "gold": rng.randrange(4),
        }
        for _ in range(80)
    ]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": "oracle", "doc_to_text": "{{query}}\nAnswer:", "doc_to_target": "gold", "doc_to_choice": "choices",
        "metrics": ["acc", "acc_norm"],
    }  # fmt: skip
    results, samples = evaluate(fake_model(merges=MERGES), config, file)
    figures = run_exam(fake_model(merges=MERGES), [f"arc_easy={file}"], random_row=False, records=tmp_path)
    ours = figures["tasks"]["arc_easy"]
    assert ours["accuracy"]["value"] == pytest.approx(results["acc,none"])
    assert ours["accuracy_per_byte"]["value"] == pytest.approx(results["acc_norm,none"])  # ASCII: bytes are characters
    assert ours["accuracy"]["value"] != ours["accuracy_per_byte"]["value"]
    records = [json.loads(line) for line in (tmp_path / "records" / "arc_easy.jsonl").read_text().splitlines()]
    for record, sample in zip(records, sorted(samples, key=lambda one: one["doc_id"]), strict=True):
        assert record["log_likelihoods"] == pytest.approx([float(one[0][0]) for one in sample["resps"]], abs=1e-4)


def test_contexts_that_differ(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [
        {"context_options": [f"{(start := phrase(rng, 3, 6))} {rng.choice(WORDS)}", f"{start} {rng.choice(WORDS)}s"],
         "continuation": phrase(rng, 2, 5) + ".", "gold": rng.randrange(2)}
        for _ in range(80)
    ]  # fmt: skip
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    config = {
        "task": "oracle", "doc_to_text": lambda row: row["gold"], "doc_to_target": lambda row: row["continuation"],
        "doc_to_choice": lambda row: row["context_options"], "metrics": ["acc"],
    }  # fmt: skip
    results, _ = evaluate(fake_model(merges=MERGES), config, file)
    figures = run_exam(fake_model(merges=MERGES), [f"winogrande={file}"], random_row=False)
    assert figures["tasks"]["winogrande"]["accuracy"]["value"] == pytest.approx(results["acc,none"])
