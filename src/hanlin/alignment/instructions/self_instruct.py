"""The stage `self-instruct`: from a few seed tasks a model makes many instructions, with where each came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hanlin.alignment.instructions.pieces import FOLDER, Pieces
from hanlin.alignment.instructions.reader import Chat, open_reader
from hanlin.artifacts import POLICY_KINDS, HanlinError, Settings, Stage, StageContext, UsageError, hash_file

if TYPE_CHECKING:
    from hanlin.alignment.instructions.generator import Ask, Generator, Said
    from hanlin.alignment.instructions.seeds import Task


class SelfInstructSettings(Settings):
    """Makes instructions from seed tasks with a model: self-instruct (Wang et al. 2023) or evol-instruct (Xu et al.
    2023)."""

    model: str
    """The model that writes: a stage or a Hugging Face directory."""
    seeds: str
    """File of seed tasks: self-instruct's own form (instruction, instances, is_classification), Alpaca, messages."""
    method: Literal["self-instruct", "evol"] = "self-instruct"
    """New tasks in the manner of the old ones; or the old ones made harder and rarer."""
    rows: int = Field(default=1_000, ge=1)
    """How many rows to make; no more are written."""
    most_rounds: int = Field(default=1_000, ge=1)
    """self-instruct: after so many rounds it ends with fewer rows."""
    patience: int = Field(default=50, ge=1)
    """self-instruct: after so many rounds in a row without a new task it ends, too."""
    generations: int = Field(default=4, ge=1)
    """evol: how often each instruction is evolved (WizardLM: 4)."""
    batch: int = Field(default=8, ge=1)
    """Requests in a round; a round that is interrupted is done again."""
    seeds_shown: int = Field(default=6, ge=1, le=32)
    """self-instruct: seed tasks in a list that is to be continued."""
    generated_shown: int = Field(default=2, ge=0, le=32)
    """self-instruct: generated tasks among them, when there are some; until then seeds."""
    instances: int = Field(default=1, ge=1)
    """self-instruct: rows for each new task; only tasks with fixed labels give more than one."""
    rouge: float = Field(default=0.7, gt=0, le=1)
    """A new instruction whose ROUGE-L with an earlier one is this or more is dropped (evol: only those in breadth)."""
    least_words: int = Field(default=4, ge=1)
    """Shortest instruction, in words (Chinese: signs)."""
    most_words: int = Field(default=150, ge=2)
    """Longest instruction, in words (Chinese: signs)."""
    most_answer: int = Field(default=600, ge=1)
    """Longest answer, in words (Chinese: signs)."""
    temperature: float = Field(default=0.7, ge=0)
    """Of new instructions; everything else is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Of new instructions."""
    max_new_tokens: int = Field(default=512, ge=8)
    """Longest continuation."""
    prompts: str | None = None
    """Folder with text files that replace some of the prompts that come with hanlin, under the same names."""
    with_seeds: bool = False
    """Write the seed tasks as rows, too, before the others."""
    chat: Chat = "auto"
    """Whether the model is asked through its chat template; auto: if it was trained on one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format in which the model computes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes."""

    @model_validator(mode="after")
    def _ordered(self) -> SelfInstructSettings:
        if self.least_words > self.most_words:
            raise ValueError(f"least_words ({self.least_words}) is more than most_words ({self.most_words})")
        return self


def look_at_seeds(settings: SelfInstructSettings) -> None:
    """Raise HanlinError for the first seed task that can't be used: they are few, so all are read."""
    from hanlin.alignment.instructions.seeds import read_seeds

    read_seeds(Path(settings.seeds).expanduser())


def fingerprint(settings: SelfInstructSettings) -> dict[str, Any]:
    """Hashes of the seed tasks and the user's prompts."""
    from hanlin.alignment.instructions import bootstrap, evolve
    from hanlin.data.rows import data_files

    found: dict[str, Any] = {"seeds": [hash_file(file) for file in data_files(Path(settings.seeds).expanduser())]}
    if settings.prompts is not None:
        folder = Path(settings.prompts).expanduser()
        names = bootstrap.PROMPTS if settings.method == "self-instruct" else evolve.PROMPTS
        own = {name: folder / f"{name}.txt" for name in names}
        found["prompts"] = {name: hash_file(path) for name, path in own.items() if path.is_file()}
        if not found["prompts"]:
            raise UsageError(f"the folder {folder} replaces no prompt: it has none of {', '.join(names)} (.txt).")
    return found


def resolve(settings: SelfInstructSettings, context: StageContext) -> SelfInstructSettings:
    """With the device that `auto` means on this machine."""
    from hanlin.models.device import choose_device

    return settings.model_copy(update={"device": choose_device(settings.device).type})


def run(settings: SelfInstructSettings, context: StageContext) -> dict[str, Any]:
    """Write `instructions.jsonl`, `dropped.jsonl` and `style.jsonl` into `context.workdir`.

    Each round is a file of its own until the end: killed and started again, it goes on after the last whole round, and
    makes what it would have made.
    """
    return generate(settings, context, _Late(settings, context))


def generate(settings: SelfInstructSettings, context: StageContext, generator: Generator) -> dict[str, Any]:
    """`run` with any generator."""
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.bootstrap import Bootstrap
    from hanlin.alignment.instructions.describe import tell, write_rows
    from hanlin.alignment.instructions.evolve import Evolution
    from hanlin.alignment.instructions.seeds import read_seeds

    seeds = read_seeds(Path(settings.seeds).expanduser())
    if settings.method == "evol":
        work: Bootstrap | Evolution = Evolution(seeds, generator, settings, context.seed)
        rounds = work.pieces
    else:
        work, rounds = Bootstrap(seeds, generator, settings, context.seed), settings.most_rounds
    pieces, account = Pieces(context.workdir, settings.method), Account()
    done = made = idle = 0
    patience = settings.patience if settings.method == "self-instruct" else rounds
    while done < rounds and made < settings.rows and idle < patience:
        found = pieces.read(done)
        if found is None:
            found = pieces.write(done, work.round(done))
        work.take(found)
        account.enter(settings.method, len(found["dropped"]))
        for one in found["dropped"]:
            account.drop(one["row"], one["reason"], one["measured"], one["threshold"], one["detail"])
        done, idle = done + 1, 0 if found["accepted"] else idle + 1
        made = sum(len(task.pairs) for task in work.made)
        context.progress.update(min(made, settings.rows), settings.rows, f"{done} rounds")
    rows = [row for task in work.made for row in task_rows(task)]
    account.enter(settings.method, len(rows))
    for row in rows[settings.rows :]:
        account.drop(row, "surplus", len(rows), settings.rows)
    rows = rows[: settings.rows]
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in account.reasons.items())
        raise HanlinError(
            f"the model made no instruction that can be used in {done} rounds ({reasons}). Use a model that follows "
            "few-shot prompts, or loosen the limits."
        )
    if len(rows) < settings.rows:
        context.progress.say(f"{len(rows)} of {settings.rows} rows were made in {done} rounds")
    table: dict[str, Any] = {"rounds": done, "seeds": len(seeds), "account": account.figures(len(rows))}
    shown = [row for task in seeds for row in task_rows(task)] if settings.with_seeds else []
    table |= write_rows([*shown, *rows], context.workdir)
    account.write(context.workdir)
    tell(table, context.progress)
    return table


def task_rows(task: Task) -> list[Any]:
    """A row for each time that the task was done; `metadata` says from which tasks, and how, it was made."""
    from hanlin.alignment.instructions.rows import Instruction
    from hanlin.alignment.instructions.seeds import question_of

    return [
        Instruction(
            [
                {"role": "user", "content": question_of(task.instruction, pair.input)},
                {"role": "assistant", "content": pair.output},
            ],
            {"source": str(task.origin.get("method", "seed")), "task": task.id, **task.origin},
        )
        for pair in task.pairs
    ]


class _Late:
    """The model as a generator, loaded when it is first asked: not at all when all rounds were done before a kill."""

    def __init__(self, settings: SelfInstructSettings, context: StageContext) -> None:
        self._settings, self._context = settings, context
        self._made: Generator | None = None

    @property
    def chat(self) -> bool:
        return self._get().chat

    def generate(self, asks: Sequence[Ask]) -> list[Said]:
        return self._get().generate(asks)

    def _get(self) -> Generator:
        if self._made is None:
            from hanlin.alignment.instructions.generator import ModelGenerator

            settings = self._settings
            artifact = self._context.inputs["model"]
            self._made = ModelGenerator(open_reader(artifact, settings.chat, settings.dtype, settings.device))
        return self._made


SELF_INSTRUCT_STAGE = Stage(
    kind="self-instruct",
    settings=SelfInstructSettings,
    run=run,
    inputs={"model": POLICY_KINDS},
    paths=("seeds", "prompts"),
    fingerprint=fingerprint,
    looks={"seeds": look_at_seeds},
    resolve=resolve,
    transient=(FOLDER,),
)
