"""The reward stage: it learns, recovers what is true, does not depend on how a batch is cut, and says how it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from hanlin.alignment.distance import DISTANCE, Distance
from hanlin.alignment.losses import bradley_terry
from hanlin.alignment.reward import (
    REWARD_STAGE,
    RewardLoop,
    RewardOptimizer,
    RewardSettings,
    judge,
    layout_differences,
    margin_field,
    member_seed,
    reward_objective,
)
from hanlin.artifacts import Artifact, HanlinError, StageContext
from hanlin.artifacts.store import external
from hanlin.data.pairs import GroupsSource, RenderedGroups, render_rankings
from hanlin.data.preferences import read_rankings
from hanlin.data.sequences import Sequences, join
from hanlin.models import Transformer
from hanlin.models.hub import load_model
from hanlin.models.lora_settings import LoraSettings
from hanlin.models.reward import RewardModel, load_ensemble, load_reward_model
from hanlin.tokenization import Tokenizer
from hanlin.training.loop import accumulate
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.alignment.toy import loop, make_model, make_pairs, tiny_config
from tests.conftest import Told


def settings_of(data: object, steps: int = 20, **changes: Any) -> RewardSettings:
    made = loop(RewardLoop, optimizer=RewardOptimizer(learning_rate=2e-3), steps=steps)
    return RewardSettings(model="base", data=str(data), loop=made, **{"validation_fraction": 0.2, **changes})


def run(folder: Path, base: Artifact, settings: RewardSettings, seed: int = 1) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return REWARD_STAGE.run(settings, StageContext(folder, {"model": base}, seed))


def whole_rewards(folder: Path, rendered: RenderedGroups) -> Tensor:
    return judge(load_reward_model(folder), rendered)[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_model(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def trained(base: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A reward model of the toy pairs, in two members."""
    folder = tmp_path_factory.mktemp("reward")
    settings = settings_of(make_pairs(folder / "rows.jsonl"), ensemble=2, least_accuracy=0.7)
    return folder / "out", run(folder / "out", base, settings)


def test_it_learns_which_answers_are_better(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = trained
    validation = figures["validation"]
    assert validation["last"]["loss"] < 0.5 * validation["first"]["loss"]
    assert validation["first"]["loss"] == pytest.approx(math.log(2), abs=0.1)
    assert figures["accuracy"] >= 0.9 and figures["health"] == json.loads((folder / "health.json").read_text())
    assert all(gate["passed"] for gate in figures["gates"]) and len(figures["gates"]) == 2
    assert figures["health"]["layouts"]["largest"] < 1e-4
    held = RenderedGroups.load(folder / "preferences/validation")
    pairs = whole_rewards(folder, held).view(-1, 2)
    assert float((pairs[:, 0] > pairs[:, 1]).double().mean()) == figures["accuracy"]
    assert figures["health"]["rewards"]["chosen"]["mean"] == pytest.approx(float(pairs[:, 0].mean()))


@torch.no_grad()
def test_rewards_are_centred_here_and_as_the_head_gives_them_in_transformers(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = trained
    train = RenderedGroups.load(folder / "preferences/train")
    rewards = whole_rewards(folder, train)
    assert float(rewards.mean()) == pytest.approx(0, abs=1e-5) and float(rewards.std()) > 0.3
    mean = load_reward_model(folder).mean
    assert mean != 0
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for number, ids in enumerate(train.sequences([0]).input_ids.split(train.lengths[:2].tolist())):
        assert float(theirs(ids[None]).logits) == pytest.approx(float(rewards[number]) + mean, abs=1e-5)


def test_members_differ_and_the_artifact_holds_all_of_them(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = trained
    members = load_ensemble(folder)
    assert len(members) == 2 and len(figures["members"]) == 1
    assert figures["members"][0]["validation"]["last"]["accuracy"] >= 0.9
    held = RenderedGroups.load(folder / "preferences/validation")
    one, two = (judge(member, held)[0] for member in members)
    assert not torch.equal(one, two)
    report = figures["health"]["ensemble"]
    gaps = torch.stack([one, two]).view(2, -1, 2)
    gaps = gaps[..., 0] - gaps[..., 1]
    assert report["spread"] == pytest.approx(float(gaps.std(0).mean()), rel=1e-6)
    assert not (folder / "member-2/checkpoints").exists() and (folder / "member-2/metrics.jsonl").is_file()
    assert "member-2/metrics.jsonl" in REWARD_STAGE.journal
    assert member_seed(5, 1) == 5 and member_seed(5, 2) != member_seed(5, 3) != member_seed(6, 3)


def test_drift_is_measured_from_the_training_answers(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = trained
    model, distance = load_reward_model(folder), Distance.load(folder / DISTANCE)
    train, held = (RenderedGroups.load(folder / "preferences" / name) for name in ("train", "validation"))
    away = distance.of(judge(model, train)[1])
    assert 0.5 < float(away.square().mean()) < 1.1
    usual = distance.of(judge(model, held)[1])
    assert float(usual.median()) == pytest.approx(float(distance.held_out[50]), rel=0.05)
    assert figures["health"]["distance"]["held_out"]["mean"] == pytest.approx(float(usual.mean()))
    tokenizer = Tokenizer.bytes()
    strange = join([tokenizer.encode("zzz ÄÖÜ")] * 4, [tokenizer.encode(text * 9) for text in ("@", "#q", "{}", "//")])
    with torch.no_grad():
        assert distance.drift(distance.of(model.last_hidden(strange)))["beyond"] == 1


class Table(nn.Module):
    """A reward for each answer, which is its last token."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def rewards(self, batch: Sequences) -> Tensor:
        return self.weight[batch.input_ids[batch.lengths.cumsum(0) - 1]]


def answers(pairs: Tensor) -> Sequences:
    """Pairs of answer numbers [P, 2] to one prompt."""
    flat = pairs.flatten().tolist()
    return join([[0]] * len(flat), [[answer] for answer in flat], [2] * len(pairs))


def minimise(model: Table, settings: RewardSettings, batch: Sequences) -> Tensor:
    """The rewards at the objective's minimum, by LBFGS in float64."""
    objective = reward_objective(settings)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        parts = objective(model, batch)
        loss = parts.loss_sum / parts.tokens
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.weight.detach()


def test_it_recovers_the_rewards_from_the_probabilities_of_all_pairs() -> None:
    """With every pair in either order at its Bradley–Terry probability, the minimum is r less a constant, exactly; the
    constant is what centring chooses, and any small weight of it leaves r alone only to its order."""
    true = torch.tensor([0.0, 1.5, -1.0, 0.4, 2.2], dtype=torch.float64)
    pairs = torch.combinations(torch.arange(5))
    batch = answers(pairs)
    sure = torch.sigmoid(true[pairs[:, 0]] - true[pairs[:, 1]])
    batch.of_sequence["confidence"] = sure.repeat_interleave(2)
    found = minimise(Table(5), settings_of("x", centring=0.0), batch)
    torch.testing.assert_close(found - found.mean(), true - true.mean(), rtol=0, atol=1e-6)
    centred = minimise(Table(5), settings_of("x", centring=1e-4), batch)
    assert abs(float(centred.mean())) < 1e-3
    torch.testing.assert_close(centred, true - true.mean(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("seed", range(5))
def test_it_recovers_the_rewards_from_pairs_that_were_drawn(seed: int) -> None:
    """Within the standard errors of the maximum-likelihood estimate, from the information matrix at the truth; and the
    accuracy is that of the best judge."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(6, generator=generator, dtype=torch.float64)
    pairs = torch.randint(0, 6, (8000, 2), generator=generator)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    p = torch.sigmoid(true[pairs[:, 0]] - true[pairs[:, 1]])
    flip = torch.rand(len(pairs), generator=generator, dtype=torch.float64) > p
    pairs = torch.where(flip[:, None], pairs.flip(1), pairs)
    found = minimise(Table(6), settings_of("x", centring=0.0), answers(pairs))
    information = torch.zeros(6, 6, dtype=torch.float64)
    for (one, two), q in zip(pairs.tolist(), p.tolist()):
        edge = torch.zeros(6, dtype=torch.float64)
        edge[one], edge[two] = 1.0, -1.0
        information += q * (1 - q) * torch.outer(edge, edge)
    errors = torch.linalg.pinv(information, hermitian=True, rtol=1e-9).diagonal().sqrt()
    difference = (found - found.mean()) - (true - true.mean())
    assert float((difference.abs() / errors).max()) < 4 and float(errors.max()) < 0.1
    best = float((true[pairs[:, 0]] > true[pairs[:, 1]]).double().mean())
    assert float((found[pairs[:, 0]] > found[pairs[:, 1]]).double().mean()) == pytest.approx(best, abs=0.005)


WORTH = {"aa": 0.0, "bb": 1.5, "cc": -1.5, "dd": 3.0}


def draw_pairs(path: Path, count: int) -> Path:
    """Pairs of four answers, labelled by Bradley–Terry, each with how often the best judge would agree."""
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    names = list(WORTH)
    for number in range(count):
        one, two = (names[index] for index in torch.randperm(4, generator=generator)[:2].tolist())
        p = 1 / (1 + math.exp(WORTH[two] - WORTH[one]))
        if float(torch.rand((), generator=generator)) > p:
            one, two = two, one
        rows.append(
            {"prompt": f"say {number}", "chosen": one, "rejected": two, "bayes": max(p, 1 - p), "reason": one + two}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_model_reaches_the_bayes_ceiling_of_noisy_labels_and_is_calibrated(base: Artifact, tmp_path: Path) -> None:
    data = draw_pairs(tmp_path / "rows.jsonl", 900)
    optimizer = RewardOptimizer(learning_rate=3e-3, head_learning_rate=1e-2)
    made = loop(RewardLoop, optimizer=optimizer, steps=60, rows=16, micro_rows=16, evaluate_every=60)
    settings = settings_of(data, validation_fraction=0.4).model_copy(update={"loop": made})
    figures = run(tmp_path / "out", base, settings)
    found = figures["health"]["accuracy"]
    assert found["ceiling_from"] == "the rows" and 0.8 < found["ceiling"] < 0.95
    assert found["within_interval"] and found["low"] <= found["ceiling"] <= found["high"]
    assert abs(found["short_by"]) < 0.04
    calibration = figures["health"]["calibration"]
    assert calibration["error"] < calibration["error_by_chance"] + 0.05
    assert any(name.startswith("reason: ") for name in figures["health"]["by_tag"])
    held = RenderedGroups.load(tmp_path / "out/preferences/validation")
    rewards = whole_rewards(tmp_path / "out", held)
    tokenizer = Tokenizer.bytes()
    of_answer: dict[str, list[float]] = {name: [] for name in WORTH}
    batch = held.sequences(range(len(held)))
    for reward, ids, size in zip(rewards, batch.input_ids.split(batch.lengths.tolist()), batch.answer_lengths):
        of_answer[tokenizer.decode(ids[-int(size) :].tolist()).strip()].append(float(reward))
    means = torch.tensor([sum(of_answer[name]) / len(of_answer[name]) for name in WORTH])
    true = torch.tensor(list(WORTH.values()))
    torch.testing.assert_close(means - means.mean(), true - true.mean(), rtol=0, atol=0.6)


def test_the_loss_is_the_formula_with_margin_smoothing_and_centring(tmp_path: Path) -> None:
    pairs = torch.tensor([[0, 1], [2, 1], [1, 2]])
    model = Table(3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([0.5, -0.2, 1.0]))
    rewards = model.weight.detach()[pairs]
    batch = answers(pairs)
    plain = reward_objective(settings_of("x", centring=0.0))(model, batch)
    assert float(plain.loss_sum.detach()) == pytest.approx(float(bradley_terry(rewards).sum()))
    assert float(plain.metrics["accuracy"]) == 2 and float(plain.tokens) == 3
    assert float(plain.metrics["margin"].detach()) == pytest.approx(float((rewards[:, 0] - rewards[:, 1]).sum()))
    batch.of_sequence["margin"] = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(2)
    all_of_it = reward_objective(settings_of("x", centring=0.5, label_smoothing=0.1, margin=True))(model, batch)
    expected = centre = 0.0
    for (high, low), margin in zip(rewards.tolist(), (2.0, 0.0, 1.0)):
        expected += 0.9 * math.log1p(math.exp(-(high - low - margin)))
        expected += 0.1 * math.log1p(math.exp(-(low - high - margin)))
        centre += 0.5 * (high + low) ** 2
    assert float(all_of_it.metrics["loss"].detach()) == pytest.approx(expected)
    assert float(all_of_it.loss_sum.detach()) == pytest.approx(expected + centre)


def test_margins_come_from_the_data_or_are_missed(base: Artifact, tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes()

    def rendered(path: Path) -> RenderedGroups:
        return render_rankings(read_rankings(path)[0], tokenizer, 128)[0]

    given = margin_field(settings_of("x", margin=True), rendered(make_pairs(tmp_path / "rows.jsonl", 4)), "training")
    assert given["margin"].tolist() == [2, 2, 0, 0, 2, 2, 0, 0]
    assert margin_field(settings_of("x"), rendered(tmp_path / "rows.jsonl"), "training") == {}
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    with pytest.raises(HanlinError, match="no preference of this data has a margin"):
        margin_field(settings_of("x", margin=True), rendered(bare), "training")
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "margin": margin} for margin in (-1, 0)]
    bare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = read_rankings(bare)[1]
    assert report.read == 1 and "row 1 (line 1): preference: the margin -1 is below 0" in str(report.quarantined[0])
    assert margin_field(settings_of("x", margin=True), rendered(bare), "training")["margin"].tolist() == [0, 0]
    # A lead that is asked for is a lead that is learnt.
    data = make_pairs(tmp_path / "pairs.jsonl")
    plain = run(tmp_path / "plain", base, settings_of(data))
    wide = run(tmp_path / "wide", base, settings_of(data, margin=True))
    assert wide["validation"]["last"]["margin"] > plain["validation"]["last"]["margin"]


def test_rows_padding_and_micro_batches_change_nothing(tmp_path: Path) -> None:
    """Gradients in float64, by any layout and in pieces of any size."""
    tokenizer = Tokenizer.bytes()
    rendered, _ = render_rankings(read_rankings(make_pairs(tmp_path / "rows.jsonl", 8))[0], tokenizer, 128)
    settings = settings_of("x", margin=True, label_smoothing=0.05)
    transformer = Transformer(tiny_config(tokenizer))
    transformer.init_weights(4)
    model = RewardModel.init_from(transformer, 4).double()
    batch = GroupsSource(rendered, 8, 0, margin_field(settings, rendered, "training")).step(0)
    found: list[list[Tensor]] = []
    for layout, rows in (
        ("shared", 8),
        ("packed", 8),
        ("shared", 3),
        ("padded", 8),
        ("padded-left", 8),
        ("packed", 1),
        ("padded", 3),
    ):
        working = WorkingCopy(model, "fp32")
        sums = accumulate(
            working,
            reward_objective(settings),
            replace(batch, layout=layout).parts(0, rows),
            torch.device("cpu"),
            World(),
        )
        assert sums.tokens == 8
        found.append([grad.clone() for grad in working.gradients()])
    size = max(float(grad.abs().max()) for grad in found[0])
    assert size > 0
    for other in found[1:]:
        for one, two in zip(found[0], other):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9 * size)


def test_a_model_that_looks_at_its_neighbours_is_found_out(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained

    class Leaky(RewardModel):
        def hidden(self, input_ids: Tensor, position_ids: Any = None, *unseen: Any, **more: Any) -> Tensor:
            return super().hidden(input_ids, position_ids, None, at=more["at"])

    model = load_reward_model(folder)
    texts = ["a", "a longer one", "and one that is longer still, so that two fit beside it"]
    batch = join([Tokenizer.bytes().encode("what?")] * 3, [Tokenizer.bytes().encode(text) for text in texts])
    assert max(layout_differences(model, batch).values()) < 1e-5
    model.__class__ = Leaky
    found = layout_differences(model, batch)
    assert found["shared"] > 1e-4 and found["packed"] > 1e-4 and found["padded-left"] > 1e-4 and found["padded"] < 1e-5


def test_with_adapters_only_they_and_the_head_are_trained(base: Artifact, tmp_path: Path) -> None:
    made = loop(RewardLoop, optimizer=RewardOptimizer(adapter_learning_rate=5e-3, head_learning_rate=5e-3), steps=30)
    settings = settings_of(make_pairs(tmp_path / "rows.jsonl"), lora=LoraSettings(rank=4))
    figures = run(tmp_path / "out", base, settings.model_copy(update={"loop": made}))
    assert figures["accuracy"] >= 0.9 and figures["parameters"]["trained_share"] < 0.6
    before, after = load_model(base.path), load_reward_model(tmp_path / "out").trunk
    assert torch.equal(before.embedding.weight, after.embedding.weight)
    assert not torch.equal(
        before.get_parameter("blocks.0.mlp.up.weight"), after.get_parameter("blocks.0.mlp.up.weight")
    )


def test_the_report_is_for_people_too_and_names_what_failed(base: Artifact, tmp_path: Path) -> None:
    told = Told()
    for name in ("world", "out"):
        (tmp_path / name).mkdir()
    make_pairs(tmp_path / "world/preferences.jsonl")
    settings = settings_of("", least_accuracy=0.999).model_copy(update={"data": None, "world": "world"})
    inputs = {"model": base, "world": external(tmp_path / "world")}
    figures = REWARD_STAGE.run(settings, StageContext(tmp_path / "out", inputs, 1, told))
    assert figures["health"]["accuracy"]["ceiling"] == 1
    failed = [gate for gate in figures["gates"] if not gate["passed"]]
    assert [gate["task"] for gate in failed] == ["held-out pairs"]
    text = "\n".join(told.lines)
    for word in ("accuracy ", "calibration ", "length ", "layouts ", "distance ", "it asks for more than 0.999"):
        assert word in text
    assert (tmp_path / "out/health.json").is_file()


def test_what_rows_say_of_themselves_is_kept_and_what_cannot_be_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows: list[dict[str, Any]] = [
        {**pair, "reason": "sum", "margin": 2, "metadata": {"language": "en", "bayes": 0.75, "facts": [1]}},
        {**pair, "bayes": 0.3},
        {**pair, "source": "x" * 100},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, report = read_rankings(path)
    assert found[0].metadata["tags"] == {"reason": "sum", "language": "en"}
    assert (found[0].metadata["bayes"], found[0].metadata["margin"]) == (0.75, 2)
    assert len(found) == 2 and "bayes should be a share from 0.5 to 1, not 0.3" in str(report.quarantined[0])
    assert not {"tags", "bayes", "margin"} & set(found[1].metadata)


def test_nothing_held_out_is_refused(base: Artifact, tmp_path: Path) -> None:
    data = make_pairs(tmp_path / "rows.jsonl", 4)
    with pytest.raises(HanlinError, match="is not one prompt"):
        run(tmp_path / "out", base, settings_of(data, validation_fraction=0.05))
    with pytest.raises(ValueError, match="validation_fraction"):
        settings_of(data, validation_fraction=0.0)
