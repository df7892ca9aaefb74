"""What the service remembers: keys, feedback, annotations and the request log, in one database."""

from __future__ import annotations

from hanlin.serving.store.database import Database, StoreError, default_url

__all__ = ["Database", "StoreError", "default_url"]
