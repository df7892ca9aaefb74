"""Feedback and annotations as training data: files that the alignment stages read as they are, and an account.

`pairs.jsonl` (chosen and rejected), `judged.jsonl` (one answer with a `label`, for KTO), `rankings.jsonl` (answers with
scores) and `instructions.jsonl` (`messages`); a file with no row is not written. `account.json` says of everything that
was said into which rows it went, or why into none.

Several people may judge the same: their votes are one row, of what most of them say; of one person the last word
counts.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from hanlin.artifacts import UsageError, atomic_path, canonical_json, write_json
from hanlin.serving.annotation import Annotation
from hanlin.serving.annotation_summary import as_feedback
from hanlin.serving.feedback import KINDS, FeedbackStore, Stored
from hanlin.serving.store.database import Database

FILES = ("pairs.jsonl", "judged.jsonl", "rankings.jsonl", "instructions.jsonl")
ACCOUNT = "account.json"


@dataclass
class _Row:
    """A row of a file, and who said it."""

    file: str
    value: dict[str, Any]
    said: list[Stored]
    sources: list[str] = field(default_factory=list[str])
    """Kinds of what was said"""
    votes: int = 1
    agreement: float = 1.0

    def place(self) -> tuple[float, str]:
        """Rows are in the order in which they were first said."""
        return min((one.created, one.id) for one in self.said)


class Export:
    """What a collection of feedback says, as rows of data: a function of what is in it, not of its order."""

    def __init__(
        self,
        said: Iterable[Stored],
        min_agreement: float = 0.0,
        left_out: Mapping[str, str] | None = None,
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        """`said`: ratings, edits and preferences as `FeedbackStore.rows` gives them; pairs, rankings and demonstrations
        as `annotation_summary.as_feedback` does. `min_agreement`: the least share of votes, 0 to 1, that must be for
        what a row says; of one vote alone it is 1. `left_out`: what is of no use, as far as is known already: id →
        reason. `selection`: what was asked for, for the account.

        Raises UsageError for a share that is none."""
        if not 0 <= min_agreement <= 1:
            raise UsageError(f"min-agreement is {min_agreement:g}: it is a share, from 0 to 1")
        self._least, self._selection = min_agreement, dict(selection or {})
        self.said = sorted(said, key=lambda one: (one.created, one.id))
        self.reasons: dict[str, str] = dict(left_out or {})
        """Why what was said is in no row, by id"""
        self._rows: dict[str, _Row] = {}
        by_kind: dict[str, list[Stored]] = defaultdict(list)
        for one in self.said:
            if one.id not in self.reasons:
                by_kind[one.kind].append(one)
        self._ratings(by_kind["rating"])
        self._edits(by_kind["edit"])
        self._preferences([*by_kind["preference"], *by_kind["pair"]])
        self._rankings(by_kind["ranking"])
        self._demonstrations(by_kind["demonstration"])

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The rows of one of FILES, in order."""
        return [_with_origin(row) for row in self._of(file)]

    def account(self) -> dict[str, Any]:
        """Of everything that was said, what became of it: `read` = `used` + `left_out`."""
        places: dict[str, list[dict[str, Any]]] = defaultdict(list)
        files: dict[str, Any] = {}
        for file in FILES:
            rows = self._of(file)
            for number, row in enumerate(rows, start=1):
                for one in row.said:
                    places[one.id].append({"file": file, "row": number})
            if rows:
                files[file] = {"rows": len(rows), "from": dict(Counter(name for row in rows for name in row.sources))}
        left_out = [one for one in self.said if one.id not in places]
        return {
            "selection": self._selection,
            "read": len(self.said),
            "used": len(self.said) - len(left_out),
            "left_out": len(left_out),
            "reasons": dict(sorted(Counter(self.reasons[one.id] for one in left_out).items())),
            "min_agreement": self._least,
            "files": files,
            "said": [
                {"id": one.id, "kind": one.kind}
                | ({"rows": places[one.id]} if one.id in places else {"reason": self.reasons[one.id]})
                for one in self.said
            ],
        }

    def write(self, out: Path) -> dict[str, Any]:
        """Write the files and the account into a folder, each whole or not at all, and return the account. Files of an
        earlier export that would have no row now are removed."""
        account = self.account()
        for file in FILES:
            if file not in account["files"]:
                (out / file).unlink(missing_ok=True)
                continue
            with atomic_path(out / file) as part, part.open("w", encoding="utf-8") as lines:
                for row in self.rows(file):
                    lines.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        write_json(out / ACCOUNT, account)
        return account

    def _of(self, file: str) -> list[_Row]:
        return sorted((row for row in self._rows.values() if row.file == file), key=_Row.place)

    def _add(self, row: _Row) -> None:
        """Keep a row; what says the same as another one becomes a part of it."""
        row.sources = sorted({one.kind for one in row.said})
        known = self._rows.setdefault(f"{row.file} {canonical_json(row.value)}", row)
        if known is not row:
            known.votes += row.votes
            known.agreement = min(known.agreement, row.agreement)
            ids = {one.id for one in known.said}
            known.said += [one for one in row.said if one.id not in ids]
            known.sources = sorted({*known.sources, *row.sources})

    def _drop(self, said: Iterable[Stored], reason: str) -> None:
        self.reasons |= {one.id: reason for one in said}

    def _pair(self, messages: Any, chosen: str, rejected: str, said: list[Stored], votes: int, share: float) -> None:
        value = {"prompt": messages, "chosen": _answer(chosen), "rejected": _answer(rejected)}
        self._add(_Row("pairs.jsonl", value, said, votes=votes, agreement=share))

    def _instruction(self, messages: list[Any], answer: str, said: list[Stored], votes: int, share: float) -> None:
        value = {"messages": [*messages, *_answer(answer)]}
        self._add(_Row("instructions.jsonl", value, said, votes=votes, agreement=share))

    def _last_words(self, said: Sequence[Stored]) -> list[Stored]:
        """What each author said last of the same thing; the rest is left out."""
        last = {one.author: one for one in said}
        self._drop((one for one in said if last[one.author] is not one), "the same person said something else later")
        return [one for one in said if last[one.author] is one]

    def _most(self, said: list[Stored], vote: Callable[[Stored], Any]) -> tuple[Any, list[Stored], float] | None:
        """What most votes say, whose they are, and their share; None, with the reason noted, where too few agree."""
        counts = Counter(vote(one) for one in said)
        (top, most), *others = counts.most_common()
        share = most / len(said)
        if others and others[0][1] == most:
            self._drop(said, "as many people say one thing as another")
            return None
        if share < self._least:
            self._drop(said, "fewer people agree than min-agreement asks for")
            return None
        self._drop((one for one in said if vote(one) != top), "most people say something else")
        return top, [one for one in said if vote(one) == top], share

    def _ratings(self, ratings: list[Stored]) -> None:
        by_prompt: dict[str, list[tuple[str, str, list[Stored], float]]] = defaultdict(list)
        for same in _grouped(ratings, lambda one: [one.content["messages"], one.content["response"]]):
            found = self._most(self._last_words(same), lambda one: one.content["rating"])
            if found is not None:
                response: str = same[0].content["response"]
                if found[0] == "up" and not response.strip():
                    self._drop(found[1], "the better answer is blank")
                else:
                    by_prompt[canonical_json(same[0].content["messages"])].append((found[0], response, *found[1:]))
        for judged in by_prompt.values():
            messages = judged[0][2][0].content["messages"]
            up, down = ([one for one in judged if one[0] == way] for way in ("up", "down"))
            for (_, good, ups, first), (_, bad, downs, second) in zip(up, down):
                self._pair(messages, good, bad, [*ups, *downs], len(ups) + len(downs), min(first, second))
            for way, response, said, share in [*up[len(down) :], *down[len(up) :]]:
                value = {"prompt": messages, "completion": _answer(response), "label": way == "up"}
                self._add(_Row("judged.jsonl", value, said, votes=len(said), agreement=share))
            for _, response, said, share in up:
                self._instruction(messages, response, said, len(said), share)

    def _edits(self, edits: list[Stored]) -> None:
        for one in edits:
            messages, before, after = (one.content[name] for name in ("messages", "response", "edited"))
            if before == after:
                self._drop([one], "nothing of the edit is left without the personal data")
                continue
            self._pair(messages, after, before, [one], 1, 1.0)
            self._instruction(messages, after, [one], 1, 1.0)

    def _preferences(self, preferences: list[Stored]) -> None:
        def texts(one: Stored) -> list[str]:
            return [response["content"] for response in one.content["responses"]]

        def better(one: Stored) -> str | None:
            chosen = one.content.get("chosen")
            return None if chosen is None else texts(one)[chosen]

        for same in _grouped(preferences, lambda one: [one.content["messages"], sorted(texts(one))]):
            pair = texts(same[0])
            if pair[0] == pair[1]:
                self._drop(same, "both answers are the same")
                continue
            found = self._most(self._last_words(same), better)
            if found is None:
                continue
            chosen, said, share = found
            if chosen is None:
                self._drop(said, "neither answer is better")
            elif not chosen.strip():
                self._drop(said, "the better answer is blank")
            else:
                worse = pair[1] if chosen == pair[0] else pair[0]
                self._pair(same[0].content["messages"], chosen, worse, said, len(said), share)

    def _rankings(self, rankings: list[Stored]) -> None:
        def ranks(one: Stored) -> dict[str, int]:
            return dict(zip(one.content["responses"], one.content["ranks"]))

        for same in _grouped(rankings, lambda one: [one.content["messages"], sorted(one.content["responses"])]):
            said = self._last_words(same)
            responses: list[str] = same[0].content["responses"]
            given = [ranks(one) for one in said]
            mean = {text: sum(one[text] for one in given) / len(given) for text in responses}
            decided = [(a, b) for a, b in combinations(responses, 2) if mean[a] != mean[b]]
            if not decided:
                self._drop(said, "neither answer is better")
                continue
            agreeing = sum((one[a] - one[b]) * (mean[a] - mean[b]) > 0 for a, b in decided for one in given)
            share = agreeing / (len(decided) * len(given))
            if share < self._least:
                self._drop(said, "fewer people agree than min-agreement asks for")
                continue
            value = {
                "prompt": same[0].content["messages"],
                "responses": [_answer(text) for text in responses],
                "scores": [len(responses) - mean[text] for text in responses],
            }
            self._add(_Row("rankings.jsonl", value, said, votes=len(said), agreement=share))

    def _demonstrations(self, demonstrations: list[Stored]) -> None:
        for one in demonstrations:
            self._instruction(one.content["messages"], one.content["answer"], [one], 1, 1.0)


def read_export(
    database: Database,
    *,
    since: float | None = None,
    kinds: Sequence[str] | None = None,
    projects: Sequence[str] | None = None,
    min_agreement: float = 0.0,
) -> Export:
    """What is in a database, as an export.

    `since`: seconds since 1970 from which on things were said; `kinds`: some of feedback's and `annotation`, None for
    all; `projects`: of annotations, only these. Raises UsageError for a kind or project that there is not.
    """
    for kind in kinds or ():
        if kind not in (*KINDS, "annotation"):
            raise UsageError(f"there is no kind {kind!r} of feedback. Kinds: {', '.join(KINDS)}, annotation.")
    chosen = list(kinds or (*KINDS, "annotation"))
    said = FeedbackStore(database).rows(since, [kind for kind in chosen if kind in KINDS])
    left_out: dict[str, str] = {}
    if "annotation" in chosen:
        annotation = Annotation(database)
        for project in annotation.projects() if projects is None else projects:
            answers, of_no_use = as_feedback(annotation, project)
            said += [one for one in answers if since is None or one.created >= since]
            left_out |= of_no_use
    selection = {"since": since, "kinds": chosen, "projects": None if projects is None else list(projects)}
    return Export(said, min_agreement, left_out, selection)


def _grouped(said: Iterable[Stored], key: Callable[[Stored], Any]) -> list[list[Stored]]:
    """What was said of the same thing, in order."""
    groups: dict[str, list[Stored]] = defaultdict(list)
    for one in said:
        groups[canonical_json(key(one))].append(one)
    return list(groups.values())


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _with_origin(row: _Row) -> dict[str, Any]:
    origin = {
        "source": " + ".join(row.sources),
        "said": sorted(one.id for one in row.said),
        "votes": row.votes,
        "agreement": round(row.agreement, 4),
    }
    return {**row.value, "metadata": origin}
