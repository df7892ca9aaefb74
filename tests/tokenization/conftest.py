from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.tokenization import Tokenizer
from hanlin.tokenization.train import train
from hanlin.tokenization.vocabulary import chatml_template, tokenizer_config
from tests.tokenization.corpora import documents


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    """A tokenizer of 1,000 tokens, learned from 400 small documents."""
    text, _ = train((row["text"] for row in documents(400)), 1000, 12, 2)
    return Tokenizer(text, tokenizer_config(), chatml_template())


@pytest.fixture(scope="session")
def directory(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    trained.save(path)
    return path
