import json

import pytest
import torch

from hanlin.artifacts import Silent
from hanlin.training.compiling import choose_compile
from hanlin.training.loop import train
from hanlin.training.precision import choose_precision, matmul_rate
from hanlin.training.settings import OptimizerSettings
from hanlin.training.telemetry import Metrics, curves
from tests.conftest import Told
from tests.training.toy import ToySource, evaluate, toy_job, toy_settings

torch.set_num_threads(1)


class OneBatch(ToySource):
    def tokens(self, step):
        return super().tokens(0)


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overfits_one_batch(tmp_path, name, precision):
    settings = toy_settings(optimizer=OptimizerSettings(name=name, learning_rate=0.02), precision=precision)
    figures = train(toy_job(60, OneBatch()), settings, tmp_path, 0, Silent())
    assert figures["loss"] < 0.1
    assert figures["precision"] == precision


def test_figures_and_metrics_say_what_happened(tmp_path):
    updates = []

    class Watching(Silent):
        def update(self, done, total, note=""):
            updates.append((done, total, note))

    job = toy_job(20)
    figures = train(job, toy_settings(micro_rows=3), tmp_path, 0, Watching())
    assert figures["steps"] == 20
    assert figures["tokens"] == 20 * 8 * 32
    assert figures["epochs"] == 0.02
    assert figures["flops"] == figures["tokens"] * 1e5
    assert figures["flops_per_second"] == pytest.approx(figures["flops"] / figures["seconds"])
    assert 0 < figures["matmul_share"] < 1
    validation = figures["validation"]
    assert validation["first"]["step"] == 0 and validation["last"]["step"] == 20
    assert validation["last"]["loss"] < validation["first"]["loss"]
    assert updates[-1][:2] == (20, 20) and "loss" in updates[-1][2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "batch" in line]
    assert [line["step"] for line in steps] == list(range(20))
    assert steps[0]["lr"] < steps[5]["lr"] or steps[0]["lr"] == 0.01
    assert {"loss", "grad_norm", "lr", "tokens", "tokens_per_second", "flops_per_second", "seconds"} <= steps[0].keys()
    json.dumps(figures, allow_nan=False)


def test_the_same_seed_gives_the_same_bits(tmp_path):
    finals = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = toy_job(10)
        train(job, toy_settings(), tmp_path / name, 3, Silent())
        finals.append([p.detach().clone() for p in job.model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*finals))


def test_finishing_with_the_best_weights(tmp_path):
    """On noise the validation loss rises again: the best model is an early one."""

    class Noise(ToySource):
        def tokens(self, step):
            if step == 10_000:
                return super().tokens(step)
            generator = torch.Generator().manual_seed(step if step < 12 else 1)
            return torch.randint(64, (self.rows, self.length + 1), generator=generator).numpy()

    source = Noise()
    job = toy_job(40, source)
    figures = train(job, toy_settings(finish_with="best", evaluate_every=4), tmp_path, 0, Silent())
    best = figures["validation"]["best"]
    assert best["step"] < 40
    assert evaluate(source)(job.model)["loss"] == pytest.approx(best["loss"], abs=1e-9)


def test_precision_is_measured_and_said():
    told, cpu = Told(), torch.device("cpu")
    chosen = choose_precision("auto", cpu, told)
    assert chosen in ("fp32", "bf16") and chosen in told.lines[0] and "GFLOP/s" in told.lines[0]
    assert choose_precision("bf16", cpu, told) == "bf16" and len(told.lines) == 1
    assert matmul_rate(torch.float32, cpu, 0.01, 256) > 1e8


def test_compiling_is_decided_by_the_length_of_the_run():
    cpu = torch.device("cpu")
    assert choose_compile(True, cpu, 0, 1e11, Silent()) is True
    assert choose_compile("auto", cpu, 1e11, 1e11, Silent()) is False
    assert choose_compile("auto", cpu, 1e16, 1e11, Silent()) is True


def test_decisions_are_kept_over_resumes(tmp_path):
    settings = toy_settings(precision="auto", compile="auto")
    first = train(toy_job(2), settings, tmp_path, 0, Silent())
    file = tmp_path / "checkpoints" / "decisions.json"
    stored = json.loads(file.read_text())
    assert stored["precision"] == first["precision"] and stored["compile"] is False
    stored["precision"] = {"fp32": "bf16", "bf16": "fp32"}[stored["precision"]]
    file.write_text(json.dumps(stored))
    assert train(toy_job(2), settings, tmp_path, 0, Silent())["precision"] == stored["precision"]


def test_metrics_are_cut_to_a_checkpoints_length(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write({"step": 0, "loss": 1.0, "seconds": 1.5})
    length = metrics.length
    metrics.write({"step": 1, "loss": float("nan"), "seconds": 2.5})
    metrics.file.write(b'{"step": 2, "lo')
    metrics.file.flush()
    again = Metrics(tmp_path / "metrics.jsonl")
    assert again.cut(length) == 2.5
    again.write({"step": 1, "loss": 2.0, "seconds": 3.0})
    assert [line["loss"] for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())] == [
        1.0,
        2.0,
    ]


def test_curves_are_thinned_to_means(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(1000):
        metrics.write({"step": step, "loss": float(step), "grad_norm": None if step == 1 else 2.0, "lr": 0.1})
    metrics.write({"step": 1000, "validation_loss": 3.0, "validation_bits_per_byte": 1.0})
    found = curves(tmp_path / "metrics.jsonl")
    assert len(found["step"]) <= 400 and found["step"][-1] == 999
    assert found["loss"][0] == 1.0 and found["grad_norm"][0] == 2.0
    assert found["validation"] == [{"step": 1000, "loss": 3.0, "bits_per_byte": 1.0}]


@pytest.mark.slow
def test_a_compiled_run_is_that_of_the_plain_one(tmp_path):
    """Up to rounding; and evaluations and the end run the blocks as they are written."""
    finals = []
    for name, compiled in (("plain", False), ("compiled", True)):
        (tmp_path / name).mkdir()
        job = toy_job(4)
        figures = train(job, toy_settings(compile=compiled, evaluate_every=2), tmp_path / name, 0, Silent())
        assert figures["compile"] is compiled
        assert all(block._compiled_call_impl is None for block in job.model.blocks)
        finals.append((figures["curves"]["loss"], figures["validation"]["last"]["loss"]))
    assert finals[0][0] == pytest.approx(finals[1][0], abs=1e-4)
    assert finals[0][1] == pytest.approx(finals[1][1], abs=1e-3)
