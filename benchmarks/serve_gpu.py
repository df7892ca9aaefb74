"""Generation on one GPU beside transformers, and as a share of what its memory allows.

    python benchmarks/serve_gpu.py [--requests 256] [--batch 64 128 256] [--rounds 3] [--json FILE]
    python benchmarks/serve_gpu.py --device cpu --quick

A Qwen3 of 0.6B parameters' shape, random weights in bf16, greedy; requests of 100 to 1,024 tokens of prompt and as many
new ones, each length as likely: output tokens a second, prompts included. hanlin with each `--batch` of answers at
once, transformers' continuous batching with as many, and its `generate` on padded batches of like lengths.

What memory allows: a step for b answers reads all weights once and the keys and values of b sequences of the mean
length; so b tokens in that many bytes over the rate of a streaming read, measured on the same device. --quick runs a
small model and few requests, to see that it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import serve_common as common
import torch
from serve_common import medians, mixed, race, ratio, report, say
from serve_peers import Continuous, Padded, transformers_model

from hanlin.inference import Engine, Request
from hanlin.inference.cache import bytes_a_position
from hanlin.models import ModelConfig

QWEN = ModelConfig(
    family="qwen3", vocabulary_size=151936, hidden_size=1024, layers=28, heads=16, kv_heads=8, head_dim=128,
    intermediate_size=3072, max_positions=4096, tied=True,
)  # fmt: skip
QUICK = ModelConfig(
    family="qwen3", vocabulary_size=32000, hidden_size=128, layers=2, heads=4, kv_heads=2, head_dim=32,
    intermediate_size=256, max_positions=4096, tied=True,
)  # fmt: skip
LENGTHS = (100, 1024)


def _allowed(config: ModelConfig, requests: list[Request], batch: int, weights: int, rate: float) -> float:
    """Tokens a second."""
    length = statistics.mean(len(one.prompt_ids) + one.max_new_tokens / 2 for one in requests)
    return batch * rate / (weights + batch * length * bytes_a_position(config, torch.bfloat16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small model and few requests, to see that it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is found: --device cpu --quick sees whether the benchmark runs")
    config, lengths = QWEN, LENGTHS
    if options.quick:
        config, lengths = QUICK, (10, 40)
        options.requests, options.batch, options.rounds = 8, [4], 1
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(json.dumps({"device": name, "torch": torch.__version__}), flush=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="serve-gpu-") as folder:
        directory = common.save(Path(folder) / "model", config, torch.bfloat16)
        requests = mixed(options.requests, 1, lengths, lengths)
        rate = common.memory_rate(device)
        for batch in options.batch:
            engine = Engine(directory, dtype="bfloat16", device=device.type, max_batch=batch)
            weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
            # Continuous batching changes the model that it is given: each way has one of its own.
            continuous = Continuous(transformers_model(directory, "bfloat16", device), requests, batch)
            padded = Padded(transformers_model(directory, "bfloat16", device), batch)
            contestants: dict[str, Callable[[], float]] = {
                "hanlin": partial(common.answer_rate, engine, requests),
                "continuous": partial(continuous, requests),
                "generate": partial(padded, requests),
            }
            for who, run in contestants.items():
                say(f"batch {batch}, first run, not counted: {who} {run():.1f}")
            found = race(f"batch {batch}", contestants, options.rounds)
            allowed = _allowed(config, requests, batch, weights, rate)
            results.append(
                report(
                    "gpu", batch=batch, tokens_per_second=medians(found), memory_GB_per_second=rate / 1e9,
                    over_continuous=ratio(found["hanlin"], found["continuous"]),
                    over_generate=ratio(found["hanlin"], found["generate"]),
                    limit_tokens_per_second=allowed, share_of_limit=statistics.median(found["hanlin"]) / allowed,
                )
            )  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
            engine.close()
    if options.json:
        options.json.write_text(json.dumps({"device": name, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
