"""What an artifact came from: the tree of its inputs, down to the user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.artifacts import Artifact, HanlinError


def lineage(path: Path, check: bool = False) -> dict[str, Any]:
    """The tree of an artifact and its inputs.

    Each node: {"stage", "kind", "id", "content", "path", "settings", "seed", "code", "figures", "seconds",
    "started", "fingerprint", "inputs": {name: node}}. An input that is no longer where it was has only its id, content
    and "missing": true. With `check`, every file is hashed, and "damaged" lists those that are not as they were made.
    Raises HanlinError when `path` is not an artifact.
    """
    artifact = Artifact.load(path)
    manifest = artifact.manifest
    node: dict[str, Any] = manifest.model_dump(mode="json", exclude={"files", "inputs"})
    node["path"] = str(path)
    node["files"] = len(manifest.files)
    node["bytes"] = sum(entry.bytes for entry in manifest.files.values())
    if check:
        node["damaged"] = artifact.check()
    node["inputs"] = {}
    for name, entry in manifest.inputs.items():
        where = path / entry.path
        try:
            found = lineage(where, check)
            changed = found["content"] != entry.content
        except HanlinError:
            found, changed = {}, True
        if changed:
            found = {"id": entry.id, "content": entry.content, "path": str(where), "missing": True, "inputs": {}}
        node["inputs"][name] = found
    return node
