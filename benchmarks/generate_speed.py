"""Speed of generation beside transformers' `generate`, in one run, on the same weights and prompts.

    python benchmarks/generate_speed.py [--dtype bfloat16 float32] [--batch 1 16] [--rounds 5] [--json FILE]
    python benchmarks/generate_speed.py --exam

The first: a Llama of 100M parameters (hidden 768, 12 layers, 12 heads, 4 of keys and values, intermediate 2,048,
vocabulary 32,000, tied), 64 prompt tokens and 64 new ones, greedy, random weights. The two take turns; figures are
medians over rounds, and the ratio is the median of each round's ratio, so that a busy machine disturbs both alike.
The second: a model of 4M parameters (hidden 192, 6 layers, vocabulary 4,096) answers 2,000 exam questions of 20-60
tokens with 24 tokens each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hanlin.inference import Engine, Request
from hanlin.inference.precision import for_generation
from hanlin.models import ModelConfig, Transformer
from hanlin.tokenization import Tokenizer

PROMPT, NEW = 64, 64
LLAMA = ModelConfig(
    family="llama", vocabulary_size=32000, hidden_size=768, layers=12, heads=12, kv_heads=4, intermediate_size=2048,
    max_positions=2048, tied=True,
)  # fmt: skip
EXAMINEE = ModelConfig(
    family="qwen3", vocabulary_size=4096, hidden_size=192, layers=6, heads=6, kv_heads=2, intermediate_size=512,
    max_positions=512,
)  # fmt: skip


def made(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.init_weights(0)
    return model.eval()


def peer(dtype: torch.dtype) -> Any:
    """transformers' model with the same weights."""
    import tempfile

    from transformers import AutoModelForCausalLM

    from hanlin.models.hub import save_model

    with tempfile.TemporaryDirectory() as directory:
        save_model(directory, made(LLAMA))
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def compare(dtype: torch.dtype, batches: list[int], rounds: int) -> list[dict[str, Any]]:
    theirs = peer(dtype)
    engine = Engine(for_generation(made(LLAMA).to(dtype)), Tokenizer.bytes(), max_batch=64)
    results: list[dict[str, Any]] = []
    for batch in batches:
        ids = torch.randint(0, 32000, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
        requests = [Request(prompt_ids=row, max_new_tokens=NEW, ignore_eos=True) for row in ids.tolist()]

        def run_ours(requests: list[Request] = requests) -> list[list[int]]:
            return [completion.ids for completion in engine.generate(requests)]

        def run_theirs(ids: torch.Tensor = ids) -> list[list[int]]:
            mask = torch.ones_like(ids)
            out = theirs.generate(
                ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
            )
            return out[:, PROMPT:].tolist()

        # The first run of each is not counted; in float32 it also shows that both do the same.
        ours, reference = run_ours(), run_theirs()
        same = statistics.mean(a == b for x, y in zip(ours, reference) for a, b in zip(x, y))
        seconds: dict[str, list[float]] = {"hanlin": [], "transformers": []}
        for _ in range(rounds):
            for name, run in (("hanlin", run_ours), ("transformers", run_theirs)):
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        ratios = [b / a for a, b in zip(seconds["hanlin"], seconds["transformers"])]
        result: dict[str, Any] = {"dtype": str(dtype).split(".")[1], "batch": batch, "same_tokens": round(same, 3)}
        for name, values in seconds.items():
            result[name] = {
                "median_seconds": round(statistics.median(values), 3),
                "best_seconds": round(min(values), 3),
                "tokens_per_second": round(batch * NEW / statistics.median(values), 1),
            }
        result["ratio"] = round(statistics.median(ratios), 2)
        result["ratio_of_best"] = round(min(seconds["transformers"]) / min(seconds["hanlin"]), 2)
        results.append(result)
        print(json.dumps(result), flush=True)
    return results


def exam(items: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 61, (items,), generator=generator).tolist()
    given = [torch.randint(0, 4096, (length,), generator=generator).tolist() for length in lengths]
    results: list[dict[str, Any]] = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = Engine(for_generation(made(EXAMINEE).to(dtype)), Tokenizer.bytes(), max_batch=64)
        for name, settings in (
            ("greedy", {}),
            ("stop string", {"stop": ["\n\n"]}),
            ("sampled", {"temperature": 0.8, "top_p": 0.95}),
        ):
            requests = [Request(prompt_ids=ids, max_new_tokens=24, ignore_eos=True, **settings) for ids in given]
            start = time.perf_counter()
            answers = engine.generate(requests)
            seconds = time.perf_counter() - start
            tokens = sum(len(answer.ids) for answer in answers)
            results.append(
                {
                    "exam": name, "dtype": str(dtype).split(".")[1], "items": items, "seconds": round(seconds, 2),
                    "tokens_per_second": round(tokens / seconds),
                }
            )  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
        pairs = [(ids, ids[first : first + 6]) for ids in given for first in (0, 4, 8, 12)]
        start = time.perf_counter()
        engine.score(pairs)
        seconds = time.perf_counter() - start
        results.append(
            {
                "exam": "choice of four, scored", "dtype": str(dtype).split(".")[1], "items": items,
                "seconds": round(seconds, 2),
            }
        )  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes")
    parser.add_argument("--exam", action="store_true")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    machine = {
        "threads": torch.get_num_threads(), "cpu": platform.processor(), "bfloat16_in_hardware": native,
        "torch": torch.__version__, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(json.dumps(machine), flush=True)
    results: list[dict[str, Any]] = []
    if arguments.exam:
        results = exam(arguments.items)
    else:
        for name in arguments.dtype:
            results += compare(getattr(torch, name), arguments.batch, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
