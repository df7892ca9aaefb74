"""Annotation projects: tasks that people answer, each by as many as the project wants, and a model's pre-labels."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from hanlin.alignment.instructions.task_types import TYPES, task_type
from hanlin.artifacts import HanlinError, UsageError, digest
from hanlin.data.rows import BadRow, read_rows
from hanlin.serving.annotation_tasks import KINDS, Answer, Kind, Prelabel, Submission, Task, check_answer
from hanlin.serving.feedback import Stored, redacted
from hanlin.serving.store.database import Database
from hanlin.serving.store.tables import annotation_assignments as assignments
from hanlin.serving.store.tables import annotation_projects as projects
from hanlin.serving.store.tables import annotation_tasks as tasks

LEASE_SECONDS = 3600.0
"""For how long a task is kept for an annotator who has not answered it"""


class NotAssignedError(UsageError):
    """An answer to a task that this annotator was not given, or that is no more."""


@dataclass
class Added:
    """What became of rows that were to be tasks: `rows` = `added` + `known` + len(`refused`)."""

    rows: int = 0
    added: int = 0
    known: int = 0
    """The project has them already"""
    refused: list[str] = field(default_factory=list[str])
    """Why, with the place"""


class Annotation:
    """The annotation projects in a database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def create(self, name: str, kind: Kind, *, overlap: int = 2, instructions: str = "") -> None:
        """A new project: `overlap` annotators answer each task. Raises UsageError when it can't be, or is there
        already with other settings; the same again changes nothing."""
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise UsageError("a project's name should be a line of 1 to 100 characters")
        if kind not in KINDS:
            raise UsageError(f"there is no kind {kind!r} of project. Kinds: {', '.join(KINDS)}")
        if not 1 <= overlap <= 100:
            raise UsageError(f"overlap is {overlap}: 1 to 100 annotators can answer a task")
        row = {"name": name, "kind": kind, "overlap": overlap, "instructions": instructions, "created": self._clock()}
        try:
            with self._database.write() as connection:
                connection.execute(projects.insert().values(row))
        except IntegrityError:
            known = self.project(name)
            if any(known[key] != row[key] for key in ("kind", "overlap", "instructions")):
                raise UsageError(
                    f"the project {name!r} is there already, of kind {known['kind']} with an overlap of "
                    f"{known['overlap']}: choose another name"
                ) from None

    def project(self, name: str) -> dict[str, Any]:
        """A project's settings. Raises UsageError, naming those that there are, when it is none."""
        with self._database.read() as connection:
            return self._project(connection, name)

    def projects(self) -> list[str]:
        """The names of all projects, in order."""
        with self._database.read() as connection:
            return list(connection.execute(sa.select(projects.c.name).order_by(projects.c.name)).scalars())

    def _project(self, connection: Connection, name: str, lock: bool = False) -> dict[str, Any]:
        query = sa.select(projects).where(projects.c.name == name)
        row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
        if row is None:
            known = connection.execute(sa.select(projects.c.name).order_by(projects.c.name).limit(20)).scalars()
            raise UsageError(f"there is no project {name!r}. Projects: {', '.join(known) or '(none)'}")
        return dict(row)

    def add_file(self, project: str, path: Path) -> Added:
        """Tasks from the rows of a file (JSON lines, or any other that data is read from): `annotation_tasks.Task`,
        where `kind` is the project's unless given, and answers may be plain texts."""
        kind, found, given = self.project(project)["kind"], Added(), list[tuple[Task, str | None]]()
        for row in read_rows(path)[1]:
            found.rows += 1
            if isinstance(row, BadRow):
                found.refused.append(str(row))
                continue
            try:
                value = {"kind": kind, **{name: item for name, item in row.value.items() if item is not None}}
                texts = value.get("responses")
                if isinstance(texts, list):
                    plain = [{"content": one} if isinstance(one, str) else one for one in cast(list[Any], texts)]
                    value["responses"] = plain
                given.append((Task.model_validate(value), None))
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                found.refused.append(str(BadRow(row.file, row.number, row.line, f"{place}: {first['msg']}")))
        return self._add(project, given, found)

    def add_feedback(self, project: str, said: Iterable[Stored]) -> Added:
        """Tasks from feedback: for pairs, side-by-side choices and edits; for prompts, what was answered badly (rated
        down), to be answered well. What is withdrawn later takes its task along."""
        kind: Kind = self.project(project)["kind"]
        wanted = {"pair": ("preference", "edit"), "prompt": ("rating",)}.get(kind)
        if wanted is None:
            raise UsageError("feedback has no rankings: import them from a file")
        found, given = Added(), list[tuple[Task, str | None]]()
        for one in said:
            if one.kind not in wanted or one.content.get("rating") == "up":
                continue
            found.rows += 1
            value: dict[str, Any] = {"kind": kind, "messages": one.content["messages"]}
            if one.kind == "preference":
                keep = ("model", "content")
                value["responses"] = [{name: answer[name] for name in keep} for answer in one.content["responses"]]
            elif one.kind == "edit":
                value["responses"] = [{"content": one.content[name]} for name in ("response", "edited")]
            try:
                given.append((Task.model_validate(value), one.id))
            except ValidationError as error:
                found.refused.append(f"{one.id}: {error.errors()[0]['msg']}")
        return self._add(project, given, found)

    def _add(self, project: str, given: list[tuple[Task, str | None]], found: Added) -> Added:
        with self._database.write() as connection:
            kind = self._project(connection, project, lock=True)["kind"]
            own = tasks.c.project == project
            known = set(connection.execute(sa.select(tasks.c.content_hash).where(own)).scalars())
            number = connection.execute(
                sa.select(sa.func.coalesce(sa.func.max(tasks.c.number), 0)).where(own)
            ).scalar_one()
            rows: list[dict[str, Any]] = []
            for task, source in given:
                if task.kind != kind:
                    found.refused.append(
                        f"a {task.kind} is no task of the project {project!r}, which has those of kind {kind}"
                    )
                    continue
                content = redacted(task.model_dump(exclude_none=True, exclude={"prelabel"}), Counter())
                prelabel = None if task.prelabel is None else redacted(task.prelabel.model_dump(), Counter())
                try:
                    Task.model_validate({**content, "prelabel": prelabel})
                except ValidationError as error:
                    found.refused.append(f"without the personal data in it: {error.errors()[0]['msg']}")
                    continue
                content_hash = digest(_identity(content))
                if content_hash in known:
                    found.known += 1
                    continue
                known.add(content_hash)
                number += 1
                rows.append(
                    {
                        "id": f"at-{secrets.token_hex(12)}",
                        "project": project,
                        "number": number,
                        "content_hash": content_hash,
                        "content": content,
                        "prelabel": prelabel,
                        "feedback": source,
                    }
                )
            if rows:
                connection.execute(tasks.insert(), rows)
            found.added += len(rows)
        return found

    def next(self, project: str, annotator: str) -> dict[str, Any] | None:
        """The next task for an annotator, which is theirs for an hour; the same one until they have answered it. None
        when there is none for them.

        A task is given to as many as the project's overlap says; one who skipped it, or did not answer within the hour,
        does not count. Raises UsageError for an unknown project or a name that is none.
        """
        if not 0 < len(annotator) <= 100 or not annotator.isprintable():
            raise UsageError("an annotator's name should be a line of 1 to 100 characters")
        now = self._clock()
        with self._database.write() as connection:
            settings = self._project(connection, project, lock=True)  # nobody else is given a task meanwhile
            mine = sa.and_(assignments.c.task == tasks.c.id, assignments.c.annotator == annotator)
            held = sa.and_(
                assignments.c.task == tasks.c.id,
                sa.not_(assignments.c.skipped),
                sa.or_(assignments.c.answered.is_not(None), assignments.c.assigned > now - LEASE_SECONDS),
            )
            query = sa.select(tasks).where(tasks.c.project == project).order_by(tasks.c.number).limit(1)
            unanswered = sa.select(assignments.c.task).where(mine, assignments.c.answered.is_(None))
            others = sa.select(sa.func.count()).where(held, assignments.c.annotator != annotator).scalar_subquery()
            free = others < settings["overlap"]
            row = connection.execute(query.where(unanswered.exists(), free)).mappings().one_or_none()
            if row is None:
                new = sa.not_(sa.select(assignments.c.task).where(mine).exists())
                row = connection.execute(query.where(new, free)).mappings().one_or_none()
                if row is None:
                    return None
                connection.execute(
                    assignments.insert().values(task=row["id"], annotator=annotator, assigned=now, skipped=False)
                )
            else:
                own = sa.and_(assignments.c.task == row["id"], assignments.c.annotator == annotator)
                connection.execute(assignments.update().where(own).values(assigned=now))
        task: dict[str, Any] = row["content"]
        shown = {name: task[name] for name in ("kind", "messages", "style", "use_case") if name in task}
        if "responses" in task:
            shown["responses"] = [{"content": response["content"]} for response in task["responses"]]
        if task["kind"] == "prompt":
            shown["task_types"] = list(TYPES)
        if row["prelabel"] is not None:
            shown["prelabel"] = row["prelabel"]
        return {"id": row["id"], "project": project, "instructions": settings["instructions"], **shown}

    def answer(self, task_id: str, annotator: str, said: Submission) -> None:
        """Keep an annotator's answer to a task that `next` has given them; when this has returned it is on disk. A
        second one takes the place of the first.

        Raises NotAssignedError, and UsageError for an answer that is none to this task.
        """
        own = sa.and_(assignments.c.task == task_id, assignments.c.annotator == annotator)
        with self._database.write() as connection:
            query = sa.select(tasks.c.content, tasks.c.prelabel).join(assignments).where(own)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise NotAssignedError(
                    f"the task {task_id!r} is not one that {annotator!r} was given, or it was withdrawn"
                )
            prelabel = None if row["prelabel"] is None else Prelabel.model_validate(row["prelabel"])
            if said.skip is not None:
                found: dict[str, Any] = {"skip": said.skip}
            elif said.confirm:
                if prelabel is None:
                    raise UsageError("the task has no pre-label that could be confirmed: send an answer")
                found = {"answer": prelabel.answer.model_dump(), "prelabel": "confirmed"}
            else:
                answer = cast(Answer, said.answer)
                try:
                    check_answer(Task.model_validate(row["content"]), answer)
                except ValueError as error:
                    raise UsageError(f"the answer is none to this task: {error}") from None
                found = {"answer": answer.model_dump()}
                if prelabel is not None:
                    same = _judgement(answer) == _judgement(prelabel.answer)
                    found["prelabel"] = "confirmed" if same else "changed"
            values = {
                "answered": self._clock(),
                "skipped": said.skip is not None,
                "answer": redacted(found, Counter()),
            }
            connection.execute(assignments.update().where(own).values(values))

    def answered(self, project: str) -> list[dict[str, Any]]:
        """Every answer of a project, skips too: {task, number, content, annotator, answered, skipped, answer}, in the
        order of tasks and annotators."""
        columns = (
            tasks.c.id.label("task"),
            *(tasks.c[name] for name in ("number", "content", "feedback")),
            *(assignments.c[name] for name in ("annotator", "answered", "skipped", "answer")),
        )
        query = sa.select(*columns).join(assignments, assignments.c.task == tasks.c.id)
        query = query.where(tasks.c.project == project, assignments.c.answered.is_not(None))
        with self._database.read() as connection:
            self._project(connection, project)
            rows = connection.execute(query.order_by(tasks.c.number, assignments.c.annotator)).mappings()
            return [dict(row) for row in rows]

    def tasks(self, project: str) -> list[dict[str, Any]]:
        """The contents of all tasks of a project, in order."""
        with self._database.read() as connection:
            self._project(connection, project)
            query = sa.select(tasks.c.content).where(tasks.c.project == project).order_by(tasks.c.number)
            return list(connection.execute(query).scalars())


def _identity(content: dict[str, Any]) -> Any:
    """What makes a task another one: of answers to judge their texts, not their order or who gave them."""
    if "responses" in content:
        return [content["messages"], sorted(response["content"] for response in content["responses"])]
    return content


def _judgement(answer: Any) -> Any:
    return answer.model_dump(exclude={"reason"})


def type_of(content: dict[str, Any]) -> str:
    """What sort of task a task's content is about: as its file says, or as rules find."""
    if "task_type" in content:
        return content["task_type"]
    asked = [message.get("content") or "" for message in content.get("messages", []) if message["role"] == "user"]
    if not asked:
        raise HanlinError("a task without a prompt has no type of its own")
    responses = content.get("responses") or [{"content": ""}]
    return task_type(asked[0], responses[0]["content"])
