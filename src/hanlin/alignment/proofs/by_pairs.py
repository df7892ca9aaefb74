"""Proofs of the direct methods: DPO, IPO, robust DPO, DPO on a labeller's choices, and RRHF."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hanlin.alignment.preference import PreferenceSettings, RrhfSettings, preference_objective
from hanlin.alignment.proofs import optima
from hanlin.alignment.proofs.table import Space, TablePolicy
from hanlin.alignment.proofs.worlds import BETA, PAIRS, SHORT, Proof, Stationary, World, run
from hanlin.data.sequences import Sequences

TAU = 0.1
"""IPO's β"""
LABELS = (25, 100, 400, 1_600, 6_400)
"""Labels of each of the 21 pairs, for the distance as a function of their number"""
REPEATS = 32
"""Draws of labels of each size"""
RANKINGS = 40


def all_pairs(space: Space, chance: Tensor, reference: Tensor | None = None) -> Sequences:
    """Every pair of answers to every prompt, once, with the chance [prompts, answers, answers] that the first is the
    preferred one; `reference` is π_ref [prompts, answers], for losses that have one."""
    first, second = torch.tensor(space.pairs).unbind(1)
    prompts = torch.arange(space.prompts).repeat_interleave(2 * len(first))
    answers = torch.stack([first, second], 1).flatten().repeat(space.prompts)
    batch = space.sequences(prompts.tolist(), answers.tolist(), [2] * (len(answers) // 2))
    sure = chance[:, first, second].flatten().repeat_interleave(2)
    batch.of_sequence = {"confidence": sure, "scores": torch.tensor([1.0, 0.0]).repeat(len(sure) // 2)}
    if reference is not None:
        batch.of_sequence["reference"] = reference.log()[prompts, answers]
    return batch


def fit(world: World, chance: Tensor, settings: PreferenceSettings, seed: int, steps: int = 300) -> Tensor:
    """The probabilities of a policy trained on all pairs, of which the first is preferred with probability `chance`."""
    policy = world.policy()
    batch = all_pairs(world.space, chance, world.base)
    run(policy, preference_objective(settings), Stationary(batch), steps, 0.05, seed)
    return policy.probabilities()


def dpo_settings() -> PreferenceSettings:
    return PreferenceSettings(model="", loss="dpo", beta=BETA)


def ipo_settings() -> PreferenceSettings:
    return PreferenceSettings(model="", loss="ipo", beta=TAU)


def dpo(seed: int) -> Proof:
    world = World.drawn(SHORT, seed)
    optimum = optima.tilted(world.base, world.rewards, BETA)
    found = fit(world, optima.preferred(world.rewards), dpo_settings(), seed)
    return Proof(
        "DPO, all pairs",
        seed,
        optima.divergence(found, optimum),
        optima.divergence(world.base, optimum),
        1e-5,
        0.02,
        "KL(π ‖ π*); control: the reference",
    )


def ipo(seed: int) -> Proof:
    world = World.drawn(SHORT, seed)
    chance = optima.preferred(world.rewards)
    optimum = optima.identity_preference(world.base, chance, TAU)
    found = fit(world, chance, ipo_settings(), seed)
    return Proof(
        "IPO, all pairs",
        seed,
        optima.divergence(found, optimum),
        optima.divergence(world.base, optimum),
        1e-5,
        0.02,
        "KL to π ∝ π_ref · exp((p(y ≻ others) - ½)/τ); control: the reference",
    )


def robust(seed: int) -> Proof:
    """A fifth of the labels wrong: robust DPO reaches what DPO reaches without noise; the control is plain DPO."""
    world = World.drawn(SHORT, seed)
    optimum = optima.tilted(world.base, world.rewards, BETA)
    noisy = 0.6 * optima.preferred(world.rewards) + 0.2
    settings = PreferenceSettings(model="", loss="robust-dpo", beta=BETA, flip_rate=0.2)
    found, plain = fit(world, noisy, settings, seed), fit(world, noisy, dpo_settings(), seed)
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
        found = fit(world, chance, dpo_settings(), seed)
        still = share == 0.5
        goal = world.base if still else optima.direct_preference(world.base, chance, BETA)
        best = optima.tilted(world.base, world.rewards, BETA)
        return Proof(
            f"RLAIF, {share:.0%} flipped".replace("%", " %"),
            seed,
            optima.divergence(found, goal),
            optima.divergence(best, found),
            1e-5,
            1e-3,
            f"KL to {'the reference' if still else 'the labels’ best fit'}; control: π* to it",
        )

    return prove


# ---------------------------------------------------------------------- from N pairs


def share_won(chance: Tensor, labels: Tensor, seed: int) -> Tensor:
    """[worlds, answers, answers] of each pair, the share of its labels by which the first is preferred, drawn with the
    probabilities `chance`; `labels` [worlds] is how many there are of each pair."""
    draws = torch.Generator().manual_seed(20_000 + seed)
    count = labels[:, None, None].expand_as(chance).double()
    won = torch.binomial(count, chance, generator=draws).triu(1)
    share = won / count
    return share + (1 - share.transpose(1, 2)).tril(-1) + 0.5 * torch.eye(chance.shape[1], dtype=chance.dtype)


def distances(loss: Literal["dpo", "ipo"], seed: int, flip: float, labels: tuple[int, ...], repeats: int) -> Tensor:
    """[sizes, repeats] KL(π ‖ π*) of policies trained on N pairs: on so many labels of each pair of `PAIRS`, drawn
    anew in each repetition, and a share `flip` of them the wrong way round.

    All are trained at once, as prompts of one table. Labels of the same pair stand in the batch as one pair with its
    share as confidence, which is the same loss as of a row for each (`tests/alignment/test_proofs.py`).
    """
    single = World.drawn(PAIRS, seed)
    world = single.repeated(len(labels) * repeats)
    chance = (1 - 2 * flip) * optima.preferred(world.rewards) + flip
    share = share_won(chance, torch.tensor(labels).repeat_interleave(repeats), seed)
    found = fit(world, share, dpo_settings() if loss == "dpo" else ipo_settings(), seed, steps=200)
    kl = torch.special.xlogy(found, found / limit(loss, single)).sum(1)
    return kl.view(len(labels), repeats)


def limit(loss: Literal["dpo", "ipo"], world: World) -> Tensor:
    """The optimum with all pairs and no wrong label."""
    if loss == "dpo":
        return optima.tilted(world.base, world.rewards, BETA)
    return optima.identity_preference(world.base, optima.preferred(world.rewards), TAU)


def converging(loss: Literal["dpo", "ipo"]) -> Callable[..., Proof]:
    """With N pairs the distance falls like 1/N.

    Measured: the slope of log KL over log N by least squares through several sizes, each the mean of many draws of the
    labels; the distance is that of the slope from -1. The bound is four standard deviations of such a slope, from the
    known distribution of N · KL. The control has a quarter of the labels wrong: it comes no nearer to π*.
    """

    def prove(seed: int, labels: tuple[int, ...] = LABELS, repeats: int = REPEATS) -> Proof:
        world = World.drawn(PAIRS, seed)
        error = (
            optima.direct_preference_error(world.rewards[0], BETA)
            if loss == "dpo"
            else optima.identity_preference_error(world.rewards[0], TAU)
        )
        mean, deviation = optima.expected_divergence(limit(loss, world)[0], error)
        sizes = torch.tensor(labels, dtype=torch.float64) * len(PAIRS.pairs)
        across = sizes.log() - sizes.log().mean()
        found, control = (distances(loss, seed, flip, labels, repeats).mean(1) for flip in (0.0, 0.25))
        slope, flat = (float((across * kl.log()).sum() / across.square().sum()) for kl in (found, control))
        noise = deviation / mean / math.sqrt(repeats * float(across.square().sum()))
        return Proof(
            f"{loss.upper()}, N pairs",
            seed,
            abs(slope + 1),
            abs(flat + 1),
            4 * noise,
            0.5,
            f"|slope of log KL over log N + 1|, N from {sizes[0]:,.0f} to {sizes[-1]:,.0f}, means of {repeats} draws; "
            "bound: 4 deviations of the labels' noise; control: a quarter of the labels wrong",
            f"slope {slope:.3f}; N · KL is {float((found * sizes).mean()):.1f} on average, {mean:.1f} by theory",
        )

    return prove


# ---------------------------------------------------------------------- rankings


def rrhf(seed: int) -> Proof:
    """The loss of the stage `rrhf` of random rankings, with ties, against the formula by hand, in plain numbers; the
    control is the formula with every ranking upside down."""
    draws, weight = random.Random(seed), 0.7
    policy = TablePolicy(SHORT, seed)
    objective = preference_objective(RrhfSettings(model="", sft_weight=weight))
    likely = policy.probabilities().log().tolist()
    errors, wrong = list[float](), list[float]()
    for _ in range(RANKINGS):
        prompt, size = draws.randrange(SHORT.prompts), draws.randint(2, 5)
        answers = draws.sample(range(len(SHORT.answers)), size)
        scores = [float(draws.randint(0, 3)) for _ in answers]
        batch = SHORT.sequences([prompt] * size, answers, [size])
        batch.of_sequence["scores"] = torch.tensor(scores, dtype=torch.float64)
        found = float(objective(policy, batch).loss_sum.detach())
        logs = [likely[prompt][answer] for answer in answers]
        means = [log / len(SHORT.answers[answer]) for log, answer in zip(logs, answers)]
        errors.append(abs(found - by_hand(logs, means, scores, weight)))
        wrong.append(abs(found - by_hand(logs, means, [-score for score in scores], weight)))
    return Proof(
        "RRHF",
        seed,
        max(errors),
        sum(wrong) / RANKINGS,
        1e-12,
        0.1,
        f"largest difference of {RANKINGS} rankings' losses from a hand computation; control: the mean one, of "
        "rankings upside down",
    )


def by_hand(logs: list[float], means: list[float], scores: list[float], weight: float) -> float:
    """RRHF's loss of one ranking (Yuan et al. 2023, eq. 2 to 4): whenever one answer has the lower score but the higher
    mean log-probability a token, the difference; and the best answer's -log π."""
    loss = 0.0
    for worse in range(len(scores)):
        for better in range(len(scores)):
            if scores[worse] < scores[better] and means[worse] > means[better]:
                loss += means[worse] - means[better]
    best = scores.index(max(scores))
    return loss - weight * logs[best]
