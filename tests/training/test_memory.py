"""The memory that training is said to hold, against the sizes of its tensors counted by hand."""

import copy

import pytest
import torch

from hanlin.artifacts import Silent
from hanlin.training.loop import train
from hanlin.training.memory import memory_figures, watch_peak
from hanlin.training.optimizers import Optimizer
from hanlin.training.precision import WorkingCopy
from hanlin.training.settings import OptimizerSettings
from tests.training.toy import toy_job, toy_settings

MATRIX, BIAS, FROZEN = 6 * 4, 6, 4 * 4


def network():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 6))
    model[0].weight.requires_grad_(False)
    return model


def measured(precision, name, device="cpu"):
    model = network().to(device)
    working = WorkingCopy(model, precision)
    optimizer = Optimizer(model, OptimizerSettings(name=name))
    watch_peak(torch.device(device))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    working.module(torch.ones(1, 4, device=device, dtype=dtype)).sum().backward()
    working.collect()
    optimizer.step(1.0)
    return memory_figures(working, optimizer, torch.device(device))


def test_weights_gradients_and_moments_are_counted_once_each():
    found = measured("fp32", "adamw")
    steps = 2 * 4  # AdamW counts its steps for each parameter
    assert found == {
        "weights": 4 * (MATRIX + BIAS + FROZEN),
        "working_copy": 0,
        "gradients": 4 * (MATRIX + BIAS),
        "optimizer": 2 * 4 * (MATRIX + BIAS) + steps,
        "held": 4 * (MATRIX + BIAS + FROZEN) + 3 * 4 * (MATRIX + BIAS) + steps,
        "peak": None,
    }


def test_muon_keeps_one_moment_of_its_matrices():
    assert measured("fp32", "muon")["optimizer"] == 4 * MATRIX + 2 * 4 * BIAS + 4


def test_the_copy_of_a_bf16_run_is_counted_without_what_it_shares():
    model = network()
    working = WorkingCopy(model, "bf16")
    found = memory_figures(working, Optimizer(model, OptimizerSettings(name="adamw")), torch.device("cpu"))
    # Matrices in two bytes; the bias, which is trained, in four.
    assert found["working_copy"] == 2 * (MATRIX + FROZEN) + 4 * BIAS
    assert found["gradients"] == 4 * (MATRIX + BIAS) + 2 * MATRIX + 4 * BIAS
    assert found["optimizer"] == 0  # before the first step


def test_the_loop_notes_it(tmp_path):
    job = toy_job(2)
    size = sum(one.numel() for one in copy.deepcopy(job.model).parameters())
    found = train(job, toy_settings(optimizer=OptimizerSettings(name="adamw")), tmp_path, 0, Silent())["memory"]
    assert found["gradients"] == 4 * size and found["weights"] >= 4 * size
    assert 8 * size < found["optimizer"] < 8 * size + 1000
    assert found["held"] == found["weights"] + found["gradients"] + found["optimizer"] and found["peak"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_tells_its_peak():
    large = torch.zeros(1 << 22, device="cuda")  # 16 MiB, held before and freed
    del large
    found = measured("fp32", "adamw", "cuda")
    assert found["held"] <= found["peak"] < 1 << 24
