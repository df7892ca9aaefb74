"""Floor 0: artifacts, the stages that make them, and what these stand on (hashes, atomic writes, locks, errors)."""

from hanlin.artifacts.errors import HanlinError, UsageError
from hanlin.artifacts.files import atomic_path, canonical_json, digest, hash_file, write_json, write_text
from hanlin.artifacts.lock import run_lock
from hanlin.artifacts.progress import Progress, Silent
from hanlin.artifacts.stage import Settings, Stage, StageContext
from hanlin.artifacts.store import Artifact, Manifest, artifact_id, read_jsonl

__all__ = [
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
