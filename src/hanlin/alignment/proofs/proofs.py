"""The proofs: each trains a table by the code that trains models, and measures how far it ends from the optimum."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hanlin.alignment.best_of_n import best_place
from hanlin.alignment.policy_losses import policy_objective
from hanlin.alignment.policy_settings import (
    ClipSettings,
    Estimator,
    GrpoRollout,
    KlSettings,
    PpoRollout,
    RlooRollout,
    RolloutSettings,
)
from hanlin.alignment.preference import AlignmentOptimizer, AlignmentSchedule, PreferenceSettings, preference_objective
from hanlin.alignment.proofs import optima
from hanlin.alignment.proofs.table import Space, TableActorCritic, TableCritic, TablePolicy, TableSampler
from hanlin.alignment.rollouts import Rollouts, Samples
from hanlin.artifacts import Silent
from hanlin.data.sequences import Sequences
from hanlin.training.job import Job
from hanlin.training.loop import train
from hanlin.training.objectives import Objective
from hanlin.training.settings import LoopSettings, SpikeSettings

WORDS = Space(letters=3, longest=4, prompts=2)
"""For the policy methods: 161 answers of up to 4 tokens, to two prompts"""
SHORT = Space(letters=2, longest=3, prompts=2)
"""For the direct methods, which are shown all pairs: 15 answers, 105 pairs a prompt"""
PAIRS = Space(letters=2, longest=2)
"""For samples of pairs: 7 answers, 21 pairs"""
BANDIT = Space(letters=5, longest=1)
"""For variants whose optimum is known for single tokens: 6 answers (one token is the end)"""
BETA = 0.5


@dataclass(frozen=True)
class Proof:
    """One line of the table."""

    name: str
    seed: int
    distance: float
    """From the optimum: KL(π ‖ π*) in nats, or as `what` says"""
    control: float
    """The same of a control: training without KL, or no training"""
    bound: float
    """What the distance must stay below"""
    least_control: float = 0.0
    """What the control must exceed: a proof that the bound means something"""
    what: str = "KL(π ‖ π*)"

    @property
    def holds(self) -> bool:
        return self.distance <= self.bound and self.control >= self.least_control


@dataclass(frozen=True)
class World:
    """A space with a reference and rewards drawn from a seed."""

    space: Space
    reference: TablePolicy
    rewards: Tensor
    """[prompts, answers]"""

    @staticmethod
    def drawn(space: Space, seed: int) -> World:
        generator = torch.Generator().manual_seed(10_000 + seed)
        shape = (space.prompts, len(space.answers()))
        rewards = torch.rand(shape, dtype=torch.float64, generator=generator)
        return World(space, TablePolicy(space, seed), rewards)

    def policy(self) -> TablePolicy:
        """A policy that begins as the reference."""
        made = TablePolicy(self.space)
        made.load_state_dict(self.reference.state_dict())
        return made

    @property
    def base(self) -> Tensor:
        return self.reference.probabilities()


class Stationary:
    """One batch for ever: all that there is to learn from."""

    steps_per_epoch = 1

    def __init__(self, batch: Sequences) -> None:
        self.batch = batch

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Sequences:
        return self.batch

    def trace(self, step: int) -> list[dict[str, Any]]:
        return []


def run(
    model: nn.Module,
    objective: Objective,
    source: Any,
    steps: int,
    rate: float,
    seed: int,
    rows: int,
    own: bool = False,
) -> None:
    """`steps` of AdamW by the loop that trains models, in float64; the rate falls to 0 over the last half."""
    loop = LoopSettings(
        steps=steps,
        rows=rows,
        micro_rows=rows,
        optimizer=AlignmentOptimizer(learning_rate=rate, beta2=0.999),
        schedule=AlignmentSchedule(warmup_fraction=0.0, decay_fraction=0.5, decay_shape="linear"),
        gradient_clip=0.0,
        precision="fp32",
        compile=False,
        device="cpu",
        checkpoint_every=steps,
        spikes=SpikeSettings(enabled=False),
    )
    job = Job(model, objective, source, steps, on_policy=source if own else None)
    with tempfile.TemporaryDirectory() as folder:
        train(job, loop, Path(folder), seed, Silent())


# ---------------------------------------------------------------------- policy methods


def learn(
    world: World,
    rollout: RolloutSettings,
    kl: KlSettings,
    seed: int,
    steps: int = 300,
    rate: float = 0.05,
    clip: ClipSettings | None = None,
) -> Tensor:
    """The probabilities [prompts, answers] of a policy trained by rollouts in `world`."""
    policy = world.policy()
    critic = isinstance(rollout, PpoRollout)
    model: nn.Module = TableActorCritic(policy, TableCritic(world.space)) if critic else policy

    def rewarder(samples: Samples) -> dict[str, Tensor]:
        each = len(samples.texts) // len(samples.prompts)
        asked = torch.tensor([prompt for prompt in samples.prompts for _ in range(each)])
        return {"reward": world.rewards[asked, torch.tensor([int(text) for text in samples.texts])]}

    answers = rollout.prompts * rollout.samples
    with tempfile.TemporaryDirectory() as folder:
        source = Rollouts(
            Path(folder), TableSampler(world.space), rewarder, world.reference, kl, rollout, answers, seed, 1 << 20
        )
        objective = policy_objective(clip or ClipSettings(), kl, rollout.normalise, 1.0 if critic else 0.0)
        run(model, objective, source, steps * rollout.inner_epochs, rate, seed, 1 << 20, own=True)
    return policy.probabilities()


def prove_policy(name: str, rollout: RolloutSettings, seed: int, bound: float) -> Proof:
    """PPO, RLOO or GRPO in `WORDS`: near π ∝ π_ref · exp(r/β), and without KL far from it."""
    world = World.drawn(WORDS, seed)
    optimum = optima.tilted(world.base, world.rewards, BETA)
    found = learn(world, rollout, KlSettings(coefficient=BETA), seed)
    control = learn(world, rollout, KlSettings(coefficient=0.0), seed)
    return Proof(
        name, seed, optima.divergence(found, optimum), optima.divergence(control, optimum), bound, least_control=0.5
    )


def ppo(seed: int) -> Proof:
    """With a critic, GAE, clipping, and two passes over each rollout."""
    return prove_policy("PPO", PpoRollout(prompts=2, samples=128, inner_epochs=2), seed, 2e-3)


def rloo(seed: int) -> Proof:
    return prove_policy("RLOO", RlooRollout(prompts=32, samples=8), seed, 5e-4)


def grpo(seed: int) -> Proof:
    """With the KL in the reward and no division by the deviation."""
    return prove_policy("GRPO", GrpoRollout(prompts=32, samples=8, normalise="sum"), seed, 5e-4)


def estimator(name: Estimator) -> Callable[[int], Proof]:
    """KL as a loss of its own, of single tokens: k2 leads to the optimum, k3 to that of the KL the other way round."""

    def prove(seed: int) -> Proof:
        world = World.drawn(BANDIT, seed)
        right = optima.tilted(world.base, world.rewards, BETA)
        other = optima.reverse_held(world.base, world.rewards, BETA)
        kl = KlSettings(coefficient=BETA, within="loss", estimator=name)
        found = learn(world, RlooRollout(prompts=64, samples=8), kl, seed, steps=400, rate=0.03)
        goal, away = (right, other) if name == "k2" else (other, right)
        return Proof(
            f"{name} as a loss",
            seed,
            optima.divergence(found, goal),
            optima.divergence(found, away),
            1e-4,
            1e-3,
            what="KL to its own prediction; control: to the other one",
        )

    return prove


def normalised(seed: int) -> Proof:
    """GRPO in groups of two, divided by their deviation, KL as a loss: where the theory says, and not at π*."""
    world = World.drawn(BANDIT, seed)
    right = optima.tilted(world.base, world.rewards, BETA)
    predicted = optima.sign_normalised(world.base, world.rewards, BETA)
    rollout = GrpoRollout(prompts=512, samples=2, divide_by_deviation=True, normalise="sum")
    kl = KlSettings(coefficient=BETA, within="loss", estimator="k2")
    found = learn(world, rollout, kl, seed, steps=400, rate=0.05)
    return Proof(
        "GRPO ÷ deviation",
        seed,
        optima.divergence(found, predicted),
        optima.divergence(found, right),
        5e-4,
        least_control=0.004,
        what="KL to its own prediction; control: to π*",
    )


# ---------------------------------------------------------------------- direct methods


def all_pairs(space: Space, chance: Tensor, reference: Tensor) -> Sequences:
    """Every pair of answers to every prompt, once, with the chance that the first is the preferred one."""
    answers = space.answers()
    pairs = list(itertools.combinations(range(len(answers)), 2))
    prompts, flat, sure, known = list[int](), list[tuple[int, ...]](), list[float](), list[float]()
    for prompt in range(space.prompts):
        for first, second in pairs:
            prompts += [prompt, prompt]
            flat += [answers[first], answers[second]]
            sure += [float(chance[prompt, first, second])] * 2
            known += [float(reference[prompt, number].log()) for number in (first, second)]
    batch = space.sequences(prompts, flat, [2] * (len(flat) // 2))
    values = {"confidence": sure, "reference": known, "scores": [1.0, 0.0] * (len(flat) // 2)}
    batch.of_sequence = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    return batch


def drawn_pairs(world: World, count: int, seed: int) -> Sequences:
    """`count` pairs of answers to each prompt, drawn alike, each with one preference drawn after Bradley and Terry."""
    space, generator = world.space, torch.Generator().manual_seed(20_000 + seed)
    answers, base = space.answers(), world.base
    chance = optima.preferred(world.rewards)
    prompts, flat, known = list[int](), list[tuple[int, ...]](), list[float]()
    for prompt in range(space.prompts):
        for _ in range(count):
            first, second = torch.randperm(len(answers), generator=generator)[:2].tolist()
            if float(torch.rand((), dtype=torch.float64, generator=generator)) > float(chance[prompt, first, second]):
                first, second = second, first
            prompts += [prompt, prompt]
            flat += [answers[first], answers[second]]
            known += [float(base[prompt, number].log()) for number in (first, second)]
    batch = space.sequences(prompts, flat, [2] * (len(flat) // 2))
    values = {"reference": known, "scores": [1.0, 0.0] * (len(flat) // 2)}
    batch.of_sequence = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    return batch


def fit(world: World, batch: Sequences, settings: PreferenceSettings, seed: int, steps: int = 300) -> Tensor:
    """The probabilities of a policy trained on one batch of pairs."""
    policy = world.policy()
    run(policy, preference_objective(settings), Stationary(batch), steps, 0.05, seed, batch.rows)
    return policy.probabilities()


def dpo(seed: int) -> Proof:
    world = World.drawn(SHORT, seed)
    optimum = optima.tilted(world.base, world.rewards, BETA)
    batch = all_pairs(SHORT, optima.preferred(world.rewards), world.base)
    found = fit(world, batch, PreferenceSettings(model="", loss="dpo", beta=BETA), seed)
    return Proof(
        "DPO, all pairs", seed, optima.divergence(found, optimum), optima.divergence(world.base, optimum), 1e-5, 0.02
    )


def ipo(seed: int) -> Proof:
    world = World.drawn(SHORT, seed)
    chance = optima.preferred(world.rewards)
    optimum = optima.identity_preference(world.base, chance, 0.1)
    found = fit(world, all_pairs(SHORT, chance, world.base), PreferenceSettings(model="", loss="ipo", beta=0.1), seed)
    return Proof(
        "IPO, all pairs", seed, optima.divergence(found, optimum), optima.divergence(world.base, optimum), 1e-5, 0.02
    )


def robust(seed: int) -> Proof:
    """A fifth of the labels wrong: robust DPO reaches what DPO reaches without noise; the control is plain DPO."""
    world = World.drawn(SHORT, seed)
    optimum = optima.tilted(world.base, world.rewards, BETA)
    noisy = 0.6 * optima.preferred(world.rewards) + 0.2
    batch = all_pairs(SHORT, noisy, world.base)
    found = fit(world, batch, PreferenceSettings(model="", loss="robust-dpo", beta=BETA, flip_rate=0.2), seed)
    plain = fit(world, batch, PreferenceSettings(model="", loss="dpo", beta=BETA), seed)
    return Proof(
        "robust DPO, 20 % flipped",
        seed,
        optima.divergence(found, optimum),
        optima.divergence(plain, optimum),
        1e-5,
        0.01,
        "KL(π ‖ π*); control: plain DPO",
    )


def flipped(share: float) -> Callable[[int], Proof]:
    """RLAIF: a labeller that is wrong so often leads DPO to the optimum of what it says; at one half, nowhere."""

    def prove(seed: int) -> Proof:
        world = World.drawn(SHORT, seed)
        chance = (1 - 2 * share) * optima.preferred(world.rewards) + share
        predicted = optima.direct_preference(world.base, chance, BETA)
        found = fit(
            world, all_pairs(SHORT, chance, world.base), PreferenceSettings(model="", loss="dpo", beta=BETA), seed
        )
        still = share == 0.5
        best = optima.tilted(world.base, world.rewards, BETA)
        return Proof(
            f"RLAIF, {share:.0%} flipped".replace("%", " %"),
            seed,
            optima.divergence(found, world.base if still else predicted),
            optima.divergence(best, found) if share else optima.divergence(world.base, best),
            1e-5,
            0.01,
            f"KL to {'the reference' if still else 'its own prediction'}; control: "
            + ("π* to it" if share else "the reference"),
        )

    return prove


def convergence(seed: int) -> Proof:
    """DPO with N pairs: its distance falls like 1/N. Measured: the slope's distance from -1, over eight times N."""
    sizes, repeats = (150, 1_200), 8
    found = list[float]()
    for size in sizes:
        total = 0.0
        for repeat in range(repeats):
            world = World.drawn(PAIRS, seed)
            optimum = optima.tilted(world.base, world.rewards, BETA)
            batch = drawn_pairs(world, size, seed * repeats + repeat)
            policy = fit(world, batch, PreferenceSettings(model="", loss="dpo", beta=BETA), seed, steps=150)
            total += optima.divergence(policy, optimum) / repeats
        found.append(total)
    slope = float(torch.log(torch.tensor(found[1] / found[0])) / torch.log(torch.tensor(sizes[1] / sizes[0])))
    return Proof(
        "DPO, 150 → 1,200 pairs",
        seed,
        abs(slope + 1),
        found[0],
        0.25,
        what=f"|slope + 1| (KL {found[0]:.4f} → {found[1]:.4f}); control: KL at 150",
    )


def best_of_n(seed: int) -> Proof:
    """The best of four of the reference's answers, chosen by the stage's own function: its distribution, from 40,000
    draws, and its KL, against the formula. The control is the reference."""
    world, count, draws = World.drawn(PAIRS, seed), 4, 40_000
    samples = TableSampler(PAIRS).sample(world.reference, [0] * draws, count, seed)
    numbers = torch.tensor([int(text) for text in samples.texts])
    rewards = world.rewards[0, numbers].tolist()
    best = [start + best_place(rewards[start : start + count]) for start in range(0, len(rewards), count)]
    found = torch.bincount(numbers[best], minlength=len(PAIRS.answers())).double()[None] / draws
    predicted = optima.best_of(world.base, world.rewards, count)
    assert optima.divergence(predicted, world.base) <= optima.best_of_bound(count) + 1e-12
    return Proof(
        "best of 4",
        seed,
        optima.divergence(found, predicted),
        optima.divergence(world.base, predicted),
        # Twice the sum of draws · KL is χ² with 6 degrees of freedom: over 27.9 once in 10,000 seeds.
        27.9 / (2 * draws),
        0.1,
        "KL of 40,000 draws to the formula; control: the reference",
    )


PROOFS: dict[str, Callable[[int], Proof]] = {
    "ppo": ppo,
    "rloo": rloo,
    "grpo": grpo,
    "dpo": dpo,
    "ipo": ipo,
    "robust-dpo": robust,
    "dpo-convergence": convergence,
    "rlaif-0": flipped(0.0),
    "rlaif-25": flipped(0.25),
    "rlaif-50": flipped(0.5),
    "best-of-n": best_of_n,
    "k2": estimator("k2"),
    "k3": estimator("k3"),
    "grpo-deviation": normalised,
}
"""By the names that `hanlin prove --only` takes."""
