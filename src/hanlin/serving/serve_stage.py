"""The stage `serve`: a model that passed its exam becomes the next version of what a running service serves.

The weights are laid beside the model as `version-2`, `version-3`, …, where they stay whatever the run makes later: a
service reads them from there again when it is rolled back. What is done to the service is safe to do twice: a version
whose weights it has in memory is not loaded again.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from hanlin.artifacts import (
    POLICY_KINDS,
    Artifact,
    HanlinError,
    Settings,
    Stage,
    StageContext,
    UsageError,
    write_json,
)
from hanlin.artifacts.store import remove

if TYPE_CHECKING:
    import httpx

SERVED = "served.json"
KEY = "HANLIN_API_KEY"
"""Of the environment: an administrator's key. It is written nowhere."""
_SECONDS = 600.0
"""For a service to load a model"""
_FOLDER = "version-"


class ServeStageSettings(Settings):
    """A model that passed its exam, as the next version of what a service serves."""

    model: str
    """The stage whose model is to be served."""
    exam: str
    """Its exam (`<model>-exam`), which must have a gate, and none that failed."""
    service: str | None = None
    """Address of the running service, on this machine, as http://127.0.0.1:8000; an administrator's key is taken from
    HANLIN_API_KEY. Left out: nothing is switched, and the command that serves the version is told."""
    name: str | None = None
    """What the service calls the model; left out: the one name that it serves."""
    canary: float = Field(default=0.0, ge=0, lt=1)
    """Let the version answer this share of those who ask for the name, and leave it at that; 0: all of them. Run again
    with 0 when the trial went well."""
    keep: bool = False
    """Leave the version before in memory: going back then needs no loading."""

    # Of a check of all settings together the error does not repeat what was given.
    @model_validator(mode="after")
    def _is_address(self) -> Self:
        url = urlsplit(self.service or "http://none")
        if "@" in url.netloc:
            raise ValueError(f"service holds a name or a key, which every artifact would keep: set {KEY}")
        if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
            raise ValueError("service should be an address such as http://127.0.0.1:8000")
        return self


@dataclass(frozen=True)
class _Version:
    """A version as it is laid down."""

    number: int
    directory: Path


def look_for_service(settings: ServeStageSettings) -> None:
    """Raise HanlinError for a service that does not answer, refuses the key, or does not serve the name."""
    with _connected(settings) as client:
        _entry(client, settings.name)


def run_serve(settings: ServeStageSettings, context: StageContext) -> dict[str, Any]:
    """Lay the version down and let the service load, warm and switch to it. Raises HanlinError; the service then
    serves what it served before."""
    model, exam = context.inputs["model"], context.inputs["exam"]
    _check_exam(model, exam)
    if settings.service is None:
        served = _told(settings, context, model)
    else:
        served = _switched(settings, context, model, exam)
    write_json(context.workdir / SERVED, served)
    return served


def _check_exam(model: Artifact, exam: Artifact) -> None:
    gates = exam.figures.get("gates", [])
    if exam.manifest.inputs["model"].content != model.manifest.content:
        raise HanlinError(f"{exam.manifest.stage} is not the exam of {model.manifest.stage}: name that in `exam`.")
    if not gates:
        raise HanlinError(
            f"the exam of {model.manifest.stage} has no gate, so nothing says that it may be served. Add one to the "
            "recipe's `exam:`."
        )
    failed = [gate["text"] for gate in gates if not gate["passed"]]
    if failed:
        raise HanlinError(f"{model.manifest.stage} failed its exam and is not served: {failed[0]}")


def _told(settings: ServeStageSettings, context: StageContext, model: Artifact) -> dict[str, Any]:
    from hanlin.serving.models import weights_hash

    weights = weights_hash(model.path)
    version = _lay_down(model.path, weights, taken=set())
    name = settings.name or "model"
    command = shlex.join(["hanlin", "serve", f"{name}@{version.number}={version.directory}"])
    context.progress.say(f"no service is named (serve.service): serve the new version with\n{command}")
    return {
        "name": name,
        "version": str(version.number),
        "directory": str(version.directory),
        "weights": weights,
        "switched": False,
        "command": command,
    }


def _switched(settings: ServeStageSettings, context: StageContext, model: Artifact, exam: Artifact) -> dict[str, Any]:
    from hanlin.serving.models import weights_hash

    weights, say = weights_hash(model.path), context.progress.say
    with _connected(settings) as client:
        entry = _entry(client, settings.name)
        name, before = entry["name"], _of_label(entry, entry["current"])
        _say_if_not_compared(entry, exam, context)
        known = next((one for one in entry["versions"] if one["weights"] == weights), None)
        if known is None:
            taken = {one["version"] for one in entry["versions"]}
            version = _lay_down(model.path, weights, taken)
            label, directory = str(version.number), str(version.directory)
        else:
            label, directory = known["version"], known["path"]
        target = {"name": name, "version": label}
        if known is None or known["state"] == "unloaded":
            say(f"{name}@{label} is loaded from {directory}")
            _ask(client, "", {**target, "path": directory})
        try:
            _ask(client, "/warm", target)
        except HanlinError:
            if label != before["version"]:
                _ask(client, "/unload", target)
            raise
        trial = settings.canary > 0 and label != before["version"]
        if trial:
            _ask(client, "/canary", {**target, "share": settings.canary})
        else:
            _ask(client, "/switch", {**target, "keep": settings.keep})
    back = _command(settings, "canary" if trial else "rollback", {"name": name, **({"version": None} if trial else {})})
    if label == before["version"]:
        say(f"{name} was {name}@{label} already")
    elif trial:
        say(f"{name}@{label} answers {settings.canary:g} of those who ask for {name}; end the trial with\n{back}")
    else:
        say(f"{name} is {name}@{label} now, and was {name}@{before['version']}; go back with\n{back}")
    return {
        "name": name,
        "version": label,
        "directory": directory,
        "weights": weights,
        "service": settings.service,
        "switched": not trial,
        "canary": settings.canary if trial else None,
        "before": {key: before[key] for key in ("version", "path", "weights")},
        "back": back,
    }


def _lay_down(model: Path, weights: str, taken: set[str]) -> _Version:
    """The model's files under a number of their own, beside it: the next one after all that are there, or in `taken`
    (a service's labels); the same weights keep theirs. What hanlin made never changes: hard links take no room."""
    from hanlin.serving.models import weights_hash

    there: dict[int, Path] = {}
    for path in model.parent.glob(f"{_FOLDER}*"):
        number = path.name.removeprefix(_FOLDER)
        if number.isdecimal() and path.is_dir():
            there[int(number)] = path.resolve()
    for number, path in sorted(there.items()):
        if str(number) not in taken and weights_hash(path) == weights:
            return _Version(number, path)
    # 1 is the model before, where nobody has said otherwise.
    number = max([1, *there, *(int(label) for label in taken if label.isdecimal())]) + 1
    final = (model.parent / f"{_FOLDER}{number}").resolve()
    part = final.with_name(f".{final.name}.part")
    remove(part)
    shutil.copytree(model, part, copy_function=_link)
    part.rename(final)
    return _Version(number, final)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _say_if_not_compared(entry: dict[str, Any], exam: Artifact, context: StageContext) -> None:
    """The exam compares with the model that training began with. That the service serves another by now is no fault,
    but it should be known."""
    from hanlin.serving.models import weights_hash

    before, current = exam.manifest.inputs.get("before"), _of_label(entry, entry["current"])
    directory = None if before is None else (exam.path / before.path).resolve()
    if directory is None or not directory.is_dir() or weights_hash(directory) != current["weights"]:
        compared = "random weights" if directory is None else str(directory)
        context.progress.say(
            f"the exam compared it with {compared}, and {entry['name']} is served from {current['path']}, which is "
            "another model: whether it is better than that one was not examined"
        )


def _entry(client: httpx.Client, name: str | None) -> dict[str, Any]:
    """What the service says of a name. Raises UsageError when it does not serve it."""
    entries = cast(list[dict[str, Any]], _ask(client, "", None)["models"])
    names = [entry["name"] for entry in entries]
    if name is None and len(entries) == 1:
        return entries[0]
    if name not in names:
        wanted = "which of them the new version is of must be said" if name is None else f"{name!r} is none of them"
        raise UsageError(f"{client.base_url} serves {', '.join(names) or 'nothing'}, and {wanted}: serve.name=NAME.")
    return entries[names.index(name)]


def _of_label(entry: dict[str, Any], label: str) -> dict[str, Any]:
    return next(one for one in entry["versions"] if one["version"] == label)


@contextmanager
def _connected(settings: ServeStageSettings) -> Generator[httpx.Client]:
    import httpx

    key = os.environ.get(KEY)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=settings.service or "", headers=headers, timeout=_SECONDS) as client:
        yield client


def _ask(client: httpx.Client, verb: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """An answer of /admin/models; `body` None asks how things stand. Raises HanlinError with what the service says."""
    import httpx

    path = f"/admin/models{verb}"
    try:
        response = client.get(path) if body is None else client.post(path, json=body)
    except httpx.HTTPError as error:
        raise HanlinError(
            f"no service answers at {client.base_url}{path} ({error or type(error).__name__}): is it running?"
        ) from None
    try:
        found = response.json()
        if response.status_code == 200:
            return cast(dict[str, Any], found)
        said = str(found["error"]["message"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        said = "what answered is no service of hanlin's"
    hint = f" Set {KEY} to an administrator's key." if response.status_code in (401, 403) else ""
    raise HanlinError(f"{client.base_url}{path} refused ({response.status_code}): {said}.{hint}")


def _command(settings: ServeStageSettings, verb: str, body: dict[str, Any]) -> str:
    """A command of the shell that asks the service for this; of a key it has the variable's name only."""
    import json

    key = f'-H "Authorization: Bearer ${KEY}" ' if os.environ.get(KEY) else ""
    url = f"{(settings.service or '').rstrip('/')}/admin/models/{verb}"
    return f"curl {key}-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))} {shlex.quote(url)}"


SERVE_STAGE = Stage(
    kind="serve",
    settings=ServeStageSettings,
    run=run_serve,
    inputs={"model": POLICY_KINDS, "exam": ("exam",)},
    looks={"service": look_for_service},
)
