"""Finding, from a model, the world and the corpus that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hanlin.artifacts import Artifact, HanlinError, UsageError


def find_inputs(model: Path) -> dict[str, Path]:
    """Paths of the artifacts in a model's lineage by their kind, nearest first; empty for a foreign model.

    The world and the corpus are also looked for among the neighbours in the run directory: a model that was fine-tuned
    from foreign weights has them beside it though not behind it.
    """
    found: dict[str, Path] = {}
    queue = [model.resolve()]
    seen: set[Path] = set()
    while queue:
        path = queue.pop(0)
        if path in seen:
            continue
        seen.add(path)
        try:
            artifact = Artifact.load(path)
        except HanlinError:
            continue
        found.setdefault(artifact.manifest.kind, path)
        queue += [(path / entry.path).resolve() for entry in artifact.manifest.inputs.values()]
    if found:
        for neighbour in sorted(model.resolve().parent.iterdir()):
            if (neighbour / "manifest.json").is_file():
                try:
                    found.setdefault(Artifact.load(neighbour).manifest.kind, neighbour)
                except HanlinError:
                    continue
    return found


def find_common(models: Sequence[Path], kinds: Iterable[str]) -> dict[str, Path]:
    """The artifact of each of these kinds (world, corpus, feedback) that `models` come from, where one of them does.

    Raises UsageError where they come from different ones: what one of them learnt would be held against the other.
    """
    common: dict[str, Path] = {}
    for kind in kinds:
        paths = [found[kind] for found in map(find_inputs, models) if kind in found]
        if len({Artifact.load(path).id for path in paths}) > 1:
            raise UsageError(
                f"the models do not come from the same {kind} ({', '.join(map(str, paths))}): say on which to compare "
                "them, as TASK=FOLDER."
            )
        if paths:
            common[kind] = paths[0]
    return common


def is_taught(model: Path) -> bool:
    """Whether a model was trained on the chat template that lies beside it: all but hanlin's pretrained ones."""
    return find_inputs(model).get("pretrain") != model.resolve()
