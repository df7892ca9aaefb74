"""Where the model of a path is: a model's directory, or the one to serve of a run."""

from __future__ import annotations

from pathlib import Path

from hanlin.artifacts import POLICY_KINDS, Artifact, HanlinError, UsageError
from hanlin.artifacts.store import MANIFEST
from hanlin.artifacts.written import read_mapping

RECIPE = "recipe.yaml"


def model_directory(path: Path) -> Path:
    """`path` itself where it holds a model; of a run, its last chat model that did not fail its exam.

    Raises UsageError for what is neither, and HanlinError for a run that has no such model, naming what it has.
    """
    if (path / "config.json").is_file():
        return path
    if not (path / RECIPE).is_file():
        what = "holds neither a model (config.json) nor a run (recipe.yaml)" if path.is_dir() else "is not a directory"
        raise UsageError(f"{path} {what}: give a model's directory or a run's")
    written = read_mapping((path / RECIPE).read_text(encoding="utf-8"), str(path / RECIPE), "a recipe is a mapping")
    refused: list[str] = []
    for stage in reversed(list(written.data.get("stages") or {})):
        if not (path / stage / MANIFEST).is_file():
            continue
        manifest = Artifact.load(path / stage).manifest
        if manifest.kind not in POLICY_KINDS:
            continue
        if manifest.kind == "pretrain" or not (path / stage / "chat_template.jinja").is_file():
            refused.append(f"{stage} cannot chat")
        elif _failed(path / f"{stage}-exam"):
            refused.append(f"{stage} failed its exam")
        else:
            return path / stage
    why = f" ({'; '.join(refused)})" if refused else ""
    raise HanlinError(
        f"the run {path} has no chat model that may be served{why}: finish it with `hanlin run`, or name the directory "
        "of a stage to serve that one all the same"
    )


def _failed(exam: Path) -> bool:
    if not (exam / MANIFEST).is_file():
        return False
    return any(not gate.get("passed", True) for gate in Artifact.load(exam).figures.get("gates", []))
