from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import regex
import tokenizers

from hanlin.artifacts import HanlinError
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.train import TRAIN_STAGE, Plan, TokenizerSettings, train
from hanlin.tokenization.vocabulary import PATTERN, SPECIAL_TOKENS, TRAINING_PATTERN
from tests.tokenization.corpora import Told, context, documents, make_corpus


def build(tmp_path: Path, name: str = "out", rows: Any = None, **settings: Any) -> tuple[dict[str, Any], Path, Told]:
    corpus = make_corpus(tmp_path / "corpus", *(rows or (documents(300), documents(40, seed=1))))
    given, told = context(tmp_path / name, corpus)
    figures = TRAIN_STAGE.run(TokenizerSettings(corpus="corpus", **{"vocabulary_size": 700, **settings}), given)
    return figures, tmp_path / name, told


@pytest.mark.parametrize("size", [300, 517, 1000])
@pytest.mark.parametrize("bound", [2, 5, 16])
def test_size_and_bound_are_kept(size: int, bound: int) -> None:
    text, learned = train((row["text"] for row in documents(200)), size, bound, 1)
    tokenizer = Tokenizer(text)
    assert tokenizer.vocabulary_size == 256 + learned + len(SPECIAL_TOKENS) <= size
    lengths = {len(tokenizer.token_bytes(index)) for index in range(256 + learned)}
    assert max(lengths) <= bound
    if bound == 16:
        assert tokenizer.vocabulary_size == size
    else:
        assert max(lengths) == bound
    assert sorted(json.loads(text)["model"]["vocab"].values()) == [*range(256 + learned)]


def test_no_token_mixes_scripts() -> None:
    texts = ["翰林Python3翰林院，林 翰林。café的naïve与Ω林12人"] * 50
    text, _ = train(iter(texts), 400, 16, 1)
    tokenizer = Tokenizer(text)
    shown = [tokenizer.token_bytes(index).decode(errors="ignore") for index in range(tokenizer.vocabulary_size)]
    han = [token for token in shown if regex.search(r"\p{Han}", token)]
    assert "翰林" in han
    assert all(regex.fullmatch(r"\p{Han}+", token) for token in han)
    assert not [token for token in shown if regex.search(r"\d.|.\d", token)]  # digits stand alone
    assert "Python" in shown


def test_the_patterns_split_as_they_should() -> None:
    def split(pattern: str, text: str) -> list[str]:
        splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        return [piece for piece, _ in splitter.pre_tokenize_str(text)]

    assert split(PATTERN, "I'll pay  12元!\n\n 你好x") == [
        "I",
        "'ll",
        " pay",
        " ",
        " ",
        "1",
        "2",
        "元",
        "!\n\n",
        " 你好x",
    ]
    assert split(TRAINING_PATTERN, " 你好x，好") == [" ", "你好", "x", "，", "好"]
    for text in ["a b\tc", "Don't\r\nstop", "naïve Ωμέγα 7"]:  # nothing changes without Han
        assert split(PATTERN, text) == split(TRAINING_PATTERN, text)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(HanlinError, match=r"too small .* give 268"):
        train(iter(["a"]), 260, 16, 2)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also in other processes, whose hashing is seeded otherwise and whose threads race."""
    first, out, _ = build(tmp_path)
    again, out_again, _ = build(tmp_path, "again")
    assert first == again
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "report.json"]
    for name in names:
        assert (out / name).read_bytes() == (out_again / name).read_bytes()
    program = (
        "import sys; from hanlin.tokenization.train import train; from tests.tokenization.corpora import documents;"
        "sys.stdout.write(train((row['text'] for row in documents(200)), 600, 16, 2)[0])"
    )
    root = Path(__file__).parents[2]
    runs = {
        subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1
    assert runs == {train((row["text"] for row in documents(200)), 600, 16, 2)[0].encode()}


def test_the_stage(tmp_path: Path) -> None:
    figures, out, told = build(tmp_path)
    tokenizer = Tokenizer.load(out)
    tokenizer.check_chat()
    assert tokenizer.vocabulary_size == figures["vocabulary"]["size"] == 700
    assert json.loads((out / "report.json").read_text())["text"] == figures["text"]
    done = [update[0] for update in told.updates]
    assert done == sorted(done)
    assert all(total is not None and update <= total for update, total in told.updates)


def test_a_corpus_that_supports_fewer_merges_says_so(tmp_path: Path) -> None:
    figures, _, told = build(tmp_path, rows=(documents(3), documents(3, seed=1)), vocabulary_size=5000)
    size = figures["vocabulary"]["size"]
    assert figures["vocabulary"]["requested"] == 5000
    assert 268 < size < 1000
    assert any(f"supports {size:,} tokens, not 5,000" in line for line in told.lines)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HanlinError, match="no training text"):
        build(tmp_path, rows=([], []))


def sample(tmp_path: Path, weights: dict[str, float] | None, limit: int, seed: int = 0) -> dict[str, int]:
    rows = {row["text"]: row["source"] for row in documents(2000)}
    if not (tmp_path / "corpus").exists():
        make_corpus(tmp_path / "corpus", documents(2000), [])
    sizes = {"pages": 0, "poems": 0}
    for text in Plan.make(tmp_path / "corpus", weights, limit, seed).texts():
        sizes[rows[text]] += len(text.encode())
    return sizes


def test_the_sample_has_the_size_and_mixture_asked_for(tmp_path: Path) -> None:
    whole = sample(tmp_path, None, 10**9)
    assert whole == {
        source: sum(row["bytes"] for row in documents(2000) if row["source"] == source) for source in ("pages", "poems")
    }
    half = sample(tmp_path, None, sum(whole.values()) // 2)
    for source in whole:
        assert half[source] == pytest.approx(whole[source] / 2, rel=0.15)
    mixed = sample(tmp_path, {"pages": 1, "poems": 3}, 10**9)  # poems are a quarter: they are read about thrice
    assert sum(mixed.values()) == pytest.approx(sum(whole.values()), rel=0.05)
    assert mixed["poems"] / sum(mixed.values()) == pytest.approx(0.75, abs=0.02)
    assert sample(tmp_path, {"pages": 1, "poems": 0}, 50_000)["poems"] == 0
    assert sample(tmp_path, None, 100_000) == sample(tmp_path, None, 100_000) != sample(tmp_path, None, 100_000, seed=1)


def test_a_sample_is_never_empty(tmp_path: Path) -> None:
    assert sum(sample(tmp_path, None, 1).values()) > 0


def test_settings_and_stage_are_light() -> None:
    program = (
        "import sys; import hanlin.tokenization.train; "
        "print([n for n in ('torch', 'pyarrow', 'numpy', 'tokenizers', 'jinja2', 'regex') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_corpuss_weights_are_the_samples(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", documents(300), [], weights={"pages": 0, "poems": 1})
    given, _ = context(tmp_path / "out", corpus)
    figures = TRAIN_STAGE.run(TokenizerSettings(corpus="corpus", vocabulary_size=400), given)
    assert figures["sample"]["repeats"]["pages"] == 0
    assert "Ġriver" not in json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]
