"""Adapters for every objective: they are all that is trained, and what is written is the base with them in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.alignment.policy_gradient import (
    GRPO_STAGE,
    PPO_STAGE,
    RLOO_STAGE,
    GrpoSettings,
    PolicyLoop,
    PpoSettings,
    RlooSettings,
)
from hanlin.alignment.policy_settings import GrpoRollout, PpoRollout, RlooRollout
from hanlin.alignment.preference import (
    PREFERENCE_STAGE,
    RRHF_STAGE,
    AlignmentLoop,
    AlignmentOptimizer,
    PreferenceSettings,
    RrhfSettings,
)
from hanlin.alignment.reward import REWARD_STAGE, RewardLoop, RewardOptimizer, RewardSettings
from hanlin.artifacts import HanlinError, StageContext
from hanlin.artifacts.store import external
from hanlin.models.adapter_files import load_adapter
from hanlin.models.hub import load_model
from hanlin.models.lora import lora_layers
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.reward import load_reward_model
from hanlin.training.pretrain import PRETRAIN_STAGE, ModelShape, PretrainSettings
from hanlin.training.settings import LoopSettings, OptimizerSettings
from hanlin.training.sft import SFT_STAGE, SftLoop, SftOptimizer, SftSettings
from tests.alignment.test_policy_gradient import make_prompts
from tests.alignment.toy import loop, make_model, make_pairs, make_rankings
from tests.training.toy_stages import make_instructions, make_tokens

torch.set_num_threads(1)
LORA = LoraSettings(rank=2, alpha=4)
LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo", "robust-dpo")
OBJECTIVES = ("pretrain", "sft", "reward", *LOSSES, "rrhf", "ppo", "grpo", "rloo")


def loop_of(kind: type[Any], optimizer: type[Any], **changes: Any) -> Any:
    rates = {"adapter_learning_rate": 0.02, **changes.pop("rates", {})}
    known = {"steps": 2, "rows": 4, "sequence_length": 128, "optimizer": optimizer(**rates)}
    return loop(kind, **{**known, **changes})


def stage_of(objective: str, folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """(stage, settings, inputs beside the model) of an objective, with its data made in `folder`."""
    aligned = {"model": "base", "lora": LORA, "loop": loop_of(AlignmentLoop, AlignmentOptimizer)}
    if objective == "pretrain":
        made = loop_of(LoopSettings, OptimizerSettings)
        return PRETRAIN_STAGE, PretrainSettings(data="t", start="base", lora=LORA, loop=made), {"data": TOKENS}
    if objective == "sft":
        made, data = loop_of(SftLoop, SftOptimizer), str(make_instructions(folder / "rows.jsonl", 20))
        return SFT_STAGE, SftSettings(model="base", data=data, lora=LORA, loop=made), {}
    if objective == "reward":
        made, data = loop_of(RewardLoop, RewardOptimizer), str(make_pairs(folder / "rows.jsonl", 24))
        chosen = {"data": data, "validation_fraction": 0.3}
        return REWARD_STAGE, RewardSettings(model="base", lora=LORA, loop=made, **chosen), {}
    if objective in LOSSES:
        data = str(make_pairs(folder / "rows.jsonl", 16))
        return PREFERENCE_STAGE, PreferenceSettings(**aligned, loss=objective, data=data), {}
    if objective == "rrhf":
        return RRHF_STAGE, RrhfSettings(**aligned, data=str(make_rankings(folder / "rows.jsonl", 16))), {}
    made = loop_of(PolicyLoop, AlignmentOptimizer, rows=16)
    asked = {"program": "exact", "data": str(make_prompts(folder / "p.jsonl")), "max_new_tokens": 4}
    policy: dict[str, Any] = {**aligned, **asked, "loop": made}
    if objective == "ppo":
        return PPO_STAGE, PpoSettings(**policy, rollout=PpoRollout(prompts=16)), {}
    if objective == "grpo":
        return GRPO_STAGE, GrpoSettings(**policy, rollout=GrpoRollout(prompts=4, samples=4)), {}
    return RLOO_STAGE, RlooSettings(**policy, rollout=RlooRollout(prompts=4, samples=4)), {}


@pytest.fixture(autouse=True)
def rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that likes some of a random model's answers better than others."""
    from hanlin.alignment import rewards as module

    monkeypatch.setitem(module.PROGRAMS, "exact", lambda prompt, text: float(sum(text.encode()) % 7))


@pytest.fixture(scope="module", autouse=True)
def tokens(tmp_path_factory: pytest.TempPathFactory) -> None:
    global TOKENS
    TOKENS = make_tokens(tmp_path_factory.mktemp("lora") / "tokens", 40)


def without_head(adapter: Path, about: dict[str, Any], folder: Path) -> Path:
    """A reward model's adapter as one of its trunk alone, which is what a language model can be given."""
    folder.mkdir()
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert about["modules_to_save"] == ["score"] and sum("score" in name for name in tensors) == 1
    save_file({name: one for name, one in tensors.items() if "score" not in name}, folder / "adapter_model.safetensors")
    changed = {**about, "modules_to_save": None, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_adapter_is_all_that_is_trained_and_is_in_what_is_written(objective: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    stage, settings, inputs = stage_of(objective, tmp_path)
    place = "start" if objective == "pretrain" else "model"
    out = tmp_path / "out"
    out.mkdir()
    figures = stage.run(settings, StageContext(out, {place: base, **inputs}, 1))
    assert 0 < figures["parameters"]["trained"] < figures["parameters"]["total"]

    about = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert about["r"] == 2 and about["task_type"] == ("SEQ_CLS" if objective == "reward" else "CAUSAL_LM")
    adapted = load_model(base.path).eval()
    adapter = out / "adapter"
    load_adapter(without_head(adapter, about, tmp_path / "plain") if objective == "reward" else adapter, adapted)
    assert all(layer.adapter is not None and layer.adapter.b.any() for layer in lora_layers(adapted))
    merged = load_reward_model(out).trunk if objective == "reward" else load_model(out)
    merged.eval()
    ids = torch.randint(0, 250, (2, 24), generator=torch.Generator().manual_seed(0))
    # In float64, so that all that is seen is the rounding of the merged weights.
    adapted.double()
    merged.double()
    with torch.no_grad():
        wanted, found = (model.hidden(ids) if objective == "reward" else model(ids) for model in (adapted, merged))
        assert (found - wanted).abs().max() < 1e-6 * max(1.0, float(wanted.abs().max()))
        # The base is as it was: with its adapter taken off the model is the one to begin with.
        for (name, one), (_, other) in zip(merged.named_parameters(), load_model(base.path).named_parameters()):
            adapters = name.startswith("blocks.") and one.ndim == 2
            assert torch.equal(one, other) != adapters, name


# ---------------------------------------------------------------------- continued pretraining


def test_a_model_goes_on_where_it_was(tmp_path: Path) -> None:
    """With all weights too, and with the tokenizer's chat template that its directory has."""
    base = make_model(tmp_path / "base")
    made = loop_of(LoopSettings, OptimizerSettings, rates={"learning_rate": 1e-9})
    settings = PretrainSettings(data="t", start="base", loop=made)
    (tmp_path / "out").mkdir()
    inputs = {"start": base, "data": TOKENS}
    figures = PRETRAIN_STAGE.run(settings, StageContext(tmp_path / "out", inputs, 1))
    assert figures["steps"] == 2
    start, after = load_model(base.path), load_model(tmp_path / "out")
    for (name, one), (_, other) in zip(start.named_parameters(), after.named_parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4, msg=name)
    resolved = PRETRAIN_STAGE.resolve(settings, StageContext(tmp_path, inputs, 1))
    assert resolved.model == ModelShape(**start.config.model_dump())
    again = PretrainSettings.model_validate_json(resolved.model_dump_json())
    assert PRETRAIN_STAGE.resolve(again, StageContext(tmp_path, inputs, 1)) == resolved


def test_what_can_not_go_on_is_refused(tmp_path: Path) -> None:
    for given, said in (
        ({"lora": LORA}, "`lora` needs a model to adapt"),
        ({"start": "base", "lora": LORA, "model": "auto"}, "leave `model` out"),
        ({"start": "base"}, "give loop.optimizer.learning_rate"),
    ):
        with pytest.raises(ValueError, match=said):
            PretrainSettings(data="t", **given)
    base = make_model(tmp_path / "base")
    inputs = {"start": base, "data": TOKENS}
    settings = PretrainSettings(data="t", start="base", lora=LORA, model=ModelShape(hidden_size=64, layers=1, heads=2))
    with pytest.raises(HanlinError, match="`model` is not the shape"):
        PRETRAIN_STAGE.resolve(settings, StageContext(tmp_path, inputs, 1))
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    inputs["start"] = external(tmp_path / "base")
    with pytest.raises(HanlinError, match="not of the tokenizer of the model"):
        PRETRAIN_STAGE.resolve(settings, StageContext(tmp_path, inputs, 1))
