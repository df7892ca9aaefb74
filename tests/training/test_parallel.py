import json

import torch

from hanlin.artifacts import Silent
from hanlin.training.loop import accumulate, train
from hanlin.training.objectives import next_token
from hanlin.training.parallel import World
from hanlin.training.precision import WorkingCopy
from tests.ranks import run_ranks
from tests.training.toy import ToySource, tiny_model, toy_job, toy_settings

torch.set_num_threads(1)


def test_two_processes_equal_one(tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    ranks = run_ranks("tests.training.ranks", folder)
    # Gradients of one uneven step, in fp64.
    working = WorkingCopy(tiny_model(dtype=torch.float64), "fp32")
    batch = ToySource().step(0)
    batch.labels[0, 4:] = -100
    batch.labels[4, 4:] = -100
    sums = accumulate(working, next_token(), batch.parts(0, 8), torch.device("cpu"), World())
    for name, parameter in working.master.named_parameters():
        for rank in ranks:
            assert (rank[f"gradient/{name}"] - parameter.grad / sums.tokens).abs().max() < 1e-12, name
    # A whole run, with a spike, in fp32: both ranks hold the same bits, near those of a single process.
    job = toy_job(36, ToySource(junk=(30,), junk_rows=(1, 3, 4, 6)))
    figures = train(job, toy_settings(), tmp_path, 0, Silent())
    assert [spike["batch"] for spike in figures["spikes"]] == ranks[0]["spikes"].tolist() == [30]
    for name, parameter in job.model.named_parameters():
        assert torch.equal(ranks[0][f"weight/{name}"], ranks[1][f"weight/{name}"])
        assert (ranks[0][f"weight/{name}"] - parameter).abs().max() < 0.02, name
    # The record of the spike has the rows of both ranks.
    report = json.loads((folder / "spikes" / "30.json").read_text())
    assert {entry["row"] for entry in report["standing_out"][:8]} == {1, 3, 4, 6}
