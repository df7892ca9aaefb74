"""The models in memory: several names, several versions of each, changed while requests run.

Everything but loading happens on the event loop's thread, so there is nothing to lock. A request holds its version
(`Version.held`) from its admission to its end; a version that is to go is closed when nobody holds it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hanlin.artifacts import HanlinError, UsageError
from hanlin.artifacts.files import digest, hash_file
from hanlin.artifacts.store import MANIFEST, Artifact
from hanlin.serving.runs import model_directory
from hanlin.serving.settings import Dtype, ModelSettings

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel

log = logging.getLogger("hanlin.serving")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")
State = Literal["loaded", "warm", "leaving", "unloaded"]
Load = Callable[[Path, ModelSettings], "LanguageModel"]
"""Reads the model in a directory into memory, with these settings (whose dtype is given)."""
"""(directory, dtype) -> a model that is ready to answer; blocks."""


@dataclass(eq=False)
class Version:
    """One set of weights."""

    name: str
    version: str
    directory: Path
    settings: ModelSettings
    """With the dtype that it has."""
    weights: str
    """SHA-256 that tells these weights from all others (`weights_hash`)."""
    created: int
    """When they were loaded first, in seconds since 1970."""
    model: LanguageModel | None
    """None when it is unloaded."""
    state: State = "loaded"
    holders: int = 0
    """Requests that use it."""
    waiting: int = 0
    """Answers that are asked of it and not finished."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def dtype(self) -> str:
        return self.settings.dtype or "float32"

    @property
    def fingerprint(self) -> str:
        """The weights' version as answers tell it."""
        return f"hl-{self.weights[:16]}"


@dataclass
class _Name:
    versions: dict[str, Version] = field(default_factory=dict[str, Version])
    current: str = ""
    previous: str | None = None
    canary: tuple[str, float] | None = None


class NoSuchModel(HanlinError):
    """No model, or no version of it, has this name."""


class Models:
    """What is served under which name."""

    def __init__(self, load: Load, dtype: Dtype = "float32") -> None:
        self._load = load
        self._dtype: Dtype = dtype
        self._names: dict[str, _Name] = {}
        self._changing = asyncio.Lock()
        """One load at a time: two would need the memory of both at once."""

    # ------------------------------------------------------------------ for requests

    def choose(self, model: str, sticky: Callable[[], str]) -> Version:
        """The version that answers to `name` or `name@version`, each perhaps with `+adapter`.

        With a canary, `sticky()` (who asks, or what) decides, always alike, whether the plain name means it. Raises
        NoSuchModel.
        """
        plain, _, adapter = model.partition("+")
        name, _, wanted = plain.partition("@")
        entry = self._names.get(name)
        if entry is None:
            raise NoSuchModel(f"The model {model!r} does not exist: served are {', '.join(self.ids()) or 'none'}.")
        if not wanted:
            wanted = entry.current
            if entry.canary is not None and _share(name, sticky()) < entry.canary[1]:
                wanted = entry.canary[0]
        version = entry.versions.get(wanted)
        if version is None or version.model is None or version.state == "leaving":
            ready = [one.version for one in entry.versions.values() if one.state in ("loaded", "warm")]
            raise NoSuchModel(f"The model {name} has no version {wanted!r} in memory; it has {', '.join(ready)}.")
        if adapter and adapter not in version.settings.adapters:
            known = ", ".join(version.settings.adapters) or "none"
            raise NoSuchModel(f"The model {version.id} has no adapter {adapter!r}; it has {known}.")
        return version

    @contextlib.contextmanager
    def held(self, version: Version) -> Generator[LanguageModel]:
        """Keeps a version in memory while a request uses it."""
        assert version.model is not None
        version.holders += 1
        try:
            yield version.model
        finally:
            version.holders -= 1
            self._close_if_left(version)

    def ids(self) -> list[str]:
        """The names, and every version that can be asked for."""
        found: list[str] = []
        for name, entry in self._names.items():
            found.append(name)
            found += [one.id for one in entry.versions.values() if one.state in ("loaded", "warm")]
            found += [f"{name}+{adapter}" for adapter in entry.versions[entry.current].settings.adapters]
        return found

    def in_memory(self) -> list[Version]:
        return [one for entry in self._names.values() for one in entry.versions.values() if one.model is not None]

    def exactly(self, name: str) -> Version:
        """What one of `ids` means, canaries aside."""
        plain, _, version = name.partition("+")[0].partition("@")
        entry = self._names[plain]
        return entry.versions[version or entry.current]

    @property
    def names(self) -> list[str]:
        return list(self._names)

    # ------------------------------------------------------------------ for administrators

    async def load(self, settings: ModelSettings) -> Version:
        """Read a model into memory; the first version of a name answers to it at once.

        Raises UsageError for a version that is there already and HanlinError for a directory without a model.
        """
        async with self._changing:
            directory = await asyncio.to_thread(model_directory, Path(settings.path))
            name = settings.name or Path(settings.path).resolve().name
            if not NAME.match(name):
                raise UsageError(f"{name!r} can't be a model's name: give it one, as in my-model={settings.path}")
            entry = self._names.get(name) or _Name()
            there = entry.versions.get(settings.version)
            if there is not None and there.state != "unloaded":
                raise UsageError(f"{there.id} is in memory already: unload it first, or give another version")
            settings = settings.model_copy(update={"dtype": settings.dtype or self._dtype})
            version = await self._read(name, directory, settings)
            entry.versions[settings.version] = version
            entry.current = entry.current or settings.version
            self._names[name] = entry
            return version

    async def warm(self, name: str, version: str) -> float:
        """Let a version answer once; returns the seconds that it took. Raises HanlinError when the answer failed."""
        from hanlin.inference import Request

        one = self._version(name, version)
        started = time.monotonic()
        with self.held(one) as model:
            token = model.tokenizer.end_of_text_id
            request = Request(prompt_ids=[token, token], max_new_tokens=4, ignore_eos=True)
            reason = ""
            async for delta in model.engine.stream(request):
                reason = delta.finish_reason or ""
        if reason != "length":
            raise HanlinError(f"{one.id} could not answer: it ended with {reason or 'nothing'}")
        if one.state == "loaded":
            one.state = "warm"
        return time.monotonic() - started

    def switch(self, name: str, version: str, keep: bool = False) -> None:
        """Let the plain name mean `version` from the next request on.

        Requests that run finish where they began; then the old version leaves memory, unless `keep`.
        """
        entry, one = self._entry(name), self._version(name, version)
        if entry.current == version:
            return
        entry.previous, entry.current, entry.canary = entry.current, one.version, None
        if not keep:
            self._leave(entry.versions[entry.previous])

    async def roll_back(self, name: str) -> Version:
        """Let the name mean what it meant before the last switch, read anew if it has left memory.

        Raises UsageError when there was no switch, and HanlinError when other weights lie in the directory now.
        """
        entry = self._entry(name)
        if entry.previous is None:
            raise UsageError(f"{name} was never switched: there is nothing to roll back to")
        async with self._changing:
            old = entry.versions[entry.previous]
            if old.model is None:
                again = await self._read(name, old.directory, old.settings)
                if again.weights != old.weights:
                    _close(again)
                    raise HanlinError(f"{old.directory} holds other weights than {old.id} had: load them as a version")
                again.created = old.created
                entry.versions[old.version] = old = again
            elif old.state == "leaving":
                old.state = "warm"
        self.switch(name, old.version)
        return old

    def set_canary(self, name: str, version: str | None, share: float) -> None:
        """Let `version` answer this share (0…1) of those who ask for the plain name; None ends it."""
        entry = self._entry(name)
        if version is None:
            entry.canary = None
            return
        if self._version(name, version).version == entry.current:
            raise UsageError(f"{name}@{version} is what the name means already: a canary is another version")
        entry.canary = (version, share)

    def unload(self, name: str, version: str) -> None:
        """Take a version out of memory once its requests are done. Raises UsageError for the current one."""
        entry, one = self._entry(name), self._version(name, version)
        if entry.current == version:
            raise UsageError(f"{one.id} is what {name} means: switch to another version first")
        if entry.canary is not None and entry.canary[0] == version:
            entry.canary = None
        self._leave(one)

    def describe(self) -> list[dict[str, Any]]:
        """The state of every name and version, for administrators."""
        return [
            {
                "name": name,
                "current": entry.current,
                "previous": entry.previous,
                "canary": None if entry.canary is None else {"version": entry.canary[0], "share": entry.canary[1]},
                "versions": [
                    {
                        "version": one.version,
                        "state": one.state,
                        "path": str(one.directory),
                        "dtype": one.dtype,
                        "weights": one.weights,
                        "fingerprint": one.fingerprint,
                        "requests": one.holders,
                    }
                    for one in entry.versions.values()
                ],
            }
            for name, entry in self._names.items()
        ]

    def close(self) -> None:
        """Let go of every model, whoever holds it."""
        for version in self.in_memory():
            _close(version)

    # ------------------------------------------------------------------

    async def _read(self, name: str, directory: Path, settings: ModelSettings) -> Version:
        started = time.monotonic()
        weights = await asyncio.to_thread(weights_hash, directory)
        model = await asyncio.to_thread(self._load, directory, settings)
        log.info("%s@%s loaded in %.1f s from %s", name, settings.version, time.monotonic() - started, directory)
        return Version(name, settings.version, directory, settings, weights, int(time.time()), model)

    def _entry(self, name: str) -> _Name:
        if name not in self._names:
            raise NoSuchModel(f"The model {name!r} does not exist: served are {', '.join(self._names) or 'none'}.")
        return self._names[name]

    def _version(self, name: str, version: str) -> Version:
        one = self._entry(name).versions.get(version)
        if one is None or one.model is None:
            raise NoSuchModel(f"{name}@{version} is not in memory: load it first.")
        return one

    def _leave(self, version: Version) -> None:
        version.state = "leaving"
        self._close_if_left(version)

    def _close_if_left(self, version: Version) -> None:
        if version.state == "leaving" and version.holders == 0:
            _close(version)
            log.info("%s has left memory", version.id)


def weights_hash(directory: Path) -> str:
    """SHA-256 that tells a model's weights: its artifact's content where hanlin made it, else over its weight files."""
    if (directory / MANIFEST).is_file():
        return Artifact.load(directory).manifest.content
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise HanlinError(f"{directory} holds no weights (*.safetensors)")
    return digest({file.name: hash_file(file) for file in files})


def _share(name: str, sticky: str) -> float:
    """A number in [0, 1) for who asks, another for each model."""
    drawn = hashlib.blake2b(f"{name}\0{sticky}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") / 2**64


def _close(version: Version) -> None:
    if version.model is not None:
        version.model.engine.close()
    version.model, version.state = None, "unloaded"
