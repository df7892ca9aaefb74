"""What answers are worth: a reward model's opinion, a program's verdict, or both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hanlin.alignment.distance import DISTANCE, Distance
from hanlin.alignment.rollouts import Rewarder, Samples
from hanlin.artifacts import HanlinError, UsageError
from hanlin.data.prompts import Prompt
from hanlin.data.rendered import place_of
from hanlin.models.device import choose_device

Program = Callable[[Prompt, str], float]
"""(prompt, answer's text) -> reward; a HanlinError for a prompt whose answers it can't mark, whatever the text is."""

_NUMBER = re.compile(r"(?:(?<![\w.)\]])-)?(?:\d+(?:\.\d+)?|(?<!\w)\.\d+)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SIGNS = str.maketrans("\uff0c\uff0e\uff0d\u2212", ",.--")
"""Full-width comma, point and hyphen, and the minus sign"""


def exact_answer(prompt: Prompt, text: str) -> float:
    """1 where the answer, its white space, case and closing punctuation apart, is one of the prompt's accepted ones."""
    from hanlin.evaluation.answers import normalise
    from hanlin.evaluation.tasks import Normalise

    rules = Normalise()
    wanted = {normalise(answer, rules) for answer in prompt.answers} - {""}
    if not wanted:
        raise HanlinError("it has no accepted answers to compare with")
    return float(normalise(text, rules) in wanted)


def last_number(prompt: Prompt, text: str) -> float:
    """1 where the last number in the answer is, as a number, the last one in an accepted answer."""
    wanted = {last_in(answer) for answer in prompt.answers} - {None}
    if not wanted:
        raise HanlinError(f"it has no accepted answers with a number in them: `answers` is {prompt.answers!r:.80}")
    return float(last_in(text) in wanted)


def last_in(text: str) -> Decimal | None:
    """The last number that a text has, commas between its thousands left out. A hyphen right behind a word, a number or
    a closing bracket is no sign: the last number of "3-5" is 5."""
    found = _NUMBER.findall(_THOUSANDS.sub("", text.translate(_SIGNS)))
    return Decimal(found[-1]) if found else None


def world_judge(prompt: Prompt, text: str) -> float:
    """The miniature world's exact judge, of prompts that it made."""
    from hanlin.world.judge import judge

    try:
        return judge(prompt.row, text).score
    except ValueError as error:
        raise HanlinError(f"the world's judge can't mark it: {error}") from None


PROGRAMS: dict[str, Program] = {"exact": exact_answer, "last-number": last_number, "world": world_judge}


def find_program(name: str) -> Program:
    """A program by its name. Raises UsageError for one that is not there."""
    if name not in PROGRAMS:
        raise UsageError(f"there is no reward program {name!r}: known are {', '.join(PROGRAMS)}.")
    return PROGRAMS[name]


def check_prompts(name: str, setting: str, prompts: Sequence[Prompt]) -> None:
    """Have the program `name`, which the setting `setting` asks for, mark an empty answer to every prompt. Raises
    HanlinError, with the place of the first, for prompts that it can't mark: before training, not in its midst."""
    program, bad = find_program(name), list[str]()
    for number, prompt in enumerate(prompts, start=1):
        try:
            program(prompt, "")
        except HanlinError as error:
            bad.append(f"{place_of(prompt.metadata, number)}: {error}")
    if bad:
        raise HanlinError(
            f"`{setting}: {name}` can't mark the answers to {len(bad)} of {len(prompts)} prompts; the first: {bad[0]}. "
            f"Give these prompts what it needs, take them out of the data, or choose another `{setting}`."
        )


class ModelReward:
    """A reward model's opinion, with the policy's tokenizer, of all members of an ensemble; and, where its directory
    tells what its training answers looked like to it, how far answers are from those."""

    def __init__(
        self, directory: Path, policy: Path, device: str, at_once: int, of_members: Literal["mean", "min"] = "mean"
    ) -> None:
        """Raises HanlinError for one with another tokenizer than `policy`, and for the least of a single member."""
        from hanlin.models.reward import load_ensemble

        ours, theirs = (path / "tokenizer.json" for path in (policy, directory))
        if ours.read_bytes() != theirs.read_bytes():
            raise HanlinError(
                f"the reward model in {directory} has another tokenizer than the policy in {policy}: train one on the "
                "same tokens."
            )
        self.members = [model.eval() for model in load_ensemble(directory, device=choose_device(device))]
        if of_members == "min" and len(self.members) == 1:
            raise HanlinError(
                f"reward_ensemble is min, but {directory} holds a single reward model: leave it out, or give the "
                "reward stage `ensemble: 3` or more."
            )
        self.at_once, self.of_members = at_once, of_members
        known = Distance.load(directory / DISTANCE) if (directory / DISTANCE).is_file() else None
        # One that was never compared with held-out answers has nothing to be large or small against.
        self.distance = known if known is not None and 0 < float(known.held_out[50]) < float("inf") else None

    @torch.no_grad()
    def __call__(self, samples: Samples) -> dict[str, Tensor]:
        """Each [S]: `reward_model`, and where there is what they need, only to be looked at: `reward_spread` (the
        deviation between members), `drift` (distance from the first member's training answers, in medians of held-out
        answers': 1 is usual), `drift_beyond` (1 for an answer farther than 99 of 100 held-out ones: 0.01 is usual).
        """
        batch = samples.sequences
        device = next(self.members[0].parameters()).device
        rewards, hidden = list[Tensor](), list[Tensor]()
        for one in batch.parts(self.at_once):
            part = one.to(device)
            rows = part.in_rows(with_last=True)
            states = [member.last_hidden(part, rows) for member in self.members]
            hidden.append(states[0].float().cpu())
            scores = [member.score(one).float().cpu() for member, one in zip(self.members, states)]
            rewards.append(torch.stack(scores, 1))
        each = torch.cat(rewards)
        found = {"reward_model": each.mean(1) if self.of_members == "mean" else each.amin(1)}
        if len(self.members) > 1:
            found["reward_spread"] = each.std(1)
        if self.distance is not None:
            away, usual = self.distance.of(torch.cat(hidden)), self.distance.held_out
            found["drift"] = (away / usual[50]).float()
            found["drift_beyond"] = (away > usual[99]).float()
        return found


def combined(
    model: ModelReward | None,
    model_weight: float,
    program: Program | None,
    program_weight: float,
    gold: Program | None,
    prompts: list[Prompt],
) -> Rewarder:
    """`reward`: the weighted sum; its parts where there are two; and what is only looked at: `gold`, and what the model
    tells beside its reward."""

    def marked(program: Program, samples: Samples) -> Tensor:
        each = len(samples.texts) // len(samples.prompts)
        asked = [prompts[number] for number in samples.prompts for _ in range(each)]
        return torch.tensor([program(prompt, text) for prompt, text in zip(asked, samples.texts)])

    def rewarder(samples: Samples) -> dict[str, Tensor]:
        parts, beside = dict[str, Tensor](), dict[str, Tensor]()
        if model is not None:
            beside = model(samples)
            parts["reward_model"] = beside.pop("reward_model")
        if program is not None:
            parts["reward_program"] = marked(program, samples)
        weights: dict[str, Any] = {"reward_model": model_weight, "reward_program": program_weight}
        total = torch.stack([weights[name] * found for name, found in parts.items()]).sum(0)
        found = {"reward": total, **(parts if len(parts) > 1 else {}), **beside}
        if gold is not None:
            found["gold"] = marked(gold, samples)
        return found

    return rewarder
