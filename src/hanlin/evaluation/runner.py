"""Holding an exam: each task's items are made once and put to every model that sits it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.artifacts import HanlinError, Progress, Silent, UsageError, write_text
from hanlin.evaluation import heldout
from hanlin.evaluation.bits import score_documents
from hanlin.evaluation.cloze import SAMPLE_BYTES, make_questions
from hanlin.evaluation.gates import Gate, decide
from hanlin.evaluation.items import FewShotPool, Item, make_items, read_rows, select
from hanlin.evaluation.persistence import play_scripts
from hanlin.evaluation.results import break_down, summarise
from hanlin.evaluation.scoring import Mark, generate_answers, score_choices, uses_chat
from hanlin.evaluation.tasks import PlannedTask, Task, plan_task

if TYPE_CHECKING:
    from hanlin.corpus import Document
    from hanlin.inference import LanguageModel

BEFORE_ITEMS = 100
"""The model before is asked at most so many items of a generate task on which no gate rests."""
RANDOM_ITEMS = 48
RANDOM_TOKENS = 16
RANDOM_BYTES = 8
"""Random weights are asked at most 48 items of a generate task, with answers of at most 16 tokens, and an eighth of the
text of bits_per_byte: they have nothing to say, and would say it at full length. Where a gate compares with them, they
are asked everything."""


@dataclass(frozen=True)
class Sitter:
    """A model that sits the exam."""

    name: str
    """`model`, `before` or `random`."""
    model: LanguageModel
    taught: bool
    """It was trained on its chat template."""


@dataclass
class PreparedTask:
    """A task with its items, ready to be put to any model."""

    task: Task
    items: list[Item] = field(default_factory=lambda: list[Item]())
    documents: list[Document] = field(default_factory=lambda: list["Document"]())
    pool: FewShotPool | None = None
    read: Callable[[int | None], list[Document]] | None = None
    """Of bits_per_byte: a sample of at most so many bytes."""
    note: str = ""
    """Why the task can't be held, if so."""

    @property
    def size(self) -> int:
        return len(self.items) or len(self.documents)


def run_exam(
    model: LanguageModel,
    tasks: Sequence[PlannedTask | str],
    *,
    world: Path | None = None,
    corpus: Path | None = None,
    feedback: Path | None = None,
    before: LanguageModel | None = None,
    before_name: str = "the model before",
    taught: bool = True,
    before_taught: bool = True,
    gates: Sequence[Gate] = (),
    random_row: bool = True,
    limit: int | None = None,
    data: Path | None = None,
    seed: int = 0,
    records: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Put `tasks` to `model`, and beside it to `before` (all tasks) and to random weights of the same shape.

    `taught` says whether the model was trained on the chat template that lies beside it (a pretrained one was not,
    whatever its tokenizer brings): if not, tasks with `chat: auto` are put to it as plain text; `before_taught`
    likewise. `world`, `corpus` and `feedback` are the folders of such artifacts, for tasks that draw on them; `data` is
    the items' file of tasks that have none; `limit` bounds every task's items. Every item's record is written to
    `records/<task>.jsonl` under the folder `records` (and to `before/`, `random/` there).

    Returns {"tasks": {task: {metric: {value, low, high, n, standard_error, …}}}, "breakdown": {task: {"tag=value":
    {metric: …}}}, "random": as tasks, "before": as tasks, "gates": [verdicts, see `gates.decide`], "how": {task: {kind,
    chat, …}}, "notes": {task: why it was not held}}. The same arguments give the same figures. Raises HanlinError for a
    task whose data is missing or malformed (file, line, field), and for a model whose probabilities are not numbers; a
    task for which there is too little held-out text is left out, with a note, unless a gate rests on it. A gate that
    fails is reported in the figures, not raised.
    """
    progress = progress or Silent()
    prepared = prepare_all(tasks, world, corpus, feedback, data, limit, seed, progress)
    held = [one for one in prepared if not one.note]
    _check_gates(gates, held, prepared)
    sitters = [Sitter("model", model, taught)]
    if before is not None:
        sitters.append(Sitter("before", before, before_taught))
    if random_row or (gates and before is None):
        sitters.append(Sitter("random", random_model(model, seed), taught))
    rival = "random" if before is None else "before"
    gated = {(rival, gate.task) for gate in gates}
    counter = Counter(progress, len(sitters) * sum(one.size for one in held))
    marks: dict[str, dict[str, list[Mark]]] = {}
    for sitter in sitters:
        for one in held:
            counter.note = one.task.name if sitter.name == "model" else f"{one.task.name} ({sitter.name})"
            share = one if (sitter.name, one.task.name) in gated else _share(one, sitter.name)
            marks.setdefault(sitter.name, {})[one.task.name] = hold(sitter, share, counter)
            counter.tick(one.size - share.size)
    figures = _figures(sitters[0], held, marks)
    figures["notes"] = {one.task.name: one.note for one in prepared if one.note}
    label = "random weights" if before is None else before_name
    figures["gates"] = [
        decide(gate, values_by_item(marks[rival][gate.task]), values_by_item(marks["model"][gate.task]), label)
        for gate in gates
    ]
    if records is not None:
        save_records(marks, records)
    return figures


def save_records(marks: dict[str, dict[str, list[Mark]]], directory: Path) -> None:
    """Write `records/<task>.jsonl` for the model, and `before/` and `random/` likewise; `marks` by who, then task."""
    for who, tasks in marks.items():
        folder = directory / ("records" if who == "model" else who)
        for name, own in tasks.items():
            rows = [{"id": mark.item, **mark.record, "values": mark.values, "tags": mark.tags} for mark in own]
            write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def prepare_all(
    tasks: Sequence[PlannedTask | str],
    world: Path | None,
    corpus: Path | None,
    feedback: Path | None,
    data: Path | None,
    limit: int | None,
    seed: int,
    progress: Progress,
) -> list[PreparedTask]:
    """`prepare` for each task, saying which can't be held. Raises UsageError for two of the same name."""
    planned = [plan_task(one, data) if isinstance(one, str) else one for one in tasks]
    prepared = [prepare(one, world, corpus, feedback, limit, seed) for one in planned]
    names = [one.task.name for one in prepared]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"the exam holds the task {twice[0]} twice: results go by name, so give one of the two another."
        )
    for one in prepared:
        if one.note:
            progress.say(f"{one.task.name} is not held: {one.note}")
    return prepared


def prepare(
    planned: PlannedTask,
    world: Path | None,
    corpus: Path | None,
    feedback: Path | None,
    limit: int | None,
    seed: int,
) -> PreparedTask:
    """Read or make the items of one task."""
    task = planned.task
    count = min((one for one in (task.max_items, limit) if one is not None), default=None)
    if task.corpus is None:
        path = data_file(planned, feedback if task.feedback is not None else world)
        items = make_items(task, read_rows(path))
        source = items
        if task.few_shot is not None and task.few_shot.file is not None:
            source = make_items(task, read_rows(path.parent / task.few_shot.file))
        return PreparedTask(task, select(items, count), pool=FewShotPool(task, source))
    folder = planned.data or corpus
    if folder is None:
        raise UsageError(f"task {task.name} needs a corpus: give the folder of one as {task.name}=FOLDER.")
    from hanlin.corpus import iterate_documents

    def sample(max_bytes: int | None) -> list[Document]:
        columns = ("id", "text", "source", "language")
        return heldout.sample(lambda: iterate_documents(folder, "validation", columns), max_bytes)

    if task.corpus == "cloze":
        items = make_questions(sample(SAMPLE_BYTES), count, seed)
        note = "" if items else "no question could be made: the held-out documents are too few, too short or too alike."
        return PreparedTask(task, items, pool=FewShotPool(task, items) if items else None, note=note)
    documents = sample(task.max_bytes)
    if limit is not None:
        documents = _evenly(documents, limit)
    note = "" if documents else "the corpus holds out no text: raise its `validation_fraction`."
    return PreparedTask(task, documents=documents, read=sample, note=note)


def data_file(planned: PlannedTask, made: Path | None) -> Path:
    """The JSONL file of a task that is not on a corpus; `made` is the folder of the world, or of the feedback, that it
    takes its items from. Raises UsageError when there is none."""
    task = planned.task
    exam = task.world or task.feedback
    if exam is None:
        assert planned.data is not None  # plan_task made sure
        return planned.data
    if planned.data is not None and planned.data.is_file():
        return planned.data
    folder = planned.data or made
    if folder is None:
        what = "a world: give the folder of one" if task.world else "exported feedback: give the folder of such a stage"
        raise UsageError(f"task {task.name} needs {what} as {task.name}=FOLDER.")
    path = folder / "exams" / f"{exam}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (folder / "exams").glob("*.jsonl"))) or "none"
        raise UsageError(f"task {task.name}: {folder} has no exam {exam!r}. Its exams: {known}.")
    return path


def _evenly(documents: list[Document], count: int) -> list[Document]:
    """At most `count` documents, from all sources in turn."""
    sources = [list(group) for _, group in itertools.groupby(documents, key=lambda one: one.source)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*sources))
    return [document for document in turns if document is not None][:count]


def random_model(model: LanguageModel, seed: int) -> LanguageModel:
    """A model of the same shape and tokenizer with freshly initialised weights: what is known before any training."""
    from hanlin.inference import Engine
    from hanlin.inference import LanguageModel as Examinee
    from hanlin.inference.precision import for_generation
    from hanlin.models import Transformer

    given = model.engine
    weight = given.model.embedding.weight
    network = Transformer(model.config)
    network.init_weights(seed)
    network.to(device=weight.device, dtype=given.model.compute_dtype or weight.dtype)
    engine = Engine(for_generation(network), model.tokenizer, eos_ids=given.eos_ids, max_batch=given.max_batch)
    return Examinee(engine, model.prefix_ids)


def _share(one: PreparedTask, who: str) -> PreparedTask:
    """The part of a task that this sitter is asked."""
    if who == "model":
        return one
    if one.task.kind in ("generate", "persistence"):
        return replace(one, items=select(one.items, RANDOM_ITEMS if who == "random" else BEFORE_ITEMS))
    if who == "random" and one.read is not None and one.task.max_bytes is not None:
        known = {document.id for document in one.documents}
        fewer = [document for document in one.read(max(1, one.task.max_bytes // RANDOM_BYTES)) if document.id in known]
        return replace(one, documents=fewer or one.documents)
    return one


def hold(sitter: Sitter, one: PreparedTask, counter: Counter) -> list[Mark]:
    """One task, one model; of random weights only short answers are taken."""
    task, model = one.task, sitter.model
    if task.kind == "bits_per_byte":
        marks = score_documents(model, task, one.documents, counter.tick)
        if not marks:
            raise HanlinError(f"task {task.name}: the held-out documents have no tokens.")
        return marks
    chat = uses_chat(task, model, sitter.taught)
    assert one.pool is not None
    if task.kind == "choice":
        return score_choices(model, task, one.items, one.pool, counter.tick, chat)
    most = RANDOM_TOKENS if sitter.name == "random" else None
    if task.kind == "persistence":
        return play_scripts(model, task, one.items, counter.tick, chat, most)
    return generate_answers(model, task, one.items, one.pool, counter.tick, chat, most)


def _figures(sitter: Sitter, held: Sequence[PreparedTask], marks: dict[str, dict[str, list[Mark]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {"tasks": {}, "breakdown": {}, "random": {}, "before": {}, "how": {}}
    for who, tasks in marks.items():
        kept = figures["tasks" if who == "model" else who]
        for one in held:
            asked = {mark.item for mark in tasks[one.task.name]}
            kept[one.task.name] = summarise(
                one.task, tasks[one.task.name], [item for item in one.items if item.id in asked]
            )
    for one in held:
        task, own = one.task, marks["model"][one.task.name]
        table = break_down(task, own, one.items)
        if table:
            figures["breakdown"][task.name] = table
        if task.kind == "bits_per_byte":
            for tag, row in table.items():
                figures["tasks"][task.name][f"bits_per_byte[{tag}]"] = row["bits_per_byte"]
        figures["how"][task.name] = {
            "kind": task.kind,
            "about": task.about,
            "chat": uses_chat(task, sitter.model, sitter.taught),
            "few_shot": task.few_shot.count if task.few_shot else 0,
            "items": len(own),
            "truncated": sum(1 for mark in own if mark.record.get("truncated")),
        }
    return figures


def values_by_item(marks: Sequence[Mark]) -> dict[str, dict[str, float]]:
    return {mark.item: mark.values for mark in marks}


def _check_gates(gates: Sequence[Gate], held: Sequence[PreparedTask], prepared: Sequence[PreparedTask]) -> None:
    names = {one.task.name for one in held}
    for gate in gates:
        if gate.task in names:
            continue
        note = next((one.note for one in prepared if one.task.name == gate.task), "it is not among the exam's tasks.")
        raise HanlinError(f"gate on {gate.task}: {note} Remove the gate from the recipe's `exam:`, or mend that.")


class Counter:
    """Items done, over all models and tasks."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self.note = ""

    def tick(self, count: int) -> None:
        self._done += count
        self._progress.update(self._done, self._total, self.note)
