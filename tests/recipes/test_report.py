"""The report: one file with everything in it, and nothing from elsewhere."""

import json
import re
import shutil

import pytest

from hanlin.artifacts import Artifact
from hanlin.recipes.report.build import LINES, write_report
from tests.recipes.test_report_aligned import make


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the small run, to be changed."""
    return shutil.copytree(small_run, tmp_path / "run")


def change(run, stage, **figures):
    path = run / stage / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["figures"] |= figures
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_the_page_has_what_the_run_has(run):
    page = write_report(run).read_text(encoding="utf-8")
    artifacts = {name: Artifact.load(run / name) for name in ("corpus", "tokenizer", "tokens", "base", "chat")}
    for name, artifact in artifacts.items():
        assert f'id="{name}"' in page
        assert artifact.id[:12] in page
    records = artifacts["corpus"].figures["ledger"]["records"]
    pipeline = page[page.index('id="pipeline"') : page.index('id="exams"')]
    assert f"{records['kept']:,} kept" in pipeline
    assert "700 tokens in the vocabulary" in pipeline
    exam = Artifact.load(run / "chat-exam").figures
    for task, metrics in exam["tasks"].items():
        assert task in page
        for entry in metrics.values():
            assert f"{entry['low']:.3f}–{entry['high']:.3f}" in page
    before = exam["before"]["world/facts"]["accuracy"]
    assert f"{before['low']:.3f}–{before['high']:.3f} · {before['n']}" in page
    assert page.count("<svg") >= 8
    assert "Questions, and what dpo answers" in page


def test_nothing_is_fetched_from_anywhere(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "@import" not in page and "url(http" not in page and "<script src" not in page
    assert "prefers-color-scheme: dark" in page


def test_spikes_are_marked_in_the_curves(run):
    calm = write_report(run).read_text(encoding="utf-8")
    curves = Artifact.load(run / "base").figures["curves"]
    change(run, "base", curves={**curves, "spikes": [{"step": 7, "batch": 7, "reason": "loss"}]})
    page = write_report(run).read_text(encoding="utf-8")
    assert "spike at step 7" in page and "spike at step" not in calm
    assert "1 spike, marked in the curves" in page


def test_a_failed_gate_and_hostile_output_are_shown_as_text(run):
    verdict = {"passed": False, "task": "world/facts", "text": "a loss of <b>0.1</b>"}
    change(run, "chat-exam", gates=[verdict])
    file = run / "chat-exam/records/world/facts.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows[0]["output"] = "<script>alert(1)</script>"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "failed" in page and "a loss of &lt;b&gt;0.1&lt;/b&gt;" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_rows_that_were_left_out_are_a_short_list(tmp_path):
    left_out = [f"pairs.jsonl, row {n} (line {n}): <b>{'x' * 300 if n == 1 else 'same'}</b>" for n in range(1, 21)]
    groups = {"read": 1300, "kept": 64, "dropped": 1236, "dropped_rows": left_out}
    data = {
        "quarantined": 2,
        "quarantined_rows": ["a.jsonl: empty", "b.jsonl: empty"],
        "groups": groups,
        "notes": ["two", "notes"],
    }
    make(tmp_path, "dpo", "preference", figures={"data": data})
    (tmp_path / "recipe.yaml").write_text("stages: {dpo: {kind: preference}}\nexam: {}\n", encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    (first, second, third) = re.findall(r'<td><ul class="lines">(.*?)</ul></td>', page, re.DOTALL)
    assert first == "<li>a.jsonl: empty</li><li>b.jsonl: empty</li>"
    assert third == "<li>two</li><li>notes</li>"
    lines = re.findall("<li[^>]*>(.*?)</li>", second)
    assert len(lines) == LINES + 1 and lines[-1] == "and 1,231 more"
    assert lines[0].endswith("x…") and lines[1] == "pairs.jsonl, row 2 (line 2): &lt;b&gt;same&lt;/b&gt;"
    assert "row 6 " not in page and "[&#34;" not in page
