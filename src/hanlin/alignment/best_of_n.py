"""The stage `best-of-n`: a model answers each prompt several times, and what is best is kept, to be learned.

What it writes serves three ways: `instructions.jsonl`, the best answers, for an sft stage (rejection sampling);
`preferences.jsonl`, pairs or rankings of the model's own answers, for a preference, rrhf or reward stage; and its
figures, which tell what choosing among n is worth (Gao et al. 2023's curve of reward over KL).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hanlin.alignment.asked import AskedSettings, fingerprint, look_at_prompts, render, rewarder
from hanlin.artifacts import POLICY_KINDS, Stage, StageContext, atomic_path, read_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable

    from hanlin.alignment.sampler import RenderedPrompts
    from hanlin.data.prompts import Prompt
    from hanlin.tokenization import Tokenizer

SHARDS = "samples"
PROMPTS_AT_ONCE = 64
TOKENS_AT_ONCE = 8_192
"""That a reward model judges"""


class BestOfNSettings(AskedSettings):
    """Samples answers, rewards them, and keeps the best, beside pairs of better and worse ones."""

    samples: int = Field(default=8, ge=2)
    """Answers to each prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling; at 1 the answers are the model's own distribution."""
    most_prompts: int | None = Field(default=None, ge=1)
    """At most so many prompts, drawn by the seed; left out: all."""
    pairs: Literal["best-worst", "all", "ranking"] = "best-worst"
    """What preferences are made of a prompt's answers: one pair, every pair, or one ranked row."""
    least_gap: float = Field(default=0.0, ge=0)
    """Pairs whose rewards differ by no more are not written."""
    least_reward: float | None = None
    """A best answer that is worth less is not written as an instruction (rejection sampling)."""
    sequence_length: int = Field(default=512, ge=2)
    """Most tokens of a prompt with its answer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one."""


def best_place(rewards: Sequence[float]) -> int:
    """The place of the best of one prompt's answers; of equals the first."""
    return max(range(len(rewards)), key=lambda place: (rewards[place], -place))


def run_best_of_n(settings: BestOfNSettings, context: StageContext) -> dict[str, Any]:
    """Sample in shards, each written whole, so that an interrupted run goes on where it was. Of several processes the
    first one does it all, and the others wait for it."""
    from hanlin.data.order import permutation
    from hanlin.tokenization import Tokenizer
    from hanlin.training.parallel import World

    tokenizer, world = Tokenizer.load(context.inputs["model"].path), World.current()
    rendered = render(settings, context, tokenizer, settings.sequence_length)
    chosen: list[int] = permutation(len(rendered), context.seed, "prompts")[: settings.most_prompts].tolist()
    answer = _answering(settings, context, rendered, tokenizer) if world.first else None
    folder = context.workdir / SHARDS
    for start in range(0, len(chosen), PROMPTS_AT_ONCE):
        shard = folder / f"{start // PROMPTS_AT_ONCE:06d}.jsonl"
        if answer is not None:
            context.progress.update(start, len(chosen), "prompts answered")
            if not shard.is_file():
                _write_shard(shard, answer(chosen[start : start + PROMPTS_AT_ONCE], start))
        # After every shard: one wait for all of them would be longer than a process group allows.
        world.barrier()
    figures: dict[str, Any] = {}
    if world.first:
        rows = [row for shard in sorted(folder.glob("*.jsonl")) for row in read_jsonl(shard)]
        figures = {**write_choices(settings, rows, rendered.prompts, context.workdir), "prompts": rendered.figures()}
    return json.loads(world.gather_bytes(json.dumps(figures).encode())[0])


def _answering(
    settings: BestOfNSettings, context: StageContext, rendered: RenderedPrompts, tokenizer: Tokenizer
) -> Callable[[list[int], int], list[dict[str, Any]]]:
    """From the numbers of prompts, and of the first one's place, to a row for each, with its answers' rewards."""
    from hanlin.alignment.sampler import EngineSampler
    from hanlin.models.device import choose_device
    from hanlin.models.hub import load_model

    model = load_model(context.inputs["model"].path, device=choose_device(settings.device)).eval()
    sampler = EngineSampler(rendered, tokenizer, settings.max_new_tokens, temperature=settings.temperature)
    reward = rewarder(settings, context, rendered, settings.device, TOKENS_AT_ONCE)

    def answer(prompts: list[int], start: int) -> list[dict[str, Any]]:
        found = sampler.sample(model, prompts, settings.samples, context.seed * 1_000_003 + start)
        values = {name: column.tolist() for name, column in reward(found).items()}
        rows: list[dict[str, Any]] = []
        for place, number in enumerate(prompts):
            own = slice(place * settings.samples, (place + 1) * settings.samples)
            row = {"prompt": number, "answers": found.texts[own], "ended": found.ended[own].tolist()}
            rows.append(row | {name: column[own] for name, column in values.items()})
        return rows

    return answer


def _write_shard(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as made, made.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_choices(
    settings: BestOfNSettings, rows: list[dict[str, Any]], prompts: list[Prompt], directory: Path
) -> dict[str, Any]:
    """Write instructions.jsonl and preferences.jsonl from sampled rows ({prompt, answers, ended, reward, …}); returns
    the counts, and the mean reward of the best of 1, 2, 4 … answers with the KL that this costs."""
    instructions = pairs = 0
    rejected = {"cut off or empty": 0, "reward below least_reward": 0}
    alike = 0
    with (
        atomic_path(directory / "instructions.jsonl") as first,
        atomic_path(directory / "preferences.jsonl") as second,
        first.open("w", encoding="utf-8") as good,
        second.open("w", encoding="utf-8") as compared,
    ):
        for row in rows:
            prompt = [message.to_dict() for message in prompts[row["prompt"]].messages]
            tools = prompts[row["prompt"]].tools
            about = {"metadata": {"from": "best-of-n", **prompts[row["prompt"]].metadata}}
            about |= {"tools": tools} if tools else {}
            best = best_place(row["reward"])
            if not row["ended"][best] or not row["answers"][best].strip():
                rejected["cut off or empty"] += 1
            elif settings.least_reward is not None and row["reward"][best] < settings.least_reward:
                rejected["reward below least_reward"] += 1
            else:
                answer = {"role": "assistant", "content": row["answers"][best]}
                kept = {"messages": [*prompt, answer], "reward": row["reward"][best], **about}
                good.write(json.dumps(kept, ensure_ascii=False) + "\n")
                instructions += 1
            made = list(_preferences(settings, row))
            alike += not made
            for preference in made:
                compared.write(json.dumps({"prompt": prompt, **preference, **about}, ensure_ascii=False) + "\n")
                pairs += 1
    return {
        "answers": sum(len(row["answers"]) for row in rows),
        "asked": len(rows),
        "instructions": instructions,
        "rejected": rejected,
        "preferences": pairs,
        "prompts_without_a_preference": alike,
        "best_of": _gains(rows),
    }


def _preferences(settings: BestOfNSettings, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The preference rows of one prompt's answers: none between equal texts, or rewards within `least_gap`, and none of
    an answer that was cut off: it would be learned as one that ends there."""
    worth: dict[str, float] = {}
    for text, reward, ended in zip(row["answers"], row["reward"], row["ended"]):
        if ended and text.strip():
            worth.setdefault(text, reward)
    ranked = sorted(worth.items(), key=lambda item: -item[1])
    if len(ranked) < 2 or ranked[0][1] - ranked[-1][1] <= settings.least_gap:
        return []
    if settings.pairs == "ranking":
        return [{"responses": [text for text, _ in ranked], "scores": [reward for _, reward in ranked]}]
    candidates = [(ranked[0], ranked[-1])]
    if settings.pairs == "all":
        candidates = [(one, two) for place, one in enumerate(ranked) for two in ranked[place + 1 :]]
    return [
        {
            "chosen": [{"role": "assistant", "content": one[0]}],
            "rejected": [{"role": "assistant", "content": two[0]}],
            "margin": one[1] - two[1],
        }
        for one, two in candidates
        if one[1] - two[1] > settings.least_gap
    ]


def _gains(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The mean reward (and gold) of the best of n by reward, for n = 1, 2, 4 …, estimated from all subsets of the
    samples, and the bound log n - (n-1)/n on its KL (Beirami et al. 2024)."""
    found: list[dict[str, float]] = []
    total, count = len(rows[0]["answers"]) if rows else 0, 1
    while count <= total:
        line: dict[str, float] = {"n": count, "kl_bound": math.log(count) - (count - 1) / count}
        for name in ("reward", "gold"):
            if rows and name in rows[0]:
                line[name] = sum(_best_mean(row["reward"], row[name], count) for row in rows) / len(rows)
        found.append(line)
        count *= 2
    return found


def _best_mean(rewards: list[float], values: list[float], count: int) -> float:
    """The expected value of the best by reward of `count` drawn without replacement."""
    order = sorted(range(len(rewards)), key=lambda place: rewards[place])
    ways = math.comb(len(rewards), count)
    # The answer of rank k (from 0) is the best of C(k, count - 1) subsets.
    return sum(math.comb(rank, count - 1) * values[place] for rank, place in enumerate(order)) / ways


BEST_OF_N_STAGE = Stage(
    kind="best-of-n",
    settings=BestOfNSettings,
    run=run_best_of_n,
    inputs={"model": POLICY_KINDS, "world": ("world",), "reward": ("reward",)},
    paths=("data",),
    fingerprint=fingerprint,
    looks={"data": look_at_prompts},
    transient=(SHARDS,),
    version=2,
)
