"""Holding an exam: each task's items are made once and put to every model that sits it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.artifacts import HanlinError, Progress, Silent, UsageError, write_text
from hanlin.evaluation import heldout
from hanlin.evaluation.bits import score_documents
from hanlin.evaluation.cloze import SAMPLE_BYTES, make_questions
from hanlin.evaluation.gates import Gate, decide
from hanlin.evaluation.items import FewShotPool, Item, make_items, read_rows, select
from hanlin.evaluation.results import break_down, summarise
from hanlin.evaluation.scoring import Mark, generate_answers, score_choices, uses_chat
from hanlin.evaluation.tasks import PlannedTask, Task, plan_task

if TYPE_CHECKING:
    from hanlin.corpus import Document
    from hanlin.inference import LanguageModel

RANDOM_ITEMS = 48
RANDOM_TOKENS = 16
RANDOM_BYTES = 8
"""The random-weights row: a generate task is asked at most 48 items with answers of at most 16 tokens, and bits_per_byte
an eighth of the text. It has nothing to say, and would say it at full length."""


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


@dataclass
class ExamResult:
    """What an exam found."""

    figures: dict[str, Any]
    """{"tasks": {task: {metric: {value, low, high, n, standard_error, …}}}, "breakdown": {task: {"tag=value": {metric:
    …}}}, "random": as tasks, "before": as tasks, "gates": [...], "how": {task: {…}}, "notes": {task: text}}."""
    marks: dict[str, dict[str, list[Mark]]]
    """Who ("model", "before", "random") → task → every item's mark."""

    def save_records(self, directory: Path) -> None:
        """Write `records/<task>.jsonl` for the model, and `before/` and `random/` likewise."""
        for who, tasks in self.marks.items():
            folder = directory / ("records" if who == "model" else who)
            for name, marks in tasks.items():
                lines = [
                    json.dumps({"id": mark.item, **mark.record, "values": mark.values, "tags": mark.tags}, ensure_ascii=False)
                    for mark in marks
                ]
                write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))


def run_exam(
    model: LanguageModel,
    tasks: Sequence[PlannedTask | str],
    *,
    world: Path | None = None,
    corpus: Path | None = None,
    before: LanguageModel | None = None,
    before_name: str = "the model before",
    gates: Sequence[Gate] = (),
    random_row: bool = True,
    max_items: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExamResult:
    """Put `tasks` to `model`, and beside it to `before` (all tasks) and to random weights of the same shape.

    `world` and `corpus` are the folders of such artifacts, for tasks that draw on them. `max_items` bounds every task.
    The same arguments give the same figures. Raises HanlinError for a task whose data is missing or malformed (file, line,
    field), and for a model whose probabilities are not numbers; a task for which there is too little held-out text is left
    out, with a note, unless a gate rests on it. A gate that fails is reported in the figures, not raised.
    """
    progress = progress or Silent()
    prepared = [prepare(one, world, corpus, max_items, seed) for one in tasks]
    names = [one.task.name for one in prepared]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"the exam holds the task {twice[0]} twice: results go by name, so give one of the two another.")
    for one in prepared:
        if one.note:
            progress.say(f"{one.task.name} is not held: {one.note}")
    held = [one for one in prepared if not one.note]
    _check_gates(gates, held, prepared)
    sitters: list[tuple[str, LanguageModel]] = [("model", model)]
    if before is not None:
        sitters.append(("before", before))
    if random_row or (gates and before is None):
        sitters.append(("random", random_model(model, seed)))
    counter = _Counter(progress, sum(_size(one, who) for who, _ in sitters for one in held))
    marks: dict[str, dict[str, list[Mark]]] = {}
    for who, sitter in sitters:
        for one in held:
            counter.note = one.task.name if who == "model" else f"{one.task.name} ({who})"
            marks.setdefault(who, {})[one.task.name] = _hold(sitter, one, who, counter)
    figures = _figures(model, held, marks)
    figures["notes"] = {one.task.name: one.note for one in prepared if one.note}
    rival, label = ("before", before_name) if before is not None else ("random", "random weights")
    figures["gates"] = [
        decide(gate, _values(marks[rival][gate.task]), _values(marks["model"][gate.task]), label) for gate in gates
    ]
    return ExamResult(figures, marks)


def prepare(
    planned: PlannedTask | str, world: Path | None, corpus: Path | None, max_items: int | None, seed: int
) -> PreparedTask:
    """Read or make the items of one task."""
    if isinstance(planned, str):
        planned = plan_task(planned)
    task = planned.task
    count = min((one for one in (task.max_items, max_items) if one is not None), default=None)
    if task.corpus is None:
        path = data_file(planned, world)
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
        return heldout.sample(lambda: iterate_documents(folder, "validation"), max_bytes)

    if task.corpus == "cloze":
        items = make_questions(sample(SAMPLE_BYTES), count, seed)
        note = "" if items else "no question could be made: the held-out documents are too few, too short or too alike."
        return PreparedTask(task, items, pool=FewShotPool(task, items) if items else None, note=note)
    documents = sample(task.max_bytes)
    if max_items is not None:
        documents = _evenly(documents, max_items)
    note = "" if documents else "the corpus holds out no text: raise its `validation_fraction`."
    return PreparedTask(task, documents=documents, read=sample, note=note)


def data_file(planned: PlannedTask, world: Path | None) -> Path:
    """The JSONL file of a task that is not on a corpus. Raises UsageError when there is none."""
    task = planned.task
    if task.world is None:
        assert planned.data is not None  # plan_task made sure
        return planned.data
    if planned.data is not None and planned.data.is_file():
        return planned.data
    folder = planned.data or world
    if folder is None:
        raise UsageError(f"task {task.name} needs a world: give the folder of one as {task.name}=FOLDER.")
    path = folder / "exams" / f"{task.world}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (folder / "exams").glob("*.jsonl"))) or "none"
        raise UsageError(f"task {task.name}: {folder} has no exam {task.world!r}. Its exams: {known}.")
    return path


def _evenly(documents: list[Document], count: int) -> list[Document]:
    """At most `count` documents, from all sources in turn."""
    sources = [list(group) for _, group in itertools.groupby(documents, key=lambda one: one.source)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*sources))
    return [document for document in turns if document is not None][:count]


def random_model(model: LanguageModel, seed: int) -> LanguageModel:
    """A model of the same shape and tokenizer with freshly initialised weights: what is known before any training."""
    from hanlin.inference import LanguageModel as Loaded
    from hanlin.models import Transformer

    network = Transformer(model.config)
    network.init_weights(seed)
    return Loaded(network, model.tokenizer, dtype=model.engine.dtype)


def _size(one: PreparedTask, who: str) -> int:
    return min(one.size, RANDOM_ITEMS) if who == "random" and one.task.kind == "generate" else one.size


def _hold(model: LanguageModel, one: PreparedTask, who: str, counter: _Counter) -> list[Mark]:
    """One task, one model. The random row's share is smaller where it would only cost time."""
    task, lot = one.task, who == "random"
    if task.kind == "bits_per_byte":
        assert one.read is not None
        documents = one.documents
        if lot and task.max_bytes is not None:
            known = {document.id for document in documents}
            fewer = [document for document in one.read(max(1, task.max_bytes // RANDOM_BYTES)) if document.id in known]
            documents = fewer or documents
        marks = score_documents(model, task, documents, counter.tick)
        counter.tick(one.size - len(documents))
        if not marks:
            raise HanlinError(f"task {task.name}: the held-out documents have no tokens.")
        return marks
    assert one.pool is not None
    if task.kind == "choice":
        return score_choices(model, task, one.items, one.pool, counter.tick)
    items = select(one.items, RANDOM_ITEMS) if lot else one.items
    return generate_answers(model, task, items, one.pool, counter.tick, RANDOM_TOKENS if lot else None)


def _figures(
    model: LanguageModel, held: Sequence[PreparedTask], marks: dict[str, dict[str, list[Mark]]]
) -> dict[str, Any]:
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
            "chat": task.corpus is None and task.contexts is None and uses_chat(task, model),
            "few_shot": task.few_shot.count if task.few_shot else 0,
            "items": len(own),
            "truncated": sum(1 for mark in own if mark.record.get("truncated")),
        }
    return figures


def _values(marks: Sequence[Mark]) -> dict[str, dict[str, float]]:
    return {mark.item: mark.values for mark in marks}


def _check_gates(gates: Sequence[Gate], held: Sequence[PreparedTask], prepared: Sequence[PreparedTask]) -> None:
    names = {one.task.name for one in held}
    for gate in gates:
        if gate.task in names:
            continue
        note = next((one.note for one in prepared if one.task.name == gate.task), "it is not among the exam's tasks.")
        raise HanlinError(f"gate on {gate.task}: {note} Remove the gate from the recipe's `exam:`, or mend that.")


class _Counter:
    """Items done, over all models and tasks."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self.note = ""

    def tick(self, count: int) -> None:
        self._done += count
        self._progress.update(self._done, self._total, self.note)
