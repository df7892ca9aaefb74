"""The stage: splits, duplicates, sources, mixtures, determinism, and what it refuses."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from hanlin.artifacts import Artifact, HanlinError, Manifest, StageContext, UsageError, hash_file
from hanlin.corpus import iterate_documents
from hanlin.corpus.build import STAGE, CorpusSettings
from hanlin.corpus.document import document_id
from hanlin.corpus.filters import SeenIds, hash_fraction
from hanlin.corpus.split import Split
from hanlin.corpus.world import STAGE as WORLD
from hanlin.corpus.world import WorldSettings

from .helpers import TEXT, Told, build, documents, ledger


def lines(path: Path, numbers: range, repeat: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": f"{number}: {TEXT * repeat}"}) for number in numbers]
    path.write_text("\n".join(rows) + "\n")


def ids(corpus: Path, split: str) -> set[str]:
    return {document.id for document in iterate_documents(corpus, split)}


def test_split_is_decided_by_the_document_and_stays(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "b.jsonl", range(500))
    build(tmp_path / "in", tmp_path / "1", validation_fraction=0.1)
    lines(tmp_path / "in" / "a.jsonl", range(1000, 1500))
    build(tmp_path / "in", tmp_path / "2", validation_fraction=0.1)
    train, validation = ids(tmp_path / "1", "train"), ids(tmp_path / "1", "validation")
    assert 25 <= len(validation) <= 80
    assert not train & validation
    assert all(hash_fraction(id) < 0.1 for id in validation)
    assert train <= ids(tmp_path / "2", "train")
    assert validation <= ids(tmp_path / "2", "validation")


def test_a_bound_on_validation_moves_documents_out_of_it_only(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "b.jsonl", range(300))
    build(tmp_path / "in", tmp_path / "1", validation_fraction=0.5, validation_max_bytes=2_000)
    lines(tmp_path / "in" / "a.jsonl", range(1000, 1300))
    figures = build(tmp_path / "in", tmp_path / "2", validation_fraction=0.5, validation_max_bytes=2_000)
    assert sum(source["validation_bytes"] for source in figures["sources"].values()) <= 2_000
    assert ids(tmp_path / "1", "train") <= ids(tmp_path / "2", "train")
    assert 5 < len(ids(tmp_path / "2", "validation")) < 40
    for split in ("train", "validation"):  # what was decided late is in the ledger too
        rows = [row for row in ledger(tmp_path / "2") if row["split"] == split]
        assert {row["id"] for row in rows} == ids(tmp_path / "2", split)


def test_the_bound_does_not_depend_on_the_order() -> None:
    generator = random.Random(1)
    entries = [(generator.random(), generator.randrange(1, 50), number) for number in range(400)]

    def chosen(order: list[tuple[float, int, int]]) -> set[int]:
        split: Split[int] = Split(0.5, 300)
        train = [what for hash, size, number in order for what in split.place(hash, size, number)]
        rest, validation = split.finish()
        assert sorted(train + rest + validation) == list(range(400))
        return set(validation)

    first = chosen(entries)
    by_hash, total, expected = sorted(entries), 0, set[int]()
    for hash, size, number in by_hash:
        total += size
        if total > 300 or hash >= 0.5:
            break
        expected.add(number)
    assert first == expected
    assert chosen(entries[::-1]) == first == chosen(sorted(entries)) == chosen(by_hash[::-1])


@pytest.mark.parametrize(("count", "validation"), [(19, 0), (20, 1), (60, 1)])
def test_twenty_documents_are_enough_for_one_in_validation(tmp_path: Path, count: int, validation: int) -> None:
    lines(tmp_path / "a.jsonl", range(count))
    told = Told()
    build(tmp_path / "a.jsonl", tmp_path / "out", validation_fraction=1e-9, progress=told)
    assert len(ids(tmp_path / "out", "validation")) == validation
    assert len(ids(tmp_path / "out", "train")) == count - validation
    assert any("no validation documents" in line for line in told.lines) == (validation == 0)
    if validation:
        (row,) = [row for row in ledger(tmp_path / "out") if row["split"] == "validation"]
        assert {row["id"]} == ids(tmp_path / "out", "validation")
        assert hash_fraction(row["id"]) == min(hash_fraction(document.id) for document in documents(tmp_path / "out"))
    build(tmp_path / "a.jsonl", tmp_path / "none", validation_fraction=0.0)
    assert ids(tmp_path / "none", "validation") == set()


def test_a_single_book_leaves_something_to_validate_on(tmp_path: Path) -> None:
    book = "\n\n".join(f"Chapter {n}. {TEXT * 30}" for n in range(100))
    (tmp_path / "book.txt").write_text(book)
    figures = build(tmp_path / "book.txt", tmp_path / "out")
    assert figures["sources"]["book"]["validation"] >= 1
    found = sorted(documents(tmp_path / "out"), key=lambda document: document.metadata["offset"])
    assert [document.metadata["part"] for document in found] == list(range(len(found)))
    assert "\n\n".join(document.text for document in found) == book
    whole = build(tmp_path / "book.txt", tmp_path / "whole", part_bytes=1 << 20)
    assert whole["sources"]["book"]["documents"] == 1


def test_exact_duplicates_keep_the_first(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(TEXT)
    (tmp_path / "in" / "b.txt").write_bytes(TEXT.encode() + b"\r\n")
    (tmp_path / "in" / "c.jsonl").write_text(json.dumps({"text": TEXT + "\x00"}))
    figures = build(tmp_path / "in", tmp_path / "out", max_unreadable_share=0.5)
    first, second, third = ledger(tmp_path / "out")
    assert (first["decision"], second["rule"], third["rule"]) == ("kept", "duplicate", "duplicate")
    assert first["id"] == second["id"] == third["id"]
    assert figures["ledger"]["rules"] == {"duplicate": 2}


def test_seen_ids_are_a_set() -> None:
    generator = random.Random(2)
    seen, model = SeenIds(), set[str]()
    for _ in range(5_000):
        id = document_id(str(generator.randrange(4_000)))
        assert seen.add(id) == (id not in model)
        model.add(id)
    assert len(seen) == len(model)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "x" / "a.jsonl", range(300))
    (tmp_path / "in" / "y").mkdir()
    (tmp_path / "in" / "y" / "b.md").write_text("# 月亮\n" + TEXT)
    figures = build(tmp_path / "in", tmp_path / "1")
    (tmp_path / "2" / "train").mkdir(parents=True)
    (tmp_path / "2" / "train" / "00007.parquet").write_text("left by a process that was killed")
    (tmp_path / "2" / "ledger.part").write_text("left too")
    assert build(tmp_path / "in", tmp_path / "2") == figures

    def hashes(directory: Path) -> dict[str, str]:
        return {str(p.relative_to(directory)): hash_file(p) for p in sorted(directory.rglob("*")) if p.is_file()}

    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    assert set(hashes(tmp_path / "1")) == {
        "files.parquet", "ledger.parquet", "mixture.json", "train/00000.parquet", "validation/00000.parquet",
    }  # fmt: skip


def test_sources(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "web-00001.jsonl", range(5))
    lines(tmp_path / "in" / "web-00002.jsonl", range(5, 9))
    lines(tmp_path / "in" / "wiki" / "deep" / "a.jsonl", range(20, 23))
    (tmp_path / "in" / "note.txt").write_text(TEXT)
    figures = build(tmp_path / "in", tmp_path / "out")
    assert {name: source["documents"] for name, source in figures["sources"].items()} == {"in": 1, "web": 9, "wiki": 3}
    assert (
        sum(language["bytes"] for language in figures["languages"].values()) == figures["ledger"]["bytes"]["documents"]
    )


def test_several_inputs_keep_their_names_apart(tmp_path: Path) -> None:
    lines(tmp_path / "x" / "data" / "web" / "a.jsonl", range(3))
    lines(tmp_path / "y" / "data" / "web" / "a.jsonl", range(3, 6))
    inputs = [str(tmp_path / "x" / "data"), str(tmp_path / "y" / "data")]
    build(tmp_path, tmp_path / "out", inputs=inputs)
    assert {row["file"] for row in ledger(tmp_path / "out")} == {"data/web/a.jsonl", "data-2/web/a.jsonl"}
    assert {document.source for document in documents(tmp_path / "out")} == {"web"}


def test_weights_are_shares_by_source(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "a.jsonl", range(30))
    lines(tmp_path / "in" / "b.jsonl", range(30, 40))
    figures = build(tmp_path / "in", tmp_path / "out", weights={"a": 1.0, "b": 3.0})
    mixture = json.loads((tmp_path / "out" / "mixture.json").read_text())
    assert mixture == figures["mixture"]
    assert {name: source["share"] for name, source in mixture.items()} == {"a": 0.25, "b": 0.75}
    natural = build(tmp_path / "in", tmp_path / "natural")["mixture"]
    assert natural["a"]["share"] == pytest.approx(
        natural["a"]["bytes"] / (natural["a"]["bytes"] + natural["b"]["bytes"])
    )
    with pytest.raises(UsageError, match=r"names c; the sources are a, b"):
        build(tmp_path / "in", tmp_path / "out", weights={"a": 1.0, "c": 3.0})
    with pytest.raises(HanlinError, match=r"no weight for source b"):
        build(tmp_path / "in", tmp_path / "out", weights={"a": 1.0})
    with pytest.raises(UsageError, match=r"shares of 0 and more"):
        build(tmp_path / "in", tmp_path / "out", weights={"a": 1.0, "b": -1.0})


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs `inputs`"):
        CorpusSettings()
    with pytest.raises(UsageError, match="nowhere does not exist"):
        build(tmp_path / "nowhere", tmp_path / "out")
    assert STAGE.fingerprint is not None
    with pytest.raises(UsageError, match="nowhere does not exist"):
        STAGE.fingerprint(CorpusSettings(inputs=str(tmp_path / "nowhere")))
    (tmp_path / "x.json").write_text('{"question": 1}')
    with pytest.raises(HanlinError, match=r"no document is left.*quarantined 1.*fields: question"):
        build(tmp_path / "x.json", tmp_path / "out")
    with pytest.raises(HanlinError, match="no split 'test'"):
        list(iterate_documents(tmp_path, "test"))


def test_a_ledger_that_does_not_balance_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    monkeypatch.setattr("hanlin.corpus.readers.text._cut", lambda data, limit: 10)
    monkeypatch.setattr("hanlin.corpus.stream.ByteStream.unread_data", lambda self, data: None)  # bytes get lost
    with pytest.raises(HanlinError, match=r"lost its place|does not balance"):
        build(tmp_path / "a.txt", tmp_path / "out", part_bytes=1024, inputs=str(_big(tmp_path)))


def _big(directory: Path) -> Path:
    (directory / "big.txt").write_text(TEXT * 100)
    return directory / "big.txt"


def test_a_file_that_grows_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _big(tmp_path)
    from hanlin.corpus import readers

    find = readers.find_format

    def grow(name: str, head: bytes) -> object:
        with path.open("a") as file:
            file.write("x" * 1_000_000)
        return find(name, head)

    monkeypatch.setattr(readers, "find_format", grow)
    with pytest.raises(HanlinError, match="changed while it was read"):
        build(path, tmp_path / "out")


def test_fingerprint_follows_names_and_contents(tmp_path: Path) -> None:
    assert STAGE.fingerprint is not None
    lines(tmp_path / "in" / "a.jsonl", range(3))
    settings = CorpusSettings(inputs=str(tmp_path / "in"))
    first = STAGE.fingerprint(settings)
    assert first == STAGE.fingerprint(settings)
    assert [entry[:2] for entry in first] == [["a.jsonl", (tmp_path / "in" / "a.jsonl").stat().st_size]]
    (tmp_path / "in" / "a.jsonl").write_text((tmp_path / "in" / "a.jsonl").read_text().replace("Ada", "Bea"))
    second = STAGE.fingerprint(settings)
    assert second != first
    (tmp_path / "in" / "a.jsonl").rename(tmp_path / "in" / "b.jsonl")
    assert STAGE.fingerprint(settings) != second


def test_progress_is_told_in_bytes_and_rises(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "a.jsonl", range(2000))
    size = (tmp_path / "in" / "a.jsonl").stat().st_size
    told = Told()
    build(tmp_path / "in", tmp_path / "out", progress=told)
    done = [step for step, _ in told.updates]
    assert done == sorted(done)
    assert told.updates[-1] == (size, size)
    assert len(told.lines) == 1 and "2000 documents kept" in told.lines[0]


def test_columns_of_documents_can_be_chosen(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", range(3))
    build(tmp_path / "a.jsonl", tmp_path / "out")
    (first, *_) = iterate_documents(tmp_path / "out", "train", columns=["text", "source"])
    assert (first.source, first.id, first.metadata) == ("a", "", {})
    assert TEXT in first.text


def test_the_world_is_an_input(tmp_path: Path) -> None:
    tmp_path.joinpath("world").mkdir()
    counts = WORLD.run(
        WorldSettings(entities=60, tellings=2, exam_items=5), StageContext(tmp_path / "world", {}, 3, Told())
    )
    assert counts["entities"] == 60
    manifest = Manifest(
        id="", content="", stage="world", kind="world", version=1, settings={}, seed=3, inputs={}, code={},
        environment={}, figures=counts, started="", seconds=0, files={},
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    settings = CorpusSettings(world="world", min_bytes=1)
    assert STAGE.fingerprint is not None and STAGE.fingerprint(settings) == []
    figures = STAGE.run(settings, StageContext(tmp_path / "out", {"world": Artifact(tmp_path / "world", manifest)}, 0))
    assert set(figures["sources"]) <= set(counts["documents"])
    assert figures["ledger"]["records"]["kept"] + figures["ledger"]["rules"].get("duplicate", 0) <= sum(
        counts["documents"].values()
    )
    assert {"en", "zh"} <= set(figures["languages"])


def test_importing_the_settings_imports_nothing_heavy() -> None:
    heavy = ("torch", "pyarrow", "ftfy", "py3langid", "numpy", "resiliparse")
    code = "import sys; import hanlin.corpus, hanlin.corpus.build, hanlin.corpus.world; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
