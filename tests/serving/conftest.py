from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.serving.settings import ModelSettings
from hanlin.serving.store import Database
from tests.inference.models import VOCABULARY, small, tokenizer
from tests.serving.live import Live, serving


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a chat template, as hanlin writes one."""
    path = tmp_path_factory.mktemp("served") / "tiny"
    save_model(path, small("qwen3"), tokenizer())
    return path


@pytest.fixture(scope="session")
def long_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can answer for minutes."""
    path = tmp_path_factory.mktemp("served") / "long"
    shape = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 48}
    model = Transformer(ModelConfig(family="qwen3", vocabulary_size=VOCABULARY, max_positions=65536, **shape))
    model.init_weights(5)
    save_model(path, model.eval(), tokenizer())
    return path


@pytest.fixture(scope="session")
def live(directory: Path, long_directory: Path) -> Iterator[Live]:
    """The service that most tests talk to; no keys, so that it answers to loopback."""
    torch.set_num_threads(1)
    models = [
        ModelSettings(path=str(directory), name="tiny"),
        ModelSettings(path=str(long_directory), name="long"),
    ]
    seconds = {"header_seconds": 1, "body_seconds": 1, "write_seconds": 1}
    with serving(directory, store=Database(str(directory.parent / "service.db")), models=models, **seconds) as running:
        yield running
