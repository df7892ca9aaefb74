"""Noise on the embeddings: how much, where, when; and that an interrupted run draws the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hanlin.data.batch import Batch
from hanlin.training.neftune import document_lengths, with_noise
from hanlin.training.objectives import LossParts, next_token, token_losses
from tests.training.toy import ToySource, tiny_model

torch.set_num_threads(1)


def batch():
    """Two rows of 24: documents of 10 and 6 and padding, and one document of 20 and padding."""
    positions = torch.tensor([[*range(10), *range(6), *range(8)], [*range(20), *range(4)]])
    labels = torch.full((2, 24), -100)
    labels[0, 5:10], labels[0, 12:16], labels[1, 3:9] = 1, 2, 3
    documents = torch.tensor([[0] * 10 + [1] * 6 + [2] * 8, [0] * 20 + [1] * 4], dtype=torch.int32)
    return Batch(torch.randint(0, 60, (2, 24)), labels, positions, documents)


def seen(model, given, alpha, times=1):
    """[times, B, T, d] what the embedding hands on, without what it holds."""
    clean = model.embedding(given.input_ids).detach()
    found = []

    def objective(model, batch):
        found.append(model.embedding(batch.input_ids).detach() - clean)
        return LossParts(torch.zeros(()), torch.ones(()))

    for _ in range(times):
        with_noise(objective, alpha)(model, given)
    return torch.stack(found)


def test_lengths_are_those_of_documents_and_padding_has_none():
    given = batch()
    assert document_lengths(given.position_ids, given.labels).tolist() == [
        [10.0] * 10 + [6.0] * 6 + [0.0] * 8,
        [20.0] * 20 + [0.0] * 4,
    ]


def test_the_noise_is_uniform_with_the_papers_bound():
    torch.manual_seed(3)
    model, given = tiny_model(), batch()
    width = model.config.hidden_size
    noise = seen(model, given, 5.0, times=200)
    lengths = document_lengths(given.position_ids, given.labels)
    for size in (10, 6, 20):
        bound = 5.0 / (size * width) ** 0.5
        values = noise[:, lengths == size]
        assert float(values.abs().max()) <= bound + 1e-6 and float(values.abs().max()) > 0.999 * bound
        # Var U(-b, b) = b²/3; its estimate from n draws has the relative deviation sqrt(4/(5n)).
        assert float(values.var()) == pytest.approx(bound**2 / 3, rel=5 * (0.8 / values.numel()) ** 0.5)
        assert abs(float(values.mean())) < 5 * bound / (3 * values.numel()) ** 0.5
    assert not noise[:, lengths == 0].any()


def test_evaluation_and_the_head_have_no_noise():
    torch.manual_seed(0)
    model, given = tiny_model(), batch()
    assert model.head is None  # tied: the head is the embedding itself
    before = token_losses(model, given)
    objective = with_noise(next_token(), 5.0)
    noisy = [float(objective(model, given).loss_sum.detach()) for _ in range(3)]
    clean = float(next_token()(model, given).loss_sum.detach())
    assert len({*noisy, clean}) == 4 and all(abs(one / clean - 1) < 0.5 for one in noisy)
    assert torch.equal(token_losses(model, given), before)
    assert not model.embedding._forward_hooks


def test_without_alpha_it_is_the_objective_itself():
    objective = next_token()
    assert with_noise(objective, 0.0) is objective


def test_the_hook_is_gone_after_an_error():
    def broken(model, batch):
        raise RuntimeError("no")

    model = tiny_model()
    with pytest.raises(RuntimeError):
        with_noise(broken, 1.0)(model, batch())
    assert not model.embedding._forward_hooks


def test_micro_batches_draw_what_the_whole_batch_draws():
    model, source = tiny_model(dtype=torch.float64), ToySource(rows=4)
    given, objective = source.step(0), with_noise(next_token(), 5.0)
    torch.manual_seed(1)
    whole = float(objective(model, given).loss_sum.detach())
    torch.manual_seed(1)
    parts = sum(float(objective(model, given.slice(n, n + 1)).loss_sum.detach()) for n in range(4))
    assert parts == pytest.approx(whole, rel=1e-12)


def test_gradients_are_those_at_the_noisy_point():
    model, given = tiny_model(dtype=torch.float64), batch()
    torch.manual_seed(5)
    with_noise(next_token(), 5.0)(model, given).loss_sum.backward()
    gradient = model.final_norm.weight.grad.clone()
    step = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            model.final_norm.weight[0] += sign * step
        torch.manual_seed(5)
        values.append(float(with_noise(next_token(), 5.0)(model, given).loss_sum.detach()))
        with torch.no_grad():
            model.final_norm.weight[0] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient[0]), rel=1e-4)


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """Twenty-four steps of sft with noise, once undisturbed and once killed at random moments and started again."""
    options = {"steps": 24, "folder": str(tmp_path)}
    command = [sys.executable, "-m", "tests.training.killer", __name__, str(tmp_path), json.dumps(options)]
    done = subprocess.run([*command, "4", "0.3", "1"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    whole, killed = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    losses = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([one["loss"] for one in losses if "loss" in one]).all()
    assert (tmp_path / "killed/kills.jsonl").is_file()  # it was killed at least once


def main(workdir: Path, options: dict) -> None:
    """An sft stage with noise: what the killer runs."""
    import shutil

    from hanlin.artifacts import StageContext
    from hanlin.training.sft import SFT_STAGE, SftLoop, SftSettings
    from tests.training.test_sft import make_base
    from tests.training.toy_stages import loop, make_instructions

    torch.set_num_threads(1)
    folder = Path(options["folder"])
    base, rows = folder / f"base-{workdir.name}", folder / f"rows-{workdir.name}.jsonl"
    if base.is_dir():
        shutil.rmtree(base)
    from hanlin.tokenization import Tokenizer

    inputs = make_base(base, Tokenizer.bytes())
    make_instructions(rows, 60)
    settings = SftSettings(
        model="base",
        data=str(rows),
        neftune=5.0,
        loop=loop(SftLoop, steps=options["steps"], checkpoint_minutes=0.001, micro_rows=2),
    )
    SFT_STAGE.run(settings, StageContext(workdir, inputs, 3))
    shutil.copy(workdir / "model.safetensors", workdir / "final.safetensors")
