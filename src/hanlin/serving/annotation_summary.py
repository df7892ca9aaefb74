"""What a project's annotators said: how far they agree, how each of them answers, and their answers as feedback."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from hanlin.serving.agreement import alpha
from hanlin.serving.annotation import Annotation, type_of
from hanlin.serving.feedback import Stored


def summarise(annotation: Annotation, project: str) -> dict[str, Any]:
    """The answer of `GET /v1/annotation/summary`.

    `tasks`, `complete` (answered by as many as the project wants), `answers`, `skipped`; `task_types` and, of prompts,
    `styles`: {name: {count, share}}; `alpha`: Krippendorff's α by level of measurement, None where it is not defined;
    `annotators`: of each their answers, skips, distribution (shares of what they say) and what became of pre-labels.
    """
    settings, contents, said = annotation.project(project), annotation.tasks(project), annotation.answered(project)
    answers = [row for row in said if not row["skipped"]]
    kind: str = settings["kind"]
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in answers:
        by_task[row["task"]].append(row)
    if kind == "prompt":
        types = Counter(row["answer"]["answer"]["task_type"] for row in answers)
        styles = {"styles": shares(Counter(content["style"] for content in contents))}
    else:
        types, styles = Counter(type_of(content) for content in contents), dict[str, Any]()
    return {
        "project": project,
        **{name: settings[name] for name in ("kind", "instructions", "overlap")},
        "tasks": len(contents),
        "complete": sum(len(rows) >= settings["overlap"] for rows in by_task.values()),
        "answers": len(answers),
        "skipped": len(said) - len(answers),
        "task_types": shares(types),
        **styles,
        "alpha": _alphas(kind, by_task.values()),
        "annotators": {
            name: _annotator([row for row in said if row["annotator"] == name])
            for name in sorted({row["annotator"] for row in said})
        },
    }


def shares(counts: Counter[str]) -> dict[str, dict[str, float]]:
    """Each with its count and its share, the commonest first."""
    total = counts.total()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {name: {"count": count, "share": round(count / total, 4)} for name, count in ordered}


def _alphas(kind: str, by_task: Iterable[list[dict[str, Any]]]) -> dict[str, float | None]:
    answers = [[row["answer"]["answer"] for row in rows] for rows in by_task]
    if kind == "pair":
        # Neither lies between the two: choosing the other answer is further away than not choosing.
        sides = {0: -1, None: 0, 1: 1}
        units = [[sides[answer["chosen"]] for answer in task] for task in answers]
        return {"nominal": alpha(units), "ordinal": alpha(units, "ordinal")}
    if kind == "ranking":
        # What is judged is one answer of one task, and its value is its place.
        places = [list(unit) for task in answers for unit in zip(*(answer["ranks"] for answer in task))]
        return {"ordinal": alpha(places, "ordinal"), "interval": alpha(places, "interval")}
    return {"nominal": alpha([[answer["task_type"] for answer in task] for task in answers])}


def _annotator(rows: list[dict[str, Any]]) -> dict[str, Any]:
    answers = [row["answer"]["answer"] for row in rows if not row["skipped"]]
    prelabels = Counter(row["answer"]["prelabel"] for row in rows if row["answer"].get("prelabel"))
    return {
        "answers": len(answers),
        "skipped": len(rows) - len(answers),
        "distribution": shares(Counter(_says(answer) for answer in answers)),
        "prelabels": {name: prelabels[name] for name in ("confirmed", "changed")},
    }


def _says(answer: dict[str, Any]) -> str:
    if answer["kind"] == "pair":
        return {0: "first", 1: "second", None: "neither"}[answer["chosen"]]
    if answer["kind"] == "ranking":
        best = [str(place) for place, rank in enumerate(answer["ranks"], start=1) if rank == min(answer["ranks"])]
        return f"best: {' and '.join(best)}"
    return answer["task_type"]


def as_feedback(annotation: Annotation, project: str) -> tuple[list[Stored], dict[str, str]]:
    """A project's answers as `Export` takes them, and why some of them are of no use: id → reason.

    Only what people said or confirmed is among them, and it counts when as many have answered the task as the project
    wants.
    """
    overlap: int = annotation.project(project)["overlap"]
    rows = annotation.answered(project)
    answered = Counter(row["task"] for row in rows if not row["skipped"])
    found: list[Stored] = []
    left_out: dict[str, str] = {}
    for row in rows:
        kind, content = ("skip", {}) if row["skipped"] else _content(row)
        one = Stored(
            id=f"{row['task']}/{row['annotator']}",
            kind=kind,
            author=f"annotator {row['annotator']}",  # a key's prefix may be an annotator's name too
            created=row["answered"],
            content=content,
        )
        found.append(one)
        if row["skipped"]:
            left_out[one.id] = "the annotator skipped the task"
        elif answered[row["task"]] < overlap:
            left_out[one.id] = "too few annotators have answered the task so far"
    return found, left_out


def _content(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The kind and content that `Export` knows for an answer."""
    task, answer = row["content"], row["answer"]["answer"]
    if answer["kind"] == "pair":
        return "pair", {"messages": task["messages"], "responses": task["responses"], "chosen": answer["chosen"]}
    if answer["kind"] == "ranking":
        texts = [response["content"] for response in task["responses"]]
        return "ranking", {"messages": task["messages"], "responses": texts, "ranks": answer["ranks"]}
    messages: list[dict[str, Any]] = task.get("messages") or [{"role": "user", "content": answer["prompt"]}]
    response = answer["response"]
    if answer["examples"]:
        # The instruction, and all examples but the last as what was said before.
        *context, last = answer["examples"]
        messages = [{"role": "system", "content": answer["prompt"]}]
        for example in context:
            messages.append({"role": "user", "content": example["query"]})
            messages.append({"role": "assistant", "content": example["response"]})
        messages.append({"role": "user", "content": last["query"]})
        response = last["response"]
    return "demonstration", {"messages": messages, "answer": response}
