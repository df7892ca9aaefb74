"""How much better than expected: from rewards to what each token of a sampled answer is credited with."""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(rewards: Tensor, lengths: Tensor, kl: Tensor, coefficient: float) -> Tensor:
    """[M] reward of each token: -coefficient · kl at every one, and its answer's reward [S] at the last, where the
    answer ends. Nothing comes after it. kl [M] is log π(token) - log π_ref(token); lengths int64 [S]."""
    found = -coefficient * kl
    found[lengths.cumsum(0) - 1] += rewards.to(found.dtype)
    return found


def generalised_advantages(
    rewards: Tensor, values: Tensor, lengths: Tensor, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both [M], by GAE (Schulman et al. 2016, eq. 16): A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t +
    γ V_{t+1} - V_t, the value after an answer's last token being 0; the returns are A + V.

    rewards and values [M] (of the state before each token), lengths int64 [S].
    """
    padded_rewards, mask = _padded(rewards, lengths)
    padded_values, _ = _padded(values, lengths)
    width = mask.shape[1]
    found = torch.zeros_like(padded_rewards)
    later = torch.zeros_like(padded_rewards[:, 0])
    for place in reversed(range(width)):
        following = padded_values[:, place + 1] if place + 1 < width else torch.zeros_like(later)
        change = padded_rewards[:, place] + discount * following - padded_values[:, place]
        later = torch.where(mask[:, place], change + discount * decay * later, 0.0)
        found[:, place] = later
    advantages = found[mask]
    return advantages, advantages + values


def returns_to_go(rewards: Tensor, lengths: Tensor) -> Tensor:
    """[M] the sum of an answer's rewards from each token on: what REINFORCE weighs its log-probability with."""
    padded, mask = _padded(rewards, lengths)
    return padded.flip(1).cumsum(1).flip(1)[mask]


def leave_one_out(rewards: Tensor, samples: int) -> Tensor:
    """[S] each reward less the mean of the others' of its prompt (RLOO: Kool et al. 2019; Ahmadian et al. 2024, eq. 8):
    an unbiased baseline. `samples` answers of one prompt follow each other."""
    grouped = rewards.view(-1, samples)
    return ((grouped - grouped.mean(1, keepdim=True)) * (samples / (samples - 1))).reshape(-1)


def group_relative(rewards: Tensor, samples: int, by_deviation: bool) -> Tensor:
    """[S] each reward less its prompt's mean, divided by its prompt's standard deviation if asked for (GRPO: Shao et
    al. 2024, section 4.1.2). The division makes prompts of little spread count as much as others, and is no policy
    gradient of the expected reward: see `docs/alignment.md`."""
    grouped = rewards.view(-1, samples)
    centred = grouped - grouped.mean(1, keepdim=True)
    if by_deviation:
        centred = centred / (grouped.std(1, keepdim=True) + 1e-6)
    return centred.reshape(-1)


def whiten(values: Tensor, keep_mean: bool = False) -> Tensor:
    """Values with mean 0 (or their own) and variance 1; as they are where they do not vary."""
    mean, deviation = values.mean(), values.std(unbiased=False)
    if not float(deviation) > 0:
        return values if keep_mean else values - mean
    scaled = (values - mean) / (deviation + 1e-8)
    return scaled + mean if keep_mean else scaled


def _padded(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """[M] values as [S, longest], zeros behind each answer's end, and where they are values."""
    width = int(lengths.max())
    mask = torch.arange(width)[None, :] < lengths[:, None]
    found = values.new_zeros(mask.shape)
    found[mask] = values
    return found, mask
