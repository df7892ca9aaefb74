"""Alignment's speed: hanlin against trl, same weights, rows, lengths, optimiser and dtype, in the same run.

    pip install trl                                                     # 1.16.0
    pip install --no-deps --target runs/trl-ppo trl==1.12.0     # the last release that has PPO
    python benchmarks/align_speed.py --run runs/world --ppo-trl runs/trl-ppo [--json FILE]
    python benchmarks/align_speed.py --run runs/world --ppo-trl runs/trl-ppo --losses-only --prompts 2 --rows 4
    python benchmarks/align_speed.py --run runs/world --device cuda --dtype bf16 --rows 128 --prompts 64

`--run` is a run of the recipe `world`: its stage `chat` is the model, `reward` the reward model, and its world gives
instructions, pairs and prompts. A step is an optimiser step; of grpo, rloo and ppo a rollout with all its optimiser
steps. Both take the same steps on the same rows (the data is one step's, shown again and again), AdamW at the same
constant rate; contestants take turns, and a ratio is the median over rounds of the ratio of the medians over steps.

hanlin runs its stages as recipes do. trl runs with its defaults but for gradient checkpointing, which is off as it only
costs time, and then in each faster way that it offers here (see `align_peer.py`); "best" is the fastest of them.
Losses are compared too, in fp32: step by step where both have the same rows (sft, dpo), and else of given answers, with
their gradients (see `align_losses.py`). `--losses-only` does nothing else, and fails where they are far apart.

Sampled answers are measured twice: all of 48 tokens (ends are ignored), and ending by themselves ("ends"). A dpo step
has its share of the reference's probabilities, which hanlin computes beforehand (each row is asked once).

With two quiet cores the whole takes about ten minutes. On a busy machine: `--clock cpu`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    use_clock,
    write_data,
)
from align_losses import losses_apart
from align_peer import Elsewhere, variants

TASKS = ("sft", "dpo", "grpo", "grpo-ends", "rloo", "rloo-ends", "ppo", "ppo-ends")
BARS = {"sft": 2, "dpo": 2}
"""Of the others: 4"""
LOSSES_APART = 1e-4
"""The most that losses may be apart"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=TASKS, default=[task for task in TASKS if "rloo" not in task])
    parser.add_argument("--rows", type=int, default=32, help="conversations or pairs a step")
    parser.add_argument(
        "--prompts",
        type=int,
        default=16,
        help="prompts a rollout, 8 answers to each; ppo: 8 times as many, one answer to each",
    )
    parser.add_argument("--steps", type=int, default=3, help="in each round; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--continuous", action="store_true", help="also trl's continuous batching, in grpo-ends")
    parser.add_argument("--keep-memory", action="store_true", help="give trl hanlin's way of keeping freed memory")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: one thread, CPU seconds")
    parser.add_argument("--ppo-trl", type=Path, help="where trl 1.12.0 is (pip install --target); without: no PPO")
    parser.add_argument("--losses-only", action="store_true", help="compare losses, and time nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.losses_only and options.dtype != "fp32":
        parser.error("--losses-only: losses are compared in fp32")
    return options


class Hanlin:
    """The contestant of this package."""

    def __init__(self, options: argparse.Namespace, data: Path) -> None:
        self.options, self.data, self.model = options, data, Path(options.run) / "chat"

    def run(self, task: str, folder: Path, natural: bool) -> Timed:
        self.natural = natural
        return getattr(self, task)(folder)

    def _loop(self, kind: Any, rows: int, steps: int) -> Any:
        """The same steps for all: AdamW at a constant rate, one checkpoint, no evaluation."""
        fields = kind.model_fields
        return kind(
            steps=steps, rows=rows, sequence_length=LENGTH, precision=self.options.dtype, device=self.options.device,
            compile=False, checkpoint_every=steps, evaluate_every=steps,
            optimizer=type(fields["optimizer"].default)(
                name="adamw", learning_rate=RATE, beta2=0.999, weight_decay=0.0
            ),
            schedule=type(fields["schedule"].default)(name="wsd", warmup_fraction=0.0, decay_fraction=0.0),
        )  # fmt: skip

    def _timed(self, stage: Any, settings: Any, folder: Path, each: int = 1, **inputs: Path) -> Timed:
        """A stage's steps, `each` optimiser steps being one: by its own metrics, which count everything between."""
        from hanlin.artifacts import StageContext, read_jsonl
        from hanlin.artifacts.store import external

        folder.mkdir()
        given = {name: external(path) for name, path in {"model": self.model, **inputs}.items()}
        context = StageContext(folder, given, 0)
        stage.run(stage.resolve(settings, context), context)
        lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "batch" in line]
        ends = [line["seconds"] for line in lines[each - 1 :: each]]
        lengths = [line["length"] for line in lines if "length" in line]
        return Timed(
            [two - one for one, two in itertools.pairwise(ends)],
            [line["loss"] for line in lines],
            statistics.fmean(lengths) if lengths else 0.0,
        )

    def sft(self, folder: Path) -> Timed:
        from hanlin.training.sft import SFT_STAGE, SftLoop, SftSettings

        made = self._loop(SftLoop, self.options.packed_rows, self.options.steps)
        settings = SftSettings(model="m", data=str(self.data / "sft.jsonl"), validation_fraction=0.0, loop=made)
        return self._timed(SFT_STAGE, settings, folder)

    def dpo(self, folder: Path) -> Timed:
        from hanlin.alignment import reference
        from hanlin.alignment.preference import PREFERENCE_STAGE, AlignmentLoop, PreferenceSettings

        made = self._loop(AlignmentLoop, self.options.rows, self.options.steps)
        settings = PreferenceSettings(
            model="m", data=str(self.data / "dpo.jsonl"), beta=BETA, validation_fraction=0.0, loop=made
        )
        whole, took = reference.reference_logprobs, 0.0

        def clocked(*given: Any) -> Any:
            nonlocal took
            start = time.perf_counter()
            found = whole(*given)
            took += time.perf_counter() - start
            return found

        reference.reference_logprobs = clocked
        try:
            done = self._timed(PREFERENCE_STAGE, settings, folder)
        finally:
            reference.reference_logprobs = whole
        return Timed([one + took for one in done.seconds], done.losses, reference=took)

    def grpo(self, folder: Path) -> Timed:
        from hanlin.alignment.policy_gradient import GRPO_STAGE, GrpoSettings
        from hanlin.alignment.policy_settings import GrpoRollout

        rollout = GrpoRollout(prompts=self.options.prompts, samples=SAMPLES, divide_by_deviation=True)
        return self._policy("grpo", GRPO_STAGE, GrpoSettings, rollout, folder, program="exact")

    def rloo(self, folder: Path) -> Timed:
        from hanlin.alignment.policy_gradient import RLOO_STAGE, RlooSettings
        from hanlin.alignment.policy_settings import RlooRollout

        rollout = RlooRollout(prompts=self.options.prompts, samples=SAMPLES)
        return self._policy("grpo", RLOO_STAGE, RlooSettings, rollout, folder, program="exact")

    def ppo(self, folder: Path) -> Timed:
        from hanlin.alignment.policy_gradient import PPO_STAGE, PpoSettings
        from hanlin.alignment.policy_settings import PpoRollout

        rollout = PpoRollout(prompts=batch_of("ppo", self.options), inner_epochs=INNER)
        more = {"reward": str(self.model.parent / "reward"), "value_weight": VALUE_WEIGHT}
        return self._policy("ppo", PPO_STAGE, PpoSettings, rollout, folder, **more)

    def _policy(self, rows: str, stage: Any, kind: Any, rollout: Any, folder: Path, **more: Any) -> Timed:
        from hanlin.alignment import sampler
        from hanlin.alignment.policy_gradient import PolicyLoop
        from hanlin.alignment.policy_settings import KlSettings
        from hanlin.inference import Request

        answers, steps = rollout.prompts * rollout.samples, self.options.steps * rollout.inner_epochs
        settings = kind(
            model="m", data=str(self.data / f"{rows}.jsonl"), max_new_tokens=NEW_TOKENS, rollout=rollout,
            kl=KlSettings(coefficient=KL), loop=self._loop(PolicyLoop, answers, steps), **more,
        )  # fmt: skip
        inputs = {"reward": Path(more["reward"])} if "reward" in more else {}
        sampler.Request = functools.partial(Request, ignore_eos=not self.natural)  # pyright: ignore
        try:
            return self._timed(stage, settings, folder, rollout.inner_epochs, **inputs)
        finally:
            sampler.Request = Request


def main() -> None:
    options = arguments()
    quiet()
    use_clock(options.clock)
    logging.disable(logging.WARNING)
    import torch

    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    result: dict[str, Any] = {
        "settings": {k: str(v) for k, v in vars(options).items()}, "machine": f"{platform.machine()}, {where}",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "hanlin")},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        data = Path(name)
        result["lengths"] = write_data(options, data)
        print(
            json.dumps({**result["versions"], "machine": result["machine"], **result["lengths"]}, indent=1), flush=True
        )
        ours, newest = Hanlin(options, data), Elsewhere(options, data)
        stack.callback(newest.close)
        lines, far = list[str](), list[str]()
        for name in options.only:
            task, _, natural = name.partition("-")
            theirs = newest
            if task == "ppo":
                if options.ppo_trl is None:
                    print(f"{name}: left out, for trl has no PPO any more: give --ppo-trl", flush=True)
                    continue
                theirs = Elsewhere(options, data, options.ppo_trl)
                stack.callback(theirs.close)
            runs: dict[str, list[Timed]] = {}
            contestants = ("hanlin", *variants(task, options, bool(natural)))
            if options.losses_only:
                # Of the others hanlin's rollout is enough.
                contestants = ("hanlin", "") if task in ("sft", "dpo") else ("hanlin",)
            for number, who in itertools.product(range(1 if options.losses_only else options.rounds), contestants):
                folder, start = data / f"{name}-{who or 'trl'}-{number}", time.perf_counter()
                if who == "hanlin":
                    done = ours.run(task, folder, bool(natural))
                else:
                    done = theirs.run(task=task, variant=who, folder=folder, natural=bool(natural))
                runs.setdefault(who, []).append(done)
                if options.losses_only:
                    continue
                label = who if who == "hanlin" else f"trl, {who or 'defaults'}"
                print(
                    f"{name}, round {number + 1}, {label}: {statistics.median(done.seconds):.3f} s a step"
                    f" ({time.perf_counter() - start:.0f} s in all)", flush=True,
                )  # fmt: skip
            apart = None
            if options.dtype == "fp32" and task in ("sft", "dpo"):
                # Each variant takes the same steps, those that round otherwise among them.
                base = runs["hanlin"][0].losses
                apart = max(abs(a - b) for who, found in runs.items() if who != "hanlin" for one in found
                            for a, b in zip(base, one.losses, strict=True))  # fmt: skip
            elif options.dtype == "fp32":
                done, reward = data / f"{name}-hanlin-0", options.run / "reward"
                apart = losses_apart(task, theirs, done, data / f"{name}-losses", reward, bool(natural))
            if apart is not None:
                print(f"{name}: {apart:.0e} apart, of {LOSSES_APART:.0e}", flush=True)
                if apart > LOSSES_APART:
                    far.append(name)
            if options.losses_only:
                result[name] = {"losses_apart": apart}
                continue
            result[name] = summary(task, runs, apart)
            lines.append(row(name, result[name]))
            print(lines[-1], flush=True)
    if lines:
        print("\n| | hanlin, s | trl, s | ratio | trl's best, s | ratio | bar | losses apart | tokens an answer |")
        print("|---|---|---|---|---|---|---|---|---|")
        print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if far:
        sys.exit(f"losses are too far apart: {', '.join(far)}")


def summary(task: str, runs: dict[str, list[Timed]], apart: float | None) -> dict[str, Any]:
    seconds = {who: [statistics.median(one.seconds) for one in found] for who, found in runs.items()}
    ratios = {
        who: [them / us for them, us in zip(times, seconds["hanlin"])]
        for who, times in seconds.items() if who != "hanlin"
    }  # fmt: skip
    # Where the reference is computed before, its time is in none of trl's steps, so it is taken out of hanlin's.
    for who in [who for who in ratios if who.endswith("reference before")]:
        alone = [us - one.reference for us, one in zip(seconds["hanlin"], runs["hanlin"])]
        ratios[who] = [them / us for them, us in zip(seconds[who], alone)]
    middle = {who: statistics.median(found) for who, found in ratios.items()}
    return {
        "seconds": seconds, "ratios": middle, "best": min(middle, key=lambda who: middle[who]),
        "bar": BARS.get(task, 4),
        "losses_apart": apart, "new_tokens": {who: found[0].new_tokens for who, found in runs.items()},
        "losses": {who: found[0].losses for who, found in runs.items()},
        "reference_seconds": [one.reference for one in runs["hanlin"]],
    }  # fmt: skip


def row(task: str, found: dict[str, Any]) -> str:
    middle = {who: statistics.median(times) for who, times in found["seconds"].items()}
    best, apart = found["best"], found["losses_apart"]
    tokens = sorted({round(value, 1) for value in found["new_tokens"].values() if value})
    return (
        f"| {task} | {middle['hanlin']:.3f} | {middle['']:.3f} | {found['ratios']['']:.1f} "
        f"| {middle[best]:.3f} ({best or 'defaults'}) | {found['ratios'][best]:.1f} | {found['bar']} "
        f"| {'' if apart is None else f'{apart:.0e}'} | {' to '.join(map(str, tokens[:1] + tokens[1:][-1:]))} |"
    )


if __name__ == "__main__":
    main()
