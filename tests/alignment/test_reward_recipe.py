"""A reward stage in a recipe: it needs no exam, its own gates stop the run, and the page shows its health."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.artifacts import Artifact, HanlinError
from hanlin.models.reward import load_reward_model
from hanlin.recipes.recipe import load_recipe, steps
from hanlin.recipes.report.build import write_report
from hanlin.recipes.results import collect, models_to_try
from hanlin.recipes.runner import run_recipe
from tests.alignment.toy import make_model, make_pairs

RECIPE = """\
name: judge
stages:
  judge:
    kind: reward
    model: {base}
    data: {data}
    validation_fraction: 0.3
    ensemble: 2
    loop: {{steps: 12, rows: 8, sequence_length: 128, precision: fp32, device: cpu,
            optimizer: {{learning_rate: 2e-3, head_learning_rate: 1e-2}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_model(tmp_path / "base")
    data = make_pairs(tmp_path / "rows.jsonl")
    file = tmp_path / "judge.yaml"
    file.write_text(RECIPE.format(base=tmp_path / "base", data=data))
    return file


def test_it_runs_without_an_exam_and_is_done_once(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(str(recipe), ["judge.least_accuracy=0.6"])
    assert [step.name for step in steps(loaded)] == ["judge"]
    run = run_recipe(loaded, tmp_path / "run")
    assert run.failed_gates == [] and models_to_try(run.artifacts) == []
    artifact = Artifact.load(tmp_path / "run/judge")
    names = set(artifact.manifest.files)
    assert {"config.json", "model.safetensors", "health.json", "distance.safetensors", "member-2/config.json"} <= names
    assert not any("checkpoints" in name for name in names) and artifact.check() == []
    load_reward_model(artifact.path)
    again = run_recipe(load_recipe(str(tmp_path / "run/recipe.yaml")), tmp_path / "run")
    assert again.artifacts["judge"].manifest.started == artifact.manifest.started

    page = write_report(tmp_path / "run").read_text()
    for text in ("held-out accuracy", "all pairs", "Held-out accuracy by confidence", "passed", "is better&#34; alone"):
        assert text in page
    assert collect(tmp_path / "run")["figures"]["judge"]["accuracy"] == artifact.figures["accuracy"]


def test_the_same_recipe_elsewhere_makes_the_same_content(recipe: Path, tmp_path: Path) -> None:
    one, two = (run_recipe(load_recipe(str(recipe)), tmp_path / name).artifacts["judge"] for name in ("one", "two"))
    assert one.manifest.content == two.manifest.content and one.id == two.id


def test_its_own_gate_stops_the_run_with_the_report_kept(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(load_recipe(str(recipe), ["judge.least_accuracy=0.999"]), tmp_path / "run")
    assert [gate["task"] for gate in run.failed_gates] == ["held-out pairs"]
    assert (tmp_path / "run/judge/health.json").is_file()
    assert "failed" in write_report(tmp_path / "run").read_text()


def test_an_exam_for_it_is_refused_and_other_training_still_needs_one(recipe: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(text + "exam:\n  judge: {tasks: [world/facts]}\n")
    with pytest.raises(HanlinError, match="of kind reward examines itself"):
        steps(load_recipe(str(recipe)))
    more = text + "  chat: {kind: sft, model: x, data: y}\n"
    recipe.write_text(more)
    with pytest.raises(HanlinError, match=r"(?s)has no `exam:`.*\n  chat:\n"):
        load_recipe(str(recipe))
    recipe.write_text(more + "  other: {kind: sft, model: x, data: y}\nexam:\n  other: {tasks: [world/facts]}\n")
    with pytest.raises(HanlinError, match="'chat' trains a model, but `exam:` has no entry"):
        steps(load_recipe(str(recipe)))
