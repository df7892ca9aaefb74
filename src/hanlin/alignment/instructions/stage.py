"""The stage `instructions`: labelled sets and existing files, selected, described and written as one data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hanlin.alignment.instructions import datasets
from hanlin.alignment.instructions.diversity import DiversitySettings
from hanlin.alignment.instructions.ghost import GhostSettings
from hanlin.alignment.instructions.ifd import IfdSettings
from hanlin.alignment.instructions.judge import ScoreSettings
from hanlin.alignment.instructions.known import KnownSettings
from hanlin.alignment.instructions.pieces import FOLDER
from hanlin.alignment.instructions.reader import Chat, open_reader
from hanlin.alignment.instructions.rows import Instruction
from hanlin.alignment.instructions.select import (
    LengthSettings,
    NearDuplicateSettings,
    by_length,
    by_models,
    without_duplicates,
    without_near,
)
from hanlin.artifacts import POLICY_KINDS, HanlinError, Settings, Stage, StageContext, digest, hash_file

if TYPE_CHECKING:
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.reader import Reader

PROMPTS = ("judge_prompt", "complexity_prompt")
"""Settings that name text files."""


class InstructionSettings(Settings):
    """Makes one data set of instructions from labelled sets and existing files, with an account of every row."""

    data: str | list[str] | None = None
    """Files or folders of instructions, in any known format (`hanlin data preview` shows what is understood)."""
    world: str | None = None
    """A world stage whose instructions and dialogues are taken."""
    sets: list[str] = Field(default_factory=list)
    """Labelled sets put into prompt templates: names of the library or YAML files, each as NAME or NAME=PATH."""
    split: str = "train"
    """Which split of the sets."""
    templates_per_row: int = Field(default=1, ge=1)
    """Into how many of its set's templates a row is put."""
    most_rows_per_set: int | None = Field(default=None, ge=1)
    """Most rows of a set that are used, chosen by hash (FLAN limits large sets so); left out: all."""
    model: str | None = None
    """The base model that `known`, `ifd` and the embedding look through: a stage or a Hugging Face directory."""
    judge: str | None = None
    """The chat model that `score` asks, and that answers for `ghost`: a stage or a Hugging Face directory."""
    chat: Chat = "auto"
    """Whether `model` is shown rows through its chat template; auto: if it was trained on one."""
    judge_chat: Chat = "auto"
    """The same for `judge`."""
    judge_prompt: str | None = None
    """Text file of the question to the judge, a template with `question`, `answer`, `lowest`, `highest`; left out: the
    one that comes with hanlin (prompts/quality.txt)."""
    complexity_prompt: str | None = None
    """Text file of its question how hard an instruction is; left out: prompts/complexity.txt."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format in which the models compute."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models compute."""
    exact_duplicates: bool = True
    """Drop rows that say the same as an earlier one, message for message."""
    length: LengthSettings | None = None
    """By length."""
    near_duplicates: NearDuplicateSettings | None = None
    """Near duplicates."""
    known: KnownSettings | None = None
    """Rows whose answer the base model does not know."""
    ifd: IfdSettings | None = None
    """By instruction-following difficulty."""
    score: ScoreSettings | None = None
    """By a judge's rating."""
    diversity: DiversitySettings | None = None
    """By an order and the distance from each other."""
    ghost: GhostSettings | None = None
    """More rows: instructions that must hold over several turns."""

    @model_validator(mode="after")
    def _complete(self) -> InstructionSettings:
        if not self.sets and not self.data and self.world is None:
            raise ValueError("there is nothing to read: give `data`, `sets` or `world`")
        by_model = self.diversity is not None and self.diversity.embedding == "model"
        for needed, who in (("known", self.known), ("ifd", self.ifd), ("diversity.embedding: model", by_model or None)):
            if who is not None and self.model is None:
                raise ValueError(f"`{needed}` needs a `model`: a stage, or a Hugging Face directory")
        by_judge = self.ghost is not None and self.ghost.by == "model"
        for needed, who in (("score", self.score), ("ghost.by: model", by_judge or None)):
            if who is not None and self.judge is None:
                raise ValueError(f"`{needed}` needs a `judge`: a stage, or a Hugging Face directory")
        try:
            for spec in self.sets:
                datasets.plan_set(spec, self.split)
        except HanlinError as error:
            raise ValueError(str(error).rstrip(".")) from None
        return self


def look_at_data(settings: InstructionSettings) -> None:
    """Raise HanlinError for files of another kind, and where there is no conversation in all that the stage reads."""
    from hanlin.data.formats import INSTRUCTION_FORMS, nothing_usable, to_example
    from hanlin.tokenization import Conversation

    def usable(one: object) -> bool:
        return isinstance(one, Conversation)

    report = nothing_usable(_paths(settings), INSTRUCTION_FORMS, to_example, usable=usable)
    if report and not settings.sets and settings.world is None:
        why = report.quarantined[0] if report.quarantined else "all rows are plain text, which has no question"
        raise HanlinError(f"there is no conversation in {', '.join(report.files)}: {why}")


def fingerprint(settings: InstructionSettings) -> dict[str, Any]:
    """What the rows depend on outside the settings: the files, the sets as they are described, the user's prompts."""
    from hanlin.data.rows import data_files

    found: dict[str, Any] = {}
    for place, path in enumerate(_paths(settings)):
        for file in data_files(path):
            found[f"{place}/{file.relative_to(path) if path.is_dir() else file.name}"] = hash_file(file)
    for place, spec in enumerate(settings.sets):
        planned = datasets.plan_set(spec, settings.split)
        described = digest(planned.set.model_dump(mode="json", exclude={"data"}))
        found[f"set {place}"] = [described, *map(hash_file, planned.files)]
    for name in PROMPTS:
        own = getattr(settings, name)
        if own is not None:
            found[name] = hash_file(Path(own).expanduser())
    return found


def resolve(settings: InstructionSettings, context: StageContext) -> InstructionSettings:
    """With the device that `auto` means on this machine."""
    if settings.model is None and settings.judge is None:
        return settings
    from hanlin.models.device import choose_device

    return settings.model_copy(update={"device": choose_device(settings.device).type})


def run(settings: InstructionSettings, context: StageContext) -> dict[str, Any]:
    """Write `instructions.jsonl`, `dropped.jsonl` and `style.jsonl` into `context.workdir`.

    What models measure is kept in pieces while the work goes on: killed and started again, it goes on where it was.
    """
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.describe import tell, write_rows

    account = Account()
    rows = read(settings, context, account)
    figures: dict[str, Any] = {}
    if settings.exact_duplicates:
        rows = without_duplicates(rows, account)
    if settings.length is not None:
        rows = by_length(rows, settings.length, account)
    if settings.near_duplicates is not None:
        rows, figures["near_duplicates"] = without_near(rows, settings.near_duplicates, context, account)
    rows = by_models(rows, settings, context, account, figures)
    _need_some(rows, account)
    ghosts: list[Instruction] = []
    if settings.ghost is not None:
        ghosts, figures["ghost"] = _ghosts(rows, settings, context)
    table = {"account": account.figures(len(rows)), **figures}
    table |= write_rows([*rows, *ghosts], context.workdir)
    account.write(context.workdir)
    tell(table, context.progress)
    return table


def read(settings: InstructionSettings, context: StageContext, account: Account) -> list[Instruction]:
    """All rows of the files and the sets, everything that can't be used dropped in the account."""
    from hanlin.alignment.instructions.render import read_set
    from hanlin.data import read_instructions
    from hanlin.tokenization import Conversation

    rows: list[Instruction] = []
    files = _paths(settings)
    if "world" in context.inputs:
        files += [context.inputs["world"].path / name for name in ("instructions.jsonl", "dialogues.jsonl")]
    for path in files:
        examples, report = read_instructions(path)
        source = path.stem if path.is_file() else path.name
        account.enter(source, report.rows)
        for bad in report.quarantined:
            place = {"source": source, "file": bad.file, "row": bad.number, "line": bad.line}
            account.drop(place, "unreadable", detail=bad.reason)
        for example in examples:
            if isinstance(example, Conversation):
                rows.append(Instruction.of(example, source))
            else:
                account.drop({"source": source, **example.metadata, "text": example.text[:200]}, "plain_text")
    for spec in settings.sets:
        planned = datasets.plan_set(spec, settings.split)
        rows += read_set(planned, account, context.seed, settings.templates_per_row, settings.most_rows_per_set)
    return rows


def _paths(settings: InstructionSettings) -> list[Path]:
    given = [settings.data] if isinstance(settings.data, str) else settings.data or []
    return [Path(path).expanduser() for path in given]


def _ghosts(
    rows: Sequence[Instruction], settings: InstructionSettings, context: StageContext
) -> tuple[list[Instruction], dict[str, Any]]:
    from hanlin.alignment.instructions.ghost import answer_by, make_ghosts

    ghost = settings.ghost
    assert ghost is not None
    answer = None
    if ghost.by == "model":
        reader: Reader = open_reader(context.inputs["judge"], True, settings.dtype, settings.device)
        answer = answer_by(reader.model, ghost, context.seed)
    return make_ghosts(rows, ghost, context.seed, answer)


def _need_some(rows: Sequence[Instruction], account: Account) -> None:
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in account.reasons.items()) or "no row was read"
        raise HanlinError(f"no instruction is left: of {account.entered.total()} rows {reasons}. Loosen the selection.")


INSTRUCTIONS_STAGE = Stage(
    kind="instructions",
    settings=InstructionSettings,
    run=run,
    inputs={"world": ("world",), "model": POLICY_KINDS, "judge": POLICY_KINDS},
    paths=("data", *PROMPTS),
    fingerprint=fingerprint,
    looks={"data": look_at_data},
    resolve=resolve,
    transient=(FOLDER,),
)
