"""Adapters: the numbers, gradients and files are `peft`'s; merged, folded or generating it is one model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from hanlin.artifacts import HanlinError
from hanlin.inference import Engine, Request, precision
from hanlin.models.adapter_files import load_adapter, save_adapter
from hanlin.models.hub import load_model, save_model
from hanlin.models.lora import (
    adapter_names,
    add_lora,
    folded,
    lora_layers,
    merge_lora,
    projections,
    remove_adapter,
    set_adapter,
    without_lora,
)
from hanlin.models.lora_layers import Adapter, LoraLinear, _Adapted, weight_in
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.quantised import QuantisedLinear, quantise, quantise_blocks, quantised_layers
from hanlin.models.transformer import Linear, Transformer
from tests.inference.models import HUGGING_FACE, prompts, shaken, small, tokenizer

torch.set_num_threads(1)

VARIANTS = {
    "plain": LoraSettings(rank=3, alpha=5),
    "rslora": LoraSettings(rank=3, alpha=5, rslora=True),
    "dora": LoraSettings(rank=3, alpha=5, dora=True),
}
BASES = ("full", "int8", "int4")


def tokens(seed: int = 0, rows: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(0, 250, (rows, length), generator=torch.Generator().manual_seed(seed))


def lively(model: Transformer, settings: LoraSettings, name: str = "default", seed: int = 1) -> Transformer:
    """The model with an adapter of random A, B and magnitudes."""
    add_lora(model, settings, seed, name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model):
            for parameter in layer.adapter.parameters() if layer.adapter else ():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.2)
    return model


def fresh(family: str = "qwen3", dtype: torch.dtype = torch.float64) -> Transformer:
    return copy.deepcopy(small(family)).to(dtype)


class Joined(nn.Module):
    """Queries, keys and values as `peft` finds them: three layers."""

    def __init__(self, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> None:
        super().__init__()
        for name, weight, bias in zip("qkv", weights, biases):
            layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
            layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
            setattr(self, f"{name}_proj", layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chosen", [(0, 1, 2), (0, 2), (1,)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_joined_layer_has_the_outputs_and_gradients_of_pefts_separate_ones(variant, chosen, dtype):
    peft = pytest.importorskip("peft")
    settings, widths, size = VARIANTS[variant], (20, 12, 8), 16
    generator = torch.Generator().manual_seed(len(variant) + sum(chosen))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    weights, biases = [random(width, size) for width in widths], [random(width) for width in widths]
    linear = Linear(size, widths, bias=True).to(dtype)
    linear.weight.data, linear.bias.data = torch.cat(weights), torch.cat(biases)
    linear.requires_grad_(False)
    ours = LoraLinear(linear)
    adapter = Adapter(size, widths, chosen, settings).to(dtype)
    adapter.start(weight_in(linear, dtype), generator)
    ours.adapters["default"], ours.active = adapter, "default"
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules=[f"{'qkv'[part]}_proj" for part in chosen],
    )
    theirs = peft.inject_adapter_in_model(config, Joined(weights, biases)).to(dtype)
    pairs = []
    for part in chosen:
        layer = getattr(theirs, f"{'qkv'[part]}_proj")
        mine = adapter.tensors(part)
        found = {"lora_A.weight": layer.lora_A["default"].weight, "lora_B.weight": layer.lora_B["default"].weight}
        if settings.dora:
            magnitude = layer.lora_magnitude_vector["default"].weight
            assert torch.allclose(magnitude, mine["lora_magnitude_vector"], rtol=1e-6)
            found["lora_magnitude_vector"] = magnitude
        assert mine.keys() == found.keys()
        for name, tensor in found.items():
            tensor.data = random(*tensor.shape) + (2 if "magnitude" in name else 0)
            mine[name].copy_(tensor.data)
            pairs.append((part, name, tensor))
    x = random(2, 5, size)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = random(2, 5, sum(widths))
    left, right = ours(x1), theirs(x2)
    left.backward(upstream)
    right.backward(upstream)
    bound = 1e-10 if dtype == torch.float64 else 1e-6

    def assert_equal(one: torch.Tensor, other: torch.Tensor) -> None:
        assert (one - other).abs().max() <= bound * other.abs().max()

    assert_equal(left, right)
    assert_equal(x1.grad, x2.grad)
    gradients = copy.deepcopy(adapter)
    for mine, source in zip(gradients.parameters(), adapter.parameters()):
        mine.data = source.grad
    for part, name, tensor in pairs:
        assert_equal(gradients.tensors(part)[name], tensor.grad)
    assert linear.weight.grad is None and linear.bias.grad is None


def test_gradients_of_every_input_with_dropout_and_magnitudes():
    layer = Linear(6, (4, 3), bias=True).double().requires_grad_(False)
    torch.manual_seed(0)
    layer.weight.copy_(torch.randn(7, 6))
    layer.bias.copy_(torch.randn(7))
    adapter = Adapter(6, (4, 3), (0, 1), LoraSettings(rank=2, dora=True)).double()
    given = [
        torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 6), (3, 6), (4, 6), (7, 2), (7,))
    ]
    assert torch.autograd.gradcheck(lambda *some: _Adapted.apply(*some, layer, adapter), given)
    x, _, a, b, factor = given
    assert torch.autograd.gradcheck(lambda x, a, b: _Adapted.apply(x, None, a, b, None, layer, adapter), (x, a, b))
    assert torch.autograd.gradcheck(lambda x, f: _Adapted.apply(x, None, a, b, f, layer, adapter), (x, factor))


def test_dropout_acts_on_the_adapters_input_while_training_and_never_otherwise():
    model = lively(fresh(), LoraSettings(rank=3, dropout=0.5))
    layer = lora_layers(model)[0]
    x = torch.randn(4, 48, dtype=torch.float64)
    model.eval()
    assert torch.equal(model(tokens()), model(tokens()))
    calm = layer(x)
    model.train()
    assert not torch.equal(model(tokens()), model(tokens()))
    torch.manual_seed(5)
    found = layer(x)
    torch.manual_seed(5)
    dropped = F.dropout(x, 0.5)
    pieces = [
        layer.adapter.settings.scale * dropped @ part["lora_A.weight"].T @ part["lora_B.weight"].T
        for part in (layer.adapter.tensors(number) for number in layer.adapter.parts)
    ]
    wanted = layer.base(x) + torch.cat(pieces, -1)
    assert torch.allclose(found, wanted, atol=1e-12) and not torch.allclose(found, calm)


def peft_model(family: str, directory, adapter=None, config=None, seed: int = 0):
    peft = pytest.importorskip("peft")
    base = type(HUGGING_FACE[family]()).from_pretrained(directory, dtype=torch.float32).eval()
    if adapter is not None:
        return peft.PeftModel.from_pretrained(base, adapter).eval()
    model = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    found = {}
    for family in ("qwen3", "llama", "gpt2"):
        found[family] = tmp_path_factory.mktemp(family)
        shaken(family).save_pretrained(found[family])
    return found


CASES = [
    ("qwen3", {}),
    ("qwen3", {"use_dora": True, "use_rslora": True}),
    ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    ("llama", {"use_dora": True, "target_modules": ["k_proj", "up_proj"], "layers_to_transform": [1]}),
    ("gpt2", {"use_dora": True}),
    ("gpt2", {"target_modules": ["c_attn", "c_fc"]}),
]


@pytest.mark.parametrize("family, options", CASES)
def test_adapters_that_peft_wrote(bases, tmp_path, family, options):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options})
    theirs = peft_model(family, bases[family], config=config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(bases[family]).eval()
    base = ours(tokens())
    settings = load_adapter(tmp_path / "theirs", ours, train=True)
    assert (settings.rank, settings.alpha) == (4, 12)
    wanted = theirs(tokens()).logits
    scale = wanted.abs().max()
    assert (base - wanted).abs().max() > 1e-3 * scale
    assert (ours(tokens()) - wanted).abs().max() < 1e-5 * scale
    # And back: the same tensors under the same names, and a configuration that adapts the same modules.
    save_adapter(tmp_path / "ours", ours, "somewhere")
    mine, their = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert mine.keys() == their.keys() and all(torch.equal(mine[name], their[name]) for name in mine)
    again = peft_model(family, bases[family], adapter=tmp_path / "ours")
    assert torch.equal(again(tokens()).logits, wanted)
    assert peft.PeftConfig.from_pretrained(tmp_path / "ours").base_model_name_or_path == "somewhere"


@pytest.mark.parametrize("family, variant", [("qwen3", "plain"), ("llama", "dora"), ("gpt2", "rslora")])
def test_gradients_of_a_whole_model_are_pefts(bases, tmp_path, family, variant):
    peft = pytest.importorskip("peft")
    ours = lively(load_model(bases[family]), VARIANTS[variant])
    save_adapter(tmp_path, ours)
    base = type(HUGGING_FACE[family]()).from_pretrained(bases[family], dtype=torch.float32).eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    theirs.eval()
    for model in (ours, theirs):
        found = model(tokens())
        logits = found if model is ours else found.logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()).backward()
    gradients = {name: one.grad for name, one in theirs.named_parameters() if one.requires_grad}
    compared = 0
    for one in projections(ours.config):
        adapter = ours.get_submodule(one.layer).adapter
        mine = copy.deepcopy(adapter)
        for place, source in zip(mine.parameters(), adapter.parameters()):
            place.data = source.grad
        for name, grad in mine.tensors(one.part or 0).items():
            stem, _, end = name.partition(".")
            wanted = gradients[f"base_model.model.{one.name}.{stem}.default.{end or 'weight'}"]
            assert (grad - wanted).abs().max() < 2e-5 * wanted.abs().max(), (one.name, name)
            compared += 1
    assert compared == len(gradients)
    assert {name for name, one in ours.named_parameters() if one.grad is not None} == {
        name for name, _ in ours.named_parameters() if ".adapters." in name
    }


def test_beginning():
    base = fresh(dtype=torch.float32)
    model = copy.deepcopy(base)
    add_lora(model, LoraSettings(rank=4, dora=True), 3)
    assert (model(tokens()) - base(tokens())).abs().max() < 1e-5
    again = copy.deepcopy(base)
    add_lora(again, LoraSettings(rank=4, dora=True), 3)
    other = copy.deepcopy(base)
    add_lora(other, LoraSettings(rank=4, dora=True), 4)
    for layer, same, different in zip(lora_layers(model), lora_layers(again), lora_layers(other)):
        adapter = layer.adapter
        assert torch.equal(adapter.a, same.adapter.a) and not torch.equal(adapter.a, different.adapter.a)
        assert not adapter.b.any()
        bound = adapter.a.shape[1] ** -0.5
        assert 0.9 * bound < adapter.a.abs().max() <= bound and adapter.a.mean().abs() < 0.2 * bound
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained and all(".adapters.default." in name for name in trained)
    assert len(lora_layers(model)) == 4 * 3


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "family, variant", [("qwen3", "plain"), ("llama", "dora"), ("gpt2", "rslora"), ("gpt2", "dora")]
)
def test_merged_folded_and_apart_are_one_model(family, variant, base):
    settings = VARIANTS[variant].model_copy(update={"base": base, "group": 32})
    model = lively(fresh(family), settings).eval()
    with torch.no_grad():
        wanted = model(tokens())
        size = wanted.abs().max()
        with folded(model):
            assert (model(tokens()) - wanted).abs().max() < 1e-12 * size
            with without_lora(model):
                assert (model(tokens()) - wanted).abs().max() > 1e-3 * size
        assert torch.equal(model(tokens()), wanted)
        merge_lora(model)
        assert (model(tokens()) - wanted).abs().max() < 1e-12 * size
    assert not lora_layers(model) and not quantised_layers(model)
    assert all(one.requires_grad and one.dtype == torch.float64 for one in model.parameters())
    assert dict(model.named_parameters()).keys() == dict(small(family).named_parameters()).keys()


def test_merging_of_a_model_without_adapters_changes_nothing():
    model = fresh(dtype=torch.bfloat16).requires_grad_(False)
    merge_lora(model)
    assert all(one.dtype == torch.bfloat16 and not one.requires_grad for one in model.parameters())


def test_a_merged_model_is_an_ordinary_directory(tmp_path):
    model = lively(fresh("llama", torch.float32), VARIANTS["dora"])
    with pytest.raises(HanlinError, match=r"blocks\.0\.attention\.qkv\.weight is no ordinary weight.*merge_lora"):
        save_model(tmp_path, model)
    wanted = model.eval()(tokens())
    merge_lora(model)
    save_model(tmp_path, model)
    theirs = type(HUGGING_FACE["llama"]()).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert (theirs(tokens()).logits - wanted).abs().max() < 1e-4 * wanted.abs().max()
    quantised = fresh()
    quantise_blocks(quantised, 8)
    with pytest.raises(HanlinError, match="quantised weights"):
        save_model(tmp_path, quantised)


@pytest.mark.parametrize("bits, group, columns", [(8, 64, 40), (4, 64, 128), (4, 32, 70), (4, 64, 7)])
def test_quantised_weights_are_off_by_half_a_scale_at_most(bits, group, columns):
    weight = torch.randn(9, columns, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 9)[:, None]
    weight[4] = 0
    linear = Linear(columns, (5, 4), bias=False)
    linear.weight.data = weight
    layer = QuantisedLinear(linear, bits, group)
    found = layer.weight_in(torch.float64)
    assert found.shape == weight.shape and not found[4].any()
    scales = layer.scales.double()
    per_weight = scales if bits == 8 else scales.repeat_interleave(group, 1)[:, :columns]
    error = (found - weight.double()).abs()
    assert (error <= per_weight * (0.5 + 1e-6)).all() and error.max() > 0
    # A tight scale: the largest weight of each group uses the largest code.
    codes = found / per_weight
    assert codes.abs().max().round() == (127 if bits == 8 else 7)
    assert quantise(weight, bits, group)[0].dtype == (torch.int8 if bits == 8 else torch.uint8)
    rounded = layer.weight_in(torch.bfloat16).double()
    assert ((rounded - found).abs() <= found.abs() * 2.0**-8).all()
    assert torch.equal(layer.to(torch.bfloat16).weight_in(torch.float64), found)


@pytest.mark.parametrize("variant", ["plain", "dora"])
@pytest.mark.parametrize("base", ["int8", "int4"])
def test_gradients_beside_a_quantised_base_are_those_beside_the_same_weights_in_full(base, variant):
    settings = VARIANTS[variant].model_copy(update={"base": base, "target_modules": ["v_proj", "up_proj"]})
    model = lively(fresh(), settings)
    full = copy.deepcopy(model)
    for parent in list(full.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantisedLinear):
                plain = Linear(child.in_features, child.splits, bias=False).requires_grad_(False)
                plain.weight.data = child.weight_in(torch.float64)
                setattr(parent, name, plain)
    assert quantised_layers(model) and not quantised_layers(full)
    for one in (model, full):
        one(tokens()).square().mean().backward()
    found = [
        (model.get_parameter(name).grad, one.grad) for name, one in full.named_parameters() if one.grad is not None
    ]
    assert len(found) == len([one for one in model.parameters() if one.requires_grad])
    for mine, wanted in found:
        assert (mine - wanted).abs().max() <= 1e-12 * wanted.abs().max()
    share = sum(layer.codes.nbytes + layer.scales.nbytes for layer in quantised_layers(model))
    whole = sum(4 * layer.in_features * layer.out_features for layer in quantised_layers(model))
    assert share < whole * (0.29 if base == "int8" else 0.24)


def test_several_adapters_on_one_base(tmp_path):
    base = fresh(dtype=torch.float32).eval()
    wide = LoraSettings(rank=5, target_modules=["q_proj", "o_proj"])
    alone = {}
    for name, settings, seed in (("formal", VARIANTS["dora"], 1), ("short", wide, 2)):
        model = lively(copy.deepcopy(base), settings, name, seed)
        alone[name] = model(tokens())
        save_adapter(tmp_path / name, model)
    model = copy.deepcopy(base)
    for name in alone:
        load_adapter(tmp_path / name, model, name)
    assert adapter_names(model) == ["formal", "short"]
    assert not any(one.requires_grad for one in model.parameters())
    for name in ("formal", "short", "formal"):
        set_adapter(model, name)
        assert torch.equal(model(tokens()), alone[name])
        with without_lora(model), without_lora(model):
            assert torch.equal(model(tokens()), base(tokens()))
        assert torch.equal(model(tokens()), alone[name])
    save_adapter(tmp_path / "again", model, name="short")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "short" / file).read_bytes()
    set_adapter(model, "short", train=True)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained and all(".adapters.short." in name for name in trained)
    set_adapter(model, None)
    assert torch.equal(model(tokens()), base(tokens()))
    with pytest.raises(HanlinError, match="no active adapter"), without_lora(model):
        pass
    with pytest.raises(HanlinError, match="no adapter 'loud'; it has: formal, short"):
        set_adapter(model, "loud")
    with pytest.raises(HanlinError, match="'short' already"):
        add_lora(model, wide, 0, "short")
    for name in ("a.b", "", "keys"):
        with pytest.raises(HanlinError, match="can't be an adapter's name"):
            add_lora(model, wide, 0, name)
    with pytest.raises(HanlinError, match="kept in another way"):
        add_lora(model, wide.model_copy(update={"base": "int8"}), 0, "other")
    assert adapter_names(model) == ["formal", "short"]
    set_adapter(model, "short")
    remove_adapter(model, "formal")
    assert torch.equal(model(tokens()), alone["short"])
    assert len(lora_layers(model)) == 2 * 3
    remove_adapter(model, "short")
    assert torch.equal(model(tokens()), base(tokens()))
    save_model(tmp_path / "base", model)
    with pytest.raises(HanlinError, match="no adapter 'short'; it has: none"):
        remove_adapter(model, "short")


def test_an_adapter_loaded_onto_a_quantised_base(tmp_path):
    model = lively(fresh(dtype=torch.float32), VARIANTS["plain"].model_copy(update={"base": "int4", "group": 32}))
    save_adapter(tmp_path, model)
    other = fresh(dtype=torch.float32)
    quantise_blocks(other, 4, 32)
    with pytest.raises(HanlinError, match="quantised already"):
        quantise_blocks(other, 8)
    settings = load_adapter(tmp_path, other)
    assert (settings.base, settings.group) == ("int4", 32)
    assert torch.equal(other(tokens()), model(tokens()))


def test_projections_that_the_family_has_not():
    with pytest.raises(HanlinError, match=r"names gate_proj, .* which gpt2 has not: choose among c_attn, c_fc, c_proj"):
        add_lora(fresh("gpt2"), LoraSettings(target_modules=["c_fc", "gate_proj"]), 0)
    with pytest.raises(ValueError, match="names no projection"):
        LoraSettings(target_modules=[])


def change(directory, config=None, tensors=None) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    if tensors:
        weights = load_file(directory / "adapter_model.safetensors")
        tensors(weights)
        save_file(weights, directory / "adapter_model.safetensors")


Q = "base_model.model.model.layers.0.self_attn.q_proj."
REFUSED = {
    "another kind": ({"peft_type": "LOKR"}, None, "'LOKR': only LORA"),
    "trained biases": ({"bias": "all"}, None, "says bias 'all', which is not computed"),
    "ranks of their own": ({"rank_pattern": {"q_proj": 2}}, None, "says rank_pattern"),
    "what nobody knows yet": ({"use_something_new": True}, None, "says use_something_new True"),
    "a base that changes": ({"init_lora_weights": "pissa"}, None, "init_lora_weights 'pissa'"),
    "no rank": ({"r": "many"}, None, "no configuration of LoRA"),
    "another rank": ({"r": 2}, None, r"lora_A.weight has the shape \[3, 48\], not \[2, 48\]"),
    "no magnitudes": ({"use_dora": True}, None, "lacks lora_magnitude_vector"),
    "a tensor too few": ({}, lambda w: w.pop(Q + "lora_B.weight"), r"q_proj in .* lacks lora_B.weight"),
    "another model": (
        {},
        lambda w: w.update({"base_model.model.encoder.lora_A.weight": torch.ones(1)}),
        r"tensors base_model\.model\.encoder\.lora_A\.weight, which are no adapters",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_adapters_that_are_refused(tmp_path, what):
    config, tensors, message = REFUSED[what]
    save_adapter(tmp_path, lively(fresh(dtype=torch.float32), VARIANTS["plain"]))
    change(tmp_path, config, tensors)
    model = fresh(dtype=torch.float32)
    with pytest.raises(HanlinError, match=message):
        load_adapter(tmp_path, model)
    assert adapter_names(model) == [] and torch.equal(model(tokens()), fresh(dtype=torch.float32)(tokens()))
    save_model(tmp_path / "as it was", model)


def test_adapter_files_that_are_not_there(tmp_path):
    model = fresh()
    with pytest.raises(HanlinError, match=r"adapter_config\.json is not there"):
        load_adapter(tmp_path, model)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(HanlinError, match=r"pickled"):
        load_adapter(tmp_path, model)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(HanlinError, match=r"not a readable safetensors file"):
        load_adapter(tmp_path, model)
    with pytest.raises(HanlinError, match=r"no adapter None to save: the model has none"):
        save_adapter(tmp_path, model)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("family, variant", [("qwen3", "plain"), ("llama", "dora"), ("gpt2", "rslora")])
def test_the_engine_generates_with_the_active_adapter(family, variant, base):
    settings = VARIANTS[variant].model_copy(update={"base": base})
    model = lively(fresh(family, torch.float32), settings).eval()
    requests = [Request(prompt_ids=given, max_new_tokens=12) for given in prompts([4, 9, 17])]

    def answers(one: Transformer):
        return Engine(one, tokenizer(), eos_ids=[], max_batch=8).generate(requests)

    engine = Engine(model, tokenizer(), eos_ids=[], max_batch=8)
    apart = engine.generate(requests)
    with folded(model):
        together = engine.generate(requests)
    with without_lora(model):
        reference = engine.generate(requests)
    merged = copy.deepcopy(model)
    merge_lora(merged)
    for found in (apart, together):
        for one, other in zip(found, answers(merged)):
            assert one.ids == other.ids and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    # The engine was not made anew: it follows the model.
    set_adapter(model, None)
    base_answers = engine.generate(requests)
    assert [one.ids for one in reference] == [one.ids for one in base_answers] != [one.ids for one in apart]


def test_weights_for_generation_contain_the_adapter():
    model = lively(fresh("llama", torch.float32).to(torch.bfloat16), VARIANTS["dora"]).eval()
    exact = copy.deepcopy(model)
    merge_lora(exact, torch.float64)
    half = precision.for_generation(model)
    with torch.no_grad():
        wanted = exact(tokens())
        assert (half(tokens()) - wanted).abs().max() < 1e-4 * wanted.abs().max()
