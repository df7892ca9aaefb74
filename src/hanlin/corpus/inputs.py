"""The files of an input, in sorted order, each with its name, its source, and what stands against reading it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanlin.artifacts import UsageError, hash_file
from hanlin.corpus.formats import holds_one_document, stem


@dataclass(frozen=True, slots=True)
class Root:
    """One input path. With several inputs, `label` stands before the names of its files.

    `by_file` gives every file its own source (its stem), as a world's documents have it.
    """

    path: Path
    label: str = ""
    by_file: bool = False


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that was met. `rule` (not wanted) or `reason` (not readable) is set when it is not to be opened."""

    path: Path
    name: str
    source: str
    size: int
    rule: str | None = None
    reason: str | None = None


def make_roots(paths: Sequence[str]) -> list[Root]:
    """Roots of the paths that a user named. Raises UsageError when one does not exist."""
    roots: list[Root] = []
    labels: set[str] = set()
    for text in paths:
        path = Path(text).expanduser()
        if not path.exists():
            raise UsageError(f"corpus.inputs: {text} does not exist. Name a file or a folder with text.")
        label = base = path.resolve().name or "root"
        number = 1
        while label in labels:
            number += 1
            label = f"{base}-{number}"
        labels.add(label)
        roots.append(Root(path, label if len(paths) > 1 else ""))
    return roots


def printable(name: str) -> str:
    """A file name as UTF-8 text; bytes of it that are none are written \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _source(root: Root, relative: str) -> str:
    """First folder below the root; for a file in the root itself, its stem if it holds many documents, else the root's
    name."""
    first, slash, _ = relative.partition("/")
    if slash:
        return first
    if not root.by_file and root.path.is_dir() and holds_one_document(relative):
        return printable(root.path.resolve().name) or "root"
    return stem(first)


def _folder_bytes(path: str) -> int:
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 (a name may be no valid text)
            except OSError:
                continue
    return total


def walk(roots: Sequence[Root]) -> Iterator[InputFile]:
    """Every file below the roots, sorted by name folder by folder; nothing that is met is left out.

    Hidden files are passed over by rule (a hidden folder is one entry with all its bytes); a link to a folder that
    contains it is a loop; broken links, unreadable folders and things that are not regular files (pipes, devices) are
    given with a reason, unopened.
    """
    for root in roots:
        path = root.path
        if path.is_dir():
            yield from _walk(root, os.fspath(path), "", (_identity(path.stat()),))
        else:
            yield _look(root, os.fspath(path), path.name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entry(
    root: Root, path: str, relative: str, size: int, rule: str | None = None, reason: str | None = None
) -> InputFile:
    name = printable(relative)
    full = f"{root.label}/{name}" if root.label else name
    return InputFile(Path(path), full, _source(root, name), size, rule, reason)


def _look(root: Root, path: str, relative: str) -> InputFile:
    try:
        status = os.stat(path)  # noqa: PTH116 (a name may be no valid text)
    except OSError as error:
        return _entry(root, path, relative, 0, reason=f"can't be looked at: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return _entry(root, path, relative, 0, reason="not a regular file")
    return _entry(root, path, relative, status.st_size)


def _walk(root: Root, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[InputFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield _entry(root, folder, prefix.rstrip("/") or ".", 0, reason=f"folder can't be read: {error.strerror}")
        return
    for entry in entries:
        relative = prefix + entry.name
        is_folder = entry.is_dir()
        if entry.name.startswith("."):
            if is_folder and not entry.is_symlink():
                yield _entry(root, entry.path, relative, _folder_bytes(entry.path), rule="hidden_folder")
            else:
                size = entry.stat(follow_symlinks=False).st_size
                yield _entry(root, entry.path, relative, size, rule="hidden_file")
        elif is_folder:
            identity = _identity(entry.stat())
            if identity in above:
                yield _entry(root, entry.path, relative, 0, rule="symlink_loop")
            else:
                yield from _walk(root, entry.path, relative + "/", (*above, identity))
        else:
            yield _look(root, entry.path, relative)


def fingerprint(roots: Sequence[Root]) -> list[list[str | int]]:
    """(name, size, SHA-256) of every file below the roots, sorted: what a corpus depends on of the outside world."""
    found: list[list[str | int]] = []
    for file in walk(roots):
        content = file.rule or file.reason
        if content is None:
            try:
                content = hash_file(file.path)
            except OSError as error:
                content = f"can't be opened: {error.strerror}"
        found.append([file.name, file.size, content])
    return sorted(found, key=str)
