"""From a training step back to the documents, and the bytes of the files, that were in its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.artifacts import Artifact, HanlinError
from hanlin.recipes.results import open_run


def trace_step(run: Path, step: int, stage: str | None = None) -> dict[str, Any]:
    """The batch of training step `step` (from 0) of a run's training stage (the first one when not named).

    Returns {"stage", "step", "documents": [{"row", "document", "source", "file", "offset", "bytes", "first_token",
    "last_token", "positions"}]}. Raises HanlinError for a step that the run does not have.
    """
    if (run / "recipe.yaml").is_file():
        artifacts = open_run(run)
        trained = {name: found for name, found in artifacts.items() if "steps" in found.figures}
        if stage is not None and stage not in trained:
            raise HanlinError(
                f"{run} has no finished training stage {stage!r}. It has: {', '.join(trained) or 'none'}."
            )
        if not trained:
            raise HanlinError(f"{run} has no finished training stage yet.")
        artifact = trained[stage] if stage else next(iter(trained.values()))
    else:
        artifact = Artifact.load(run)
    steps = artifact.figures.get("steps")
    if steps is None:
        raise HanlinError(f"{artifact.path} is no training stage: it has no steps to trace.")
    if step >= steps:
        raise HanlinError(f"{artifact.path} has the steps 0 to {steps - 1}; there is no step {step}.")
    from hanlin.training.trace import trace_artifact

    return {"stage": artifact.manifest.stage, "step": step, "documents": trace_artifact(artifact, step)}
