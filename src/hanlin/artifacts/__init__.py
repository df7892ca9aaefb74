"""Floor 0: artifacts, the stages that make them, and what these stand on (hashes, atomic writes, locks, errors).

Names are imported when they are asked for: `hanlin --help` should not wait for pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanlin.artifacts.errors import HanlinError, UsageError
    from hanlin.artifacts.files import atomic_path, canonical_json, digest, hash_file, write_json, write_text
    from hanlin.artifacts.lock import run_lock
    from hanlin.artifacts.progress import Progress, Silent
    from hanlin.artifacts.stage import POLICY_KINDS, Settings, Stage, StageContext
    from hanlin.artifacts.store import Artifact, Manifest, artifact_id, read_jsonl

_HOMES = {
    "POLICY_KINDS": "stage",
    "Artifact": "store",
    "HanlinError": "errors",
    "Manifest": "store",
    "Progress": "progress",
    "Settings": "stage",
    "Silent": "progress",
    "Stage": "stage",
    "StageContext": "stage",
    "UsageError": "errors",
    "artifact_id": "store",
    "atomic_path": "files",
    "canonical_json": "files",
    "digest": "files",
    "hash_file": "files",
    "read_jsonl": "store",
    "run_lock": "lock",
    "write_json": "files",
    "write_text": "files",
}
__all__ = [
    "POLICY_KINDS",
    "Artifact",
    "HanlinError",
    "Manifest",
    "Progress",
    "Settings",
    "Silent",
    "Stage",
    "StageContext",
    "UsageError",
    "artifact_id",
    "atomic_path",
    "canonical_json",
    "digest",
    "hash_file",
    "read_jsonl",
    "run_lock",
    "write_json",
    "write_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"hanlin.artifacts.{_HOMES[name]}"), name)
