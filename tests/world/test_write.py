from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hanlin.world import EXAMS, write


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*.jsonl"))
    }


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(tmp_path):
    first = write(tmp_path / "a", seed=5, entities=80, tellings=3, exam_items=40)
    second = write(tmp_path / "b", seed=5, entities=80, tellings=3, exam_items=40)
    write(tmp_path / "c", seed=6, entities=80, tellings=3, exam_items=40)
    one, same, other = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert one == same
    assert one.keys() == other.keys()
    assert not {name for name in one if one[name] == other[name]}


def test_all_files_are_there_and_the_counts_are_theirs(tmp_path):
    reports: list[tuple[str, int, int | None]] = []
    counts = write(
        tmp_path,
        seed=0,
        entities=80,
        tellings=3,
        exam_items=25,
        prompts=90,
        report=lambda *report: reports.append(report),
    )
    for name in ("facts", "changes", "instructions", "dialogues", "preferences", "prompts"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) == counts[name] > 0
    assert counts["prompts"] == 90
    assert set(counts["exams"]) == set(EXAMS) == {path.stem for path in (tmp_path / "exams").iterdir()}
    assert all(0 < count <= 25 for count in counts["exams"].values())
    assert set(counts["documents"]) == {
        "encyclopedia", "notes", "news", "letters", "faq", "arithmetic", "translation", "stories", "web",
    }  # fmt: skip
    for source, count in counts["documents"].items():
        rows = [json.loads(line) for line in (tmp_path / "documents" / f"{source}.jsonl").open(encoding="utf-8")]
        assert len(rows) == count
        assert sum(len(row["text"].encode()) for row in rows) == counts["bytes"][source]
        assert all(row["source"] == source and row["metadata"]["kind"] for row in rows)
    assert {what for what, _, _ in reports} >= {"documents", "facts", "instructions", "exams/facts"}
    assert all(total is None or done <= total for _, done, total in reports)


def test_more_prompts_hold_the_fewer_and_change_nothing_else(tmp_path):
    few, many = (
        write(tmp_path / name, seed=5, entities=60, tellings=1, exam_items=10, prompts=count)
        for name, count in (("few", 30), ("many", 70))
    )
    assert (few.pop("prompts"), many.pop("prompts")) == (30, 70) and few == many
    one, other = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert {name for name in one if one[name] != other[name]} == {"prompts.jsonl"}
    lines = [(tmp_path / name / "prompts.jsonl").read_text("utf-8").splitlines() for name in ("few", "many")]
    assert lines[1][:30] == lines[0]
