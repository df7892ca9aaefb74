"""Training throughput: hanlin against transformers' Qwen3 of the same shape, in the same run.

    .venv/bin/python benchmarks/train_speed.py                       # CPU: 6 layers × 384, 16 × 512 tokens a step
    .venv/bin/python benchmarks/train_speed.py --dtype float32 bfloat16 --compile
    .venv/bin/python benchmarks/train_speed.py --clock cpu --rows 4  # on a busy machine
    .venv/bin/python benchmarks/train_speed.py --device cuda --layers 12 --hidden 768 --sequence 1024 --rows 32

Each contestant does whole optimiser steps (forward, backward, clip, AdamW) on the same tokens. Rounds are interleaved,
and ratios are medians of ratios within a round, so that a busy machine slows all alike. transformers runs as its users
run it: `model(input_ids, labels=…).loss` on the whole batch, AdamW as torch gives it, autocast for bfloat16. hanlin
runs as `training` runs it: micro-batches small enough for the processor's cache. Both keep freed memory
(`hanlin.models.memory`), which helps transformers more. Ratios are to transformers in the first dtype named. The
peak is of this machine's matrix-product rate in that dtype, measured here, or of an H100's 989 TFLOP/s.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from hanlin.models import ModelConfig, Transformer
from hanlin.models.flops import flops_per_token, parameter_count
from hanlin.models.losses import cross_entropy
from hanlin.models.memory import keep_freed_memory

H100_BFLOAT16 = 989e12
Step = Callable[[], float]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--rows", type=int, default=16, help="sequences a step")
    parser.add_argument("--micro", type=int, nargs="*", default=None, help="hanlin's rows at once: 2; GPU: all")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], nargs="*", default=None)
    parser.add_argument(
        "--documents", type=int, default=0, help="also pack documents of this many tokens (hanlin only)"
    )
    parser.add_argument("--compile", action="store_true", help="also compile hanlin's blocks and transformers' model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: one thread, CPU seconds")
    return parser.parse_args()


def shape(options: argparse.Namespace) -> ModelConfig:
    return ModelConfig(
        vocabulary_size=options.vocabulary, hidden_size=options.hidden, layers=options.layers,
        heads=options.hidden // 64, intermediate_size=-(-options.hidden * 8 // 3 // 64) * 64,
        max_positions=options.sequence,
    )  # fmt: skip


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def hanlin_step(options: argparse.Namespace, dtype: str, micro: int, documents: int, compiled: bool) -> Step:
    config = shape(options)
    model = Transformer(config)
    model.init_weights(0)
    model.to(options.device)
    model.compute_dtype = torch.bfloat16 if dtype == "bfloat16" else None
    if compiled:
        for block in model.blocks:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = batch(options)
    position = torch.arange(options.sequence, device=options.device).expand(options.rows, -1)

    def step() -> float:
        total = 0.0
        for ids in range(0, options.rows, micro):
            rows = tokens[ids : ids + micro]
            extra: tuple[Any, ...] = ()
            if documents:
                place = position[ids : ids + micro]
                extra = place % documents, place // documents
            found = cross_entropy(model.hidden(rows[:, :-1], *extra), model.head_weight, rows[:, 1:])
            (found.loss / (options.rows * options.sequence)).backward()
            total += float(found.nll) if options.device == "cpu" else 0.0
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def transformers_step(options: argparse.Namespace, dtype: str, compiled: bool) -> Step:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64, num_key_value_heads=options.hidden // 64, head_dim=64,
        intermediate_size=-(-options.hidden * 8 // 3 // 64) * 64, max_position_embeddings=options.sequence,
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    run = torch.compile(model) if compiled else model
    ids = batch(options)[:, :-1]

    def step() -> float:
        cast = torch.autocast(options.device.split(":")[0], dtype=torch.bfloat16)
        with cast if dtype == "bfloat16" else contextlib.nullcontext():
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach()) if options.device == "cpu" else 0.0

    return step


def batch(options: argparse.Namespace) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (options.rows, options.sequence + 1)
    return torch.randint(0, options.vocabulary, shape, generator=generator).to(options.device)


def matrix_rate(device: str, dtype: str, clock: Callable[[], float]) -> float:
    """FLOP/s of a large square matrix product: the best of several."""
    size = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        wait(device)
        start = clock()
        _ = a @ b
        wait(device)
        best = min(best, clock() - start)
    return 2 * size**3 / best


def main() -> None:
    options = arguments()
    cuda = options.device.startswith("cuda")
    clock = time.perf_counter
    if options.clock == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    keep_freed_memory()
    dtypes = options.dtype or (["bfloat16"] if cuda else ["float32"])
    steps: dict[tuple[str, str], Step] = {}
    for dtype in dtypes:
        steps["transformers", dtype] = transformers_step(options, dtype, False)
        if options.compile:
            steps["transformers, compiled", dtype] = transformers_step(options, dtype, True)
        for micro in options.micro or [options.rows if cuda else 2]:
            steps[f"hanlin, {micro} rows at once", dtype] = hanlin_step(options, dtype, micro, 0, False)
            if options.documents:
                name = f"hanlin, {micro} rows, documents of {options.documents}"
                steps[name, dtype] = hanlin_step(options, dtype, micro, options.documents, False)
            if options.compile:
                steps[f"hanlin, {micro} rows, compiled", dtype] = hanlin_step(options, dtype, micro, 0, True)
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        wait(options.device)
        print(f"first step of {name[0]} in {name[1]}: {time.perf_counter() - start:.1f} s", flush=True)
        step()
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            wait(options.device)
            start = clock()
            step()
            wait(options.device)
            seconds[name].append(clock() - start)

    config = shape(options)
    tokens = options.rows * options.sequence
    cost = flops_per_token(config, options.sequence)
    peaks = {dtype: matrix_rate(options.device, dtype, clock) for dtype in dtypes}
    if cuda and "bfloat16" in peaks:
        peaks["bfloat16"] = H100_BFLOAT16
    print(
        f"\n{options.layers} layers × {options.hidden}, {parameter_count(config) / 1e6:.1f} M parameters, "
        f"{options.rows} × {options.sequence} tokens a step, {cost / 1e6:.1f} MFLOP a token, "
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads"
    )
    print("matrix products: " + ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in peaks.items()))
    print(f"{'':42} {'dtype':9} {'tokens/s':>9} {'ratio':>6} {'GFLOP/s':>9} {'of peak':>8}")
    for (name, dtype), times in seconds.items():
        rate = tokens / statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(seconds["transformers", dtypes[0]], times))
        print(
            f"{name:42} {dtype:9} {rate:9,.0f} {ratio:6.2f} {rate * cost / 1e9:9,.0f} {rate * cost / peaks[dtype]:8.1%}"
        )


if __name__ == "__main__":
    main()
