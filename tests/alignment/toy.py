"""A tiny model with a byte tokenizer, and preferences and prompts for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hanlin.artifacts import Artifact
from hanlin.artifacts.store import external
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.tokenization import Tokenizer


def tiny_config(tokenizer: Tokenizer, **changes: Any) -> ModelConfig:
    known = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "max_positions": 256}
    return ModelConfig(vocabulary_size=tokenizer.vocabulary_size, **{**known, **changes})


def make_model(folder: Path, seed: int = 0) -> Artifact:
    """A Hugging Face directory of random weights."""
    tokenizer = Tokenizer.bytes()
    model = Transformer(tiny_config(tokenizer))
    model.init_weights(seed)
    save_model(folder, model, tokenizer)
    return external(folder)


def make_pairs(path: Path, count: int = 60) -> Path:
    """Pairs in two forms: answers that count upwards are better than those that do not."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        prompt, good, bad = f"after {number}?", str(number + 1), f"{number} again"
        if number % 2:
            rows.append({"prompt": prompt, "chosen": good, "rejected": bad})
        else:
            rows.append(
                {
                    "prompt": [{"role": "user", "content": prompt}],
                    "chosen": [{"role": "assistant", "content": good}],
                    "rejected": [{"role": "assistant", "content": bad}],
                    "margin": 2.0,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_rankings(path: Path, count: int = 30) -> Path:
    """Rankings of two to four answers."""
    rows = [
        {
            "prompt": f"after {number}?",
            "responses": [str(number + 1), f"{number}", "no", "?"][: 2 + number % 3],
            "scores": [3.0, 1.5, 0.5, 0.0][: 2 + number % 3],
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loop(kind: type[Any], **changes: Any) -> Any:
    known: dict[str, Any] = {"rows": 8, "sequence_length": 128, "device": "cpu", "precision": "fp32", "micro_rows": 4}
    return kind(**{**known, "checkpoint_every": 10, "evaluate_every": 10, **changes})
