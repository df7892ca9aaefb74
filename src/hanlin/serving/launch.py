"""From settings to a running service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.artifacts import UsageError
from hanlin.serving.api.server import Server
from hanlin.serving.api.service import Service
from hanlin.serving.keys import Keys
from hanlin.serving.models import Load, Models
from hanlin.serving.moderation import Moderator, RuleModerator
from hanlin.serving.settings import ModelSettings, ServeSettings, is_loopback
from hanlin.serving.store import Database, default_url

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel

Say = Callable[[str], None]


def launch(settings: ServeSettings, say: Say, started: Callable[[str], None]) -> None:
    """Load the models, warm them, and serve until told to stop (SIGTERM or Ctrl-C, which drain; twice: at once).

    `say` is told what happens, `started` the address when requests are taken. Raises UsageError for no models, and for
    an address that others can reach while there are no keys.
    """
    if not settings.models:
        raise UsageError("there is no model to serve: name a model's directory or a run's")
    for path in (settings.tls_certificate, settings.tls_key):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{path} is not a file: tls_certificate and tls_key name PEM files")
    database = Database(settings.database or default_url())
    try:
        keys = Keys(database)
        keyed = keys.any()
        if not keyed and not is_loopback(settings.host):
            raise UsageError(
                f"{settings.host} can be reached from other machines and there are no API keys, so anybody could use "
                "this service: make one with `hanlin keys create NAME`, or listen on 127.0.0.1"
            )
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        asyncio.run(_serve(settings, database, keys if keyed else None, say, started))
    finally:
        database.close()


async def _serve(
    settings: ServeSettings, database: Database, keys: Keys | None, say: Say, started: Callable[[str], None]
) -> None:
    models = Models(loader(settings), settings.dtype)
    service = Service(settings, models, keys, database, moderator(settings))
    for one in settings.models:
        version = await models.load(one)
        seconds = await models.warm(version.name, version.version)
        what = f"{version.directory} ({version.dtype}, {version.fingerprint})"
        say(f"{version.id}: {what}, first answer in {seconds:.2f} s")
    await Server(service, started).serve()


def loader(settings: ServeSettings) -> Load:
    """What reads a model into memory for this service."""

    def read(directory: Path, model: ModelSettings) -> LanguageModel:
        # torch takes a second to import: not before the settings are known to be right.
        from hanlin.inference import load

        return load(
            directory,
            model.dtype or settings.dtype,
            max_batch=settings.max_batch,
            cache_tokens=settings.cache_tokens,
            adapters={name: Path(path) for name, path in model.adapters.items()},
            speculation=model.speculation,
        )

    return read


def moderator(settings: ServeSettings) -> Moderator | None:
    """Who hears what is asked and answered."""
    if settings.moderation is None:
        return None
    return RuleModerator(None if settings.moderation == "rules" else Path(settings.moderation))
