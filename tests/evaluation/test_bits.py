"""Bits per byte against a model whose probabilities are known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.corpus import Document
from hanlin.evaluation.bits import score_documents, windows
from hanlin.evaluation.results import bits_figure, break_down, summarise
from hanlin.evaluation.tasks import Task
from tests.evaluation.fakes import END_OF_TEXT, bigram, fake_model

TASK = Task(name="corpus/bits-per-byte", kind="bits_per_byte", corpus="validation")
TEXTS = {"a": "The river froze.", "b": "河水结冰了。", "c": "x" * 700, "d": "Copper and tin."}


def documents() -> list[Document]:
    return [
        Document(name, text, "zh" if name == "b" else "en", {"language": "zh" if name == "b" else "en"})
        for name, text in TEXTS.items()
    ]


@given(st.integers(0, 200), st.integers(2, 40), st.floats(0, 0.99))
def test_windows_cover_every_token_once_with_enough_before_it(length: int, context: int, overlap: float) -> None:
    tokens = list(range(1, length + 1))
    pieces = list(windows(tokens, 0, context, overlap))
    assert [token for _, scored in pieces for token in scored] == tokens
    for number, (given_ids, scored) in enumerate(pieces):
        assert given_ids and scored and len(given_ids) + len(scored) <= context
        stream = [0, *tokens]
        assert stream[scored[0] - len(given_ids) : scored[0]] == given_ids
        if number:
            assert len(given_ids) == min(max(1, int(context * overlap)), context - 1)


def test_bits_are_the_chain_rules() -> None:
    """A bigram model does not see beyond one token: windows must change nothing."""
    marks = score_documents(fake_model(max_positions=64), TASK, documents(), lambda done: None)
    for mark, text in zip(marks, TEXTS.values(), strict=True):
        ids = [END_OF_TEXT, *text.encode()]
        expected = -sum(bigram(first, second, 258) for first, second in pairwise(ids)) / math.log(2)
        assert mark.values == {"bits": pytest.approx(expected), "bytes": len(text.encode())}
        assert sum(bits for bits, _ in mark.parts) == pytest.approx(expected)
        assert sum(size for _, size in mark.parts) == pytest.approx(len(text.encode()))


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary() -> None:
    """One token a byte, all equally likely: log2(258) bits a byte, whatever the text; the interval is that point."""
    model = fake_model()
    model.engine.score = lambda pairs: [[-math.log(258)] * len(scored) for _, scored in pairs]
    figure = summarise(TASK, score_documents(model, TASK, documents(), lambda done: None))["bits_per_byte"]
    for key in ("value", "low", "high"):
        assert figure[key] == pytest.approx(math.log2(258))
    assert figure["n"] == 4 and figure["bytes"] == sum(len(text.encode()) for text in TEXTS.values())


def test_figures_have_intervals_whole_and_by_source() -> None:
    marks = score_documents(fake_model(), TASK, documents(), lambda done: None)
    figure = summarise(TASK, marks)["bits_per_byte"]
    assert figure["value"] == pytest.approx(
        sum(m.values["bits"] for m in marks) / sum(m.values["bytes"] for m in marks)
    )
    assert figure["low"] < figure["value"] < figure["high"] and figure["resampled"] == "documents"
    table = break_down(TASK, marks)
    assert set(table) == {"language=en", "language=zh", "source=en", "source=zh"}
    alone = table["source=zh"]["bits_per_byte"]
    assert (
        alone["n"] == 1
        and alone["low"] < alone["value"] < alone["high"]
        and alone["resampled"] == "parts of one document"
    )
    assert alone["value"] == pytest.approx(marks[1].values["bits"] / marks[1].values["bytes"])


def test_a_document_of_one_token_has_no_interval_and_no_figure() -> None:
    [mark] = score_documents(fake_model(), TASK, [Document("e", "x", "s", {})], lambda done: None)
    assert bits_figure([mark]) is None


def test_empty_documents_are_left_out() -> None:
    ticks: list[int] = []
    assert len(score_documents(fake_model(), TASK, [*documents(), Document("e", "", "s", {})], ticks.append)) == 4
