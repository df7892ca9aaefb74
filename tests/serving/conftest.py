from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hanlin.models.hub import save_model
from tests.inference.models import small, tokenizer
from tests.serving.live import Live, serving


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a chat template, as hanlin writes one."""
    path = tmp_path_factory.mktemp("served") / "tiny"
    save_model(path, small("qwen3"), tokenizer())
    return path


@pytest.fixture(scope="session")
def live(directory: Path) -> Iterator[Live]:
    """The service that most tests talk to; no keys, so that it answers to loopback."""
    torch.set_num_threads(1)
    with serving(directory) as running:
        yield running
