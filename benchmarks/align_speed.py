"""Alignment's speed: hanlin against trl, same model, prompts, answers and lengths, in the same run.

    pip install trl
    python benchmarks/align_speed.py --run runs/world [--rows 32] [--steps 8] [--rounds 3]

`--run` is a run of the recipe `world`: its stage `chat` is the model, its world gives instructions, pairs and prompts.
Contestants take the same optimiser steps (AdamW, fp32, no accumulation) on the same rows, round by round; a ratio is
the median over rounds of the medians over steps. trl runs as its users run it (its defaults, no evaluation, no saving);
hanlin runs its stages as recipes do. For sft and dpo the losses of all steps are compared too: every step has the same
rows. For grpo both sample their own answers, at temperature 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from hanlin.alignment.policy_gradient import GRPO_STAGE, GrpoSettings, PolicyLoop, PolicySchedule
from hanlin.alignment.policy_settings import GrpoRollout, KlSettings
from hanlin.alignment.preference import PREFERENCE_STAGE, AlignmentLoop, AlignmentOptimizer, PreferenceSettings
from hanlin.artifacts import StageContext, read_jsonl
from hanlin.artifacts.store import external
from hanlin.training.settings import LoopSettings, ScheduleSettings
from hanlin.training.sft import SFT_STAGE, SftLoop, SftOptimizer, SftSchedule, SftSettings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
RATE, LENGTH, NEW_TOKENS, SAMPLES, BETA = 1e-5, 256, 48, 8, 0.1
Timed = tuple[list[float], list[float]]
"""Seconds of each step, and its loss"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=["sft", "dpo", "grpo"], default=["sft", "dpo", "grpo"])
    parser.add_argument("--rows", type=int, default=32, help="conversations, pairs or prompts a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def constant(kind: type[ScheduleSettings]) -> ScheduleSettings:
    return kind(name="wsd", warmup_fraction=0.0, decay_fraction=0.0)


def loop(kind: type[LoopSettings], options: argparse.Namespace, schedule: Any, optimizer: Any, rows: int) -> Any:
    """The same steps for all: AdamW at a constant rate, one checkpoint, no evaluation."""
    return kind(
        steps=options.steps,
        rows=rows,
        sequence_length=LENGTH,
        optimizer=optimizer(name="adamw", learning_rate=RATE, beta2=0.999, weight_decay=0.0),
        schedule=schedule,
        precision="fp32",
        compile=False,
        device="cpu",
        checkpoint_every=options.steps,
        evaluate_every=options.steps,
    )


def timed(stage: Any, settings: Any, model: Path, folder: Path, **inputs: Path) -> Timed:
    """A hanlin stage's steps: seconds by its own metrics, which count everything between two steps."""
    folder.mkdir()
    given = {"model": external(model), **{name: external(path) for name, path in inputs.items()}}
    stage.run(settings, StageContext(folder, given, 0))
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "batch" in line]
    seconds = [line["seconds"] for line in lines]
    return [two - one for one, two in itertools.pairwise(seconds)], [line["loss"] for line in lines]


class Hanlin:
    """The contestant of this package."""

    def __init__(self, options: argparse.Namespace, data: Path) -> None:
        self.options, self.data, self.model = options, data, options.run / "chat"

    def sft(self, folder: Path) -> Timed:
        made = loop(SftLoop, self.options, constant(SftSchedule), SftOptimizer, self.options.rows)
        # One conversation a row, as trl has them, so that a step holds the same ones; packing would be faster.
        settings = SftSettings(
            model="m", data=str(self.data / "sft.jsonl"), pack=False, validation_fraction=0.0, loop=made
        )
        return timed(SFT_STAGE, settings, self.model, folder)

    def packed(self, folder: Path) -> Timed:
        """As recipes do it: several conversations in a row; as many rows as hold the same conversations."""
        tokens = sum(line["tokens"] for line in self.lengths()) / len(self.lengths())
        rows = max(1, round(self.options.rows * tokens / LENGTH))
        made = loop(SftLoop, self.options, constant(SftSchedule), SftOptimizer, rows)
        settings = SftSettings(model="m", data=str(self.data / "sft.jsonl"), validation_fraction=0.0, loop=made)
        return timed(SFT_STAGE, settings, self.model, folder)

    def lengths(self) -> list[dict[str, int]]:
        from hanlin.tokenization import Conversation, Tokenizer

        tokenizer = Tokenizer.load(self.model)
        rows = read_jsonl(self.data / "sft.jsonl")
        return [{"tokens": len(tokenizer.render_tokens(Conversation.from_dict(row)).ids)} for row in rows]

    def dpo(self, folder: Path) -> Timed:
        made = loop(AlignmentLoop, self.options, constant(ScheduleSettings), AlignmentOptimizer, self.options.rows)
        settings = PreferenceSettings(
            model="m", data=str(self.data / "dpo.jsonl"), beta=BETA, validation_fraction=0.0, loop=made
        )
        return timed(PREFERENCE_STAGE, settings, self.model, folder)

    def grpo(self, folder: Path) -> Timed:
        answers = self.options.rows * SAMPLES
        made = loop(PolicyLoop, self.options, constant(PolicySchedule), AlignmentOptimizer, answers)
        settings = GrpoSettings(
            model="m",
            data=str(self.data / "grpo.jsonl"),
            program="exact",
            max_new_tokens=NEW_TOKENS,
            rollout=GrpoRollout(prompts=self.options.rows, samples=SAMPLES),
            kl=KlSettings(coefficient=0.04),
            loop=made,
        )
        return timed(GRPO_STAGE, settings, self.model, folder)


class Trl:
    """The peer, by its trainers' defaults."""

    def __init__(self, options: argparse.Namespace, data: Path) -> None:
        from transformers import AutoTokenizer

        self.options, self.data, self.model = options, data, options.run / "chat"
        self.tokenizer = AutoTokenizer.from_pretrained(self.model)

    def load(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)

    def train(self, trainer: type, config: type, folder: Path, rows: list[dict[str, Any]], **more: Any) -> Timed:
        from datasets import Dataset
        from transformers import TrainerCallback

        ends: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *given: Any, **named: Any) -> None:
                ends.append(time.perf_counter())

        batch = more.pop("batch", self.options.rows)
        extra = {name: more.pop(name) for name in list(more) if name in ("reward_funcs", "ref_model")}
        settings = config(
            output_dir=str(folder), max_steps=self.options.steps, per_device_train_batch_size=batch,
            gradient_accumulation_steps=1, learning_rate=RATE, lr_scheduler_type="constant", warmup_steps=0,
            weight_decay=0.0, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, bf16=False,
            disable_tqdm=True, gradient_checkpointing=False, seed=0, **more,
        )  # fmt: skip
        made = trainer(
            model=self.load(), args=settings, train_dataset=Dataset.from_list(rows), processing_class=self.tokenizer,
            callbacks=[Clock()], **extra,
        )  # fmt: skip
        made.train()
        losses = [line["loss"] for line in made.state.log_history if "loss" in line]
        return [two - one for one, two in itertools.pairwise(ends)], losses

    def sft(self, folder: Path) -> Timed:
        from trl import SFTConfig, SFTTrainer

        rows = [{"messages": row["messages"]} for row in read_jsonl(self.data / "sft.jsonl")]
        return self.train(SFTTrainer, SFTConfig, folder, rows, max_length=LENGTH, assistant_only_loss=True)

    def dpo(self, folder: Path) -> Timed:
        from trl import DPOConfig, DPOTrainer

        rows = [
            {key: row[key] for key in ("prompt", "chosen", "rejected")} for row in read_jsonl(self.data / "dpo.jsonl")
        ]
        return self.train(DPOTrainer, DPOConfig, folder, rows, max_length=LENGTH, beta=BETA)

    def grpo(self, folder: Path) -> Timed:
        from trl import GRPOConfig, GRPOTrainer

        def exact(completions: list[Any], answers: list[list[str]], **rest: Any) -> list[float]:
            return [float(one[0]["content"].strip() in given) for one, given in zip(completions, answers)]

        rows = [{key: row[key] for key in ("prompt", "answers")} for row in read_jsonl(self.data / "grpo.jsonl")]
        return self.train(
            GRPOTrainer, GRPOConfig, folder, rows, batch=self.options.rows * SAMPLES, num_generations=SAMPLES,
            max_completion_length=NEW_TOKENS, beta=0.04, temperature=1.0, reward_funcs=exact,
        )  # fmt: skip


def write_data(options: argparse.Namespace, folder: Path) -> None:
    """Exactly one step's rows of each kind, so that every step of both holds the same ones."""
    world = options.run / "world"

    def put(name: str, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")

    put(
        "sft.jsonl", [{"messages": row["messages"]} for row in read_jsonl(world / "instructions.jsonl")[: options.rows]]
    )
    put("dpo.jsonl", read_jsonl(world / "preferences.jsonl")[: options.rows])
    asked = [row for row in read_jsonl(world / "prompts.jsonl") if row["answers"]]
    put("grpo.jsonl", [{"prompt": row["prompt"], "answers": row["answers"]} for row in asked[: options.rows]])


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        write_data(options, data)
        ours, theirs = Hanlin(options, data), Trl(options, data)
        for task in options.only:
            ratios: list[float] = []
            seconds: dict[str, list[float]] = {"hanlin": [], "trl": []}
            for number in range(options.rounds):
                one, our_losses = getattr(ours, task)(data / f"hanlin-{task}-{number}")
                two, their_losses = getattr(theirs, task)(data / f"trl-{task}-{number}")
                seconds["hanlin"].append(statistics.median(one))
                seconds["trl"].append(statistics.median(two))
                ratios.append(seconds["trl"][-1] / seconds["hanlin"][-1])
                if task == "sft":
                    packed, _ = ours.packed(data / f"hanlin-packed-{number}")
                    seconds.setdefault("hanlin, packed", []).append(statistics.median(packed))
            line = ", ".join(f"{who} {statistics.median(times):.3f} s" for who, times in seconds.items())
            print(f"{task}: a step takes {line}; ratio {statistics.median(ratios):.2f}", flush=True)
            if task != "grpo":
                apart = max(abs(one - two) for one, two in zip(our_losses, their_losses))
                print(
                    f"  losses {our_losses[0]:.5f} and {their_losses[0]:.5f}; apart by at most {apart:.1e} in all steps"
                )


if __name__ == "__main__":
    main()
