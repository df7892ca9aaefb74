"""Artifacts: directories with a manifest that says what they are, what they came from, and what they hold."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hanlin.artifacts.errors import HanlinError
from hanlin.artifacts.files import digest, hash_file, sync_directory, write_text

MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str


class InputEntry(BaseModel):
    """One input of an artifact: which artifact it was, and where it lay (relative to this artifact's folder)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    content: str
    path: str


class Manifest(BaseModel):
    """`manifest.json`: an artifact's identity, lineage and figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    """SHA-256 of (kind, version, settings, seed, the inputs' contents, the fingerprint of outside files)."""
    content: str
    """SHA-256 over the names and hashes of all files but the journal: equal content is the same thing made again."""
    stage: str
    kind: str
    version: int
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, InputEntry]
    fingerprint: Any = None
    code: dict[str, str]
    environment: dict[str, Any]
    figures: dict[str, Any]
    started: str
    seconds: float
    begun_as: str | None = None
    """The id under which the work began, when it settled one of its own settings on the way (`Stage.settle`)."""
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A finished, immutable directory."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def figures(self) -> dict[str, Any]:
        return self.manifest.figures

    @staticmethod
    def load(path: Path) -> Artifact:
        """Open the artifact in `path`. Raises HanlinError when there is none, or its manifest can't be read."""
        file = path / MANIFEST
        if not file.is_file():
            raise HanlinError(f"{path} is not a finished artifact: it has no {MANIFEST}.")
        try:
            return Artifact(path, Manifest.model_validate_json(file.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise HanlinError(
                f"{file} can't be read ({error.error_count()} problems): {error.errors()[0]['msg']}."
            ) from None

    def check(self) -> list[str]:
        """Names of files that are missing or whose bytes differ from the manifest (every file is hashed)."""
        bad: list[str] = []
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != entry.bytes or hash_file(file) != entry.sha256:
                bad.append(name)
        return bad


def artifact_id(
    kind: str, version: int, settings: dict[str, Any], seed: int, inputs: dict[str, str], fingerprint: Any
) -> str:
    """The id that an artifact will have, known before it is built (or, where a stage settles a setting on the way, the
    id under which it begins). `inputs` maps names to content hashes."""
    return digest(
        {
            "kind": kind,
            "version": version,
            "settings": settings,
            "seed": seed,
            "inputs": inputs,
            "fingerprint": fingerprint,
        }
    )


def list_files(directory: Path, skip: tuple[str, ...] = ()) -> dict[str, FileEntry]:
    """Every file under `directory` by its POSIX path, hashed; but the manifest, and the top folders named in `skip`."""
    found: dict[str, FileEntry] = {}
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory)
        if file.is_file() and name.as_posix() != MANIFEST and name.parts[0] not in skip:
            found[name.as_posix()] = FileEntry(bytes=file.stat().st_size, sha256=hash_file(file))
    return found


def content_hash(files: dict[str, FileEntry]) -> str:
    """SHA-256 over names and hashes."""
    return digest({name: entry.sha256 for name, entry in files.items()})


def finish(workdir: Path, final: Path, manifest: Manifest) -> Artifact:
    """Write the manifest into `workdir` and rename the whole folder to `final`, which must not exist."""
    write_text(workdir / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    final.parent.mkdir(parents=True, exist_ok=True)
    workdir.rename(final)
    sync_directory(final.parent)
    return Artifact(final, manifest)


def remove(path: Path) -> None:
    """Remove a folder or file if it is there; a folder in two steps: half of it never looks like an artifact."""
    if path.is_dir():
        doomed = path.with_name(f".{path.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def external(path: Path) -> Artifact:
    """A folder that hanlin did not make (open weights, say) as an input: identified by the hashes of its files.

    Raises HanlinError when `path` is not a folder.
    """
    if not path.is_dir():
        raise HanlinError(f"{path} is not a folder: name a stage of the recipe, an artifact, or a model's directory.")
    files = list_files(path, skip=(".git", ".cache"))
    content = content_hash(files)
    return Artifact(
        path,
        Manifest(
            id=content,
            content=content,
            stage=path.name,
            kind="external",
            version=1,
            settings={},
            seed=0,
            inputs={},
            code={},
            environment={},
            figures={},
            started="",
            seconds=0.0,
            files=files,
        ),
    )


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All objects of a small JSON-lines file that hanlin wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
