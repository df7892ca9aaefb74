from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.report import _choose, _Lowest, load_reference, make_report
from hanlin.tokenization.train import TRAIN_STAGE, Plan, TokenizerSettings, train
from tests.tokenization.corpora import documents, make_corpus


def report(
    tmp_path: Path, tokenizer: Tokenizer, train: list[Any], validation: list[Any], **settings: Any
) -> dict[str, Any]:
    make_corpus(tmp_path / "corpus", train, validation)
    given = TokenizerSettings(corpus="corpus", **settings)
    plan = Plan.make(tmp_path / "corpus", None, given.sample_bytes, 0)
    return make_report(tokenizer, plan, tmp_path / "corpus", given, lambda size, note: None)


def row(text: str, language: str = "en", source: str = "s") -> dict[str, Any]:
    identity = f"{abs(hash(text)):032x}"
    return {"id": identity, "text": text, "source": source, "language": language, "bytes": len(text.encode())}


def test_compression_of_a_byte_tokenizer_is_known(tmp_path: Path) -> None:
    texts = [row("the cat, the dog", "en", "a"), row("翰林 in 北京", "zh", "b"), row("12345", "en", "b")]
    figures = report(tmp_path, Tokenizer.bytes(), texts, texts)["text"]
    assert figures["split"] == "validation"
    english = figures["language"]["en"]
    assert (english["documents"], english["bytes"], english["words"], english["han"]) == (2, 21, 4, 0)
    assert {name: value["tokens"] for name, value in english["tokenizers"].items()} == {
        "this tokenizer": 21,
        "UTF-8 bytes": 21,
        "characters": 21,
    }
    assert english["tokenizers"]["this tokenizer"]["tokens_per_word"] == (3 + 4 + 4 + 4) / 4
    assert english["tokenizers"]["this tokenizer"]["tokens_per_han"] is None
    chinese = figures["language"]["zh"]
    assert (chinese["han"], chinese["words"], chinese["bytes"], chinese["characters"]) == (4, 1, 16, 8)
    assert chinese["tokenizers"]["UTF-8 bytes"]["tokens_per_han"] == 3
    assert chinese["tokenizers"]["characters"]["tokens_per_han"] == 1
    assert chinese["tokenizers"]["characters"]["bytes_per_token"] == 2
    assert {name: group["bytes"] for name, group in figures["source"].items()} == {"a": 16, "b": 21}


def test_a_trained_tokenizer_beside_references(tmp_path: Path, trained: Tokenizer, directory: Path) -> None:
    Tokenizer.bytes().save(tmp_path / "bytes")
    references = [str(directory), str(tmp_path / "bytes" / "tokenizer.json")]
    figures = report(tmp_path, trained, documents(50), documents(50, seed=3), references=references)
    for kind in ("language", "source"):
        for group in figures["text"][kind].values():
            rows = group["tokenizers"]
            assert rows["this tokenizer"] == rows[references[0]]
            assert rows["UTF-8 bytes"] == rows[references[1]]
            assert rows["this tokenizer"]["bytes_per_token"] > 1.5
            assert rows["this tokenizer"]["tokens"] == group["bytes"] / rows["this tokenizer"]["bytes_per_token"]
    assert 1 <= figures["text"]["language"]["en"]["tokenizers"]["this tokenizer"]["tokens_per_word"] < 2


def test_seldom_seen_tokens_are_counted(tmp_path: Path, trained: Tokenizer) -> None:
    train = [row("the river " * 60), row("museum of 翰林 mountains")]
    figures = report(tmp_path, trained, train, [row("the")], rare_below=50)
    tokens, learned = figures["tokens"], figures["vocabulary"]["learned"]
    counts = {one["token"]: one["count"] for one in figures["rarest"]}
    assert len(figures["rarest"]) == 100
    assert set(counts.values()) == {0}
    used = {index for text in train for index in trained.encode(text["text"]) if index >= 256}
    assert tokens["never_seen"] == learned - len(used)
    assert tokens["never_seen_share"] == tokens["never_seen"] / learned
    often = {index for index in used if trained.encode("the river " * 60).count(index) >= 50}
    assert tokens["rare"] == len(used - often) > 0
    assert tokens["unused_in_validation_share"] == (learned - 1) / learned
    assert figures["sample"]["tokens"] == sum(len(trained.encode(text["text"])) for text in train)
    assert figures["vocabulary"]["longest_bytes"] == len(tokens["longest"][0].encode()) == 9
    assert tokens["rare_share"] == tokens["rare"] / learned
    assert figures["warnings"] == []
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("rare_below", [10, 40, 200])
def test_the_advised_size_is_one_that_does_not_warn(tmp_path: Path, rare_below: int) -> None:
    """The advice is computed by undoing merges; here the smaller tokenizers are trained and counted."""
    rows = documents(400)

    def figures_of(size: int) -> dict[str, Any]:
        text, _ = train((row["text"] for row in rows), size, 12, 2)
        return report(tmp_path / str(size), Tokenizer(text), rows, [], rare_below=rare_below, rare_share_warning=0.1)

    figures = figures_of(1000)
    advised = figures["tokens"]["advised_vocabulary_size"]
    assert f"(about {advised:,})" in figures["warnings"][0]
    assert 280 < advised < 1000
    at_advised, above = figures_of(advised), figures_of(advised + 1)
    assert at_advised["warnings"] == []
    assert at_advised["tokens"]["advised_vocabulary_size"] == advised
    assert at_advised["tokens"]["rare_share"] <= 0.1 < above["tokens"]["rare_share"]


def test_rarity_is_that_of_the_whole_training_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train((row["text"] for row in documents(800)), 400, 12, 2)[0])
    whole = report(tmp_path / "whole", tokenizer, documents(800), [], rare_below=1000)
    part = report(tmp_path / "part", tokenizer, documents(800), [], rare_below=1000, sample_bytes=70_000)
    assert part["sample"]["bytes"] < whole["sample"]["bytes"] / 3
    assert 0.1 < whole["tokens"]["rare_share"] < 0.9
    assert part["tokens"]["rare_share"] == pytest.approx(whole["tokens"]["rare_share"], abs=0.1)
    assert whole["text"]["split"] == "train"  # there is no validation text, and the report says so


def test_report_bytes_bound_what_is_measured(tmp_path: Path, trained: Tokenizer) -> None:
    figures = report(tmp_path, trained, documents(20), documents(400, seed=4), report_bytes=20_000)
    sizes = {name: group["bytes"] for name, group in figures["text"]["source"].items()}
    whole = {source: sum(r["bytes"] for r in documents(400, seed=4) if r["source"] == source) for source in sizes}
    assert 20_000 <= sum(sizes.values()) < 22_000
    assert sizes["poems"] / sum(sizes.values()) == pytest.approx(whole["poems"] / sum(whole.values()), abs=0.05)


def test_without_validation_text_report_bytes_of_the_training_text_are_measured(
    tmp_path: Path, trained: Tokenizer
) -> None:
    rows = documents(400, seed=4)
    given: dict[str, Any] = {"report_bytes": 20_000}
    first = report(tmp_path / "one", trained, rows, [], **given)["text"]
    assert first["split"] == "train"
    assert 20_000 <= sum(group["bytes"] for group in first["source"].values()) < 22_000
    assert report(tmp_path / "two", trained, rows[::-1], [], **given)["text"] == first


def test_the_documents_of_the_lowest_ids_are_chosen_and_only_those_held() -> None:
    rows = documents(3000, seed=5)
    chosen = _choose(lambda: iter(rows), 30_000)
    whole = sum(row["bytes"] for row in rows)
    for source in ("pages", "poems"):
        members = sorted((row for row in rows if row["source"] == source), key=lambda row: row["id"])
        budget = 30_000 / whole * sum(row["bytes"] for row in members)
        count = sum(row["id"] in chosen for row in members)
        assert {row["id"] for row in members[:count]} == chosen & {row["id"] for row in members}
        sizes = [row["bytes"] for row in members]
        assert sum(sizes[: count - 1]) < budget <= sum(sizes[:count])
    lowest = _Lowest(1000.0)
    for row in rows:
        lowest.offer(row["id"], 10)
        assert len(lowest.heap) <= 100


def test_references_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match="neither a path here nor a model's name"):
        load_reference(str(tmp_path / "nothing"))
    with pytest.raises(HanlinError, match=r"holds no tokenizer\.json"):
        load_reference(str(tmp_path))


def test_a_hub_name_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that: the network is not touched here."""
    import tokenizers

    asked: list[str] = []

    class Hub:
        @staticmethod
        def from_pretrained(name: str) -> Any:
            asked.append(name)
            if name == "someone/missing":
                raise Exception("404")  # as the library does
            return tokenizers_tokenizer

    tokenizers_tokenizer = tokenizers.Tokenizer.from_str(Tokenizer.bytes().json)
    with monkeypatch.context() as patch:
        patch.setattr(tokenizers.Tokenizer, "from_pretrained", Hub.from_pretrained)
        assert load_reference("gpt2").encode("ab") == [97, 98]
        with pytest.raises(HanlinError, match="can't be had from the hub: 404"):
            load_reference("someone/missing")
    assert asked == ["gpt2", "someone/missing"]


def test_the_fingerprint_follows_the_reference_files(tmp_path: Path) -> None:
    Tokenizer.bytes().save(tmp_path)
    settings = TokenizerSettings(corpus="c", references=[str(tmp_path), "gpt2"])
    assert TRAIN_STAGE.fingerprint is not None
    before = TRAIN_STAGE.fingerprint(settings)
    assert [*before] == [str(tmp_path)]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert TRAIN_STAGE.fingerprint(settings) != before
