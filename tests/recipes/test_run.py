"""A run as a whole: killed anywhere it ends the same; changed it makes anew only what depends on the change."""

import json
import os
import random
import signal

import pytest

from hanlin.artifacts import Artifact, HanlinError, run_lock
from hanlin.recipes.recipe import load_recipe
from hanlin.recipes.runner import Reporter, run_recipe
from tests.conftest import SMALL_WORLD
from tests.processes import begin, command_line, hanlin


@pytest.mark.slow
def test_the_resolved_recipe_killed_again_and_again_is_the_same_run(small_run, tmp_path):
    out = tmp_path / "killed"
    command = ["run", str(small_run / "recipe.yaml"), "--out", str(out)]
    assert hanlin("--version").returncode == 0  # from here on no process waits for another to begin
    moments = random.Random(7)
    kills = 0
    for _ in range(4):
        process = begin(command_line, command, said=tmp_path / "said.log")
        process.join(moments.uniform(0.5, 5.0))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    done = hanlin(*command)
    assert done.returncode == 0, done.stderr
    assert kills >= 2
    stages = {path.parent.name for path in small_run.glob("*/manifest.json")}
    assert {"world", "corpus", "tokenizer", "tokens", "base", "base-exam", "chat", "chat-exam"} <= stages
    for stage in stages:
        ours, theirs = Artifact.load(out / stage).manifest, Artifact.load(small_run / stage).manifest
        assert ours.id == theirs.id
        assert ours.content == theirs.content
        weights = {name: entry.sha256 for name, entry in ours.files.items() if name != "metrics.jsonl"}
        assert weights == {name: theirs.files[name].sha256 for name in weights}
    assert not any((out / ".building").iterdir())


def _small(*more):
    """The demo's stages before anything is trained."""
    kept = ("world", "corpus", "tokenizer", "tokens")
    recipe = load_recipe("world", [*(word for word in SMALL_WORLD if word.startswith(kept)), *more])
    recipe.stages, recipe.exam = {name: recipe.stages[name] for name in kept}, {}
    return recipe


class Watcher(Reporter):
    def __init__(self):
        self.made, self.reused = [], []

    def end(self, name, artifact, reused):
        (self.reused if reused else self.made).append(name)


def test_a_change_makes_anew_what_depends_on_it_and_changing_back_costs_nothing(tmp_path):
    first, second, third, fourth = Watcher(), Watcher(), Watcher(), Watcher()
    run_recipe(_small(), tmp_path, first)
    assert first.made == ["world", "corpus", "tokenizer", "tokens"]
    ids = {name: Artifact.load(tmp_path / name).id for name in first.made}
    run_recipe(_small("tokenizer.vocabulary_size=600"), tmp_path, second)
    assert second.made == ["tokenizer", "tokens"]
    run_recipe(_small(), tmp_path, third)
    assert third.made == []
    assert {name: Artifact.load(tmp_path / name).id for name in ids} == ids
    # A damaged artifact is noticed and made again, with the same content.
    content = Artifact.load(tmp_path / "tokens").manifest.content
    (tmp_path / "tokens/train.bin").write_bytes(b"x")
    run_recipe(_small(), tmp_path, fourth)
    assert fourth.made == ["tokens"]
    assert Artifact.load(tmp_path / "tokens").manifest.content == content


def test_what_a_kill_cut_short_does_not_get_into_the_artifact(tmp_path, monkeypatch):
    run_recipe(_small(), tmp_path / "whole")
    monkeypatch.setattr("hanlin.recipes.runner.finish", _killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(_small(), tmp_path / "cut")
    monkeypatch.undo()
    (work,) = (tmp_path / "cut/.building").glob("world-????????????")
    (work / ".facts.jsonl.abc.part").write_bytes(b"half a fi")
    (work / "documents/.faq.jsonl.abc.part").write_bytes(b"half a")
    run_recipe(_small(), tmp_path / "cut")
    whole, cut = (Artifact.load(tmp_path / name / "world").manifest for name in ("whole", "cut"))
    assert whole.content == cut.content and set(whole.files) == set(cut.files)


def _killed(*_):
    raise KeyboardInterrupt


def test_the_seed_counts(tmp_path):
    run_recipe(_small("seed=1"), tmp_path / "one")
    run_recipe(_small("seed=2"), tmp_path / "two")
    one, two = (Artifact.load(tmp_path / name / "world").manifest for name in ("one", "two"))
    assert one.id != two.id
    assert one.content != two.content


def test_a_second_run_on_the_same_directory_is_told_who_holds_it(tmp_path):
    with run_lock(tmp_path), pytest.raises(HanlinError, match="holds its lock"):
        run_recipe(_small(), tmp_path)


def test_a_failed_gate_stops_the_run_and_keeps_the_exam(small_run, tmp_path):
    words = [word for word in SMALL_WORLD if not word.startswith("exam.base.gates")]
    gate = "exam.base.gates=[{task: world/choice, metric: accuracy, require: better}]"
    done = hanlin("run", "world", *words, gate, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "the gate on world/choice failed" in done.stderr
    assert not (tmp_path / "run/chat").exists()
    exam = Artifact.load(tmp_path / "run/base-exam")
    assert [verdict["passed"] for verdict in exam.figures["gates"]] == [False]
    found = json.loads(hanlin("results", tmp_path / "run", "--json").stdout)
    assert found["stages"]["base"]["gates"][0]["passed"] is False
    assert (tmp_path / "run/report.html").is_file()
