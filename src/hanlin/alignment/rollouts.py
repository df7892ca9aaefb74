"""Rollouts: what the policy says now, what it is worth, and how each token is credited; kept so that a run can go on.

A rollout is made from the weights before some step, and serves several steps. Its file is written before the first of
them, and the files are a chain: β of the next one follows from what was measured in the last. So a killed run reads the
rollout that it was in the middle of, and makes the others again as they were.

    rollouts/
        000012.safetensors   tokens, and the values of tokens and answers
        000012.json          when it was made, β, and its figures: what is here without it is from a killed process
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanlin.alignment import advantages as credit
from hanlin.alignment.checks import check_distance, check_probabilities, check_reference
from hanlin.alignment.kl import next_coefficient
from hanlin.alignment.policy import as_reference, divergences, score_all, sum_by_sequence
from hanlin.alignment.policy_settings import GrpoRollout, KlSettings, PpoRollout, RlooRollout, RolloutSettings
from hanlin.artifacts import HanlinError, atomic_path, write_json
from hanlin.data.batch import Batch
from hanlin.data.order import permutation
from hanlin.data.sequences import Sequences
from hanlin.training.parallel import World

EXAMPLES = 4
"""Answers of each rollout that are kept as text."""
CHECKED = 8
"""Answers of each of the first two rollouts whose distance from the reference is computed exactly"""


@dataclass
class Samples:
    """Answers drawn from a policy: S of them, those of one prompt beside each other."""

    sequences: Sequences
    """Groups are the answers of one prompt"""
    logprobs: Tensor
    """[M] log π of each token, as it was drawn"""
    ended: Tensor
    """bool [S] whether the answer came to its end by itself"""
    texts: list[str]
    """[S] for people and programs"""
    prompts: list[int]
    """[G] the number of each prompt"""


class Sampler(Protocol):
    """Where answers come from: the engine, or in exact tests a table."""

    @property
    def prompts(self) -> int:
        """How many prompts there are"""
        ...

    def sample(self, model: Any, prompts: list[int], samples: int, seed: int) -> Samples:
        """`samples` answers to each of `prompts` from `model` as it is."""
        ...

    def describe(self, prompt: int) -> dict[str, Any]:
        """Where a prompt came from."""
        ...


Rewarder = Callable[[Samples], dict[str, Tensor]]
"""Rewards [S] by name: `reward` is what is learned from, others (`gold`, parts) are only reported."""


@dataclass
class Rollout:
    """One rollout and its place in the run."""

    number: int
    begin: int
    """Position of its first step"""
    made_at: int
    """The step before which it was made"""
    coefficient: float
    """β"""
    figures: dict[str, float]
    sequences: Sequences
    stopped: int | None = None
    """The step after which the rest of it was given up, since the policy had moved too far"""
    prompts: list[int] = field(default_factory=list[int])
    examples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """A few of its answers, for people"""


class Rollouts:
    """Batches of rollouts, for `training.loop`: source and on-policy part in one.

    Of several ranks the first one samples and writes; the others wait, and read the same files.
    """

    def __init__(
        self,
        directory: Path,
        sampler: Sampler,
        rewarder: Rewarder,
        reference: Any,
        kl: KlSettings,
        settings: RolloutSettings,
        rows: int,
        seed: int,
        at_once: int,
        text: Callable[[int], Batch] | None = None,
        keep_from: Callable[[], int] = lambda: 0,
    ) -> None:
        """`reference` is the module that the policy is held to; None: the policy itself without its adapters. `rows`
        answers make a step; `at_once` tokens are computed at once where nothing is trained. `text` gives the rows of
        text beside a step (PPO-ptx). `keep_from` tells the earliest step to which the run may still go back."""
        self.directory, self.sampler, self.rewarder = directory, sampler, rewarder
        self.reference, self.kl, self.settings = reference, kl, settings
        self.rows, self.seed, self.at_once, self.text, self.keep_from = rows, seed, at_once, text, keep_from
        self.steps_per_rollout = settings.steps_on(rows) * settings.inner_epochs
        self.current: Rollout | None = None
        self._step = 0
        directory.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------ source

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every prompt was asked once (the last rollout may begin the second time)."""
        return -(-self.sampler.prompts // self.settings.prompts) * self.steps_per_rollout

    def epochs_at(self, steps: int) -> float:
        """How many times the prompts have been asked after `steps` steps."""
        return steps / self.steps_per_rollout * self.settings.prompts / self.sampler.prompts

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Sequences:
        """This rank's answers of the batch at position `step`, of the rollout made ready by `prepare`."""
        rollout = self.current
        assert rollout is not None and rollout.begin <= step < rollout.begin + self.steps_per_rollout
        epoch, place = divmod(step - rollout.begin, self.steps_per_rollout // self.settings.inner_epochs)
        order = permutation(len(rollout.sequences.lengths), self.seed, "answers", rollout.number, epoch)
        # In their order, so that answers of one prompt come into one micro-batch, which reads the prompt once.
        batch = pick(rollout.sequences, sorted(order[place * self.rows : (place + 1) * self.rows].tolist()))
        tokens = int(batch.answer_lengths.sum())
        counted = len(batch.lengths) if self.settings.normalise != "token" else tokens
        batch.of_sequence["per_token"] = torch.full((len(batch.lengths),), counted / tokens)
        if self.text is not None:
            batch.beside = self.text(step)
            labels = max(1, batch.beside.trained_tokens)
            batch.of_sequence["share"] = torch.full((len(batch.lengths),), counted / labels)
        return batch.part(rank, ranks)

    def trace(self, step: int) -> list[dict[str, Any]]:
        """The prompts of the rollout to which position `step` belongs."""
        rollout = self.current
        if rollout is None or not rollout.begin <= step < rollout.begin + self.steps_per_rollout:
            raise HanlinError(f"the rollout of position {step} is not at hand.")
        return [{"row": row, **self.sampler.describe(prompt)} for row, prompt in enumerate(rollout.prompts)]

    def write_journal(self, path: Path) -> None:
        """One line a rollout: when it was made, β, its prompts (by file and row), its figures, and some answers."""
        with atomic_path(path) as made, made.open("w", encoding="utf-8") as file:
            for known in sorted(self.directory.glob("*.json")):
                about = json.loads(known.read_text(encoding="utf-8"))
                del about["layout"]
                about["prompts"] = [self.sampler.describe(prompt)["document"] for prompt in about["prompts"]]
                for example in about["examples"]:
                    example["prompt"] = self.sampler.describe(example["prompt"])
                file.write(json.dumps(about, ensure_ascii=False) + "\n")

    # ------------------------------------------------------------------ on policy

    def prepare(self, model: Any, position: int, step: int) -> None:
        """See that the rollout for `position` is there."""
        rollout, self._step = self.current, step
        if rollout is not None and position < rollout.begin + self.steps_per_rollout and rollout.stopped is None:
            return
        world, number = World.current(), 0 if rollout is None else rollout.number + 1
        if world.first:
            self.current = self._make(model, rollout, number, position, step)
            self._save(self.current)
            self._prune()
        world.barrier()
        if not world.first:
            self.current = self._load(self._path(number))

    def observe(self, position: int, metrics: dict[str, float]) -> dict[str, float]:
        """Give the rest of the rollout up once the policy has moved too far from what sampled it."""
        rollout, limit = self.current, self.settings.early_stop
        assert rollout is not None
        first = self._step == rollout.made_at
        if limit is not None and metrics["kl_old"] > limit and rollout.stopped is None:
            # The metrics are sums over all ranks: all of them give it up.
            rollout.stopped = self._step
            if World.current().first:
                self._describe(rollout)
        return {**rollout.figures, "rollout": rollout.number} if first else {}

    def rewind(self, step: int) -> None:
        """Forget rollouts, and giving them up, that came after `step`."""
        world = World.current()
        if world.first:
            self._forget(step)
        world.barrier()
        known = sorted(self.directory.glob("*.json"))
        self.current = self._load(known[-1]) if known else None

    def _forget(self, step: int) -> None:
        for path in sorted(self.directory.glob("*.safetensors")):
            if not path.with_suffix(".json").is_file():
                path.unlink()
        for path in sorted(self.directory.glob("*.json"), reverse=True):
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["made_at"] > step:
                path.unlink()
                path.with_suffix(".safetensors").unlink(missing_ok=True)
                continue
            if about["stopped"] is not None and about["stopped"] >= step:
                write_json(path, {**about, "stopped": None})
            break

    # ------------------------------------------------------------------ making

    def _make(self, model: Any, last: Rollout | None, number: int, position: int, step: int) -> Rollout:
        settings = self.settings
        coefficient = self.kl.coefficient
        if last is not None:
            answers = settings.prompts * settings.samples
            coefficient = next_coefficient(last.coefficient, last.figures["kl_answer"], answers, self.kl)
        prompts = [self._prompt(number * settings.prompts + place) for place in range(settings.prompts)]
        policy = getattr(model, "policy", model)
        samples = self.sampler.sample(policy, prompts, settings.samples, self._sampling_seed(number))
        batch = samples.sequences
        rewards = self.rewarder(samples)
        for name, found in rewards.items():
            if not bool(found.isfinite().all()):
                raise HanlinError(
                    f"rollout {number}: {name} is no number for {int((~found.isfinite()).sum())} answers."
                )
        old = samples.logprobs
        if settings.recompute:
            old = score_all(policy, batch, self.at_once)
        elif number == 0:
            check_probabilities(old, score_all(policy, batch, self.at_once), settings.tolerance)
        with as_reference(policy, self.reference):
            reference = score_all(self.reference or policy, batch, self.at_once)
        if number < 2:
            few = pick(batch, list(range(min(CHECKED, len(batch.lengths)))))
            check_distance(divergences(policy, self.reference, few), settings.tolerance, at_reference=number == 0)
        if number == 0 and not settings.recompute:
            # Finer than KL, which is of the second order; twice, since the engine rounds otherwise than the reference.
            check_reference(old, reference, 2 * settings.tolerance)
        values = self._values(model, batch)
        figures = credited(batch, samples, rewards, old, reference, values, coefficient, self.kl, settings)
        examples = [
            {
                "prompt": prompts[place // settings.samples],
                "text": samples.texts[place],
                **{name: round(float(found[place]), 4) for name, found in rewards.items()},
            }
            for place in range(0, len(samples.texts), -(-len(samples.texts) // EXAMPLES))
        ]
        return Rollout(number, position, step, coefficient, figures, batch, None, prompts, examples)

    def _prompt(self, place: int) -> int:
        epoch, index = divmod(place, self.sampler.prompts)
        return int(_order(self.sampler.prompts, self.seed, epoch)[index])

    def _sampling_seed(self, number: int) -> int:
        return self.seed * 1_000_003 + number

    def _values(self, model: Any, batch: Sequences) -> Tensor | None:
        critic = getattr(model, "values", None)
        if critic is None:
            return None
        device = next(model.parameters()).device
        found: list[Tensor] = []
        for one in batch.parts(self.at_once):
            part = one.to(device)
            found.append(critic(part, part.in_rows()).float().cpu())
        return torch.cat(found)

    # ------------------------------------------------------------------ files

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:06d}.json"

    def _save(self, rollout: Rollout) -> None:
        batch = rollout.sequences
        tensors = {
            "input_ids": batch.input_ids,
            "lengths": batch.lengths,
            "answer_lengths": batch.answer_lengths,
            "groups": batch.groups,
            **{f"of_token/{name}": values for name, values in batch.of_token.items()},
            **{f"of_sequence/{name}": values for name, values in batch.of_sequence.items()},
        }
        with atomic_path(self._path(rollout.number).with_suffix(".safetensors")) as path:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        self._describe(rollout)

    def _describe(self, rollout: Rollout) -> None:
        about = {
            "number": rollout.number,
            "begin": rollout.begin,
            "made_at": rollout.made_at,
            "coefficient": rollout.coefficient,
            "stopped": rollout.stopped,
            "prompts": rollout.prompts,
            "layout": rollout.sequences.layout,
            "examples": rollout.examples,
            "figures": rollout.figures,
        }
        write_json(self._path(rollout.number), about)

    def _load(self, path: Path) -> Rollout:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(path.with_suffix(".safetensors"))

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        batch = Sequences(
            tensors["input_ids"],
            tensors["lengths"],
            tensors["answer_lengths"],
            tensors["groups"],
            part("of_token/"),
            part("of_sequence/"),
            layout=about.pop("layout"),
        )
        return Rollout(sequences=batch, **about)

    def _prune(self) -> None:
        """Remove the tensors of rollouts that no checkpoint can come back to; what is known of them stays."""
        earliest = self.keep_from()
        files = [path.with_suffix(".json") for path in sorted(self.directory.glob("*.safetensors"))]
        for path, following in itertools.pairwise(files):
            # It is needed as long as the one after it may have to be made again.
            if json.loads(following.read_text(encoding="utf-8"))["made_at"] > earliest:
                break
            path.with_suffix(".safetensors").unlink(missing_ok=True)


def credited(
    batch: Sequences,
    samples: Samples,
    rewards: dict[str, Tensor],
    old: Tensor,
    reference: Tensor,
    values: Tensor | None,
    coefficient: float,
    kl: KlSettings,
    settings: RolloutSettings,
) -> dict[str, float]:
    """Put what the objective needs into `batch` (see `policy_losses.policy_objective`); returns the rollout's figures:
    means of the rewards, kl_answer and kl_token (k1, nats), length, ended, coefficient."""
    lengths, reward = batch.answer_lengths, rewards["reward"].float()
    if settings.missing_end_penalty:
        reward = reward - settings.missing_end_penalty * (~samples.ended).float()
    if settings.whiten_rewards:
        reward = credit.whiten(reward, keep_mean=True)
    distance = old - reference
    price = coefficient if kl.within == "reward" else 0.0
    if isinstance(settings, PpoRollout):
        assert values is not None
        by_token = credit.token_rewards(reward, lengths, distance, price)
        gained, returns = credit.generalised_advantages(
            by_token, values, lengths, settings.discount, settings.gae_decay
        )
        batch.of_token |= {"values": values, "returns": returns}
    else:
        whole = reward - price * sum_by_sequence(distance, batch)
        if isinstance(settings, RlooRollout):
            of_answer = credit.leave_one_out(whole, settings.samples)
        else:
            by_deviation = isinstance(settings, GrpoRollout) and settings.divide_by_deviation
            of_answer = credit.group_relative(whole, settings.samples, by_deviation)
        gained = of_answer[batch.sequence_of_token()]
    if settings.whiten_advantages:
        gained = credit.whiten(gained)
    batch.of_token |= {"old": old, "reference": reference, "advantages": gained}
    batch.of_sequence |= {"reward": reward, "coefficient": torch.full_like(reward, coefficient)}
    of_answer_kl = sum_by_sequence(distance, batch)
    return {
        **{name: float(found.float().mean()) for name, found in rewards.items()},
        "kl_answer": float(of_answer_kl.mean()),
        "kl_token": float(distance.mean()),
        "length": float(lengths.float().mean()),
        "ended": float(samples.ended.float().mean()),
        "coefficient": coefficient,
    }


def pick(batch: Sequences, indices: list[int]) -> Sequences:
    """Some sequences of a batch, each as a group of its own, in the order of `indices`."""
    chosen = torch.tensor(indices)
    lengths, answers = batch.lengths[chosen], batch.answer_lengths[chosen]

    def places(starts: Tensor, sizes: Tensor) -> Tensor:
        begins = torch.repeat_interleave(starts[chosen] - (sizes.cumsum(0) - sizes), sizes)
        return begins + torch.arange(int(sizes.sum()))

    tokens = places(batch.lengths.cumsum(0) - batch.lengths, lengths)
    marks = places(batch.answer_lengths.cumsum(0) - batch.answer_lengths, answers)
    return Sequences(
        batch.input_ids[tokens],
        lengths,
        answers,
        torch.ones_like(lengths),
        {name: values[marks] for name, values in batch.of_token.items()},
        {name: values[chosen] for name, values in batch.of_sequence.items()},
        layout=batch.layout,
        marks=None if batch.marks is None else batch.marks[marks],
    )


@functools.lru_cache(maxsize=2)
def _order(prompts: int, seed: int, epoch: int) -> NDArray[np.integer]:
    """In which order the prompts are asked; it is looked at once for every prompt."""
    return permutation(prompts, seed, "prompts", epoch)
