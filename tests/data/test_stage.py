"""The stage `tokens`: what it writes is the corpus, token for token, with its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanlin.artifacts import Artifact, HanlinError, Manifest, StageContext
from hanlin.corpus import Document
from hanlin.corpus.shards import ShardWriter
from hanlin.data.packing import PackedTokens, validation_batches
from hanlin.data.shards import TokenShards
from hanlin.data.stage import TOKENS_STAGE, TokensSettings, run_tokens
from hanlin.tokenization import Tokenizer

TEXTS = {
    "train": [
        ("en", "The first."),
        ("en", "Second, longer: <|endoftext|>."),
        ("zh", "第三。"),
        ("zh", ""),
        ("en", "x" * 50),
    ],
    "validation": [("en", "Held out."), ("zh", "留出。")],
}
END = Tokenizer.bytes().end_of_text_id


def artifact(path: Path, kind: str, settings: dict[str, Any], figures: dict[str, Any]) -> Artifact:
    manifest = Manifest(
        id=kind, content=kind, stage=kind, kind=kind, version=1, settings=settings, seed=0, inputs={}, code={},
        environment={}, figures=figures, started="", seconds=0, files={},
    )  # fmt: skip
    return Artifact(path, manifest)


def context(folder: Path, weights: dict[str, float] | None = None) -> StageContext:
    sources: dict[str, dict[str, int]] = {}
    for split, texts in TEXTS.items():
        writer = ShardWriter(folder / "corpus" / split)
        for number, (source, text) in enumerate(texts):
            size = len(text.encode())
            about = {"file": f"{source}.jsonl", "offset": 10 * number, "bytes": size + 5, "language": source}
            writer.add(Document(f"{split}{number}", text, source, about), size)
            table = sources.setdefault(source, {"documents": 0, "bytes": 0})
            table["documents"] += 1
            table["bytes"] += size
        writer.close()
    Tokenizer.bytes().save(folder / "tokenizer")
    (folder / "work").mkdir()
    return StageContext(
        workdir=folder / "work",
        inputs={
            "corpus": artifact(folder / "corpus", "corpus", {"weights": weights}, {"sources": sources}),
            "tokenizer": artifact(folder / "tokenizer", "tokenizer", {}, {}),
        },
    )


SETTINGS = TokensSettings(corpus="corpus", tokenizer="tokenizer")


@pytest.mark.parametrize("at_once", [1, 30, 1 << 20])
def test_shards_hold_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr("hanlin.data.stage._BATCH_CHARACTERS", at_once)
    figures = run_tokens(SETTINGS, context(tmp_path))
    for split, texts in TEXTS.items():
        shards = TokenShards.open(tmp_path / "work", split)
        assert len(shards) == len(texts) and shards.tokens.dtype == np.uint16
        for number, (source, text) in enumerate(texts):
            # A text that spells <|endoftext|> does not end its document.
            assert shards.document(number).tolist() == [END, *text.encode()]
            assert shards.describe(np.array([number])) == [
                {
                    "id": f"{split}{number}",
                    "source": source,
                    "language": source,
                    "file": f"{source}.jsonl",
                    "offset": 10 * number,
                    "raw_bytes": len(text.encode()) + 5,
                    "bytes": len(text.encode()),
                }
            ]
        size = sum(len(text.encode()) for _, text in texts)
        assert figures[split]["bytes"] == size and figures[split]["tokens"] == size + len(texts) == len(shards.tokens)
        assert figures[split]["bytes_per_token"] == size / (size + len(texts))
    train = TokenShards.open(tmp_path / "work")
    assert figures["train"]["sources"]["zh"] == {"documents": 2, "tokens": 11, "bytes": 9, "bytes_per_token": 9 / 11}
    assert figures["train"]["largest_document"]["id"] == "train4"
    counts = np.load(tmp_path / "work" / "token_counts.npy")
    assert np.array_equal(counts, np.bincount(train.tokens, minlength=train.vocabulary_size))
    assert figures["vocabulary"]["never_seen"] == (counts == 0).sum()
    validation = TokenShards.open(tmp_path / "work", "validation").tokens
    assert figures["vocabulary"]["validation_tokens_never_seen"] == sum(counts[token] == 0 for token in validation) > 0
    assert Tokenizer.load(tmp_path / "work" / "tokenizer").encode("a") == [97]
    left = {path.name for path in (tmp_path / "work").iterdir()}
    assert left == {"tokenizer", "tokens.json", "token_counts.npy"} | {
        f"{split}.{end}" for split in TEXTS for end in ("bin", "offsets.npy", "documents.parquet")
    }


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_tokens(SETTINGS, context(tmp_path / "whole"))
    given = context(tmp_path / "cut")
    encoded: list[str] = []
    encode = Tokenizer.encode_batch

    def watched(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        encoded.extend(texts)
        if "Held out." in texts and encoded.count("Held out.") == 1:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", watched)
    with pytest.raises(KeyboardInterrupt):
        run_tokens(SETTINGS, given)
    run_tokens(SETTINGS, given)
    assert encoded.count("The first.") == 1, "the training split was encoded again"
    for file in (tmp_path / "whole" / "work").rglob("*"):
        if file.is_file():
            other = tmp_path / "cut" / "work" / file.relative_to(tmp_path / "whole" / "work")
            assert file.read_bytes() == other.read_bytes()
    assert len(list(given.workdir.rglob("*"))) == len(list((tmp_path / "whole" / "work").rglob("*")))


def test_weights_of_the_corpus_are_used(tmp_path: Path):
    figures = run_tokens(SETTINGS, context(tmp_path, {"en": 1.0, "zh": 1.0}))
    shards = TokenShards.open(tmp_path / "work")
    packed = PackedTokens(shards, 8, 2, 0)
    assert packed.weights == {"en": 1.0, "zh": 1.0} and packed.repeats == pytest.approx(figures["repeats"])
    sizes = {name: table["tokens"] for name, table in figures["train"]["sources"].items()}
    read = {name: sizes[name] * times for name, times in figures["repeats"].items()}
    assert read["en"] == pytest.approx(read["zh"])


def test_weights_that_do_not_fit_are_refused_before_the_work(tmp_path: Path):
    with pytest.raises(HanlinError, match="no weight for source 'zh'"):
        run_tokens(SETTINGS, context(tmp_path, {"en": 1.0}))
    assert not (tmp_path / "work" / "train.bin").exists()


def test_validation_bytes_are_known(tmp_path: Path):
    run_tokens(SETTINGS, context(tmp_path))
    shards = TokenShards.open(tmp_path / "work", "validation")
    sizes = shards.table(["bytes"]).column("bytes").to_pylist()
    labels = np.zeros(len(sizes), int)
    for item in validation_batches(shards, 4, 2):
        inside = item.documents >= 0
        text = inside & (item.batch.labels.numpy() != END)
        np.add.at(labels, item.documents[text], 1)
    assert labels.tolist() == sizes  # a byte tokenizer: a token a byte


def test_the_stage_is_light():
    """Reading settings and schemas must not wait for torch or pyarrow."""
    code = "import sys, hanlin.data.stage; assert not {'torch', 'pyarrow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert TOKENS_STAGE.kind == "tokens" and set(TOKENS_STAGE.inputs) == {"corpus", "tokenizer"}
