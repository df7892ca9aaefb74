"""What the stages that have a model answer prompts share: where prompts come from, and what answers are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from hanlin.alignment.prepared import fingerprint_paths
from hanlin.artifacts import HanlinError, Settings, StageContext, write_json

if TYPE_CHECKING:
    from hanlin.alignment.rollouts import Rewarder
    from hanlin.alignment.sampler import RenderedPrompts
    from hanlin.tokenization import Tokenizer

PROMPTS = "prompts.jsonl"
"""The file of a world"""
READING = "prompts.json"


class AskedSettings(Settings):
    """Which model answers which prompts, and what its answers are worth."""

    model: str
    """The stage, or the Hugging Face directory, of the model that answers; where it is trained, the reference too."""
    data: str | list[str] | None = None
    """Files or folders of prompts: rows with `prompt` (and `answers`, for programs), or any instruction or preference
    form, whose answers are then not learned."""
    world: str | None = None
    """A world stage whose prompts are asked, beside or in place of `data`."""
    reward: str | None = None
    """A reward stage, or the directory of a reward model with the same tokenizer."""
    reward_ensemble: Literal["mean", "min"] = "mean"
    """Of a reward stage's `ensemble`: the mean of its members' opinions, or the least of them, which the error of a
    single member can't raise (worst-case optimisation, Coste et al. 2024)."""
    reward_weight: float = Field(default=1.0, gt=0)
    """Of the reward model's opinion in the reward."""
    program: Literal["exact", "last-number", "world"] | None = None
    """A program that marks answers from 0 to 1. exact: 1 for one of the prompt's accepted answers, as a whole.
    last-number: 1 if the last number in the answer is that in an accepted one (12.0 is 12, and 1,200 is 1200). world:
    the miniature world's judge. A prompt that it can't mark stops the run before it begins."""
    program_weight: float = Field(default=1.0, gt=0)
    """Of the program's mark in the reward."""
    gold: Literal["exact", "last-number", "world"] | None = None
    """A program whose marks are recorded beside the reward, and not used: what the reward stands for."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer, in tokens."""

    @model_validator(mode="after")
    def _has_prompts_and_a_reward(self) -> Self:
        if not self.data and self.world is None:
            raise ValueError("there is nothing to ask: give it `data:` files with prompts, or `world:` a world stage")
        if self.reward is None and self.program is None:
            raise ValueError("there is no reward: give `reward:` a reward model, `program:` a program, or both")
        return self


def prompt_paths(settings: AskedSettings) -> list[Path]:
    """The user's files and folders."""
    given = [settings.data] if isinstance(settings.data, str) else settings.data or []
    return [Path(path).expanduser() for path in given]


def fingerprint(settings: AskedSettings) -> dict[str, str]:
    """Hashes of the prompts' files."""
    return fingerprint_paths(prompt_paths(settings))


def look_at_prompts(settings: AskedSettings) -> None:
    """Raise HanlinError for files of another kind, and where there is no prompt in all that the stage reads."""
    look_for_prompts(prompt_paths(settings), alone=settings.world is None)


def look_for_prompts(paths: list[Path], alone: bool) -> None:
    """The same of any paths; `alone`: there are no other prompts."""
    from hanlin.data.formats import nothing_usable
    from hanlin.data.prompts import PROMPT_FORMS, form_of, to_prompts

    report = nothing_usable(paths, PROMPT_FORMS, to_prompts, form_of)
    if report and alone:
        raise HanlinError(f"there is no prompt in {', '.join(report.files)}; the first row: {report.quarantined[0]}")


def render(settings: AskedSettings, context: StageContext, tokenizer: Tokenizer, length: int) -> RenderedPrompts:
    """The prompts as tokens, those that leave room in `length` for an answer; says what of the data is not used. Raises
    HanlinError for prompts that the programs asked for can't mark."""
    from hanlin.alignment.rewards import check_prompts
    from hanlin.alignment.sampler import RenderedPrompts
    from hanlin.data.prompts import read_prompts
    from hanlin.training.parallel import World

    tokenizer.check_chat()
    paths = prompt_paths(settings)
    if "world" in context.inputs:
        paths.append(context.inputs["world"].path / PROMPTS)
    prompts, report = read_prompts(paths)
    rendered = RenderedPrompts(prompts, tokenizer, length, settings.max_new_tokens)
    for setting, name in (("program", settings.program), ("gold", settings.gold)):
        if name is not None:
            check_prompts(name, setting, rendered.prompts)
    if not (context.workdir / READING).is_file():
        if report.quarantined:
            bad, first = len(report.quarantined), report.quarantined[0]
            context.progress.say(f"{bad} of {report.rows} rows are no prompts; the first: {first}")
        if rendered.dropped:
            context.progress.say(f"{len(rendered.dropped)} prompts are left out; the first: {rendered.dropped[0]}")
    if World.current().first:
        write_json(context.workdir / READING, {**report.figures(), "prompts": rendered.figures()})
    return rendered


def rewarder(
    settings: AskedSettings, context: StageContext, rendered: RenderedPrompts, device: str, at_once: int
) -> Rewarder:
    """What the settings say that an answer is worth."""
    from hanlin.alignment.rewards import ModelReward, combined, find_program

    model = None
    if "reward" in context.inputs:
        directory, policy = context.inputs["reward"].path, context.inputs["model"].path
        model = ModelReward(directory, policy, device, at_once, settings.reward_ensemble)
    program = None if settings.program is None else find_program(settings.program)
    gold = None if settings.gold is None else find_program(settings.gold)
    return combined(model, settings.reward_weight, program, settings.program_weight, gold, rendered.prompts)
