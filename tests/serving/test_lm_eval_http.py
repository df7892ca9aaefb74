"""lm-eval itself as a client: its exam over HTTP finds what the engine says."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.serving.live import Live

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
completions = pytest.importorskip("lm_eval.models.openai_completions")
lm_eval_task = pytest.importorskip("lm_eval.api.task")


@pytest.mark.parametrize("batch", [1, 8])
def test_an_exam_over_http(live: Live, directory: Path, tmp_path: Path, batch: int) -> None:
    rng = random.Random(0)
    words = ("river", "stone", "garden", "winter", "a", "it", "天地")
    rows = [
        {
            "query": " ".join(rng.choices(words, k=rng.randint(2, 9))),
            "choices": [" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(3)],
            "gold": rng.randrange(3),
        }
        for _ in range(12)
    ]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = lm_eval_task.ConfigurableTask(
        config={
            "task": "served", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_target": "gold",
            "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}],
        }
    )  # fmt: skip
    served = completions.LocalCompletionsAPI(
        base_url=f"{live.url}/v1/completions", model="tiny", tokenizer=str(directory), tokenizer_backend="huggingface",
        batch_size=batch, max_length=512,
    )  # fmt: skip
    found = lm_eval.evaluate(served, {"served": task}, bootstrap_iters=0, log_samples=True)
    samples = sorted(found["samples"]["served"], key=lambda one: one["doc_id"])
    right = 0
    for row, sample in zip(rows, samples, strict=True):
        prompt = live.model.tokenizer.encode(row["query"])
        pairs = [(prompt, live.model.tokenizer.encode(f" {choice}")) for choice in row["choices"]]
        ours = [sum(values) for values in live.model.engine.score(pairs)]
        assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(ours, abs=1e-4)
        right += max(range(3), key=ours.__getitem__) == row["gold"]
    assert found["results"]["served"]["acc,none"] == pytest.approx(right / len(rows))
