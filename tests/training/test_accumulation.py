"""Gradients do not depend on how a step is cut into micro-batches and rows; in fp64, on the gradients themselves."""

import pytest
import torch

from hanlin.artifacts import HanlinError
from hanlin.data.batch import Batch
from hanlin.training.loop import accumulate, gradient_norm, scale_gradients
from hanlin.training.objectives import next_token, token_losses
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.training.toy import ToySource, tiny_model

torch.set_num_threads(1)
CPU = torch.device("cpu")


def uneven_batch() -> Batch:
    """Rows with very different numbers of trained tokens: a mean of means would be far off."""
    batch = ToySource().step(3)
    batch.labels[0, 1:] = -100
    batch.labels[3] = -100
    batch.labels[5, ::2] = -100
    return batch


def gradients(rows: int, dtype=torch.float64, z_loss=0.0) -> tuple[list[torch.Tensor], float]:
    working = WorkingCopy(tiny_model(dtype=dtype), "fp32")
    sums = accumulate(working, next_token(z_loss), uneven_batch().parts(0, rows), CPU, World())
    scale_gradients(working, 1 / sums.tokens)
    return [g.clone() for g in working.gradients()], sums.metrics["loss"] / sums.tokens


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_any_micro_batch_size_gives_the_same_gradients(rows, z_loss):
    whole, loss = gradients(8, z_loss=z_loss)
    parts, loss_again = gradients(rows, z_loss=z_loss)
    assert abs(loss - loss_again) < 1e-12
    for one, two in zip(whole, parts):
        assert (one - two).abs().max() < 1e-12


def test_the_gradient_is_that_of_the_mean_over_the_steps_tokens():
    model, batch = tiny_model(dtype=torch.float64), uneven_batch()
    logits = model(batch.input_ids, batch.position_ids, batch.document_ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).backward()
    for one, parameter in zip(gradients(3)[0], model.parameters()):
        assert (one - parameter.grad).abs().max() < 1e-12


def test_packed_equals_unpacked():
    """Two documents in a row, against each in a row of its own."""
    model, batch = tiny_model(), ToySource().step(0)
    half = batch.input_ids.shape[1] // 2
    alone = Batch(
        torch.cat([batch.input_ids[:, :half], batch.input_ids[:, half:]]),
        torch.cat([batch.labels[:, :half], batch.labels[:, half:]]),
        torch.arange(half).expand(16, -1).contiguous(),
    )
    packed = token_losses(model, batch)
    unpacked = token_losses(model, alone)
    assert (packed - torch.cat([unpacked[:8], unpacked[8:]], dim=1)).abs().max() < 1e-6
    found = []
    for one in (batch, alone):
        working = WorkingCopy(tiny_model(), "fp32")
        sums = accumulate(working, next_token(), one.parts(0, 4), CPU, World())
        scale_gradients(working, 1 / sums.tokens)
        found.append([g.clone() for g in working.gradients()])
    for one, two in zip(*found):
        assert (one - two).abs().max() < 1e-6


def test_norm_is_of_all_gradients_together():
    working = WorkingCopy(tiny_model(dtype=torch.float64), "fp32")
    accumulate(working, next_token(), uneven_batch().parts(0, 8), CPU, World())
    flat = torch.cat([g.flatten() for g in working.gradients()])
    assert gradient_norm(working) == pytest.approx(float(flat.norm()), rel=1e-12)


def test_a_step_with_nothing_to_train_on_is_refused():
    batch = ToySource().step(0)
    batch.labels.fill_(-100)
    with pytest.raises(HanlinError, match="-100"):
        accumulate(WorkingCopy(tiny_model(), "fp32"), next_token(), batch.parts(0, 8), CPU, World())


def test_bf16_gradients_are_summed_in_fp32_and_close_to_fp32():
    exact, loss = gradients(8, torch.float32)
    working = WorkingCopy(tiny_model(), "bf16")
    sums = accumulate(working, next_token(), uneven_batch().parts(0, 2), CPU, World())
    scale_gradients(working, 1 / sums.tokens)
    assert abs(sums.metrics["loss"] / sums.tokens - loss) < 0.02
    for one, two in zip(working.gradients(), exact):
        assert one.dtype == torch.float32
        assert (one - two).norm() < 0.05 * two.norm() + 1e-4
    assert all(p.grad is None for p in working.workers)


def test_the_working_copy_follows_the_master():
    working = WorkingCopy(tiny_model(), "bf16")
    with torch.no_grad():
        for parameter in working.master.parameters():
            parameter.add_(0.25)
    working.refresh()
    for copy, master in zip(working.module.parameters(), working.master.parameters()):
        assert copy.dtype == (torch.bfloat16 if master.ndim == 2 else torch.float32)
        assert torch.equal(copy, master.to(copy.dtype))
