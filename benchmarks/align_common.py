"""What the contestants of `align_speed.py` share: settings, rows, and what is told of a run."""

from __future__ import annotations

import json
import os
import statistics
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RATE, LENGTH, NEW_TOKENS, SAMPLES, BETA, KL, INNER, VALUE_WEIGHT = 1e-5, 256, 48, 8, 0.1, 0.04, 2, 0.5


@dataclass
class Timed:
    """What a contestant did."""

    seconds: list[float]
    """Of each step but the first"""
    losses: list[float] = field(default_factory=list[float])
    """Of each step"""
    new_tokens: float = 0.0
    """Mean length of a sampled answer"""
    reference: float = 0.0
    """Seconds in which the reference's probabilities of one step's rows were computed beforehand"""


def quiet() -> None:
    """Before transformers is imported."""
    os.environ.update(TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")
    os.environ.update(TQDM_DISABLE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_OFFLINE="1")
    warnings.filterwarnings("ignore")


def use_clock(clock: str) -> None:
    """cpu: one thread, and CPU seconds in place of the wall's, in both contestants: for a busy machine."""
    if clock == "cpu":
        import torch

        torch.set_num_threads(1)
        time.perf_counter = time.process_time


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def batch_of(task: str, options: Namespace) -> int:
    """Conversations, pairs or answers in a step: of ppo one answer to each prompt, of grpo and rloo several."""
    return options.prompts * SAMPLES if task in ("grpo", "rloo", "ppo") else options.rows


def write_data(options: Namespace, folder: Path) -> dict[str, Any]:
    """Exactly one step's rows of each kind, from all over the world's; returns their lengths."""
    import numpy as np

    from hanlin.data.conversations import best_fit_decreasing
    from hanlin.tokenization import Conversation, Message, Tokenizer

    tokenizer = Tokenizer.load(Path(options.run) / "chat")

    def put(kind: str, name: str, fields: tuple[str, ...], wanted: Callable[[Any], bool] = lambda row: True) -> Any:
        count = options.prompts if kind == "grpo" else batch_of(kind, options)
        rows = [row for row in read(Path(options.run) / "world" / f"{name}.jsonl") if wanted(row)]
        chosen = [{key: rows[at * len(rows) // count][key] for key in fields} for at in range(count)]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in chosen]
        (folder / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
        return chosen

    def size(messages: Any, prompt: bool = False) -> int:
        made = Conversation(tuple(Message.from_dict(one) for one in messages))
        return len(tokenizer.render_tokens(made, add_generation_prompt=prompt).ids)

    pairs = put("dpo", "preferences", ("prompt", "chosen", "rejected"))
    sizes = {
        "sft": [size(row["messages"]) for row in put("sft", "instructions", ("messages",))],
        "dpo": [size([*row["prompt"], *row[side]]) for row in pairs for side in ("chosen", "rejected")],
        "prompts": [
            size(row["prompt"], True)
            for row in put("ppo", "prompts", ("prompt", "answers"), lambda row: bool(row["answers"]))
        ],
    }
    put("grpo", "prompts", ("prompt", "answers"), lambda row: bool(row["answers"]))
    options.packed_rows = len(best_fit_decreasing(np.array(sizes["sft"]) - 1, LENGTH))
    told = {
        name: {
            "rows": len(found), "mean": round(statistics.fmean(found), 1),
            "percentiles 10, 50, 90": np.percentile(found, [10, 50, 90]).round().tolist(), "longest": max(found),
            "padding, where all are as long as the longest": round(1 - sum(found) / len(found) / max(found), 3),
        }
        for name, found in sizes.items()
    }  # fmt: skip
    told["sft"]["rows when packed"] = options.packed_rows
    return told
