"""Killed at any moment and started again, a run ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hanlin.artifacts import HanlinError, Silent, read_jsonl
from hanlin.training.loop import train
from tests.conftest import Told
from tests.training.toy import ToySource, toy_job, toy_settings

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]


def run(
    folder: Path, options: dict, kills: int, share: float = 0.3, seed: int = 0, module: str = "tests.training.toy"
) -> tuple[Path, Path]:
    """Train in `whole` without a kill, and in `killed` with them, each within `share` of the time `whole` took."""
    command = ["-m", "tests.training.killer", module, str(folder), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *command, str(kills), str(share), str(seed)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "whole", folder / "killed"


def assert_same(one: Path, two: Path) -> None:
    first, second = load_file(one / "final.safetensors"), load_file(two / "final.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    # Everything in the metrics but the clock is the same too: no line is missing, none stands twice.
    clock = ("seconds", "tokens_per_second", "flops_per_second")
    lines = [
        [{key: value for key, value in line.items() if key not in clock} for line in read_jsonl(path / "metrics.jsonl")]
        for path in (one, two)
    ]
    assert lines[0] == lines[1]
    reports = [{file.name: file.read_text() for file in (path / "spikes").glob("*.json")} for path in (one, two)]
    assert reports[0] == reports[1]


CASES = {
    "muon": {"optimizer": "muon", "steps": 45},
    "adamw, with spikes": {"optimizer": "adamw", "steps": 45, "junk": [28, 29, 38]},
}


@pytest.mark.parametrize("name", ["adamw, with spikes", pytest.param("muon", marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, name):
    whole, killed = run(tmp_path, CASES[name], kills=4, seed=len(name))
    assert (killed / "kills.jsonl").read_text().count("\n") >= 3
    assert_same(whole, killed)
    if "junk" in CASES[name]:
        assert len(json.loads((whole / "figures.json").read_text())["spikes"]) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_killed_many_times(tmp_path, optimizer, precision):
    junk = [45, 46, 47, 60, 90, 91]
    options = {"optimizer": optimizer, "steps": 110, "junk": junk, "precision": precision}
    assert_same(*run(tmp_path, options, kills=15, seed=len(optimizer + precision)))


def test_checkpoints_on_the_clock_do_not_change_the_result(tmp_path):
    finals = []
    for name, minutes in (("often", 1e-6), ("never", 1e6)):
        job = toy_job(25)
        (tmp_path / name).mkdir()
        train(job, toy_settings(checkpoint_minutes=minutes), tmp_path / name, 0, Silent())
        finals.append([p.detach().clone() for p in job.model.parameters()])
    for one, two in zip(*finals):
        assert torch.equal(one, two)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, number):
    class Interrupting(ToySource):
        def step(self, step: int, rank: int = 0, ranks: int = 1):
            if step == 13 and not (tmp_path / "done").exists():
                (tmp_path / "done").touch()
                os.kill(os.getpid(), number)
            return super().step(step, rank, ranks)

    before = signal.getsignal(number)
    progress = Told()
    with pytest.raises(KeyboardInterrupt):
        train(toy_job(25, Interrupting()), toy_settings(), tmp_path, 0, progress)
    assert signal.getsignal(number) == before
    assert "after step 14 of 25" in progress.lines[-1]
    assert (tmp_path / "checkpoints" / "00000014").is_dir()
    job = toy_job(25)
    figures = train(job, toy_settings(), tmp_path, 0, progress)
    assert figures["steps"] == 25
    whole = toy_job(25)
    (tmp_path / "whole").mkdir()
    train(whole, toy_settings(), tmp_path / "whole", 0, Silent())
    for one, two in zip(job.model.parameters(), whole.model.parameters()):
        assert torch.equal(one, two)


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path):
    job = toy_job(12)
    first = train(job, toy_settings(), tmp_path, 0, Silent())
    again = toy_job(12)
    second = train(again, toy_settings(), tmp_path, 0, Silent())
    for one, two in zip(job.model.parameters(), again.model.parameters()):
        assert torch.equal(one, two)
    assert second["seconds"] >= first["curves"]["step"][-1] * 0
    assert second["curves"] == first["curves"]
    assert second["steps"] == 12


def test_seconds_add_up_over_resumes(tmp_path):
    train(toy_job(12), toy_settings(), tmp_path, 0, Silent())
    state = json.loads((tmp_path / "checkpoints" / "00000012" / "state.json").read_text())
    state["seconds"] = 100.0
    (tmp_path / "checkpoints" / "00000012" / "state.json").write_text(json.dumps(state))
    assert 100 < train(toy_job(12), toy_settings(), tmp_path, 0, Silent())["seconds"] < 110


def test_another_models_checkpoint_is_refused(tmp_path):
    train(toy_job(3), toy_settings(), tmp_path, 0, Silent())
    from tests.training.toy import tiny_model

    with pytest.raises(HanlinError, match="does not fit the model"):
        train(toy_job(3, model=tiny_model(hidden_size=48)), toy_settings(), tmp_path, 0, Silent())
