import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from hanlin.artifacts import HanlinError, atomic_path, canonical_json, digest, run_lock, write_json, write_text
from hanlin.artifacts.store import Artifact, Manifest, artifact_id, content_hash, external, finish, list_files, remove


def _manifest(files, **changes):
    values = {
        "id": "i", "content": content_hash(files), "stage": "s", "kind": "k", "version": 1, "settings": {}, "seed": 0,
        "inputs": {}, "code": {}, "environment": {}, "figures": {"a": 1}, "started": "", "seconds": 0.0, "files": files,
    }  # fmt: skip
    return Manifest(**{**values, **changes})


def test_equal_values_have_one_text_and_one_digest():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_every_part_of_the_derivation_is_in_the_id():
    base = {"kind": "k", "version": 1, "settings": {"a": 1}, "seed": 0, "inputs": {"x": "h"}, "fingerprint": None}
    changes = [
        {"kind": "l"},
        {"version": 2},
        {"settings": {"a": 2}},
        {"seed": 1},
        {"inputs": {"x": "i"}},
        {"fingerprint": ["f"]},
    ]
    ids = {artifact_id(**base), *(artifact_id(**{**base, **change}) for change in changes)}
    assert len(ids) == len(changes) + 1


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    file = tmp_path / "f.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError), atomic_path(file) as part:
        part.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.txt"]


def _write_for_ever(path: str) -> None:
    n = 0
    while True:
        write_json(Path(path), {"n": n, "filling": "x" * 200_000})
        n += 1


def test_a_reader_never_sees_half_a_file_though_the_writer_is_killed(tmp_path):
    import json

    file = tmp_path / "f.json"
    for round_ in range(3):
        writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(str(file),))
        writer.start()
        deadline = time.time() + 20
        while not file.exists() and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 + 0.03 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert len(json.loads(file.read_text())["filling"]) == 200_000


def test_an_artifact_knows_when_its_files_changed(tmp_path):
    work = tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "deep/a.bin").write_bytes(b"123")
    (work / "checkpoints").mkdir()
    (work / "checkpoints/c").write_bytes(b"x")
    files = list_files(work, skip=("checkpoints",))
    assert set(files) == {"deep/a.bin"}
    artifact = finish(work, tmp_path / "final", _manifest(files))
    assert not work.exists()
    assert Artifact.load(artifact.path).manifest == artifact.manifest
    assert artifact.check() == []
    (artifact.path / "deep/a.bin").write_bytes(b"124")
    assert artifact.check() == ["deep/a.bin"]


def test_errors_say_what_is_missing(tmp_path):
    with pytest.raises(HanlinError, match="not a finished artifact"):
        Artifact.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"id": 3}')
    with pytest.raises(HanlinError, match="can't be read"):
        Artifact.load(tmp_path)
    with pytest.raises(HanlinError, match="not a folder"):
        external(tmp_path / "none")


def test_a_foreign_folder_is_known_by_its_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "w").write_text("same")
    first, second = external(tmp_path / "a"), external(tmp_path / "b")
    assert first.id == second.id
    (tmp_path / "b/w").write_text("other")
    assert external(tmp_path / "b").id != first.id
    remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def _hold(directory: str, ready, leave) -> None:
    with run_lock(Path(directory)):
        ready.set()
        leave.wait(30)


def test_the_second_run_is_told_who_holds_the_lock_and_a_kill_frees_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, leave))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(HanlinError, match=f"process {holder.pid} on .* holds its lock since"), run_lock(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with run_lock(tmp_path):
        pass
