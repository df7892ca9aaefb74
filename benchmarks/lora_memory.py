"""What LoRA saves: memory and time of fine-tuning a model whole, with adapters, and on a base in fewer bits.

    python benchmarks/lora_memory.py [--hidden 768 --layers 12 --vocabulary 8192] [--steps 3] [--json FILE]

A Qwen3 of random weights (98M parameters as given here: 92M of them in its blocks) is fine-tuned by the stage `sft` on
rows of random words, AdamW in float32, each way in a process of its own:

    full    all weights          lora    rank 16 on every projection          int8, int4    the same on a rounded base

Held memory (weights, gradients, the optimiser's state) is what the stage's own account says, and follows from shapes.
Peak is the process's largest resident size (on a GPU: of its tensors), less what a process has that has loaded hanlin
and torch and no model; the largest part of what is left are activations, which adapters do not save. About four minutes
on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": {"rank": 16},
    "int8": {"rank": 16, "base": "int8"},
    "int4": {"rank": 16, "base": "int4"},
}
MIB = 1 << 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=4, help="of a step, one at a time")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=["none", *WAYS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def resident() -> float:
    """The most that this process held, in bytes. On Linux not by getrusage, which begins at what the parent held."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_model(options: argparse.Namespace, folder: Path) -> int:
    """A directory with random weights and a tokenizer of bytes, and the rows; returns the count of parameters."""
    from hanlin.models import ModelConfig, Transformer
    from hanlin.models.hub import save_model
    from hanlin.tokenization import Tokenizer

    config = ModelConfig(
        vocabulary_size=options.vocabulary, hidden_size=options.hidden, layers=options.layers,
        heads=options.hidden // 64, kv_heads=options.hidden // 64, head_dim=64,
        intermediate_size=-(-options.hidden * 8 // 3 // 64) * 64, max_positions=options.length, tied=True,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(0)
    save_model(folder / "model", model, Tokenizer.bytes())
    words = random.Random(0)
    with (folder / "rows.jsonl").open("w") as file:
        for _ in range(options.rows * options.steps):
            text = ["".join(words.choices("abcdefgh ", k=options.length * 2 // 5)) for _ in range(2)]
            messages = [{"role": role, "content": one} for role, one in zip(("user", "assistant"), text)]
            file.write(json.dumps({"messages": messages}) + "\n")
    return sum(one.numel() for one in model.parameters())


def train(options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: one way, and what it took."""
    import torch

    from hanlin.artifacts import StageContext, read_jsonl
    from hanlin.artifacts.store import external
    from hanlin.models.lora_settings import LoraSettings
    from hanlin.training.sft import SFT_STAGE, SftLoop, SftOptimizer, SftSettings

    found: dict[str, Any] = {"nothing": resident()}
    if options.way != "none":
        given = WAYS[options.way]
        loop = SftLoop(
            steps=options.steps, rows=options.rows, micro_rows=1, sequence_length=options.length, precision="fp32",
            compile=False, device=options.device, optimizer=SftOptimizer(name="adamw", learning_rate=1e-4),
            checkpoint_every=options.steps, evaluate_every=options.steps,
        )  # fmt: skip
        settings = SftSettings(
            model="m", data=str(options.folder / "rows.jsonl"), pack=False, validation_fraction=0.0, on_empty="drop",
            lora=None if given is None else LoraSettings(**given), loop=loop,
        )  # fmt: skip
        work = options.folder / options.way
        work.mkdir()
        figures = SFT_STAGE.run(settings, StageContext(work, {"model": external(options.folder / "model")}, 0))
        seconds = [line["seconds"] for line in read_jsonl(work / "metrics.jsonl") if "batch" in line]
        found |= {"memory": figures["memory"], "parameters": figures["parameters"], "loss": figures["loss"]}
        found |= {"seconds_a_step": (seconds[-1] - seconds[0]) / (len(seconds) - 1)}
        found["disk"] = sum(file.stat().st_size for file in (work / "adapter").glob("*")) if given else None
        if options.device == "cuda":
            found["peak"] = torch.cuda.max_memory_allocated()
    return {"peak": resident(), **found}


def elsewhere(way: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = arguments()
    if options.way is not None:
        print(json.dumps(train(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = make_model(options, folder)
        idle = 0.0 if options.device == "cuda" else elsewhere("none", folder)["nothing"]
        print(
            f"{count / 1e6:.1f} M parameters, {options.rows} rows of {options.length} a step, one at a time", flush=True
        )
        print(
            "| | trained | weights, MiB | gradients | optimiser | held | of full | peak | s a step | adapter on disk |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
        result: dict[str, Any] = {"parameters": count, "idle": idle, "ways": {}}
        for way in WAYS:
            found = result["ways"][way] = elsewhere(way, folder)
            memory, whole = found["memory"], result["ways"]["full"]["memory"]["held"]
            cells = [memory[key] / MIB for key in ("weights", "gradients", "optimizer", "held")]
            print(
                f"| {way} | {found['parameters']['trained_share']:.2%} | "
                + " | ".join(f"{cell:,.0f}" for cell in cells)
                + f" | {memory['held'] / whole:.0%} | {(found['peak'] - idle) / MIB:,.0f} "
                f"| {found['seconds_a_step']:.2f} | {(found['disk'] or 0) / MIB:,.0f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
