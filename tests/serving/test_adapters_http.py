"""A LoRA adapter is a model's name with a plus."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import hanlin
from hanlin.models.adapter_files import save_adapter
from hanlin.models.lora import add_lora, lora_layers
from hanlin.models.lora_settings import LoraSettings
from hanlin.serving.settings import ModelSettings
from tests.inference.models import small
from tests.serving.live import serving

ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Where was Ada born?"}],
    "max_tokens": 12,
    "temperature": 0,
    "return_token_ids": True,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def polite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = copy.deepcopy(small("qwen3"))
    add_lora(model, LoraSettings(rank=3), seed=1)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(model):
        for parameter in layer.adapters.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path_factory.mktemp("adapters") / "polite"
    save_adapter(path, model)
    return path


def test_each_request_has_the_adapter_that_it_names(directory: Path, polite: Path) -> None:
    models = [ModelSettings(path=str(directory), name="tiny", adapters={"polite": str(polite)}, speculation="lookup")]
    alone = hanlin.load(directory, adapters={"polite": polite})
    with serving(directory, models=models) as live:
        found: dict[str, list[int]] = {}
        for name, adapter in (("tiny", ""), ("tiny+polite", "polite"), ("tiny@1+polite", "polite")):
            answer = live.post("/v1/chat/completions", {**ASKED, "model": name}).json()
            found[name] = answer["choices"][0]["token_ids"]
            request = alone.chat_request(
                ASKED["messages"], max_new_tokens=12, ignore_eos=True, adapter=adapter, stop_ids=()
            )
            wanted = alone.engine.generate([request])[0]
            assert found[name] == wanted.ids[: len(found[name])] and found[name]
            assert answer["model"] == "tiny@1" + ("+polite" if adapter else "")
        assert found["tiny"] != found["tiny+polite"] == found["tiny@1+polite"]
        plain = live.post(
            "/v1/completions",
            {"model": "tiny+polite", "prompt": "Ada", "max_tokens": 5, "temperature": 0, "ignore_eos": True},
        ).json()
        request = alone.request("Ada", raw=True, max_new_tokens=5, ignore_eos=True, adapter="polite")
        assert plain["choices"][0]["text"] == alone.engine.generate([request])[0].text
        with live.client() as client:
            names = [one["id"] for one in client.get("/v1/models").json()["data"]]
        assert names == ["tiny", "tiny@1", "tiny+polite"]
        missing = live.post("/v1/chat/completions", {**ASKED, "model": "tiny+rude"})
        assert missing.status_code == 404 and "polite" in missing.json()["error"]["message"]
        for path, body in (
            ("/v1/embeddings", {"input": "Ada"}),
            ("/v1/completions", {"prompt": "Ada", "echo": True, "logprobs": 1, "max_tokens": 1}),
            ("/v1/chat/completions", {**ASKED, "prompt_logprobs": 0}),
        ):
            refused = live.post(path, {"model": "tiny+polite", **body})
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "model"
