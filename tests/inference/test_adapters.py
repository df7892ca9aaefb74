"""Adapters chosen by the row: each row computes its own merged model, the same bits in any company."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import Engine, Request
from hanlin.inference.adapters import LoadedAdapter, LoraSet
from hanlin.inference.precision import for_generation
from hanlin.models import Transformer
from hanlin.models.adapter_files import load_adapter, save_adapter
from hanlin.models.lora import add_lora, lora_layers, merge_lora
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.transformer import Linear
from tests.inference.models import prompts, small, tokenizer

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4},
    "wide": {"rank": 9, "rslora": True, "alpha": 5.0},
    "magnitudes": {"rank": 3, "dora": True},
}
SOME: dict[str, list[Any]] = {"gpt2": ["c_attn", "c_fc"], "qwen3": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module", params=sorted(SOME))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A family, and directories of adapters for its small model: of all projections, and of some."""
    family: str = request.param
    folders: dict[str, Path] = {}
    for targets in ("all-linear", SOME[family]):
        for number, (name, given) in enumerate(SETTINGS.items()):
            model = copy.deepcopy(small(family))
            add_lora(model, LoraSettings(target_modules=targets, **given), seed=number)
            generator = torch.Generator().manual_seed(number)
            for layer in lora_layers(model):
                for parameter in layer.adapters.parameters():
                    parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
            name = name if targets == "all-linear" else f"{name}-some"
            folders[name] = tmp_path_factory.mktemp("adapters") / name
            save_adapter(folders[name], model)
    return family, folders


def loaded(saved: tuple[str, dict[str, Path]]) -> tuple[LoraSet, list[LoadedAdapter | None]]:
    family, folders = saved
    adapters = LoraSet(small(family).config, CPU, small(family).get_parameter)
    return adapters, [None, *(adapters.load(name, folder) for name, folder in folders.items())]


class Hooked(nn.Module):
    """A layer whose rows have adapters."""

    def __init__(self, layer: nn.Module, name: str, adapters: LoraSet) -> None:
        super().__init__()
        self.layer, self.name, self.adapters, self.segments = layer, name, adapters, adapters.segments([])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = self.layer(flat)
        self.adapters.add(self.name, flat, out, self.segments)
        return out.view(*x.shape[:-1], -1)


def test_each_row_computes_its_merged_model(saved: tuple[str, dict[str, Path]]) -> None:
    family, folders = saved
    adapters, each = loaded(saved)
    model = for_generation(copy.deepcopy(small(family)))
    hooks: list[Hooked] = []
    for name, module in small(family).named_modules():
        if isinstance(module, Linear) and name.startswith("blocks."):
            hooks.append(Hooked(model.get_submodule(name), name, adapters))
            model.set_submodule(name, hooks[-1])
    given = torch.tensor(prompts([20] * len(each)))

    def logits(rows: list[int]) -> Tensor:
        chosen = [each[row] for row in rows for _ in range(20)]
        for hook in hooks:
            hook.segments = adapters.segments(chosen)
        with torch.inference_mode():
            return model(given[rows])

    together = logits(list(range(len(each))))
    for row, adapter in enumerate(each):
        merged: Transformer = copy.deepcopy(small(family)).double()
        if adapter is not None:
            load_adapter(folders[adapter.name], merged)
            merge_lora(merged, torch.float64)
        with torch.no_grad():
            wanted = merged(given[row : row + 1])[0]
        assert (together[row] - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert not torch.allclose(together[0], together[1])
    # The base's weights are as they were.
    assert torch.equal(logits([0])[0], for_generation(copy.deepcopy(small(family)))(given[:1])[0])


def test_a_row_is_the_same_in_any_company(saved: tuple[str, dict[str, Path]]) -> None:
    adapters, each = loaded(saved)
    generator = torch.Generator().manual_seed(5)
    for layer in ("blocks.0.attention.qkv", "blocks.2.mlp.down"):
        outputs, inputs = small(saved[0]).get_parameter(f"{layer}.weight").shape
        x, base = torch.randn((40, inputs), generator=generator), torch.randn((40, outputs), generator=generator)
        owners = [each[int(n)] for n in torch.randint(0, len(each), (40,), generator=generator)]
        whole = base.clone()
        adapters.add(layer, x, whole, adapters.segments(owners))
        for rows in ([3], [39, 3], list(range(7)), list(range(39, -1, -1))):
            part = base[rows].clone()
            adapters.add(layer, x[rows], part, adapters.segments([owners[row] for row in rows]))
            assert torch.equal(part, whole[rows])
        alone = [row for row in range(40) if owners[row] is None]
        assert alone and torch.equal(whole[alone], base[alone])


def test_names(saved: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    family, folders = saved
    adapters, each = loaded(saved)
    assert adapters.names == sorted(folders)
    with pytest.raises(HanlinError, match="already"):
        adapters.load("plain", folders["plain"])
    held = adapters.get("plain")
    assert held is each[1] and held.bytes > 0
    adapters.remove("plain")
    with pytest.raises(HanlinError, match="no adapter 'plain'; there are: magnitudes"):
        adapters.get("plain")
    with pytest.raises(HanlinError, match="adapter_config"):
        adapters.load("plain", tmp_path)
    with pytest.raises(HanlinError, match="weights of its base"):
        LoraSet(small(family).config, CPU).load("magnitudes", folders["magnitudes"])
    other = small("llama" if family == "gpt2" else "gpt2").config
    with pytest.raises(HanlinError, match="another one"):
        LoraSet(other, CPU).load("plain", folders["plain"])


def test_requests_choose_their_adapters(saved: tuple[str, dict[str, Path]]) -> None:
    family, folders = saved
    adapters, each = loaded(saved)
    model = for_generation(copy.deepcopy(small(family)))
    one = Engine(model, tokenizer(), adapters=adapters, frozen=True, deterministic=True)
    names = ["" if adapter is None else adapter.name for adapter in each]
    # One prompt for all: what one adapter has read is not another's.
    prompt = prompts([40], seed=3)[0]
    requests = [Request(prompt_ids=prompt, max_new_tokens=12, ignore_eos=True, adapter=name) for name in names * 2]
    together = one.generate(requests)
    for request, answer in zip(requests, together):
        assert one.generate([request])[0].logprobs == answer.logprobs
        merged: Transformer = copy.deepcopy(small(family)).double()
        if request.adapter:
            load_adapter(folders[request.adapter], merged)
            merge_lora(merged, torch.float64)
        with torch.no_grad():
            whole = merged(torch.tensor([[*prompt, *answer.ids]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        wanted = whole.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert torch.tensor(answer.logprobs).double().sub(wanted).abs().max() < 1e-4
    assert len({tuple(answer.logprobs) for answer in together}) == len(set(names))
    with pytest.raises(HanlinError, match="no adapter 'other'"):
        one.generate([Request(prompt_ids=prompt, adapter="other")])
    with pytest.raises(UsageError, match="adapters"):
        Engine(model, tokenizer()).generate([Request(prompt_ids=prompt, adapter="plain")])
    with pytest.raises(UsageError, match="beams"):
        one.generate([Request(prompt_ids=prompt, adapter=names[-1] or names[1], beams=2)])
