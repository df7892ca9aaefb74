"""The stage `sft`: a model is taught to answer, from instructions and dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hanlin.artifacts import POLICY_KINDS, Artifact, HanlinError, Settings, Stage, StageContext, hash_file, write_json
from hanlin.models.lora_settings import LoraSettings
from hanlin.training.settings import LoopSettings, OptimizerSettings, ScheduleSettings, settle_steps

if TYPE_CHECKING:
    from torch import Tensor

    from hanlin.data.batch import Batch
    from hanlin.data.conversations import Cut, PackedConversations
    from hanlin.data.formats import ReadReport
    from hanlin.data.rendered import RenderedConversations
    from hanlin.tokenization import Tokenizer

TRAIN = "conversations/train"
VALIDATION = "conversations/validation"
READING = "conversations/reading.json"
INPUT_FILES = {"world": ("instructions.jsonl", "dialogues.jsonl"), "instructions": ("instructions.jsonl",)}
"""What is learned of the stages that may be named as inputs."""


class SftOptimizer(OptimizerSettings):
    """As in pretraining, at lower rates."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak rate of the hidden matrices."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the hidden matrices, times the learning rate a step."""


class SftSchedule(ScheduleSettings):
    """As in pretraining, but falling from the start."""

    warmup_fraction: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps in which the rate rises linearly."""
    decay_fraction: float = Field(default=1.0, ge=0, le=1)
    """wsd: share of the steps in which the rate falls."""
    decay_shape: Literal["1-sqrt", "linear"] = "linear"
    """wsd: form of the fall."""


class SftLoop(LoopSettings):
    """As in pretraining."""

    # Of fixed fields a narrower type is sound: nothing else can be assigned to them. pyright can't see that they are.
    optimizer: SftOptimizer = SftOptimizer()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The rule that changes the weights."""
    schedule: SftSchedule = SftSchedule()  # pyright: ignore[reportIncompatibleVariableOverride]
    """The learning rate's course."""


class SftSettings(Settings):
    """Fine-tunes a model on conversations; only the assistant's tokens are trained on."""

    model: str
    """The stage, or the Hugging Face directory, of the model to begin with."""
    data: str | list[str] | None = None
    """Files or folders of instructions, in any known format (`hanlin data preview` shows what is understood)."""
    world: str | None = None
    """A world stage whose instructions and dialogues are learned, beside or in place of `data`."""
    instructions: str | None = None
    """A stage that makes instructions, beside or in place of `data` and `world`."""
    pack: bool = True
    """Several short conversations in a row, none attending to another."""
    on_empty: Literal["refuse", "drop"] = "refuse"
    """A conversation with nothing to train on once it is cut to the row's length: refuse the data, or leave it out."""
    validation_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the conversations that is held out to measure the loss on."""
    neftune: float = Field(default=0.0, ge=0)
    """Noise on the token embeddings in training, alpha of NEFTune (Jain et al. 2023); usual: 5. 0: none."""
    lora: LoraSettings | None = None
    """Train adapters and leave the model's own weights as they are; left out: all weights are trained."""
    loop: SftLoop = SftLoop()
    """Batches, steps, optimiser, precision, checkpoints."""


def fingerprint_data(settings: SftSettings) -> dict[str, str]:
    """Hashes of the data files by their place below the path given."""
    from hanlin.data.rows import data_files

    found: dict[str, str] = {}
    for number, path in enumerate(_paths(settings)):
        for file in data_files(path):
            found[f"{number}/{file.relative_to(path) if path.is_dir() else file.name}"] = hash_file(file)
    return found


def look_at_data(settings: SftSettings) -> None:
    """Raise HanlinError for files of another kind, and where there is no conversation in all that the stage reads."""
    from hanlin.data.formats import INSTRUCTION_FORMS, nothing_usable, to_example

    report = nothing_usable(_paths(settings), INSTRUCTION_FORMS, to_example)
    if report and not any(getattr(settings, name) for name in INPUT_FILES):
        raise _no_conversation(report)


def resolve_sft(settings: SftSettings, context: StageContext) -> SftSettings:
    """Decide steps, device, precision and compile, and give a number to everything that was left out."""
    from hanlin.models.hub import load_config
    from hanlin.training.stages import resolve_loop

    config = load_config(context.inputs["model"].path)
    source = Prepared(settings, context).source
    return settings.model_copy(update={"loop": resolve_loop(settings.loop, config, source, context.progress)})


def run_sft(settings: SftSettings, context: StageContext) -> dict[str, Any]:
    """Train in `context.workdir`, which becomes a Hugging Face directory; goes on where an earlier attempt stopped."""
    from hanlin.models.hub import load_model
    from hanlin.training.adapters import begin_adapters
    from hanlin.training.stages import check_length, train_language_model, validation_measure

    prepared = Prepared(settings, context)
    # Said here and not where it is read: a run that goes on has it read already, and says it to a new console.
    for note in prepared.reading.get("notes", []):
        context.progress.say(note)
    model = load_model(context.inputs["model"].path)
    check_length(model.config, settings.loop.sequence_length)
    begin_adapters(model, settings.lora, context.seed)
    evaluate = None
    if prepared.validation is not None:
        batches = prepared.validation
        rows = max(1, 8_192 // settings.loop.sequence_length)
        evaluate = validation_measure(lambda: batches, prepared.tokenizer, rows)
    counts = prepared.token_counts(model.config.vocabulary_size)
    figures = train_language_model(
        model,
        prepared.tokenizer,
        prepared.source,
        settings.loop,
        context,
        evaluate,
        counts,
        neftune=settings.neftune,
        lora=settings.lora,
    )
    return {**figures, "data": prepared.reading, "packing": prepared.source.figures()}


def bytes_to_read(settings: SftSettings, inputs: dict[str, Artifact]) -> float | None:
    """The most text that fine-tuning reads: its files, with all their marks, times the epochs."""
    from hanlin.data.rows import data_files, plain_bytes

    padded = not settings.pack
    unmade = any(getattr(settings, name) is not None and name not in inputs for name in INPUT_FILES)
    if padded or settings.loop.steps is not None or unmade:
        return None
    files = [file for path in _paths(settings) for file in data_files(path)]
    files += _made(inputs)
    sizes = [plain_bytes(file) for file in files]
    return None if None in sizes else settings.loop.epochs * sum(size or 0 for size in sizes)


class Prepared:
    """The conversations, rendered, split and packed."""

    def __init__(self, settings: SftSettings, context: StageContext) -> None:
        import json

        from hanlin.data.conversations import Cut, PackedConversations
        from hanlin.data.rendered import RenderedConversations
        from hanlin.tokenization import Tokenizer
        from hanlin.training.parallel import World

        self.tokenizer: Tokenizer = Tokenizer.load(context.inputs["model"].path)
        self.tokenizer.check_chat()
        reading = context.workdir / READING
        world = World.current()
        if world.first and not reading.is_file():
            # Written last: what is there without it is from an attempt that was killed, and is written anew.
            _render(settings, context, self.tokenizer)
        world.barrier()
        self.reading: dict[str, Any] = json.loads(reading.read_text(encoding="utf-8"))
        loop = settings.loop
        self.source = PackedConversations(
            RenderedConversations.load(context.workdir / TRAIN),
            loop.sequence_length,
            loop.rows,
            context.seed,
            settings.pack,
            settings.on_empty,
        )
        self.validation: list[Batch] | None = None
        """The batches to measure the loss on; None when nothing is held out, or nothing of it can be trained on"""
        held_out = RenderedConversations.load(context.workdir / VALIDATION)
        if len(Cut(held_out, loop.sequence_length).kept):
            # Never refused here: with on_empty = "refuse" all conversations were checked before they were split.
            packed = PackedConversations(held_out, loop.sequence_length, loop.rows, 0, settings.pack, "drop")
            self.validation = _batches(packed, loop.evaluation_tokens)

    def token_counts(self, vocabulary_size: int) -> Tensor:
        """[vocabulary_size] how often each token stands in the training share, for the diagnosis of a spike."""
        import numpy as np
        import torch

        return torch.from_numpy(np.bincount(self.source.rendered.ids, minlength=vocabulary_size))


def _paths(settings: SftSettings) -> list[Path]:
    given = [settings.data] if isinstance(settings.data, str) else settings.data or []
    return [Path(path).expanduser() for path in given]


def _made(inputs: dict[str, Artifact]) -> list[Path]:
    return [inputs[key].path / name for key, names in INPUT_FILES.items() if key in inputs for name in names]


def _render(settings: SftSettings, context: StageContext, tokenizer: Tokenizer) -> None:
    """Read all data, hold out the validation share, and write both as tokens, with the account of the reading.

    Raises HanlinError when there is nothing to read, and with `on_empty = "refuse"` for a conversation with nothing to
    train on, whichever share it would fall into.
    """
    import numpy as np

    from hanlin.data.conversations import Cut
    from hanlin.data.formats import read_instructions
    from hanlin.data.order import permutation
    from hanlin.data.rendered import render_conversations

    paths = _paths(settings) + _made(context.inputs)
    if not paths:
        raise HanlinError("an sft stage has nothing to learn: give it data=PATH, or a stage as world or instructions.")
    examples, report = read_instructions(paths)
    if not examples:
        raise _no_conversation(report)
    rendered = render_conversations(
        examples, tokenizer, lambda done: context.progress.update(done, len(examples), "conversations rendered")
    )
    cut = Cut(rendered, settings.loop.sequence_length)
    if settings.on_empty == "refuse":
        cut.refuse_empty()
    held_out = round(settings.validation_fraction * len(examples))
    order = permutation(len(examples), "validation")
    select(rendered, np.sort(order[held_out:])).save(context.workdir / TRAIN)
    select(rendered, np.sort(order[:held_out])).save(context.workdir / VALIDATION)
    account: dict[str, Any] = {
        "validation": held_out,
        "dropped": len(cut.empty),
        "dropped_rows": [cut.why_empty(index) for index in cut.empty[:20]],
        "truncated": len(cut.truncated),
        "notes": _notes(report, cut),
    }
    write_json(context.workdir / READING, {**report.figures(), **account})


def _no_conversation(report: ReadReport) -> HanlinError:
    return HanlinError(f"there is no conversation in {', '.join(report.files)}; the first row: {report.quarantined[0]}")


def _notes(report: ReadReport, cut: Cut) -> list[str]:
    """What of the data is not trained on, for people: how much of each sort, and where the first is."""
    files = [bad for bad in report.quarantined if bad.number is None]
    rows = [bad for bad in report.quarantined if bad.number is not None]
    notes: list[str] = []
    if files:
        notes.append(f"{len(files)} of {len(report.files)} files are left out; the first: {files[0]}")
    if rows:
        notes.append(f"{len(rows)} of {report.rows - len(files)} rows can't be used; the first: {rows[0]}")
    total, length = len(cut.rendered), cut.sequence_length
    if len(cut.empty):
        first = cut.why_empty(cut.empty[0])
        notes.append(
            f"{len(cut.empty)} of {total} conversations are left out, with nothing to train on in rows of {length}; "
            f"the first: {first}"
        )
    if len(cut.truncated):
        first = cut.why_truncated(cut.truncated[0])
        notes.append(f"{len(cut.truncated)} of {total} conversations are cut to rows of {length}; the first: {first}")
    return notes


def select(rendered: RenderedConversations, indices: Any) -> RenderedConversations:
    """Some of the conversations, in the order of `indices` (int [n])."""
    import numpy as np

    from hanlin.data.rendered import RenderedConversations

    lengths = np.diff(rendered.offsets)[indices]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    # Position within the selection → position in the whole: each conversation's tokens move by one distance.
    places = np.arange(offsets[-1]) + np.repeat(rendered.offsets[:-1][indices] - offsets[:-1], lengths)
    return RenderedConversations(
        rendered.ids[places],
        rendered.trained[places],
        offsets,
        [rendered.metadata[int(index)] for index in indices],
        rendered.pad_id,
    )


def _batches(source: PackedConversations, most_tokens: int) -> list[Batch]:
    """One epoch's batches, up to `most_tokens` positions; the last holds the rows that are left."""
    rows, step = source.rows_in(0), source.rows_per_step
    rows = min(rows, max(1, most_tokens // source.sequence_length))
    return [source.step(first // step).slice(0, min(step, rows - first)) for first in range(0, rows, step)]


SFT_STAGE = Stage(
    kind="sft",
    settings=SftSettings,
    run=run_sft,
    inputs={
        "model": POLICY_KINDS,
        "world": ("world",),
        "instructions": ("instructions", "self-instruct", "constitution", "best-of-n"),
    },
    paths=("data",),
    fingerprint=fingerprint_data,
    looks={"data": look_at_data},
    resolve=resolve_sft,
    settle=settle_steps,
    reads=bytes_to_read,
    transient=("checkpoints",),
    journal=("metrics.jsonl",),
    trains=True,
)
