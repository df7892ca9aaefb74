"""Several models and versions, changed while they are used."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.serving.settings import ModelSettings
from tests.inference.models import VOCABULARY, tokenizer
from tests.serving.live import Live, serving
from tests.serving.test_refusals import CHAT, CHAT_PATH, refusal


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights, with room for a long answer."""
    path = tmp_path_factory.mktemp("served") / "other"
    shape: dict[str, Any] = {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 48}
    model = Transformer(ModelConfig(family="qwen3", vocabulary_size=VOCABULARY, max_positions=65536, **shape))
    model.init_weights(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_model(path, model.eval(), tokenizer())
    return path


def admin(live: Live, verb: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = live.post(f"/admin/models{verb}", body)
    if status != 200:
        return refusal(response, status)
    assert response.status_code == 200, response.text
    return response.json()


def ask(live: Live, model: str = "m", **fields: Any) -> dict[str, Any]:
    response = live.post(CHAT_PATH, {**CHAT, "model": model, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def states(live: Live) -> dict[str, str]:
    with live.client() as client:
        (name,) = client.get("/admin/models").json()["models"]
    return {one["version"]: one["state"] for one in name["versions"]}


def test_a_new_version_takes_over_and_gives_back(long_directory: Path, other: Path) -> None:
    """No request is dropped: one that runs through the switch ends on the version that it began with."""
    models = [ModelSettings(path=str(long_directory), name="m", version="old")]
    with serving(long_directory, models=models) as live:
        first = ask(live)
        assert first["model"] == "m@old"
        admin(live, "", name="m", version="new", path=str(other))
        assert ask(live)["model"] == "m@old" and ask(live, "m@new")["model"] == "m@new"
        assert admin(live, "/warm", name="m", version="new")["seconds"] > 0
        assert states(live) == {"old": "loaded", "new": "warm"}

        running: dict[str, Any] = {}
        begun = threading.Event()

        def through() -> None:
            body = {**CHAT, "model": "m", "max_tokens": 400, "ignore_eos": True, "stream": True, "seed": 1}
            with live.client() as client, client.stream("POST", CHAT_PATH, json=body) as response:
                parts = []
                for part in response.iter_text():
                    parts.append(part)
                    begun.set()
            running["text"] = "".join(parts)

        thread = threading.Thread(target=through)
        thread.start()
        assert begun.wait(10)
        admin(live, "/switch", name="m", version="new")
        assert ask(live)["model"] == "m@new"
        thread.join(60)
        assert running["text"].endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in running["text"]
        assert "m@new" not in running["text"]
        assert live.quiet() and states(live) == {"old": "unloaded", "new": "warm"}
        refusal(live.post(CHAT_PATH, {**CHAT, "model": "m@old"}), 404)

        admin(live, "/rollback", name="m")
        again = ask(live)
        assert again["model"] == "m@old" and again["system_fingerprint"] == first["system_fingerprint"]
        assert states(live)["new"] == "unloaded"


def test_a_kept_version_is_back_without_loading(long_directory: Path, other: Path) -> None:
    models = [
        ModelSettings(path=str(long_directory), name="m", version="1"),
        ModelSettings(path=str(other), name="m", version="2"),
    ]
    with serving(long_directory, models=models) as live:
        held = live.service.models.choose("m@1", str).model
        admin(live, "/switch", name="m", version="2", keep=True)
        assert states(live)["1"] == "loaded"
        admin(live, "/rollback", name="m")
        assert live.service.models.choose("m", str).model is held
        assert ask(live)["model"] == "m@1"


def test_a_canary_answers_its_share_and_always_the_same_users(long_directory: Path, other: Path) -> None:
    models = [
        ModelSettings(path=str(long_directory), name="m", version="1"),
        ModelSettings(path=str(other), name="m", version="2"),
    ]
    with serving(long_directory, models=models) as live:
        admin(live, "/canary", name="m", version="2", share=0.3)

        def versions(count: int) -> list[str]:
            return [live.service.models.choose("m", partial(str, f"user{number}")).version for number in range(count)]

        drawn = versions(4000)
        assert 0.27 < drawn.count("2") / 4000 < 0.33  # ±4 standard errors
        assert drawn == versions(4000)
        for user in ("a", "b", "c", "d"):
            assert len({ask(live, user=user, max_tokens=1)["model"] for _ in range(3)}) == 1
        # Where nobody says who asks, what is asked decides.
        asked = [[ask(live, seed=seed, max_tokens=1)["model"] for seed in range(20)] for _ in range(2)]
        assert asked[0] == asked[1]
        assert set(asked[0]) == {"m@1", "m@2"}
        assert ask(live, "m@1", user="x")["model"] == "m@1"
        admin(live, "/canary", name="m", version=None)
        assert set(versions(100)) == {"1"}


def test_what_administrators_are_told(long_directory: Path, other: Path, tmp_path: Path) -> None:
    models = [ModelSettings(path=str(long_directory), name="m", version="1")]
    with serving(long_directory, models=models) as live:
        assert "in memory already" in admin(live, "", 409, name="m", version="1", path=str(other))["message"]
        assert "nothing" in admin(live, "", 409, name="m", version="2", path=str(tmp_path / "nothing"))["message"]
        assert admin(live, "/switch", 404, name="m", version="9")["code"] == "model_not_found"
        assert admin(live, "/switch", 404, name="x", version="1")["code"] == "model_not_found"
        assert "never switched" in admin(live, "/rollback", 409, name="m")["message"]
        assert "switch to another" in admin(live, "/unload", 409, name="m", version="1")["message"]
        admin(live, "/canary", 409, name="m", version="1", share=0.5)
        admin(live, "/canary", 400, name="m", version="1", share=1.5)
        admin(live, "", 400, name="m@3", version="1", path="x")
        assert ask(live)["model"] == "m@1"
        changed = tmp_path / "changed"
        shutil.copytree(other, changed)
        admin(live, "", name="m", version="2", path=str(changed))
        admin(live, "/switch", name="m", version="2")
        admin(live, "", name="m", version="3", path=str(other))
        admin(live, "/switch", name="m", version="3")
        shutil.copy(long_directory / "model.safetensors", changed / "model.safetensors")
        shutil.copy(long_directory / "config.json", changed / "config.json")
        assert "other weights" in admin(live, "/rollback", 400, name="m")["message"]
        assert ask(live)["model"] == "m@3"


def test_draining(long_directory: Path) -> None:
    """Told to stop: /health fails, new requests are sent away, the running one ends well, and then the service."""
    models = [ModelSettings(path=str(long_directory), name="m")]
    with serving(long_directory, models=models, drain_seconds=30) as live, live.client() as client:
        body = {**CHAT, "model": "m", "max_tokens": 600, "ignore_eos": True, "stream": True}
        with client.stream("POST", CHAT_PATH, json=body) as response:
            parts = response.iter_text()
            text = next(parts)
            live.server.drain()
            refused = live.post(CHAT_PATH, {**CHAT, "model": "m"})
            assert refusal(refused, 503)["code"] == "draining" and "retry-after" in refused.headers
            with live.client() as second:
                assert second.get("/health").status_code == 503
            text += "".join(parts)
        assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text
        until = time.monotonic() + 10
        while not live.server.should_exit and time.monotonic() < until:
            time.sleep(0.05)
        assert live.server.should_exit


def test_draining_ends_at_its_limit(long_directory: Path) -> None:
    models = [ModelSettings(path=str(long_directory), name="m")]
    with serving(long_directory, models=models, drain_seconds=0.3) as live, live.client() as client:
        body = {**CHAT, "model": "m", "max_tokens": 60_000, "ignore_eos": True, "stream": True}
        with client.stream("POST", CHAT_PATH, json=body) as response:
            parts = response.iter_text()
            next(parts)
            started = time.monotonic()
            live.server.drain()
            try:
                for _ in parts:
                    pass
            except Exception:  # cut off in the middle, as it must be
                pass
        assert time.monotonic() - started < 8


def test_health_sees_an_engine_that_stands_still(long_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [ModelSettings(path=str(long_directory), name="m")]
    with serving(long_directory, models=models, stall_seconds=0.3) as live, live.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        model = live.service.models.in_memory()[0].model
        assert model is not None
        engine = model.engine
        still = engine.load
        stalled = type(still)(**{**vars(still), "running": 1, "waiting": 2})
        pulse = live.service.pulse
        monkeypatch.setattr(type(engine), "load", property(lambda _: stalled), raising=False)
        deadline = time.monotonic() + 5
        while client.get("/health").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        answer = client.get("/health")
        assert answer.status_code == 503 and "m@1 has taken no step" in answer.json()["reason"]
        assert pulse.trouble() is not None
        stalled = type(still)(**{**vars(stalled), "steps": stalled.steps + 1})
        assert client.get("/health").status_code == 200


def test_load_is_not_on_the_event_loop(directory: Path) -> None:
    """While a model loads, others are served."""
    from hanlin.serving.models import Models

    started, release = threading.Event(), threading.Event()

    def slow(path: Path, settings: ModelSettings) -> Any:
        started.set()
        release.wait(10)
        raise RuntimeError("enough")

    async def main() -> None:
        models = Models(slow)
        loading = asyncio.create_task(models.load(ModelSettings(path=str(directory))))
        while not started.is_set():
            await asyncio.sleep(0.01)
        release.set()
        with pytest.raises(RuntimeError):
            await loading
        assert models.names == []

    asyncio.run(main())
