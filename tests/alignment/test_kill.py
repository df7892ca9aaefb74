"""Killed by SIGKILL at any moment and run again, every alignment stage ends with the same bits.

Each scenario is a recipe that is run once undisturbed, and once killed at one moment after the other.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hanlin.artifacts import POLICY_KINDS, Artifact, hash_file, read_jsonl
from hanlin.models import Transformer
from hanlin.models.hub import load_model, save_model
from hanlin.models.reward import RewardModel, save_reward_model
from hanlin.recipes.registry import get_stage
from hanlin.tokenization import Tokenizer
from tests.alignment.dying import attempt
from tests.alignment.toy import make_pairs, make_rankings, tiny_config
from tests.data.corpora import make_shards
from tests.processes import begin

torch.set_num_threads(1)

LOOP = {"rows": 8, "micro_rows": 8, "sequence_length": 128, "precision": "fp32", "device": "cpu", "steps": 12}
LOOP |= {"checkpoint_every": 4, "evaluate_every": 5, "keep_checkpoints": 1, "optimizer": {"learning_rate": 2e-3}}
PAIRS = {"model": "MODEL", "data": "pairs.jsonl", "loop": LOOP}
DIRECT = PAIRS | {"kind": "preference"}
ASKED = {"model": "MODEL", "data": "prompts.jsonl", "program": "exact", "max_new_tokens": 8}
# Rollouts of four steps and checkpoints at every third: one is before a rollout, some are within it.
ONLINE = ASKED | {"kl": {"target": 0.5, "horizon": 100}, "loop": LOOP | {"checkpoint_every": 3}}
PPO = ONLINE | {"kind": "ppo", "rollout": {"prompts": 16, "inner_epochs": 2}}
STOPPED = PPO | {"rollout": {"prompts": 16, "inner_epochs": 3, "early_stop": 1e-9}}
GROUPS = ONLINE | {"rollout": {"prompts": 4, "samples": 4, "inner_epochs": 2}}
BEST = ASKED | {"kind": "best-of-n", "samples": 4, "max_new_tokens": 40}
WRITTEN = {"model": "MODEL", "data": "prompts.jsonl", "pairs": "pairs.jsonl", "most_pairs": 8, "max_new_tokens": 40}
CONSTITUTION = WRITTEN | {"kind": "constitution", "batch": 8, "least_mass": 0.0}

SCENARIOS: dict[str, tuple[dict[str, Any], str]] = {
    "dpo": (DIRECT | {"loss": "dpo"}, "reference@2 reference@3 step@3 step@7 checkpoint@1 written@2 model@1"),
    "ipo": (DIRECT | {"loss": "ipo"}, "reference@3 step@7"),
    "kto": (DIRECT | {"loss": "kto"}, "reference@2 step@7 reference@3 checkpoint@1"),
    "orpo": (DIRECT | {"loss": "orpo"}, "step@7 checkpoint@1"),
    "simpo": (DIRECT | {"loss": "simpo"}, "step@7 finished@1"),
    "robust-dpo": (DIRECT | {"loss": "robust-dpo"}, "reference@2 step@7"),
    "dpo, adapters": (DIRECT | {"lora": {"rank": 4}}, "reference@3 step@7 model@1"),
    "rrhf": (PAIRS | {"kind": "rrhf", "data": "rankings.jsonl"}, "step@7 checkpoint@1"),
    "reward": (PAIRS | {"kind": "reward"}, "step@7 checkpoint@1 judged@1 judged@2"),
    "ensemble": (PAIRS | {"kind": "reward", "ensemble": 2}, "step@7 step@13 model@2 judged@3 cleaned@1"),
    "ppo": (PPO, "token@3 scored@1 rollout@1 unnamed@1 rolled@1 step@6 token@3 rolled@1 checkpoint@2 model@1"),
    "ppo, reward": (PPO | {"reward": "REWARD"}, "rewarded@3 scored@2 step@6 rolled@1"),
    "ppo, text": (PPO | {"text": "TEXT", "text_rows": 2}, "step@6 rolled@1"),
    "ppo, adapters": (PPO | {"lora": {"rank": 4}}, "scored@2 step@6 rolled@1"),
    "ppo, early stop": (STOPPED, "unnamed@2 step@5 rolled@1 unnamed@3"),
    "grpo": (GROUPS | {"kind": "grpo"}, "token@3 rolled@1 step@6 unnamed@1"),
    "rloo": (GROUPS | {"kind": "rloo"}, "rollout@1 step@6 scored@2 checkpoint@1"),
    "best-of-n": (BEST, "token@9 rewarded@7 rewarded@20"),
    "constitution": (CONSTITUTION, "token@9 piece@2 token@5 piece@2 piece@3 finished@1"),
}
"""Settings of a stage (what is in capital letters stands in `given`), and when its run is killed: see `MOMENTS`"""
CLOCK = ("seconds", "tokens_per_second", "flops_per_second", "matmul_share")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, texts and data that the scenarios name."""
    folder = tmp_path_factory.mktemp("given")
    tokenizer = Tokenizer.bytes()
    model = Transformer(tiny_config(tokenizer, layers=1, max_positions=4096))
    model.init_weights(5)
    save_model(folder / "MODEL", model, tokenizer)
    save_reward_model(folder / "REWARD", RewardModel.init_from(load_model(folder / "MODEL"), 6), tokenizer)
    make_shards(folder / "TEXT", [300, 200, 400])
    (folder / "TEXT/tokenizer").mkdir()
    shutil.copy(folder / "MODEL/tokenizer.json", folder / "TEXT/tokenizer")
    tokens = np.fromfile(folder / "TEXT/train.bin", np.uint16)
    (tokens % 200).tofile(folder / "TEXT/train.bin")
    make_pairs(folder / "pairs.jsonl", 70)
    make_rankings(folder / "rankings.jsonl", 70)
    rows = [{"prompt": f"say {number}", "answers": ["a"]} for number in range(12)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "quiz.yaml").write_text("name: quiz\nkind: choice\ndata: quiz.jsonl\n")
    (folder / "quiz.jsonl").write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n')
    return folder


def write_recipe(given: Path, settings: dict[str, Any], path: Path) -> None:
    """The stage with the least exam, or, where it makes data, with a stage that learns from them."""
    bodies = {"made": settings}
    if settings["kind"] in ("best-of-n", "constitution"):
        bodies["learned"] = DIRECT | {"data": None, "preferences": "made", "loop": LOOP | {"steps": 2}}
    names = [file.name for file in given.iterdir()]
    for name, body in bodies.items():
        bodies[name] = {key: str(given / value) if value in names else value for key, value in body.items()}
    exam = {"tasks": [str(given / "quiz.yaml")], "before": None, "random_row": False}
    exams = {name: exam for name, body in bodies.items() if body["kind"] in POLICY_KINDS}
    # JSON is YAML.
    path.write_text(json.dumps({"name": "killed", "seed": 3, "stages": bodies, "exam": exams}))


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_clock(inner) for name, inner in value.items() if name not in CLOCK}
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value


def assert_same(whole: Path, killed: Path) -> None:
    """Every file, byte by byte; figures and journals but for the clock; and nothing is left over."""
    one, two = (sorted(path.name for path in folder.iterdir()) for folder in (whole, killed))
    assert one == two
    assert not any((killed / ".building").iterdir())
    assert (whole / "recipe.yaml").read_text() == (killed / "recipe.yaml").read_text()
    for ours in map(Artifact.load, sorted(path.parent for path in whole.glob("*/manifest.json"))):
        theirs = Artifact.load(killed / ours.path.name)
        assert theirs.check() == []
        journal = get_stage(ours.manifest.kind).journal
        for name, entry in ours.manifest.files.items():
            if name in journal:
                assert without_clock(read_jsonl(ours.path / name)) == without_clock(read_jsonl(theirs.path / name))
            else:
                assert entry == theirs.manifest.files[name], name
        assert ours.id == theirs.id and ours.manifest.content == theirs.manifest.content
        assert without_clock(ours.figures) == without_clock(theirs.figures)


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_and_run_again(name: str, given: Path, tmp_path: Path) -> None:
    settings, moments = SCENARIOS[name]
    recipe, log = tmp_path / "killed.yaml", tmp_path / "said.log"
    write_recipe(given, settings, recipe)

    def run(directory: str, moment: str = "") -> int | None:
        process = begin(attempt, recipe, tmp_path / directory, moment, said=log)
        process.join(120)
        return process.exitcode

    assert run("whole") == 0, log.read_text()
    for moment in moments.split():
        assert run("killed", moment) == -signal.SIGKILL, f"{moment} {log.read_text()}"
    assert run("killed") == 0, log.read_text()
    assert_same(tmp_path / "whole", tmp_path / "killed")

    # And the run was no idle one.
    made = Artifact.load(tmp_path / "whole/made")
    if "model.safetensors" in made.manifest.files:
        assert made.manifest.files["model.safetensors"].sha256 != hash_file(given / "MODEL/model.safetensors")
    if "rollouts" in made.figures:
        told = read_jsonl(made.path / "rollouts.jsonl")
        assert len(told) >= 3 and len({one["coefficient"] for one in told}) >= 3
        assert any(one["stopped"] for one in told) == ("early_stop" in settings["rollout"])
