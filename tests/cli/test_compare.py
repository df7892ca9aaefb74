"""`hanlin compare` from outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from hanlin.artifacts import UsageError
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.recipes.find import find_common, is_taught
from hanlin.tokenization import Tokenizer
from tests.processes import hanlin


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that no run made, with another tokenizer."""
    folder = tmp_path_factory.mktemp("foreign")
    tokenizer = Tokenizer.bytes()
    network = Transformer(
        ModelConfig(vocabulary_size=tokenizer.vocabulary_size, hidden_size=32, layers=1, heads=2, max_positions=256)
    )
    network.init_weights(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    save_model(folder, network, tokenizer)
    return folder


def test_two_stages_of_a_run(small_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.json"
    done = hanlin(
        "compare", small_run / "base", small_run / "chat", "--tasks", "world/replies", "corpus/bits-per-byte",
        "--by", "language", "--limit", 8, "--seed", 5, "--json", file, "--records", tmp_path / "marks",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert (figures["a"], figures["b"]) == (str(small_run / "base"), str(small_run / "chat"))
    assert (figures["limit"], figures["seed"], figures["by"]) == (8, 5, "language")
    assert {row["task"] for row in figures["rows"]} == {"world/replies", "corpus/bits-per-byte"}
    for row in figures["rows"]:
        assert row["low"] <= row["difference"] <= row["high"] and 0 < row["p_value"] <= 1
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert row["wins"] + row["ties"] + row["losses"] == row["n"] == row["win_rate"]["n"] <= 8
        assert row["win_rate"]["low"] <= row["win_rate"]["value"] <= row["win_rate"]["high"]
    assert {row["part"] for row in figures["rows"]} == {"", "language=en", "language=zh"}
    for words in ("world/replies", "refused_answerable", "bits_per_byte", "language=zh", "win rate", "sign-flip"):
        assert words in done.stdout
    assert "A was asked as plain text, B through its chat template" in done.stdout
    for who in "ab":
        assert len((tmp_path / "marks" / who / "world/replies.jsonl").read_text().splitlines()) == 8


def test_a_model_of_another_make_and_a_copy(small_run: Path, foreign: Path, tmp_path: Path) -> None:
    """The world is that of the model which comes from one."""
    file = tmp_path / "pairs.json"
    done = hanlin(
        "compare",
        foreign,
        small_run / "chat",
        "--tasks",
        "world/choice",
        "corpus/bits-per-byte",
        "--limit",
        10,
        "--json",
        file,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["accuracy"]["n"] == rows["bits_per_byte"]["n"] == 10
    assert rows["bits_per_byte"]["a"] > rows["bits_per_byte"]["b"] and rows["bits_per_byte"]["p_value"] < 0.01
    shutil.copytree(small_run / "chat", tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").unlink()
    done = hanlin("compare", tmp_path / "copy", foreign, "--tasks", "world/facts")
    assert done.returncode == 2 and "world/facts needs a world: give the folder of one" in done.stderr
    done = hanlin(
        "compare",
        tmp_path / "copy",
        small_run / "chat",
        "--tasks",
        f"world/choice={small_run / 'world'}",
        "--json",
        file,
    )
    assert done.returncode == 0, done.stderr
    assert all(row["ties"] == row["n"] and row["p_value"] == 1 for row in json.loads(file.read_text())["rows"])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["{run}/chat", "/no/such/model", "--tasks", "world/facts"], 1, "/no/such/model is not a directory"),
        (["/no/such/model", "{run}/chat", "--tasks", "world/fact"], 2, "did you mean 'world/facts'"),
        (["{run}/chat", "--tasks", "world/facts"], 2, ""),
        (["{run}/chat", "{run}/base"], 2, ""),
        (["{run}/chat", "{run}/base", "--tasks", "world/facts", "--by", "colour"], 2, "no item has the tag 'colour'"),
        (["{run}/chat", "{run}/base", "--tasks", "world/facts=/no/such/world"], 2, "no file or folder /no/such/world"),
    ],
)
def test_errors_are_explained_without_a_traceback(small_run: Path, words: list[str], status: int, message: str) -> None:
    done = hanlin("compare", *(word.format(run=small_run) for word in words))
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and message in done.stderr.replace("\n", " ")


def test_models_of_two_worlds_are_not_held_to_one_of_them(small_run: Path, foreign: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_run, other, ignore=shutil.ignore_patterns("corpus", "tokens", "base*", ".*"))
    models = (small_run / "chat", other / "chat")
    assert find_common(models, ["world"]) == {"world": (small_run / "world").resolve()}
    assert find_common((foreign, foreign), ["world", "corpus"]) == {}
    assert find_common((foreign, small_run / "chat"), ["world"]) == {"world": (small_run / "world").resolve()}
    manifest = json.loads((other / "world/manifest.json").read_text())
    (other / "world/manifest.json").write_text(json.dumps({**manifest, "id": "0" * 64}))
    (other / "chat/manifest.json").write_text(
        json.dumps({**json.loads((other / "chat/manifest.json").read_text()), "inputs": {}})
    )
    with pytest.raises(UsageError, match="do not come from the same world"):
        find_common(models, ["world"])
    assert find_common(models, []) == {}
    assert is_taught(small_run / "chat") and not is_taught(small_run / "base") and is_taught(foreign)
