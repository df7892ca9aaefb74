"""Aligned stages beside their parents: the pairs are the right ones, and both the page and the terminal show them."""

import io
import json
import re
import shutil

import pytest
import yaml
from rich.console import Console

from hanlin.artifacts import Artifact, Manifest
from hanlin.artifacts.store import InputEntry
from hanlin.cli.console import against_table, show_against
from hanlin.recipes.against import against_parents, described, gained
from hanlin.recipes.report.aligned import exchanges, size, trained_table, wins
from hanlin.recipes.report.build import write_report
from hanlin.recipes.results import collect, open_run

MEMORY = {"weights": 400, "working_copy": 0, "gradients": 400, "optimizer": 800, "held": 1600, "peak": None}
PARAMETERS = {"total": 100, "non_embedding": 60, "trained": 100, "trained_share": 1.0, "frozen_bytes": 0}


def make(run, name, kind, inputs=None, figures=None, settings=None, fingerprint=None):
    """An artifact of `run` that holds nothing but its manifest."""
    given = {
        key: InputEntry(id=f"id of {other}", content=f"content of {other}", path=f"../{other}")
        for key, other in (inputs or {}).items()
    }
    manifest = Manifest(
        id=f"id of {name}", content=f"content of {name}", stage=name, kind=kind, version=1, settings=settings or {},
        seed=1, inputs=given, fingerprint=fingerprint, code={}, environment={}, figures=figures or {},
        started="2026-01-01T00:00:00+0000", seconds=1.0, files={},
    )  # fmt: skip
    (run / name).mkdir(exist_ok=True)
    (run / name / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")


def records(folder, task, rows):
    """`rows`: item → (question, values)."""
    file = folder / f"{task}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": item, "question": question, "output": "…", "correct": True, "values": values, "tags": {}}
        for item, (question, values) in rows.items()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def figure(value):
    return {"value": value, "low": value, "high": value, "n": 1, "standard_error": 0.0}


TASKS = {
    "world/replies": {"score": figure(0.5), "accuracy": figure(0.5), "invented": figure(0.1)},
    "world/facts": {"accuracy": figure(0.5), "refused": figure(0.1)},
    "world/choice": {"accuracy": figure(0.5), "accuracy_per_byte": figure(0.5)},
    "corpus/bits-per-byte": {"bits_per_byte": figure(1.0)},
}


def exam(run, of, before, answers, of_parent=None, dtype="float32"):
    """An exam of `of`; `answers`: task → records, `of_parent`: the same of the model before, as the exam asked it."""
    inputs = {"model": of, **({"before": before} if before else {})}
    tasks = {task: TASKS[task] for task in answers}
    settings = {"model": of, "before": before, "dtype": dtype}
    print_of = {task: {"task": "as described"} for task in answers}
    make(run, f"{of}-exam", "exam", inputs, {"tasks": tasks, "random": {}, "before": {}}, settings, print_of)
    for task, rows in answers.items():
        records(run / f"{of}-exam" / "records", task, rows)
    for task, rows in (of_parent or {}).items():
        records(run / f"{of}-exam" / "before", task, rows)


def scores(*values, kind="score"):
    return {f"item {place}": (f"question {place}", {kind: value}) for place, value in enumerate(values)}


@pytest.fixture
def run(tmp_path):
    """base → chat → ppo, ppo with pretraining text, dpo; best-of-n of chat."""
    examined = ("base", "chat", "ppo", "ptx", "dpo")
    recipe = {"stages": {name: {} for name in (*examined, "best")}, "exam": {name: {} for name in examined}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    learned = {"parameters": PARAMETERS, "memory": MEMORY, "precision": "fp32", "steps": 2, "tokens": 10}
    make(tmp_path, "base", "pretrain", figures={"parameters": PARAMETERS})
    make(tmp_path, "chat", "sft", {"model": "base"}, learned)
    ppo = {**learned, "parameters": {**PARAMETERS, "trained_beside": 101}}
    make(tmp_path, "ppo", "ppo", {"model": "chat"}, ppo, {"text": None, "text_weight": 0.5})
    make(tmp_path, "ptx", "ppo", {"model": "chat"}, ppo, {"text": "tokens", "text_weight": 0.25})
    make(tmp_path, "dpo", "preference", {"model": "chat"}, learned, {"lora": {"rank": 4}})
    curve = [{"n": 1, "kl_bound": 0.0, "reward": 0.1}, {"n": 2, "kl_bound": 0.193, "reward": 0.2}]
    make(tmp_path, "best", "best-of-n", {"model": "chat"}, {"asked": 3, "best_of": curve})
    exam(tmp_path, "base", None, {"world/facts": scores(1, 0, 0, kind="accuracy")})
    bits = {f"document {n}": (f"text {n}", {"bits": 80.0 + n, "bytes": 100.0}) for n in range(6)}
    more = {item: (text, {**values, "bits": values["bits"] + 10}) for item, (text, values) in bits.items()}
    chat = {"world/replies": scores(0.5, 0, 1, 0, 0, 0), "corpus/bits-per-byte": bits}
    exam(tmp_path, "chat", "base", chat, {"world/replies": scores(0, 0, 0)})
    asked = {"world/replies": scores(0.5, 0), "corpus/bits-per-byte": bits}
    better = {"world/replies": scores(1, 0, 0.5, 1, 1, 1), "corpus/bits-per-byte": more}
    exam(tmp_path, "ppo", "chat", better, asked)
    exam(tmp_path, "ptx", "chat", {**better, "corpus/bits-per-byte": bits}, asked)
    exam(tmp_path, "dpo", "chat", {"world/replies": scores(0.5, 0, 1, 0, 0, 0)}, {"world/replies": scores(0.5, 0)})
    return tmp_path


def row_of(found, stage, task, metric):
    rows = next(entry["rows"] for entry in found if entry["stage"] == stage)
    (row,) = [row for row in rows if (row["task"], row["metric"]) == (task, metric)]
    return row


def test_wins_ties_and_losses_are_counted_on_the_same_items(run):
    found = against_parents(open_run(run))
    assert [entry["stage"] for entry in found] == ["ppo", "ptx", "dpo"]
    assert {entry["parent"] for entry in found} == {"chat"} and not any(entry["note"] for entry in found)
    row = row_of(found, "ppo", "world/replies", "score")
    # Two were asked of chat in ppo's exam; the other four are taken from chat's own.
    assert (row["wins"], row["ties"], row["losses"], row["n"]) == (4, 1, 1, 6)
    assert (row["a"], row["b"]) == pytest.approx((0.25, 0.75)) and row["difference"] == pytest.approx(0.5)
    assert row["win_rate"]["value"] == pytest.approx(4.5 / 6)
    assert 0 < row["p_value"] <= 1 and row["judged"]
    same = row_of(found, "dpo", "world/replies", "score")
    assert (same["wins"], same["ties"], same["losses"], same["p_value"]) == (0, 6, 0, 1.0)


def test_the_tax_is_told_in_the_metric_s_own_direction(run):
    found = against_parents(open_run(run))
    row = row_of(found, "ppo", "corpus/bits-per-byte", "bits_per_byte")
    assert row["difference"] == pytest.approx(0.1) and (row["wins"], row["losses"]) == (0, 6)
    assert gained(row) is False  # all six are worse: p = 2/64
    assert row["p_value"] == pytest.approx(2 / 64)
    spared = row_of(found, "ptx", "corpus/bits-per-byte", "bits_per_byte")
    assert spared["difference"] == 0 and gained(spared) is None
    assert gained({"p_value": 0.01, "difference": -0.1, "metric": "refused"}) is True
    assert gained({"p_value": 0.01, "difference": -0.1, "metric": "accuracy"}) is False


def test_other_questions_under_the_same_ids_are_not_paired(run):
    other = {item: ("another question", values) for item, (_, values) in scores(0, 0, 0, 0, 0, 0).items()}
    records(run / "chat-exam" / "records", "world/replies", other)
    row = row_of(against_parents(open_run(run)), "ppo", "world/replies", "score")
    assert row["n"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"model": "chat", "before": "base", "dtype": "bfloat16"}},
        {"fingerprint": {"world/replies": {"task": "described otherwise"}}},
        {"inputs": {"model": "base"}},
    ],
)
def test_an_exam_held_otherwise_does_not_speak_for_the_parent(run, change):
    known = Artifact.load(run / "chat-exam").manifest
    given = {"inputs": {"model": "chat"}, "settings": known.settings, "fingerprint": known.fingerprint, **change}
    make(run, "chat-exam", "exam", given["inputs"], known.figures, given["settings"], given["fingerprint"])
    assert row_of(against_parents(open_run(run)), "ppo", "world/replies", "score")["n"] == 2


def test_only_a_task_s_first_metric_and_its_failings_are_compared(run):
    values = {"accuracy": 1.0, "refused": 0.0, "accuracy_per_byte": 1.0}
    rows = {f"item {n}": (f"q {n}", values) for n in range(3)}
    exam(run, "dpo", "chat", {"world/facts": rows, "world/choice": rows}, {"world/facts": rows, "world/choice": rows})
    found = against_parents(open_run(run))[-1]["rows"]
    assert [(row["task"], row["metric"]) for row in found] == [
        ("world/facts", "accuracy"), ("world/facts", "refused"), ("world/choice", "accuracy"),
    ]  # fmt: skip


def test_what_is_not_aligned_is_not_compared_and_what_is_missing_is_said(run):
    (run / "ppo-exam" / "manifest.json").unlink()
    exam(run, "ptx", None, {"world/replies": scores(1, 1)})
    shutil.rmtree(run / "dpo-exam" / "before")
    (run / "chat-exam" / "manifest.json").unlink()
    notes = [entry["note"] for entry in against_parents(open_run(run))]
    assert notes == [
        "the exam of ppo has not been held yet",
        "the exam of ptx has no `before`, the model to compare with",
        "the exam of dpo shares too few items with that of the model before to be compared",
    ]
    page = write_report(run).read_text(encoding="utf-8")
    assert notes[0] in page and "Win rate by stage" not in page
    assert against_parents({name: one for name, one in open_run(run).items() if name in ("base", "chat")}) == []


def test_a_model_tuned_again_after_chat_is_aligned_too(run):
    make(run, "dpo", "sft", {"model": "chat"})
    found = {entry["stage"]: entry for entry in against_parents(open_run(run))}
    assert "dpo" in found and "chat" not in found


def test_with_and_without_pretraining_text_is_said(run):
    found = against_parents(open_run(run))
    assert [described(entry) for entry in found] == [
        "ppo, no pretraining text", "ppo, pretraining text × 0.25", "preference",
    ]  # fmt: skip
    table = exchanges(found)
    assert [one["stage"] for one in table["stages"]] == ["ppo", "ptx"]
    (row,) = table["rows"]
    assert [cell["difference"] for cell in row["cells"]] == pytest.approx([0.1, 0.0])
    assert [sum(row["shares"]) for row in wins(found)] == pytest.approx([1, 1, 1])


def test_parameters_and_memory_are_listed(run):
    rows = {row["stage"]: row for row in trained_table(open_run(run))}
    assert list(rows) == ["base", "chat", "ppo", "ptx", "dpo"]
    assert rows["base"]["memory"] == {} and rows["chat"]["memory"]["held"] == 1600
    assert rows["ppo"]["beside"] == 101 and rows["dpo"]["lora"] == "LoRA, rank 4"
    assert [size(count) for count in (0, 999, 1234, 5e6, 7.8e10, 2e12)] == [
        "0 B", "999 B", "1.23 kB", "5 MB", "78 GB", "2 TB",
    ]  # fmt: skip


def test_the_page_shows_it_all(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r">\s*(nan|None|inf)\s*<", page)
    wins_part = page[page.index("Win rate by stage") : page.index("the alignment tax")]
    assert "4 / 1 / 1" in re.sub(r"\s+", " ", wins_part) and "0.250 → 0.750" in wins_part
    tax = page[page.index("the alignment tax") : page.index('id="training"')]
    assert "ptx against chat" in tax and "ppo, pretraining text × 0.25" in tax
    assert re.search(r'class="bad"><b>\+0\.100', tax)
    memory = page[page.index('id="training"') : page.index('id="best"')]
    assert "1.6 kB" in memory and "not noted by the version that trained it" in memory and "LoRA, rank 4" in memory
    best = page[page.index('id="best"') :]
    assert "Reward of the best of n" in best and "no fit: 2 distances, and a fit needs 6" in best
    assert "<span>from chat</span>" in page  # dpo does not follow ptx, which stands before it


def test_the_terminal_and_programs_get_the_same(run):
    console = Console(width=120, record=True, file=io.StringIO())
    show_against(console, open_run(run))
    shown = console.export_text()
    assert "ppo against chat" in shown and "4/1/1" in shown and "+0.100" in shown
    assert "0.75 [" in shown and "ppo, pretraining text × 0.25" in shown
    assert against_table([]).row_count == 0
    found = json.loads(json.dumps(collect(run), allow_nan=False))
    assert row_of(found["against"], "ppo", "world/replies", "score")["wins"] == 4
