"""What answers are worth: a reward model's opinion, a program's verdict, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hanlin.alignment.rollouts import Rewarder, Samples
from hanlin.artifacts import HanlinError, UsageError
from hanlin.data.prompts import Prompt
from hanlin.models.device import choose_device

Program = Callable[[Prompt, str], float]
"""(prompt, answer's text) -> reward"""


def exact_answer(prompt: Prompt, text: str) -> float:
    """1 where the answer, its white space, case and closing punctuation apart, is one of the prompt's accepted ones."""
    from hanlin.evaluation.answers import normalise
    from hanlin.evaluation.tasks import Normalise

    if not prompt.answers:
        raise HanlinError(f"a prompt has no accepted answers to compare with: {prompt.messages[-1].content[:80]!r}")
    rules = Normalise()
    return float(normalise(text, rules) in {normalise(answer, rules) for answer in prompt.answers})


def last_number(prompt: Prompt, text: str) -> float:
    """1 where the last number in the answer is an accepted one."""
    import regex

    if not prompt.answers:
        raise HanlinError(f"a prompt has no accepted answers to compare with: {prompt.messages[-1].content[:80]!r}")
    found = regex.findall(r"-?\d+(?:\.\d+)?", regex.sub(r"(?<=\d),(?=\d)", "", text), timeout=1)
    return float(bool(found) and found[-1] in prompt.answers)


def world_judge(prompt: Prompt, text: str) -> float:
    """The miniature world's exact judge, of prompts that it made."""
    from hanlin.world.judge import judge

    try:
        return judge(prompt.row, text).score
    except ValueError as error:
        raise HanlinError(f"the world's judge cannot mark a prompt: {error}.") from None


PROGRAMS: dict[str, Program] = {"exact": exact_answer, "last-number": last_number, "world": world_judge}


def find_program(name: str) -> Program:
    """A program by its name. Raises UsageError for one that is not there."""
    if name not in PROGRAMS:
        raise UsageError(f"there is no reward program {name!r}: known are {', '.join(PROGRAMS)}.")
    return PROGRAMS[name]


class ModelReward:
    """A reward model's opinion, with the policy's tokenizer. Raises HanlinError for one with another."""

    def __init__(self, directory: Path, policy: Path, device: str, at_once: int) -> None:
        from hanlin.models.reward import load_reward_model

        ours, theirs = (path / "tokenizer.json" for path in (policy, directory))
        if ours.read_bytes() != theirs.read_bytes():
            raise HanlinError(
                f"the reward model in {directory} has another tokenizer than the policy in {policy}: train one on the "
                "same tokens."
            )
        self.model = load_reward_model(directory, device=choose_device(device)).eval()
        self.at_once = at_once

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Tensor:
        """[S]"""
        batch, found = samples.sequences, list[Tensor]()
        device = next(self.model.parameters()).device
        for start in range(0, batch.rows, self.at_once):
            part = batch.slice(start, min(start + self.at_once, batch.rows)).to(device)
            found.append(self.model.rewards(part).float().cpu())
        return torch.cat(found)


def combined(
    model: ModelReward | None,
    model_weight: float,
    program: Program | None,
    program_weight: float,
    gold: Program | None,
    prompts: list[Prompt],
) -> Rewarder:
    """`reward`: the weighted sum; its parts where there are two; and `gold`, which is only looked at."""

    def marked(program: Program, samples: Samples) -> Tensor:
        each = len(samples.texts) // len(samples.prompts)
        asked = [prompts[number] for number in samples.prompts for _ in range(each)]
        return torch.tensor([program(prompt, text) for prompt, text in zip(asked, samples.texts)])

    def rewarder(samples: Samples) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        if model is not None:
            parts["reward_model"] = model(samples)
        if program is not None:
            parts["reward_program"] = marked(program, samples)
        weights: dict[str, Any] = {"reward_model": model_weight, "reward_program": program_weight}
        total = torch.stack([weights[name] * found for name, found in parts.items()]).sum(0)
        found = {"reward": total, **(parts if len(parts) > 1 else {})}
        if gold is not None:
            found["gold"] = marked(gold, samples)
        return found

    return rewarder
