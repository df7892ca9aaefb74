"""Keys, feedback, annotations and the request log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.String(32), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double()),
        sa.Column("revoked", sa.Double()),
        sa.Column("last_used", sa.Double()),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name="pk_api_keys"),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("author", sa.String(32), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("redacted", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint("content_hash", name="uq_feedback_content_hash"),
    )
    op.create_index("ix_feedback_created", "feedback", ["created"])
    op.create_table(
        "annotation_projects",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("instructions", sa.JSON(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_annotation_projects"),
    )
    op.create_table(
        "annotation_tasks",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project", sa.String(100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("prelabel", sa.JSON()),
        sa.Column("feedback", sa.String(32)),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_tasks"),
        sa.ForeignKeyConstraint(
            ["project"], ["annotation_projects.name"], name="fk_annotation_tasks_project", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["feedback"], ["feedback.id"], name="fk_annotation_tasks_feedback", ondelete="CASCADE"),
        sa.UniqueConstraint("project", "content_hash", name="uq_annotation_tasks_project_content_hash"),
        sa.UniqueConstraint("project", "number", name="uq_annotation_tasks_project_number"),
    )
    op.create_index("ix_annotation_tasks_feedback", "annotation_tasks", ["feedback"])
    op.create_table(
        "annotation_assignments",
        sa.Column("task", sa.String(32), nullable=False),
        sa.Column("annotator", sa.String(100), nullable=False),
        sa.Column("assigned", sa.Double(), nullable=False),
        sa.Column("answered", sa.Double()),
        sa.Column("skipped", sa.Boolean(), nullable=False),
        sa.Column("answer", sa.JSON()),
        sa.PrimaryKeyConstraint("task", "annotator", name="pk_annotation_assignments"),
        sa.ForeignKeyConstraint(
            ["task"], ["annotation_tasks.id"], name="fk_annotation_assignments_task", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_annotation_assignments_annotator", "annotation_assignments", ["annotator"])
    op.create_table(
        "request_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("first_token_seconds", sa.Double()),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("prompt", sa.JSON()),
        sa.Column("answer", sa.JSON()),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_request_log"),
    )
    op.create_index("ix_request_log_time", "request_log", ["time"])
    op.create_index("ix_request_log_key_time", "request_log", ["key", "time"])
