"""trl as a contestant of `align_speed.py`: its trainers with their defaults, and the faster ways that they offer.

It runs in a process of its own, this file, which is asked for one run after the other: in hanlin's process it would
have hanlin's way of keeping freed memory, which makes trl 15 to 25 % faster (`--keep-memory` gives it to both). PPO is
no longer in trl (https://github.com/huggingface/trl/pull/7020): 1.12.0 is the last release with `trl.experimental.ppo`,
and has another process, with that release first on the path.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

from align_common import (
    BETA,
    INNER,
    KL,
    LENGTH,
    NEW_TOKENS,
    RATE,
    SAMPLES,
    VALUE_WEIGHT,
    Timed,
    batch_of,
    quiet,
    read,
    use_clock,
)

ROWS_AT_ONCE = {"sft": 8, "dpo": 8, "grpo": 32, "rloo": 32, "ppo": 32}
"""Rows of a micro-batch, where trl accumulates"""
ANSWER = "ANSWER "


def variants(task: str, options: Namespace, natural: bool) -> dict[str, dict[str, Any]]:
    """The ways to run a task by their names: settings beside the defaults."""
    accumulate = batch_of(task, options) // ROWS_AT_ONCE[task]
    found: dict[str, dict[str, Any]] = {"": {}}
    if accumulate > 1:
        few = {"per_device_train_batch_size": ROWS_AT_ONCE[task], "gradient_accumulation_steps": accumulate}
        found["accumulating"] = few
    if task == "sft":
        found["padding_free"] = {"padding_free": True, "max_length": None}
        found["packing"] = {"packing": True, "per_device_train_batch_size": options.packed_rows}
    if task == "dpo":
        found["reference before"] = {"precompute_ref_log_probs": True}
    if task == "grpo" and natural and options.continuous:
        # It ignores min_new_tokens.
        found["continuous batching"] = {**found.get("accumulating", {}), "use_transformers_continuous_batching": True}
    return found


class Trl:
    """The peer. Each task is named with a variant: "" has trl's defaults."""

    def __init__(self, options: Namespace, data: Path) -> None:
        from transformers import AutoTokenizer

        self.options, self.data, self.model = options, data, Path(options.run) / "chat"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.model)
        self.tokenizer.padding_side = "left"
        # The template ends a turn with a line break, which is a part of the answer for trl's DPO and not for hanlin's.
        template = self.tokenizer.chat_template
        ending = "{%- endgeneration %}\n        {{- '\\n' }}"
        assert ending in template
        shorter = "{%- endgeneration %}{%- if not loop.last %}{{- '\\n' }}{%- endif %}"
        self.tokenizer.chat_template = template.replace(ending, shorter)

    def run(self, task: str, variant: str, folder: Path, natural: bool) -> Timed:
        self.natural = natural
        return getattr(self, f"_{task}")(folder, variants(task, self.options, natural)[variant])

    # ------------------------------------------------------------------ tasks

    def _sft(self, folder: Path, more: dict[str, Any]) -> Timed:
        from trl import SFTConfig, SFTTrainer

        rows = [{"messages": row["messages"]} for row in read(self.data / "sft.jsonl")]
        return self._train(
            "sft", SFTTrainer, SFTConfig, folder, rows, more, max_length=LENGTH, assistant_only_loss=True
        )

    def _dpo(self, folder: Path, more: dict[str, Any]) -> Timed:
        from trl import DPOConfig, DPOTrainer

        rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in read(self.data / "dpo.jsonl")]
        return self._train("dpo", DPOTrainer, DPOConfig, folder, rows, more, max_length=LENGTH, beta=BETA)

    def _grpo(self, folder: Path, more: dict[str, Any]) -> Timed:
        from trl import GRPOConfig, GRPOTrainer

        return self._sampled("grpo", GRPOTrainer, GRPOConfig, folder, more)

    def _rloo(self, folder: Path, more: dict[str, Any]) -> Timed:
        from trl import RLOOConfig, RLOOTrainer

        return self._sampled("rloo", RLOOTrainer, RLOOConfig, folder, more)

    def _sampled(self, task: str, trainer: Any, config: Any, folder: Path, more: dict[str, Any]) -> Timed:
        lengths: list[float] = []

        def exact(completions: list[Any], completion_ids: list[Any], answers: list[Any], **rest: Any) -> list[float]:
            lengths.append(sum(len(ids) for ids in completion_ids) / len(completion_ids))
            return [float(one[0]["content"].strip() in given) for one, given in zip(completions, answers)]

        rows = [{key: row[key] for key in ("prompt", "answers")} for row in read(self.data / "grpo.jsonl")]
        fixed = {} if self.natural else {"generation_kwargs": {"min_new_tokens": NEW_TOKENS}}
        done = self._train(
            task, trainer, config, folder, rows, more, reward_funcs=exact, num_generations=SAMPLES,
            max_completion_length=NEW_TOKENS, beta=KL, temperature=1.0, **fixed,
        )  # fmt: skip
        done.new_tokens = sum(lengths) / len(lengths)
        return done

    def config(self, task: str, config: Any, folder: Path, **more: Any) -> Any:
        bf16, cpu = self.options.dtype == "bf16", self.options.device == "cpu"
        given: dict[str, Any] = {
            "output_dir": str(folder), "max_steps": self.options.steps,
            "per_device_train_batch_size": batch_of(task, self.options),
            "gradient_accumulation_steps": 1, "learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_steps": 0,
            "weight_decay": 0.0, "logging_steps": 1_000, "save_strategy": "no", "report_to": "none", "use_cpu": cpu,
            "bf16": bf16, "disable_tqdm": True, "seed": 0,
            # Its default (true) saves memory and takes more time.
            "gradient_checkpointing": False,
        }  # fmt: skip
        return config(**{**given, **more})

    def _load(self, path: Path | None = None) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(path or self.model, dtype=torch.float32)

    def _train(
        self, task: str, trainer: Any, config: Any, folder: Path, rows: list[Any], variant: dict[str, Any], **more: Any
    ) -> Timed:
        from datasets import Dataset
        from transformers.trainer_callback import PrinterCallback

        extra = {name: more.pop(name) for name in ("reward_funcs",) if name in more}
        settings = self.config(task, config, folder, **{**more, **variant})
        parts: list[float] = []
        clock = make_clock()
        made = trainer(
            model=self._load(), args=settings, train_dataset=Dataset.from_list(rows), processing_class=self.tokenizer,
            callbacks=[clock], **extra,
        )  # fmt: skip
        made.remove_callback(PrinterCallback)
        # Losses are taken where they are made: logging each step would slow it.
        inner = made.training_step

        def step(*given: Any, **named: Any) -> Any:
            parts.append(inner(*given, **named))
            return parts[-1]

        made.training_step = step
        made.train()
        each = settings.gradient_accumulation_steps
        losses = [float(sum(parts[at : at + each])) for at in range(0, len(parts), each)]
        return Timed(clock.seconds(), losses)

    # ------------------------------------------------------------------ PPO

    def _ppo(self, folder: Path, more: dict[str, Any]) -> Timed:
        from trl.experimental.ppo import ppo_trainer

        lengths, clock, cut = list[float](), make_clock(), ppo_trainer.truncate_response

        def seen(stop_token: int, pad: int, answers: Any) -> Any:
            found = cut(stop_token, pad, answers)
            lengths.append(float((found != pad).sum(1).float().mean()))
            return found

        with mock.patch.object(ppo_trainer, "truncate_response", seen):
            self.ppo_trainer(folder, self.natural, self.model, callbacks=[clock], **more).train()
        return Timed(clock.seconds(), new_tokens=statistics.fmean(lengths) if lengths else float(NEW_TOKENS))

    def ppo_trainer(self, folder: Path, natural: bool, model: Path, callbacks: Any = None, **more: Any) -> Any:
        """A trainer of the weights in `model`. `natural`: answers end by themselves."""
        import torch
        from datasets import Dataset
        from transformers import AutoModelForSequenceClassification
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        def scorer() -> Any:
            path = Path(self.options.run) / "reward"
            return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, num_labels=1)

        rows = read(self.data / "ppo.jsonl")
        # Its own default goes on to the last token. Its end is the tokenizer's, which is a turn's in chat models.
        self.tokenizer.eos_token = "<|im_end|>"
        stop = {"stop_token": "eos"} if natural else {}
        ids: list[Any] = [
            self.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
            for row in rows
        ]
        settings = self.config(
            "ppo", PPOConfig, folder, total_episodes=len(rows) * self.options.steps, num_ppo_epochs=INNER,
            response_length=NEW_TOKENS, temperature=1.0, kl_coef=KL, vf_coef=VALUE_WEIGHT, num_sample_generations=0,
            **stop, **more,
        )  # fmt: skip
        return PPOTrainer(
            args=settings, processing_class=self.tokenizer, model=self._load(model), ref_model=self._load(),
            reward_model=scorer(), value_model=scorer(), callbacks=callbacks,
            train_dataset=Dataset.from_list([{"input_ids": x} for x in ids]),
        )  # fmt: skip


def make_clock() -> Any:
    """A callback that knows how long each step but the first took."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *given: Any, **named: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

        def seconds(self) -> list[float]:
            return [two - one for one, two in itertools.pairwise(self.ends)]

    return Clock()


class Elsewhere:
    """trl in a process of its own. `path`: where another release of it is."""

    def __init__(self, options: Namespace, data: Path, path: Path | None = None) -> None:
        self.log = data / f"trl-{'newest' if path is None else 'ppo'}.log"
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        paths = [str(path)] if path else []
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"options": given, "data": str(data)})], text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"),
        )  # fmt: skip

    def ask(self, **what: Any) -> Any:
        """Its answer. Ends the benchmark where there is none."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what, default=str) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise SystemExit(f"trl ended ({what}):\n{self.log.read_text()[-3000:]}")

    def run(self, **what: Any) -> Timed:
        return Timed(**self.ask(**what))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Do what is asked, line by line."""
    quiet()
    asked = json.loads(sys.argv[1])
    options = Namespace(**asked["options"])
    use_clock(options.clock)
    if options.keep_memory:
        from hanlin.models.memory import keep_freed_memory

        keep_freed_memory()
    trl = Trl(options, Path(asked["data"]))
    for line in sys.stdin:
        what: dict[str, Any] = json.loads(line)
        folder = Path(what["folder"])
        if "losses" in what:
            from align_losses import answer

            answer(trl, what.pop("losses"), Path(what.pop("model")), Path(what.pop("folder")), **what)
            told: Any = None
        else:
            told = trl.run(what["task"], what["variant"], folder, what["natural"]).__dict__
        print(ANSWER + json.dumps(told), flush=True)


if __name__ == "__main__":
    serve()
