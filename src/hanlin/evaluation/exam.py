"""The stage `exam`: a model's exam as an artifact, with every item's record."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hanlin.artifacts import POLICY_KINDS, HanlinError, Settings, Stage, StageContext, digest, hash_file
from hanlin.evaluation.gates import Gate
from hanlin.evaluation.tasks import PlannedTask, Task, plan_task


class ExamSettings(Settings):
    """What a model is asked, and what must come of it."""

    model: str
    """The stage whose model is examined."""
    tasks: list[str] = Field(min_length=1)
    """Names of tasks of the library, or paths of task files; NAME=PATH gives a task its file of items."""
    before: str | None = None
    """The stage (or model directory) that the model came from: it sits the same exam, and gates compare the two. None:
    gates compare with random weights of the same shape."""
    world: str | None = None
    """The world whose exams the `world/*` tasks take."""
    corpus: str | None = None
    """The corpus whose held-out text the `corpus/*` tasks take."""
    feedback: str | None = None
    """The exported feedback whose held-out pairs the `feedback/*` tasks take."""
    gates: list[Gate] = Field(default_factory=lambda: list[Gate]())
    """What must hold for the run to go on."""
    random_row: bool = True
    """Put the exam to random weights of the same shape as well."""
    max_items: int | None = Field(default=None, ge=1)
    """At most this many items a task; none: what each task says."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format in which the models are examined."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models compute: the GPU where there is one, or as given."""

    @model_validator(mode="after")
    def _check(self) -> ExamSettings:
        """Everything that can be wrong with an exam is said before anything is trained, not after."""
        try:
            planned = [(spec, plan_task(spec)) for spec in self.tasks]
        except HanlinError as error:
            raise ValueError(str(error).rstrip(".")) from None
        names: dict[str, Task] = {}
        for spec, one in planned:
            task = one.task
            if task.name in names:
                raise ValueError(f"the task {task.name} stands twice")
            names[task.name] = task
            source = one.source
            if source and getattr(self, source) is None:
                article = "" if source == "feedback" else "a "
                raise ValueError(
                    f"the task {spec} needs {article}{source}: add a stage of kind {source}, or `{source}:`"
                )
        for gate in self.gates:
            if gate.task not in names:
                raise ValueError(f"a gate names the task {gate.task!r}, which is not among {', '.join(names)}")
            known = names[gate.task].metrics
            if gate.metric and gate.metric not in known:
                raise ValueError(
                    f"a gate on {gate.task} names the metric {gate.metric!r}; its metrics: {', '.join(known)}"
                )
        return self


def fingerprint(settings: ExamSettings) -> dict[str, Any]:
    """What the exam depends on outside its settings: each task as it is described, and the files of its items."""
    return {spec: _describe(plan_task(spec)) for spec in settings.tasks}


def _describe(planned: PlannedTask) -> dict[str, Any]:
    from hanlin.evaluation.runner import data_file

    found: dict[str, Any] = {"task": digest(planned.task.model_dump(mode="json"))}
    if planned.data is None:
        return found
    if planned.task.corpus is not None:
        return {**found, "data": hash_file(planned.data / "manifest.json")}
    path = data_file(planned, None)
    found["data"] = hash_file(path)
    shots = planned.task.few_shot
    if shots is not None and shots.file is not None and (path.parent / shots.file).is_file():
        found["few_shot"] = hash_file(path.parent / shots.file)
    return found


def resolve(settings: ExamSettings, context: StageContext) -> ExamSettings:
    """With the device that `auto` means on this machine."""
    from hanlin.models.device import choose_device

    return settings.model_copy(update={"device": choose_device(settings.device).type})


def run(settings: ExamSettings, context: StageContext) -> dict[str, Any]:
    """Hold the exam and write its records; a gate that fails is in the figures as `passed: false`, for the run to stop
    at."""
    from hanlin.evaluation.runner import run_exam
    from hanlin.inference import load

    inputs = context.inputs
    before = inputs.get("before")
    figures = run_exam(
        load(inputs["model"].path, settings.dtype, device=settings.device),
        settings.tasks,
        world=inputs["world"].path if "world" in inputs else None,
        corpus=inputs["corpus"].path if "corpus" in inputs else None,
        feedback=inputs["feedback"].path if "feedback" in inputs else None,
        before=load(before.path, settings.dtype, device=settings.device) if before is not None else None,
        before_name=settings.before or "",
        taught=inputs["model"].manifest.kind != "pretrain",
        before_taught=before is not None and before.manifest.kind != "pretrain",
        gates=settings.gates,
        random_row=settings.random_row,
        limit=settings.max_items,
        seed=context.seed,
        records=context.workdir,
        progress=context.progress,
    )
    for verdict in figures["gates"]:
        context.progress.say(verdict["text"])
    return figures


EXAM_STAGE = Stage(
    kind="exam",
    settings=ExamSettings,
    run=run,
    inputs={
        "model": POLICY_KINDS,
        "before": POLICY_KINDS,
        "world": ("world",),
        "corpus": ("corpus",),
        "feedback": ("feedback",),
    },
    fingerprint=fingerprint,
    resolve=resolve,
)
