"""Policies, critics and reward models that are tables over all prefixes of all answers, for the same objectives."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hanlin.alignment.rollouts import Samples, pick
from hanlin.data.sequences import Rows, Sequences, join


@dataclass(frozen=True)
class Space:
    """All answers of at most `longest` tokens out of `letters` and one that ends them (number `letters`), to `prompts`
    prompts. Prompt p is the one token `letters` + 1 + p."""

    letters: int
    longest: int
    prompts: int = 1

    @property
    def tokens(self) -> int:
        """Tokens that an answer may have."""
        return self.letters + 1

    @functools.cached_property
    def prefixes(self) -> list[tuple[int, ...]]:
        """What may stand before a token of an answer."""
        return [
            prefix for size in range(self.longest) for prefix in itertools.product(range(self.letters), repeat=size)
        ]

    @functools.cached_property
    def answers(self) -> list[tuple[int, ...]]:
        """Every answer: those that end by themselves, and those cut at the longest length."""
        ended = [(*prefix, self.letters) for prefix in self.prefixes]
        return ended + list(itertools.product(range(self.letters), repeat=self.longest))

    @functools.cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Every two answers, by number."""
        return list(itertools.combinations(range(len(self.answers)), 2))

    @functools.cached_property
    def everything(self) -> Sequences:
        """Every answer to every prompt, each a group of its own."""
        asked = [[self.tokens + prompt] for prompt in range(self.prompts) for _ in self.answers]
        # A table walks from a row's beginning: prompts can't be shared.
        return join(asked, self.answers * self.prompts, layout="packed")

    def sequences(self, prompts: list[int], answers: list[int], groups: list[int]) -> Sequences:
        """Answers [S], by number, to prompts [S]."""
        size = len(self.answers)
        found = pick(self.everything, [prompt * size + answer for prompt, answer in zip(prompts, answers, strict=True)])
        found.groups = torch.tensor(groups)
        return found


class Walk(nn.Module):
    """From tokens in rows to the numbers of the prefixes that they complete."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        number = {prefix: place for place, prefix in enumerate(space.prefixes)}
        self.size = len(number)
        """Prefixes of one prompt; the number after the last is where nothing is predicted any more"""
        step = torch.full((self.size + 1, space.tokens), self.size)
        for prefix, place in number.items():
            for letter in range(space.letters):
                step[place, letter] = number.get((*prefix, letter), self.size)
        self.register_buffer("following", step)
        self.following: Tensor
        places = [
            [number[answer[:place]] * space.tokens + token for place, token in enumerate(answer)]
            for answer in space.answers
        ]
        nowhere = (self.size + 1) * space.tokens
        self.cells = torch.tensor([row + [nowhere] * (space.longest - len(row)) for row in places])
        """[answers, longest] an answer's tokens in one prompt's part of a table, flattened; behind its end one cell
        further than there are"""

    def states(self, rows: Rows) -> Tensor:
        """[B, T] prompt · (size + 1) + prefix, of each position after its token was read."""
        ids, positions = rows.batch.input_ids, rows.batch.position_ids
        found = torch.zeros_like(ids)
        prompt = prefix = torch.zeros_like(ids[:, 0])
        for place in range(ids.shape[1]):
            token, first = ids[:, place], positions[:, place] == 0
            # Padding may begin with any token.
            prompt = torch.where(first, (token - self.space.tokens).clamp(min=0), prompt)
            moved = self.following[prefix, token.clamp(max=self.space.tokens - 1)]
            prefix = torch.where(first, 0, moved)
            found[:, place] = prompt * (self.size + 1) + prefix
        return found


class TablePolicy(nn.Module):
    """A logit for every token after every prefix of every prompt; looks to an objective like a Transformer."""

    def __init__(self, space: Space, seed: int | None = None, spread: float = 1.0) -> None:
        """Logits drawn from a normal distribution of deviation `spread` (seed None: all 0)."""
        super().__init__()
        self.space, self.walk = space, Walk(space)
        shape = (space.prompts * (self.walk.size + 1), space.tokens)
        logits = torch.zeros(shape, dtype=torch.float64)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            logits = spread * torch.randn(shape, dtype=torch.float64, generator=generator)
        self.table = nn.Parameter(logits)
        self.register_buffer("head_weight", torch.eye(space.tokens, dtype=torch.float64))

    def hidden(
        self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor | None, branches: None, at: Tensor
    ) -> Tensor:
        """The logits themselves, [len(at), tokens]: the head is the identity."""
        rows: Any = _Rows(_Batch(input_ids, position_ids))
        return self.table[self.walk.states(rows).reshape(-1)[at]]

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """[prompts, answers] of every answer, in the order of `Space.answers`."""
        space = self.space
        table = self.table.log_softmax(1).view(space.prompts, -1)
        # A last column for the places behind a short answer's end.
        table = torch.cat([table, table.new_zeros(space.prompts, 1)], 1)
        return table[:, self.walk.cells].sum(2).exp()


class TableCritic(nn.Module):
    """A value for every prefix of every prompt."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.walk = Walk(space)
        self.table = nn.Parameter(torch.zeros(space.prompts * (self.walk.size + 1), dtype=torch.float64))

    def values(self, rows: Rows) -> Tensor:
        """[M]"""
        return self.table[self.walk.states(rows).reshape(-1)[rows.before_answers]]


class TableActorCritic(nn.Module):
    """As `actor_critic.ActorCritic`."""

    def __init__(self, policy: TablePolicy, critic: TableCritic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def values(self, sequences: Sequences, rows: Rows) -> Tensor:
        """[M]"""
        return self.critic.values(rows)


class TableReward(nn.Module):
    """A reward for every answer to every prompt, all 0 at first; looks to an objective like a `RewardModel`."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space, self.walk = space, Walk(space)
        shape = (space.prompts * (self.walk.size + 1), space.tokens)
        self.table = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    def rewards(self, sequences: Sequences) -> Tensor:
        """[S]"""
        rows = sequences.in_rows()
        states = self.walk.states(rows).reshape(-1)[rows.before_answers]
        # No two answers end with the same token after the same prefix.
        last = sequences.answer_lengths.cumsum(0) - 1
        return self.table[states[last], sequences.labels()[last]]

    @torch.no_grad()
    def all(self) -> Tensor:
        """[prompts, answers] in the order of `Space.answers`."""
        return self.rewards(self.space.everything).view(self.space.prompts, -1)


class TableSampler:
    """Draws answers from a table."""

    def __init__(self, space: Space) -> None:
        self.space = space

    @property
    def prompts(self) -> int:
        return self.space.prompts

    def describe(self, prompt: int) -> dict[str, Any]:
        """A prompt's number."""
        return {"document": f"prompt:{prompt}"}

    def sample(self, model: TablePolicy, prompts: list[int], samples: int, seed: int) -> Samples:
        """As `rollouts.Sampler`."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(model.probabilities()[prompts], samples, replacement=True, generator=generator)
        numbers = drawn.reshape(-1).tolist()
        asked = [prompt for prompt in prompts for _ in range(samples)]
        sequences = self.space.sequences(asked, numbers, [samples] * len(prompts))
        table = model.table.detach().log_softmax(1)
        rows = sequences.in_rows()
        states = model.walk.states(rows).reshape(-1)[rows.before_answers]
        logprobs = table[states, sequences.labels()]
        ended = sequences.labels()[sequences.answer_lengths.cumsum(0) - 1] == self.space.letters
        return Samples(sequences, logprobs, ended, [str(number) for number in numbers], list(prompts))


@dataclass
class _Batch:
    input_ids: Tensor
    position_ids: Tensor


@dataclass
class _Rows:
    batch: _Batch
