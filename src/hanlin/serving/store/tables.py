"""The tables as they are now. How a database comes to have them is `migrations`' matter; a test holds the two together.

Times are seconds since 1970 in UTC. Texts of users lie in JSON columns, which every database keeps as they are.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("prefix", String(32), primary_key=True),  # the part of the key that may be seen
    Column("hash", String(64), nullable=False),  # SHA-256 of the whole key
    Column("name", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("last_used", Double),
    Column("limits", JSON, nullable=False),  # keys.KeyLimits
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),  # rating, edit, preference
    Column("author", String(32), nullable=False),  # a key's prefix; empty: nobody in particular
    Column("created", Double, nullable=False),
    Column("content_hash", String(64), nullable=False, unique=True),
    Column("content", JSON, nullable=False),  # the body, redacted
    Column("redacted", JSON, nullable=False),  # what was taken out: kind → count
    Index(None, "created"),
)

annotation_projects = Table(
    "annotation_projects",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("kind", String(16), nullable=False),  # pair, ranking, prompt
    Column("instructions", JSON, nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("created", Double, nullable=False),
)

annotation_tasks = Table(
    "annotation_tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(100), ForeignKey("annotation_projects.name", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # the order in which tasks are handed out
    Column("content_hash", String(64), nullable=False),
    Column("content", JSON, nullable=False),  # annotation_tasks.Task, redacted
    Column("prelabel", JSON(none_as_null=True)),  # annotation_tasks.Prelabel
    # Feedback that is withdrawn takes the tasks made of it along, and their answers.
    Column("feedback", String(32), ForeignKey("feedback.id", ondelete="CASCADE"), index=True),
    UniqueConstraint("project", "content_hash"),
    UniqueConstraint("project", "number"),
)

annotation_assignments = Table(
    "annotation_assignments",
    metadata,
    Column("task", String(32), ForeignKey("annotation_tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("annotator", String(100), primary_key=True),
    Column("assigned", Double, nullable=False),
    Column("answered", Double),
    Column("skipped", Boolean, nullable=False),
    Column("answer", JSON(none_as_null=True)),  # one of annotation_tasks' answers, as it counts
    Index(None, "annotator"),
)

request_log = Table(
    "request_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("key", String(32), nullable=False),  # a key's prefix; empty: no key
    Column("model", String(200), nullable=False),
    Column("version", String(100), nullable=False),
    Column("path", String(200), nullable=False),
    Column("status", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("first_token_seconds", Double),
    Column("seconds", Double, nullable=False),
    Column("prompt", JSON(none_as_null=True)),
    Column("answer", JSON(none_as_null=True)),
    Column("bytes", Integer, nullable=False),  # about what the row takes
    Index(None, "time"),
    Index(None, "key", "time"),
)
