"""The stage on real files: six sources, four scripts of text, broken WARC files. Skipped where they are not at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hanlin.corpus import iterate_documents

from .helpers import build, files, ledger

CORPUS = Path(os.environ.get("HANLIN_CORPUS", Path(__file__).parents[2].parent / "shared/data/corpus"))
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the real corpus is not here (HANLIN_CORPUS)")


def test_broken_web_archives(tmp_path: Path) -> None:
    figures = build(CORPUS / "warc", tmp_path / "out")
    on_disk = {path.name: path.stat().st_size for path in (CORPUS / "warc").iterdir()}
    assert {name: row["file_bytes"] for name, row in files(tmp_path / "out").items()} == on_disk
    quarantined = {row["file"] for row in ledger(tmp_path / "out") if row["decision"] == "quarantined"}
    assert quarantined == {"bad.arc", "example-space-in-url.arc", "example-trunc.warc"}
    texts = [document.text for document in iterate_documents(tmp_path / "out", "train")]
    assert any(text.startswith("Example Domain") for text in texts)
    assert figures["ledger"]["balanced"] is True


def test_chinese_markdown_and_poems(tmp_path: Path) -> None:
    figures = build(CORPUS, tmp_path / "out", inputs=[str(CORPUS / "oi-wiki"), str(CORPUS / "mixed")])
    assert figures["languages"]["zh"]["documents"] >= 440
    assert figures["sources"]["c4_demo"]["documents"] == 300
    assert figures["ledger"]["records"]["quarantined"] == 0


@pytest.mark.slow
def test_the_whole_corpus(tmp_path: Path) -> None:
    figures = build(CORPUS, tmp_path / "out")
    assert set(figures["sources"]) == {path.name for path in CORPUS.iterdir()}
    assert figures["ledger"]["files"] == sum(1 for path in CORPUS.rglob("*") if path.is_file())
    assert figures["ledger"]["bytes"]["disk"] == sum(p.stat().st_size for p in CORPUS.rglob("*") if p.is_file())
    poems = figures["sources"]["tang-poetry"]
    assert poems["documents"] > 29_000
    assert figures["languages"]["code"]["documents"] > 1_000
