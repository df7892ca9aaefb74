"""Training with adapters: what is trained, what a checkpoint holds, what a stage leaves; a kill changes nothing.

`main` is what the kill tests run and kill.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hanlin.artifacts import Artifact, HanlinError, Silent, StageContext
from hanlin.artifacts.store import external
from hanlin.models import ModelConfig, Transformer
from hanlin.models.adapter_files import load_adapter
from hanlin.models.hub import load_model, save_model
from hanlin.models.lora import add_lora, lora_layers, merge_lora, without_lora
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.quantised import quantised_layers
from hanlin.models.reward import RewardModel, load_reward_model, save_reward_model
from hanlin.recipes.schema import describe
from hanlin.tokenization import Tokenizer
from hanlin.training.adapters import begin_adapters, finish_adapters, parameter_figures
from hanlin.training.loop import train
from hanlin.training.optimizers import Optimizer, place
from hanlin.training.precision import WorkingCopy
from hanlin.training.settings import OptimizerSettings
from hanlin.training.sft import SFT_STAGE, SftLoop, SftOptimizer, SftSettings
from tests.training.test_resume import assert_same, run
from tests.training.toy import tiny_model, toy_job, toy_settings
from tests.training.toy_stages import loop, make_instructions, run_stage

torch.set_num_threads(1)
SMALL = LoraSettings(rank=4, alpha=8)
OPTIMIZER = OptimizerSettings(adapter_learning_rate=0.02)


def adapted(lora: LoraSettings = SMALL, seed: int = 1) -> Transformer:
    model = tiny_model()
    add_lora(model, lora, seed)
    return model


def frozen(model: Transformer) -> dict[str, torch.Tensor]:
    """Everything but the adapters."""
    return {name: one.clone() for name, one in model.state_dict().items() if ".adapters." not in name}


def test_adapters_are_moved_by_adamw_at_their_own_rate():
    model = adapted(SMALL.model_copy(update={"dora": True}))
    assert {one.role for one in place(model)} == {"adapter"}
    optimizer = Optimizer(model, OptimizerSettings(name="muon", learning_rate=1e-3, weight_decay=0.5))
    assert optimizer.muon is None and optimizer.main_rate == 1e-2
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for one in place(model):
        one.parameter.grad = torch.ones_like(one.parameter)
    optimizer.step(0.5)
    for name, one in model.named_parameters():
        # AdamW's first step is the rate, whatever the gradient; nothing decays.
        step = 0.005 if ".adapters." in name else 0.0
        assert torch.allclose(before[name] - one, torch.full_like(one, step), atol=1e-6), name
    with pytest.raises(HanlinError, match="nothing to train"):
        Optimizer(model.requires_grad_(False), OptimizerSettings())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("base", ["full", "int8", "int4"])
def test_only_the_adapters_are_trained(tmp_path, precision, base):
    model = adapted(SMALL.model_copy(update={"base": base, "dora": base == "int8"}))
    before = frozen(model)
    job = toy_job(25, model=model)
    figures = train(job, toy_settings(precision=precision, optimizer=OPTIMIZER), tmp_path, 0, Silent())
    assert figures["validation"]["last"]["loss"] < figures["validation"]["first"]["loss"] - 0.15
    after = frozen(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(layer.adapter.b.any() for layer in lora_layers(model))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("lr", 0) for line in lines) == pytest.approx(0.02)
    # A checkpoint holds the adapters and their optimiser's memory, and nothing of the base.
    names = set(load_file(tmp_path / "checkpoints" / "00000025" / "tensors.safetensors"))
    kinds = ("a", "b", "magnitude") if base == "int8" else ("a", "b")
    ends = [f"adapters.default.{kind}" for kind in kinds]
    wanted = {f"{path}.{end}" for path, one in model.named_modules() if one in lora_layers(model) for end in ends}
    memory = {f"optimizer/{name}/{key}" for name in wanted for key in ("step", "exp_avg", "exp_avg_sq")}
    assert names == {f"model/{name}" for name in wanted} | memory


def test_a_run_that_is_taken_up_again_ends_with_the_same_bits(tmp_path):
    """Stopped after any step: dropout's random states are among what is kept."""
    lora = SMALL.model_copy(update={"dropout": 0.2, "dora": True})
    finals = []
    for name, stops in (("whole", ()), ("stopped", (3, 4, 11))):
        (tmp_path / name).mkdir()
        for stop in (*stops, None):
            job = toy_job(15, model=adapted(lora))
            source, step = job.source, job.source.step

            def stopping(number, rank=0, ranks=1, stop=stop, step=step):
                if number == stop:
                    raise InterruptedError
                return step(number, rank, ranks)

            source.step = stopping
            try:
                train(job, toy_settings(optimizer=OPTIMIZER, checkpoint_minutes=1e-6), tmp_path / name, 0, Silent())
            except InterruptedError:
                continue
            finals.append(dict(job.model.named_parameters()))
    assert len(finals) == 2
    for name in finals[0]:
        assert torch.equal(finals[0][name], finals[1][name]), name


def main(workdir: Path, options: dict) -> None:
    torch.set_num_threads(1)
    folder = Path(options["folder"])
    lora = LoraSettings.model_validate(options["lora"])
    changes = {"steps": 40, "checkpoint_minutes": 0.001, "micro_rows": 2, "precision": options["precision"]}
    settings = SftSettings(model="base", data=str(folder / "rows.jsonl"), lora=lora, loop=loop(SftLoop, **changes))
    SFT_STAGE.run(settings, StageContext(workdir, {"model": external(folder / "base")}, 3))
    (workdir / "final.safetensors").write_bytes((workdir / "model.safetensors").read_bytes())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a small model of random weights (`base`) and instructions (`rows.jsonl`)."""
    folder = tmp_path_factory.mktemp("lora")
    tokenizer = Tokenizer.bytes()
    shape = ModelConfig(
        vocabulary_size=tokenizer.vocabulary_size, hidden_size=32, layers=2, heads=2, kv_heads=1, max_positions=128
    )
    model = Transformer(shape)
    model.init_weights(0)
    save_model(folder / "base", model, tokenizer)
    make_instructions(folder / "rows.jsonl")
    return folder


@pytest.mark.parametrize(
    "precision, lora",
    [
        ("fp32", {"rank": 4, "dropout": 0.1, "dora": True}),
        pytest.param("bf16", {"rank": 4, "base": "int4"}, marks=pytest.mark.slow),
    ],
)
def test_fine_tuning_killed_at_random_moments(inputs, tmp_path, precision, lora):
    options = {"folder": str(inputs), "precision": precision, "lora": lora}
    whole, killed = run(tmp_path, options, kills=4, seed=2, module="tests.training.test_lora")
    assert (killed / "kills.jsonl").read_text().count("\n") >= 2
    assert_same(whole, killed)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (whole / "adapter" / file).read_bytes() == (killed / "adapter" / file).read_bytes()


@pytest.fixture(scope="module")
def tuned(inputs, tmp_path_factory) -> dict[str, Artifact]:
    found = {}
    for base in ("full", "int8"):
        settings = SftSettings(
            model="base",
            data=str(inputs / "rows.jsonl"),
            lora=SMALL.model_copy(update={"base": base, "dora": base == "full"}),
            loop=loop(SftLoop, steps=30, optimizer=SftOptimizer(adapter_learning_rate=0.02)),
        )
        workdir = tmp_path_factory.mktemp("tuned") / base
        found[base] = run_stage(SFT_STAGE, settings, workdir, {"model": external(inputs / "base")})
    return found


@pytest.mark.parametrize("kind", ["full", "int8"])
def test_the_stage_leaves_the_merged_model_and_the_adapter(inputs, tuned, kind):
    stage = tuned[kind]
    assert {"model.safetensors", "config.json", "adapter/adapter_model.safetensors"} <= set(stage.manifest.files)
    figures = stage.manifest.figures
    assert figures["validation"]["last"]["loss"] < figures["validation"]["first"]["loss"] - 0.3
    base = load_model(inputs / "base")
    if kind == "int8":
        add_lora(base, LoraSettings(base="int8", rank=1), 0, "other")
    load_adapter(stage.path / "adapter", base)
    size = figures["parameters"]
    trained = sum(one.numel() for layer in lora_layers(base) for one in layer.adapter.parameters())
    model = load_model(stage.path)
    total = sum(one.numel() for one in model.parameters())
    assert (size["trained"], size["total"], size["trained_share"]) == (trained, total, trained / total)
    other = sum(4 * one.numel() for name, one in model.named_parameters() if "norm" in name or "embedding" in name)
    matrices = [(layer.base.in_features, layer.base.out_features) for layer in lora_layers(base)]
    kept = sum(m * n * 4 if kind == "full" else m * n + 4 * n for m, n in matrices)
    assert size["frozen_bytes"] == other + kept
    # The model is the base with the adapter in it, to the last bit.
    merge_lora(base)
    for (name, one), (_, wanted) in zip(model.named_parameters(), base.named_parameters()):
        assert torch.equal(one, wanted), name
    untouched = load_model(inputs / "base")
    assert torch.equal(model.embedding.weight, untouched.embedding.weight)
    assert not torch.equal(model.blocks[0].mlp.up.weight, untouched.blocks[0].mlp.up.weight)


def test_peft_loads_the_stages_adapter(inputs, tuned):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    base = transformers.AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32).eval()
    theirs = peft.PeftModel.from_pretrained(base, tuned["full"].path / "adapter").eval()
    ids = torch.randint(0, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = theirs(ids).logits, load_model(tuned["full"].path).eval()(ids)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_working_copy_shares_what_is_frozen():
    model = adapted(SMALL.model_copy(update={"base": "int4"}))
    exact = model.embedding.weight.data.bfloat16().float()
    model.embedding.weight.data = exact.clone()
    working = WorkingCopy(model, "bf16")
    for mine, other in zip(quantised_layers(model), quantised_layers(working.module)):
        assert mine.codes.data_ptr() == other.codes.data_ptr() and other.scales.dtype == torch.float32
    assert model.final_norm.weight is working.module.final_norm.weight
    assert model.embedding.weight.data_ptr() == working.module.embedding.weight.data_ptr()
    assert torch.equal(model.embedding.weight.float(), exact)
    assert [one.dtype for one in working.workers] == [torch.bfloat16] * len(working.workers)
    assert [one.dtype for one in working.masters] == [torch.float32] * len(working.masters)
    with torch.no_grad():
        for one in working.masters:
            one.add_(0.25)
    working.refresh()
    for mine, other in zip(working.masters, working.workers):
        assert torch.equal(mine.bfloat16(), other)
    merge_lora(model)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    # What bfloat16 can't hold is rounded in the copy alone, and without adapters nothing of the master ever is.
    model = adapted()
    weight = model.embedding.weight.detach().clone()
    working = WorkingCopy(model, "bf16")
    assert working.module.embedding.weight.dtype == torch.bfloat16 and torch.equal(model.embedding.weight, weight)
    plain = tiny_model().bfloat16().float().requires_grad_(False)
    WorkingCopy(plain, "bf16")
    assert {one.dtype for one in plain.parameters()} == {torch.float32}


def test_frozen_bytes_are_those_of_the_two_copies():
    model = adapted()
    matrices = sum(one.numel() for one in tiny_model().parameters() if one.ndim > 1)
    vectors = sum(one.numel() for one in tiny_model().parameters() if one.ndim == 1)
    assert parameter_figures(model, "fp32")["frozen_bytes"] == 4 * (matrices + vectors)
    assert parameter_figures(model, "bf16")["frozen_bytes"] == 6 * matrices + 4 * vectors
    WorkingCopy(model := _rounded(model), "bf16")
    assert parameter_figures(model, "bf16")["frozen_bytes"] == 2 * matrices + 4 * vectors
    whole = parameter_figures(tiny_model(), "bf16")
    assert whole["trained_share"] == 1 and whole["frozen_bytes"] == 0


def _rounded(model: Transformer) -> Transformer:
    for one in model.parameters():
        if not one.requires_grad:
            one.data = one.data.bfloat16().float()
    return model


def test_the_reference_is_the_base():
    model = adapted()
    job = toy_job(5, model=model)
    base = tiny_model()
    with torch.no_grad():
        for layer in lora_layers(model):
            layer.adapter.b.normal_()
        ids = job.source.step(0).input_ids
        assert not torch.allclose(model(ids), base(ids))
        with without_lora(model):
            assert torch.equal(model(ids), base(ids))


def test_objectives_that_compare_probabilities_refuse_dropout():
    noisy = SMALL.model_copy(update={"dropout": 0.1})
    with pytest.raises(HanlinError, match=r"lora\.dropout is 0\.1"):
        begin_adapters(tiny_model(), noisy, 0, dropout=False)
    begin_adapters(tiny_model(), SMALL, 0, dropout=False)
    plain = tiny_model()
    begin_adapters(plain, None, 0)
    finish_adapters(plain, None, Path("nowhere"))
    assert not lora_layers(plain) and all(one.requires_grad for one in plain.parameters())


def test_a_reward_models_adapter_keeps_its_head(tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    save_model(tmp_path / "base", tiny_model())
    model = RewardModel.init_from(load_model(tmp_path / "base"), 3)
    begin_adapters(model, SMALL, 1)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert "score_head.weight" in trained
    assert all(".adapters." in name for name in trained - {"score_head.weight"})
    with torch.no_grad():
        for layer in lora_layers(model):
            layer.adapter.b.normal_(0, 0.1)
        model.score_head.weight.normal_()
        ids = torch.randint(0, 60, (1, 12))
        wanted = copy.deepcopy(model)(ids)[0, -1]
        finish_adapters(model, SMALL, tmp_path)
        save_reward_model(tmp_path / "reward", model)
        assert float(load_reward_model(tmp_path / "reward")(ids)[0, -1]) == pytest.approx(float(wanted), abs=1e-5)
        base = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "base", num_labels=1, dtype=torch.float32
        )
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert float(theirs(ids).logits[0, 0]) == pytest.approx(float(wanted), abs=1e-5)


def test_settings():
    given = {"model": "m", "lora": {"rank": 8, "target_modules": ["q_proj", "v_proj"], "base": "int4", "group": 32}}
    settings = SftSettings.model_validate(given)
    assert settings.lora is not None and settings.lora.scale == 4.0
    assert SftSettings.model_validate_json(settings.model_dump_json()) == settings
    assert LoraSettings(rank=16, alpha=8, rslora=True).scale == 2.0
    text = describe(SFT_STAGE)
    assert "lora: LoraSettings | null, default null" in text
    assert "rank: int, default 16" in text and 'base: "full" | "int8" | "int4", default "full"' in text
    assert toy_settings().spelled_out(10, "cpu").optimizer.adapter_learning_rate == 0.1


def test_settings_are_known_without_torch():
    code = "import sys, hanlin.training.sft, hanlin.models.lora_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
