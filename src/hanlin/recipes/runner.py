"""Runs a recipe: each stage once, in order, into `OUT/<stage>`, skipping what is done and continuing what was cut off.

The run directory:
    recipe.yaml            the recipe resolved to the last number: running this file is the same run
    request.json           what was asked for, and every value that was measured on the way (speeds, `auto` choices)
    <stage>/               finished artifacts, each with its manifest.json
    .building/             artifacts under construction; a run that is started again goes on there
    .superseded/           artifacts of earlier settings, moved back when those settings return
    report.html            the report
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hanlin import __version__
from hanlin.artifacts import (
    Artifact,
    HanlinError,
    Manifest,
    Progress,
    Silent,
    StageContext,
    UsageError,
    artifact_id,
    digest,
    run_lock,
)
from hanlin.artifacts.files import write_json, write_text
from hanlin.artifacts.store import InputEntry, content_hash, external, finish, list_files, remove
from hanlin.recipes.provenance import code_version, environment
from hanlin.recipes.recipe import Recipe, Step, steps

RECIPE = "recipe.yaml"
REQUEST = "request.json"
EXAM_SHARE = 0.05
"""Part of a recipe's `minutes` that is kept free for each exam."""
TRAINING_SHARES = {
    "pretrain": 1.0,
    "sft": 0.25,
    "reward": 0.1,
    "preference": 0.15,
    "rrhf": 0.15,
    "ppo": 0.3,
    "grpo": 0.3,
    "rloo": 0.3,
}
"""How training stages divide the time that is left among them."""
LEAST_SHARE = 0.5
"""What a later training stage has at least of its plain share, though earlier ones were late, or were planned when
there was less for it to read."""


@dataclass
class Run:
    """What a finished run hands back."""

    directory: Path
    artifacts: dict[str, Artifact]
    seconds: float
    failed_gates: list[dict[str, Any]] = field(default_factory=list)


class Reporter:
    """Told what the runner does; the command line draws it. The base class keeps silent."""

    def plan(self, names: list[str]) -> None:
        """The stages that will run or be found done, in order."""

    def begin(self, name: str, kind: str, resumed: bool) -> Progress:
        """A stage begins; returns what it reports its progress to."""
        return Silent()

    def end(self, name: str, artifact: Artifact, reused: bool) -> None:
        """A stage is finished, or was found finished."""


@dataclass
class _Ledger:
    """`request.json`: what was decided by measuring, and the seconds that this took.

    A decision is kept under the hash of all that it depends on, so that other settings elsewhere in the recipe, or a
    change and its way back, leave it as it was. How much later stages will read is left out of it: a model is not to
    be trained anew because there are more instructions for it.
    """

    path: Path
    decisions: dict[str, Any]
    seconds: dict[str, float]

    @staticmethod
    def open(directory: Path) -> _Ledger:
        path = directory / REQUEST
        if not path.is_file():
            return _Ledger(path, {}, {})
        stored = json.loads(path.read_text(encoding="utf-8"))
        return _Ledger(path, stored["decisions"], stored["seconds"])

    def settle(self, name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Replace settings that were decided for a stage by those that its work then settled on."""
        for decision in self.decisions.values():
            if (decision["stage"], decision["settings"]) == (name, before):
                decision["settings"] = after
        self.save()

    def save(self) -> None:
        write_json(self.path, {"decisions": self.decisions, "seconds": self.seconds})


def run_recipe(recipe: Recipe, directory: Path, reporter: Reporter | None = None) -> Run:
    """Run `recipe` in `directory`. Raises HanlinError for a stage that fails with an explanation.

    A failed gate stops the run after its exam's results are saved: the Run then lists it in `failed_gates`.
    """
    reporter = reporter or Reporter()
    ordered = steps(recipe)
    _check_outside(ordered)
    with run_lock(directory):
        plan = _Plan(recipe, ordered, directory, reporter, _Ledger.open(directory))
        reporter.plan([step.name for step in ordered])
        write_recipe(recipe, ordered, directory / RECIPE)
        failed: list[dict[str, Any]] = []
        for place, step in enumerate(ordered):
            try:
                ordered[place] = _resolve(step, plan)
                write_recipe(recipe, ordered, directory / RECIPE)
                artifact = plan.made[step.name] = _make(ordered[place], plan)
            except HanlinError as error:
                error.args = (f"{step.name}: {error}",)
                raise
            ordered[place] = _settle(ordered[place], artifact, plan)
            write_recipe(recipe, ordered, directory / RECIPE)
            remove(plan.scratch(step))
            failed = [gate for gate in artifact.figures.get("gates", []) if not gate.get("passed", True)]
            if failed:
                break
        return Run(directory, plan.made, sum(artifact.manifest.seconds for artifact in plan.made.values()), failed)


def write_recipe(recipe: Recipe, ordered: list[Step], path: Path) -> None:
    """Write the recipe with every setting that it has, defaults and measured values included."""
    stages: dict[str, Any] = {}
    exam: dict[str, Any] = {}
    for step in ordered:
        settings = step.settings.model_dump(mode="json")
        for key in step.stage.paths:
            settings[key] = _absolute(settings[key])
        for key, outside in step.outside.items():
            settings[key] = str(outside.resolve())
        seed = {"seed": step.seed} if step.seed != recipe.seed else {}
        if step.name not in recipe.stages:
            exam[step.name.removesuffix("-exam")] = seed | {key: settings[key] for key in settings if key != "model"}
        else:
            stages[step.name] = {"kind": step.stage.kind, **seed, **settings}
    data = {**recipe.as_dict(), "stages": stages, "exam": exam}
    head = f"# Resolved by hanlin {__version__}: every value of this run. `hanlin run` on this file is the same run.\n"
    write_text(path, head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))


def identify(step: Step, inputs: dict[str, Artifact], fingerprint: Any) -> str:
    """The id of the artifact that `step` makes from `inputs` and the user's files, whose hashes are in `fingerprint`.
    Names and places of files do not count, contents do."""
    settings = step.settings.model_dump(mode="json", exclude={*step.stage.inputs, *step.stage.paths})
    contents = {key: artifact.manifest.content for key, artifact in inputs.items()}
    return artifact_id(step.stage.kind, step.stage.version, settings, step.seed, contents, fingerprint)


def _check_outside(ordered: list[Step]) -> None:
    """Raise UsageError for files and devices that are not there, and for files of the wrong kind, before anything is
    made: the last stage's as well."""
    for step in ordered:
        device = getattr(getattr(step.settings, "loop", step.settings), "device", "auto")
        if device != "auto":
            from hanlin.models.device import choose_device  # imports torch, for which `hanlin results` should not wait

            choose_device(device)
        for key in step.stage.paths:
            given = getattr(step.settings, key)
            for path in [given] if isinstance(given, str) else given or []:
                if not Path(path).expanduser().exists():
                    raise UsageError(f"{step.name}.{key}: there is no file or folder {path}.")
        for key, look in step.stage.looks.items():
            if getattr(step.settings, key):
                try:
                    look(step.settings)
                except HanlinError as error:
                    raise UsageError(f"{step.name}.{key}: {error}") from None


@dataclass
class _Plan:
    """The run as it goes: what its functions need to know of it besides the step at hand."""

    recipe: Recipe
    ordered: list[Step]
    directory: Path
    reporter: Reporter
    ledger: _Ledger
    made: dict[str, Artifact] = field(default_factory=dict[str, Artifact])
    fingerprints: dict[str, Any] = field(default_factory=dict[str, Any])

    def fingerprint(self, step: Step) -> Any:
        """What the step's files held before any of them was read: a file that is changed while the stage reads it then
        has another hash than the artifact, and is read anew by the next run."""
        if step.name not in self.fingerprints:
            self.fingerprints[step.name] = step.stage.fingerprint(step.settings) if step.stage.fingerprint else None
        return self.fingerprints[step.name]

    def inputs(self, step: Step) -> dict[str, Artifact]:
        """The artifacts that a step takes: of this run, and from outside."""
        found = {key: self.made[name] for key, name in step.inputs.items()}
        for key, path in step.outside.items():
            found[key] = Artifact.load(path) if (path / "manifest.json").is_file() else external(path)
        return found

    def scratch(self, step: Step) -> Path:
        """Where a step's settings are resolved. What is prepared there is where the work on its artifact begins."""
        return self.directory / ".building" / f"{step.name}.scratch"

    def training_to_come(self, step: Step) -> dict[str, float]:
        """This stage and the later ones that train, with the weights by which they share the time."""
        coming = self.ordered[self._place(step) :]
        return {other.name: TRAINING_SHARES.get(other.stage.kind, 1.0) for other in coming if other.stage.trains}

    def seconds_left(self, step: Step) -> float | None:
        """This stage's part of what remains of the recipe's `minutes`: of all training to come, by weight, less exams.
        None for a recipe that gives no time, and for a stage that does not train."""
        if self.recipe.minutes is None or not step.stage.trains:
            return None
        place, whole = self._place(step), self.recipe.minutes * 60
        spent = sum(
            self.made[other.name].manifest.seconds + self.ledger.seconds.get(_measuring(other.name), 0.0)
            for other in self.ordered[:place]
        )
        exams = sum(other.stage.kind == "exam" for other in self.ordered[place:]) * EXAM_SHARE * whole
        to_come, all_training = self.training_to_come(step), self.training_to_come(self.ordered[0])
        left = (whole - spent - exams) * to_come[step.name] / sum(to_come.values())
        if len(to_come) == len(all_training):
            return left
        return max(left, LEAST_SHARE * whole * all_training[step.name] / sum(all_training.values()))

    def bytes_to_come(self, step: Step) -> float | None:
        """The most text that the stages which train after this one will read; None where it is not known."""
        total = 0.0
        for other in self.ordered[self._place(step) + 1 :]:
            if not other.stage.trains:
                continue
            made = {key: self.made[name] for key, name in other.inputs.items() if name in self.made}
            size = other.stage.reads(other.settings, made) if other.stage.reads else None
            if size is None:
                return None
            total += size
        return total

    def _place(self, step: Step) -> int:
        return next(place for place, other in enumerate(self.ordered) if other.name == step.name)


def _measuring(name: str) -> str:
    return f"{name} (measuring)"


def _resolve(step: Step, plan: _Plan) -> Step:
    """Replace the step's `auto` values, once for what they depend on; later runs of the same take the same ones."""
    scratch = plan.scratch(step)
    remove(scratch)
    if step.stage.resolve is None:
        return step
    inputs, left = plan.inputs(step), plan.seconds_left(step)
    depends = {
        "settings": step.settings.model_dump(mode="json"),
        # A value that is given, though it is the default, is not for the dial to change.
        "given": step.settings.model_dump(mode="json", exclude_unset=True),
        "seed": step.seed,
        "inputs": {key: artifact.manifest.content for key, artifact in inputs.items()},
        "fingerprint": plan.fingerprint(step),
        "time": None if left is None else [plan.recipe.minutes, plan.training_to_come(step)],
    }
    key, ledger = digest(depends), plan.ledger
    if key in ledger.decisions:
        stored = json.dumps(ledger.decisions[key]["settings"])
        return replace(step, settings=step.stage.settings.model_validate_json(stored))
    scratch.mkdir(parents=True)
    started = time.perf_counter()
    progress = plan.reporter.begin(step.name, step.stage.kind, resumed=False)
    context = StageContext(scratch, inputs, step.seed, progress)
    if left is not None:
        weights = plan.training_to_come(step)
        context.seconds_left, context.later_bytes = left, plan.bytes_to_come(step)
        context.later_seconds = left * (sum(weights.values()) / weights[step.name] - 1)
    settings = step.stage.resolve(step.settings, context)
    ledger.decisions[key] = {"stage": step.name, "settings": settings.model_dump(mode="json")}
    ledger.seconds[_measuring(step.name)] = time.perf_counter() - started
    ledger.save()
    return replace(step, settings=settings)


def _settle(step: Step, artifact: Artifact, plan: _Plan) -> Step:
    """The step with the settings on which its work settled; from now on they are the ones that were decided."""
    if artifact.manifest.begun_as is None or step.stage.settle is None:
        return step
    settled = step.stage.settle(step.settings, artifact.figures)
    plan.ledger.settle(step.name, step.settings.model_dump(mode="json"), settled.model_dump(mode="json"))
    return replace(step, settings=settled)


def _make(step: Step, plan: _Plan) -> Artifact:
    """The step's artifact: as it stands, as an earlier run with these settings left it, or made."""
    inputs, directory, reporter = plan.inputs(step), plan.directory, plan.reporter
    identity = identify(step, inputs, plan.fingerprint(step))
    final = directory / step.name
    old = directory / ".superseded"
    _clear_unfinished(directory, step.name, identity)
    found = _load_if_whole(final)
    # Killed between the artifact's end and the ledger's note of what it settled on, it is known by how it began.
    if found and identity in (found.id, found.manifest.begun_as):
        for name in step.stage.transient:
            remove(final / name)
        reporter.end(step.name, found, reused=True)
        return found
    if final.exists():
        kept = old / f"{step.name}-{found.id[:12] if found else 'damaged'}"
        remove(kept)
        old.mkdir(parents=True, exist_ok=True)
        final.rename(kept)
    before = old / f"{step.name}-{identity[:12]}"
    returned = _load_if_whole(before)
    if returned and returned.id == identity:
        before.rename(final)
        reporter.end(step.name, Artifact.load(final), reused=True)
        return Artifact.load(final)
    return _build(step, inputs, identity, plan)


def _build(step: Step, inputs: dict[str, Artifact], identity: str, plan: _Plan) -> Artifact:
    final = plan.directory / step.name
    workdir = plan.directory / ".building" / f"{step.name}-{identity[:12]}"
    resumed, scratch = workdir.exists(), plan.scratch(step)
    if scratch.is_dir() and not resumed:
        scratch.rename(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    progress = plan.reporter.begin(step.name, step.stage.kind, resumed)
    clock = _Clock(workdir.with_suffix(".seconds"))
    # Temporary files of writes that a kill cut short: the folder becomes the artifact as it is.
    for part in list(workdir.rglob(".*.part")):
        remove(part)
    try:
        figures = step.stage.run(step.settings, StageContext(workdir, inputs, step.seed, progress))
    finally:
        seconds = clock.stop()
    files = list_files(workdir, skip=step.stage.transient)
    settled = step
    if step.stage.settle is not None:
        settled = replace(step, settings=step.stage.settle(step.settings, figures))
    settled_identity = identify(settled, inputs, plan.fingerprint(step))
    manifest = Manifest(
        id=settled_identity,
        content=content_hash({name: entry for name, entry in files.items() if name not in step.stage.journal}),
        stage=step.name,
        kind=step.stage.kind,
        version=step.stage.version,
        settings=settled.settings.model_dump(mode="json"),
        seed=step.seed,
        inputs={
            key: InputEntry(
                id=artifact.id,
                content=artifact.manifest.content,
                path=os.path.relpath(artifact.path.resolve(), final.resolve()),
            )
            for key, artifact in inputs.items()
        },
        fingerprint=plan.fingerprint(step),
        code=code_version(),
        environment=environment(),
        figures=figures,
        started=started,
        seconds=seconds,
        begun_as=None if settled_identity == identity else identity,
        files=files,
    )
    artifact = finish(workdir, final, manifest)
    for name in step.stage.transient:
        remove(final / name)
    clock.path.unlink(missing_ok=True)
    plan.reporter.end(step.name, artifact, reused=False)
    return artifact


class _Clock:
    """Seconds that a stage took over all its attempts: kept beside the working folder when one fails or is stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier = float(path.read_text()) if path.is_file() else 0.0
        self.started = time.perf_counter()

    def stop(self) -> float:
        total = self.earlier + time.perf_counter() - self.started
        write_text(self.path, f"{total}")
        return total


def _clear_unfinished(directory: Path, name: str, identity: str) -> None:
    """Drop half-built work of the same stage under other settings: it can never be continued by this run."""
    building = directory / ".building"
    for path in building.glob(f"{name}-????????????") if building.is_dir() else ():
        if path.name != f"{name}-{identity[:12]}":
            remove(path)
            path.with_suffix(".seconds").unlink(missing_ok=True)


def _load_if_whole(path: Path) -> Artifact | None:
    """The artifact in `path`, when its manifest reads and every file is there with its size."""
    try:
        artifact = Artifact.load(path)
    except HanlinError:
        return None
    for name, entry in artifact.manifest.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry.bytes:
            return None
    return artifact


def _absolute(value: Any) -> Any:
    if isinstance(value, str):
        return str(Path(value).expanduser().resolve())
    return [_absolute(item) for item in value] if isinstance(value, list) else value
