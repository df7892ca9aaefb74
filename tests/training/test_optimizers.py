import pytest
import torch

from hanlin.artifacts import HanlinError
from hanlin.training.muon import POLAR_EXPRESS, Muon, orthogonalize
from hanlin.training.optimizers import Optimizer, place
from hanlin.training.settings import OptimizerSettings
from tests.training.toy import tiny_model

torch.set_num_threads(1)


def polar(matrix: torch.Tensor) -> torch.Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("shape", [(32, 32), (16, 96), (96, 16)])
def test_orthogonalize_against_svd(shape):
    torch.manual_seed(0)
    matrix = torch.randn(*shape, dtype=torch.float64)
    found = orthogonalize(matrix[None])[0]
    values = torch.linalg.svdvals(found)
    kept = torch.linalg.svdvals(matrix) > 2e-3 * torch.linalg.matrix_norm(matrix)
    assert values[: int(kept.sum())].min() > 0.85
    assert values.max() < 1.15
    # The same singular vectors: every product with the exact factor is close to the identity.
    exact = polar(matrix)
    inner = found @ exact.T if shape[0] <= shape[1] else found.T @ exact
    assert (inner - torch.eye(min(shape), dtype=inner.dtype)).abs().max() < 0.15


def test_the_coefficients_take_singular_values_where_they_are_said_to():
    value = torch.logspace(-3, 0, 10_000, dtype=torch.float64)
    for a, b, c in POLAR_EXPRESS:
        value = a * value + b * value**3 + c * value**5
    assert 0.858 < value.min() < value.max() < 1.142


def test_orthogonalize_keeps_zero_and_does_not_depend_on_scale():
    assert orthogonalize(torch.zeros(1, 4, 6)).abs().max() == 0
    matrix = torch.randn(1, 8, 8, dtype=torch.float64)
    assert torch.allclose(orthogonalize(matrix), orthogonalize(matrix * 1e-6), atol=1e-9)


def test_batched_equals_one_by_one():
    torch.manual_seed(1)
    matrices = torch.randn(5, 24, 40, dtype=torch.float64)
    together = orthogonalize(matrices)
    for one, alone in zip(together, matrices):
        assert (one - orthogonalize(alone[None])[0]).abs().max() < 1e-12


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_the_form_for_wide_matrices_is_the_same_iteration(dtype, error):
    torch.manual_seed(5)
    matrix = torch.randn(24, 80, dtype=torch.float64) * 0.8 ** torch.arange(24, dtype=torch.float64)[:, None]
    x = matrix / (matrix.norm() * 1.02)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert (orthogonalize(matrix[None].to(dtype))[0] - x).norm() < error * x.norm()
    assert (orthogonalize(matrix.T[None].to(dtype))[0] - x.T).norm() < error * x.norm()


def test_muon_moves_each_part_of_a_fused_matrix_by_itself():
    torch.manual_seed(2)
    weight = torch.nn.Parameter(torch.randn(12, 8, dtype=torch.float64))
    weight.grad = torch.randn_like(weight)
    before = weight.detach().clone()
    Muon([weight], [(8, 2, 2)], momentum=0.0, weight_decay=0.1).step(0.5)
    start = 0
    for width in (8, 2, 2):
        rows = slice(start, start + width)
        step = 0.5 * 0.2 * 8**0.5 * orthogonalize(weight.grad[None, rows])[0]
        assert (weight[rows] - (before[rows] * (1 - 0.05) - step)).abs().max() < 1e-12
        start += width


def test_muon_updates_have_the_size_of_adamw_updates():
    torch.manual_seed(3)
    for shape in ((64, 64), (64, 256), (256, 64)):
        weight = torch.nn.Parameter(torch.zeros(*shape))
        weight.grad = torch.randn_like(weight)
        Muon([weight], [(shape[0],)], momentum=0.95, weight_decay=0.0).step(1.0)
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.1)


def test_nesterov_momentum_over_two_steps():
    torch.manual_seed(4)
    weight = torch.nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
    muon = Muon([weight], [(6,)], momentum=0.9, weight_decay=0.0)
    gradients = torch.randn(2, 6, 6, dtype=torch.float64)
    buffer, expected = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    for gradient in gradients:
        weight.grad = gradient.clone()
        muon.step(0.1)
        buffer = 0.9 * buffer + 0.1 * gradient
        expected -= 0.1 * 0.2 * 6**0.5 * orthogonalize((0.1 * gradient + 0.9 * buffer)[None])[0]
    assert (weight - expected).abs().max() < 1e-12


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_its_role(tied):
    roles = {one.name: (one.role, one.splits) for one in place(tiny_model(tied=tied))}
    assert roles["embedding.weight"][0] == "embedding"
    assert roles["blocks.0.attention.qkv.weight"] == ("matrix", (32, 16, 16))
    assert roles["blocks.0.attention_norm.weight"][0] == "scalar"
    assert roles["blocks.0.attention.query_norm.weight"][0] == "scalar"
    assert len(roles["blocks.1.mlp.up.weight"][1]) == 2
    assert roles["blocks.1.mlp.down.weight"] == ("matrix", (32,))
    assert ("head.weight" in roles) is not tied
    if not tied:
        assert roles["head.weight"][0] == "head"


def test_gpt2_positions_and_biases():
    roles = {one.name: one.role for one in place(tiny_model(family="gpt2", kv_heads=4))}
    assert roles["positions.weight"] == "embedding"
    assert all(role == "scalar" for name, role in roles.items() if name.endswith("bias"))


def test_only_hidden_matrices_decay():
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in ("adamw", "muon"):
        optimizer = Optimizer(model, OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0.5))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(1.0)
    for one in place(model):
        factor = (1 - 0.05) ** 2 if one.role == "matrix" else 1.0
        assert torch.allclose(one.parameter, before[one.name] * factor, atol=1e-7), one.name


def test_rates_by_role():
    rates = OptimizerSettings(learning_rate=0.1, embedding_learning_rate=0.2).rates()
    assert rates == {"matrix": 0.1, "embedding": 0.2, "head": 0.2, "scalar": 0.1, "adapter": 1.0}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_round_trips(name):
    def advance(model, optimizer, seed):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(1.0)

    settings = OptimizerSettings(name=name, learning_rate=0.01)
    model = tiny_model()
    optimizer = Optimizer(model, settings)
    advance(model, optimizer, 0)
    other = tiny_model(seed=9)
    other.load_state_dict(model.state_dict())
    again = Optimizer(other, settings)
    again.load({key: value.clone() for key, value in optimizer.state().items()})
    advance(model, optimizer, 1)
    advance(other, again, 1)
    for one, two in zip(model.parameters(), other.parameters()):
        assert torch.equal(one, two)


def test_state_of_another_optimizer_is_refused():
    model = tiny_model()
    adamw, muon = (Optimizer(model, OptimizerSettings(name=name)) for name in ("adamw", "muon"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw.step(1.0)
    with pytest.raises(HanlinError, match="another optimiser"):
        muon.load(adamw.state())
    with pytest.raises(HanlinError, match="does not train"):
        adamw.load(muon.state())
