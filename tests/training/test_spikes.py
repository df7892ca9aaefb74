import json

import pytest
import torch

from hanlin.artifacts import HanlinError, Silent
from hanlin.training.diagnosis import Facts, diagnose
from hanlin.training.loop import train
from hanlin.training.settings import OptimizerSettings, SpikeSettings
from hanlin.training.spikes import Detector, batch_of_step, in_a_row
from tests.training.toy import VOCABULARY, ToySource, toy_job, toy_settings

torch.set_num_threads(1)


def test_corrupted_documents_are_found_recorded_skipped_and_training_goes_on(tmp_path):
    source = ToySource(junk=(38, 39), junk_rows=(1, 4, 6))
    counts = torch.full((VOCABULARY,), 1000)
    job = toy_job(64, source, token_counts=counts, spell=lambda token: f"<{token}>")
    figures = train(job, toy_settings(checkpoint_every=8), tmp_path, 0, Silent())
    assert [spike["batch"] for spike in figures["spikes"]] == [38, 39]
    assert {38, 39} <= set(figures["skipped_batches"])
    report = json.loads((tmp_path / "spikes" / "38.json").read_text())
    assert report["reason"]["measure"] == "loss"
    assert report["rolled_back_to"] == 32
    # Exactly the corrupted documents stand out: rows 1, 4 and 6, both halves.
    assert {entry["document"] for entry in report["standing_out"]} == {
        f"38/{row}/{part}" for row in (1, 4, 6) for part in (0, 1)
    }
    assert sum(token["row"] in (1, 4, 6) for token in report["tokens"]) > 40
    assert report["tokens"][0]["text"] == f"<{report['tokens'][0]['id']}>"
    assert report["rare_share"] == 0.0
    events = figures["curves"]["spikes"]
    assert [event["batch"] for event in events] == [38, 39] and events[0]["rolled_back_to"] == 32
    # The spikes are gone from the course, and the end is that of a run on clean data, within its noise.
    clean = toy_job(64)
    (tmp_path / "clean").mkdir()
    expected = train(clean, toy_settings(checkpoint_every=8), tmp_path / "clean", 0, Silent())
    assert expected["spikes"] == []
    assert figures["validation"]["last"]["loss"] == pytest.approx(expected["validation"]["last"]["loss"], abs=0.05)
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    course = [line for line in steps if "batch" in line and "event" not in line]
    assert [line["step"] for line in course] == list(range(64))
    assert not {38, 39} & {line["batch"] for line in course}


def test_after_too_many_in_a_row_it_stops_with_a_diagnosis(tmp_path):
    source = ToySource(junk=tuple(range(30, 200)), junk_rows=tuple(range(8)))
    with pytest.raises(HanlinError) as error:
        train(
            toy_job(64, source), toy_settings(spikes=SpikeSettings(minimum=16, most_in_a_row=3)), tmp_path, 0, Silent()
        )
    text = str(error.value)
    assert "broke 4 times in a row" in text
    assert "junk documents: LIKELY" in text
    assert "bf16 resolution at small loss: excluded" in text
    assert "rare tokens: not known" in text
    assert len(list((tmp_path / "spikes").glob("*.json"))) == 4


def test_a_rate_far_too_high_is_called_by_its_name(tmp_path):
    settings = toy_settings(
        optimizer=OptimizerSettings(name="adamw", learning_rate=0.01, embedding_learning_rate=1e30, weight_decay=0.0),
        gradient_clip=0.0,
    )
    with pytest.raises(HanlinError, match="learning rate: LIKELY"):
        train(toy_job(60), settings, tmp_path, 0, Silent())


def test_a_loss_that_is_no_number_counts_at_once(tmp_path):
    from hanlin.training.objectives import LossParts, next_token

    calls = []

    def objective(model, batch):
        parts = next_token()(model, batch)
        calls.append(1)
        broken = parts.loss_sum * float("nan") if len(calls) == 5 else parts.loss_sum
        return LossParts(broken, parts.tokens)

    figures = train(toy_job(12, objective=objective), toy_settings(), tmp_path, 0, Silent())
    assert [(spike["step"], spike["rolled_back_to"]) for spike in figures["spikes"]] == [(4, 0)]
    assert figures["skipped_batches"] == [4]


def test_detector_needs_the_grace_and_then_sees_a_rise():
    detector = Detector(SpikeSettings(window=64, minimum=24))
    torch.manual_seed(0)
    for step, noise in enumerate(torch.randn(200).tolist()):
        assert detector.judge(3.0 + 0.05 * noise, 1.0) is None, step
        detector.accept(3.0 + 0.05 * noise, 1.0)
    found = detector.judge(3.6, 1.0)
    assert found is not None and found["measure"] == "loss" and found["deviations"] > 8
    assert detector.judge(2.0, 1.0) is None
    found = detector.judge(3.0, 50.0)
    assert found is not None and found["measure"] == "gradient norm" and found["median"] == pytest.approx(1.0)
    assert detector.judge(3.0, float("inf")) is not None
    fresh = Detector(SpikeSettings(window=64, minimum=24))
    for _ in range(23):
        fresh.accept(3.0, 1.0)
    assert fresh.judge(30.0, 100.0) is None
    fresh.accept(3.0, 1.0)
    assert fresh.judge(30.0, 100.0) is not None


def test_the_fall_of_the_loss_is_not_taken_for_noise():
    detector = Detector(SpikeSettings())
    torch.manual_seed(1)
    for step, noise in enumerate(torch.randn(64).tolist()):
        detector.accept(8.0 * 0.97**step + 0.03 * noise, 1.0)
    assert detector.judge(8.0 * 0.97**64 + 0.03, 1.0) is None
    assert detector.judge(8.0 * 0.97**64 + 1.1, 1.0) is not None


def test_past_outliers_do_not_hide_new_ones():
    detector = Detector(SpikeSettings())
    for value in [3.0, 3.02, 2.98, 3.01, 2.99, 3.4] * 10:
        detector.accept(value, 1.0)
    assert detector.judge(9.0, 1.0) is not None


def test_a_long_tail_is_known_by_its_highest_rise():
    detector = Detector(SpikeSettings())
    for value in [3.0, 3.02, 2.98, 3.01, 2.99, 3.4] * 10:
        detector.accept(value, 1.0)
    assert detector.judge(3.5, 1.0) is None
    assert detector.judge(3.9, 1.0) is not None


def test_the_batch_of_a_step_passes_over_the_skipped_ones():
    assert [batch_of_step(step, []) for step in range(4)] == [0, 1, 2, 3]
    assert [batch_of_step(step, [2, 0, 3]) for step in range(4)] == [1, 4, 5, 6]


def test_counting_in_a_row():
    history: list[dict] = []
    for step, expected in ((100, 1), (105, 2), (90, 3), (124, 4), (200, 1), (219, 2), (300, 1)):
        assert in_a_row(history, step, 20) == expected
        history.append({"step": step})


def spike(measure="loss", seen=1000, out=()):
    return {"reason": {"measure": measure, "value": 9.0}, "tokens": [{"seen": seen}] * 10, "standing_out": list(out)}


def facts(**changes):
    known = {
        "precision": "fp32",
        "median_loss": 3.0,
        "schedule_factor": 1.0,
        "warmup": False,
        "peak_rate": 0.01,
        "clip": 1.0,
    }
    return Facts(**{**known, "model": {"norms": "pre", "qk_norm": True}, **changes})


@pytest.mark.parametrize(
    ("spikes", "facts", "line"),
    [
        ([spike(seen=3)], facts(), "rare tokens: LIKELY: 100%"),
        ([spike(out=[{"document": "abc", "source": "web"}])], facts(), "junk documents: LIKELY"),
        ([spike()], facts(precision="bf16", median_loss=0.2), "bf16 resolution at small loss: LIKELY"),
        ([spike("gradient norm")], facts(), "learning rate: LIKELY"),
        ([spike()], facts(schedule_factor=0.1), "learning rate: possible"),
        ([spike()], facts(model={"norms": "post"}), "placement of norms: LIKELY"),
        ([spike()], facts(model={"norms": "pre", "qk_norm": False}), "placement of norms: possible"),
        ([spike()], facts(), "placement of norms: excluded"),
    ],
)
def test_each_cause_is_named_by_its_evidence(spikes, facts, line):
    assert line in diagnose(spikes, facts)
