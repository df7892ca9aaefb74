"""API keys: who may call the service, as what, and how much.

A key is `hk-` and 64 hex digits (256 random bits). It is shown once, when it is made; at rest there are its SHA-256 and
its first 15 characters, by which people and logs know it. (A slow hash is for passwords: 208 unknown bits can't be
guessed.)
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.exc import IntegrityError

from hanlin.artifacts import Settings, UsageError
from hanlin.serving.store.database import Database
from hanlin.serving.store.tables import api_keys

Role = Literal["user", "annotator", "admin"]
"""user: completions and feedback; annotator: the annotation page too; admin: everything."""
ROLES: tuple[Role, ...] = get_args(Role)
SHOWN = 15
"""Characters of a key that may be seen: `hk-` and 48 of its 256 bits"""
_FORM = re.compile(r"hk-[0-9a-f]{64}")
_LAST_USED_SECONDS = 60.0
"""How exact `last_used` is: a write to disk for every request would cost more than it tells"""


class KeyLimits(Settings):
    """What one key may use. A limit that is not set is the service's own (`limits.Limits`)."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests admitted in any 60 seconds."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens, of prompts and answers together, in any 60 seconds."""
    concurrent_requests: int | None = Field(default=None, ge=1)
    """Requests that run at the same time."""
    daily_tokens: int | None = Field(default=None, ge=1)
    """Tokens in a day (UTC)."""


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as the database knows it: without its secret."""

    prefix: str
    name: str
    role: Role
    created: float
    """Seconds since 1970, as all times here"""
    expires: float | None
    revoked: float | None
    last_used: float | None
    """To within a minute"""
    limits: KeyLimits

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        """Whether it opens the door at `now`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"

    def may(self, role: Role) -> bool:
        """Whether what is for `role` is for this key: each role may do what those before it may."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Keys:
    """The keys in a database. None is kept in memory: one that is revoked, by whatever process, is refused at once."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def create(
        self,
        name: str,
        role: Role = "user",
        *,
        days: float | None = None,
        limits: KeyLimits | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is nowhere else. `days`: for how long it is good; None: until it is revoked.

        Raises UsageError for a name that is empty, too long or of more than a line, an unknown role, or no days.
        """
        name = name.strip()
        if not 0 < len(name) <= 200 or not name.isprintable():
            raise UsageError("a key's name should be a line of 1 to 200 characters that says whose it is")
        if role not in ROLES:
            raise UsageError(f"there is no role {role!r}. Roles: {', '.join(ROLES)}")
        if days is not None and not 0 < days <= 36_500:
            raise UsageError(f"a key can't be good for {days:g} days: give a number above 0, or none")
        now = self._clock()
        while True:
            secret = f"hk-{secrets.token_hex(32)}"
            key = ApiKey(
                prefix=secret[:SHOWN],
                name=name,
                role=role,
                created=now,
                expires=None if days is None else now + days * 86_400,
                revoked=None,
                last_used=None,
                limits=limits or KeyLimits(),
            )
            row = {**vars(key), "hash": _hash(secret), "limits": key.limits.model_dump(exclude_none=True)}
            try:
                with self._database.write() as connection:
                    connection.execute(api_keys.insert().values(row))
            except IntegrityError:  # another key begins alike
                continue
            return key, secret

    def list(self) -> list[ApiKey]:
        """All keys, the oldest first; the revoked ones too."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created, api_keys.c.prefix)).mappings()
            return [_key(row) for row in rows]

    def revoke(self, prefix: str) -> ApiKey:
        """End a key, known by the beginning of it (at least `hk-` and four digits). One that is revoked stays so.

        Raises UsageError when no key begins so, or several do.
        """
        begin = prefix.strip()[:SHOWN]
        if not re.fullmatch(r"hk-[0-9a-f]{4,}", begin):
            raise UsageError(
                f"{begin!r} is no beginning of a key: give at least hk- and four digits (`hanlin keys list`)"
            )
        with self._database.write() as connection:
            found = connection.execute(sa.select(api_keys).where(api_keys.c.prefix.startswith(begin))).mappings().all()
            if len(found) != 1:
                what = "no key begins" if not found else f"{len(found)} keys begin"
                raise UsageError(f"{what} with {begin}. `hanlin keys list` shows them")
            prefix = found[0]["prefix"]
            own = api_keys.c.prefix == prefix
            connection.execute(api_keys.update().where(own, api_keys.c.revoked.is_(None)).values(revoked=self._clock()))
            return _key(connection.execute(sa.select(api_keys).where(own)).mappings().one())

    def any(self) -> bool:
        """Whether some key could open the door now."""
        now = self._clock()
        return any(key.state(now) == "active" for key in self.list())

    def authenticate(self, secret: str) -> ApiKey | None:
        """The key that a caller shows, if it is active; None otherwise, whatever the reason.

        What is compared is the hash, in constant time; how long the answer takes tells nothing about a secret.
        """
        shown = secret[:SHOWN] if _FORM.fullmatch(secret) else ""
        with self._database.read() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.prefix == shown)).mappings().one_or_none()
        same = hmac.compare_digest(_hash(secret), row["hash"] if row is not None else "0" * 64)
        if row is None or not same:
            return None
        key, now = _key(row), self._clock()
        if key.state(now) != "active":
            return None
        if key.last_used is None or now - key.last_used >= _LAST_USED_SECONDS:
            with self._database.write() as connection:
                own = api_keys.c.prefix == key.prefix
                connection.execute(api_keys.update().where(own).values(last_used=now))
        return key


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _key(row: sa.RowMapping) -> ApiKey:
    fields: dict[str, Any] = {name: row[name] for name in ApiKey.__dataclass_fields__}
    fields["limits"] = KeyLimits.model_validate(fields["limits"])
    return ApiKey(**fields)
