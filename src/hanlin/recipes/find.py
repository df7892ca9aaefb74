"""Finding, from a model, the world and the corpus that it came from."""

from __future__ import annotations

from pathlib import Path

from hanlin.artifacts import Artifact, HanlinError


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
