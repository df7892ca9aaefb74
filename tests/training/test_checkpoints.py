import json
import random

import numpy as np
import pytest
import torch

import hanlin.training.checkpoints as module
from hanlin.training.checkpoints import Checkpoints, random_states, restore_random_states, seed_everything

TENSORS = {"model/w": torch.arange(6.0).reshape(2, 3), "optimizer/w/step": torch.tensor(3.0)}


def write(checkpoints: Checkpoints, step: int, point: bool = True, best: int | None = None) -> None:
    checkpoints.write(step, TENSORS, {"point": point, "best": None if best is None else {"step": best}})


def test_tensors_and_state_round_trip(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3)
    write(checkpoints, 7)
    assert checkpoints.state(7)["step"] == 7
    for name, tensor in checkpoints.tensors(7).items():
        assert torch.equal(tensor, TENSORS[name])


def test_keeps_the_last_points_the_best_and_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step, point, best in ((0, True, 0), (5, False, 5), (10, True, 5), (20, True, 5), (30, True, 5), (33, False, 5)):
        write(checkpoints, step, point, best)
    assert checkpoints.steps() == [5, 20, 30, 33]
    assert checkpoints.points() == [20, 30]
    write(checkpoints, 40, True, 40)
    # 5 is still the best that the kept checkpoint of step 30 knows of: a rollback to it would need it.
    assert checkpoints.steps() == [5, 30, 40]


@pytest.mark.parametrize("moment", ["in the tensors", "before the rename", "in the state"])
def test_a_write_cut_short_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, moment):
    """Cut at each stage of writing, as a kill would: nothing after the cut happens."""

    class Killed(BaseException):
        pass

    checkpoints = Checkpoints(tmp_path, 3)
    write(checkpoints, 1)

    def half(tensors, path):
        path.write_bytes(b"half of it")
        raise Killed

    def killed(*_):
        raise Killed

    if moment == "in the tensors":
        monkeypatch.setattr(module, "save_file", half)
    elif moment == "in the state":
        monkeypatch.setattr(module, "write_json", killed)
    else:
        monkeypatch.setattr(module, "sync_directory", killed)
    with pytest.raises(Killed):
        write(checkpoints, 2)
    monkeypatch.undo()
    assert any(path.name.endswith(".part") for path in tmp_path.iterdir())
    again = Checkpoints(tmp_path, 3)
    assert again.steps() == [1]
    assert again.clean() == []
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    write(again, 2)
    assert again.steps() == [1, 2]


@pytest.mark.parametrize("damage", ["tensors", "state", "missing"])
def test_a_damaged_checkpoint_is_removed_and_named(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path, 3)
    write(checkpoints, 1)
    write(checkpoints, 2)
    file = tmp_path / "00000002" / ("state.json" if damage == "state" else "tensors.safetensors")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-10])
    assert checkpoints.clean() == ["00000002"]
    assert checkpoints.steps() == [1]


def test_drop_after_removes_the_latest_first(tmp_path):
    checkpoints = Checkpoints(tmp_path, 5)
    for step in (0, 10, 20, 30):
        write(checkpoints, step)
    checkpoints.drop_after(10)
    assert checkpoints.steps() == [0, 10]


def test_random_states_round_trip():
    seed_everything(3, 0)
    random.random(), np.random.rand(), torch.rand(1)
    np.random.standard_normal(1)  # leaves a cached second number behind
    saved = random_states()
    assert json.loads(saved)

    def draw():
        return [random.random(), *np.random.standard_normal(3), *torch.rand(3).tolist(), random.gauss(0, 1)]

    first = draw()
    restore_random_states(saved)
    assert draw() == first


def test_ranks_draw_differently():
    seed_everything(3, 0)
    one = torch.rand(1)
    seed_everything(3, 1)
    assert torch.rand(1) != one
